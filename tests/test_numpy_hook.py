"""NumPy arrays from allocators. What changes the whole process is tried in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import ctypes
import gc
import importlib
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import nativemem

np = pytest.importorskip("numpy")
if nativemem.backend != "native":
    pytest.skip("the hook needs the C core", allow_module_level=True)

from nativemem.hooks import numpy as hook  # noqa: E402

MiB = 1 << 20
ALLOCATORS = {
    "System": nativemem.System,
    "Arena": nativemem.Arena,
    "Stack": lambda: nativemem.Stack("1 MiB"),
    "Pool": lambda: nativemem.Pool(1 << 16, 10),
    "Slab": nativemem.Slab,
    "Heap": nativemem.Heap,
    "secure Heap": lambda: nativemem.Heap(secure=True),
    "Limited > Heap": lambda: nativemem.Limited(nativemem.Heap(), nativemem.Budget("8 MiB")),
    "Traced > Arena": lambda: nativemem.Traced(nativemem.Arena()),
    "Locked > Slab": lambda: nativemem.Locked(nativemem.Slab()),
}


@pytest.fixture(params=ALLOCATORS)
def allocator(request: pytest.FixtureRequest) -> Iterator[Any]:
    made = ALLOCATORS[request.param]()
    yield made
    gc.collect()
    made.close()  # nothing may hold it back


def live(allocator: Any) -> int:
    return len(allocator.blocks())


def test_the_program_of_the_page() -> None:
    """docs/numpy.md"""
    page = (Path(__file__).parents[1] / "docs" / "numpy.md").read_text(encoding="utf-8")
    program = page.split("```python\n")[1].partition("```")[0]
    program += "assert hook.owner_of(a) is arena and hook.owner_of(numpy.ones(9)) is None"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


class TestUsing:
    """NPY-1, NPY-2"""

    def test_arrays_come_from_it(self, allocator: Any) -> None:
        with hook.using(allocator) as same:
            a, b = np.full(1000, 7.0), np.arange(100)
        assert same is allocator
        assert hook.owner_of(a) is hook.owner_of(b) is allocator
        assert hook.owner_of(np.empty(10)) is None
        assert (a.sum(), b.sum()) == (7000, 4950)

    def test_at_64_bytes(self, allocator: Any) -> None:
        with hook.using(allocator):
            arrays = [np.empty(n, "u1") for n in (0, 1, 2, 63, 64, 65, 1000, 5000)]
        assert [a.ctypes.data % 64 for a in arrays] == [0] * 8

    def test_arrays_outlive_it_and_hold_it(self, allocator: Any) -> None:
        with hook.using(allocator):
            a = np.full(3000, 1.5)
        part = a[10:20]
        del a
        with pytest.raises((BufferError, nativemem.LeakError)):
            allocator.close()
        assert part.sum() == 15
        held = live(allocator)
        del part
        assert live(allocator) == held - 1

    def test_the_last_array_keeps_the_allocator(self) -> None:
        with hook.using(nativemem.Limited(nativemem.Heap(), nativemem.Budget("1 MiB"))):
            a = np.full(1000, 2.0)
        gc.collect()
        assert a.sum() == 2000
        assert hook.owner_of(a).describe() == "Limited > Heap"

    def test_a_reset_waits_for_arrays(self) -> None:
        arena = nativemem.Arena()
        with hook.using(arena):
            a = np.ones(1000)
        with pytest.raises(BufferError):
            arena.reset()
        assert a.sum() == 1000
        del a
        arena.reset()
        assert arena.stats.current == 0

    def test_which_arrays_are_in_the_way_of_a_reset(self) -> None:
        """NPY-10"""
        arena = nativemem.Arena()
        with hook.using(nativemem.Traced(arena, stacks=1)):
            kept = [np.ones(10), np.ones(1000), np.ones(10)]
        with pytest.raises(BufferError, match=r"3 blocks .*: 1 of 8000 bytes, 2 of 80 bytes;") as caught:
            arena.reset()
        (site,) = caught.value.sites  # type: ignore[attr-defined]
        assert (site.blocks, site.bytes) == (3, 8160)
        kept.clear()
        arena.reset()

    def test_it_nests_and_ends_with_errors(self) -> None:
        outer, inner = nativemem.Heap(), nativemem.Heap()
        with hook.using(outer):
            with pytest.raises(KeyError), hook.using(inner):
                a = np.empty(10)
                raise KeyError
            b = np.empty(10)
        assert [hook.owner_of(x) for x in (a, b, np.empty(10))] == [inner, outer, None]

    def test_as_a_decorator(self) -> None:
        heap = nativemem.Heap()

        @hook.using(heap)
        def make() -> Any:
            return np.zeros(5)

        assert hook.owner_of(make()) is hook.owner_of(make()) is heap

    def test_resize(self, allocator: Any) -> None:
        with hook.using(allocator):
            a = np.arange(1000)
        if allocator.describe().startswith("Stack"):
            gc.collect()
        a.resize(2000, refcheck=False)  # outside: an array stays where it is from
        assert a[:1000].sum() == 499500
        assert not a[1000:].any()
        a.resize(10, refcheck=False)
        assert list(a) == list(range(10))
        assert hook.owner_of(a) is allocator

    def test_zeros_on_used_memory(self, allocator: Any) -> None:
        with hook.using(allocator):
            for n in (1, 100, 5000):
                a = np.full(n, 255, "u1")
                del a
                assert not np.zeros(n, "u1").any()

    def test_only_what_numpy_frees_is_freed(self) -> None:
        heap = nativemem.Heap()
        with hook.using(heap):
            a = np.arange(10)
        (block,) = heap.blocks()
        with pytest.raises(BufferError):
            block.free()
        with pytest.raises(BufferError):
            heap.resize(block, 10)
        del block
        assert a.sum() == 45

    def test_collected_in_a_cycle(self) -> None:
        heap = nativemem.Heap()
        with hook.using(heap):
            holder: list[Any] = [np.ones(100), heap]
        holder.append(holder)
        del holder
        gc.collect()
        assert live(heap) == 0


class TestRefusals:
    def test_numpy_raises_its_own_and_why_is_kept(self) -> None:
        """OWN-2"""
        budget = nativemem.Budget("64 KiB")
        with hook.using(nativemem.Limited(nativemem.Heap(), budget)):
            kept = [np.empty(1000) for _ in range(3)]
            with pytest.raises(MemoryError):
                np.empty(10_000)
            with pytest.raises(MemoryError):
                np.zeros(10_000)
            with pytest.raises(MemoryError):
                kept[0].resize(10_000, refcheck=False)
            assert kept[0].size == 1000
        error = hook.last_denial()
        assert isinstance(error, nativemem.BudgetExceeded)
        assert budget.last_denial is not None
        assert budget.last_denial.requested == 80_000
        assert budget.denied == 3

    def test_closed_meanwhile(self) -> None:
        heap = nativemem.Heap()
        with hook.using(heap):
            heap.close()
            with pytest.raises(MemoryError):
                np.empty(10)
        assert isinstance(hook.last_denial(), nativemem.errors.StaleHandle)
        assert hook.owner_of(np.empty(10)) is None

    def test_anothers_arena(self) -> None:
        arena = nativemem.Arena()
        errors = []

        def make() -> None:
            with hook.using(arena):
                try:
                    np.empty(10)
                except MemoryError:
                    errors.append(hook.last_denial())

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        assert [type(error) for error in errors] == [nativemem.errors.WrongThread]

    def test_every_allocation_of_an_expression_may_fail(self) -> None:
        """FAIL: the array's own memory, temporaries, results; nothing is lost."""
        heap = nativemem.Heap()
        for n in range(1, 100):
            failing = nativemem.Failing(heap, n)
            with hook.using(failing):
                try:
                    a = np.arange(50) * 2 + np.ones(50)
                    a.sort()
                    a = np.concatenate([a, a]).reshape(2, 50).T.copy()
                    done = a.sum()
                except MemoryError:
                    done = None
            a = None
            assert live(heap) == 0
            if done is not None:
                break
        assert n > 4
        assert done == 2 * (50 * 49 + 50)

    @pytest.mark.parametrize("bad", [None, 1, "heap", nativemem.Heap, nativemem.Budget(10), object()])
    def test_what_is_no_allocator(self, bad: Any) -> None:
        for call in (hook.install, hook.initializer, lambda x: hook.using(x).__enter__()):
            with pytest.raises(nativemem.errors.ConfigError, match="hooks.numpy"):
                call(bad)
        for call in (hook.owner_of, hook.handler_of):
            with pytest.raises(nativemem.errors.ConfigError, match="array"):
                call(bad)

    def test_of_the_other_backend_or_closed(self) -> None:
        from nativemem._api import load

        logged = type("Logged", (nativemem.Heap,), {"alloc": lambda self, size, align=16: 1})()
        for take in (hook.install, hook.initializer, lambda allocator: hook.using(allocator).__enter__()):
            with pytest.raises(nativemem.errors.ConfigError, match="its own alloc, which Logged overrides"):
                take(logged)
        with pytest.raises(nativemem.errors.ConfigError, match="native backend"):
            hook.install(load("pure").Heap())
        heap = nativemem.Heap()
        heap.close()
        for call in (hook.install, hook.initializer, lambda x: hook.using(x).__enter__()):
            with pytest.raises(nativemem.errors.StaleHandle):
                call(heap)

    @pytest.mark.parametrize("kind", ["Arena", "Stack", "Pool", "Slab", "Traced > Arena"])
    def test_one_threads_allocator_is_not_for_everybody(self, kind: str) -> None:
        with pytest.raises(nativemem.errors.ConfigError, match="belongs to one thread"):
            hook.install(ALLOCATORS[kind]())


class TestWhere:
    """NPY-4"""

    def test_threads_begin_without_it(self) -> None:
        heap = nativemem.Heap()
        with hook.using(heap), ThreadPoolExecutor(1) as pool:
            assert hook.owner_of(pool.submit(np.empty, 10).result()) is None

    def test_an_initializer(self) -> None:
        heap = nativemem.Heap()
        with ThreadPoolExecutor(2, initializer=hook.initializer(heap)) as pool:
            made = list(pool.map(np.zeros, range(1, 50)))
        assert {hook.owner_of(a) for a in made} == {heap}
        made.clear()
        assert live(heap) == 0

    def test_tasks_inherit_it(self) -> None:
        heap, other = nativemem.Heap(), nativemem.Heap()

        async def make(allocator: Any = None) -> Any:
            with hook.using(allocator) if allocator else contextlib.nullcontext():
                await asyncio.sleep(0)
                return np.empty(10)

        async def main() -> list[Any]:
            with hook.using(heap):
                return await asyncio.gather(make(), make(other), make())

        assert [hook.owner_of(a) for a in asyncio.run(main())] == [heap, other, heap]

    def test_arrays_are_freed_in_other_threads(self, allocator: Any) -> None:
        with hook.using(allocator):
            arrays = [np.full(100, 1.0) for _ in range(5)]
        before = live(allocator)
        thread = threading.Thread(target=arrays.clear)
        thread.start()
        thread.join()
        assert before >= 5
        with hook.using(allocator):  # what came back too late is seen to here, by the thread that owns it
            assert np.zeros(10).sum() == 0

    def test_threads_share_one(self) -> None:
        heap, wrong = nativemem.Heap(), []
        shared: list[Any] = []

        def churn(seed: int) -> None:
            with hook.using(heap):
                for i in range(2000):
                    a = np.full(1 + (i * seed) % 500, seed)
                    shared.append(a)
                    if len(shared) > 50:
                        with contextlib.suppress(IndexError):
                            b = shared.pop(0)
                            if len(set(b.tolist())) != 1:
                                wrong.append(b)

        threads = [threading.Thread(target=churn, args=(n,)) for n in (3, 5, 7)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        shared.clear()
        assert live(heap) == 0

    def test_in_a_copied_context(self) -> None:
        heap = nativemem.Heap()
        with hook.using(heap):
            context = contextvars.copy_context()
        assert hook.owner_of(context.run(np.empty, 10)) is heap


class TestWhatEscapes:
    """NPY-5: what coverage() says of it is true."""

    def test_views_of_others_memory(self, tmp_path: Path) -> None:
        heap = nativemem.Heap()
        (tmp_path / "file").write_bytes(bytes(80))
        there, before = np.arange(10), hook.coverage().arrays
        with hook.using(heap):
            views = [
                np.frombuffer(bytearray(80)),
                np.asarray(memoryview(bytearray(80))),
                np.memmap(tmp_path / "file"),
                np.from_dlpack(there),
                pickle.loads(pickle.dumps(np.zeros(1000), protocol=5)),
            ]
            assert hook.coverage().arrays - before == live(heap)
        assert [hook.handler_of(view) for view in views[:3]] == [None] * 3
        assert {hook.owner_of(view) for view in views} == {None}
        assert any("frombuffer" in name for name in hook.coverage().escapes)

    @pytest.mark.skipif(not hasattr(getattr(np, "dtypes", None), "StringDType"), reason="NumPy 2 has it")
    def test_long_strings(self) -> None:
        heap = nativemem.Heap()
        with hook.using(heap):
            a = np.array(["x" * 1000] * 1000, dtype=np.dtypes.StringDType())
        assert hook.owner_of(a) is heap
        assert heap.stats.current < 100_000
        assert "strings of StringDType" in hook.coverage().escapes

    def test_items_of_object_arrays(self) -> None:
        heap = nativemem.Heap()
        with hook.using(heap):
            a = np.array([bytes(10_000)] * 10, dtype=object)
        assert hook.owner_of(a) is heap
        assert heap.stats.current < 10_000


def until_told(told: Callable[[], object]) -> None:
    """Goes round the interpreter's loop until what waits there has been done."""
    for _ in range(10_000):
        if told():
            return
    raise AssertionError("not told")


def output(code: str, **env: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **env},
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout.splitlines()


SETTING = """
import contextlib, gc, threading, weakref, nativemem, numpy as np
from nativemem.hooks import numpy as hook
heap = nativemem.Heap()
def in_a_thread(function, *args):
    results = []
    thread = threading.Thread(target=lambda: results.append(function(*args)))
    thread.start(); thread.join()
    return results[0]
"""


def run(code: str) -> list[str]:
    return output(SETTING + textwrap.dedent(code))


class TestInstall:
    """NPY-1, NPY-4"""

    def test_new_threads_too_and_old_arrays_stay(self) -> None:
        assert run(
            """
            old = np.arange(1000)
            hook.install(heap)
            new, threads = np.ones(1000), in_a_thread(np.zeros, 1000)
            print([hook.owner_of(a) is heap for a in (old, new, threads)])
            print([hook.handler_of(a) for a in (old, new)])
            old.resize(3000, refcheck=False); new.resize(3000, refcheck=False)
            print(old[:1000].sum(), new.sum(), hook.owner_of(old), hook.owner_of(new) is heap)
            hook.uninstall()
            print(hook.owner_of(np.ones(10)), new.sum(), hook.coverage().default, hook.coverage().arrays)
            new.resize(4000, refcheck=False)
            print(hook.owner_of(new), new.sum(), threads.sum())
            del threads
            print(len(heap.blocks()))
            heap.close()
            """
        ) == [
            "[False, True, True]",
            "['default_allocator', 'nativemem Heap #2']",
            "499500 1000.0 None True",
            "None 1000.0 default_allocator 2",
            "None 1000.0 0.0",
            "0",
        ]

    def test_before_the_engine_and_over_it(self) -> None:
        assert run(
            """
            first = np.ones(500)
            nativemem.install()
            engines = np.ones(500)
            hook.install(heap)
            heaps = np.ones(500)
            arena = nativemem.Arena()
            with hook.using(arena): arenas = np.ones(500)
            print([hook.handler_of(a) for a in (first, engines, heaps, arenas)])
            nativemem.uninstall()
            print(hook.coverage().default, hook.owner_of(np.ones(3)) is heap)
            hook.uninstall()
            print(hook.coverage().default)
            print(first.sum() + engines.sum() + heaps.sum() + arenas.sum())
            del first, engines, heaps, arenas
            print(len(heap.blocks()))
            """
        ) == [
            "['default_allocator', 'nativemem', 'nativemem Heap #2', 'nativemem Arena > System #3']",
            "nativemem Heap #2 True",
            "default_allocator",
            "2000.0",
            "0",
        ]

    def test_another_in_its_place(self) -> None:
        assert run(
            """
            other = nativemem.Heap()
            hook.install(heap); a = np.ones(10)
            hook.install(other); b = np.ones(10)
            print(hook.owner_of(a) is heap, hook.owner_of(b) is other)
            del other; gc.collect()
            c = np.ones(10)
            print(hook.owner_of(c) is hook.owner_of(b), c.sum())
            """
        ) == ["True True", "True 10.0"]

    def test_owners_of_scopes(self) -> None:
        """Charged once: to the allocator's budget where there is one, else to the scope's."""
        assert run(
            """
            nativemem.install()
            budget, own = nativemem.Budget("16 MiB"), nativemem.Budget("16 MiB")
            with budget:
                charged = np.ones(100_000)
                with hook.using(nativemem.Limited(heap, own)):
                    before = budget.used
                    others = np.ones(100_000)
                    after = budget.used
                print(hook.owner_of(charged) is budget, hook.owner_of(charged[5:].T) is budget)
                print(after - before < 800_000, own.used)
            print(hook.owner_of(np.ones(10)), hook.owner_of(others).describe())
            """
        ) == ["True True", "True 800000", "None Limited > Heap"]

    def test_at_the_end_of_the_process(self) -> None:
        assert run(
            """
            hook.install(heap)
            kept = [np.ones(n) for n in range(100)]
            class Late:
                def __init__(self): self.array = np.ones(10)
                def __del__(self): print(np.empty(5).size + self.array[0])
            late = Late()
            """
        ) == ["6.0"]

    def test_after_a_fork(self) -> None:
        assert run(
            """
            import os
            hook.install(heap)
            a = np.ones(1000)
            child = os.fork()
            if child == 0:
                b = np.ones(1000); a.resize(5000, refcheck=False)
                os._exit(int(a.sum() + b.sum() != 2000 or len(heap.blocks()) != 2))
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), a.sum())
            """
        ) == ["0 1000.0"]


class TestReentry:
    """NPY-9. Before 3.12 a collection runs inside the making of objects, and with it code of the program."""

    @pytest.mark.parametrize("setting", ["hook.using(heap)", "default()", "engine()", "scope()"])
    def test_an_array_that_is_resized_in_its_own_resize(self, setting: str) -> None:
        assert run(
            f"""
            @contextlib.contextmanager
            def default():
                hook.install(heap)
                yield
                hook.uninstall()
            @contextlib.contextmanager
            def engine():
                nativemem.install(objects=False)
                yield
            @contextlib.contextmanager
            def scope():
                with engine(), nativemem.Budget("1 GiB"): yield
            array = other = None
            armed = False
            def collected(phase, info):
                global armed, other
                if armed and phase == "start":
                    armed = False
                    array.resize(5000, refcheck=False)
                    other = np.full(1000, 7.0)
            gc.callbacks.append(collected)
            gc.set_threshold(1)
            with {setting}:
                kept = [np.zeros(3) for _ in range(600)]
                for turn in range(1000):
                    kept.append(array)
                    array, other = np.arange(1000.0), None
                    armed = True
                    array.resize(9000, refcheck=False)
                    armed = False
                    assert len(array) in (5000, 9000) and array[:1000].sum() == 499500 and not array[1000:].any()
                    if other is not None:
                        kept += [np.full(1000, -1.0) for _ in range(3)]
                        kept.append(other)
                        assert (other == 7.0).all()
            gc.callbacks.clear()
            kept.clear(); array = other = None
            gc.collect()
            print(len(heap.blocks()))
            """
        ) == ["0"]

    def test_who_watches_an_arrays_block_sees_the_array_in_one_piece(self) -> None:
        """A callback of a weak reference runs once NumPy knows where the array is now."""
        heap = nativemem.Heap()
        with hook.using(heap):
            array = np.arange(1000.0)
        seen: list[tuple[int, float]] = []
        watch = weakref.ref(heap.blocks()[0], lambda _: seen.append((array.size, float(array[:1000].sum()))))
        array.resize(9000, refcheck=False)
        until_told(lambda: seen)
        assert seen == [(9000, 499500.0)]
        assert watch() is None
        array = np.empty(0)
        assert live(heap) == 0

    def test_who_watches_an_allocator_that_goes_with_its_last_array(self) -> None:
        assert run(
            """
            hook.install(heap)
            array = np.arange(1000.0)
            hook.uninstall()
            seen = []
            weakref.finalize(heap, lambda: seen.append((array.size, int(array[:1000].sum()))))
            del heap
            array.resize(9000, refcheck=False)
            for _ in range(1000): len(seen)
            print(seen)
            """
        ) == ["[(9000, 499500)]"]

    def test_watchers_of_pressure_see_whole_arrays(self) -> None:
        """They are told from the interpreter's loop."""
        seen: list[tuple[str, int]] = []
        array = np.empty(0)
        budget = nativemem.Budget("100 KiB", warn=0.5, on_pressure=lambda to, _: seen.append((to, array.size)))
        with warnings.catch_warnings(), hook.using(nativemem.Limited(nativemem.Heap(), budget)):
            warnings.simplefilter("ignore")
            array = np.arange(1000.0)
            array.resize(7000, refcheck=False)
            until_told(lambda: seen)
        assert seen == [("warn", 7000)]

    def test_who_is_asked_for_room_cannot_move_what_is_being_moved(self) -> None:
        seen: list[Any] = []
        array = np.empty(0)

        def relieve(level: str, _: Any) -> None:
            if level == "refusal":
                seen.append((array.size, int(array.sum())))
                with pytest.raises(MemoryError):
                    array.resize(10, refcheck=False)
                cache.clear()

        budget = nativemem.Budget("100 KiB", on_pressure=relieve, warn=1)
        heap = nativemem.Heap()
        with hook.using(nativemem.Limited(heap, budget)):
            array, cache = np.arange(1000.0), [np.ones(5000)]
            array.resize(9000, refcheck=False)
        assert seen == [(1000, 499500)]
        assert (array.size, int(array.sum())) == (9000, 499500)
        array = np.empty(0)
        assert live(heap) == 0

    @pytest.mark.parametrize("passes", [True, False])
    def test_who_is_asked_for_room_gives_what_is_being_moved_other_memory(self, passes: bool) -> None:
        """NumPy frees what it had in the midst of the move: the move is refused, and nothing lost."""
        heap, other = nativemem.Heap(), nativemem.Heap()
        array = np.empty(0)

        def relieve(level: str, budget: Any) -> None:
            if level == "refusal":
                budget.limit = "1 MiB" if passes else "100 KiB"
                with hook.using(other):
                    array.__setstate__(np.full(20, 7.0).__reduce__()[2])
                    others.append(np.full(1000, 5.0))

        others: list[Any] = []
        budget = nativemem.Budget("100 KiB", on_pressure=relieve, warn=1)
        with hook.using(nativemem.Limited(heap, budget)):
            array = np.arange(1000.0)
            with pytest.raises(MemoryError):
                array.resize(40_000, refcheck=False)
            others += [np.full(1000, 3.0) for _ in range(3)]
        assert array.tolist() == [7.0] * 20
        assert [set(a.tolist()) for a in others] == [{5.0}, {3.0}, {3.0}, {3.0}]
        assert hook.owner_of(array) is other
        others.clear()
        assert live(heap) == 0
        array = np.empty(0)
        assert live(other) == 0

    def test_an_interrupt_while_it_is_asked_for_room(self) -> None:
        """NumPy raises its own error; the interrupt comes after."""

        def relieve(level: str, _: Any) -> None:
            if level == "refusal":
                raise KeyboardInterrupt

        budget = nativemem.Budget("1 KiB", on_pressure=relieve, warn=1)
        interrupted = False
        with hook.using(nativemem.Limited(nativemem.Heap(), budget)):
            try:
                with pytest.raises(MemoryError):
                    np.ones(1000)
                until_told(lambda: False)
            except KeyboardInterrupt:
                interrupted = True
        assert interrupted

    def test_why_it_was_refused_keeps_nothing_alive(self) -> None:
        """The error has no traceback and no context: they would keep frames, and their arrays."""
        arena = nativemem.Arena("64 KiB", grow=False)

        def fill() -> None:
            array = np.ones(100)
            try:
                np.ones(10_000)
            except MemoryError:
                error = hook.last_denial()
            assert isinstance(error, nativemem.errors.ArenaExhausted)
            assert (error.__traceback__, error.__context__) == (None, None)
            assert array.sum() == 100

        with hook.using(arena):
            fill()
        arena.reset()

    def test_the_reason_outlives_the_allocator(self) -> None:
        with (
            hook.using(nativemem.Limited(nativemem.Heap(), nativemem.Budget("1 KiB", name="small"))),
            pytest.raises(MemoryError),
        ):
            np.ones(1000)
        gc.collect()
        assert str(hook.last_denial()) == "Limited: 8000 bytes asked for; budget 'small' has 0 of 1024 bytes in use"

    def test_random_programs(self) -> None:
        """make hunt-arrays has more of them"""
        hunt = Path(__file__).parents[1] / "scripts" / "hunt_arrays.py"
        done = subprocess.run(
            [sys.executable, hunt, "--programs", "8", "--steps", "150"], capture_output=True, text=True, timeout=240
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "8 programs, 0 wrong\n", "")


class TestSecure:
    """NPY-11: as with all blocks"""

    @pytest.mark.parametrize("size", [1, 63, 64, 100, 5000, 40_000, 100_000, 1 << 20])
    def test_a_byte_past_the_end_of_an_allocators_array(self, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
        told: list[Any] = []
        monkeypatch.setattr(sys, "unraisablehook", lambda u: told.append((u.exc_type, u.object)))
        heap = nativemem.Heap(secure=True)
        with hook.using(heap):
            array = np.zeros(size, "u1")
        ctypes.c_ubyte.from_address(array.ctypes.data + size).value ^= 255
        del array
        until_told(lambda: told)
        assert told == [(nativemem.errors.CorruptionDetected, heap)]

    def test_a_byte_past_the_end_of_the_engines_array(self) -> None:
        """It ends the process, as for objects; each in a child."""
        sizes = [0, 1, 63, 64, 65, 100, 5000, 32_768, 40_000, 65_536, 300_001]
        assert output(
            SETTING
            + textwrap.dedent(
                f"""
                import ctypes, os, signal
                nativemem.install(objects=False)
                def resized(n):
                    a = np.zeros(20 + n // 3, "u1"); a.resize(n, refcheck=False); return a
                def shrunk(n):
                    a = np.zeros(20 + n * 2, "u1"); a.resize(n, refcheck=False); return a
                def charged(make):
                    def scoped(n):
                        with nativemem.Budget("8 MiB"): return make(n)
                    return scoped
                def resized_in_a_scope(n):
                    a = np.zeros(20 + n // 3, "u1")
                    with nativemem.Budget("8 MiB"): a.resize(n, refcheck=False)
                    return a
                def ends(make, n, past):
                    child = os.fork()
                    if child == 0:
                        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
                        a = make(n)
                        at = a.ctypes.data
                        if at % 64: os._exit(5)
                        for i in range(past): ctypes.c_ubyte.from_address(at + max(n, 1) + i).value ^= 255
                        del a
                        os._exit(0)
                    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                empty, zeros = (lambda n: np.empty(n, "u1")), (lambda n: np.zeros(n, "u1"))
                makers = [empty, zeros, resized, shrunk, *map(charged, (empty, zeros, resized)), resized_in_a_scope]
                for past in (1, 0):
                    print({{ends(make, n, past) for make in makers for n in {sizes}}})
                """
            ),
            NATIVEMEM_SECURE="1",
        ) == ["{-6}", "{0}"]


class TestImports:
    """NPY-10"""

    @pytest.fixture
    def package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
        monkeypatch.syspath_prepend(tmp_path)
        before = set(sys.modules)
        yield tmp_path
        for name in set(sys.modules) - before:
            if str(tmp_path) in str(vars(sys.modules[name]).get("__spec__")):  # others keep parts of the rest
                del sys.modules[name]

    KEEPS = "import numpy\nkept = numpy.arange(3.0)\nzeros = numpy.zeros(5)\n"

    def test_what_a_module_keeps_is_not_the_arenas(self, package: Path) -> None:
        (package / "keeps.py").write_text(self.KEEPS)
        (package / "outer_one.py").write_text("import keeps\nimport numpy\nmore = numpy.ones(3)\n")
        arena = nativemem.Arena()
        with hook.using(arena):
            import outer_one  # type: ignore[import-not-found]

            own = np.ones(10)
        kept, zeros, more = outer_one.keeps.kept, outer_one.keeps.zeros, outer_one.more
        assert [hook.owner_of(a) for a in (kept, zeros, more, own)] == [None, None, None, arena]
        assert hook.handler_of(kept) == hook.handler_of(np.ones(3))
        assert live(arena) == 1
        del own
        arena.reset()
        kept.resize(1000, refcheck=False)  # stays where it is from
        zeros.resize(2, refcheck=False)
        assert (kept.sum(), list(zeros), more.sum(), hook.owner_of(kept)) == (3.0, [0.0, 0.0], 3.0, None)

    def test_the_using_of_a_module_is_in_force(self, package: Path) -> None:
        """Only imports that begin inside it are left out."""
        (package / "keeps.py").write_text(self.KEEPS)
        (package / "uses.py").write_text(
            "import numpy, nativemem\nfrom nativemem.hooks import numpy as hook\narena = nativemem.Arena()\n"
            "with hook.using(arena):\n    own = numpy.ones(3)\n    import keeps\n    own2 = numpy.ones(3)\n"
        )
        import uses  # type: ignore[import-not-found]

        owners = [hook.owner_of(a) for a in (uses.own, uses.keeps.kept, uses.own2)]
        assert owners == [uses.arena, None, uses.arena]

    def test_an_import_of_another_thread_is_its_own(self, package: Path) -> None:
        (package / "waits.py").write_text("import __main__\n__main__.importing.set()\n__main__.done.wait(60)\n")
        main = sys.modules["__main__"]
        main.importing, main.done = importing, done = threading.Event(), threading.Event()  # type: ignore[attr-defined]
        thread = threading.Thread(target=importlib.import_module, args=("waits",))
        heap = nativemem.Heap()
        try:
            with hook.using(heap):  # begun before the import, and below while it goes on
                thread.start()
                assert importing.wait(60)
                assert hook.owner_of(np.ones(3)) is heap
            with hook.using(heap):
                assert hook.owner_of(np.ones(3)) is heap
        finally:
            done.set()
            thread.join()

    def test_an_import_that_fails_is_over(self, package: Path) -> None:
        (package / "fails.py").write_text(self.KEEPS + "raise KeyError")
        heap = nativemem.Heap()
        with hook.using(heap):
            with pytest.raises(KeyError):
                import fails  # type: ignore[import-not-found] # noqa: F401
            assert hook.owner_of(np.ones(3)) is heap

    @pytest.mark.parametrize(
        "use",
        [
            "np.unique(np.arange(1000.0) % 7)",
            "np.ma.masked_array([1.0, 2.0], [True, False]).sum()",
            "np.random.default_rng(1).normal(size=10); np.random.rand(3); np.random.seed(1)",
            "np.polynomial.Polynomial([1, 2, 3])(2); np.polynomial.legendre.leggauss(5)",
            "np.fft.fft(np.ones(30)); np.linalg.inv(np.eye(9)); np.linalg.svd(np.ones((4, 5)))",
            "np.finfo(np.float32).max; np.finfo(np.longdouble).eps; np.iinfo(int).max; np.spacing(1.0)",
            "np.einsum('ij,jk', np.eye(3), np.eye(3), optimize=True); np.char.upper(['a']); np.rec.array([(1, 2)])",
            "np.testing.assert_allclose(np.ones(3), np.ones(3)); np.ctypeslib.as_ctypes(np.ones(3))",
            "np.busday_count('2020-01', '2020-02'); repr(np.arange(5000.0)); np.i0(3.0); np.kaiser(5, 1.0)",
            "np.percentile(np.arange(9.0), 30); np.histogram(np.arange(9.0)); np.interp(1.5, [1, 2], [3, 4])",
            "np.lib.stride_tricks.sliding_window_view(np.arange(9), 3); np.gradient(np.arange(9.0))",
        ],
    )
    def test_what_numpy_loads_and_caches_on_first_use(self, use: str) -> None:
        assert run(
            f"""
            arena = nativemem.Arena()
            with hook.using(arena):
                {use}
            gc.collect()
            arena.reset()
            print(len(arena.blocks()))
            """
        ) == ["0"]


def test_the_handler_of_an_address() -> None:
    """Any address is one that the hook did not give, also that of no array; what is no address is said."""
    from nativemem.backends.native.loader import dataplane

    assert dataplane.engine_array_handler(0) != "nativemem"
    for what, error in ((1 << 70, OverflowError), ("0", TypeError)):
        with pytest.raises(error):
            dataplane.engine_array_handler(what)


def test_the_pure_backend_says_so() -> None:
    code = """
        import nativemem
        from nativemem.hooks import numpy as hook
        try:
            with hook.using(nativemem.Heap()): pass
        except nativemem.NativeUnavailable as error:
            print("native core" in str(error))
        """
    assert output(code, NATIVEMEM_BACKEND="pure") == ["True"]


def test_the_kill_switch_makes_it_nothing() -> None:
    code = """
        import nativemem, numpy
        from nativemem.hooks import numpy as hook
        heap = nativemem.Heap()
        hook.install(heap); hook.initializer(heap)()
        with hook.using(heap): numpy.ones(10)
        hook.uninstall()
        print(heap.stats.total)
        """
    assert output(code, NATIVEMEM_DISABLE="1") == ["0"]


def test_a_budget_is_asked_for_room_before_an_array_is_refused() -> None:
    """BUDGET-3: on_pressure("refusal") may drop arrays, also in the midst of a resize."""
    cache: list[Any] = []
    asked: list[int] = []

    def relieve(level: str, budget: Any) -> None:
        if level == "refusal":
            asked.append(budget.last_denial.requested)
            cache.clear()

    budget = nativemem.Budget("1 MiB", "arrays", on_pressure=relieve, warn=1)
    with hook.using(nativemem.Limited(nativemem.Heap(), budget)):
        cache.append(np.ones(100_000))
        cache.append(np.ones(100_000))
        assert (asked, budget.denied, len(cache)) == ([800_000], 0, 1)
        kept = np.ones(10_000)
        kept.resize(80_000, refcheck=False)
        assert (len(asked), budget.denied, cache) == (2, 0, [])
        assert kept[:10_000].all() and not kept[10_000:].any() and budget.used == 640_000
        with pytest.raises(MemoryError):
            np.ones(200_000)
        assert (len(asked), budget.denied) == (3, 1)


def test_what_waits_for_the_interpreters_loop_never_waits_on_itself() -> None:
    """CPython 3.11 hangs where code under a profiler runs in a pending call and another one waits."""
    assert run(
        """
        import sys, warnings
        warnings.simplefilter("ignore")
        def told(level, budget):
            with hook.using(other): kept.append(np.ones(2000))
        def told_in_turn(level, budget): seen.append(level)
        def work(): return sum(range(3))
        seen, kept = [], []
        other = nativemem.Limited(heap, nativemem.Budget("20 KiB", on_pressure=told_in_turn, warn=0.5))
        limited = nativemem.Limited(heap, nativemem.Budget("100 KiB", on_pressure=told, warn=0.5))
        sys.setprofile(lambda *_: None)
        with hook.using(limited): array = np.ones(8000)
        for _ in range(1000): work()
        sys.setprofile(None)
        print(seen, len(kept))
        """
    ) == ["['warn'] 1"]


@pytest.mark.parametrize(
    ("version", "why"),
    [
        ("1.22.0", None), ("1.22", None), ("2.0.0rc1", None), ("10.0", None),
        ("1.21.9", "NumPy 1.21.9 has no memory handlers; 1.22 is the first that has"),
        (None, "the import of NumPy is not done"),
    ],
)  # fmt: skip
def test_which_numpy_has_handlers(version: str | None, why: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """NPY-1"""
    from types import SimpleNamespace

    from nativemem.engine import numpy_default

    umath = object()
    monkeypatch.setitem(sys.modules, numpy_default._UMATH[0], umath)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "numpy", SimpleNamespace(__version__=version))  # type: ignore[arg-type]
    if why is None:
        assert numpy_default.module() is umath
    else:
        with pytest.raises(nativemem.errors.NativeUnavailable) as caught:
            numpy_default.module()
        assert str(caught.value) == why
