"""BLOCK-6 and ARENA-8: single values, arrays and arenas of a struct format."""

from __future__ import annotations

import struct
import sys
from typing import Any

import pytest

from nativemem.allocators.base import Allocator
from nativemem.backends.binding import Binding
from nativemem.errors import (
    ArenaExhausted,
    BudgetExceeded,
    ConfigError,
    DoubleFree,
    InvalidLayout,
    StaleBlock,
    StaleHandle,
    WrongThread,
)

from .helpers import CHAINS, chain_of, collect, in_thread, is_one_line, make, traits_of, unchanged

BAD_FORMATS = (
    *("", "0d", "y", "d d d!", "2", "Z", "d\0", "\0", "é", "\ud800", b"\xff", b"\0"),
    *(3, None, bytearray(b"d"), 1.5, []),
    *("999999999999999999999s", "9223372036854775807d", "5000000000000000000s5000000000000000000s"),
)
#: format, a value, another, one that does not fit
RECORDS = (
    ("d", 1.5, -2.5, "x"),
    ("i", 7, -(1 << 31), 1 << 31),
    ("c", b"x", b"y", b"xy"),
    ("4s", b"abcd", b"xy\0\0", "text"),
    ("<Hq", (1, -2), (65535, 1 << 40), (65536, 0)),
    ("2d", (1.0, 2.0), (0.5, 0.25), (1.0,)),
    ("hxxh", (1, 2), (3, 4), 5),
    ("e", 0.5, -2.0, 1e300),
    ("<f", 0.5, -2.0, 1e300),
    ("f", 0.5, -2.0, 10**400),
    ("P", 1, 2, -(1 << 70)),
    ("B", 1, 2, 1 << 2000),
)
if sys.version_info >= (3, 14):  # complex numbers
    RECORDS += (("D", 1j, 2 + 3j, "x"), ("<2F", (1j, 2j), (3j, 0j), 1j), ("Dh", (1j, 2), (2j, 3), (1, 1j)))
if sys.version_info >= (3, 15):  # by other letters, too
    RECORDS += (("Zd", 1j, 2 + 3j, "x"), (">2Zf", (1j, 2j), (3j, 0j), 1j), ("hZd", (1, 1j), (2, 2j), (1j, 1)))

# --- Value ---


@pytest.mark.parametrize(("fmt", "value", "other", "bad"), RECORDS)
def test_value(nm: Binding, fmt: str, value: object, other: object, bad: object) -> None:
    """BLOCK-6: reads and writes what struct would; a bad value changes nothing."""
    system = nm.System()
    handle = system.alloc_value(fmt, value)
    assert (handle.value, handle.format) == (value, fmt)
    assert system.stats.current == handle.block.size == struct.calcsize(fmt)
    handle.value = other
    assert handle.value == other
    packed = struct.pack(fmt, *other) if isinstance(other, tuple) else struct.pack(fmt, other)
    assert bytes(memoryview(handle.block)) == packed
    with unchanged(system), pytest.raises(InvalidLayout, match="does not fit the format") as caught:
        handle.value = bad
    assert is_one_line(caught.value)
    assert handle.value == other
    with unchanged(system), pytest.raises(InvalidLayout):
        system.alloc_value(fmt, bad)
    handle.free()


def test_a_value_in_every_allocator(allocator: Allocator) -> None:
    """BLOCK-6"""
    handle = allocator.alloc_value("q", 5)
    assert allocator.blocks() == [handle.block]
    handle.value += 1
    assert handle.value == 6
    assert handle.block.allocator is allocator
    handle.free()
    with pytest.raises(DoubleFree):
        handle.free()


@pytest.mark.parametrize("align", [1, 2, 64, 4096])
def test_alignment(nm: Binding, align: int) -> None:
    """PORT-7: of a value, of an array's first item, of each item of a typed arena."""
    heap = nm.Heap()
    handles = [heap.alloc_value("hh", (1, 2), align=align), heap.alloc_array("i", [1, 2, 3], align=align)]
    handles.append(heap.alloc_array("i", 3, align=align))
    for handle in handles:
        assert (handle.block.align, handle.block.address % align) == (align, 0)
    assert (handles[0].value, list(handles[1]), list(handles[2])) == ((1, 2), [1, 2, 3], [0, 0, 0])
    with nm.TypedArena("<hb", align=align) as items:
        for i in range(3000):
            items.append((i, i % 100))
        items[5] = -5, 5
        assert items[5] == (-5, 5) and items[2999] == (2999, 99) and len(list(items)) == 3000
        blocks = items.arena.blocks()
        stride = -(-3 // align) * align
        assert {(block.align, block.address % align, block.size % stride) for block in blocks} == {(align, 0, 0)}
        second = bytes(memoryview(blocks[-1]))[stride:] or bytes(memoryview(blocks[-2]))
        assert second[:3] == struct.pack("<hb", 1, 1)


def test_items_lie_close_unless_told(nm: Binding) -> None:
    """ARENA-8"""
    with nm.TypedArena("<hb") as items:
        items.extend([(1, 2), (3, 4)])
        (block,) = items.arena.blocks()
        assert bytes(memoryview(block))[:6] == struct.pack("<hbhb", 1, 2, 3, 4)


@pytest.mark.parametrize("fmt", BAD_FORMATS, ids=repr)
def test_bad_formats(nm: Binding, fmt: object) -> None:
    """BLOCK-6: InvalidLayout, and nothing is allocated."""
    system = nm.System()
    for call in (
        lambda: system.alloc_value(fmt, 1),
        lambda: system.alloc_array(fmt, [1]),
        lambda: system.alloc_array(fmt, 3),
        lambda: nm.TypedArena(fmt, upstream=system),
    ):
        with unchanged(system), pytest.raises(InvalidLayout) as caught:
            call()
        assert is_one_line(caught.value)


def test_freed_at_the_end_of_a_context(allocator: Allocator) -> None:
    """BLOCK-6: and not twice where it is gone already, by a free or a reset inside."""
    for make_handle in (lambda: allocator.alloc_value("d", 1.0), lambda: allocator.alloc_array("d", [1.0, 2.0])):
        with make_handle() as handle:
            assert handle.block.alive
        assert not handle.block.alive
        with make_handle() as handle:
            handle.free()
        with make_handle() as handle, handle:
            pass
        with pytest.raises(ZeroDivisionError), make_handle() as handle:
            raise ZeroDivisionError
        assert not handle.block.alive
    assert allocator.stats.frees == 8


def test_a_reset_inside_the_context(nm: Binding) -> None:
    """BLOCK-6"""
    for allocator in (nm.Arena(), nm.Stack(1000)):
        with allocator.alloc_value("d", 1.0) as handle:
            allocator.reset()
        assert not handle.block.alive
        assert allocator.stats.frees == 0


def test_a_handle_of_a_gone_block(allocator: Allocator) -> None:
    """BLOCK-6, BLOCK-2: nothing is read or written through it, on either backend."""
    value, array = allocator.alloc_value("d", 1.0), allocator.alloc_array("d", [1.0])
    array.free()
    value.free()
    for call in (
        lambda: value.value,
        lambda: setattr(value, "value", 2.0),
        value.__enter__,
        lambda: array[0],
        lambda: array.__setitem__(0, 2.0),
        lambda: list(array),
        array.__enter__,
    ):
        with unchanged(allocator), pytest.raises(StaleBlock, match="was freed"):
            call()
    assert "freed" in repr(value)
    assert "freed" in repr(array)


def test_a_handle_holds_its_chain(nm: Binding) -> None:
    """BLOCK-6, LIFE-3"""
    system = nm.System()
    value = nm.Arena(upstream=system).alloc_value("d", 1.5)
    collect()
    assert value.value == 1.5
    del value
    collect()
    assert system.stats.live == 0


def test_a_handle_frees_itself(nm: Binding) -> None:
    """BLOCK-6"""
    heap = nm.Heap()
    heap.alloc_value("d", 1.5)
    heap.alloc_array("d", 100)
    collect()
    assert (heap.stats.live, heap.stats.frees) == (0, 2)


# --- Array ---


@pytest.mark.parametrize(("fmt", "value", "other", "bad"), RECORDS)
def test_array(nm: Binding, fmt: str, value: object, other: object, bad: object) -> None:
    """BLOCK-6: items one behind the other, indexed as a list is."""
    system = nm.System()
    items = [value, other, value, other, other]
    array = system.alloc_array(fmt, items)
    assert (len(array), list(array), array.format) == (5, items, fmt)
    assert array.block.size == 5 * struct.calcsize(fmt)
    assert (array[0], array[-1], array[1:4], array[::-2]) == (value, other, items[1:4], items[::-2])
    array[-5] = other
    assert array[0] == other
    for index in (5, -6, 1 << 70):
        with unchanged(system), pytest.raises(IndexError):
            array[index]
        with unchanged(system), pytest.raises(IndexError):
            array[index] = value
    for index in ("0", None, 1.0):
        with unchanged(system), pytest.raises(TypeError):
            array[index]
    with unchanged(system), pytest.raises(InvalidLayout):
        array[1] = bad
    assert array[1] == other
    with unchanged(system), pytest.raises(InvalidLayout):
        system.alloc_array(fmt, [value, bad])


def test_zeros(allocator: Allocator) -> None:
    """BLOCK-6: so many, also where the memory was used before; of no items as well."""
    block = allocator.alloc(800)
    with memoryview(block) as view:
        view[:] = b"\xff" * 800
    block.free()
    array = allocator.alloc_array("d", 100)
    assert list(array) == [0.0] * 100
    empty = allocator.alloc_array("d", 0)
    assert (len(empty), list(empty), empty.block.size) == (0, [], 0)
    with pytest.raises(IndexError):
        empty[0]
    assert len(allocator.alloc_array("i", [])) == 0
    assert list(allocator.alloc_array("i", (n * n for n in range(4)))) == [0, 1, 4, 9]


@pytest.mark.parametrize("n", [-1, 1.5, True, 1 << 60, 1 << 63, 1 << 64, object()])
def test_bad_counts(nm: Binding, n: object) -> None:
    """BLOCK-6, LAYOUT-4: also where the product overflows."""
    system = nm.System()
    with unchanged(system), pytest.raises(InvalidLayout) as caught:
        system.alloc_array("d", n)
    assert is_one_line(caught.value)


@pytest.mark.parametrize("chain", CHAINS)
def test_a_refused_array_leaves_nothing(nm: Binding, chain: str) -> None:
    """BLOCK-6"""
    allocator = make(nm, chain)
    n = (traits_of(allocator).largest or (1 << 61)) + 1
    with pytest.raises((MemoryError, InvalidLayout)):
        allocator.alloc_array("B", n)
    assert (allocator.stats.live, allocator.blocks()) == (0, [])
    if any(link.owner for link in chain_of(allocator)):
        assert allocator.owner.used == 0


def test_exports_are_held_no_longer_than_an_access(allocator: Allocator) -> None:
    """BLOCK-3, BLOCK-6: a handle does not keep its block from being freed; a memoryview does."""
    array = allocator.alloc_array("i", [1, 2, 3])
    assert sum(array) == 6
    with memoryview(array.block), pytest.raises(BufferError):
        array.free()
    array.free()


# --- TypedArena ---


@pytest.mark.parametrize(("fmt", "value", "other", "bad"), RECORDS)
def test_typed_arena(nm: Binding, fmt: str, value: object, other: object, bad: object) -> None:
    """ARENA-8: one element type, indexable; an item that does not fit adds nothing."""
    system = nm.System()
    items = nm.TypedArena(fmt, hint=128, upstream=system)
    expected = [value if n % 3 else other for n in range(200)]
    assert [items.append(item) for item in expected] == list(range(200))
    assert (len(items), list(items), items.format) == (200, expected, fmt)
    assert (items[0], items[-1], items[199], items[-200]) == (other, expected[-1], expected[-1], other)
    items[77] = value
    expected[77] = value
    assert list(items) == expected
    with pytest.raises(InvalidLayout):
        items.append(bad)
    with pytest.raises(InvalidLayout):
        items[0] = bad
    assert list(items) == expected
    for index in (200, -201, 1 << 70):
        with pytest.raises(IndexError):
            items[index]
    for index in ("0", 1.5, slice(2)):
        with pytest.raises(TypeError):
            items[index]
    items.close()
    assert system.stats.live == 0


def test_a_value_is_read_once(nm: Binding) -> None:
    """BLOCK-6, ARENA-8: an iterator gives its fields once."""
    number = nm.Heap().alloc_value("2d", iter((1.0, 2.0)))
    assert number.value == (1.0, 2.0)
    number.value = iter((3.0, 4.0))
    assert number.value == (3.0, 4.0)
    points = nm.TypedArena("2d")
    assert points.append(iter((1.0, 2.0))) == 0
    points[0] = iter((3.0, 4.0))
    assert list(points) == [(3.0, 4.0)]


def test_a_value_that_drops_the_items(nm: Binding) -> None:
    """ARENA-8: an item appears when its value is known, and an index counts from then on."""
    numbers = nm.TypedArena("q")
    numbers.extend(range(3))

    class Resetting:
        def __index__(self) -> int:
            numbers.reset()
            return 7

    with pytest.raises(IndexError):
        numbers[2] = Resetting()
    assert list(numbers) == []
    numbers.append(1)
    assert numbers.append(Resetting()) == 0
    assert list(numbers) == [7]


def test_extend(nm: Binding) -> None:
    """ARENA-8: what comes before an item that fails stays."""
    items = nm.TypedArena("i")
    items.extend(range(5))
    with pytest.raises(InvalidLayout):
        items.extend([5, 6, "x", 7])
    assert list(items) == [0, 1, 2, 3, 4, 5, 6]


def test_reset_of_a_typed_arena(nm: Binding) -> None:
    """ARENA-8, ARENA-4"""
    system = nm.System()
    items = nm.TypedArena("q", upstream=system)
    for _ in range(3):
        items.extend(range(1000))
        count = system.stats.count
        items.reset()
        assert (len(items), list(items), items.stats.current) == (0, [], 0)
        with pytest.raises(IndexError):
            items[0]
    items.extend(range(1000))
    assert system.stats.count == count, "memory is kept for reuse"
    assert items.arena.generation == 3
    assert list(items) == list(range(1000))


def test_a_typed_arena_is_bounded(nm: Binding) -> None:
    """ARENA-8, ARENA-1: to the last whole item under the cap, whatever the runs are."""
    for cap in (100, 1000, 5000, 10_000):
        items = nm.TypedArena("d", cap=cap)
        for n in range(cap // 8):
            items.append(float(n))
        before = items.stats
        with pytest.raises(ArenaExhausted) as caught:
            items.append(0.0)
        assert is_one_line(caught.value)
        assert items.stats.reserved <= cap
        assert items.stats.current == before.current
        assert list(items) == [float(n) for n in range(cap // 8)], cap
        items.reset()
        items.append(1.0)


def test_a_budget_bounds_a_typed_arena(nm: Binding) -> None:
    """ARENA-8, LIM-1"""
    budget = nm.Budget(1000)
    items = nm.TypedArena("d", hint=64, upstream=nm.Limited(nm.System(), budget))
    with pytest.raises(BudgetExceeded):
        items.extend(0.0 for _ in range(10_000))
    kept = len(items)
    assert kept >= 8
    assert list(items) == [0.0] * kept
    items.close()
    assert budget.used == 0


def test_a_typed_arena_that_is_closed(nm: Binding) -> None:
    """ARENA-8, LIFE-1"""
    system = nm.System()
    with nm.TypedArena("d", upstream=system) as items:
        items.append(1.0)
    items.close()
    assert items.closed
    assert system.stats.live == 0
    for call in (
        lambda: items.append(1.0),
        lambda: items[0],
        lambda: items.__setitem__(0, 1.0),
        lambda: list(items),
        items.reset,
        items.__enter__,
        lambda: items.stats,
    ):
        with pytest.raises(StaleHandle):
            call()


def test_a_reset_behind_its_back(nm: Binding) -> None:
    """ARENA-8, LIFE-3: the arena's own reset is refused while it shows items, so none of them dangles."""
    items = nm.TypedArena("d")
    items.append(1.5)
    for call in (items.arena.reset, items.arena.close):
        with pytest.raises(BufferError):
            call()
    assert list(items) == [1.5]


def test_a_typed_arena_belongs_to_its_thread(nm: Binding) -> None:
    """ARENA-8, ARENA-5"""
    items = nm.TypedArena("d")
    items.append(1.0)
    for call in (
        lambda: items.append(2.0),
        lambda: items[0],
        lambda: items.__setitem__(0, 2.0),
        items.reset,
        items.close,
    ):
        with pytest.raises(WrongThread):
            in_thread(call)
    assert list(items) == [1.0]
    assert not items.closed


@pytest.mark.parametrize(
    ("arguments", "section"),
    [({"hint": 0}, "arena.hint"), ({"cap": -1}, "arena.cap"), ({"patterns": 1}, "arena.patterns")]
    + [({"zero_on_free": 1}, "arena.zero_on_free"), ({"upstream": 3}, "arena.upstream")],
)
def test_bad_configuration(nm: Binding, arguments: dict[str, object], section: str) -> None:
    """CFG-1"""
    with pytest.raises((ConfigError, InvalidLayout)) as caught:
        nm.TypedArena("d", **arguments)
    assert str(caught.value).startswith(section + ":")


def test_a_large_element(nm: Binding) -> None:
    """ARENA-8: one that is larger than the first chunk."""
    items = nm.TypedArena("5000s", hint=64)
    for n in range(5):
        items.append(bytes([n]) * 5000)
    assert list(items) == [bytes([n]) * 5000 for n in range(5)]


def test_a_close_that_fails_leaves_the_items(nm: Binding) -> None:
    """ARENA-8"""
    typed = nm.TypedArena("d")
    typed.extend([1.5, 2.5])
    with memoryview(typed.arena.blocks()[0]):
        for verb in (typed.reset, typed.close):
            with pytest.raises(BufferError):
                verb()
            assert list(typed) == [1.5, 2.5] and not typed.closed
    typed.append(3.5)
    typed.close()
    assert typed.closed


def test_a_record_that_is_larger_than_a_run(nm: Binding) -> None:
    """Room is taken for one at a time."""
    with nm.TypedArena("100000s") as items:
        for n in (1, 2, 3):
            items.append(b"x")
            assert (len(items), items.stats.live) == (n, n)
            assert 100_000 * n <= items.stats.current < 100_000 * (n + 1)


@pytest.mark.unplanted("where there is no memory for a run an item comes by itself")
@pytest.mark.parametrize(
    ("fmt", "arguments", "runs"),
    [
        ("d", {}, [512, 512]),  # 4096 bytes
        ("d", {"align": 64}, [64, 64]),  # as far apart
        ("d", {"hint": 1000}, [125, 125]),
        ("d", {"hint": 64, "cap": 2048}, [8, 8]),
        ("d", {"cap": 2000}, [250, 0]),
        ("2000s", {}, [2, 2]),
        ("5000s", {}, [1, 1]),
    ],
)
def test_items_come_in_runs(nm: Binding, fmt: str, arguments: dict[str, Any], runs: list[int]) -> None:
    """ARENA-8: of 4096 bytes, or of what the arena's first chunk has, or of one item that is larger."""
    arena = nm.TypedArena(fmt, **arguments)
    value = 1.5 if fmt == "d" else b"x"
    for n, items in enumerate(runs):
        for _ in range(items):
            arena.append(value)
            assert arena.stats.live == n + 1
    stride = max({"d": 8, "2000s": 2000, "5000s": 5000}[fmt], arguments.get("align", 0))
    assert (arena.stats.current, len(arena)) == (sum(runs) * stride, sum(runs))


@pytest.mark.parametrize(
    ("fmt", "value", "advice"),
    [
        ("i", "x", "text is encoded first, as name.encode(), and decoded when it comes back"),
        ("4s i", ("x", 1), "text is encoded first, as name.encode(), and decoded when it comes back"),
        ("i", (1, 2), "an item is one value"),
        ("2i", (1, 2, 3), "an item is a tuple of 2 values"),
        ("2i", 1, "an item is a tuple of 2 values"),
        ("b", 300, "values are those that struct.pack takes: ints in the range of their field, bytes for s and p"),
    ],
)
def test_advice_for_a_value_that_does_not_fit(nm: Binding, fmt: str, value: Any, advice: str) -> None:
    """ARENA-8"""
    with nm.TypedArena(fmt) as arena, pytest.raises(InvalidLayout) as caught:
        arena.append(value)
    assert caught.value.suggestion == advice


def test_a_run_for_which_there_is_no_memory(nm: Binding) -> None:
    """Either both of an arena's lists have it or neither: what comes after it lies where it is read."""

    class Full(list):  # type: ignore[type-arg]
        full = False

        def append(self, item: Any) -> None:
            if self.full:
                raise MemoryError
            super().append(item)

    with nm.TypedArena("i") as arena:
        arena.append(7)
        starts = arena._starts = Full(arena._starts)
        starts.full = True
        with pytest.raises(MemoryError):
            arena.extend(range(10**6))
        starts.full, count = False, len(arena)
        arena.extend(range(count, count + 50_000))
        assert arena[count + 49_999] == count + 49_999 and arena[0] == 7
