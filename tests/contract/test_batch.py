"""BLOCK-7: alloc_many gives a block for each size, or raises and leaves nothing behind."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import pytest

from nativemem.allocators.base import Allocator
from nativemem.backends.binding import Binding
from nativemem.errors import (
    ArenaExhausted,
    BudgetExceeded,
    CapacityExceeded,
    InvalidLayout,
    PoolExhausted,
    StaleHandle,
    WrongThread,
)

from .helpers import (
    CHAINS,
    chain_of,
    chain_to_noun,
    collect,
    content,
    figures,
    fill,
    in_thread,
    make,
    traits_of,
    unchanged,
)


def left_behind(allocator: Allocator) -> list[tuple[int, int, int]]:
    """Bytes and blocks in use, and what is charged, at each level down to where the blocks lie."""
    links = chain_to_noun(allocator)
    charged = sum(link.owner.used for link in links if link.owner is not None)
    return [(link.stats.current, link.stats.live, charged) for link in links]


def test_a_block_for_each_size(allocator: Allocator) -> None:
    """BLOCK-7"""
    blocks = allocator.alloc_many([10, "1 KiB", 0, 100, 16], 64)
    assert [block.size for block in blocks] == [10, 1024, 0, 100, 16]
    assert all(block.alive and block.align == 64 and block.address % 64 == 0 for block in blocks)
    assert allocator.blocks() == blocks[::-1]
    for number, block in enumerate(blocks):
        fill(block, number)
    assert [content(block) for block in blocks] == [bytes([k]) * b.size for k, b in enumerate(blocks)]
    assert (allocator.stats.count, allocator.stats.live, allocator.stats.current) == (4, 4, 1150)
    while blocks:
        blocks.pop().free()


def test_no_sizes(allocator: Allocator) -> None:
    """BLOCK-7"""
    with unchanged(allocator):
        assert allocator.alloc_many([]) == []
        assert allocator.alloc_many(iter(())) == []


def test_any_iterable(allocator: Allocator) -> None:
    """BLOCK-7"""
    assert [block.size for block in allocator.alloc_many(n for n in (3, 4))] == [3, 4]


def test_a_bad_size_in_the_middle(allocator: Allocator) -> None:
    """BLOCK-7: found before anything is allocated."""
    for bad in (-1, "x", None, 1.5, 1 << 63):
        with unchanged(allocator), pytest.raises(InvalidLayout):
            allocator.alloc_many([10, 20, bad, 30])
    for align in (3, 0, 8192):
        with unchanged(allocator), pytest.raises(InvalidLayout):
            allocator.alloc_many([10, 20], align)
    with unchanged(allocator), pytest.raises(TypeError):
        allocator.alloc_many(10)


def test_sizes_that_raise(allocator: Allocator) -> None:
    """BLOCK-7"""

    def sizes() -> object:
        yield 10
        raise KeyError("mine")

    with unchanged(allocator), pytest.raises(KeyError):
        allocator.alloc_many(sizes())


#: Below a Locked what an arena gave stays until it is reset: what other threads were given must not go with it.
UNDONE = tuple(chain for chain in CHAINS if not ("Locked" in chain and "Arena" in chain))


@pytest.mark.parametrize("chain", UNDONE)
def test_a_refusal_in_the_middle(nm: Binding, chain: str) -> None:
    """BLOCK-7: nothing is in use afterwards that was not before, at any level."""
    allocator = make(nm, chain)
    kept = allocator.alloc(100)
    fill(kept, 7)
    before = left_behind(allocator)
    too_much = (traits_of(allocator).largest or (1 << 61)) + 1
    for _ in range(3):
        with pytest.raises((MemoryError, InvalidLayout)):
            allocator.alloc_many([10, 200, 3000, too_much, 40])
        assert left_behind(allocator) == before
        assert allocator.blocks() == [kept]
    assert content(kept) == b"\x07" * 100
    blocks = allocator.alloc_many([10, 200, 3000])
    assert all(block.alive for block in blocks)


@pytest.mark.parametrize("chain", [chain for chain in UNDONE if "Limited" in chain])
def test_the_budget_refuses_in_the_middle(nm: Binding, chain: str) -> None:
    """BLOCK-7, LIM-1"""
    allocator = make(nm, chain)
    budget = next(link.owner for link in chain_of(allocator) if link.owner is not None)
    budget.limit = 1000
    kept = allocator.alloc(100)
    before = left_behind(allocator)
    with pytest.raises(BudgetExceeded) as caught:
        allocator.alloc_many([300, 300, 0, 300, 1])
    assert figures(caught.value) == {"requested": 1, "used": 1000, "limit": 1000, "owner": "test"}
    assert left_behind(allocator) == before
    assert allocator.stats.failures == 1
    assert len(allocator.alloc_many([300, 300, 300])) == 3
    assert (budget.used, kept.alive) == (100, True)


def test_it_fits_exactly_or_not_at_all(nm: Binding) -> None:
    """BLOCK-7"""
    for allocator, error in (
        (nm.Arena(hint=256, grow=False), ArenaExhausted),
        (nm.Stack(256), CapacityExceeded),
        (nm.Pool(64, 4), PoolExhausted),
        (nm.Limited(None, nm.Budget(256)), BudgetExceeded),
    ):
        for _ in range(3):
            with pytest.raises(error):
                allocator.alloc_many([64, 64, 64, 64, 64])
            assert (allocator.stats.current, allocator.stats.live) == (0, 0)
        blocks = allocator.alloc_many([64, 64, 64, 64])
        assert allocator.stats.current == 256
        while blocks:
            blocks.pop().free()


def test_an_arena_keeps_no_byte(nm: Binding) -> None:
    """BLOCK-7, ARENA-6: the place is where it was, older marks are good, and blocks grow as before."""
    arena = nm.Arena(hint=1024, cap=4096, upstream=nm.System())
    block = arena.alloc(100)
    mark = arena.mark()
    newer = arena.alloc(100)
    before = (arena.stats.current, arena.stats.live)
    with pytest.raises(ArenaExhausted):
        arena.alloc_many([100, 2000, 3000])
    assert (arena.stats.current, arena.stats.live) == before
    assert arena.resize(newer, 150) is True
    arena.alloc_many([10, 20])
    arena.release(mark)
    assert (arena.stats.current, arena.stats.live) == (100, 1)
    assert block.alive
    assert arena.resize(block, 120) is True, "no mark of the batch is left"


def test_a_batch_leaves_no_mark(nm: Binding) -> None:
    """BLOCK-7: as after single calls, the newest block may change its size."""
    for allocator in (nm.Arena(), nm.Limited(nm.Arena(), nm.Budget(10_000))):
        blocks = allocator.alloc_many([100, 100])
        assert allocator.resize(blocks[-1], 150) is True
        assert allocator.resize(blocks[-1], 50) is True


@pytest.mark.parametrize("verb", ["reset", "close"])
@pytest.mark.parametrize("size", [10, 5_000_000])
def test_a_reset_in_the_middle(nm: Binding, verb: str, size: int) -> None:
    """BLOCK-7: a signal handler or a finalizer may drop the batch's blocks; the batch goes on, or is refused as if
    it began there."""
    arena = nm.Arena(cap="1 MiB")
    done: list[str] = []

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        if not done and len(arena._marks) and len(arena.blocks()) == 2:
            done.append(verb)
            getattr(arena, verb)()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        blocks = arena.alloc_many([10, 20, size])
    except (ArenaExhausted, StaleHandle) as error:
        sys.settrace(before)
        assert type(error) is (StaleHandle if verb == "close" else ArenaExhausted)
        assert size > 10 or verb == "close"
    else:
        sys.settrace(before)
        assert [block.alive for block in blocks] == [False, False, True]
        assert arena.resize(blocks[-1], 5) is True
    assert done == [verb]


def test_with_another_allocator_on_the_arena(nm: Binding) -> None:
    """BLOCK-7: where no release is to be had, the blocks are freed one by one."""
    arena = nm.Arena(hint=4096, grow=False)
    slab = nm.Slab(upstream=arena)
    budget = nm.Budget(100)
    limited = nm.Limited(arena, budget)
    with pytest.raises(BudgetExceeded):
        limited.alloc_many([40, 40, 40])
    assert budget.used == 0
    assert (limited.stats.live, limited.stats.frees) == (0, 2)
    assert arena.blocks() == limited.blocks() == []
    slab.close()
    arena.reset()
    assert arena.stats.current == 0


def test_blocks_of_others_stay(nm: Binding) -> None:
    """BLOCK-7"""
    stack = nm.Stack(1000)
    limited = nm.Limited(stack, nm.Budget(100))
    mine = stack.alloc(10)
    with pytest.raises(BudgetExceeded):
        limited.alloc_many([60, 60])
    assert (stack.stats.current, limited.owner.used) == (10, 0)
    mine.free()


def test_order_of_the_checks(allocator: Allocator) -> None:
    """BLOCK-7, LAYOUT-6"""
    if traits_of(allocator).confined:
        with unchanged(allocator), pytest.raises(WrongThread):
            in_thread(lambda: allocator.alloc_many([1, 2]))
    allocator.close()
    with pytest.raises(InvalidLayout):
        allocator.alloc_many([1, -1])
    with pytest.raises(StaleHandle):
        allocator.alloc_many([1])


def test_a_size_that_frees_what_came_before_is_harmless(allocator: Allocator) -> None:
    """ERR-4: sizes are converted before the first block is taken."""
    before = allocator.alloc(10)

    class Freeing:
        def __index__(self) -> int:
            if before.alive:
                before.free()
            return 8

    blocks = allocator.alloc_many([Freeing(), 4, Freeing()])
    assert [block.size for block in blocks] == [8, 4, 8]
    assert not before.alive


@pytest.mark.unplanted("wants the same refusal five times")
def test_failed_batches_cost_no_memory(allocator: Allocator) -> None:
    """BLOCK-7: reserved bytes do not grow with each refusal."""
    too_much = (traits_of(allocator).largest or (1 << 61)) + 1
    reserved = []
    for _ in range(5):
        with pytest.raises((MemoryError, InvalidLayout)):
            allocator.alloc_many([1000] * 20 + [too_much])
        collect()
        reserved.append(allocator.stats.reserved)
    assert reserved[1:] == reserved[:1] * 4
    assert (allocator.stats.current, allocator.stats.live) == (0, 0)


def test_a_batch_on_a_stack_that_somebody_else_used(nm: Binding) -> None:
    """BLOCK-7: what cannot be given back in the order of a stack does not hide why the batch failed."""
    stack, others = nm.Stack(4096), []
    budget = nm.Budget(1000, on_pressure=lambda level, budget: level == "warn" and others.append(stack.alloc(10)))
    limited = nm.Limited(stack, budget)
    with pytest.raises(BudgetExceeded):
        limited.alloc_many([850, 200])
    assert [block.size for block in stack.blocks()] == [10] and limited.blocks() == []
    stack.reset()
    assert (stack.stats.current, limited.stats.current, budget.used) == (0, 0, 0)
