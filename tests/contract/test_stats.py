"""OBS: counters, exactly, and what allocators say about themselves."""

from __future__ import annotations

import dataclasses

import pytest

from nativemem.allocators.base import Allocator, Stats
from nativemem.backends.binding import Binding

from .helpers import CHAINS, chain_to_noun, make, noun_of, traits_of


def exact(stats: Stats) -> dict[str, int | None]:
    """Every field that is promised to the byte."""
    fields = dataclasses.asdict(stats)
    del fields["reserved"], fields["limit"], fields["largest_free"]
    return fields


def test_a_new_allocator(allocator: Allocator) -> None:
    stats = allocator.stats
    assert set(exact(stats).values()) == {0}
    noun = noun_of(allocator)
    if type(noun).__name__ != "Heap":
        assert stats.reserved == (traits_of(allocator).eager if noun is allocator else 0)


def test_a_life(allocator: Allocator) -> None:
    """TRACE-1, OBS-1: each counter after each call."""
    traits = traits_of(allocator)
    keeps = traits.keeps_freed and noun_of(allocator) is allocator
    links = chain_to_noun(allocator)

    def are(current: int, peak: int, total: int, live: int, count: int, frees: int) -> None:
        expected = Stats(current, peak, 0, None, total, live, count, frees, 0)
        assert exact(allocator.stats) == exact(expected)
        for link in links:
            assert link.stats.current <= link.stats.peak <= link.stats.total
            assert link.stats.count == count
            assert link.stats.frees == frees

    one = allocator.alloc(100)
    are(100, 100, 100, 1, 1, 0)
    other = allocator.alloc(200, 64)
    are(300, 300, 300, 2, 2, 0)
    empty = allocator.alloc(0)
    are(300, 300, 300, 2, 2, 0)
    assert allocator.resize(other, 195)
    are(295, 300, 300, 2, 2, 0)
    first, last = (other, one) if traits.lifo else (one, other)
    first.free()
    left = 295 if keeps else 295 - first.size
    are(left, 300, 300, 2 if keeps else 1, 2, 1)
    empty.free()
    more = allocator.alloc(150)
    peak = max(300, left + 150)
    are(left + 150, peak, 450, 3 if keeps else 2, 3, 1)
    more.free()
    last.free()
    are(445, 445, 450, 3, 3, 3) if keeps else are(0, peak, 450, 0, 3, 3)


def test_used_fits_into_reserved(allocator: Allocator) -> None:
    """Reserved bytes are bounded, not exact: at least what is used."""
    blocks = []
    for n in range(200):
        blocks.append(allocator.alloc(n * 7 + 1))
        if n % 3 == 0:
            blocks.pop(-1 if traits_of(allocator).lifo else n // 3).free()
        stats = allocator.stats
        assert stats.current <= stats.reserved
        assert stats.current <= stats.peak


def test_limits(nm: Binding) -> None:
    """None where there is none."""
    assert nm.System().stats.limit is None
    assert nm.Slab().stats.limit is None
    assert nm.Heap().stats.limit is None
    assert nm.Traced().stats.limit is None
    assert nm.Arena().stats.limit is None
    assert nm.Arena(cap=5000).stats.limit == 5000
    assert nm.Arena(hint=100, grow=False).stats.limit == 100
    assert nm.Stack(1000).stats.limit == 1000
    assert nm.Pool(100, 10).stats.limit == 1120
    assert nm.Pool(100, 10, grow=True).stats.limit is None
    assert nm.Limited(None, nm.Budget(77)).stats.limit == 77


def test_stats_are_a_frozen_moment(allocator: Allocator) -> None:
    before = allocator.stats
    block = allocator.alloc(10)
    assert before.current == 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        before.current = 3
    assert allocator.stats != before
    assert allocator.stats == allocator.stats
    block.free()


@pytest.mark.unplanted("names all that is in the chain")
@pytest.mark.parametrize("chain", CHAINS)
def test_describe(nm: Binding, chain: str) -> None:
    allocator = make(nm, chain)
    chain = chain.replace("Secure heap", "Heap")
    bottom = "" if chain.endswith(("System", "Heap")) else " > System"
    assert allocator.describe() == chain + bottom
    allocator.close()
    assert allocator.describe() == chain + bottom


def test_repr(allocator: Allocator) -> None:
    name = type(allocator).__name__
    assert repr(allocator) == f"<{name} 0 B in 0 blocks, peak 0 B>"
    block = allocator.alloc(2048)
    assert repr(allocator) == f"<{name} 2.0 KiB in 1 blocks, peak 2.0 KiB>"
    block.free()


def test_upstream_and_generation_are_read_only(allocator: Allocator) -> None:
    for name in ("upstream", "generation", "closed", "stats", "owner"):
        before = getattr(allocator, name)
        with pytest.raises(AttributeError):
            setattr(allocator, name, None)
        assert getattr(allocator, name) == before


def test_no_new_attributes(allocator: Allocator) -> None:
    """A misspelt name is an error; a subclass may have attributes."""
    with pytest.raises(AttributeError):
        allocator.histogramm = True
