"""INT: words, counters and refusals of the intern table, one by one."""

from __future__ import annotations

from array import array
from types import SimpleNamespace
from typing import Any

import pytest

import nativemem
from nativemem.backends.binding import Binding
from nativemem.errors import BudgetExceeded, CapacityExceeded, ConfigError, StaleHandle, Status
from nativemem.structures import InternStats, InternTable


@pytest.fixture
def table(nm: Binding) -> InternTable:
    return InternTable(nm.Heap())


@pytest.mark.parametrize(
    ("handle", "said"),
    [
        *((0, "0x0"), ((1 << 64) - 1, "0xffffffffffffffff"), (1 << 64, "18446744073709551616"), (-1, "-1")),
        *((-2, "-2"), (True, "0x1"), (False, "0x0")),
    ],
)
def test_a_handle_of_nothing_in_words(table: InternTable, handle: int, said: str) -> None:
    says = f"InternTable: the handle {said} stands for no value"
    for use in (table.retain, table.release, table.view, table.str):
        with pytest.raises(StaleHandle) as caught:
            use(handle)
        assert str(caught.value) == says
        assert str(caught.value.suggestion).startswith("release a handle as often as it was acquired and retained")
    with pytest.raises(StaleHandle) as caught:
        table.release_many([table.acquire("a"), handle])
    number = 0 if handle < 0 or handle >= 1 << 64 else int(handle)
    assert str(caught.value) == (
        f"InternTable: the handle {number:#x}, number 1 of those to be released, stands for no value"
    )
    assert caught.value.suggestion == "release a handle as often as it was acquired; those before it were released"
    assert caught.value.state == {"released": 1} and len(table) == 0


def test_handles_in_other_containers(table: InternTable) -> None:
    """An array of another type, a list, a generator: each handle is looked at; what is no int is none."""
    handles = table.acquire_many(["a", "b", "a", "c"])
    table.release_many(array("q", handles[:1]))
    table.release_many(iter(handles[1:2]))
    table.release_many(each for each in handles[2:3])
    table.release_many(handles[3:])
    table.release_many([])
    assert len(table) == 0
    one = table.acquire("x")
    with pytest.raises(TypeError, match="^InternTable: takes a handle, which is an int, not str"):
        table.release_many([one, "2"])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="which is an int, not float"):
        table.release_many(array("d", [1.0]))  # type: ignore[arg-type]
    assert table.str(one) == "x", "nothing was released"


def test_no_handle_is_past_64_bits(table: InternTable) -> None:
    """Cut to 64 bits one would be another's."""
    for _ in range(3):
        table.acquire("a")
    handle = table.acquire("a")
    for wrong in (handle + (1 << 64), handle - (1 << 64)):
        for use in (table.retain, table.release, table.view, table.str, lambda h: table.release_many([h])):
            with pytest.raises(StaleHandle):
                use(wrong)
    assert table.stats.references == 4


def test_all_counters(nm: Binding) -> None:
    """INT-6: what a backend counts, each under its name."""
    table = InternTable(nm.Heap())
    table.acquire_many(["aaaa"] * 3 + ["bb"])
    stats = table.stats
    assert dataclass_values(stats) == (2, 4, 6, 8, 4, 2, stats.reserved, 0) and stats.reserved > 6
    table._core.close()
    table._core = SimpleNamespace(stats=lambda: (1, 2, 10, 35, 5, 6, 7, 8), close=lambda: None)
    assert table.stats == InternStats(1, 2, 10, 25, 5, 6, 7, 8)
    assert (len(table), table.stats.hit_rate) == (1, 1.2) and bool(table)
    assert repr(table) == "<InternTable of 1 values, 10 B, with 2 references>"


def dataclass_values(stats: InternStats) -> tuple[Any, ...]:
    return (
        *(stats.unique, stats.references, stats.stored, stats.saved),
        *(stats.acquires, stats.hits, stats.reserved, stats.failures),
    )


def test_a_value_with_too_many_references(table: InternTable) -> None:
    """What a backend refuses for another reason than that the handle is stale is told as that."""
    core = table._core
    refused = (Status.CAPACITY_EXCEEDED, 1, (1 << 32) - 1, (1 << 32) - 1)
    table._core = SimpleNamespace(
        acquire=lambda value: refused,
        acquire_many=lambda values, out: refused,
        retain=lambda handle: refused,
        release=lambda handle: refused,
        view=lambda handle: refused,
        text=lambda handle: refused,
        close=core.close,
    )
    for use in (
        lambda: table.acquire("a"),
        lambda: table.acquire_many(["a"]),
        lambda: table.retain(1),
        lambda: table.release(1),
        lambda: table.view(1),
        lambda: table.str(1),
    ):
        with pytest.raises(CapacityExceeded):
            use()
    table.close()


def test_who_pays(nm: Binding) -> None:
    budget = nm.Budget(1 << 20)
    limited = nm.Limited(nm.Heap(), budget)
    table = InternTable(limited)
    assert table.owner is budget and table.upstream is limited and not table.closed
    table.close()
    assert table.owner is None and table.upstream is None and table.closed
    table.close()
    with InternTable(limited) as again:
        assert again.upstream is limited
    assert again.closed and again.owner is None
    limited.close()


def test_values_as_they_are_taken(table: InternTable) -> None:
    """A list as it is, what else can be iterated over once; one value is no iterable of values."""
    values = ["a", b"a", "b"]
    handles = table.acquire_many(values)
    assert handles[0] == handles[1] != handles[2] and values == ["a", b"a", "b"]
    assert table.acquire_many(iter(values)) == table.acquire_many(tuple(values)) == handles
    for value, kind in (("ab", "str"), (b"ab", "bytes")):
        with pytest.raises(TypeError) as caught:
            table.acquire_many(value)
        assert str(caught.value) == f"InternTable.acquire_many: takes an iterable of values, not one {kind}"


def test_what_it_is_made_of() -> None:
    for shards, says in (
        (True, "takes an int, not True"),
        ("1", "takes an int, not '1'"),
        (0, "takes a power of two from 1 to 256, not 0"),
        (257, "takes a power of two from 1 to 256, not 257"),
        (512, "takes a power of two from 1 to 256, not 512"),
        (6, "takes a power of two from 1 to 256, not 6"),
    ):
        with pytest.raises(ConfigError) as caught:
            InternTable(shards=shards)  # type: ignore[arg-type]
        assert str(caught.value) == f"intern.shards: {says}"
    for shards in (1, 256):
        InternTable(shards=shards).close()
    with pytest.raises(ConfigError) as caught:
        InternTable(nativemem.Arena())
    assert str(caught.value) == "intern.upstream: takes what any thread may call, and Arena belongs to one thread"
    assert caught.value.suggestion == "give it a Heap, or put a Locked in front"
    unmade = InternTable.__new__(InternTable)
    assert unmade.closed
    unmade.close()
    with pytest.raises(StaleHandle, match="InternTable: is closed"):
        unmade.acquire("a")


def test_room_is_asked_for_where_it_is_made(nm: Binding) -> None:
    """As for a value later: by the budget's callback; else it is refused, and nothing is charged."""
    asked: list[str] = []

    def make_room(level: str, budget: Any) -> None:
        asked.append(level)
        if level == "refusal":
            budget.limit = 1 << 20

    budget = nm.Budget(16, on_pressure=make_room, warn=1)
    table = InternTable(nm.Limited(nm.Heap(), budget), shards=256)
    handle = table.acquire("x" * 1000)
    assert "refusal" in asked and table.str(handle) == "x" * 1000 and budget.used >= 1000
    table.close()
    assert budget.used == 0
    full = nm.Budget(16)
    with pytest.raises(BudgetExceeded):
        InternTable(nm.Limited(nm.Heap(), full), shards=256).acquire("x" * 1000)
    assert full.used == 0
