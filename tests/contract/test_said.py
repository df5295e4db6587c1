"""What is said, word by word, and what is passed on as it came: texts of parts that other tests reach in programs
only, defaults, functions and executors in a scope."""

from __future__ import annotations

import asyncio
import copy
import pickle
import sys
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from nativemem.backends.binding import Binding
from nativemem.backends.pure import lock as lock_file
from nativemem.backends.pure import memory
from nativemem.budgets.scopes import scoped
from nativemem.config import ArenaConfig, PoolConfig
from nativemem.errors import (
    CapacityExceeded,
    ConfigError,
    InvalidLayout,
    NativeUnavailable,
    OutOfMemory,
    StaleBlock,
)
from nativemem.facades import load
from nativemem.wrappers import histogram
from nativemem.wrappers.domains import chosen_domains
from nativemem.wrappers.sites import Frame, Site

from .helpers import drop_elsewhere


@pytest.fixture
def pure() -> Binding:
    """The facade bound to the pure backend."""
    return load("pure")


# --- a scope ---


class Scope:
    """Notes when it is entered and left."""

    def __init__(self) -> None:
        self.noted: list[Any] = []

    def __enter__(self) -> Scope:
        self.noted.append("in")
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.noted.append(kind.__name__ if kind else "out")


def test_functions_in_a_scope() -> None:
    """Each kind keeps its name, its result and what is sent to it."""
    scope = Scope()

    def plain(a: int, *, b: int) -> tuple[int, int]:
        scope.noted.append("plain")
        return a, b

    def generator(a: int) -> Iterator[Any]:
        got = yield a
        yield got
        return a + 1

    async def coroutine(a: int) -> int:
        await asyncio.sleep(0)
        scope.noted.append("coroutine")
        return a

    async def stream(a: int) -> AsyncIterator[Any]:
        try:
            got = yield a
            yield got
        except LookupError:
            yield "caught"

    for function in (plain, generator, coroutine, stream):
        within = scoped(scope, function)
        assert (within.__name__, within.__wrapped__) == (function.__name__, function)
    assert scoped(scope, plain)(1, b=2) == (1, 2)
    assert scope.noted == ["in", "plain", "out"]
    scope.noted.clear()
    running = scoped(scope, generator)(5)
    assert (next(running), scope.noted, running.send("sent")) == (5, ["in"], "sent")
    with pytest.raises(StopIteration) as ended:
        next(running)
    assert (ended.value.value, scope.noted) == (6, ["in", "out"])
    scope.noted.clear()
    assert asyncio.run(scoped(scope, coroutine)(7)) == 7
    assert scope.noted == ["in", "coroutine", "out"]

    async def all_of_them() -> None:
        scope.noted.clear()
        running = scoped(scope, stream)(8)
        assert await running.asend(None) == 8
        assert await running.asend("sent") == "sent"
        with pytest.raises(StopAsyncIteration):
            await running.asend(None)
        assert scope.noted == ["in", "out"]
        running = scoped(scope, stream)(9)
        assert await running.asend(None) == 9
        assert await running.athrow(LookupError) == "caught"
        await running.aclose()
        assert scope.noted[2:] == ["in", "GeneratorExit"]

    asyncio.run(all_of_them())


def test_what_an_executor_passes_on(nm: Binding) -> None:
    """Each parameter, with its default, and the result."""
    asked: list[Any] = []
    other = SimpleNamespace(
        submit=lambda *args: asked.append(args) or "future",
        shutdown=lambda **rest: asked.append(rest),
        _max_workers=3,
    )
    wrapped = nm.Budget(100).wrap(other)
    assert (wrapped.submit(max, 1, default=2), wrapped._max_workers) == ("future", 3)
    run, *given = asked.pop()
    assert given == [max, (1,), {"default": 2}]
    wrapped.shutdown()
    wrapped.shutdown(False, cancel_futures=True)
    assert asked == [{"wait": True, "cancel_futures": False}, {"wait": False, "cancel_futures": True}]
    scope = wrapped._scope = Scope()
    assert wrapped._run(divmod, (7, 2), {}) == (3, 1)
    assert scope.noted == ["in", "out"]
    for bad in (7, SimpleNamespace(submit=3)):
        with pytest.raises(ConfigError, match="^budget.wrap: takes an executor, not "):
            nm.Budget(100).wrap(bad)


def test_a_scope_without_the_core(pure: Binding, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is refused in each of its forms; under the kill switch it is nothing."""
    monkeypatch.delenv("NATIVEMEM_DISABLE", raising=False)
    budget = pure.Budget(100)
    calls = (
        budget.initializer,
        budget.__enter__,
        budget(lambda: 5),
        lambda: budget.wrap(SimpleNamespace(submit=max))._run(int, (), {}),
    )
    for call in calls:
        with pytest.raises(NativeUnavailable, match="^a scope needs the native core"):
            call()
    with pytest.raises(ConfigError, match="^budget: decorates a function, not 5"):
        budget(5)
    monkeypatch.setenv("NATIVEMEM_DISABLE", "1")
    with budget as entered:
        assert entered is budget
    assert budget(lambda: 5)() == 5
    assert budget.initializer() is None


# --- texts ---


def test_domains_by_name() -> None:
    """In their order, once each; a word that may stand alone does."""
    assert chosen_domains("mem", "label") == ("mem",)
    assert chosen_domains(["obj", "raw", "obj"], "label") == ("raw", "obj")
    assert chosen_domains(iter(("mem", "obj", "raw")), "label") == ("raw", "mem", "obj")
    assert chosen_domains("alone", "label", "alone") == chosen_domains(("alone",), "label", "alone") == ("alone",)
    for bad in ((), "other", ["raw", "other"], [1], None, 7, ["raw", "alone"]):
        with pytest.raises(ConfigError) as caught:
            chosen_domains(bad, "label", "alone")
        assert str(caught.value).startswith("label: takes raw, mem and obj, one or more, or alone alone, not ")
        with pytest.raises(ConfigError, match="^label: takes raw, mem and obj, one or more, not "):
            chosen_domains(bad, "label")
    with pytest.raises(ConfigError):
        chosen_domains("alone", "label")
    for malloc in ("malloc", ("raw", "malloc")):
        with pytest.raises(NativeUnavailable, match="^label: malloc can be refused only where"):
            chosen_domains(malloc, "label", "malloc")


def test_all_that_was_traced(capsys: pytest.CaptureFixture[str]) -> None:
    """On standard error; nothing where there was nothing."""
    histogram.show_all(SimpleNamespace(name="pure", histograms=lambda: ([], [])))
    assert capsys.readouterr() == ("", "")
    histogram.show_all(SimpleNamespace(name="pure", histograms=lambda: ([(8, 2), (16, 1)], [(900, 3)])))
    out, err = capsys.readouterr()
    first, head, small, large, sizes, upstream, took, times, about = err.splitlines()
    assert (out, first) == ("", "nativemem: all that was traced: 3 blocks")
    assert (head.split(), upstream.split()) == (
        ["size", "up", "to", "blocks"],
        [*"upstream took up to blocks".split()],
    )
    assert [small.split(), large.split()] == [["8", "B", "2", "#" * 40], ["16", "B", "1", "#" * 20]]
    assert took.split() == ["900", "ns", "3", "#" * 40]
    assert sizes == "   size: p50 8 B, p90 16 B, p99 16 B"
    assert times == "   time: p50 900 ns, p90 900 ns, p99 900 ns"
    assert about == f"  {histogram.environment('pure')}"


def test_places_are_values() -> None:
    """They do not change, and have an order."""
    frame, site = Frame("a.py", 1, "f"), Site((), 1, 2)
    for thing, name in ((frame, "line"), (site, "blocks")):
        with pytest.raises(AttributeError):
            setattr(thing, name, 5)
    assert sorted([Frame("b", 1, "f"), Frame("a", 2, "f"), Frame("a", 1, "g")])[0] == Frame("a", 1, "g")
    assert str(frame) == "a.py:1 in f"


def test_defaults_that_show(nm: Binding) -> None:
    """Of a wrapper, and of what is taken without an alignment."""
    failing, traced = nm.Failing(), nm.Traced()
    assert (failing.n, failing.sticky, traced.stacks, traced.sample) == (0, False, 0, 0)
    heap = nm.Heap()
    value, array = heap.alloc_value("i", 1), heap.alloc_array("i", [1, 2])
    assert (value.block.align, array.block.align, heap.alloc(1).align) == (16, 16, 16)
    assert [block.align for block in heap.alloc_many([1, 2])] == [16, 16]
    assert nm.Stack(100).config.patterns is nm.Slab().config.zero_on_free is nm.Arena().config.patterns is False
    assert nm.TypedArena("i").arena.config == nm.Arena().config


def test_most_frames_and_leaks_by_size(nm: Binding) -> None:
    with pytest.raises(ConfigError, match="^traced.stacks: at most 128 frames are kept, not 129"):
        nm.Traced(stacks=129)
    traced = nm.Traced(nm.System())
    blocks = [traced.alloc(n) for n in (5, 100, 7, 100)]
    assert [block.size for block in traced.leaks()] == [100, 100, 7, 5]
    blocks.clear()


@pytest.mark.unplanted("names the chain")
def test_what_is_shown_of_each(nm: Binding) -> None:
    heap = nm.Arena()
    kept = heap.alloc(10)
    assert repr(heap) == "<Arena 10 B in 1 blocks, peak 10 B>"
    assert repr(nm.Limited(heap, nm.Budget(9))).startswith("<Limited 0 B in 0 blocks, peak 0 B>")
    numbers = nm.TypedArena("i")
    numbers.extend([1, 2])
    assert repr(numbers) == "<TypedArena of 2 'i'>"
    numbers.close()
    assert repr(numbers) == "<TypedArena of 0 'i', closed>"
    mark = heap.mark()
    for call in (copy.copy, pickle.dumps):
        with pytest.raises(TypeError, match="^cannot copy or pickle 'Mark': it is released once"):
            call(mark)
        with pytest.raises(
            TypeError, match="^cannot copy or pickle 'Budget': what is charged to it is charged once"
        ):
            call(nm.Budget(1))
    with pytest.raises(TypeError, match="^Arena.release: takes a Mark, not int"):
        heap.release(5)
    assert heap.describe() == "Arena > System"
    kept.free()
    limited = nm.Limited(heap, nm.Budget(9))
    assert limited.describe() == "Limited > Arena > System"
    limited.close()
    assert limited.describe() == "Limited > Arena > System"


def test_from_a_configuration(nm: Binding) -> None:
    """Of its own class, and for what has one."""
    arena = nm.Arena.from_config(ArenaConfig(hint=100, cap=1000, grow=False))
    assert (arena.config.hint, arena.config.cap, arena.config.grow) == (100, 1000, False)
    assert nm.Pool.from_config(PoolConfig(16, 2), upstream=arena).upstream is arena
    with pytest.raises(ConfigError, match="^arena.config: takes ArenaConfig, not PoolConfig"):
        nm.Arena.from_config(PoolConfig(16, 2))
    with pytest.raises(ConfigError, match="^system.config: has no configuration, not PoolConfig"):
        nm.System.from_config(PoolConfig(16, 2))


# --- values ---


def test_formats_and_values_that_no_memory_has(nm: Binding) -> None:
    heap = nm.Heap()
    for call in (lambda f: heap.alloc_value(f, 1), lambda f: heap.alloc_array(f, 1), nm.TypedArena):
        with pytest.raises(InvalidLayout, match="'' is a format of no bytes"):
            call("")
    with pytest.raises(OutOfMemory, match=f"the system has no {1 << 45} bytes to give") as caught:
        heap.alloc_value(f"{1 << 45}s", b"")
    assert caught.value.state["requested"] == 1 << 45
    assert heap.stats.live == 0
    for made in (heap.alloc_value("i", 1), heap.alloc_array("i", [1])):
        made.free()
        with pytest.raises(StaleBlock):
            made.value if hasattr(type(made), "value") else made[0]
        with pytest.raises(StaleBlock):
            setattr(made, "value", 2) if hasattr(type(made), "value") else made.__setitem__(0, 2)
    array = heap.alloc_array("h", range(5))
    assert (array[1:4], array[::-2], array[4:1], array[-1]) == ([1, 2, 3], [4, 2, 0], [], 4)


# --- sizes that change ---


def test_blocks_of_no_bytes_keep_their_size(nm: Binding) -> None:
    system = nm.System()
    nothing, some = system.alloc(0), system.alloc(5)
    assert system.resize(nothing, 0) is True
    assert system.resize(nothing, 1) is system.resize(some, 0) is system.resize(some, 6) is False
    assert system.resize(some, 5) is system.resize(some, 4) is True
    assert (nothing.size, some.size) == (0, 4)


def test_a_large_block_is_cut(nm: Binding) -> None:
    """Its pages go on holding what they had."""
    system = nm.System()
    block = system.alloc(3 << 20)
    with memoryview(block) as view:
        view[:3] = view[(1 << 20) : (1 << 20) + 3] = b"abc"
    assert system.resize(block, (1 << 20) + 2) is True
    with memoryview(block) as view:
        assert (len(view), bytes(view[:3]), bytes(view[1 << 20 :])) == ((1 << 20) + 2, b"abc", b"ab")
    assert system.stats.current == (1 << 20) + 2


def test_a_block_is_made_once(nm: Binding) -> None:
    block = nm.System().alloc(5)
    with pytest.raises(TypeError):
        type(block)()
    assert block.alive and block.size == 5


def test_refused_again_with_the_figures_of_the_first_time(nm: Binding) -> None:
    """What waited to be given back is, and it is not enough."""
    limited = nm.Limited(nm.Stack(100), nm.Budget(1000))
    kept, blocks = limited.alloc(10, 1), [limited.alloc(20, 1)]
    drop_elsewhere(blocks)  # no thread but this may give it back
    assert (limited.stats.current, blocks) == (30, [])
    with pytest.raises(CapacityExceeded) as caught:
        limited.alloc(200)
    assert [caught.value.state[name] for name in ("requested", "used", "limit")] == [200, 30, 100]
    assert (limited.stats.current, kept.alive) == (10, True)
    assert limited.alloc(90, 1).size == 90


# --- the pure backend's own ---


def test_what_a_late_finaliser_raises_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the next one is called."""
    shown: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", shown.append)
    done: list[int] = []

    def fails(number: int) -> None:
        raise LookupError(number)

    with lock_file.lock:
        assert lock_file.lock.put_off(fails, 1) and lock_file.lock.put_off(done.append, 2)
        assert done == []
    assert done == [2]
    (each,) = shown
    assert (each.exc_type, each.err_msg, each.object) == (
        LookupError,
        "Exception ignored in a finaliser that had waited",
        fails,
    )


@pytest.mark.skipif(sys.implementation.name != "cpython" or sys.maxsize >> 32 == 0, reason="figures of these")
def test_how_much_memory_python_is_asked_for() -> None:
    """And of whom."""
    assert (memory.MOST, memory.LARGE, memory._STEP) == (1 << 47, 1 << 20, 1 << 16)
    memory.check_size(1 << 47)
    with pytest.raises(MemoryError, match="^140737488355329 bytes are more than a process can have"):
        memory.check_size((1 << 47) + 1)
    small, large = memory.take((1 << 20) - 1), memory.take(1 << 20)
    assert (type(small).__name__, len(small), type(large).__name__, len(large)) == (
        *("array", (1 << 20) - 1),
        *("mmap", 1 << 20),
    )
    for taken in (small, large):
        assert not memory.is_exported(taken)
        with memoryview(taken) as view:
            assert memory.is_exported(taken)
            for start in (0, 1, 1 << 16, len(view) - 1, len(view)):
                memory.fill(view, 0)
                memory.fill(view, 7, start)
                assert bytes(view) == bytes(start) + b"\7" * (len(view) - start)
        assert not memory.is_exported(taken)
    assert [(span.start, span.stop) for span in memory._spans(150_000, 10)] == [
        *((10, 65546), (65546, 131082), (131082, 150_000)),
    ]
