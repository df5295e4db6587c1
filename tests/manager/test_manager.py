"""MGR: one entry point, budgets, providers by size, policies, presets."""

from __future__ import annotations

import contextlib
import gc
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nativemem import manager as room
from nativemem.backends.binding import Binding
from nativemem.errors import (
    BudgetExceeded,
    CapacityExceeded,
    ConfigError,
    DoubleFree,
    ForeignBlock,
    InvalidLayout,
    LendTimeout,
    LoanOutstanding,
    OutOfMemory,
)
from nativemem.manager import Level, MemoryManager, Provider

KIB, MIB = 1 << 10, 1 << 20
Manager = Callable[..., MemoryManager]


@pytest.fixture
def manager(nm: Binding) -> Manager:
    """Makes a manager on the backend."""
    return lambda *args, **rest: MemoryManager(*args, **{"upstream": nm.Heap(), **rest})


def test_at_most_twelve_public_names() -> None:
    """MGR-1"""
    assert len(room.__all__) <= 12
    assert all(getattr(room, name).__doc__ for name in room.__all__)


def test_allocate_and_deallocate(manager: Manager, level: Level) -> None:
    """MGR-1 MGR-3"""
    m = manager({"decoder": "512 KiB", "cache": 1000}, total="1 MiB", verification=level)
    block = m.allocate("decoder", "1 KiB", 64, zero=True)
    assert (block.size, block.address % 64, bytes(block)) == (1024, 0, bytes(1024))
    assert (block.owner, block.owner.name, m.owner("decoder")) == (m.owners["decoder"], "decoder", block.owner)
    other = m.allocate("cache", 1000)
    assert (m.total.used, m.owner("decoder").used, m.owner("cache").used) == (2024, 1024, 1000)
    m.deallocate(block)
    m.deallocate(other)
    assert (m.total.used, m.total.peak, m.owner("decoder").peak) == (0, 2024, 1024)
    with pytest.raises(DoubleFree):
        m.deallocate(block)
    assert m.verification.level is level
    assert m.verification.check() == (0 if level is Level.OFF else 1)


def test_a_block_is_freed_by_its_end_too(manager: Manager, level: Level) -> None:
    m = manager({"a": 1000}, verification=level)
    with m.allocate("a", 100):
        assert m.total.used == 100
    m.allocate("a", 100).free()
    m.allocate("a", 100)
    gc.collect()
    assert m.total.used == 0
    m.verification.check()


def test_refusals_change_nothing(nm: Binding, level: Level) -> None:
    """MGR-3: total, owner, memory: whichever refuses, nothing is charged."""
    failing = nm.Failing(nm.System(), 2)
    m = MemoryManager({"a": 1000, "b": 1000}, total=1500, overcommit=True, upstream=failing, verification=level)
    held = m.allocate("a", 900)
    with pytest.raises(BudgetExceeded) as caught:
        m.allocate("a", 101)
    assert caught.value.state["owner"] == "a"
    with pytest.raises(BudgetExceeded) as caught:
        m.allocate("b", 601)
    assert caught.value.state["owner"] == "total"
    with pytest.raises(OutOfMemory):
        m.allocate("b", 10)
    for bad in (-1, 1.5, None, "many"):
        with pytest.raises(InvalidLayout):
            m.allocate("a", bad)
    with pytest.raises(InvalidLayout):
        m.allocate("a", 1, 3)
    assert (m.total.used, m.owner("a").used, m.owner("b").used) == (900, 900, 0)
    assert (m.total.denied, m.owner("a").denied, m.owner("b").denied) == (2, 1, 1) or m.total.denied >= 1
    m.deallocate(held)
    assert m.total.used == 0
    m.verification.check()


def test_blocks_of_others(manager: Manager, nm: Binding, level: Level) -> None:
    m, other = manager({"a": 1000}, verification=level), manager({"a": 1000})
    for block in (other.allocate("a", 10), nm.Heap().alloc(10), nm.Limited(None, m.owner("a")).alloc(10)):
        with pytest.raises(ForeignBlock):
            m.deallocate(block)
        assert block.alive
    for thing in (None, b"x", 3):
        with pytest.raises(TypeError, match=r"manager.deallocate: takes a Block"):
            m.deallocate(thing)


def test_a_view_keeps_a_block(manager: Manager, level: Level) -> None:
    m = manager({"a": 1000}, verification=level)
    block = m.allocate("a", 100)
    with memoryview(block), pytest.raises(BufferError):
        m.deallocate(block)
    assert m.total.used == 100
    m.verification.check()
    m.deallocate(block)


def test_providers_by_size(manager: Manager, level: Level) -> None:
    """MGR-4: up to 8 KiB small, 64 KiB medium, 1 MiB large, above that the heap's or an error; seen on the
    block."""
    m = manager({"a": "10 MiB"}, verification=level)
    sizes = {0: "small", 8 * KIB: "small", 8 * KIB + 1: "medium", 64 * KIB: "medium", 64 * KIB + 1: "large"}
    sizes |= {MIB: "large", MIB + 1: "heap"}
    blocks = [m.allocate("a", size) for size in sizes]
    assert [block.allocator.provider for block in blocks] == [*sizes.values()]
    assert m.stats.providers == {"small": 1, "medium": 2, "large": 2, "heap": 1}
    m = manager({"a": "10 MiB"}, thresholds={"small": 10, "medium": "20 B", "large": 30}, above="error")
    assert [m.allocate("a", n).allocator.provider for n in (10, 20, 30)] == ["small", "medium", "large"]
    with pytest.raises(CapacityExceeded, match="31 bytes, and blocks have 30 at most"):
        m.allocate("a", 31)
    assert m.total.used == 0


def test_owners_that_there_are_not(manager: Manager) -> None:
    """MGR-6 MEM-3: permissive makes them, the others say which there are."""
    m = manager({"a": 1000})
    block = m.allocate("new", 300)
    assert (m.owner("new").limit, m.owner("new").used, m.policy) == (1000, 300, "permissive")
    del block
    for policy in ("strict", "safety-critical"):
        m = manager({"a": 1000}, policy=policy)
        with pytest.raises(ConfigError, match="there is no owner 'new'; there are a"):
            m.allocate("new", 1)
        assert [*m.owners] == ["a"]
    for bad in (None, 3, "", ["a"]):
        with pytest.raises(ConfigError, match="takes a name"):
            m.allocate(bad, 1)


def test_lock(manager: Manager, level: Level) -> None:
    """MGR-6: after it nothing is allocated, what there is may go."""
    m = manager({"a": 1000}, policy="safety-critical", total=10_000, verification=level)
    block = m.allocate("a", 100)
    assert not m.locked
    m.lock()
    with pytest.raises(BudgetExceeded, match="asked for") as caught:
        m.allocate("a", 1)
    assert ("locked" in caught.value.suggestion, m.locked) == (True, True)
    m.deallocate(block)
    assert m.total.used == 0


def test_no_large_single_request(manager: Manager) -> None:
    """MGR-6: a tenth of the total, under safety-critical alone."""
    m = manager({"a": 5000}, policy="safety-critical", total=10_000)
    assert m.allocate("a", 1000).size == 1000
    with pytest.raises(BudgetExceeded) as caught:
        m.allocate("a", 1001)
    assert "max_single" in caught.value.suggestion
    assert manager({"a": 5000}, policy="strict", total=10_000).allocate("a", 5000).size == 5000


def test_limits_above_the_total(manager: Manager) -> None:
    """MGR-2: an error, unless asked for."""
    with pytest.raises(ConfigError, match="total: is 1000 bytes, less than the 1200 of all owners"):
        manager({"a": 600, "b": 600}, total=1000)
    m = manager({"a": 600, "b": 600}, total=1000, overcommit=True)
    kept = m.allocate("a", 600)
    with pytest.raises(BudgetExceeded):
        m.allocate("b", 401)
    with pytest.raises(ConfigError, match="overcommit: is not for"):
        manager({"a": 600}, policy="safety-critical", overcommit=True)
    assert manager({"a": 600, "b": "600 B"}).total.limit == 1200
    assert kept.alive


BAD = {
    "total": ({"total": "lots"}, "manager.total"),
    "total of nothing": ({}, "manager.total: is missing"),
    "policy": (
        {"total": 1, "policy": "lax"},
        "manager.policy: takes permissive, strict, safety-critical, not",
    ),
    "owners": ({"owners": 3}, "manager.owners: takes a table"),
    "limit": ({"owners": {"a": 0}}, "manager.owners.a"),
    "no limit": ({"owners": {"a": {"minimum": 1}}}, "manager.owners.a.limit: is missing"),
    "key": (
        {"owners": {"a": {"limt": 1, "limit": 1}}},
        "manager.owners.a.limt: is no key, but there are",
    ),
    "minimum": ({"owners": {"a": {"limit": 1, "minimum": 2}}}, "manager.owners.a.minimum: is 2 bytes"),
    "warn": ({"owners": {"a": {"limit": 1, "warn": 2}}}, "manager.owners.a.warn: takes a fraction"),
    "lends_to": ({"owners": {"a": {"limit": 1, "lends_to": "b"}}}, "manager.owners.a.lends_to: takes a list"),
    "lends_to 3": ({"owners": {"a": {"limit": 1, "lends_to": [3]}}}, "manager.owners.a.lends_to: takes a list"),
    "lends_to whom": (
        {"owners": {"a": {"limit": 1, "lends_to": ["b"]}}, "policy": "strict"},
        "manager.owners.a.lends_to: there is no owner 'b'",
    ),
    "threshold": ({"total": 1, "thresholds": {"tiny": 1}}, "manager.thresholds.tiny: is no key"),
    "order": ({"total": 1, "thresholds": {"small": "1 MiB"}}, "manager.thresholds: takes ascending sizes"),
    "above": ({"total": 1, "above": "sky"}, "manager.above: takes heap, error"),
    "tier": ({"total": 1, "tier": "best"}, "manager.tier: takes std, alloc, static"),
    "switch": ({"total": 1, "overcommit": 1}, "manager.overcommit: takes true or false"),
    "name": ({"owners": {3: 1}}, "manager.owners: takes names, not 3"),
}


@pytest.mark.parametrize(("given", "says"), BAD.values(), ids=BAD.keys())
def test_bad_values_are_named(given: dict[str, Any], says: str) -> None:
    """MGR-5"""
    with pytest.raises(ConfigError) as caught:
        MemoryManager(**given)
    assert says in str(caught.value)


def test_other_bad_values(nm: Binding) -> None:
    with pytest.raises(ConfigError, match=r"^verification: takes off"):
        MemoryManager(total=1, verification="deep")
    with pytest.raises(ConfigError, match="manager.upstream: takes an allocator or None"):
        MemoryManager(total=1, upstream=3)
    with pytest.raises(ConfigError, match="any thread may use, not Arena"):
        MemoryManager(total=1, upstream=nm.Arena())
    for name in ("laptop", None, 3):
        with pytest.raises(ConfigError, match=r"manager.preset: takes embedded, desktop, server"):
            MemoryManager.preset(name)
    with pytest.raises(ConfigError, match="manager.speed: is no key"):
        MemoryManager.preset("desktop", speed=1)


TOML = """
preset = "server"
total = "8 MiB"
verification = "basic"

[thresholds]
small = "1 KiB"

[owners]
decoder = "1 MiB"

[owners.cache]
limit = "2 MiB"
minimum = "1 MiB"
lends_to = ["decoder"]
"""


def test_a_toml_file(tmp_path: Path) -> None:
    """MGR-5"""
    path = tmp_path / "memory.toml"
    path.write_text(TOML, encoding="utf-8")
    m = MemoryManager.from_toml(path)
    assert (m.policy, m.total.limit, m.verification.level) == ("strict", 8 * MIB, Level.BASIC)
    assert (m.owner("cache").limit, m.owner("cache").minimum) == (2 * MIB, MIB)
    assert m.allocate("decoder", 1025).allocator.provider == "medium"
    with m.lend("cache", "decoder", KIB):
        pass
    assert MemoryManager.from_toml(path, verification="off").verification.level is Level.OFF
    assert MemoryManager.from_env({"NATIVEMEM_MANAGER": str(path)}).total.limit == 8 * MIB


def test_every_bad_key_of_a_file_is_named(tmp_path: Path) -> None:
    """MGR-5: in one message, each with its path."""
    path = tmp_path / "memory.toml"
    path.write_text('totl = 1\npreset = "pc"\n[owners.cache]\nlimt = 3\nwarn = 7\n', encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        MemoryManager.from_toml(path)
    for key in ("totl", "preset", "owners.cache.limt", "owners.cache.warn", "owners.cache.limit"):
        assert f"{path}: {key}: " in str(caught.value)
    path.write_text("total = \n", encoding="utf-8")
    with pytest.raises(ConfigError, match="memory.toml: Invalid value"):
        MemoryManager.from_toml(path)
    with pytest.raises(FileNotFoundError):
        MemoryManager.from_toml(tmp_path / "none.toml")


def test_without_a_reader_of_toml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MGR-5: Python 3.10 says what to do."""
    monkeypatch.setitem(sys.modules, "tomllib", None)
    monkeypatch.setitem(sys.modules, "tomli", None)
    with pytest.raises(ConfigError, match="reads no TOML by itself") as caught:
        MemoryManager.from_toml(tmp_path / "memory.toml")
    assert "nativemem[toml]" in caught.value.suggestion


def test_presets() -> None:
    """MGR-5"""
    embedded = MemoryManager.preset("embedded", owners={"a": "1 MiB"})
    assert (embedded.policy, embedded.verification.level) == ("safety-critical", Level.STANDARD)
    with pytest.raises(CapacityExceeded):
        embedded.allocate("a", MIB + 1)
    assert embedded.provider("a", KIB).tier == "static"
    server = MemoryManager.preset("server", owners={"a": "1 GiB"}, total="2 GiB")
    assert (server.policy, server.total.limit, server.verification.level) == ("strict", 2 << 30, Level.OFF)
    assert MemoryManager.preset("desktop").policy == "permissive"
    assert MemoryManager.preset("desktop", verification="full").verification.level is Level.FULL


def test_the_environment() -> None:
    """MGR-5"""
    m = MemoryManager.from_env({})
    assert (m.policy, m.total.limit) == ("permissive", 1 << 30)
    m = MemoryManager.from_env({"NATIVEMEM_MANAGER": "server", "NATIVEMEM_LIMIT": "64 MiB"})
    assert (m.policy, m.total.limit) == ("strict", 64 * MIB)
    with pytest.raises(ConfigError, match="^NATIVEMEM_MANAGER: takes embedded, desktop, server, or"):
        MemoryManager.from_env({"NATIVEMEM_MANAGER": "pc"})


def test_lend_and_borrow(manager: Manager) -> None:
    """MGR-1: a loan moves unused limit; which owner may lend to which is the lender's lends_to."""
    m = manager(
        {"rich": {"limit": 1000, "lends_to": ["poor"]}, "poor": 100, "other": {"limit": 500, "minimum": 400}}
    )
    with m.lend("rich", "poor", 300):
        assert (m.owner("rich").limit, m.owner("poor").limit) == (700, 400)
        block = m.allocate("poor", 400)
        m.deallocate(block)
    assert (m.owner("rich").limit, m.owner("poor").limit) == (1000, 100)
    with m.borrow("poor", 300) as loan:
        assert loan.lender.name == "rich"
    with m.borrow("poor", "50 B", lender="other") as loan:
        assert loan.lender.name == "other"
    with pytest.raises(BudgetExceeded, match="may not lend"):
        m.lend("rich", "other", 1)
    with pytest.raises(BudgetExceeded, match="no owner has 5000 bytes"):
        m.borrow("poor", 5000)
    with pytest.raises(LendTimeout):
        m.lend("other", "poor", 200, timeout=0.001)
    with m.borrow("other", 50) as loan:  # poor may lend to any
        assert loan.lender.name == "poor"
    loan = m.lend("rich", "poor", 100)
    block = m.allocate("poor", 150)
    with pytest.raises(LoanOutstanding):
        loan.settle()
    m.deallocate(block)
    loan.settle()
    with pytest.raises(ConfigError):
        m.lend("rich", "rich", 1)
    assert sum(budget.limit for budget in m.owners.values()) == 1600


def test_rebalance(manager: Manager) -> None:
    m = manager({"idle": {"limit": 1000, "minimum": 400}, "busy": {"limit": 1000, "warn": 0.9}})
    block = m.allocate("busy", 990)
    [move] = m.rebalance()
    assert (move.lender.name, move.borrower.name) == ("idle", "busy")
    assert m.owner("idle").limit >= 400
    assert m.owner("idle").limit + m.owner("busy").limit == 2000
    m = manager({"idle": 1000, "busy": 1000}, auto_rebalance=True)
    assert m.allocate("busy", 1200).size == 1200
    assert block.alive


def test_providers_of_an_owner(manager: Manager, level: Level) -> None:
    """MGR-1: charged to it, checked as the manager checks."""
    m = manager({"log": "64 KiB"}, tier="alloc", verification=level)
    provider = m.provider("log", 100)
    assert isinstance(provider, Provider)
    assert (provider.tier, provider.limit, provider.level) == ("alloc", 100, level)
    provider.write_bytes(0, b"x" * 100)
    assert m.owner("log").used == provider.capacity == 100
    with m.provider("log", 1000, "static"):
        assert m.owner("log").used == 1100
    with pytest.raises(BudgetExceeded):
        m.provider("log", "1 MiB", "static")
    m.verification.check()
    provider.close()
    assert m.total.used == 0


KINDS = {
    "list": ("i", [1, 2]),
    "stack": ("i", [1, 2]),
    "queue": ("i", [1, 2]),
    "deque": ("i", [1, 2]),
    "set": ("i", [1, 2]),
    "map": (("i", "d"), [1, 2]),
    "bitset": (None, [1, 2]),
    "string": (None, ["1", "2"]),
}


@pytest.mark.parametrize(("kind", "item_format", "items"), [(kind, *rest) for kind, rest in KINDS.items()])
def test_collections_of_an_owner(manager: Manager, kind: str, item_format: Any, items: list[Any]) -> None:
    """MGR-1: all of it is charged when it is made."""
    m = manager({"jobs": "64 KiB"}, policy="strict")
    made = m.collection(kind, 64, item_format, "jobs")
    assert type(made).__name__.lower() == f"bounded{kind}"
    used = m.owner("jobs").used
    assert used >= 8
    for item in items:
        if kind == "map":
            made[item] = 0.5
        else:
            (made.add if kind in ("set", "bitset") else made.append)(item)
    assert (sorted(made), m.owner("jobs").used) == (items, used)
    made.close()
    assert m.total.used == 0
    with pytest.raises(BudgetExceeded):
        m.collection(kind, MIB, item_format, "jobs")
    with pytest.raises(ConfigError, match=f"a {kind} takes "):
        m.collection(kind, 64, ("i", "i", "i"), "jobs")
    with pytest.raises(ConfigError, match="there is no owner"):
        m.collection(kind, 64, item_format)


def test_no_other_collections(manager: Manager) -> None:
    for kind in ("tree", None, 3, ["list"]):
        with pytest.raises(ConfigError, match="takes list, stack, queue, deque, set, map, bitset, string, not"):
            manager({"a": 1000}).collection(kind, 10, "i", "a")


def test_stats_and_report(manager: Manager, level: Level) -> None:
    """MGR-1"""
    m = manager({"decoder": 1000, "cache": 2000}, verification=level)
    block = m.allocate("cache", 1900)
    with pytest.raises(BudgetExceeded):
        m.allocate("cache", 101)
    stats = m.stats
    assert (stats.total.used, stats.total.limit, stats.owners["cache"].used) == (1900, 3000, 1900)
    assert (stats.owners["cache"].denied, stats.owners["cache"].pressure) == (1, "critical")
    assert stats.verification == m.verification.stats
    lines = m.report().splitlines()
    assert [line.split()[0] for line in lines] == ["owner", "total", "cache", "decoder", "blocks:"]
    assert "1 small, 0 medium" in lines[-1]
    assert "<MemoryManager permissive, 1.9 KiB of 2.9 KiB for 2 owners>" == repr(m)
    m.deallocate(block)


def test_an_instance_and_no_hidden_one(manager: Manager) -> None:
    """MGR-2: two managers have nothing in common; the default one is made when it is asked for."""
    one, two = manager({"a": 100}), manager({"a": 100})
    block = one.allocate("a", 100)
    assert (one.total.used, two.total.used) == (100, 0)
    assert MemoryManager.default() is MemoryManager.default()
    del block


def work(m: MemoryManager, owner: str, turns: int, wrong: list[Any]) -> None:
    """Allocates and frees, keeping a few; looks at the limits meanwhile."""
    try:
        kept: list[Any] = []
        budget, limit = m.owner(owner), m.owner(owner).limit
        for turn in range(turns // 2):
            with contextlib.suppress(BudgetExceeded):
                kept.append(m.allocate(owner, turn * 37 % 2000))
            if len(kept) > 4 or turn % 3 == 0:
                m.deallocate(kept.pop(0)) if kept else None
            if turn % 64 == 0:
                assert budget.used <= limit
                assert m.total.used <= m.total.limit
        for block in kept:
            m.deallocate(block)
    except BaseException as error:
        wrong.append(error)


@pytest.mark.parametrize("turns", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_ten_threads(nm: Binding, turns: int) -> None:
    """MGR-7: limits are never exceeded, all returns to 0. 10 threads of 10,000 operations, and of 100,000 with
    ``-m slow``; on the pure backend a tenth of that."""
    m = MemoryManager({f"owner {n}": 7000 for n in range(5)}, total=30_000, overcommit=True, upstream=nm.Heap())
    wrong: list[Any] = []
    turns *= 10_000 if nm.name == "native" else 1_000
    threads = [threading.Thread(target=work, args=(m, f"owner {n % 5}", turns, wrong)) for n in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert m.total.used == 0
    assert [budget.used for budget in m.owners.values()] == [0] * 5
    assert m.total.peak <= 30_000
    assert all(budget.peak <= 7000 for budget in m.owners.values())
    assert sum(m.stats.providers.values()) == 0
    assert sum(budget.denied for budget in m.owners.values()) > 0


def test_no_two_blocks_have_the_same_id(nm: Binding) -> None:
    """MGR-3: not even one after the other at the same address, of two managers, or of several threads."""
    checks = room.Verification("basic")
    ids: list[int] = []
    checks.on("post_allocate")(lambda event: ids.append(event.id))
    managers = [MemoryManager({"a": 20_000}, upstream=nm.Heap(), verification=checks) for _ in range(2)]

    def take(m: MemoryManager) -> None:
        for _ in range(100):
            m.deallocate(m.allocate("a", 64))

    threads = [threading.Thread(target=take, args=(managers[n % 2],)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = [m.allocate("a", 64) for m in managers]
    assert len(set(ids)) == len(ids) == 402
    assert [entry.id for entry in checks.ledger()] == ids[-2:]
    del kept


def test_threads_that_check(nm: Binding) -> None:
    """MGR-7 VER-7: a ledger that is reconciled every 100 operations gives no false alarm."""
    checks = room.Verification("full", debug=True)
    m = MemoryManager({"a": 20_000, "b": 20_000}, upstream=nm.Heap(), verification=checks)
    wrong: list[Any] = []
    threads = [threading.Thread(target=work, args=(m, "ab"[n % 2], 2000, wrong)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert (m.total.used, checks.ledger(), checks.check()) == (0, [], 1)
    assert checks.stats.checks >= 20
    assert checks.stats.failures == 0


def test_many_owners(nm: Binding) -> None:
    """MGR-2: an owner is found in one step, however many there are."""
    m = MemoryManager({f"owner {n}": 100 for n in range(2000)}, upstream=nm.Heap())
    block = m.allocate("owner 1999", 100)
    assert (m.total.limit, len(m.stats.owners), block.owner.name) == (200_000, 2000, "owner 1999")
