"""Blocks that are collected where their allocator does not take them back: none is lost, and no charge."""

from __future__ import annotations

import gc

import pytest

from nativemem.backends.binding import Binding
from nativemem.errors import PoolExhausted

from .helpers import collect, drop_elsewhere, snapshot


def test_a_pools_block_comes_back_when_it_is_needed(nm: Binding) -> None:
    """LIFE-8: collected in another thread, given back before the pool says that it is empty."""
    pool = nm.Pool(64, 3)
    kept = pool.alloc()
    drop_elsewhere([pool.alloc(), pool.alloc()])
    assert pool.stats.live == 3
    assert pool.blocks() == [kept]
    again = [pool.alloc(), pool.alloc()]
    assert [block.size for block in again] == [64, 64]
    with pytest.raises(PoolExhausted):
        pool.alloc()
    assert pool.stats.live == 3


def test_it_comes_back_with_the_next_free(nm: Binding) -> None:
    """LIFE-8"""
    pool = nm.Pool(64, 3)
    kept = pool.alloc()
    drop_elsewhere([pool.alloc(), pool.alloc()])
    kept.free()
    assert pool.stats.live == 0


def test_a_charge_comes_back_at_the_end(nm: Binding) -> None:
    """LIFE-8: at a reset, and at the close."""
    budget = nm.Budget(1000)
    arena = nm.Arena()
    limited = nm.Limited(arena, budget)
    drop_elsewhere([limited.alloc(100)])
    assert budget.used == 100
    arena.reset()
    assert (budget.used, limited.stats.live) == (0, 0)
    drop_elsewhere([limited.alloc(200)])
    assert budget.used == 200
    limited.close()
    assert budget.used == 0


def test_a_stack_pops_what_was_dropped_below(nm: Binding) -> None:
    """LIFE-8: a wrapper's block that was collected out of order goes when it becomes the top."""
    budget = nm.Budget(1000)
    stack = nm.Stack(1000)
    limited = nm.Limited(stack, budget)
    below, middle, top = limited.alloc(100), limited.alloc(200), limited.alloc(300)
    del middle
    gc.collect()
    assert (budget.used, stack.stats.live) == (600, 3)
    top.free()
    assert (budget.used, stack.stats.live) == (100, 1)
    below.free()
    assert (budget.used, stack.stats.current) == (0, 0)


def test_a_stack_pops_all_that_was_dropped_below(nm: Binding) -> None:
    """LIFE-8: at once, the newest first."""
    budget = nm.Budget(1000)
    stack = nm.Stack(1000)
    limited = nm.Limited(stack, budget)
    dropped = [limited.alloc(100) for _ in range(4)]
    top = limited.alloc(50)
    dropped.clear()
    gc.collect()
    assert (budget.used, stack.stats.live) == (450, 5)
    top.free()
    assert (budget.used, stack.stats.live) == (0, 0)


def test_a_frame_drops_them(nm: Binding) -> None:
    """LIFE-8"""
    budget = nm.Budget(1000)
    stack = nm.Stack(1000)
    limited = nm.Limited(stack, budget)
    with stack.frame():
        limited.alloc(10)  # collected at once, and the top: gone
        held = limited.alloc(20)
        drop_elsewhere([limited.alloc(30)])
        assert budget.used == 50
    assert not held.alive
    assert (budget.used, stack.stats.live) == (0, 0)


def test_their_allocator_goes_before_the_chain(nm: Binding) -> None:
    """LIFE-8: a wrapper that is dropped takes its orphans along."""
    budget = nm.Budget(1000)
    arena = nm.Arena()
    limited = nm.Limited(arena, budget)
    drop_elsewhere([limited.alloc(100)])
    del limited
    gc.collect()
    assert budget.used == 0
    assert arena.alloc(10).alive
    arena.reset()


def test_nobody_sees_them(nm: Binding) -> None:
    """LIFE-8: they are no objects any more."""
    pool = nm.Pool(64, 3)
    traced = nm.Traced(pool)
    drop_elsewhere([traced.alloc(), traced.alloc(10)])
    assert traced.blocks() == pool.blocks() == traced.leaks() == []
    assert snapshot(traced)[0][2].live == 2
    pool.close  # noqa: B018  # still there
    traced.alloc().free()
    assert traced.stats.live == 0
    traced.close()
    pool.close()


def test_a_wrapper_ends_with_an_orphan_above_a_live_block(nm: Binding) -> None:
    """LIFE-8: newest first, whether a reference to it is left or not."""
    stack = nm.Stack(1000)
    one, other = (nm.Limited(stack, nm.Budget(1000)) for _ in range(2))
    kept, dropped, top = one.alloc(10), one.alloc(20), other.alloc(30)
    del dropped
    gc.collect()
    other.close()
    assert (stack.stats.current, top.alive) == (30, False)
    one.close()
    assert (stack.stats.current, stack.stats.frees, kept.alive) == (0, 3, False)


@pytest.mark.parametrize("order", [1, -1])
def test_one_wrappers_go_and_anothers_stay(nm: Binding, order: int) -> None:
    """LIFE-8: whichever became one first."""
    pool = nm.Pool(64, 8)
    budgets = [nm.Budget(1000), nm.Budget(1000)]
    one, other = (nm.Limited(pool, budget) for budget in budgets)
    blocks = [wrapper.alloc(10) for wrapper in (one, other, one, other, pool)][::order]
    drop_elsewhere(blocks)
    assert (pool.stats.live, [budget.used for budget in budgets]) == (5, [20, 20])
    one.close()
    assert (pool.stats.live, [budget.used for budget in budgets]) == (3, [0, 20])
    other.alloc(10).free()
    assert (pool.stats.live, [budget.used for budget in budgets]) == (0, [0, 0])
    drop_elsewhere([other.alloc(10), pool.alloc()][::order])
    del other
    collect()
    assert (pool.stats.live, budgets[1].used) == (1, 0)
    pool.alloc().free()
    assert pool.stats.live == 0


def test_a_release_takes_the_newer_ones(nm: Binding) -> None:
    """LIFE-8"""
    budget = nm.Budget(1000)
    arena = nm.Arena()
    limited = nm.Limited(arena, budget)
    drop_elsewhere([limited.alloc(100)])
    mark = arena.mark()
    drop_elsewhere([limited.alloc(10), limited.alloc(20)])
    assert budget.used == 130
    arena.release(mark)
    assert budget.used == 100
    limited.alloc(5).free()
    assert (budget.used, limited.stats.live) == (0, 0)
