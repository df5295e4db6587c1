"""MGR: figures, words, defaults and ways of making of a manager, one by one."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nativemem.backends.binding import Binding
from nativemem.errors import BudgetExceeded, CapacityExceeded, ConfigError, ForeignBlock, InvalidLayout, StaleHandle
from nativemem.manager import Level, MemoryManager, Verification
from nativemem.manager import manager as module
from nativemem.manager.manager import ManagerStats, OwnerStats

KIB, MIB = 1 << 10, 1 << 20


def made(nm: Binding, *args: Any, **rest: Any) -> MemoryManager:
    return MemoryManager(*args, **{"upstream": nm.Heap(), **rest})


def test_what_an_owner_is_made_with(nm: Binding) -> None:
    """Its budget has what its configuration says; one that is made when it is asked for the total as its limit."""
    own = {"limit": 1000, "minimum": 100, "warn": 0.5, "critical": 0.75, "lends_to": ["b"]}
    m = made(nm, {"a": own, "b": 500}, 5000, auto_rebalance=True)
    one, other, new = m.owner("a"), m.owner("b"), m.owner("new")
    assert (one.limit, one.minimum, one.name, one.parent) == (1000, 100, "a", m.total)
    assert (other.limit, other.minimum, new.limit, new.parent) == (500, 0, 5000, m.total)
    assert m.owner("new") is new and list(m.owners) == ["a", "b", "new"] and m.owners["new"] is new
    assert (m.total.limit, m.total.name, m.total.parent) == (5000, "total", None)
    levels = []
    for used in (499, 1, 250):
        one.try_reserve(used)
        levels.append(str(one.pressure))
    assert levels == ["normal", "warn", "critical"]
    with pytest.raises(BudgetExceeded, match="may not lend"):
        m.lend("a", "new", 1)
    with m.lend("a", "b", 1), m.lend("b", "new", 1):
        assert (one.limit, other.limit) == (999, 500)


@pytest.mark.parametrize("rebalances", [True, False])
def test_rebalancing_by_itself(nm: Binding, rebalances: bool) -> None:
    m = made(nm, {"a": 1000, "b": 1000}, auto_rebalance=rebalances)
    if rebalances:
        assert m.allocate("a", 1500).size == 1500
    else:
        with pytest.raises(BudgetExceeded):
            m.allocate("a", 1500)
        assert m.rebalance() == []


def test_where_blocks_come_from(nm: Binding) -> None:
    """A heap of the manager's own, and above large ones the system; or what it is given."""
    own = MemoryManager({"a": "8 MiB"})
    sources = own._sources
    assert sources[0] is sources[1] is sources[2] is not sources[3]
    assert sources[3] is own._binding.default_system
    heap = nm.Heap()
    given = MemoryManager({"a": "8 MiB"}, upstream=heap)
    assert given._sources == (heap,) * 4 and given._binding.name == nm.name
    blocks = [given.allocate("a", n) for n in (8192, 8193, 65_536, 65_537, MIB, MIB + 1)]
    kinds = ["small", "medium", "medium", "large", "large", "heap"]
    assert [block.allocator.provider for block in blocks] == kinds
    assert all(block.allocator.manager is given and block.allocator.owner_name == "a" for block in blocks)
    assert blocks[1].allocator is blocks[2].allocator and type(blocks[0].allocator).__name__ == "Managed"
    assert given.stats.providers == {"small": 1, "medium": 2, "large": 2, "heap": 1}
    arena = nm.Arena()
    with pytest.raises(ConfigError) as caught:
        MemoryManager(total=1, upstream=nm.Traced(arena))
    assert str(caught.value) == (
        f"manager.upstream: takes an allocator that any thread may use, not {nm.Traced(arena).describe()}"
    )
    assert caught.value.suggestion == "put a Locked in front of it"


def test_a_closed_upstream(nm: Binding) -> None:
    heap = nm.Heap()
    heap.close()
    with pytest.raises(StaleHandle, match="^manager.upstream: Heap is closed"):
        MemoryManager(total=1, upstream=heap)


def test_blocks_above_the_largest(nm: Binding) -> None:
    m = made(nm, {"a": 1000}, thresholds={"small": 1, "medium": 2, "large": 3}, above="error")
    kept = [m.allocate("a", n) for n in (0, 1, 2, 3)]
    assert [block.allocator.provider for block in kept] == ["small", "small", "medium", "large"]
    with pytest.raises(CapacityExceeded) as caught:
        m.allocate("a", 4)
    assert str(caught.value) == "manager.allocate: 4 bytes, and blocks have 3 at most"
    assert caught.value.suggestion == "ask for smaller pieces, or have above='heap'"
    state = caught.value.state
    assert (state["requested"], state["used"], state["limit"]) == (4, 0, 3) and m.total.used == 6


def test_zeros_where_they_are_asked_for(nm: Binding) -> None:
    m = made(nm, {"a": 10_000})
    block = m.allocate("a", 64, 32)
    with memoryview(block) as view:
        view[:] = b"x" * 64
    assert block.address % 32 == 0
    m.deallocate(block)
    for _ in range(3):
        again = m.allocate("a", 64, 32, zero=True)
        assert bytes(again) == bytes(64)
        with memoryview(again) as view:
            view[:] = b"y" * 64
        m.deallocate(again)


def test_owners_and_blocks_that_are_none(nm: Binding) -> None:
    m = made(nm, {f"o{n}": 10 for n in range(12)}, policy="strict")
    with pytest.raises(ConfigError) as caught:
        m.owner("x")
    known = ", ".join(f"o{n}" for n in range(10))
    assert str(caught.value) == f"manager.owner: there is no owner 'x'; there are {known}"
    with pytest.raises(ConfigError, match="^manager.owner: there is no owner 'x'; there are none"):
        made(nm, total=10, policy="strict").owner("x")
    for name in ("", None, 3, ["a"], b"o0"):
        for call in (m.owner, lambda n: m.allocate(n, 1), lambda n: m.provider(n), lambda n: m.lend("o0", n, 1)):
            with pytest.raises(ConfigError, match="^manager.owner: takes a name, not "):
                call(name)
    other = made(nm, {"a": 10}).allocate("a", 1)
    with pytest.raises(ForeignBlock) as foreign:
        m.deallocate(other)
    assert str(foreign.value).startswith("manager.deallocate: the block is not one of this manager's, but of ")
    for thing, kind in (
        (None, "NoneType"),
        (b"x", "bytes"),
        (SimpleNamespace(allocator=other.allocator), "SimpleNamespace"),
    ):
        with pytest.raises((TypeError, ForeignBlock)) as wrong:
            m.deallocate(thing)
        assert str(wrong.value) == f"manager.deallocate: takes a Block, not {kind}"
    for size in ("x", "-1 B", None, 1.0):
        with pytest.raises(InvalidLayout, match="^manager.allocate: size"):
            m.allocate("o0", size)  # type: ignore[arg-type]
    assert m.total.used == 0 and other.alive


def test_from_whom_to_borrow(nm: Binding) -> None:
    """The one with the most to spare beyond its minimum that may lend so much; or the one that is named."""
    m = made(
        nm,
        {
            "poor": 100,
            "much": {"limit": 1000, "minimum": 800},
            "more": 500,
            "most": {"limit": 2000, "lends_to": ["more"]},
        },
    )
    with m.borrow("poor", 400) as loan:
        assert (loan.lender.name, m.owner("poor").limit) == ("more", 500)
        with m.borrow("poor", 200) as second:
            assert second.lender.name == "much"
        with pytest.raises(BudgetExceeded) as caught:
            m.borrow("poor", 201)
    assert str(caught.value) == "manager.borrow: no owner has 201 bytes that it may lend to 'poor'"
    assert str(caught.value.suggestion).startswith("ask for less, or free what an owner has in use; lends_to names")
    state = caught.value.state
    assert (state["requested"], state["used"], state["limit"], state["owner"]) == (201, 0, 500, "poor")
    with m.borrow("poor", "100 B", "much") as loan, m.borrow("poor", "1 B") as other:
        assert (loan.lender.name, other.lender.name) == ("much", "more")
    with pytest.raises(BudgetExceeded, match="may not lend"):
        m.borrow("poor", 1, "most")
    with m.borrow("more", 1500) as loan:
        assert loan.lender.name == "most"
    with pytest.raises(InvalidLayout, match="^manager.borrow: size"):
        m.borrow("poor", "x")
    with pytest.raises(BudgetExceeded, match="no owner has 1 bytes"):
        made(nm, {"alone": 10}).borrow("alone", 1)


def test_figures_of_a_manager(nm: Binding) -> None:
    m = made(nm, {"a": 1000, "b": {"limit": 2000, "warn": 0.1}}, 4000, verification="basic")
    first, second = m.allocate("a", 100), m.allocate("b", 300)
    with pytest.raises(BudgetExceeded):
        m.allocate("a", 5000)
    m.deallocate(first)
    with m.lend("b", "a", 50):
        stats = m.stats
    assert stats == ManagerStats(
        OwnerStats(300, 400, 4000, 0, 0, "normal"),
        {"a": OwnerStats(0, 100, 1050, 0, 1, "normal"), "b": OwnerStats(300, 300, 1950, 50, 0, "warn")},
        {"small": 1, "medium": 0, "large": 0, "heap": 0},
        m.verification.stats,
    )
    assert m.report().splitlines() == [
        "owner       used      peak     limit  denied  pressure",
        "total      300 B     400 B   3.9 KiB       0  normal",
        "b          300 B     300 B   2.0 KiB       0  warn",
        "a            0 B     100 B    1000 B       1  normal",
        "blocks: 1 small, 0 medium, 0 large, 0 heap; verification basic: 0 checks, 0 failures",
    ]
    assert repr(m) == "<MemoryManager permissive, 300 B of 3.9 KiB for 2 owners>" and second.alive
    with pytest.raises(TypeError, match="^cannot copy or pickle 'MemoryManager': memory has one owner$"):
        copy.copy(m)
    wide = made(nm, {"a-long-name": 1}).report().splitlines()
    assert wide[0].startswith("owner             used") and wide[1].startswith("total              0 B")


def test_what_collections_take(nm: Binding) -> None:
    m = made(nm, {"a": "64 KiB"})
    for kind, formats in (
        ("list", "one format"),
        ("map", "a pair of formats, of keys and of values"),
        ("bitset", "no format"),
    ):
        wrong = "i" if kind in ("bitset", "map") else None
        with pytest.raises(ConfigError) as caught:
            m.collection(kind, 9, wrong, "a")
        assert str(caught.value) == f"manager.collection: a {kind} takes {formats}, not {wrong!r}"
    with pytest.raises(ConfigError) as caught:
        m.collection("tree", 9, None, "a")
    assert str(caught.value) == (
        "manager.collection: takes list, stack, queue, deque, set, map, bitset, string, not 'tree'"
    )
    assert m.collection("list", 9, ("i",), "a").item_format == "i"
    assert m.collection("string", 9).owner.name == __name__.partition(".")[0]
    assert m.collection("bitset", 9, (), "a").owner is m.owner("a")
    assert m._contents("a") is m._contents("a")
    assert m.provider("a").limit in (None, 64 << 10) and m.provider("a", 10, "alloc").limit == 10


@pytest.mark.parametrize("tier", ["std", "alloc", "static"])
def test_tiers_of_a_manager(nm: Binding, tier: str) -> None:
    m = made(nm, {"a": "1 MiB"}, tier=tier)
    assert m.provider("a").tier == tier and m.provider("a", 10, "std").tier == "std"
    assert m.provider("a", tier="static").capacity == 64 << 10


def test_ways_of_making_one(nm: Binding, tmp_path: Path) -> None:
    """The verification and the upstream that are given replace what is written down."""
    file = tmp_path / "m.toml"
    file.write_text('total = 9\nverification = "full"\nowners = {a = 5}\n', encoding="utf-8")
    heap = nm.Heap()
    assert MemoryManager.from_toml(file).verification.level is Level.FULL
    other = MemoryManager.from_toml(file, upstream=heap, verification="basic")
    assert (other._sources[0], other.verification.level, other.owner("a").limit) == (heap, Level.BASIC, 5)
    for verification in (Verification("basic"), "off"):
        m = MemoryManager.preset("embedded", total=50, upstream=heap, verification=verification)
        assert m.total.limit == 50 and m._sources[0] is heap
        assert m.verification is verification or m.verification.level is Level.OFF
    assert MemoryManager.preset("embedded").verification.level is Level.STANDARD
    assert type(MemoryManager(total=1)) is MemoryManager is type(MemoryManager(total=1, verification="off"))
    assert type(MemoryManager(total=1, verification="basic")) is not MemoryManager

    class Mine(MemoryManager):
        pass

    assert type(Mine.preset("desktop")) is Mine and isinstance(Mine.from_toml(file), Mine)
    for name in ("pc", 3, None, ""):
        with pytest.raises(ConfigError, match="^manager.preset: takes embedded, desktop, server, not "):
            MemoryManager.preset(name)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="^manager.total: "):
        MemoryManager(total=0)
    assert MemoryManager.from_env({"NATIVEMEM_LIMIT": "1 KiB"}).total.limit == 1024


def test_the_default_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made when it is asked for first, of the environment; once."""
    monkeypatch.setattr(MemoryManager, "_default", None)
    monkeypatch.setenv("NATIVEMEM_MANAGER", "server")
    monkeypatch.setenv("NATIVEMEM_LIMIT", "3 KiB")
    one = MemoryManager.default()
    assert (one.policy, one.total.limit) == ("strict", 3072)
    monkeypatch.setenv("NATIVEMEM_MANAGER", "desktop")
    assert MemoryManager.default() is one


def test_after_a_lock(nm: Binding) -> None:
    for policy in ("permissive", "strict", "safety-critical"):
        m = made(nm, {"a": 1000}, policy=policy)
        kept = m.allocate("a", 10)
        assert m.locked is False
        m.lock()
        assert m.locked is True and m.policy == policy
        with pytest.raises(BudgetExceeded):
            m.allocate("a", 1)
        m.deallocate(kept)


def test_the_largest_single_request(nm: Binding) -> None:
    m = made(nm, {"a": 1000}, policy="safety-critical")
    assert module.MAX_SINGLE == 0.1 and m.allocate("a", 100).size == 100
    with pytest.raises(BudgetExceeded):
        m.allocate("a", 101)
    for policy in ("permissive", "strict"):
        assert made(nm, {"a": 1000}, policy=policy).allocate("a", 1000).size == 1000
