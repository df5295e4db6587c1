"""COLL: layouts, boundaries, words and refusals of the bounded collections, one by one."""

from __future__ import annotations

import copy
import math
import pickle
import struct
import sys
import types
from collections import deque
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from nativemem.backends.binding import Binding
from nativemem.errors import BudgetExceeded, CapacityExceeded, ConfigError, InvalidLayout, StaleHandle
from nativemem.manager import CappedProvider, StdProvider
from nativemem.manager.collections import bound
from nativemem.manager.collections.records import Record
from nativemem.manager.collections.storage import Storage, capacity_of
from nativemem.sizes import SIZE_MAX


@pytest.fixture
def cs(nm: Binding) -> SimpleNamespace:
    """The collections of the backend."""
    return bound(nm)


# --- formats


S, U = {1: 0, 2: 2, 4: 4, 8: 6}, {1: 1, 2: 3, 4: 5, 8: 7}
SWAPPED = "<" if sys.byteorder == "big" else ">"
L = struct.calcsize("l")
#: by format: fields as kind, offset and size; the code of a cast; whether there are gaps
FORMATS: dict[str, tuple[tuple[tuple[int, int, int], ...], str, bool]] = {
    "b": (((0, 0, 1),), "b", False),
    "B": (((1, 0, 1),), "B", False),
    "h": (((2, 0, 2),), "h", False),
    "H": (((3, 0, 2),), "H", False),
    "i": (((4, 0, 4),), "i", False),
    "I": (((5, 0, 4),), "I", False),
    "q": (((6, 0, 8),), "q", False),
    "Q": (((7, 0, 8),), "Q", False),
    "l": (((S[L], 0, L),), "l", False),
    "N": (((U[struct.calcsize("N")], 0, struct.calcsize("N")),), "N", False),
    "f": (((8, 0, 4),), "f", False),
    "d": (((9, 0, 8),), "d", False),
    "?": (((10, 0, 1),), "?", False),
    "3s": (((11, 0, 3),), "", False),
    "3p": (((12, 0, 3),), "", False),
    "1i": (((4, 0, 4),), "i", False),
    "<i": (((4, 0, 4),), "i" if sys.byteorder == "little" else "", False),
    "=l": (((4, 0, 4),), "" if L != 4 else "l", False),
    "@i": (((4, 0, 4),), "i", False),
    "bi": (((0, 0, 1), (4, 4, 4)), "", True),
    "=bi": (((0, 0, 1), (4, 1, 4)), "", False),
    "2h": (((2, 0, 2), (2, 2, 2)), "", False),
    "hx": (((2, 0, 2),), "", True),
    "2xh": (((2, 2, 2),), "", True),
    "4sH2p": (((11, 0, 4), (3, 4, 2), (12, 6, 2)), "", False),
    "c": ((), "", True),
    "e": ((), "", True),
    "P": ((), "", True),
    "64B": (tuple((1, i, 1) for i in range(64)), "", False),
    "65B": ((), "", True),
}


def test_formats() -> None:
    """What a backend packs by itself, and what it leaves to the struct module."""
    for form, (fields, code, gaps) in FORMATS.items():
        record = Record(form, "x")
        assert (form, record.fields, record.code) == (form, fields, code)
        size, single, has_gaps, key, same, pack, unpack = record.spec
        assert (size, single, has_gaps, key, same) == (record.size, len(record.unpack(bytes(record.size), 0)) == 1
                if not record.single else True, gaps, False, fields)  # fmt: skip
        assert pack == record.pack_item and unpack == record.unpack_item
        keyed = Record(form, "x", key=True)
        assert keyed.spec[3] is True and keyed.spec[5] == keyed.pack_key and keyed.label == "x"
    for order in ("h", "bi"):
        assert Record(SWAPPED + order, "x").fields == ()
    if sys.byteorder == "little":
        assert Record("!h", "x").fields == () and Record("!h", "x").code == ""
    for nothing in ("x", "3x"):
        with pytest.raises(InvalidLayout, match=f"^x format: '{nothing}' is a format of no values"):
            Record(nothing, "x")


def test_widths_of_texts() -> None:
    """As many bytes as an `s` field has, one less of a `p` field, and 255 at the most."""
    assert Record("i3s2xh5p300p1p", "x")._widths == {1: 3, 3: 4, 4: 255, 5: 0}
    assert Record("256p", "x")._widths == {0: 255} and Record("257p", "x")._widths == {0: 255}
    assert Record("255p", "x")._widths == {0: 254} and Record("0s4s", "x")._widths == {0: 0, 1: 4}
    assert Record("f2hf3f", "x")._singles == [0, 3, 4, 5, 6] and Record("d", "x")._singles == []
    assert len(Record("5000f", "x")._singles) == 4096
    record = Record("3s", "x")
    assert record.pack_item(b"abc") == b"abc" and record.pack_item(b"a") == b"a\0\0"
    for text, n in ((b"abcd", 4), (bytearray(b"abcde"), 5)):
        with pytest.raises(InvalidLayout) as caught:
            record.pack_item(text)
        assert str(caught.value).endswith(f" does not fit the format '3s': it has {n} bytes, and the field 3")
        assert caught.value.suggestion == "shorten it, or make the field wider"
    pair = Record("h3s", "x")
    assert pair.pack_item((1, b"abc")) == pair.pack_item([1, b"abc"]) == struct.pack("h3s", 1, b"abc")
    for wrong in ((1,), (1, b"abc", 2), 3, (1, "abc"), (1 << 20, b"a"), None):
        with pytest.raises(InvalidLayout, match="^x: .* does not fit the format 'h3s'"):
            pair.pack_item(wrong)
    assert pair.unpack_item(struct.pack("h3s", 5, b"x")) == (5, b"x\0\0")


LARGEST = 3.4028234663852886e38
BEYOND = (2 - 2**-24) * 2.0**127


def test_numbers_of_single_precision() -> None:
    """What rounds to an infinity does not fit; an infinity and a NaN do."""
    record = Record("f", "x")
    for number in (LARGEST, -LARGEST, math.nextafter(BEYOND, 0), 0, 1, math.inf, -math.inf):
        assert record.pack_item(number) == struct.pack("f", number)
    assert math.isnan(record.unpack_item(record.pack_item(math.nan)))
    for number in (BEYOND, -BEYOND, 1e300, 1 << 200):
        with pytest.raises(InvalidLayout) as caught:
            record.pack_item(number)
        assert caught.value.suggestion == "take d, of twice the size"
    for wrong in ("x", None, 1 << 2000, 1j):
        with pytest.raises(InvalidLayout) as caught:
            record.pack_item(wrong)
        assert caught.value.suggestion != "take d, of twice the size"
    pair = Record("hf", "x")
    for wrong in ((1, 1e300), (1,), (1, 2.0, 3)):
        with pytest.raises(InvalidLayout):
            pair.pack_item(wrong)
    assert pair.pack_item((1, 2.5)) == struct.pack("hf", 1, 2.5)


def test_keys_come_back_as_they_were() -> None:
    """Or they are none; equal ones are packed the same."""
    least = -(1 << 63)
    for form, same, none in (
        ("q", [(1, 1.0, True), (0, -0.0, False), (least,)], [1.5, math.nan, math.inf, "1", 1 << 63, 1j, (1,)]),
        ("d", [(0.0, -0.0, 0), (1.5,), (2, 2.0)], [math.nan, "x", (1.0,)]),
        ("f", [(0.5,), (math.inf,)], [0.1, 1e300, math.nan]),
        ("?", [(True, 1, 1.0), (False, 0)], [2, "x", None]),
        ("3s", [(b"ab", b"ab\0"), (b"", b"\0\0\0"), (b"abc",)], [b"abcd", "ab", 3]),
        ("3p", [(b"ab",), (b"a\0",), (b"",)], [b"abc", "a"]),
        ("hd", [((1, 2.0), (1.0, 2), (True, 2.0))], [(1,), (1, 2.0, 3), 1, (1.5, 2.0), (1, math.nan), "ab"]),
    ):  # fmt: skip
        record = Record(form, "x", key=True)
        packed = [{record.pack_key(key) for key in keys} for keys in same]
        assert [len(each) for each in packed] == [1] * len(same) and len(set.union(*packed)) == len(same)
        for key in none:
            with pytest.raises(InvalidLayout, match="^x: "):
                record.pack_key(key)
    assert Record("3shh", "x", key=True).pack_key((b"a", 1, 2)) == struct.pack("3shh", b"a", 1, 2)
    assert Record("h3sh", "x", key=True).pack_key((1, b"a\0", 2)) == struct.pack("h3sh", 1, b"a", 2)
    for unhashable in ([1], {}, bytearray(b"ab")):
        with pytest.raises(TypeError, match="unhashable"):
            Record("q", "x", key=True).pack_key(unhashable)
    with pytest.raises(InvalidLayout) as caught:
        Record("f", "x", key=True).pack_key(0.1)
    assert ": it would come back as 0.1000000" in str(caught.value)
    assert caught.value.suggestion == "take a format that holds such keys exactly"
    with pytest.raises(InvalidLayout) as caught:
        Record("f", "x", key=True).pack_key(1 << 24 | 1)
    assert "it would come back as 16777216.0" in str(caught.value)


# --- memory


def test_capacities() -> None:
    assert [capacity_of(n, "x") for n in (1, SIZE_MAX)] == [1, SIZE_MAX] and capacity_of(5, "x", 5) == 5
    for wrong, most in (
        (0, 5),
        (6, 5),
        (-1, 5),
        (True, 5),
        (1.0, 5),
        ("1", 5),
        (None, 5),
        (SIZE_MAX + 1, SIZE_MAX),
    ):
        with pytest.raises(InvalidLayout) as caught:
            capacity_of(wrong, "x", most)
        assert str(caught.value).startswith(f"x: capacity takes a number of items from 1 to {most}, not ")
        assert caught.value.suggestion == "give the most that it shall ever hold"


def test_how_much_memory_each_takes(cs: SimpleNamespace) -> None:
    """Items side by side; of a table entries in whole words and slots for a quarter more than can be; of bits whole
    words."""
    for capacity, slots in ((1, 2), (2, 4), (3, 4), (4, 8), (6, 8), (7, 16), (12, 16), (13, 32), (100, 128)):
        assert cs.BoundedSet(capacity, "q").nbytes == 8 * slots + 16 * capacity
        assert cs.BoundedMap(capacity, "q", "q").nbytes == 8 * slots + 24 * capacity
    for form, stride in (("b", 16), ("q", 16), ("9s", 24), ("8s", 16)):
        assert cs.BoundedSet(2, form).nbytes == 8 * 4 + stride * 2
    assert cs.BoundedMap(2, "b", "7s").nbytes == 32 + 2 * 16 and cs.BoundedMap(2, "b", "8s").nbytes == 32 + 2 * 24
    for bits, size in ((1, 8), (64, 8), (65, 16), (128, 16), (129, 24)):
        assert cs.BoundedBitSet(bits).nbytes == size
    for name in ("BoundedList", "BoundedStack", "BoundedQueue", "BoundedDeque"):
        assert getattr(cs, name)(5, "3s").nbytes == 15
    assert cs.BoundedString(7).nbytes == 7


def test_the_most_that_there_can_be(cs: SimpleNamespace, nm: Binding) -> None:
    budget = nm.Budget(1000)
    for make, most in (
        (lambda n: cs.BoundedSet(n, "b", upstream=budget), (1 << 32) - 2),
        (lambda n: cs.BoundedMap(n, "b", "b", upstream=budget), (1 << 32) - 2),
        (lambda n: cs.BoundedBitSet(n, upstream=budget), SIZE_MAX),
    ):
        with pytest.raises((BudgetExceeded, MemoryError)):
            make(most)
        with pytest.raises(InvalidLayout, match=f"capacity takes a number of items from 1 to {most}, not "):
            make(most + 1)
    with pytest.raises(
        InvalidLayout, match=f"^BoundedList: {SIZE_MAX * 8} bytes is not a size that a block can have"
    ):
        cs.BoundedList(SIZE_MAX, "q", upstream=budget)
    assert budget.used == 0


def test_where_memory_comes_from(nm: Binding) -> None:
    system, budget = nm.System(), nm.Budget(1000)
    plain = Storage(nm, None, 8, "x")
    assert plain.upstream is None and plain.owner is None and memoryview(plain.memory).nbytes == 8
    assert Storage(nm, system, 8, "x").upstream is system
    charged = Storage(nm, budget, 8, "x")
    assert charged.owner is budget is charged.upstream and budget.used == 8
    charged.close()
    assert budget.used == 0
    with pytest.raises(ConfigError, match="^x: upstream takes an allocator, a Budget or a provider, not 3"):
        Storage(nm, 3, 8, "x")
    with pytest.raises(ConfigError, match="^x: upstream takes an allocator"):
        Storage(nm, SimpleNamespace(acquire=1, release=1, resize=1), 8, "x")
    with pytest.raises(InvalidLayout, match=f"^x: {SIZE_MAX + 1} bytes is not a size that a block can have"):
        Storage(nm, None, SIZE_MAX + 1, "x")
    with pytest.raises(BudgetExceeded):
        Storage(nm, budget, SIZE_MAX, "x")
    provider = StdProvider(upstream=system)
    provider.resize(2)
    with pytest.raises(ConfigError, match="^x: upstream takes an empty provider; this one has 2 bytes"):
        Storage(nm, provider, 8, "x")
    assert len(provider) == 2


def test_a_provider_as_the_memory(nm: Binding) -> None:
    """It is resized once, and empty again; what fails on the way leaves it as it was."""
    provider: Any = CappedProvider(64, upstream=nm.System())
    storage = Storage(nm, provider, 16, "x")
    assert len(provider) == 16 == storage.memory.nbytes
    view = storage.lend(memoryview(storage.memory)[:4])
    with pytest.raises(BufferError, match="^close refused while a view of the items is out; release that first$"):
        storage.close()
    view.release()
    assert storage.lend(memoryview(storage.memory)[:4]) is not None
    assert len(storage._views) <= 1, "what was released is not kept"
    storage._views.clear()
    outside = provider.acquire(0, 1)
    with pytest.raises(BufferError):
        storage.close()
    assert storage.memory.nbytes == 16 and len(provider) == 16
    provider.release(outside)
    storage.close()
    assert len(provider) == 0

    class Fails(StdProvider):
        __slots__ = ()

        def acquire(self, offset: int = 0, n: int | None = None) -> memoryview:
            raise OSError("no view")

    failing = Fails(upstream=nm.System())
    with pytest.raises(OSError, match="no view"):
        Storage(nm, failing, 8, "x")
    assert len(failing) == 0
    pinned: Any = StdProvider(upstream=nm.System())
    held = Storage(nm, pinned, 8, "x")
    empty = held.lend(memoryview(held.memory)[:0])
    with pytest.raises(BufferError, match="release that first"):
        held.close()
    empty.release()
    held.close()
    block = Storage(nm, None, 8, "x")
    assert block.lend(memoryview(b"x")) is not None and block._views == []


# --- refusals


def test_words_of_a_full_one(cs: SimpleNamespace, nm: Binding) -> None:
    budget = nm.Budget(1000, "owner")
    items = cs.BoundedList(3, "b", [1, 2], upstream=budget)
    for n, said in ((2, "2 more items"), (3, "3 more items")):
        with pytest.raises(CapacityExceeded) as caught:
            items.extend(list(range(n)))
        assert str(caught.value) == f"BoundedList: no room for {said}; 2 of 3 are in use"
        assert caught.value.suggestion == "take items out first, or make it with more capacity"
        state = caught.value.state
        assert (state["requested"], state["used"], state["limit"], state["owner"]) == (n, 2, 3, "owner")
    items.append(3)
    with pytest.raises(CapacityExceeded) as caught:
        items.append(4)
    assert str(caught.value) == "BoundedList: no room for 1 more item; 3 of 3 are in use"
    text = cs.BoundedString(3, "é")
    with pytest.raises(CapacityExceeded) as caught:
        text.append("ab")
    assert str(caught.value) == "BoundedString: no room for 2 more bytes; 2 of 3 are in use"
    assert caught.value.suggestion == "take bytes out first, or make it with more capacity"
    assert caught.value.state["owner"] is None
    with pytest.raises(CapacityExceeded, match="no room for 1 more byte; 3 of 3 are in use"):
        cs.BoundedString(3, "abc").append("d")
    for name in ("BoundedList", "BoundedString", "BoundedBitSet"):
        made = {"BoundedList": lambda: cs.BoundedList(1, "b"), "BoundedString": lambda: cs.BoundedString(1),
                "BoundedBitSet": lambda: cs.BoundedBitSet(1)}[name]()  # fmt: skip
        made.close()
        made.close()
        with pytest.raises(StaleHandle, match=f"^{name}: is closed"):
            len(made) if name != "BoundedBitSet" else made.update([])
        assert repr(made) == f"<{name} closed>" and made.nbytes == 0


def test_the_end_of_a_with_block(cs: SimpleNamespace) -> None:
    """A view that is out is told of, but not in place of another error."""
    made = cs.BoundedList(3, "b", [1])
    view = made.view()
    with pytest.raises(LookupError), made:
        raise LookupError
    with pytest.raises(BufferError), made as same:
        assert same is made
    assert not made.closed and made[0] == 1 and made.append(2) is None
    view.release()
    with made:
        pass
    assert made.closed
    with pytest.raises(StaleHandle):
        made.__enter__()
    with pytest.raises(
        TypeError, match="^cannot pickle 'BoundedList': memory has one owner; pickle a list or dict"
    ):
        pickle.dumps(made)


# --- tables


def test_views_of_a_map(cs: SimpleNamespace) -> None:
    made = cs.BoundedMap(4, "b", "h", {1: 10, 3: 30, 2: 20})
    assert list(made.keys()) == [1, 3, 2] and list(reversed(made.keys())) == [2, 3, 1]
    assert list(made.values()) == [10, 30, 20] and list(reversed(made.values())) == [20, 30, 10]
    assert list(made.items()) == [(1, 10), (3, 30), (2, 20)] and list(reversed(made.items())) == [
        (2, 20),
        (3, 30),
        (1, 10),
    ]
    assert (20 in made.values(), 21 in made.values(), 1 in made.keys(), 9 in made.keys()) == (
        True,
        False,
        True,
        False,
    )
    assert ((1, 10) in made.items(), (1, 11) in made.items()) == (True, False)
    large = cs.BoundedMap(2, "b", "q", {1: 1 << 40})
    assert (1 << 40 in large.values(), (1 << 40) + 1 in large.values()) == (True, False)
    assert made.keys() & {1, 9} == {1} and len(made.items()) == 3

    class Never:
        def __eq__(self, other: object) -> bool:
            return False

    assert Never() not in made.values()


def test_maps_that_are_equal(cs: SimpleNamespace) -> None:
    made = cs.BoundedMap(4, "b", "h", {1: 10, 2: 20})
    same = {2: 20, 1: 10}
    for other in (same, types.MappingProxyType(same), cs.BoundedMap(9, "q", "q", same)):
        assert made == other and not made != other

    class Plain(Mapping[int, int]):
        """It compares with nothing by itself."""

        def __getitem__(self, key: int) -> int:
            return same[key]

        def __iter__(self) -> Iterator[int]:
            return iter(same)

        def __len__(self) -> int:
            return len(same)

        def __eq__(self, other: object) -> bool:
            return NotImplemented

        __hash__ = None  # type: ignore[assignment]

    assert made.__eq__(Plain()) is True
    for other in ({1: 10}, {1: 10, 2: 21}, {}, types.MappingProxyType({1: 10}), [(1, 10), (2, 20)], 3):
        assert made != other and not made == other
    assert repr(made) == "BoundedMap(4, 'b', 'h', {1: 10, 2: 20})" and (made.key_format, made.value_format) == (
        "b",
        "h",
    )
    made |= {3: 30}
    made.update([(4, 40)])
    assert dict(made) == {**same, 3: 30, 4: 40}
    with pytest.raises(CapacityExceeded, match="no room for 2 more items; 4 of 4"):
        made.update({5: 1, 6: 1, 1: 1})
    assert made[1] == 10
    other = copy.copy(made)
    assert type(other) is type(made) and other == made and other.capacity == 4 and copy.deepcopy(made) == made
    made.close()
    for call in (lambda: made.update({}), made.copy, lambda: made.update(a=1)):
        with pytest.raises(StaleHandle):
            call()


def test_sets_and_other_iterables(cs: SimpleNamespace) -> None:
    """Operators give plain sets, of anything that can be iterated over."""
    made = cs.BoundedSet(4, "b", [1, 2, 3])
    for other in ({2, 3, 4}, frozenset((2, 3, 4)), [2, 3, 4, 4], iter((2, 3, 4)), range(2, 5)):
        again = other if not hasattr(other, "__next__") else None
        for operator, result in (("&", {2, 3}), ("|", {1, 2, 3, 4}), ("-", {1}), ("^", {1, 4})):
            right: Any = iter((2, 3, 4)) if again is None else again
            found = {
                "&": lambda r: made & r,
                "|": lambda r: made | r,
                "-": lambda r: made - r,
                "^": lambda r: made ^ r,
            }[operator](right)
            assert found == result and type(found) is set
    for wrong in (3, None):
        for call in (
            lambda w=wrong: made & w, lambda w=wrong: made | w, lambda w=wrong: made - w, lambda w=wrong: made ^ w,
            lambda w=wrong: made.__ior__(w)[0], lambda w=wrong: made.__ixor__(w)[0],
        ):  # fmt: skip
            with pytest.raises(TypeError):
                call()
        assert made.__ior__(wrong) is NotImplemented is made.__ixor__(wrong)
    assert made.__ior__([7]) is NotImplemented and list(made) == [1, 2, 3]
    made ^= [3, 4, 4, 5]
    assert list(made) == [1, 2, 4, 5] and repr(made) == "BoundedSet(4, 'b', [1, 2, 4, 5])"
    with pytest.raises(CapacityExceeded, match="no room for 2 more items; 4 of 4 are in use"):
        made ^= {1, 6, 7, 8}
    assert list(made) == [1, 2, 4, 5]
    made ^= [6, 6.0, 1, True, 2]
    assert sorted(made) == [4, 5, 6]
    made.update([1], (), {1})
    with pytest.raises(CapacityExceeded):
        made.update([2], [3])
    assert sorted(made) == [1, 4, 5, 6] and made == {1, 4, 5, 6} and made.copy() == made and made.item_format == "b"
    made.close()
    for call in (made.update, made.copy, lambda: made.__ixor__([])):
        with pytest.raises(StaleHandle):
            call()
    unread = iter([1])
    with pytest.raises(StaleHandle):
        made.__ixor__(unread)
    assert next(unread) == 1, "what is closed reads nothing"


# --- sequences


def test_what_sequences_compare_with(cs: SimpleNamespace) -> None:
    """A list and a stack with lists, a queue and a deque with deques, and with each other."""
    lists = [cs.BoundedList(3, "b", [1, 2]), cs.BoundedStack(4, "h", [1, 2])]
    deques = [cs.BoundedQueue(3, "b", [1, 2]), cs.BoundedDeque(4, "h", [1, 2])]
    for alike, like, others, unlike in ((lists, list, deques, deque), (deques, deque, lists, list)):
        for made in alike:
            for same in (like([1, 2]), *alike):
                assert made == same and made <= same and made >= same and not made < same and not made > same
            for more in (like([1, 3]), like([1, 2, 0])):
                assert made < more and made <= more and made != more and not made > more and not made >= more
            for less in (like([1]), like([0, 9])):
                assert made > less and made >= less and made != less and not made < less and not made <= less
            for other in (unlike([1, 2]), *others, 3):
                assert made != other
                for name in ("__lt__", "__le__", "__gt__", "__ge__", "__eq__"):
                    assert getattr(made, name)(other) is NotImplemented
            assert repr(made).endswith("[1, 2])")


def test_sorting(cs: SimpleNamespace) -> None:
    made = cs.BoundedList(5, "b", [3, -1, 2])
    made.sort()
    assert made == [-1, 2, 3]
    made.sort(reverse=True)
    assert made == [3, 2, -1]
    made.sort(key=abs)
    assert made == [-1, 2, 3] and repr(made) == "BoundedList(5, 'b', [-1, 2, 3])"
    for change in (lambda: made.append(9), made.clear):

        def key(value: int, change: Any = change) -> int:
            change()
            return value

        made[:] = [1]
        with pytest.raises(ValueError, match="^BoundedList modified during sort$"):
            made.sort(key=key)


def test_views_of_items(cs: SimpleNamespace) -> None:
    for form, items, shape in (
        ("d", [1.0, 2.0], (2,)),
        ("<i", [1, 2], (2,)),
        ("bh", [(1, 2)], (4,)),
        ("3s", [b"abc"], (3,)),
        ("q", [], (0,)),
    ):
        made = cs.BoundedList(4, form, items)
        with made.view() as view:
            assert view.shape == shape and not view.readonly
            with pytest.raises(BufferError):
                made.close()
        assert made.copy() == items and made.item_format == form
        made.close()
        with pytest.raises(StaleHandle):
            made.view()
        with pytest.raises(StaleHandle):
            made.copy()


# --- text


def test_text_at_its_boundaries(cs: SimpleNamespace) -> None:
    made = cs.BoundedString(5, "aé")
    assert (len(made), made.size, made.capacity, bytes(made), str(made)) == (2, 3, 5, "aé".encode(), "aé")
    made.append("bc")
    assert (len(made), made.size) == (4, 5)
    made.append("")
    made.extend([])
    made[0] = ""
    assert str(made) == "ébc" and made.size == 4 and len(made) == 3
    made.extend(["d", ""])
    with pytest.raises(CapacityExceeded, match="no room for 1 more byte; 5 of 5 are in use"):
        made.extend(iter(["", "x"]))
    with pytest.raises(CapacityExceeded, match="no room for 1 more byte; 5 of 5 are in use"):
        made[0] = "xyz"
    assert str(made) == "ébcd"
    made[1:3] = ["x", cs.BoundedString(1, "y")]
    made.insert(1, cs.BoundedString(1, "")) or made.insert(99, "")
    assert str(made) == "éxyd" and made.index("y") == 2 and made.index("d", 1, 9) == 3
    del made[0]
    del made[1:]
    assert str(made) == "x" and "x" in made and "" in made and "z" not in made and list(made) == ["x"]
    for start, stop in ((1, None), (0, 0)):
        with pytest.raises(ValueError, match="^'x' is not in the BoundedString$"):
            made.index("x", start, stop)
    endless = iter(lambda: "ab", None)
    with pytest.raises(CapacityExceeded):
        made.extend(endless)
    made += ["1", "2"]
    made += "3"
    assert str(made) == "x123" and str(made.copy()) == "x123" and made.copy().capacity == 5
    made.clear()
    assert (str(made), len(made), made.size) == ("", 0, 0)


def test_what_is_no_text(cs: SimpleNamespace) -> None:
    made = cs.BoundedString(9, "ab")
    for wrong, kind in ((3, "int"), (b"x", "bytes"), (None, "NoneType")):
        for call in (
            lambda w=wrong: made.append(w),
            lambda w=wrong: made.insert(0, w),
            lambda w=wrong: made.extend([w]),
            lambda w=wrong: made.__setitem__(0, w),
            lambda w=wrong: w in made,
            lambda w=wrong: cs.BoundedString(9, w),
            lambda w=wrong: cs.BoundedString.from_str_truncate(w, 9),
            lambda w=wrong: made.__setitem__(slice(0, 1), [w]),
        ):
            with pytest.raises(TypeError, match=f"^BoundedString: takes text, not {kind}$"):
                call()
    with pytest.raises(InvalidLayout) as caught:
        made.append("a\ud800b")
    assert str(caught.value) == "BoundedString: UTF-8 cannot hold '\\ud800', half of a surrogate pair"
    for half in ("\ud800", "a\udfff"):
        with pytest.raises(
            InvalidLayout, match=r"^BoundedString: UTF-8 cannot hold '\\ud\w+', half of a surrogate pair"
        ):
            made.append(half)
    assert str(made) == "ab"
    with pytest.raises(RuntimeError, match="^BoundedString: was initialised before$"):
        made.__init__(3)
    for wrong in (0, "x", None, -1):
        with pytest.raises(InvalidLayout, match="^BoundedString: capacity"):
            cs.BoundedString(wrong)
        with pytest.raises(InvalidLayout, match="^BoundedString: capacity"):
            cs.BoundedString.from_str_truncate("a", wrong)
    for text, capacity, cut in (
        ("naïve", 3, "na"),
        ("naïve", 4, "naï"),
        ("ab", 9, "ab"),
        ("é", 1, ""),
        (cs.BoundedString(3, "abc"), 2, "ab"),
    ):
        assert str(cs.BoundedString.from_str_truncate(text, capacity)) == cut


def test_what_text_compares_with(cs: SimpleNamespace) -> None:
    made = cs.BoundedString(9, "b")
    for other, less, equal in (("b", False, True), ("c", True, False), ("a", False, False)):
        for right in (other, cs.BoundedString(3, other)):
            assert (made < right, made == right, made > right) == (less, equal, not less and not equal)
            assert (made <= right, made >= right, made != right) == (less or equal, not less, not equal)
    for name in ("__lt__", "__le__", "__gt__", "__ge__", "__eq__"):
        assert getattr(made, name)(3) is NotImplemented is getattr(made, name)(b"b")
    assert repr(made) == "BoundedString(9, 'b')"


# --- bits


def test_bits_at_their_boundaries(cs: SimpleNamespace) -> None:
    for capacity in (1, 63, 64, 65, 128):
        made = cs.BoundedBitSet(capacity, [0, capacity - 1])
        assert list(made) == sorted({0, capacity - 1}) and capacity not in made and -1 not in made
        for wrong in (capacity, -1):
            with pytest.raises(IndexError) as caught:
                made.update([0], [wrong])
            assert str(caught.value) == f"BoundedBitSet: there is no bit {wrong} of {capacity}"
        made.invert()
        assert len(made) == capacity - len({0, capacity - 1}) and len(~made) == capacity - len(made)
        assert list(~made) == sorted({0, capacity - 1}) and list(made.runs()) == (
            [(1, capacity - 1)] if capacity > 2 else []
        )
        assert list((~made).runs()) == ([(0, 1), (capacity - 1, capacity)] if capacity > 1 else [(0, 1)])
        larger = cs.BoundedBitSet(capacity + 1, [capacity])
        with pytest.raises(IndexError, match=f"there is no bit {capacity} of {capacity}"):
            made.update(larger)
        made.update(cs.BoundedBitSet(capacity + 1, [capacity - 1]))
        assert capacity - 1 in made
        for wrong in ("0", 1.0, None):
            with pytest.raises(TypeError, match=f"^BoundedBitSet takes ints, not {type(wrong).__name__}$"):
                made.update([wrong])
    empty = cs.BoundedBitSet(5)
    with pytest.raises(KeyError, match="pop from an empty BoundedBitSet"):
        empty.pop()
    with pytest.raises(KeyError, match="3"):
        empty.remove(3)
    empty.update([2, 3, 4])
    assert empty.remove(2) is None and list(empty) == [3, 4]
    assert (empty.pop(), empty.pop(), len(empty)) == (3, 4, 0) and repr(empty) == "BoundedBitSet(5, [])"
    empty.update([1])
    assert (1.0 in empty, 1.5 in empty, "1" in empty, None in empty, 1 << 70 in empty, True in empty) == (
        *(True, False, False, False, False, True),
    )


def test_bits_as_sets(cs: SimpleNamespace) -> None:
    """Of one capacity another one; with others a plain set; in place what it can hold."""
    a, b, other = cs.BoundedBitSet(9, [1, 2, 3]), cs.BoundedBitSet(9, [3, 4]), cs.BoundedBitSet(10, [3, 9])
    results = {"and": {3}, "or": {1, 2, 3, 4}, "xor": {1, 2, 4}, "sub": {1, 2}}
    for name, result in results.items():
        made = getattr(a, f"__{name}__")(b)
        assert type(made) is type(a) and made == result and made.capacity == 9
        for right in ({3, 4}, [3, 4], frozenset((3, 4))):
            plain = getattr(a, f"__{name}__")(right)
            assert type(plain) is set and plain == result
        assert type(getattr(a, f"__{name}__")(other)) is set
        assert getattr(a, f"__{name}__")(3) is NotImplemented
        for right in (b, {3, 4}):
            place = a.copy()
            assert getattr(place, f"__i{name}__")(right) is place and place == result
        assert getattr(a.copy(), f"__i{name}__")([3]) is NotImplemented
    for right in (other, {3, 9}):
        place = a.copy()
        place &= right
        assert list(place) == [3]
        place |= {1}
        place -= right
        assert list(place) == [1]
    for name in ("or", "xor"):
        with pytest.raises(IndexError):
            getattr(a, f"__i{name}__")(other)
    assert list(a) == [1, 2, 3]
    assert a == cs.BoundedBitSet(100, [1, 2, 3]) and a != b and a == {1, 2, 3} and a != {1} and a != 3
    a.close()
    for call in (a.invert, a.runs, a.copy, lambda: a.update([]), lambda: a == b, lambda: ~a):
        with pytest.raises(StaleHandle):
            call()
