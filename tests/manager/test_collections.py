"""COLL: bounded collections on both backends; what they do like the builtins is in test_collections_models.py."""

from __future__ import annotations

import array
import contextlib
import copy
import gc
import itertools
import pickle
import struct
import sys
from collections import deque
from collections.abc import Callable, Iterator, MutableMapping, MutableSequence, MutableSet, Set
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from fractions import Fraction
from types import FrameType, SimpleNamespace
from typing import Any

import pytest

from nativemem.backends.binding import Binding
from nativemem.errors import (
    BudgetExceeded,
    CapacityExceeded,
    ConfigError,
    InvalidLayout,
    NativeMemError,
    StaleHandle,
    WrongThread,
)
from nativemem.facades import load
from nativemem.manager import CappedProvider, Level, StaticProvider, StdProvider
from nativemem.manager.collections import bound

Make = Callable[..., Any]

SEQUENCES = ("BoundedList", "BoundedStack", "BoundedQueue", "BoundedDeque")
#: of each kind: what makes one of capacity 3 with two things in it, and puts one more in
KINDS: dict[str, tuple[Make, Make]] = {
    **{name: (lambda cls, **rest: cls(3, "q", [10, 20], **rest), lambda c, x: c.append(x)) for name in SEQUENCES},
    "BoundedMap": (
        lambda cls, **rest: cls(3, "q", "d", {10: 1.0, 20: 2.0}, **rest),
        lambda c, x: c.__setitem__(x, 0.5),
    ),
    "BoundedSet": (lambda cls, **rest: cls(3, "q", [10, 20], **rest), lambda c, x: c.add(x)),
    "BoundedString": (lambda cls, **rest: cls(3, "ab", **rest), lambda c, x: c.append(chr(x))),
    "BoundedBitSet": (lambda cls, **rest: cls(30, [10, 20], **rest), lambda c, x: c.add(x)),
}


@pytest.fixture
def cs(nm: Binding) -> SimpleNamespace:
    """The collections of the backend."""
    return bound(nm)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind by its name."""
    name: str = request.param
    return name


@pytest.fixture
def make(cs: SimpleNamespace, kind: str) -> Make:
    """Makes one of the kind, with two things in it."""
    return lambda **rest: KINDS[kind][0](getattr(cs, kind), **rest)


def contents(thing: Any) -> Any:
    """What is in it."""
    return list(thing.items()) if isinstance(thing, MutableMapping) else list(thing)


# --- memory ---


def test_memory_is_charged_at_once_and_given_back(nm: Binding, kind: str, make: Make) -> None:
    """COLL-1a: adding and removing charges nothing; close, the end of a with and of the object give all back."""
    budget = nm.Budget(10_000, "owner")
    with make(upstream=budget) as thing:
        charged = budget.used
        assert charged == thing.nbytes > 0
        assert thing.owner is budget
        KINDS[kind][1](thing, 29)
        thing.clear()
        assert budget.used == charged
    assert (budget.used, thing.closed, thing.nbytes) == (0, True, 0)
    thing = make(upstream=budget)
    thing.close()
    thing.close()
    assert budget.used == 0
    thing = make(upstream=budget)
    del thing
    gc.collect()
    assert budget.used == 0


def test_a_budget_that_is_too_small_refuses_to_make_one(nm: Binding, kind: str, make: Make) -> None:
    """COLL-1a"""
    budget = nm.Budget(2, "tight")
    with pytest.raises(BudgetExceeded, match="'tight'"):
        make(upstream=budget)
    assert budget.used == 0


def test_what_fails_after_the_memory_was_taken_gives_it_back(nm: Binding, cs: SimpleNamespace) -> None:
    """COLL-1a: too many items, or of the wrong type, in the constructor."""
    budget = nm.Budget(10_000)
    for call in (
        lambda: cs.BoundedList(2, "q", [1, 2, 3], upstream=budget),
        lambda: cs.BoundedDeque(2, "q", ["x"], upstream=budget),
        lambda: cs.BoundedMap(1, "q", "q", {1: 1, 2: 2}, upstream=budget),
        lambda: cs.BoundedSet(2, "q", [None], upstream=budget),
        lambda: cs.BoundedBitSet(2, [2], upstream=budget),
        lambda: cs.BoundedString(2, "\ud800", upstream=budget),
        lambda: cs.BoundedString(2, "abc", upstream=budget),
    ):
        with pytest.raises((NativeMemError, IndexError)):
            call()
        assert budget.used == 0


@pytest.mark.parametrize("tier", [StdProvider, lambda **rest: CappedProvider(4096, **rest), StaticProvider])
def test_memory_from_a_provider(nm: Binding, make: Make, kind: str, tier: Make) -> None:
    """COLL-1d: which is checked all the same, at every level, before and after."""
    for level in Level:
        provider = tier(verification=level, upstream=nm.System())
        thing = make(upstream=provider)
        KINDS[kind][1](thing, 29)
        assert len(contents(thing)) == 3
        assert len(provider) == thing.nbytes
        with pytest.raises(ConfigError, match="empty provider"):
            make(upstream=provider)
        with pytest.raises(BufferError):
            provider.close()
        thing.close()
        provider.verify()
        assert len(provider) == 0
        make(upstream=provider).close()
        provider.close()


def test_a_provider_that_is_too_small(nm: Binding, make: Make) -> None:
    """COLL-1d"""
    provider = CappedProvider(1, upstream=nm.System())
    with pytest.raises(CapacityExceeded):
        make(upstream=provider)
    assert len(provider) == 0


def test_an_allocator_stays_open_while_a_collection_is(nm: Binding, make: Make) -> None:
    """COLL-1d: its memory is never pulled away below it."""
    arena = nm.Arena()
    thing = make(upstream=arena)
    before = contents(thing)
    for call in (arena.reset, arena.close):
        with pytest.raises(BufferError):
            call()
    assert contents(thing) == before
    thing.close()
    arena.close()


def test_close_is_refused_while_a_view_is_out(cs: SimpleNamespace) -> None:
    """COLL-1d: and nothing has changed."""
    for upstream in (None, StdProvider(), CappedProvider(100), StaticProvider(8, verification=Level.FULL)):
        numbers = cs.BoundedList(4, "h", [1, 2, 3], upstream=upstream)
        view = numbers.view()
        assert (view.format, view.tolist()) == ("h", [1, 2, 3])
        with pytest.raises(BufferError):
            numbers.close()
        view[1] = 7
        numbers.append(9)
        assert numbers == [1, 7, 3, 9]
        assert len(view) == 3
        view.release()
        numbers.close()
        assert numbers.closed
    assert cs.BoundedStack(2, "<hB", [(1, 2)]).view().tolist() == list(struct.pack("<hB", 1, 2))


def test_close_in_a_thread_that_may_not(nm: Binding, make: Make) -> None:
    """COLL-1d: of an arena's; it stays open and usable."""
    import threading

    arena, seen = nm.Arena(), []
    thing = make(upstream=arena)

    def close() -> None:
        try:
            thing.close()
        except WrongThread as error:
            seen.append(error)

    thread = threading.Thread(target=close)
    thread.start()
    thread.join()
    assert len(seen) == 1
    assert len(contents(thing)) == 2


def test_what_is_closed_refuses(make: Make, kind: str) -> None:
    """COLL-1f: each use, of iterators too, but closed, close and repr."""
    thing = make()
    iterator = iter(thing)
    thing.close()
    calls: list[Callable[[], Any]] = [
        lambda: len(thing),
        lambda: list(thing),
        lambda: "x" in thing,
        lambda: KINDS[kind][1](thing, 5),
        lambda: thing.clear(),
        lambda: thing.copy(),
        lambda: thing.__enter__(),
        lambda: thing.pop(),
    ]
    if kind != "BoundedString":  # whose iterators have a text of their own
        calls.append(lambda: next(iterator))
    if kind == "BoundedMap":
        calls = [
            *calls[:-2],
            lambda: thing[1],
            lambda: thing.pop(1),
            lambda: thing.update({}),
            lambda: thing.popitem(),
        ]
    if kind in SEQUENCES:
        calls += [lambda: thing[0], lambda: thing.extend([]), lambda: thing[:], lambda: thing.index(10)]
    for call in calls:
        with pytest.raises(StaleHandle, match=f"{kind}: is closed"):
            call()
    assert thing.closed
    assert repr(thing) == f"<{kind} closed>"


def test_one_that_was_never_made_is_closed(cs: SimpleNamespace, kind: str) -> None:
    """COLL-1f: no crash, but the same error."""
    cls = getattr(cs, kind)
    thing = cls.__new__(cls)
    assert thing.closed
    with pytest.raises(StaleHandle):
        len(thing)
    with pytest.raises(StaleHandle):
        KINDS[kind][1](thing, 5)
    thing.close()


def test_it_is_made_once(make: Make, kind: str) -> None:
    """COLL-1f"""
    thing = make()
    before = contents(thing)
    with pytest.raises(RuntimeError, match="was initialised before"):
        KINDS[kind][0](lambda *args, **rest: thing.__init__(*args, **rest))
    assert contents(thing) == before


# --- what is full, or does not fit ---


@pytest.mark.parametrize("kind", [name for name in KINDS if name != "BoundedBitSet"])
def test_full(cs: SimpleNamespace, kind: str) -> None:
    """COLL-1b: nothing has changed, and the error has the numbers. A bit set is never full."""
    thing = KINDS[kind][0](getattr(cs, kind))
    KINDS[kind][1](thing, 65)
    before = contents(thing)
    with pytest.raises(
        CapacityExceeded, match=f"{kind}: no room for 1 more (item|byte); 3 of 3 are in use"
    ) as caught:
        KINDS[kind][1](thing, 66)
    assert contents(thing) == before
    state = caught.value.state
    assert (state["requested"], state["used"], state["limit"], state["available"]) == (1, 3, 3, 0)


class Stops(Exception):
    """What an iterable raises midway."""


def stops(*values: Any) -> Iterator[Any]:
    yield from values
    raise Stops


def test_all_or_nothing(cs: SimpleNamespace) -> None:
    """COLL-1c: too many, endless, one that does not fit, an iterable that raises or changes the collection."""
    for name in SEQUENCES:
        c = getattr(cs, name)(5, "b", [1, 2, 3])
        for error, values in (
            (CapacityExceeded, lambda: [4, 5, 6]),
            (CapacityExceeded, lambda: (4, 5, 6)),
            (CapacityExceeded, itertools.count),
            (InvalidLayout, lambda: [4, 300]),
            (InvalidLayout, lambda: iter([4, "x"])),
            (Stops, lambda: stops(4)),
            (TypeError, lambda: 5),
        ):
            with pytest.raises(error):
                c.extend(values())
            with pytest.raises(error):
                c[1:1] = values()
            assert list(c) == [1, 2, 3]
        c[0:2] = [7, 8, 9, 10]
        assert list(c) == [7, 8, 9, 10, 3]
        with pytest.raises(CapacityExceeded):
            c[1:4] = c
        assert list(c) == [7, 8, 9, 10, 3]
    full = cs.BoundedDeque(2, "b", [1, 2])
    with pytest.raises(CapacityExceeded):
        full.extendleft([3])
    assert list(full) == [1, 2]


def test_all_or_nothing_of_what_is_in_one_alone(cs: SimpleNamespace) -> None:
    """COLL-1c: ``^=`` counts what goes as room for what comes, and checks all that comes first."""
    s = cs.BoundedSet(4, "b", [1, 2, 3])
    for values, error in (([1, 4, 5, 6, 7], CapacityExceeded), ([1, 300], InvalidLayout), ([1, []], TypeError)):
        with pytest.raises(error):
            s ^= values
        assert list(s) == [1, 2, 3]
    s ^= [1, 2, 4, 5, 5.0, 6]
    assert set(s) == {3, 4, 5, 6}
    s ^= s
    assert len(s) == 0
    with pytest.raises(TypeError):
        s ^= 5


def test_all_or_nothing_of_a_table(cs: SimpleNamespace) -> None:
    """COLL-1c: some of them have room, and are not there afterwards; an iterator goes on."""
    for m in (cs.BoundedMap(4, "q", "b", {1: 10, 2: 20}), cs.BoundedSet(4, "q", [1, 2])):
        before, iterator = m.copy(), iter(m)
        assert next(iterator) == 1
        for values, error in (
            ({3: 30, 4: 40, 5: 50}, CapacityExceeded),
            ({1: 11, 3: 30, 2: 21, 4: 40, 5: 50}, CapacityExceeded),
            ({3: 30, "x": 40}, InvalidLayout),
        ):
            with pytest.raises(error):
                m.update(values)
            assert m == before and list(m) == [1, 2] and len(m) == 2 and 3 not in m
        assert list(iterator) == [2]
        m.update({4: 40, 1: 11, 3: 30})
        assert list(m) == [1, 2, 4, 3] and (isinstance(m, Set) or m[1] == 11)


def test_itself_as_what_is_added(cs: SimpleNamespace) -> None:
    """COLL-1c"""
    c = cs.BoundedList(8, "b", [1, 2, 3])
    c.extend(c)
    assert list(c) == [1, 2, 3, 1, 2, 3]
    with pytest.raises(CapacityExceeded):
        c.extend(c)
    c[1:5] = c[1:3]
    c += (x + 10 for x in c)
    assert list(c) == [1, 2, 3, 3, 11, 12, 13, 13]
    c[:] = reversed(c)
    assert list(c) == [13, 13, 12, 11, 3, 3, 2, 1]
    m = cs.BoundedMap(2, "b", "b", {1: 2})
    m.update(m)
    m.update((v, k) for k, v in m.items())
    assert dict(m) == {1: 2, 2: 1}
    s = cs.BoundedSet(4, "b", [1, 2])
    s.update(s, (x + 2 for x in s))
    assert list(s) == [1, 2, 3, 4]


def test_an_iterable_that_empties_the_collection(cs: SimpleNamespace) -> None:
    """COLL-1c: what was packed meanwhile goes in where the collection is then."""
    c = cs.BoundedDeque(4, "b", [1, 2, 3, 4])

    def taken() -> Iterator[int]:
        while c:
            yield c.popleft() + 10

    c.extend(taken())
    assert list(c) == [11, 12, 13, 14]
    c = cs.BoundedList(4, "b", [1, 2, 3, 4])

    def closes() -> Iterator[int]:
        c.close()
        yield 1

    with pytest.raises(StaleHandle):
        c[1:2] = closes()


WIDE = [0, 1, -1, 255, 256, 257, 1023, 1024, 1025, 4095, 4096, -4096, -4097, 65535, 2**30 - 1, 2**30, -(2**30)]
WIDE += [2**31, 2**32 - 1, -(2**59), 2**60 - 1, 2**60, -(2**60), 2**62, 2**63 - 1, -(2**63)]


@pytest.mark.parametrize("item_format", ["b", "B", "h", "H", "i", "I", "q", "Q", "f", "d"])
def test_a_number_that_was_read_stays(cs: SimpleNamespace, item_format: str) -> None:
    """COLL-10a: whichever of those that were read are kept, by whatever, none becomes another."""
    size = 8 * struct.calcsize(item_format)
    low, high = (-(1 << size - 1), 1 << size - 1) if item_format.islower() else (0, 1 << size)
    values: list[Any] = [n for n in WIDE if low <= n < high]
    if item_format in "fd":
        values = [float(n) for n in WIDE if abs(n) < 2**24] + [0.5, -0.0, float("inf")]
    for name in SEQUENCES:
        c = getattr(cs, name)(2 * len(values), item_format, values)
        held = [(x, y, c[0], c[-1]) for x in c for y in c]  # every pair while both loops go on
        assert held == [(x, y, values[0], values[-1]) for x in values for y in values]
        every = list(zip(c, reversed(c), c, strict=True))
        assert every == list(zip(values, values[::-1], values, strict=True))
        third = [x for i, x in enumerate(c) if i % 3 == 0]
        total = [x + c[i - 1] for i, x in enumerate(c)]
        assert third == values[::3] and total == [x + values[i - 1] for i, x in enumerate(values)]
        taken = {i: c.pop(0) for i in range(len(values))}
        assert list(taken.values()) == values
        assert list(map(type, taken.values())) == list(map(type, values))


def test_a_pair_that_was_read_stays(cs: SimpleNamespace) -> None:
    """COLL-10a: nor does a pair of a map, with what is in it and its hash."""
    for numbers in (WIDE, [n + 0.5 for n in range(20)], range(5000, 5040)):
        kind = "d" if 0.5 in numbers else "q"
        plain = {n: -1 - n for n in numbers}
        m = cs.BoundedMap(len(plain), kind, kind, plain)
        assert list(m.items()) == list(plain.items()) and sorted(m.items()) == sorted(plain.items())
        assert [hash(pair) for pair in m.items()] == [hash(pair) for pair in plain.items()]
        kept = [(pair, hash(pair)) for i, pair in enumerate(m.items()) if i % 3]
        wanted = [(pair, hash(pair)) for i, pair in enumerate(plain.items()) if i % 3]
        assert kept == wanted
        assert [(k, v, m[k]) for k, v in m.items() if m[k] == v] == [(k, v, v) for k, v in plain.items()]
        both = [(a, b, m.get(a[0])) for a in m.items() for b in m.items()]
        assert both == [(a, b, a[1]) for a in plain.items() for b in plain.items()]
        assert [*zip(m, m.values(), reversed(m), strict=True)] == [
            *zip(plain, plain.values(), reversed(plain), strict=True)
        ]


def test_numbers_of_another_thread_stay(cs: SimpleNamespace) -> None:
    """COLL-10a: two threads that read one collection each keep their own."""
    numbers = list(range(10**6, 10**6 + 500))
    c = cs.BoundedList(len(numbers), "q", numbers)

    def read() -> bool:
        return all([x for x in c if x] == numbers and [c[i] for i in range(len(c))] == numbers for _ in range(20))

    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(lambda _: read(), range(4)))


class Other(array.array):  # type: ignore[type-arg]
    """Iterates over something else than its buffer has."""

    def __iter__(self) -> Iterator[Any]:
        return iter([7])


def test_all_of_a_list_or_a_buffer(cs: SimpleNamespace) -> None:
    """COLL-1c, COLL-10b: what is added in one pass is what its items are, one by one, or nothing."""
    for name in SEQUENCES:
        for make in (list, tuple, lambda v: array.array("q", v), lambda v: memoryview(array.array("q", v)), iter):
            c = getattr(cs, name)(7, "q", [1, 2, 3])
            c.extend(make([4, 5, -(2**63)]))
            c.extend(make([]))
            assert list(c) == [1, 2, 3, 4, 5, -(2**63)]
            with pytest.raises(CapacityExceeded):
                c.extend(make([6, 7]))
            del c[:4]
            c.extend(make([6, 7, 8]))  # of a ring around its end
            assert list(c) == [5, -(2**63), 6, 7, 8]
            c += make([9])
            assert c == type(c)._like([5, -(2**63), 6, 7, 8, 9])
        c = getattr(cs, name)(20, "b", [1])
        arrays = array.array("q", [7, 8]), array.array("B", [9]), Other("b", [1])
        for given in (b"\x05", bytearray(b"\x06"), *arrays):
            c.extend(given)
        assert list(c) == [1, 5, 6, 7, 8, 9, 7]
        for given, error in (
            ([1, 2, "x"], InvalidLayout),
            ([1, 2, 300], InvalidLayout),
            (b"\xff", InvalidLayout),
            (array.array("d", [1.0]), InvalidLayout),
            (memoryview(array.array("i", [3]))[:0].cast("B").cast("c"), None),
            (memoryview(b"12345678").cast("b", (2, 4)), NotImplementedError),
        ):
            with pytest.raises(error) if error else contextlib.nullcontext():
                c.extend(given)
            assert list(c) == [1, 5, 6, 7, 8, 9, 7]
    stack = cs.BoundedStack(6, "i", [1, 2, 3])
    with stack.view() as view:
        stack.extend(view)
    assert list(stack) == [1, 2, 3, 1, 2, 3]
    for item_format, values in (("d", [0.5, -0.0]), ("f", [0.5, 2.0]), ("H", [1, 65535]), ("?", [True, False])):
        c = cs.BoundedDeque(9, item_format, values)
        c.extend(values)
        c.extend(array.array("d" if item_format == "?" else item_format, [] if item_format == "?" else values))
        assert list(c) == values * (2 if item_format == "?" else 3)
    strided = cs.BoundedList(3, "i")
    strided.extend(memoryview(array.array("i", range(6)))[::2])
    assert list(strided) == [0, 2, 4]


def test_all_of_an_array(cs: SimpleNamespace) -> None:
    """COLL-10b: NumPy's arrays, whose items are no ints or floats of Python's own."""
    numpy = pytest.importorskip("numpy")
    for name in SEQUENCES:
        c = getattr(cs, name)(9, "q")
        c.extend(numpy.arange(3))
        c.extend(numpy.arange(6)[::3])
        c.extend(numpy.arange(2, dtype=">i4"))
        with pytest.raises(CapacityExceeded):
            c.extend(numpy.arange(3))
        with pytest.raises(InvalidLayout):
            c.extend(numpy.array([0.5]))
        assert list(c) == [0, 1, 2, 0, 3, 0, 1]
        with pytest.raises((InvalidLayout, TypeError)):
            c.extend(numpy.zeros((1, 2), dtype=int))
        assert len(c) == 7


class Closes:
    """Stands for an int, and closes a collection when asked for it."""

    def __init__(self, thing: Any) -> None:
        self.thing = thing

    def __index__(self) -> int:
        self.thing.close()
        return 0

    def __hash__(self) -> int:
        self.thing.close()
        return 0

    def __eq__(self, other: object) -> bool:
        self.thing.close()
        return False


def test_a_value_of_another_type_is_looked_for(cs: SimpleNamespace) -> None:
    """COLL-3a: what is equal is found, whatever its type, where it is first; nothing else is."""
    for name in SEQUENCES:
        of_ints, of_floats = getattr(cs, name)(6, "q", [10, 20, 30, 20]), getattr(cs, name)(6, "d", [0.5, 2.0, 3.5])
        assert [of_ints.index(value) for value in (10.0, 20.0, Fraction(30))] == [0, 1, 2]
        assert [of_floats.index(value) for value in (Fraction(1, 2), 2, Decimal("3.5"))] == [0, 1, 2]
        assert [of_ints.count(value) for value in (20.0, 20.5, "20", None)] == [2, 0, 0, 0]
        assert 30.0 in of_ints and 2 in of_floats
        assert 20.5 not in of_ints and 1 not in of_floats and None not in of_ints
        assert of_ints.index(20.0, 2) == 3
        for thing, value in ((of_ints, 20.5), (of_ints, "10"), (of_floats, 3)):
            with pytest.raises(ValueError):
                thing.index(value)
            with pytest.raises(ValueError):
                thing.remove(value)
        of_ints.remove(30.0)
        of_floats.remove(2)
        assert (list(of_ints), list(of_floats)) == ([10, 20, 20], [0.5, 3.5])


def test_values_that_close_the_collection(cs: SimpleNamespace) -> None:
    """COLL-1f: no crash, wherever their code runs."""
    for name in SEQUENCES:
        for call in (
            lambda c: c.append(Closes(c)),
            lambda c: c.insert(Closes(c), 1),
            lambda c: c.insert(0, Closes(c)),
            lambda c: c.__setitem__(0, Closes(c)),
            lambda c: c.__setitem__(Closes(c), 1),
            lambda c: c.__setitem__(slice(Closes(c), None), [1]),
            lambda c: c.__setitem__(slice(0, 1), [1, Closes(c)]),
            lambda c: c.__delitem__(slice(Closes(c), None)),
            lambda c: c.__delitem__(Closes(c)),
            lambda c: c[Closes(c)],
            lambda c: c[Closes(c) :],
            lambda c: c.pop(Closes(c)),
            lambda c: c.extend([1, Closes(c)]),
            lambda c: c.extend(iter([1, Closes(c)])),
            lambda c: Closes(c) in c,
            lambda c: c.index(Closes(c)),
            lambda c: c.index(1, Closes(c)),
            lambda c: c.count(Closes(c)),
            lambda c: c.remove(Closes(c)),
        ):
            with pytest.raises(StaleHandle):
                call(getattr(cs, name)(5, "b", [1, 2, 3]))
    for call in (
        lambda m: m[Closes(m)],
        lambda m: Closes(m) in m,
        lambda m: m.__setitem__(Closes(m), 1),
        lambda m: m.__setitem__(1, Closes(m)),
        lambda m: m.update({7: Closes(m)}),
        lambda m: m.pop(Closes(m)),
        lambda m: m.setdefault(Closes(m), 1),
        lambda m: m.setdefault(5, Closes(m)),
    ):
        with pytest.raises((StaleHandle, InvalidLayout)):
            call(cs.BoundedMap(5, "b", "b", {1: 2, 3: 4}))
    for call in (
        lambda b: b.add(Closes(b)),
        lambda b: b.set(0, Closes(b)),
        lambda b: Closes(b) in b,
        lambda b: b.next_set(Closes(b)),
        lambda b: b.update([1, Closes(b)]),
    ):
        with pytest.raises(StaleHandle):
            call(cs.BoundedBitSet(5, [1, 2]))


class Empties:
    """Is equal to whatever it is compared with, and clears a collection meanwhile."""

    def __init__(self, thing: Any) -> None:
        self.thing = thing

    def __eq__(self, other: object) -> bool:
        self.thing.clear()
        return True

    __hash__ = None  # type: ignore[assignment]


def test_a_value_that_changes_the_collection_it_is_removed_from(cs: SimpleNamespace) -> None:
    """COLL-8: the item that it was equal to is not there any more; nothing else goes in its place."""
    for name in SEQUENCES:
        c = getattr(cs, name)(5, "b", [1, 2, 3])
        with pytest.raises(RuntimeError, match="mutated during remove"):
            c.remove(Empties(c))
        c.extend([4, 5])
        assert list(c) == [4, 5]


BAD_FORMATS = ["", "x", "0q", "y", "q ", 5, None, b"\xff", "q" * 10**6 + "!"]


def test_bad_arguments(cs: SimpleNamespace) -> None:
    """COLL-4a: of constructors."""
    for name in (*SEQUENCES, "BoundedSet"):
        for capacity in (0, -1, 1.5, "3", None, True, 1 << 63, 10**400):
            with pytest.raises(InvalidLayout, match=f"{name}: capacity takes"):
                getattr(cs, name)(capacity, "q")
        for bad in BAD_FORMATS:
            if bad == "q ":
                assert getattr(cs, name)(1, bad).item_format == "q "
                continue
            with pytest.raises(InvalidLayout, match=f"{name} format"):
                getattr(cs, name)(1, bad)
        with pytest.raises(ConfigError, match=f"{name}: upstream takes"):
            getattr(cs, name)(1, "q", upstream=7)
        with pytest.raises(InvalidLayout, match=r"not a size|capacity takes"):
            getattr(cs, name)((1 << 63) - 1, "q")
    with pytest.raises(InvalidLayout, match="BoundedMap value format"):
        cs.BoundedMap(1, "q", "")
    with pytest.raises(InvalidLayout, match="BoundedMap key format"):
        cs.BoundedMap(1, "", "q")
    with pytest.raises(InvalidLayout):
        cs.BoundedString(0)
    with pytest.raises(TypeError, match="takes text, not bytes"):
        cs.BoundedString(5, b"x")


@pytest.mark.parametrize(
    ("item_format", "good", "bad"),
    [
        ("b", [-128, 127, True], [128, -129, 1.0, "1", None, 1 << 80]),
        ("B", [0, 255], [256, -1]),
        ("h", [-(1 << 15)], [1 << 15]),
        ("H", [(1 << 16) - 1], [1 << 16, -1]),
        ("i", [-(1 << 31)], [1 << 31, -(1 << 31) - 1]),
        ("I", [(1 << 32) - 1], [1 << 32, -1]),
        ("q", [-(1 << 63), (1 << 63) - 1], [1 << 63, -(1 << 63) - 1]),
        ("Q", [0, (1 << 64) - 1], [1 << 64, -1]),
        (">i", [1, -5], [1 << 31]),
        ("<l", [1, -5], [1 << 31]),
        ("n", [-1], [1 << 63]),
        ("f", [0.5, 1, float("inf")], [1e39, "x", 1j]),
        ("e", [0.5, -2.0], [1e6, None]),
        ("d", [0.1, 3, -0.0, 1 << 70], [10**400, "x"]),
        ("?", [True, False], []),
        ("c", [b"a"], [b"ab", "a", 1]),
        ("4s", [b"abcd"], [b"abcde", "abcd", 4, bytearray(5)]),
        ("5p", [b"", b"a", b"abcd"], [b"abcde", "a"]),
        ("x3si", [(b"abc", 1)], [(b"abcd", 1), (b"abc",), b"abc", 5, (b"abc", 1, 2), (b"abc", "1")]),
        ("<hd?", [(1, 0.5, True)], [(1, 0.5), (70000, 0.5, True), (1, "x", True)]),
        ("2b", [(1, 2)], [(1,), 1]),
        ("=2h3pB", [(1, -2, b"ab", 9)], [(1, -2, b"abc", 9)]),
        ("70b", [tuple(range(70))], [tuple(range(69))]),
    ],
)
def test_items_by_format(cs: SimpleNamespace, item_format: str, good: list[Any], bad: list[Any]) -> None:
    """COLL-4b: what the struct module takes, as it gives it back; the rest is refused with value and format,
    and bytes that it would cut as well."""
    items = cs.BoundedList(10, item_format)
    record = struct.Struct(item_format)
    for value in good:
        items.append(value)
        items[-1] = value
        fields = record.unpack(record.pack(*value) if isinstance(value, tuple) else record.pack(value))
        assert items[-1] == (fields if isinstance(value, tuple) else fields[0])
    assert bytes(items.view()) == b"".join(
        record.pack(*value) if isinstance(value, tuple) else record.pack(value) for value in good
    )
    assert items.nbytes == 10 * record.size
    for value in bad:
        for call in (
            lambda value=value: items.append(value),
            lambda value=value: items.__setitem__(0, value),
            lambda value=value: items.extend([value]),
            lambda value=value: cs.BoundedMap(1, "b", item_format, {1: value}),
        ):
            with pytest.raises(InvalidLayout, match="does not fit the format"):
                call()
    assert len(items) == len(good)


def test_a_refused_item_says_what_to_do(cs: SimpleNamespace) -> None:
    """COLL-4b: a stranger's first mistakes: text, a value too few, one that is too long, a type for a format."""
    queue = cs.BoundedQueue(3, "I16pH")
    for job, advice in (
        ((1, "resize", 5), "text is encoded first, as name.encode(), and decoded when it comes back"),
        ((1, b"resize"), "an item is a tuple of 3 values"),
        (1, "an item is a tuple of 3 values"),
        ((1, b"resize", 1 << 16), "values are those that struct.pack takes"),
        ((1, b"x" * 20, 5), "shorten it, or make the field wider"),
    ):
        with pytest.raises(InvalidLayout, match="does not fit the format") as caught:
            queue.push(job)
        assert caught.value.suggestion.startswith(advice)
    for bad in (int, "str", "resize"):
        with pytest.raises(InvalidLayout, match="takes a struct format") as caught:
            cs.BoundedQueue(3, bad)
        assert "'16p' bytes of at most 15" in caught.value.suggestion
    with pytest.raises(InvalidLayout) as caught:
        cs.BoundedMap(1, "f", "I")[0.1] = 1
    assert caught.value.suggestion == "take a format that holds such keys exactly"


def test_keys_by_format(cs: SimpleNamespace) -> None:
    """COLL-4c: a key comes back as it was, or is refused; equal keys are one key."""
    m = cs.BoundedMap(9, "d", "i")
    m[0.0] = 1
    m[-0.0] = 2
    m[1] = 3
    m[1.0] = 4
    m[True] = 5
    assert dict(m) == {0.0: 2, 1.0: 5}
    for bad in (float("nan"), (1 << 53) + 1, "x", 1j, b"1"):
        with pytest.raises(InvalidLayout):
            m[bad] = 1
        assert bad not in m
        assert m.get(bad) is None
        with pytest.raises(KeyError):
            m[bad]
    for unhashable in ([1], {}, bytearray(b"1")):
        for call in (
            lambda key=unhashable: m[key],
            lambda key=unhashable: key in m,
            lambda key=unhashable: m.__setitem__(key, 1),
            lambda key=unhashable: m.pop(key, 1),
        ):
            with pytest.raises(TypeError, match="unhashable"):
                call()
    singles = cs.BoundedSet(4, "f", [0.5, float("inf")])
    with pytest.raises(InvalidLayout, match="would come back as"):
        singles.add(0.1)
    assert 0.1 not in singles
    assert 0.5 in singles
    numbers = cs.BoundedSet(4, "q", [1, 1.0, True])
    assert list(numbers) == [1]
    assert 1.5 not in numbers
    assert 1 << 80 not in numbers
    names = cs.BoundedSet(4, "4s", [b"ab"])
    assert list(names) == [b"ab\0\0"]
    assert b"ab" in names
    assert b"abcde" not in names
    assert list(cs.BoundedSet(4, "5p", [b"ab", b"ab\0"])) == [b"ab", b"ab\0"]
    pairs = cs.BoundedSet(4, "=hd", [(1, 0.0)])
    pairs.add((1.0, -0.0))
    assert list(pairs) == [(1, 0.0)]
    assert (1, 2, 3) not in pairs
    assert 5 not in pairs
    half = cs.BoundedMap(4, "e", ">h", {0.5: -2})
    assert dict(half) == {0.5: -2}
    assert 0.1 not in half


# --- emptiness, order, iteration ---


def test_pop_and_peek_where_there_is_nothing(cs: SimpleNamespace) -> None:
    """COLL-2"""
    for name in SEQUENCES:
        c = getattr(cs, name)(2, "b")
        for verb in ("pop", "peek", "popleft", "peekleft"):
            if hasattr(c, verb):
                with pytest.raises(IndexError, match=f"(pop from|peek at) an empty {name}"):
                    getattr(c, verb)()
    assert not hasattr(cs.BoundedList, "popleft")
    assert not hasattr(cs.BoundedQueue, "appendleft")
    for c in (cs.BoundedSet(2, "b"), cs.BoundedBitSet(2)):
        with pytest.raises(KeyError, match="pop from an empty"):
            c.pop()
    with pytest.raises(KeyError, match="pop from an empty"):
        cs.BoundedMap(2, "b", "b").popitem()


def test_stack_and_queue(cs: SimpleNamespace) -> None:
    """COLL-2: last in first out, and first in first out."""
    stack, queue = cs.BoundedStack(3, "b"), cs.BoundedQueue(3, "b")
    for each in (stack, queue):
        for i in (1, 2, 3):
            each.push(i)
        with pytest.raises(CapacityExceeded):
            each.push(4)
    assert (stack.peek(), [stack.pop() for _ in range(3)]) == (3, [3, 2, 1])
    assert (queue.peek(), [queue.pop() for _ in range(3)]) == (1, [1, 2, 3])
    for i in range(1000):
        queue.push(i % 100)
        if len(queue) == 3:
            assert queue.pop() == (i - 2) % 100


def test_a_full_map_takes_new_values_and_keeps_its_order(cs: SimpleNamespace) -> None:
    """COLL-3c"""
    m = cs.BoundedMap(3, "5p", "i", [(b"one", 1), (b"two", 2), (b"six", 6)])
    m[b"two"] = 22
    m.update({b"six": 66, b"one": 11})
    m |= {b"one": 111}
    assert list(m.items()) == [(b"one", 111), (b"two", 22), (b"six", 66)]
    before = list(m.items())
    iterator = iter(m)
    for call in (
        lambda: m.update({b"one": 5, b"ten": 10}),
        lambda: m.__setitem__(b"ten", 10),
        lambda: m.setdefault(b"ten", 10),
        lambda: m.update(stops((b"one", 1))),
        lambda: m.update({b"one": 5, b"two": "x"}),
        lambda: m.update([(b"one", 5), 7]),
        lambda: m.update(one=1),
    ):
        with pytest.raises((CapacityExceeded, Stops, InvalidLayout, TypeError)):
            call()
        assert list(m.items()) == before
    assert next(iterator) == b"one", "what was refused is not a change"
    del m[b"one"]
    m[b"one"] = 1
    assert list(m) == [b"two", b"six", b"one"]
    assert (list(reversed(m)), list(reversed(m.items()))[0]) == ([b"one", b"six", b"two"], (b"one", 1))


def test_lookups_take_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """COLL-3d: as many comparisons in a large table that was always full as in a small one. Counted in Python; the
    two backends have one algorithm."""
    cs = bound(load("pure"))
    table: Any = cs.BoundedSet.__mro__[1]
    compared, key_of = 0, table._key_of

    def counted(self: Any, e: int) -> bytes:
        nonlocal compared
        compared += 1
        return key_of(self, e)

    monkeypatch.setattr(table, "_key_of", counted)
    for n in (50, 3000):
        s = cs.BoundedSet(n, "I", range(n))
        for i in range(n, 2 * n):
            s.discard(i - n)
            s.add(i)
        compared = 0
        for i in range(2 * n):
            assert (i in s) == (i >= n)
        assert compared < 1.1 * n, "each that is there once, and next to none other"


def test_changes_while_it_is_iterated_over(cs: SimpleNamespace) -> None:
    """COLL-8: as the builtin does: lists go on, deques and hash tables refuse."""
    c = cs.BoundedList(5, "b", [1, 2])
    for x in c:
        if x < 4:
            c.append(x + 2)
    assert list(c) == [1, 2, 3, 4, 5]
    for c in (cs.BoundedDeque(5, "b", [1, 2]), cs.BoundedQueue(5, "b", [1, 2])):
        with pytest.raises(RuntimeError, match="mutated during iteration"):
            for x in c:
                c.append(x)
    m = cs.BoundedMap(5, "b", "b", {1: 1, 2: 2})
    for view in (m, m.keys(), m.values(), m.items()):
        iterator = iter(view)
        next(iterator)
        m[1] = 7
        next(iterator)
        iterator = iter(view)
        m[9] = 9
        with pytest.raises(RuntimeError, match="changed size during iteration"):
            next(iterator)
        del m[9]
    s = cs.BoundedSet(5, "b", [1, 2])
    with pytest.raises(RuntimeError, match="changed size during iteration"):
        for x in s:
            s.discard(x)


@contextlib.contextmanager
def while_read(act: Callable[[], object]) -> Iterator[None]:
    """``act`` runs where an item is first unpacked in Python, as a profiler's hook or a collection would."""

    def hook(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_name == "unpack_item":
            sys.setprofile(None)
            act()

    before = sys.getprofile()
    sys.setprofile(hook)
    try:
        yield
    finally:
        assert sys.getprofile() is None, "it ran"
        sys.setprofile(before)


def test_changes_while_items_are_read(needs_native: None) -> None:
    """COLL-8: C unpacks ``>q`` in Python, where anything may happen to the collection whose items it reads."""
    cs = bound(load("native"))

    def fails(_: object) -> None:
        raise ZeroDivisionError

    acts: dict[Callable[[Any], object], type[Exception]] = {
        lambda c: c.close(): StaleHandle,
        lambda c: c.clear(): RuntimeError,
        fails: ZeroDivisionError,
    }
    shorter: dict[Callable[[Any], object], type[Exception]] = {lambda c: c.pop(): RuntimeError}
    for act, error in (acts | shorter).items():
        for read in (lambda c: c[:], lambda c: c[1::2], lambda c: c.copy()):
            c = cs.BoundedDeque(4, ">q", [1, 2, 3, 4])
            with while_read(lambda c=c, act=act: act(c)), pytest.raises(error, match="closed|while it was read|^$"):
                read(c)
    for act, error in acts.items():
        for read in (lambda m: list(m.items()), lambda m: m.popitem(), lambda m: m.pop(1)):
            m = cs.BoundedMap(4, ">q", ">q", {1: 10, 2: 20})
            with while_read(lambda m=m, act=act: act(m)), pytest.raises(error, match="closed|while it was read|^$"):
                read(m)


# --- being one of Python's collections ---


def test_abstract_base_classes(cs: SimpleNamespace) -> None:
    """COLL-7: by inheritance, not by registration."""
    for name in (*SEQUENCES, "BoundedString"):
        assert MutableSequence in getattr(cs, name).__mro__
    assert MutableMapping in cs.BoundedMap.__mro__
    for name in ("BoundedSet", "BoundedBitSet"):
        assert MutableSet in getattr(cs, name).__mro__


def test_copies(nm: Binding, make: Make, kind: str) -> None:
    """COLL-9: a copy is charged too; pickling is refused and says what to do."""
    budget = nm.Budget(10_000)
    thing = make(upstream=budget)
    charged = budget.used
    for duplicate in (lambda: thing.copy(), lambda: copy.copy(thing), lambda: copy.deepcopy(thing)):
        again = duplicate()
        assert type(again) is type(thing)
        assert again == thing
        assert (again.capacity, again.upstream, again.nbytes) == (thing.capacity, budget, thing.nbytes)
        assert budget.used == 2 * charged
        again.clear()
        assert len(thing) == 2
        again.close()
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="cannot pickle"):
            pickle.dumps(thing, protocol)
    with pytest.raises(TypeError, match="unhashable"):
        hash(thing)


def test_repr_is_what_makes_it(cs: SimpleNamespace, make: Make) -> None:
    """COLL-9"""
    thing = make()
    assert eval(repr(thing), vars(cs).copy()) == thing


def test_comparison(cs: SimpleNamespace) -> None:
    """COLL-9: with its like, and with the builtin that it stands for."""
    c, d = cs.BoundedList(5, "b", [1, 2]), cs.BoundedDeque(5, "b", [1, 2])
    assert c == cs.BoundedStack(2, "q", [1, 2]) == [1, 2] == c
    assert c < [1, 3]
    assert c >= [1]
    assert c != (1, 2)
    assert c != d
    assert d == deque([1, 2]) == cs.BoundedQueue(9, "i", [1, 2])
    assert d > deque([1])
    with pytest.raises(TypeError):
        c < (1, 2)  # noqa: B015
    assert cs.BoundedMap(2, "b", "b", {1: 2}) == {1: 2}
    assert {1: 2} == cs.BoundedMap(2, "b", "b", {1: 2})
    assert cs.BoundedMap(2, "b", "b", {1: 2}) != [(1, 2)]
    assert cs.BoundedSet(2, "b", [1]) == {1}
    assert cs.BoundedSet(2, "b", [1]) < {1, 2}
    assert cs.BoundedBitSet(9, [1]) == {1} == cs.BoundedBitSet(99, [1])
    assert cs.BoundedString(9, "ab") == "ab"
    assert cs.BoundedString(9, "ab") < "b"
    assert cs.BoundedString(9, "ab") != ["a", "b"]


def test_a_class_of_ones_own(cs: SimpleNamespace) -> None:
    """COLL-7: methods that it has are called, also by the others' names in a subclass."""

    class Loud(cs.BoundedList):  # type: ignore[name-defined, misc]
        said: list[Any] = []

        def append(self, value: Any) -> None:
            self.said.append(value)
            super().append(value)

    loud = Loud(3, "b")
    loud.append(1)
    assert (loud.said, list(loud), type(loud.copy())) == ([1], [1], Loud)


def test_cycles_are_collected(nm: Binding, cs: SimpleNamespace) -> None:
    """COLL-1a"""
    budget = nm.Budget(10_000)

    class Knot(cs.BoundedList):  # type: ignore[name-defined, misc]
        me: Any

    knot = Knot(3, "b", upstream=budget)
    knot.me = knot
    del knot
    gc.collect()
    assert budget.used == 0


# --- strings and bits ---


@pytest.mark.parametrize("text", ["", "abc", "naïve", "€uro", "a\U0001f600b", "e\u0301"])
def test_truncated_text(cs: SimpleNamespace, text: str) -> None:
    """COLL-5: as many whole characters as fit."""
    whole = text.encode()
    for n in range(1, len(whole) + 2):
        cut = cs.BoundedString.from_str_truncate(text, n)
        assert (cut.capacity, str(cut)) == (n, whole[:n].decode(errors="ignore"))
        assert text.startswith(str(cut))
        assert len(whole) <= n or n - cut.size < len(text[len(cut)].encode())
    assert cs.BoundedString.from_str_truncate("x" * 10**6, 3) == "xxx"
    with pytest.raises(TypeError):
        cs.BoundedString.from_str_truncate(b"abc", 3)
    with pytest.raises(InvalidLayout, match="surrogate"):
        cs.BoundedString.from_str_truncate("\udc80", 3)


def test_bits(cs: SimpleNamespace) -> None:
    """COLL-6a: set, clear and toggle return whether something has changed, of a bit or a range."""
    b = cs.BoundedBitSet(200)
    assert [b.set(3), b.set(3), b.clear(3), b.clear(3), b.toggle(3), b.toggle(3)] == [
        True,
        False,
        True,
        False,
        True,
        True,
    ]
    assert [b.set(60, 140), b.set(64, 128), b.clear(0, 60), b.clear(100, 100), b.clear(100, 101)] == [
        *(True, False, False, False, True)
    ]
    assert list(b.runs()) == [(60, 100), (101, 140)]
    assert len(b) == 79
    assert b.toggle(100, 1000)
    assert list(b.runs()) == [(60, 101), (140, 200)]
    assert [b.next_set(), b.next_set(61), b.next_set(101), b.next_set(200), b.next_set(999)] == [
        60,
        61,
        140,
        None,
        None,
    ]
    assert [b.next_clear(), b.next_clear(60), b.next_clear(140)] == [0, 101, None]
    assert b.clear()
    assert not b.clear()
    assert (len(b), b.next_set(), list(b.runs())) == (0, None, [])
    for bad in (200, -1, 1 << 80):
        for verb in (b.set, b.clear, b.toggle, b.add):
            with pytest.raises(IndexError, match="there is no bit"):
                verb(bad)
        assert bad not in b
        b.discard(bad)
    with pytest.raises(IndexError):
        b.set(-1, 5)
    for bad in ("x", 1.5, None):
        with pytest.raises(TypeError):
            b.add(bad)
        assert bad not in b
    for call in (lambda: b.set(), lambda: b.toggle(), lambda: b.set(1, 2, 3), lambda: b.set("a", 2)):
        with pytest.raises(TypeError):
            call()
    with pytest.raises(TypeError, match="unhashable"):
        [] in b  # noqa: B015


def test_bits_as_sets(nm: Binding, cs: SimpleNamespace) -> None:
    """COLL-6b: and, or, xor, not; of the same capacity they make another bit set, charged to the same budget."""
    budget = nm.Budget(1000)
    a, b = cs.BoundedBitSet(70, [1, 2, 65], upstream=budget), cs.BoundedBitSet(70, [2, 3])
    for made, expected in (
        (a & b, {2}),
        (a | b, {1, 2, 3, 65}),
        (a ^ b, {1, 3, 65}),
        (a - b, {1, 65}),
        (~a, set(range(70)) - {1, 2, 65}),
    ):
        assert (type(made), made, made.owner) == (cs.BoundedBitSet, expected, budget)
        made.close()
    assert a & {2, 5} == {2}
    assert type(a | cs.BoundedBitSet(5)) is set
    c = a.copy()
    c |= b
    c &= {2, 65, 3}
    c ^= {2, 7}
    c -= cs.BoundedBitSet(500, [65])
    assert c == {3, 7}
    c.invert()
    assert len(c) == 68
    for call in (
        lambda: c.__ior__({1, 70}),
        lambda: c.__ixor__(cs.BoundedBitSet(500, [400])),
        lambda: c.update([1], [99]),
    ):
        with pytest.raises(IndexError):
            call()
        assert len(c) == 68
    with pytest.raises(KeyError):
        c.remove(3)


@pytest.mark.parametrize("use", ["__getitem__", "get", "pop", "__delitem__"])
def test_a_key_that_closes_what_it_is_looked_for_in(cs: SimpleNamespace, use: str) -> None:
    """COLL-1f"""
    made = cs.BoundedMap(4, "i", "i", {1: 2})

    class Closes:
        def __index__(self) -> int:
            made.close()
            return 1

    with pytest.raises(StaleHandle):
        getattr(made, use)(Closes())
    assert made.closed
