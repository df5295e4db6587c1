"""VER-7: the ledger of a manager: what is in it when, and how it is held against the counters."""

from __future__ import annotations

import gc
import re
from types import SimpleNamespace
from typing import Any

import pytest

from nativemem.backends.binding import Binding
from nativemem.errors import BudgetExceeded, CorruptionDetected
from nativemem.manager import (
    MemoryManager,
    Verification,
    ledger,
)
from nativemem.manager.verification import Event

pytestmark = pytest.mark.usefixtures("old_objects_apart")  # they collect


@pytest.fixture
def checked(nm: Binding, monkeypatch: pytest.MonkeyPatch) -> MemoryManager:
    """A manager that does not wait long for ledger and counters to agree."""
    monkeypatch.setattr(ledger, "TRIES", 2)
    slept: list[float] = []
    monkeypatch.setattr(ledger, "time", SimpleNamespace(sleep=slept.append))
    manager = MemoryManager({"a": 100_000, "b": 1000}, upstream=nm.Heap(), verification=Verification("basic"))
    manager.slept = slept  # type: ignore[attr-defined]
    return manager


def difference(manager: Any) -> str | None:
    found: str | None = manager._difference()
    return found


def test_where_ledger_and_counters_differ(checked: Any) -> None:
    block, empty = checked.allocate("a", 100), checked.allocate("a", 0)
    assert difference(checked) is None and checked.slept == []
    stray = block.allocator.alloc(7)
    says = "of owner 'a' the ledger has 100 bytes in 1 blocks, the counters 107 in 2"
    assert difference(checked) == says and checked.slept == [0.001, 0.001]
    checked._begins(7, "alloc")
    assert difference(checked) is None, "so much is under way"
    checked._ends(7)
    checked._begins(6, "alloc")
    assert difference(checked) == says
    checked._ends(6)
    stray.free()
    none = block.allocator.alloc(0)
    assert difference(checked) is None, "of nothing"
    none.free()
    ghost = checked.verification._ghost
    (key, *_) = [each.id for each in ghost.entries()]
    entry = ghost._entries.pop(key)
    assert difference(checked) == f"the block {key} of 100 bytes is not in the ledger"
    ghost._entries[key] = entry
    assert difference(checked) is None and empty.alive


def test_an_owner_that_is_charged_less_than_the_ledger_has(checked: Any) -> None:
    block = checked.allocate("a", 100)
    budget = checked.owner("a")
    budget.release(1)
    assert difference(checked) == "owner 'a' is charged 99 bytes, the ledger has 100"
    checked._begins(1, "alloc")
    assert difference(checked) is None
    checked._ends(1)
    budget.try_reserve(50)
    assert difference(checked) is None, "more is another's"
    assert block.alive


def test_a_ledger_that_comes_to_agree(checked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another thread is in the midst of: it is looked at again."""
    answers = ["wrong", None]
    monkeypatch.setattr(type(checked), "_difference_now", lambda self: answers.pop(0), raising=False)
    assert difference(checked) is None and checked.slept == [0.001] and ledger.TRIES == 2
    answers[:] = ["one", "other"]
    assert difference(checked) == "other"


def test_what_is_gone_leaves_the_ledger(checked: Any) -> None:
    """However a block ends."""
    kept, freed, dropped = (checked.allocate("a", n) for n in (1, 2, 3))
    freed.free()
    del dropped
    gc.collect()
    assert [each.size for each in checked.verification.ledger()] == [1]
    assert len(checked._live) == len(checked._keys) == 1
    other = checked.allocate("a", 4)
    checked.deallocate(other)
    assert [each.size for each in checked.verification.ledger()] == [1] and kept.alive
    checked.deallocate(kept)
    assert checked._live == {} == checked._keys and (checked._under_way, checked._bytes_under_way) == (0, 0)


def test_a_call_that_fails_leaves_nothing_under_way(checked: Any) -> None:
    for call in (
        lambda: checked.allocate("b", 1001),
        lambda: checked.allocate("a", 10, 3),
        lambda: checked.allocate("", 10),
        lambda: checked.allocate("a", "x"),
    ):
        with pytest.raises((BudgetExceeded, ValueError)):
            call()
        assert (checked._under_way, checked._bytes_under_way, checked._live) == (0, 0, {})
    block = checked.allocate("a", 10)
    with memoryview(block), pytest.raises(BufferError):
        checked.deallocate(block)
    assert (checked._under_way, checked._bytes_under_way) == (0, 0)
    assert [each.size for each in checked.verification.ledger()] == [10]
    checked.deallocate(block)
    assert checked.verification.ledger() == []
    assert checked.allocate("a", "1 KiB", 64, zero=True).size == 1024


def test_it_is_reconciled_every_100_operations(nm: Binding, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the one that is due, also where that gives a block back; not by one that fails."""
    for debug in (True, False):
        checks = Verification("basic", debug=debug)
        manager: Any = MemoryManager({"a": 100}, upstream=nm.Heap(), verification=checks)
        done: list[int] = []
        monkeypatch.setattr(type(manager), "_reconcile", lambda self, done=done: done.append(1), raising=False)
        block = manager.allocate("a", 10)
        for n in range(2, 100):
            with pytest.raises(MemoryError):
                manager.allocate("a", 1000)
            assert done == [] and checks._operations == n
        manager.deallocate(block)
        assert done == [1] * debug
        for _ in range(99):
            manager.allocate("a", 10).free()
        with pytest.raises(MemoryError):
            manager.allocate("a", 1000)
        assert checks._operations == 200 and done == [1] * debug
        monkeypatch.undo()


def test_a_reconciliation_counts(checked: Any) -> None:
    checked._reconcile()
    assert (checked.verification.stats.checks, checked.verification.stats.failures) == (1, 0)
    block = checked.allocate("a", 10)
    stray = block.allocator.alloc(1)
    with pytest.raises(CorruptionDetected) as caught:
        checked._reconcile()
    assert str(caught.value).startswith("manager: of owner 'a' the ledger has 10 bytes in 1 blocks")
    stats = checked.verification.stats
    assert (stats.checks, stats.failures, stats.last_failure) == (2, 1, str(caught.value))
    assert stray.alive


def test_two_managers_of_one_verification(nm: Binding) -> None:
    """Each has its own invariant and its own part of the ledger, and takes them along."""
    checks = Verification("basic")
    one, two = (MemoryManager({"a": 100}, upstream=nm.Heap(), verification=checks) for _ in range(2))
    kept = one.allocate("a", 1), two.allocate("a", 2)
    assert [each.size for each in checks.ledger()] == [1, 2] and checks.check() == 2
    assert len(checks._books) == len(checks._invariants) == 2
    assert all(re.fullmatch(r"ledger of manager \d+", name) for name in checks._books)
    del kept, one
    gc.collect()
    assert len(checks._books) == len(checks._invariants) == 1 and checks.check() == 1
    assert two.total.used == 0


def test_a_block_that_is_not_in_the_ledger(checked: Any) -> None:
    """One that the manager's own allocator gave: it may be given back, and has no number."""
    kept = checked.allocate("a", 10)
    seen: list[Event] = []
    checked.verification.on("pre_deallocate")(seen.append)
    checked.deallocate(kept.allocator.alloc(7))
    assert seen == [Event("pre_deallocate", 0, "a", 7, "small")]
    assert [each.size for each in checked.verification.ledger()] == [10]
