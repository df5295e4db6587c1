"""LIM and TRACE: what stands in front of another allocator."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from nativemem.allocators.base import Allocator
from nativemem.backends.binding import Binding
from nativemem.errors import (
    ArenaExhausted,
    BudgetExceeded,
    ConfigError,
    InvalidLayout,
    LeakError,
    LifoViolation,
    OutOfMemory,
    StaleHandle,
)
from nativemem.sizes import SIZE_MAX

from .helpers import (
    NOUNS,
    WRAPPED,
    as_owner,
    collect,
    content,
    figures,
    fill,
    in_thread,
    is_one_line,
    make,
    traits_of,
    unchanged,
)


@pytest.fixture(params=NOUNS)
def noun(nm: Binding, request: pytest.FixtureRequest) -> Allocator:
    return make(nm, request.param)


@pytest.fixture(params=WRAPPED)
def wrapper(nm: Binding, request: pytest.FixtureRequest) -> Allocator:
    return make(nm, request.param)


# --- all wrappers ---


def test_size_and_alignment_are_forwarded(wrapper: Allocator) -> None:
    block = wrapper.alloc(100, 256)
    assert (block.size, block.align, block.address % 256) == (100, 256, 0)
    with as_owner(wrapper):
        upstream = wrapper.upstream.alloc(100, 256)
    assert block.usable == upstream.usable
    assert wrapper.upstream.stats.current == 200


def test_counters_at_each_level(wrapper: Allocator) -> None:
    """TRACE-1: a wrapper counts what passes through it."""
    with as_owner(wrapper):
        kept = wrapper.upstream.alloc(7)
    blocks = [wrapper.alloc(n) for n in (10, 20, 30)]
    stats = wrapper.stats
    assert (stats.current, stats.peak, stats.reserved, stats.total) == (60, 60, 60, 60)
    assert (stats.live, stats.count, stats.frees, stats.failures) == (3, 3, 0, 0)
    assert wrapper.upstream.stats.current == 67
    assert wrapper.resize(blocks[-1], 28)
    freed = blocks.pop(-1 if traits_of(wrapper).lifo else 0)
    freed.free()
    left = 58 - freed.size
    stats = wrapper.stats
    assert (stats.current, stats.peak, stats.reserved, stats.total) == (left, 60, left, 60)
    assert (stats.live, stats.count, stats.frees, stats.failures) == (2, 3, 1, 0)
    with as_owner(wrapper):
        wrapper.upstream.alloc(9).free()
    assert wrapper.stats == stats
    assert kept.alive


def test_growth_in_place_is_counted(nm: Binding) -> None:
    for name in ("Limited > Heap", "Traced > Heap"):
        wrapper = make(nm, name)
        block = wrapper.alloc(100)
        assert wrapper.resize(block, 112)
        assert not wrapper.resize(block, 113)
        stats = wrapper.stats
        assert (stats.current, stats.peak, stats.total) == (112, 112, 112)
        assert (stats.live, stats.count, stats.frees, stats.failures) == (1, 1, 0, 0)


def test_wrappers_stack_in_any_order(nm: Binding) -> None:
    budgets = [nm.Budget(10000, name=str(k)) for k in range(2)]
    arena = nm.Arena(upstream=nm.Limited(nm.Traced(nm.System()), budgets[0]))
    chain = nm.Traced(nm.Limited(nm.Traced(arena), budgets[1]))
    with pytest.raises(BudgetExceeded):
        chain.alloc(100)  # the chunk of 64 KiB does not fit
    assert [budget.used for budget in budgets] == [0, 0]
    budgets[0].limit = "1 MiB"
    chain.alloc(100)
    assert budgets[0].used == 65536
    assert chain.describe() == ("Traced > Limited > Traced > Arena > Limited > Traced > System")


@pytest.mark.parametrize("upstream", [3, "System", b"", object(), type])
def test_the_upstream_is_an_allocator(nm: Binding, upstream: object) -> None:
    with pytest.raises(ConfigError, match=r"^limited\.upstream: takes an allocator of the "):
        nm.Limited(upstream, nm.Budget(1))
    with pytest.raises(ConfigError, match=r"^traced\.upstream: takes an allocator of the "):
        nm.Traced(upstream)


def test_an_upstream_of_the_other_backend(both: tuple[Binding, Binding]) -> None:
    for mine, theirs in (both, both[::-1]):
        for build in (mine.Traced, lambda up, mine=mine: mine.Limited(up, mine.Budget(1))):
            with pytest.raises(ConfigError, match=f"of the {mine.name} backend, not System"):
                build(theirs.System())


def test_a_closed_upstream(nm: Binding) -> None:
    system = nm.System()
    system.close()
    with pytest.raises(StaleHandle):
        nm.Traced(system)
    with pytest.raises(StaleHandle):
        nm.Limited(system, nm.Budget(1))


# --- Limited ---


@pytest.mark.parametrize("budget", [None, 100, "1 KiB", object()])
def test_the_budget_is_a_budget(nm: Binding, budget: object) -> None:
    with pytest.raises(ConfigError, match=r"^limited\.budget: takes a Budget of the "):
        nm.Limited(None, budget)


def test_requested_bytes_are_charged(nm: Binding, noun: Allocator) -> None:
    """LIM-1"""
    budget = nm.Budget(1000)
    limited = nm.Limited(noun, budget)
    assert limited.owner is budget
    assert limited.stats.limit == 1000
    block = limited.alloc(100, 64)
    assert (budget.used, limited.stats.current) == (100, 100)
    limited.alloc(0)
    assert budget.used == 100
    block.free()
    assert (budget.used, budget.peak) == (0, 100)
    budget.limit = 500
    assert limited.stats.limit == 500


def test_over_budget(nm: Binding, noun: Allocator) -> None:
    """LIM-1: refused before upstream is asked."""
    limited = nm.Limited(noun, nm.Budget(100, name="cache"))
    kept = limited.alloc(60)
    fill(kept, 1)
    upstream = noun.stats
    with pytest.raises(BudgetExceeded) as caught:
        limited.alloc(41)
    error = caught.value
    assert isinstance(error, MemoryError)
    assert is_one_line(error)
    assert figures(error) == {"requested": 41, "used": 60, "limit": 100, "owner": "cache"}
    assert str(error).startswith("Limited: 41 bytes asked for; budget 'cache' has 60 of 100")
    assert error.suggestion
    assert noun.stats == upstream
    stats = limited.stats
    assert (stats.current, stats.live, stats.count, stats.failures) == (60, 1, 1, 1)
    assert limited.alloc(40).alive
    assert content(kept) == b"\x01" * 60


def test_an_ancestor_refuses(nm: Binding, noun: Allocator) -> None:
    """LIM-1, BUDGET-1"""
    top = nm.Budget(50, name="top")
    limited = nm.Limited(noun, nm.Budget(100, name="leaf", parent=top))
    with pytest.raises(BudgetExceeded) as caught:
        limited.alloc(51)
    assert figures(caught.value) == {"requested": 51, "used": 0, "limit": 50, "owner": "top"}
    assert limited.owner.used == 0


def test_the_inner_of_two_budgets_refuses(nm: Binding, noun: Allocator) -> None:
    """LIM-1: requested, used, limit and owner are those of the budget in the way."""
    inner = nm.Limited(noun, nm.Budget(50, name="inner"))
    outer = nm.Limited(inner, nm.Budget(100, name="outer"))
    block = outer.alloc(20)
    with pytest.raises(BudgetExceeded) as caught:
        outer.alloc(40)
    assert figures(caught.value) == {"requested": 40, "used": 20, "limit": 50, "owner": "inner"}
    assert (outer.owner.used, inner.owner.used) == (20, 20)
    assert (outer.stats.failures, inner.stats.failures, noun.stats.failures) == (1, 1, 0)
    assert (outer.owner.denied, inner.owner.denied) == (0, 1)
    with pytest.raises(BudgetExceeded) as caught:
        outer.alloc(90)
    assert caught.value.state["owner"] == "outer"
    with pytest.raises(BudgetExceeded) as caught:
        outer.alloc(31)
    assert caught.value.state["owner"] == "inner", "not the owner of an older refusal"
    assert block.alive


def test_rollback(nm: Binding) -> None:
    """LAYOUT-5: what upstream refuses is not charged."""
    budget = nm.Budget(SIZE_MAX)
    for upstream, size, error in (
        (nm.System(), SIZE_MAX, OutOfMemory),
        (nm.Heap(), SIZE_MAX, OutOfMemory),
        (nm.Arena(hint=100, grow=False), 101, ArenaExhausted),
        (nm.Slab(upstream=nm.Arena(cap=1000)), 5000, ArenaExhausted),
    ):
        limited = nm.Limited(upstream, budget)
        with pytest.raises(error):
            limited.alloc(size)
        assert budget.used == 0
        stats = limited.stats
        assert (stats.current, stats.live, stats.count, stats.failures) == (0, 0, 0, 1)
        assert upstream.stats.failures == 1
    assert budget.denied == 0


def test_resize_charges_the_difference(nm: Binding) -> None:
    budget = nm.Budget(200)
    limited = nm.Limited(nm.Arena(hint=150, grow=False), budget)
    block = limited.alloc(100)
    assert limited.resize(block, 140) is True
    assert budget.used == 140
    assert limited.resize(block, 30) is True
    assert (budget.used, budget.peak) == (30, 140)
    assert limited.resize(block, 160) is False, "the arena has no room"
    assert (budget.used, block.size, limited.stats.failures) == (30, 30, 0)
    with unchanged(limited.upstream), pytest.raises(BudgetExceeded) as caught:
        limited.resize(block, 231)
    assert caught.value.state["requested"] == 201
    assert (budget.used, block.size, limited.stats.failures, budget.denied) == (30, 30, 1, 1)


def test_blocks_hold_their_budget(nm: Binding) -> None:
    block = nm.Limited(nm.System(), nm.Budget(100, name="held")).alloc(60)
    collect()
    budget = block.owner
    assert (budget.name, budget.used) == ("held", 60)
    del block
    collect()
    assert budget.used == 0


def test_closing_frees_and_releases(nm: Binding, noun: Allocator) -> None:
    limited = nm.Limited(noun, nm.Budget(1000))
    budget = limited.owner
    other = noun.alloc(50)
    blocks = [limited.alloc(n) for n in (1, 20, 300, 0)]
    limited.close()
    assert budget.used == 0
    assert not any(block.alive for block in blocks)
    assert other.alive
    assert not noun.closed
    assert noun.stats.frees == 3


def test_two_in_front_of_one(nm: Binding, noun: Allocator) -> None:
    """Each counts its own; closing one leaves the other alone."""
    one, other = (nm.Limited(noun, nm.Budget(100)) for _ in range(2))
    blocks = [one.alloc(60), other.alloc(70)]
    assert (one.owner.used, other.owner.used, noun.stats.current) == (60, 70, 130)
    one.close()
    assert [block.alive for block in blocks] == [False, True]
    assert other.owner.used == 70
    with unchanged(noun), pytest.raises(BufferError):
        noun.close()
    other.close()
    noun.close()


# --- Traced ---


OVERRIDES: dict[str, Any] = {
    "alloc": lambda self, *args: 1,
    "free": lambda self, block: None,
    "resize": lambda self, block, size: False,
}


def _overriding(cls: Any, name: str, how: str) -> Any:
    """An allocator, one of whose methods is the user's: of its class, of a class beside it, or its own."""
    if how == "class":
        return type("Logged", (cls,), {name: OVERRIDES[name]})
    if how == "mixin":
        return type("Logged", (type("Mixin", (), {name: OVERRIDES[name]}), cls), {})

    def made(*args: Any) -> Any:
        one = type("Logged", (cls,), {})(*args)
        setattr(one, name, OVERRIDES[name])
        return one

    return made


@pytest.mark.parametrize("name", OVERRIDES)
@pytest.mark.parametrize("how", ["class", "mixin", "object"])
def test_an_upstream_with_methods_of_its_own(nm: Binding, name: str, how: str) -> None:
    """PORT-8: they would not be called, so it is refused wherever memory would be taken from below them."""
    heap, budget = nm.Heap(), nm.Budget(10_000)
    allocators = [_overriding(nm.Heap, name, how)(), _overriding(nm.Limited, name, how)(heap, budget)]
    for odd in allocators:
        for cls, args in (
            *((nm.Limited, (odd, budget)), (nm.Traced, (odd,)), (nm.Failing, (odd,)), (nm.Locked, (odd,))),
            *((nm.Arena, (64, None, True, False, odd)), (nm.Stack, (100, odd)), (nm.Pool, (16, 2, False, odd))),
            *((nm.Slab, ((32,), False, odd)), (nm.TypedArena, ("d", 64, None, False, odd))),
        ):
            with unchanged(odd), pytest.raises(ConfigError, match=rf"with its own {name}, which Logged overrides"):
                cls(*args)
        assert odd.closed or odd.close() is None


def test_a_subclass_is_as_good_as_its_class(nm: Binding) -> None:
    """PORT-8: as long as alloc, free and resize are those that they were."""

    class Named(nm.Heap):  # type: ignore[name-defined, misc]
        """A user's."""

        def describe(self) -> str:
            """Another name."""
            return "named " + super().describe()

    limited = nm.Limited(Named(), nm.Budget(100))
    assert limited.alloc(100).size == 100 and limited.upstream.describe() == "named Named"


@pytest.mark.parametrize("histogram", [1, "yes", 0.0])
def test_histogram_is_a_bool(nm: Binding, histogram: object) -> None:
    with pytest.raises(ConfigError, match=r"^traced\.histogram: takes True or False"):
        nm.Traced(None, histogram=histogram)


def test_failures_are_counted(nm: Binding) -> None:
    """TRACE-1"""
    traced = nm.Traced(nm.Arena(hint=100, grow=False))
    block = traced.alloc(100)
    for _ in range(3):
        with pytest.raises(ArenaExhausted):
            traced.alloc(1)
    assert block.alive
    stats = traced.stats
    assert (stats.failures, stats.live, stats.count, stats.total) == (3, 1, 1, 100)


def test_refused_layouts_are_no_failures(nm: Binding) -> None:
    traced = nm.Traced(nm.System())
    with unchanged(traced), pytest.raises(InvalidLayout):
        traced.alloc(-1)


def test_leaks(nm: Binding, noun: Allocator) -> None:
    """TRACE-3: those of this wrapper, largest first, any time."""
    traced = nm.Traced(noun)
    assert traced.leaks() == []
    noun.alloc(1000)
    blocks = [traced.alloc(n) for n in (300, 10, 20, 400)]
    assert traced.leaks() == [blocks[3], blocks[0], blocks[2], blocks[1]]
    blocks[3].free()
    assert [block.size for block in traced.leaks()] == [300, 20, 10]


def test_closing_with_live_blocks(nm: Binding, noun: Allocator) -> None:
    """TRACE-3: the leak is reported, everything stays as it is."""
    traced = nm.Traced(noun)
    blocks = [traced.alloc(1000), traced.alloc(536)]
    with unchanged(traced), pytest.raises(LeakError) as caught:
        traced.close()
    error = caught.value
    assert isinstance(error, RuntimeError)
    assert str(error) == "Traced: 2 live blocks of 1.5 KiB in all"
    assert error.state == {"blocks": 2, "used": 1536}
    assert all(block.alive for block in blocks)
    blocks.pop().free()
    with pytest.raises(LeakError, match="^Traced: 1 live block of "):
        traced.close()
    blocks.pop().free()
    traced.close()
    assert traced.closed


def test_leaving_the_context_with_live_blocks(nm: Binding) -> None:
    """TRACE-3"""
    with pytest.raises(LeakError), nm.Traced(nm.System()) as traced:
        block = traced.alloc(10)
    assert block.alive
    assert not traced.closed


def test_a_leak_does_not_mask_an_exception(nm: Binding) -> None:
    """TRACE-3"""
    with pytest.raises(KeyError), nm.Traced(nm.System()) as traced:
        block = traced.alloc(10)
        raise KeyError
    assert block.alive


def test_what_only_a_cycle_has_is_no_leak(nm: Binding) -> None:
    """TRACE-3: garbage is collected before it is called a leak, and only then."""
    with nm.Traced(nm.Heap(), stacks=2) as traced:
        cycle = [traced.alloc(100)]
        cycle.append(cycle)
        del cycle
        assert traced.stats.live == 1
    traced, other = nm.Traced(), nm.Traced()
    collections: list[str] = []
    note = lambda phase, info: collections.append(phase)  # noqa: E731
    gc.callbacks.append(note)
    try:
        other.close()
        assert collections == []
        kept = traced.alloc(10)
        with pytest.raises(LeakError):
            traced.close()
        assert collections == ["start", "stop"] and kept.alive
    finally:
        gc.callbacks.remove(note)


def test_a_finaliser_that_closes(nm: Binding) -> None:
    """TRACE-3"""
    traced = nm.Traced(nm.Heap())

    class Closes:
        """Has the last block, in a cycle."""

        def __init__(self) -> None:
            self.me, self.block = self, traced.alloc(10)

        def __del__(self) -> None:
            self.block.free()
            traced.close()

    Closes()
    traced.close()
    assert traced.closed


def test_an_empty_block_is_no_leak(nm: Binding) -> None:
    traced = nm.Traced(nm.System())
    block = traced.alloc(0)
    traced.close()
    assert not block.alive


def test_percentiles(nm: Binding, noun: Allocator) -> None:
    """TRACE-4: of all blocks so far, by nearest rank."""
    traced = nm.Traced(noun, histogram=True)
    assert traced.percentiles() is None
    traced.alloc(0)
    assert traced.percentiles() is None
    blocks = [traced.alloc(8) for _ in range(90)] + [traced.alloc(1000) for _ in range(9)]
    assert traced.percentiles() == {50: 8, 90: 8, 99: 1024}
    del blocks
    collect()
    traced.alloc(5000)
    assert traced.percentiles() == {50: 8, 90: 8, 99: 1024}
    traced.alloc(5000)
    assert traced.percentiles() == {50: 8, 90: 1024, 99: 5120}


@pytest.mark.parametrize(
    ("size", "bucket"),
    [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 6), (7, 7), (8, 8), (9, 10), (10, 10), (11, 12)]
    + [(16, 16), (17, 20), (20, 20), (21, 24), (32, 32), (33, 40), (100, 112), (112, 112)]
    + [(113, 128), (128, 128), (129, 160), (1000, 1024), (65536, 65536), (65537, 81920)],
)
def test_buckets(nm: Binding, size: int, bucket: int) -> None:
    """TRACE-4: four for each doubling, so at most a quarter too large."""
    traced = nm.Traced(nm.System(), histogram=True)
    traced.alloc(size)
    assert traced.percentiles() == {50: bucket, 90: bucket, 99: bucket}
    assert size <= bucket <= size * 1.25


def test_percentiles_are_off_by_default(nm: Binding) -> None:
    """TRACE-4"""
    traced = nm.Traced(nm.System())
    traced.alloc(8)
    with pytest.raises(ConfigError, match=r"^traced\.histogram: .*histogram=True"):
        traced.percentiles()


def test_latencies(nm: Binding) -> None:
    """TRACE-4"""
    traced = nm.Traced(nm.System(), histogram=True)
    assert traced.latencies() is None
    for _ in range(50):
        traced.alloc(100)
    nanoseconds = traced.latencies()
    assert list(nanoseconds) == [50, 90, 99]
    assert 1 <= nanoseconds[50] <= nanoseconds[90] <= nanoseconds[99] < 10**10
    with pytest.raises(ConfigError):
        nm.Traced(None).latencies()


@pytest.mark.parametrize("noun", ["System", "Arena", "Pool", "Slab", "Heap"])
def test_zero_on_free(nm: Binding, noun: str) -> None:
    """TRACE-5: a block is wiped before upstream has it back; here upstream gives the same memory again."""
    below = NOUNS[noun](nm)
    traced = nm.Traced(below, zero_on_free=True)
    block = traced.alloc(100)
    fill(block, 7)
    address = block.address
    traced.resize(block, 90)
    block.free()
    if nm.name == "native" and noun not in ("Arena", "System"):
        again = traced.alloc(100)
        assert again.address == address
        assert content(again)[16:90] == bytes(74)  # the first bytes hold a free cell's link


def test_what_is_refused_is_not_wiped(nm: Binding) -> None:
    """TRACE-5"""
    traced = nm.Traced(nm.Stack(1000), zero_on_free=True)
    first, second = traced.alloc(40), traced.alloc(50)
    fill(first, 7)
    with pytest.raises(LifoViolation):
        first.free()
    assert content(first) == b"\x07" * 40
    second.free()
    first.free()


def test_threads_are_counted_exactly(nm: Binding) -> None:
    """TRACE-1, TRACE-7: whichever thread frees what, and also of threads that have ended."""
    traced = nm.Traced(nm.Heap())
    with ThreadPoolExecutor(4) as pool:
        batches = pool.map(lambda n: [traced.alloc(n) for _ in range(100)], (10, 20, 30, 40))
        kept = [block for blocks in batches for block in blocks]
    stats = traced.stats
    assert (stats.current, stats.live, stats.count, stats.total) == (10_000, 400, 400, 10_000)
    in_thread(lambda: [block.free() for block in kept[::2]])
    stats = traced.stats
    assert (stats.current, stats.live, stats.frees) == (5_000, 200, 200)
    for block in kept[1::2]:
        block.free()
    stats = traced.stats
    assert (stats.current, stats.live, stats.frees, stats.count) == (0, 0, 400, 400)
    assert stats.peak >= 10_000


def test_the_latest_denial_names_the_owner(nm: Binding) -> None:
    """LIM-1: also where another budget of the chain once refused the same for the same reason."""
    inner, outer = nm.Budget(100, "inner"), nm.Budget(100, "outer")
    limited = nm.Limited(nm.Limited(None, inner), outer)
    for expected in ("outer", "inner"):
        with pytest.raises(BudgetExceeded) as caught:
            limited.alloc(101)
        assert caught.value.state["owner"] == expected
        outer.limit = 101
