"""The intern table, on both backends."""

from __future__ import annotations

import copy
import gc
import pickle
import random
import threading
import weakref
from array import array
from typing import Any

import pytest

import nativemem
from nativemem.backends.binding import Binding
from nativemem.errors import (
    BudgetExceeded,
    ConfigError,
    OutOfMemory,
    StaleHandle,
)
from nativemem.structures import InternStats, InternTable

VALUES = ["", "a", "b", "a\0b", "path/to/a/file", "é", "Ω" * 300, "\U0001f600 \U0002f800", "\ud800", "x" * 5000]


def as_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


@pytest.fixture
def table(nm: Binding) -> InternTable:
    return InternTable(nm.Heap())


def test_equal_values_have_equal_handles(table: InternTable) -> None:
    """INT-1"""
    handles = [table.acquire(value) for value in VALUES]
    assert len(set(handles)) == len(VALUES) == len(table)
    assert 0 not in handles
    for handle, value in zip(handles, VALUES, strict=True):
        assert table.acquire(value) == table.acquire(as_bytes(value)) == handle
        assert table.view(handle) == as_bytes(value) and type(table.view(handle)) is bytes
        assert table.str(handle) == value


def test_bytes_that_are_no_text(table: InternTable) -> None:
    """INT-1"""
    handle = table.acquire(b"\xff\x00\xfe")
    assert table.view(handle) == b"\xff\x00\xfe"
    with pytest.raises(UnicodeDecodeError):
        table.str(handle)
    assert table.stats.references == 1


def test_a_subclass_is_its_value(table: InternTable) -> None:
    class Text(str):
        def __hash__(self) -> int:
            return 7

        def encode(self, *args: Any) -> bytes:
            return b"something else"

    class Raw(bytes):
        def __hash__(self) -> int:
            return 8

    assert table.acquire(Text("same")) == table.acquire(Raw(b"same")) == table.acquire("same")
    assert table.acquire_many([Text("same"), Raw(b"same")])[0] == table.acquire("same")


def test_many_are_as_each(table: InternTable) -> None:
    """INT-1"""
    values = [f"{i % 700} {'é' * (i % 3)}" for i in range(3000)]
    handles = table.acquire_many(values)
    assert type(handles) is array and handles.typecode == "Q"
    assert handles.tolist() == [table.acquire(value) for value in values]
    assert table.acquire_many(map(as_bytes, values)) == handles  # any iterable
    assert table.acquire_many([]) == array("Q")
    assert table.stats.references == 3 * len(values)
    for _ in range(3):
        table.release_many(handles)
    assert len(table) == 0


def test_a_handle_ends_with_its_last_reference(table: InternTable) -> None:
    """INT-2"""
    handle = table.acquire("once")
    table.retain(handle)
    table.release(handle)
    assert table.str(handle) == "once"
    table.release(handle)
    for use in (table.release, table.retain, table.view, table.str, lambda h: table.release_many([h])):
        with pytest.raises(StaleHandle, match="stands for no value"):
            use(handle)
    assert table.acquire("once") != handle
    assert table.stats.references == 1


@pytest.mark.parametrize("number", [0, -1, 1, 1 << 32, (1 << 64) - 1, 1 << 64, 1 << 200, True])
def test_a_number_that_is_no_handle(table: InternTable, number: int) -> None:
    """INT-2"""
    there = table.acquire("there")
    if number == there:
        number += 1
    for use in (table.release, table.retain, table.view, table.str):
        with pytest.raises(StaleHandle):
            use(number)
    with pytest.raises(StaleHandle):
        table.release_many([number])
    assert table.stats.references == 1


def test_too_many_are_released(table: InternTable) -> None:
    """INT-2: which were is said, and the others are as they were."""
    a, b, c = table.acquire_many(["a", "b", "c"])
    with pytest.raises(StaleHandle, match="number 2") as caught:
        table.release_many([a, b, a, c])
    assert caught.value.state == {"released": 2}
    assert table.str(c) == "c" and len(table) == 1


@pytest.mark.parametrize("value", [None, 3, 2.5, ["a"], bytearray(b"a"), memoryview(b"a")])
def test_what_is_no_value(table: InternTable, value: Any) -> None:
    with pytest.raises(TypeError, match=f"str or bytes, not {type(value).__name__}"):
        table.acquire(value)
    with pytest.raises(TypeError, match="str or bytes"):
        table.acquire_many(["before"] * 1000 + ["a", value])
    assert table.stats.references == 0 and len(table) == 0
    with pytest.raises(TypeError, match="int"):
        table.release(value if value != 3 else "3")


def test_many_wants_values_not_one(table: InternTable) -> None:
    for value in ("abc", b"abc"):
        with pytest.raises(TypeError, match="an iterable of values, not one"):
            table.acquire_many(value)
    with pytest.raises(TypeError):
        table.acquire_many(7)  # type: ignore[arg-type]
    assert len(table) == 0


def test_counters(table: InternTable) -> None:
    """INT-6"""
    assert table.stats.hit_rate == 0.0
    table.acquire_many(["one"] * 3 + ["three"])
    stats = table.stats
    assert stats == InternStats(2, 4, 8, 6, 4, 2, stats.reserved, 0)
    assert stats.hit_rate == 0.5 and stats.reserved >= stats.stored
    assert repr(table) == "<InternTable of 2 values, 8 B, with 4 references>"
    table.release(table.acquire("one"))
    assert table.stats.saved == 6 and table.stats.acquires == 5


def test_memory_after_churn(nm: Binding) -> None:
    """INT-4: the table's, and what its heap keeps once that is trimmed."""
    heap = nm.Heap()
    table = InternTable(heap)
    kept = table.acquire_many([f"kept {i}" for i in range(3000)])
    before, heap_before = table.stats.reserved, heap.stats.reserved
    for turn in range(3):
        others = table.acquire_many([f"other {turn} {'x' * (i % 90)} {i}" for i in range(20000)])
        assert table.stats.reserved > 2 * before
        table.release_many(others)
        assert table.stats.reserved <= before + 65536
    heap.trim()
    assert heap.stats.reserved <= heap_before + 65536
    assert [table.str(handle) for handle in kept] == [f"kept {i}" for i in range(3000)]


def test_threads_lose_no_count(table: InternTable) -> None:
    """INT-3"""
    values = [f"value {i}" for i in range(50)]
    errors: list[BaseException] = []

    def work(seed: int) -> None:
        rng = random.Random(seed)
        try:
            for _ in range(60):
                some = rng.choices(values, k=40)
                handles = table.acquire_many(some)
                one = table.acquire(some[0])
                assert one == handles[0] and table.str(one) == some[0]
                table.release(one)
                table.release_many(handles)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert table.stats.references == len(table) == 0


def test_where_memory_ends(nm: Binding) -> None:
    """LAYOUT-5: every allocation refused once, from the first to the last."""
    values = [f"value {i} {'x' * (i * 37 % 400)}" for i in range(60)]
    refused = 0
    for n in range(1, 10_000):
        failing = nm.Failing(nm.Heap(), n)
        try:
            table = InternTable(failing)
        except OutOfMemory:
            refused += 1
            continue
        for _ in range(2):
            try:
                handles = table.acquire_many(values)
                break
            except OutOfMemory:
                refused += 1
                assert table.stats.references == len(table) == 0
                assert table.stats.failures == 1
        assert [table.str(handle) for handle in handles] == values
        table.close()
        if not failing.failed:
            break
    assert refused > 20


def test_a_budget_is_charged_and_asked_for_room(nm: Binding) -> None:
    """INT-4"""
    calls = []

    def make_room(level: str, budget: Any) -> None:
        calls.append(level)
        if level == "refusal":
            budget.limit = 1 << 20

    budget = nm.Budget(8192, "names", on_pressure=make_room, warn=0.5)
    table = InternTable(nm.Limited(nm.Heap(), budget))
    handles = table.acquire_many([f"{i} {'x' * 90}" for i in range(500)])
    assert "refusal" in calls and budget.used >= table.stats.stored
    assert table.owner is budget
    budget.limit = budget.used
    with pytest.raises(BudgetExceeded, match="budget 'names'"):
        nm.Budget("1 KiB")  # of no business here
        table.acquire_many([f"more {i} {'x' * 200}" for i in range(100_000)])
    table.release_many(handles)
    assert len(table) == 0
    table.close()
    assert budget.used == 0


@pytest.mark.parametrize("many", [True, False])
def test_a_watcher_that_closes_the_table(nm: Binding, many: bool) -> None:
    """The table takes no memory after that."""
    budget = nm.Budget(8192, on_pressure=lambda level, _: table.close() if level == "refusal" else None)
    table = InternTable(nm.Limited(nm.Heap(), budget))
    values = [f"{i} {'x' * 90}" for i in range(500)]
    with pytest.raises(StaleHandle, match="InternTable: is closed"):
        _ = table.acquire_many(values) if many else [table.acquire(value) for value in values]
    assert budget.used == 0


def test_the_upstream_stays_open(nm: Binding) -> None:
    heap = nm.Heap()
    table = InternTable(heap)
    table.acquire("held")
    with pytest.raises(BufferError):
        heap.close()
    table.close()
    heap.close()


def test_a_closed_table(nm: Binding) -> None:
    table = InternTable(nm.Heap())
    handle = table.acquire("value")
    with table:
        pass
    assert table.closed and table.upstream is None and repr(table) == "<InternTable closed>"
    table.close()
    for use in (
        lambda: table.acquire("value"),
        lambda: table.acquire_many(["value"]),
        lambda: table.release(handle),
        lambda: table.retain(handle),
        lambda: table.view(handle),
        lambda: table.str(handle),
        lambda: table.release_many([handle]),
        lambda: table.stats,
        table.__enter__,
    ):
        with pytest.raises(StaleHandle, match="InternTable: is closed"):
            use()


def test_a_table_that_is_dropped_gives_its_memory_back(nm: Binding) -> None:
    heap = nm.Heap()
    table = InternTable(heap)
    table.acquire_many([f"{i}" for i in range(1000)])
    gone = weakref.ref(table)
    del table
    gc.collect()
    assert gone() is None and heap.stats.current == 0
    heap.close()


def test_with_its_own_heap() -> None:
    with InternTable() as table:
        assert type(table.upstream) is nativemem.Heap and table.owner is None
        assert table.str(table.acquire("value")) == "value"


@pytest.mark.parametrize("make", ["Arena", "Slab", "stack", "pool"])
def test_what_belongs_to_one_thread_is_no_upstream(nm: Binding, make: str) -> None:
    made = {"stack": lambda: nm.Stack(1 << 20), "pool": lambda: nm.Pool(4096, 100)}
    confined = made.get(make) or getattr(nm, make)
    with pytest.raises(ConfigError, match="belongs to one thread"):
        InternTable(nm.Traced(confined()))
    with InternTable(nm.Traced(nm.Locked(confined()))) as table:
        assert table.str(table.acquire("value")) == "value"


@pytest.mark.parametrize("upstream", [3, "heap", object()])
def test_other_upstreams(upstream: Any) -> None:
    with pytest.raises(ConfigError, match="intern.upstream: takes an allocator"):
        InternTable(upstream)


def test_a_closed_upstream(nm: Binding) -> None:
    heap = nm.Heap()
    heap.close()
    with pytest.raises(StaleHandle, match="Heap: is closed"):
        InternTable(heap)


@pytest.mark.parametrize("shards", [0, -1, 3, 512, True, 2.0, "16", None])
def test_bad_shards(nm: Binding, shards: Any) -> None:
    heap = nm.Heap()
    with pytest.raises(ConfigError, match="intern.shards"):
        InternTable(heap, shards=shards)
    heap.close()


@pytest.mark.parametrize("shards", [1, 2, 256])
def test_any_number_of_shards(nm: Binding, shards: int) -> None:
    table = InternTable(nm.Heap(), shards=shards)
    handles = table.acquire_many(map(str, range(500)))
    assert [table.str(handle) for handle in handles] == [str(i) for i in range(500)]


def test_it_is_made_once_and_has_one_owner(table: InternTable) -> None:
    with pytest.raises(RuntimeError, match="initialised before"):
        table.__init__()  # type: ignore[misc]
    for use in (copy.copy, pickle.dumps):
        with pytest.raises(TypeError, match="memory has one owner"):
            use(table)
    assert table
