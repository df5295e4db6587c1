"""ERR-2: the numbers, the layout and the suggestion of an error, as a program finds them."""

from __future__ import annotations

import gc
import re
import sys
from collections.abc import Callable
from typing import Any

import pytest

from nativemem.allocators.base import Allocator
from nativemem.backends.binding import Binding
from nativemem.errors import (
    ArenaExhausted,
    BudgetExceeded,
    CapacityExceeded,
    DoubleFree,
    ForeignBlock,
    InvalidLayout,
    LifoViolation,
    NativeMemError,
    PoolExhausted,
    StaleBlock,
    StaleHandle,
    Status,
)
from nativemem.refusals import raise_status

from .helpers import in_thread, is_one_line


def refusal(call: Callable[[], object], kind: type[Exception]) -> Any:
    with pytest.raises(kind) as caught:
        call()
    assert is_one_line(caught.value)
    return caught.value


# --- numbers ---


def test_the_numbers_of_an_arena(nm: Binding) -> None:
    """ERR-2"""
    arena = nm.Arena(hint=1000, cap=2000)
    arena.alloc(300, 1)
    error = refusal(lambda: arena.alloc(1500, 8), ArenaExhausted)
    assert error.layout == (1500, 8)
    assert error.state == {
        "requested": 1500,
        "used": 300,
        "reserved": 1000,
        "limit": 2000,
        "capacity": 2000,
        "available": 1700,
        "utilization": 0.15,
        "largest_free": 1000,
    }


def test_the_numbers_of_a_stack(nm: Binding) -> None:
    """ERR-2"""
    stack = nm.Stack(1000)
    kept = stack.alloc(600, 1)
    error = refusal(lambda: stack.alloc(401, 2), CapacityExceeded)
    assert (kept.alive, error.layout) == (True, (401, 2))
    assert error.state == {
        "requested": 401,
        "used": 600,
        "limit": 1000,
        "capacity": 1000,
        "available": 400,
        "utilization": 0.6,
        "largest_free": 400,
    }


def test_the_numbers_of_a_pool(nm: Binding) -> None:
    """ERR-2: bytes are there, behind the blocks in their cells, but none can be had."""
    pool = nm.Pool(30, 2)
    kept = [pool.alloc(8), pool.alloc(24)]
    error = refusal(pool.alloc, PoolExhausted)
    assert (len(kept), error.layout) == (2, (30, 16))
    assert error.state == {
        "requested": 30,
        "used": 32,
        "limit": 64,
        "capacity": 64,
        "available": 32,
        "utilization": 0.5,
        "largest_free": 0,
    }


def test_the_numbers_of_a_budget(nm: Binding) -> None:
    """ERR-2"""
    budget = nm.Budget(100, name="cache")
    limited = nm.Limited(nm.System(), budget)
    kept = limited.alloc(60)
    numbers = {"used": 60, "limit": 100, "capacity": 100, "available": 40, "utilization": 0.6, "owner": "cache"}
    error = refusal(lambda: limited.alloc(41, 64), BudgetExceeded)
    assert (kept.alive, error.layout, error.state) == (True, (41, 64), {"requested": 41, **numbers})
    error = refusal(lambda: budget.reserve(50), BudgetExceeded)
    assert (error.layout, error.state) == (None, {"requested": 50, **numbers})
    budget.limit = 50
    assert refusal(lambda: limited.alloc(1), BudgetExceeded).state["available"] == 0


FULL = {
    "fixed arena": lambda nm: nm.Arena(hint=1000, grow=False),
    "capped arena": lambda nm: nm.Arena(hint=1000, cap=2500),
    "stack": lambda nm: nm.Stack(1000),
    "wrapped": lambda nm: nm.Traced(nm.Limited(nm.Arena(hint=1000, cap=1800), nm.Budget("1 MiB"))),
}


@pytest.mark.parametrize("make", FULL.values(), ids=FULL)
@pytest.mark.parametrize("taken", [0, 1, 100, 900, 1000])
def test_the_largest_free_block_is_to_be_had(nm: Binding, make: Callable[[Binding], Allocator], taken: int) -> None:
    """ERR-2: and no larger one."""
    allocator = make(nm)
    blocks = [allocator.alloc(taken, 1)] if taken else []
    largest = refusal(lambda: allocator.alloc(5000, 1), MemoryError).state["largest_free"]
    again = refusal(lambda: allocator.alloc(largest + 1, 1), MemoryError)
    assert again.state["largest_free"] == largest
    blocks += [allocator.alloc(largest, 1)]
    assert all(block.alive for block in blocks)


def test_of_a_chain_the_allocator_that_refused_tells(nm: Binding) -> None:
    """ERR-2"""
    bottom = nm.Arena(hint=500, cap=1500)
    top = nm.Arena(hint=500, upstream=nm.Traced(bottom))
    top.alloc(100, 1)
    error = refusal(lambda: top.alloc(1400, 1), ArenaExhausted)
    assert (error.state["used"], error.state["reserved"], error.state["largest_free"]) == (500, 500, 1000)


def test_below_a_lock_only_counters_are_told(nm: Binding) -> None:
    """ERR-2: what else an arena has may change under another thread while it is looked at."""
    locked = nm.Locked(nm.Arena(hint=1000, grow=False))
    locked.alloc(100, 1)
    error = in_thread(lambda: refusal(lambda: locked.alloc(1000, 1), ArenaExhausted))
    assert (error.state["used"], error.state["available"]) == (100, 900)
    assert "largest_free" not in error.state
    assert error.suggestion


def test_the_layout_of_misuse(nm: Binding) -> None:
    """ERR-2: that of the block, or the one asked for."""
    heap, other = nm.Heap(), nm.Heap()
    block = heap.alloc(100, 64)
    assert refusal(lambda: other.free(block), ForeignBlock).layout == (100, 64)
    block.free()
    assert refusal(block.free, DoubleFree).layout == (100, 64)
    assert refusal(lambda: heap.resize(block, 5), StaleBlock).layout == (100, 64)
    stack = nm.Stack(100)
    below, top = stack.alloc(10, 2), stack.alloc(20, 4)
    assert refusal(below.free, LifoViolation).layout == (10, 2)
    limited = nm.Limited(stack, nm.Budget(10))
    grown = limited.alloc(8, 8)
    assert refusal(lambda: limited.resize(grown, 11), BudgetExceeded).layout == (11, 8)
    assert top.alive
    for size, align in ((-1, 16), (10, 3), (1 << 70, 1)):
        assert refusal(lambda s=size, a=align: heap.alloc(s, a), InvalidLayout).layout == (size, align)
    assert refusal(lambda: heap.alloc("10 parsecs"), InvalidLayout).layout is None
    heap.close()
    for size in (0, 10):
        assert refusal(lambda n=size: heap.alloc(n), StaleHandle).layout is None


# --- suggestions ---


def fragmented(nm: Binding) -> object:
    arena = nm.Arena(hint=1000, cap=3000)
    arena.alloc(600, 1)
    arena.alloc(1500, 1)  # the next chunk; 400 and 500 bytes are left
    return arena.alloc(800, 1)


def full_arena(nm: Binding) -> object:
    arena = nm.Arena(hint=1000, grow=False)
    arena.alloc(950, 1)
    return arena.alloc(100, 1)


def freed_arena(nm: Binding) -> object:
    arena = nm.Arena(hint=1000, grow=False)
    for _ in range(10):
        arena.alloc(100, 1).free()
    return arena.alloc(100, 1)


def slab_on_a_fixed_arena(nm: Binding) -> object:
    return nm.Slab(upstream=nm.Arena(hint="1 MiB", grow=False)).alloc(10)


def full_stack(nm: Binding) -> object:
    stack = nm.Stack(1000)
    kept = stack.alloc(950)
    return kept, stack.alloc(100)


def half_a_stack(nm: Binding) -> object:
    stack = nm.Stack(1000)
    kept = stack.alloc(500)
    return kept, stack.alloc(600)


def misaligned_stack(nm: Binding) -> object:
    stack = nm.Stack(1000)
    kept = stack.alloc(1)
    return kept, stack.alloc(990, 16)


def full_pool(nm: Binding) -> object:
    pool = nm.Pool(32, 2)
    return [pool.alloc() for _ in range(3)]


def idle_pool(nm: Binding) -> object:
    pool = nm.Pool(1000, 2)
    return [pool.alloc(10) for _ in range(3)]


def charged(nm: Binding, used: int, size: int, **options: Any) -> object:
    budget = nm.Budget(1000, **options)
    limited = nm.Limited(None, budget)
    kept = limited.alloc(used)
    return kept, limited.alloc(size)


def locked(nm: Binding) -> object:
    budget = nm.Budget(1000)
    budget.lock()
    return nm.Limited(None, budget).alloc(10)


SUGGESTIONS: dict[str, tuple[Callable[[Binding], object], str]] = {
    "arena, enough in no piece": (fragmented, "900 bytes are in no block, but the largest piece has 500"),
    "arena, over 90 %": (full_arena, "95% full"),
    "arena, freed one by one": (freed_arena, "10 of 10 blocks were freed one by one.* use Heap or Slab"),
    "arena, never": (lambda nm: nm.Arena(hint=100, grow=False).alloc(101), "at least 101 bytes"),
    "arena, alignment": (slab_on_a_fixed_arena, "not at that alignment"),
    "stack, over 90 %": (full_stack, "95% full"),
    "stack, half full": (half_a_stack, "more capacity"),
    "stack, never": (lambda nm: nm.Stack(100).alloc(101), "at least 101 bytes"),
    "stack, alignment": (misaligned_stack, "not at that alignment"),
    "pool, full": (full_pool, "more cells"),
    "pool, idle": (idle_pool, "use 1% of their cells.* Slab or Heap"),
    "pool, too large": (lambda nm: nm.Pool(100, 2).alloc(200), "Slab or Heap"),
    "pool, alignment": (lambda nm: nm.Pool(48, 2).alloc(8, 32), "divide the cell"),
    "budget, over 90 %": (lambda nm: charged(nm, 950, 100), "95% full"),
    "budget, half full": (lambda nm: charged(nm, 500, 600), "at most 500 bytes"),
    "budget, never": (lambda nm: charged(nm, 1, 1001), "at least 1001 bytes"),
    "budget, one request": (lambda nm: charged(nm, 1, 600, max_single=0.5), "max_single"),
    "budget, locked": (locked, "before lock"),
    "budget, by the chunk": (
        lambda nm: nm.Slab(upstream=nm.Limited(None, nm.Budget(1000))).alloc(10),
        "charges the 65536 bytes of its next chunk",
    ),
    "no such machine": (lambda nm: nm.System().alloc(1 << 62), "how the size came about"),
}


@pytest.mark.unplanted("looks at whatever error comes")
@pytest.mark.parametrize(("provoke", "says"), SUGGESTIONS.values(), ids=SUGGESTIONS)
def test_the_suggestion_depends_on_the_state(nm: Binding, provoke: Callable[[Binding], object], says: str) -> None:
    """ERR-2"""
    error = refusal(lambda: provoke(nm), NativeMemError)
    assert re.search(says, error.suggestion), error.suggestion
    assert "\n" not in error.suggestion
    if sys.version_info >= (3, 11):
        assert error.__notes__ == [error.suggestion]


# --- the raising itself ---


def raise_each(allocator: Any) -> None:
    for status in (value for name, value in vars(Status).items() if name.isupper() and value != Status.OK):
        with pytest.raises(NativeMemError) as caught:
            raise_status(allocator, status, 30, 20, 40, (30, 16))
        assert type(caught.value) is not NativeMemError
        assert is_one_line(caught.value)


def test_nothing_else_is_raised(allocator: Allocator) -> None:
    """ERR-2: whatever the allocator's own condition."""
    raise_each(allocator)
    in_thread(lambda: raise_each(allocator))
    raise_each(type(allocator).__new__(type(allocator)))
    allocator.close()
    raise_each(allocator)


def test_not_even_by_a_subclass(nm: Binding) -> None:
    """ERR-2"""

    class Odd(nm.Arena):  # type: ignore[misc]
        @property
        def owner(self) -> Any:
            raise LookupError("no")

        @property
        def _core(self) -> Any:
            raise LookupError("no")

    raise_each(Odd.__new__(Odd))


def test_a_refusal_while_its_allocator_goes(nm: Binding) -> None:
    """ERR-2: an error keeps nothing alive but its own numbers."""
    error = refusal(lambda: nm.Arena(hint=10, grow=False).alloc(11), ArenaExhausted)
    error.__traceback__ = None
    gc.collect()
    assert error.state["largest_free"] == 10
    assert not [thing for thing in gc.get_referents(error) if isinstance(thing, Allocator)]
