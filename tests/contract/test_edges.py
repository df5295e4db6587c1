"""Where an answer changes: each bound met exactly, and missed by one; calls made a second time; what goes first."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from nativemem.allocators import arena as arenas
from nativemem.backends.binding import Binding
from nativemem.budgets.lending import SharingPolicy
from nativemem.errors import (
    BudgetExceeded,
    ForeignBlock,
    InvalidLayout,
    NativeMemError,
    Refusal,
    StaleHandle,
    Status,
)
from nativemem.facades import load
from nativemem.sizes import SIZE_MAX
from nativemem.wrappers.sites import Frame, Site, gather

from .helpers import collect


@pytest.fixture
def pure() -> Binding:
    """The facade bound to the pure backend."""
    return load("pure")


# --- what is advised ---


@pytest.mark.parametrize(
    ("count", "frees", "requested", "limit", "available", "largest", "says"),
    [
        (10, 5, 101, 100, 0, 0, "raise its cap to at least 101 bytes"),
        (10, 6, 101, 100, 0, 0, "6 of 10 blocks were freed one by one"),
        (0, 0, 100, 100, 100, 100, "the bytes are there, but not at that alignment"),
        (0, 0, 100, 100, 100, 99, "100 bytes are in no block, but the largest piece has 99"),
        (0, 0, 100, 100, 99, 99, ""),
        (0, 0, 50, 1000, 10, 10, "it is 99% full: reset it, or raise its cap"),
        (0, 0, 150, 1000, 100, 10, ""),
    ],
)
def test_advice_about_an_arena(
    count: int, frees: int, requested: int, limit: int, available: int, largest: int, says: str
) -> None:
    """At each bound, and one beyond."""
    state = {
        "requested": requested,
        "available": available,
        "largest_free": largest,
        "limit": limit,
        "utilization": (limit - available) / limit,
    }
    advice = arenas._advice(state, count, frees)
    assert advice.startswith(says) and bool(advice) == bool(says)


@pytest.mark.parametrize(
    ("noun", "status", "requested", "used", "limit", "layout", "says"),
    [
        (
            "Pool",
            Status.INVALID_LAYOUT,
            101,
            0,
            100,
            None,
            "make the pool for blocks of 101 bytes, or use Slab or Heap",
        ),
        ("Pool", Status.INVALID_LAYOUT, 100, 0, 100, None, "the alignment must divide the cell"),
        ("Pool", Status.POOL_EXHAUSTED, 10, 49, 100, None, "its blocks use 49% of their cells"),
        ("Pool", Status.POOL_EXHAUSTED, 10, 50, 100, None, ""),
        ("Stack", Status.CAPACITY_EXCEEDED, 101, 0, 100, None, "no block of this size ever fits"),
        ("Stack", Status.CAPACITY_EXCEEDED, 100, 0, 100, None, "the bytes are there, but not at that alignment"),
        ("Stack", Status.CAPACITY_EXCEEDED, 100, 1, 100, None, ""),
        ("Stack", Status.CAPACITY_EXCEEDED, 50, 91, 100, None, "it is 91% full: free the newest blocks"),
        ("Stack", Status.CAPACITY_EXCEEDED, 50, 90, 100, None, ""),
        ("System", Status.OUT_OF_MEMORY, 1 << 47, 0, 0, None, "no machine has so much"),
        ("System", Status.OUT_OF_MEMORY, (1 << 47) - 1, 0, 0, None, ""),
        ("Budget", Status.OVER_BUDGET, 101, 0, 100, None, "no request of this size ever passes"),
        ("Budget", Status.OVER_BUDGET, 100, 1, 100, None, "ask for at most 99 bytes at once"),
        ("Budget", Status.OVER_BUDGET, 100, 91, 100, None, "it is 91% full: free blocks of this owner"),
        ("Budget", Status.OVER_BUDGET, 100, 10, 100, (90, 1), "the block itself would fit"),
        ("Budget", Status.OVER_BUDGET, 100, 10, 100, (91, 1), "ask for at most 90 bytes at once"),
    ],
)
def test_advice(
    nm: Binding, noun: str, status: int, requested: int, used: int, limit: int, layout: Any, says: str
) -> None:
    """At each bound, and one beyond."""
    refused = Refusal(status, requested, used, limit)
    state, advice = getattr(nm, noun)._explain(nm.System(), refused, layout)
    assert advice.startswith(says) and bool(advice) == bool(says)
    if status in (Status.POOL_EXHAUSTED, Status.CAPACITY_EXCEEDED, Status.OVER_BUDGET):
        assert (state["requested"], state["used"], state["limit"], state["capacity"]) == (
            requested,
            used,
            limit,
            limit,
        )
        assert (state["available"], state["utilization"]) == (limit - used, used / limit)
    if noun in ("Pool", "Stack") and state:
        assert state["largest_free"] == (0 if noun == "Pool" else limit - used)


# --- figures ---


def test_what_is_free_follows_each_step(nm: Binding) -> None:
    """Of a stack as its newest block changes its size, of a pool until its last cell."""
    stack = nm.Stack(100)
    block = stack.alloc(10, 1)
    seen = []
    for size in (50, 20, 100, 1):
        assert stack.resize(block, size)
        seen.append((stack.stats.current, stack.stats.largest_free))
    assert seen == [(50, 50), (20, 80), (100, 0), (1, 99)]
    assert not stack.resize(block, 101)
    with stack.alloc(9, 1) as above:
        assert (stack.stats.current, stack.stats.largest_free) == (10, 90)
        assert not stack.resize(block, 2)
        assert above.alive
    block.free()
    assert (stack.stats.current, stack.stats.largest_free, stack.stats.live) == (0, 100, 0)
    pool = nm.Pool(30, 2)
    free, kept = [], []
    for _ in range(2):
        free.append(pool.stats.largest_free)
        kept.append(pool.alloc())
    assert [*free, pool.stats.largest_free] == [32, 32, 0]
    kept.pop().free()
    assert pool.stats.largest_free == 32
    growing = nm.Pool(30, 1, True)
    kept.append(growing.alloc())
    assert growing.stats.largest_free == 32


@pytest.mark.parametrize(
    ("cell", "cells"),
    [(16, 4084), (48, 1361), (64, 1021), (128, 510), (192, 340), (256, 255), (384, 170), (512, 127)],
)
def test_so_many_cells_are_in_a_superblock(nm: Binding, cell: int, cells: int) -> None:
    """Behind a head of 192 bytes, rounded up to what a cell is aligned to."""
    slab = nm.Slab((cell,))
    kept = [slab.alloc(cell, 1) for _ in range(cells)]
    assert slab.stats.reserved == 65536
    kept.append(slab.alloc(cell, 1))
    assert slab.stats.reserved == 2 * 65536


def test_a_slab_keeps_one_empty_superblock_again(nm: Binding) -> None:
    """After a trim as before it; the second that is empty goes back at once."""
    slab = nm.Slab((4096,))
    for _ in range(2):
        slab.alloc(100).free()
        assert slab.stats.reserved == 65536
        kept = [slab.alloc(4000) for _ in range(16)]
        assert slab.stats.reserved == 2 * 65536
        kept.clear()
        assert slab.stats.reserved == 65536
        slab.trim()
        assert slab.stats.reserved == 0


def test_a_reset_frees_no_single_block(nm: Binding) -> None:
    """Nor does a release, or a close; the generation outlives that."""
    arena = nm.Arena()
    kept = [arena.alloc(10), arena.alloc(0)]
    mark = arena.mark()
    kept.append(arena.alloc(20))
    arena.release(mark)
    assert (arena.stats.frees, arena.stats.live, arena.stats.current) == (0, 1, 10)
    assert [block.alive for block in kept] == [True, True, False]
    arena.reset()
    assert (arena.stats.frees, arena.stats.live, arena.stats.count) == (0, 0, 2)
    arena.close()
    assert arena.generation == 1


def test_a_batch_leaves_no_mark(nm: Binding) -> None:
    """The place that it would have gone back to is forgotten."""
    arena = nm.Arena()
    arena.alloc_many([10, 20])
    assert arena._marks == []
    with pytest.raises(InvalidLayout):
        arena.alloc_many([10, SIZE_MAX + 1])
    assert arena._marks == [] and arena.stats.live == 2


def test_a_freed_block_is_forgotten(pure: Binding) -> None:
    """Else a chain would grow with each block that it ever had."""
    for allocator in (
        pure.System(),
        pure.Heap(),
        pure.Arena(),
        pure.Stack(1000),
        pure.Limited(None, pure.Budget(99)),
    ):
        for _ in range(3):
            allocator.alloc(10).free()
            dropped = allocator.alloc(0)
            del dropped
        assert allocator._chain.blocks == {}


def test_marks_of_another_are_refused_by_the_core(pure: Binding) -> None:
    """Of one in the same state."""
    for make in (lambda: pure.Stack(100), pure.Arena):
        one, other = make(), make()
        mark = one._core.take_mark()[1]
        assert (one._core.check_mark(mark), other._core.check_mark(mark)) == (Status.OK, Status.INVALID_MARK)
        one.reset()
        assert one._core.check_mark(mark) == Status.INVALID_MARK


# --- what goes first, and what goes twice ---


def test_what_a_resize_looks_at_first(nm: Binding) -> None:
    """Whose block it is, before the size."""
    system, other = nm.System(), nm.System().alloc(10)
    with pytest.raises(ForeignBlock):
        system.resize(other, -1)
    block = system.alloc(10)
    block.free()
    with pytest.raises(NativeMemError) as caught:
        system.resize(block, -1)
    assert not isinstance(caught.value, InvalidLayout)


def test_an_index_comes_before_a_value(nm: Binding) -> None:
    numbers = nm.TypedArena("i")
    numbers.append(1)
    with pytest.raises(IndexError):
        numbers[1] = "no number"
    with pytest.raises(InvalidLayout):
        numbers[0] = "no number"
    assert list(numbers) == [1]


def test_a_reservation_is_released_once(nm: Binding) -> None:
    budget = nm.Budget(100)
    reserved, other = budget.reserve(30), budget.reserve(50)
    for _ in range(3):
        with reserved as of:
            assert of is budget
    assert budget.used == 50
    with other:
        pass
    assert budget.used == 0


def test_who_may_borrow(nm: Binding) -> None:
    """Siblings are those with the same parent, not those without one."""
    one, two = nm.Budget(1000), nm.Budget(1000)
    budgets = {
        "of one": nm.Budget(100, "of one", one),
        "of one too": nm.Budget(100, "of one too", one),
        "of two": nm.Budget(100, "of two", two),
        "of none": nm.Budget(100, "of none"),
        "of none too": nm.Budget(100, "of none too"),
    }
    policy = SharingPolicy(siblings_only=True)
    pairs = list(itertools.permutations(budgets, 2))
    answers = {(a, b): policy.allows(budgets[a], budgets[b], 10) for a, b in pairs}
    siblings = [("of one", "of one too"), ("of one too", "of one")]
    assert [pair for pair, answer in answers.items() if answer] == siblings
    assert {type(answer) for answer in answers.values()} == {bool}
    named = SharingPolicy(0.5, ["of two"])
    assert [named.allows(one, budgets[name], 500) for name in budgets] == [False, False, True, False, False]
    assert [named.allows(one, budgets["of two"], n) for n in (499, 500, 501)] == [True, True, False]
    ruled = SharingPolicy(rule=lambda lender, borrower, n: n % 2)  # type: ignore[arg-type,return-value]
    assert [ruled.allows(one, two, n) for n in (1, 2)] == [True, False]


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_what_is_charged_goes_with_a_cycle(nm: Binding, order: tuple[int, ...]) -> None:
    """In whatever order the collector finalises a budget, what charges to it, and its blocks."""
    parent = nm.Budget(1000, "parent")
    child = nm.Budget(500, "child", parent)
    limited = nm.Limited(nm.System(), child)
    things: list[Any] = [child, limited, limited.alloc(100), limited.alloc(50)]
    child.reserve(7)
    assert parent.used == 157
    cycle: list[Any] = [things[i] for i in order]
    cycle.append(cycle)
    del child, limited, things, cycle
    collect()
    assert (parent.used, parent._core.check()) == (0, None)
    assert parent.try_reserve(1000)


def test_events_after_a_number(nm: Binding) -> None:
    """That one is not among them."""
    budget = nm.Budget(10, "of events")
    with pytest.raises(BudgetExceeded):
        budget.reserve(11)
    budget.limit = 20
    numbers = [event.number for event in nm.backend.events(0)]
    for i in (1, 2, 3):
        assert [event.number for event in nm.backend.events(numbers[-i])] == numbers[len(numbers) - i + 1 :]


def test_a_closed_allocator_says_so_before_all_else(nm: Binding) -> None:
    for allocator in (nm.System(), nm.Arena(), nm.Stack(10), nm.Slab(), nm.Heap(), nm.Pool(16, 1)):
        allocator.close()
        allocator.close()
        for call in (allocator.blocks, lambda a=allocator: a.alloc(1), lambda a=allocator: a.alloc(0)):
            with pytest.raises(StaleHandle):
                call()
        assert (allocator.upstream, allocator.owner, allocator.closed) == (None, None, True)


# --- sites ---


def test_what_a_sample_stands_for() -> None:
    """A block of n bytes is one of 1 / (1 - exp(-n / sample)); sites of the same frames are one."""
    a, b, c = ("a.py", 1, "f"), ("b.py", 2, "g"), ("b.py", 1, "g")
    places = {1: (a,), 2: (a,), 3: (b,), 4: (c,)}
    found = gather([1, 2, 3, 4], [100, 100, 1, 1], lambda site: places[site], 100)
    assert [(site.blocks, site.bytes, site.frames) for site in found] == [
        (3, 316, (Frame(*a),)),  # 2 * 1.58
        (101, 101, (Frame(*c),)),  # 100.5008
        (101, 101, (Frame(*b),)),
    ]
    exact = gather([1, 2, 3, 4], [100, 100, 200, 7], lambda site: places[site], 0)
    assert [(site.blocks, site.bytes, site.frames[0].file) for site in exact] == [
        *((2, 200, "a.py"), (1, 200, "b.py"), (1, 7, "b.py")),
    ]
    assert str(exact[0]) == "200 bytes in 2 blocks: a.py:1 in f"
    assert str(exact[2]) == "7 bytes in 1 block: b.py:1 in g"
    assert str(Site((), 1, 5)) == "5 bytes in 1 block: an unknown place"
    assert gather([], [], lambda site: (), 0) == []
