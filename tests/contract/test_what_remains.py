"""What allocators leave behind, and what is handed back: after a refusal, in cycles, on the pure backend in the
interpreter's own memory."""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from nativemem.backends.binding import Binding
from nativemem.errors import InvalidLayout, NativeMemError, OutOfMemory, WrongThread
from nativemem.facades import load
from nativemem.sizes import SIZE_MAX

from .helpers import collect, in_thread


@pytest.fixture
def pure() -> Binding:
    """The facade bound to the pure backend."""
    return load("pure")


def test_what_a_refused_locked_had_taken_is_handed_back(nm: Binding) -> None:
    """It takes over one allocator after the other, down to one of another thread."""
    theirs = in_thread(lambda: nm.Arena())
    ours = nm.Arena(upstream=theirs)
    with pytest.raises(WrongThread):
        nm.Locked(ours)
    ours.reset()
    assert ours.generation == 1
    with pytest.raises(WrongThread):
        theirs.reset()
    ours.close()


def test_a_sweep_collects_cycles_before_it_speaks_of_a_leak(nm: Binding) -> None:

    def in_a_cycle(allocator: Any) -> None:
        cycle: list[Any] = [allocator.alloc(10)]
        cycle.append(cycle)

    was = gc.isenabled()
    gc.disable()
    try:
        assert nm.Failing.sweep(in_a_cycle, nm.System()) == 1
    finally:
        (gc.enable if was else gc.disable)()


def test_dice_of_ones_own(nm: Binding) -> None:
    """The same with the same seed, others with each other one, and without one."""

    def thrown(**rest: int) -> list[int]:
        verified, seen = nm.Verified(nm.System(), "sampling", **rest), []
        block = verified.alloc(8)
        for _ in range(200):
            verified.seal(block)
            seen.append(verified.checks)
        return seen

    assert thrown(seed=1) == thrown(seed=1) != thrown(seed=2)
    assert thrown() != thrown()
    assert thrown() != thrown(seed=1)


def test_one_refusal_is_one_failure(nm: Binding) -> None:
    """Of memory that there is not."""
    for allocator in (nm.System(), nm.Heap(), nm.Traced(nm.System())):
        with pytest.raises(OutOfMemory):
            allocator.alloc(1 << 60)
        assert (allocator.stats.failures, allocator.stats.count, allocator.stats.current) == (1, 0, 0)


def words(call: Callable[[], Any]) -> tuple[Any, ...]:
    """What a call raises, with its figures."""
    with pytest.raises(NativeMemError) as caught:
        call()
    return type(caught.value), str(caught.value), caught.value.suggestion, caught.value.state


def test_a_cell_that_is_too_large_when_it_is_rounded_up(both: tuple[Binding, Binding]) -> None:
    """The same words on both backends."""
    native, pure = (words(lambda nm=nm: nm.Pool(SIZE_MAX - 5, 1)) for nm in both)
    assert native == pure
    assert native[0] is InvalidLayout


@pytest.mark.parametrize("slab_first", [True, False])
@pytest.mark.parametrize("size", [8, 100, 5000])
def test_a_slab_that_is_collected_with_its_blocks_keeps_nothing(nm: Binding, size: int, slab_first: bool) -> None:
    """In whatever order the collector finalises them."""
    system = nm.System()
    slab = nm.Slab(upstream=system)
    blocks = [slab.alloc(size) for _ in range(3)]
    cycle: list[Any] = [slab, *blocks] if slab_first else [*blocks, slab]
    cycle.append(cycle)
    del slab, blocks, cycle
    collect()
    assert (system.stats.current, system.stats.live) == (0, 0)


def test_a_block_of_no_bytes_has_none(nm: Binding) -> None:
    for allocator in (nm.System(), nm.Heap(), nm.Arena(), nm.Stack(100), nm.Slab()):
        with allocator.alloc(0) as block:
            with memoryview(block) as view:
                assert (view.nbytes, len(view), bytes(view)) == (0, 0, b"")
            assert (block.size, len(block), allocator.stats.live) == (0, 0, 0)


def test_a_new_size_in_words(nm: Binding) -> None:
    """What resize takes is what alloc takes."""
    arena = nm.Arena("64 KiB")
    block = arena.alloc(100)
    assert arena.resize(block, "1 KiB") and block.size == 1024
    assert arena.resize(block, "50 B") and block.size == 50
    for bad in (-1, 1.5, "much", None, SIZE_MAX + 1):
        with pytest.raises(InvalidLayout, match="^Arena.alloc: size takes bytes"):
            arena.resize(block, bad)
    assert block.size == 50


# --- Python's own memory, on the pure backend ---


def held(call: Callable[[], Any]) -> int:
    """How many times 40 KiB of Python's memory more, or less, are in use after a call."""
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    call()
    return round((tracemalloc.get_traced_memory()[0] - before) / (40 << 10))


@pytest.fixture
def traced_memory() -> Any:
    """Python's allocator counts what it gives."""
    if sys.implementation.name != "cpython":
        pytest.skip("this interpreter does not count its memory")
    if tracemalloc.is_tracing():
        pytest.skip("memory is counted already")
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.usefixtures("traced_memory")
@pytest.mark.parametrize("noun", ["System", "Heap", "Slab", "Stack", "Pool"])
def test_bytes_go_with_a_free(pure: Binding, noun: str) -> None:
    """A block that is freed holds no bytes any more, though it is referred to."""
    arguments = {"Stack": (1 << 20,), "Pool": (40 << 10, 2)}.get(noun, ())
    allocator = getattr(pure, noun)(*arguments)
    blocks = [allocator.alloc(40 << 10) for _ in range(2)]
    assert held(blocks[1].free) == -1
    assert held(blocks[0].free) == -1


@pytest.mark.usefixtures("traced_memory")
def test_bytes_go_with_what_drops_blocks(pure: Binding) -> None:
    """Of an arena and of a stack: with a release those that are newer than the mark, with a reset all."""
    for allocator in (pure.Arena(1 << 20), pure.Stack(1 << 20)):
        kept = [allocator.alloc(40 << 10)]
        mark = allocator.mark()
        assert held(lambda a=allocator: a.alloc(40 << 10) and None) == 1  # dropped, and the allocator keeps it
        kept.append(allocator.alloc(40 << 10))
        assert held(lambda a=allocator, m=mark: a.release(m)) == -2
        assert held(allocator.reset) == -1
        assert [block.alive for block in kept] == [False, False]


def test_what_is_wiped_is_wiped_with_zeros(pure: Binding, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the bytes go with the block, so that nothing else shows it."""
    module = sys.modules[type(pure.System().alloc(1)._memory).__mro__[1].__module__]
    if not hasattr(module, "fill"):
        pytest.skip("blocks have no bytes of their own here")
    written: list[tuple[int, int, int]] = []
    fill = module.fill

    def seen(view: memoryview, byte: int, start: int = 0) -> None:
        written.append((len(view), byte, start))
        fill(view, byte, start)

    monkeypatch.setattr(module, "fill", seen)
    heap, arena = pure.Heap(secure=True), pure.Arena(zero_on_free=True)
    heap.alloc(100).free()
    assert written == [(100, 0, 0)]
    block = arena.alloc(200)
    block.free()
    assert written == [(100, 0, 0)]
    arena.reset()
    assert written == [(100, 0, 0), (200, 0, 0)]
    del block
    traced = pure.Traced(pure.System(), zero_on_free=True)
    traced.alloc(300).free()
    assert written[2:] == [(300, 0, 0)]
    patterns = pure.Arena(1000, patterns=True)
    block = patterns.alloc(20)
    assert patterns.resize(block, 30)
    assert written[3:] == [(20, 0xAA, 0), (30, 0xAA, 20)]
    block.free()
    assert written[5:] == [(30, 0xDD, 0)]
