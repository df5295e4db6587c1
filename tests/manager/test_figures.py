"""Figures in what a manager and its providers tell: each by its value, after a story that tells them apart."""

from __future__ import annotations

from typing import Any

import pytest

from nativemem.backends.binding import Binding
from nativemem.errors import BudgetExceeded, CapacityExceeded, ConfigError, OutOfBounds
from nativemem.manager import CappedProvider, MemoryManager, StaticProvider, StdProvider
from nativemem.manager.manager import OwnerStats
from nativemem.manager.provider import ProviderStats


def state_of(error: Any, *keys: str) -> tuple[Any, ...]:
    return tuple(error.state[key] for key in keys)


SPACE = ("requested", "used", "limit", "capacity", "available", "utilization")


def test_the_counters_of_a_manager(nm: Binding) -> None:
    """MGR-1"""
    m = MemoryManager(
        {"decoder": 1000, "cache": {"limit": 2000, "warn": 0.5}}, total=10_000,
        thresholds={"small": 100, "medium": 200, "large": 300}, upstream=nm.Heap(),
    )  # fmt: skip
    sizes = (100, 60, 101, 301, 302, 303)
    blocks = [m.allocate("cache", size) for size in sizes] + [m.allocate("decoder", 300)]
    m.deallocate(blocks.pop(1))
    for owner, size in (("cache", 894), ("decoder", 701), ("decoder", 1 << 40)):
        with pytest.raises(BudgetExceeded):
            m.allocate(owner, size)
    loan = m.lend("decoder", "cache", 400)
    stats = m.stats
    assert stats.owners == {
        "decoder": OwnerStats(used=300, peak=300, limit=600, lent=400, denied=2, pressure="normal"),
        "cache": OwnerStats(used=1107, peak=1167, limit=2400, lent=0, denied=1, pressure="normal"),
    }
    assert stats.total == OwnerStats(used=1407, peak=1467, limit=10_000, lent=0, denied=0, pressure="normal")
    assert stats.providers == {"small": 1, "medium": 1, "large": 1, "heap": 3}
    assert m.report() == (
        "owner         used      peak     limit  denied  pressure\n"
        "total      1.4 KiB   1.4 KiB   9.8 KiB       0  normal\n"
        "cache      1.1 KiB   1.1 KiB   2.3 KiB       1  normal\n"
        "decoder      300 B     300 B     600 B       2  normal\n"
        "blocks: 1 small, 1 medium, 1 large, 3 heap; verification off: 0 checks, 0 failures"
    )
    loan.settle()
    assert m.stats.owners["cache"].limit == 2000 and m.stats.owners["cache"].pressure == "warn"


def test_what_a_refusal_of_a_manager_tells(nm: Binding) -> None:
    """MGR-3: the figures of the owner that has no room, and of what would have to change."""
    m = MemoryManager(
        {"a": 1000, "b": {"limit": 500, "lends_to": []}}, upstream=nm.Heap(), above="error",
        thresholds={"small": 10, "medium": 20, "large": 300},
    )  # fmt: skip
    block = m.allocate("a", 250)
    with pytest.raises(BudgetExceeded) as refused:
        m.borrow("a", 400)
    assert state_of(refused.value, *SPACE, "owner") == (400, 250, 1000, 1000, 750, 0.25, "a")
    with pytest.raises(CapacityExceeded) as too_large:
        m.allocate("a", 301)
    assert state_of(too_large.value, *SPACE) == (301, 0, 300, 300, 300, 0.0)
    assert "above='heap'" in too_large.value.suggestion
    m = MemoryManager({f"owner {n}": 10 for n in range(12)}, policy="strict", upstream=nm.Heap())
    with pytest.raises(ConfigError) as unknown:
        m.owner("none")
    assert str(unknown.value).count("owner 9") == 1 and "owner 10" not in str(unknown.value)
    assert block.alive


def test_the_lender_with_the_most_to_spare(nm: Binding) -> None:
    """MGR-1: what it has to keep does not count, and what is in use does not."""
    owners = {"needy": 100, "kept": {"limit": 1000, "minimum": 900}, "small": 400, "used": 2000, "rich": 800}
    m = MemoryManager(owners, upstream=nm.Heap())
    block = m.allocate("used", 1700)
    loans = [m.borrow("needy", n) for n in (50, 50, 360, 250, 20, 250, 100)]
    assert [loan.lender.name for loan in loans] == ["rich", "rich", "rich", "small", "rich", "rich", "used"]
    assert (m.owner("needy").limit, block.alive) == (1180, True)


def test_the_counters_of_a_provider(nm: Binding) -> None:
    """PROV-1"""
    heap = nm.Heap()
    provider = StdProvider(upstream=heap)
    provider.resize(100)
    for offset, length in ((0, 10), (0, 10), (4, 30), (90, 10)):
        provider.read_bytes(offset, length)
    assert provider.stats == ProviderStats(100, provider.capacity, None, accesses=4, regions=3, largest=30)
    capped = CappedProvider(64, upstream=heap)
    capped.write_bytes(0, b"x" * 10)
    assert capped.stats == ProviderStats(10, capped.capacity, 64) and 10 <= capped.capacity <= 64
    static = StaticProvider(64, upstream=heap)
    static.write_bytes(3, b"x" * 10)
    assert static.stats == ProviderStats(13, 64, 64)
    assert repr(static) == "<StaticProvider 13 of 64 bytes>"
    for each in (capped, static):
        used = len(each)
        with pytest.raises(CapacityExceeded, match="up to byte 65, beyond the 64") as full:
            each.write_bytes(used, bytes(65 - used))
        requested, available = 65 - used, 64 - used
        assert state_of(full.value, *SPACE) == (requested, used, 64, 64, available, used / 64)
        each.write_bytes(used, bytes(64 - used))  # just as much as there may be
        assert len(each) == 64
        with pytest.raises(OutOfBounds):
            each.read_bytes(60, 5)
        assert each.read_bytes(60, 4) == bytes(4)
