"""COLL: one step of every kind from every small state, on both backends, which have to agree on all that shows: the
result or the error with its words, what is in the collection then, and whether an iterator that was begun before
goes on. And what only the pure backend's tables and bits show: hashes that collide, long runs of bits."""

from __future__ import annotations

import itertools
import operator
import random
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from nativemem.backends.binding import Binding
from nativemem.backends.pure.packed import tables
from nativemem.errors import CapacityExceeded
from nativemem.manager.collections import bound

MOST = 3
Step = tuple[str, tuple[Any, ...]]

#: of each format: what items are, in the order in which they are put in, and what does not fit
ITEMS: dict[str, tuple[list[Any], list[Any]]] = {
    "b": ([5, -1, 5, 9, 3, 2, 1], [300, 1.5, "x", None]),
    "d": ([0.5, -1.0, 0.5, 9.0, 3.0, 2.0, 1.0], ["x", None]),
    ">h": ([5, -700, 5, 9, 3, 2, 1], [1 << 20, "x"]),
    "B3s": (
        [(1, b"abc"), (2, b"d\0\0"), (1, b"abc"), (4, b"\0\0\0"), (5, b"e\0\0"), (6, b"fgh")],
        [(1,), 7, (1, "x")],
    ),
}
NUMBERS = (*range(-MOST - 1, MOST + 2), 1 << 70, -(1 << 70))
SLICES = [slice(*each) for each in itertools.product((None, -2, 0, 1, 4), (None, -5, -1, 1, 3), (None, 2, -1, -2))]
NO_NUMBERS = ("x", None, 1.0)


class Once:
    """Stands for an iterator over these."""

    def __init__(self, *once: Any) -> None:
        self.once = once


def outcome(call: Callable[..., Any], *args: Any) -> Any:
    """What a call returns, or the class of what it raises, and its words, but of an int of many digits."""
    huge = any(isinstance(each, int) and abs(each) > sys.maxsize for each in args)
    try:
        result = call(*args)
    except Exception as error:
        return type(error), "" if huge else str(error)
    return list(result) if isinstance(result, list) else result


def done(thing: Any, step: Step) -> Any:
    """What becomes of a method, or of a function of the operator module."""
    name, args = step
    args = tuple(iter(each.once) if isinstance(each, Once) else each for each in args)
    if hasattr(type(thing), name):
        result = outcome(getattr(thing, name), *args)
    else:
        result = outcome(getattr(operator, name), thing, *args)
    return "itself" if result is thing else result


def has(thing: Any, name: str) -> bool:
    """Whether it is a step of this kind."""
    return hasattr(thing, name) or hasattr(operator, name)


# --- sequences ---


def of_sequences(items: list[Any], bad: list[Any]) -> Iterable[Step]:
    """Steps that some sequence has."""
    new, *more = items[3:]
    few: list[list[Any]] = [[], [new], [new, *more[:1]], items[:4], [new, *bad[:1]]]
    for value in (*items[:4], *bad):
        for name in ("append", "push", "appendleft", "remove", "count", "contains", "index"):
            yield name, (value,)
    for i in (*NUMBERS, *NO_NUMBERS):
        yield "insert", (i, new)
        yield "setitem", (i, new)
        for name in ("pop", "getitem", "delitem", "rotate"):
            yield name, (i,)
    for value in bad:
        yield "insert", (0, value)
        yield "setitem", (-1, value)
    for start, stop in itertools.product((*range(-MOST - 1, MOST + 2), "x"), repeat=2):
        yield "index", (items[0], start, stop)
    yield "index", (items[0], 1)
    for n in (sys.maxsize, sys.maxsize + 1, -sys.maxsize - 1, -sys.maxsize - 2):
        yield "rotate", (n,)
    for name in ("pop", "popleft", "peek", "peekleft", "clear", "reverse", "rotate", "copy"):
        yield name, ()
    for values in few:
        for name in ("extend", "extendleft", "iadd"):
            for each in (values, tuple(values), Once(*values)):
                yield name, (each,)
    for where in SLICES:
        yield "getitem", (where,)
        yield "delitem", (where,)
        for values in few[:4]:
            yield "setitem", (where, values)
    for where in (slice(0, 1), slice(None), slice(None, None, 2)):
        for values in few:
            yield "setitem", (where, Once(*values))
        yield "setitem", (where, 7)
    yield "extend", (7,)


def place(thing: Any, head: int, items: list[Any], filler: Any) -> None:
    """Has these in it, the first in that slot of the memory where its kind lets it begin anywhere."""
    thing.clear()
    for _ in range(head):
        thing.extend([filler, filler])
        del thing[0]
        del thing[-1]
    thing.extend(items)


def of_a_sequence(thing: Any, step: Step) -> Any:
    """All that can be seen of one step."""
    before, back = iter(thing), reversed(thing)
    started = outcome(next, before)
    result = done(thing, step)
    one_by_one = [thing[i] for i in range(len(thing))]
    return result, one_by_one, thing[:], list(thing), started, outcome(next, before), outcome(next, back)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "item_format"),
    [
        *(("BoundedList", each) for each in ITEMS),
        *(("BoundedStack", "b"), ("BoundedQueue", ">h"), ("BoundedDeque", "b"), ("BoundedDeque", "B3s")),
    ],
)
def test_each_step_of_a_sequence(both: tuple[Binding, Binding], kind: str, item_format: str) -> None:
    """COLL-2, COLL-3a, COLL-4b, COLL-8"""
    items, bad = ITEMS[item_format]
    native, pure = (getattr(bound(nm), kind)(MOST, item_format) for nm in both)
    steps = [step for step in of_sequences(items, bad) if has(native, step[0])]
    heads = range(MOST) if kind in ("BoundedQueue", "BoundedDeque") else (0,)
    for head, used in itertools.product(heads, range(MOST + 1)):
        for step in steps:
            seen = []
            for thing in (native, pure):
                place(thing, head, items[:used], items[0])
                seen.append(of_a_sequence(thing, step))
            assert seen[0] == seen[1], (head, used, step)


class Closes:
    """A number that closes a collection when it is asked for, or compared."""

    def __init__(self, thing: Any, number: int) -> None:
        self.thing, self.number = thing, number

    def __index__(self) -> int:
        self.thing.close()
        return self.number

    def __eq__(self, other: object) -> bool:
        self.thing.close()
        return self.number == other

    def __hash__(self) -> int:
        return hash(self.number)

    def __repr__(self) -> str:
        return f"Closes({self.number})"


#: of each kind: what makes one, and the steps in which one argument, in its place, closes it
CLOSED: dict[str, tuple[Callable[[Any], Any], list[tuple[str, Callable[[Any], tuple[Any, ...]]]]]] = {
    "BoundedDeque": (
        lambda cs: cs.BoundedDeque(MOST, "b", [1, 2]),
        [
            *((name, lambda x: (x,)) for name in ("getitem", "delitem", "pop", "rotate", "append", "appendleft")),
            *((name, lambda x: (x,)) for name in ("remove", "count", "contains", "index", "push")),
            *((name, lambda x: (x, 1)) for name in ("setitem", "insert")),
            *((name, lambda x: (0, x)) for name in ("setitem", "insert")),
            *((name, lambda x: ([x],)) for name in ("extend", "extendleft", "iadd")),
            *((name, lambda x: (slice(x),)) for name in ("getitem", "delitem")),
            ("setitem", lambda x: (slice(x), [1])),
            ("setitem", lambda x: (slice(1), [x])),
            ("setitem", lambda x: (slice(None, None, 2), [x])),
            ("index", lambda x: (1, x)),
            ("index", lambda x: (1, 0, x)),
        ],
    ),
    "BoundedMap": (
        lambda cs: cs.BoundedMap(MOST, "b", "b", {1: 1, 2: 2}),
        [
            *((name, lambda x: (x,)) for name in ("getitem", "delitem", "contains", "get", "pop")),
            *((name, lambda x: (x, 3)) for name in ("setitem", "setdefault", "get", "pop")),
            ("setitem", lambda x: (1, x)),
            ("setdefault", lambda x: (3, x)),
            ("update", lambda x: ({x: 1},)),
            ("update", lambda x: ({3: x},)),
            ("update", lambda x: ([(3, x)],)),
        ],
    ),
    "BoundedSet": (
        lambda cs: cs.BoundedSet(MOST, "b", [1, 2]),
        [(name, lambda x: (x,)) for name in ("contains", "add", "discard", "remove")]
        + [(name, lambda x: ([x],)) for name in ("update", "isdisjoint")],
    ),
    "BoundedBitSet": (
        lambda cs: cs.BoundedBitSet(9, [1, 2]),
        [
            *((name, lambda x: (x,)) for name in ("contains", "add", "discard", "set", "clear", "toggle")),
            *((name, lambda x: (x, 5)) for name in ("set", "clear", "toggle")),
            *((name, lambda x: (0, x)) for name in ("set", "clear", "toggle")),
            *((name, lambda x: (x,)) for name in ("next_set", "next_clear")),
        ],
    ),
}


@pytest.mark.parametrize("kind", CLOSED)
def test_an_argument_that_closes_what_it_is_for(both: tuple[Binding, Binding], kind: str) -> None:
    """COLL-1f: and each step on one that is closed."""
    make, steps = CLOSED[kind]
    for (name, arguments), number in itertools.product(steps, (1, 0, 7, -1, 300)):
        seen = []
        for nm in both:
            thing = make(bound(nm))
            if not has(thing, name):
                continue
            of_open = done(thing, (name, arguments(Closes(thing, number))))
            thing.close()
            seen.append((of_open, done(thing, (name, arguments(number)))))
            for call in (iter, reversed, len, list, bool):
                seen[-1] += (outcome(call, thing),) if hasattr(thing, f"__{call.__name__}__") else ()
        assert seen[0:1] == seen[1:], (name, number)


def test_resuming_what_is_open_changes_nothing(nm: Binding) -> None:
    """COLL-1d: a close that was refused has the collection go on with its memory; nothing else does."""
    cs = bound(nm)
    for thing in (cs.BoundedList(2, "b", [1]), cs.BoundedMap(2, "b", "b", {1: 2}), cs.BoundedBitSet(8, [1])):
        thing._resume(bytearray(100))
        assert list(thing) == [1]
        never = type(thing).__new__(type(thing))
        never._resume(bytearray(100))
        assert never.closed


@pytest.mark.parametrize("verb", ["extend", "extendleft", "__iadd__", "slice", "stepped"])
def test_what_fills_up_behind_the_last_item(nm: Binding, verb: str) -> None:
    """COLL-1c: what an iterable puts in when it has given all leaves no room for that, and none of it goes in."""
    numbers = bound(nm).BoundedDeque(2, "b", [0] if verb == "stepped" else [])

    def late() -> Iterator[int]:
        yield 5
        numbers.extend([1] * (2 - len(numbers)))
        if verb == "stepped":
            numbers.clear()

    with pytest.raises(ValueError if verb == "stepped" else CapacityExceeded):
        if verb == "slice":
            numbers[0:0] = late()
        elif verb == "stepped":
            numbers[::2] = late()
        else:
            getattr(numbers, verb)(late())
    assert list(numbers) == ([] if verb == "stepped" else [1, 1])


# --- tables ---

KEYS: dict[str, tuple[list[Any], list[Any]]] = {
    "b": ([1, 2, -3, 4, 5], [300, 1.5, "x", None]),
    "B3s": ([(1, b"abc"), (2, b"abc"), (2, b"abd"), (3, b"xyz"), (4, b"\0\0\0")], [(1,), 7, (1, "x")]),
}
VALUES = [0.5, 1.5, 2.5, 3.5, 4.5]


def of_tables(keys: list[Any], bad: list[Any], of_map: bool) -> Iterable[Step]:
    """Steps that a map or a set has."""
    for key in (*keys, *bad, [1]):
        for name in ("getitem", "delitem", "contains", "get", "add", "discard", "remove", *["pop"] * of_map):
            yield name, (key,)
        for name in ("setitem", "setdefault", "get", *["pop"] * of_map):
            yield name, (key, 9.5)
        yield "setdefault", (key, "x")
        yield "setitem", (key, "x")
    for name in ("popitem", "clear", "copy", *["pop"] * (not of_map)):
        yield name, ()
    for some in (keys[:1], keys[2:4], keys[1:5], [*keys[3:4], *bad[:1]]):
        yield "update", (dict.fromkeys(some, 8.5),)
        yield "update", ([(key, 7.5) for key in some],)
        for name in (
            "ior",
            "iand",
            "isub",
            "ixor",
            "or_",
            "and_",
            "sub",
            "xor",
            "eq",
            "le",
            "lt",
            "ge",
            "isdisjoint",
        ):
            yield name, (set(some),)


def of_a_table(thing: Any, keys: list[Any], step: Step) -> Any:
    """All that can be seen of one step."""
    began = iter(thing), reversed(thing)
    started = [outcome(next, each) for each in began]
    result = done(thing, step)
    if hasattr(thing, "items"):
        inside: Any = list(thing.items()), list(thing.values()), [thing.get(key) for key in keys]
    else:
        inside = [key in thing for key in keys]
        result = sorted(result) if type(result) is type(thing) else result
    ends = [outcome(next, each) for each in began]
    return result, len(thing), list(thing), list(reversed(thing)), inside, started, ends


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["BoundedMap", "BoundedSet"])
@pytest.mark.parametrize("key_format", KEYS)
def test_each_step_of_a_table(both: tuple[Binding, Binding], kind: str, key_format: str) -> None:
    """COLL-3b, COLL-3c, COLL-4c, COLL-8"""
    keys, bad = KEYS[key_format]
    of_map = kind == "BoundedMap"
    native, pure = (
        bound(nm).BoundedMap(MOST, key_format, "d") if of_map else bound(nm).BoundedSet(MOST, key_format)
        for nm in both
    )
    steps = [step for step in of_tables(keys, bad, of_map) if has(native, step[0])]
    for used, gone in itertools.product(range(MOST + 1), (None, 0, 1)):
        for step in steps:
            seen = []
            for thing in (native, pure):
                thing.clear()
                for key, value in zip(keys[:used], VALUES, strict=False):
                    thing.update({key: value} if of_map else [key])
                for key in keys[gone : gone + 1] if gone is not None and gone < used else []:
                    thing.pop(key) if of_map else thing.remove(key)
                seen.append(of_a_table(thing, keys, step))
            assert seen[0] == seen[1], (used, gone, step)


#: hashes of the keys 0 to 5: all the same, apart, next to each other, around the end of any table of up to 32
#: slots, the same slot with other bits above it, and numbers that a hash of the interpreter may be
HASHES: list[Callable[[int], int]] = [
    lambda key: 0,
    lambda key: key,
    lambda key: key // 2,
    lambda key: 31 - key // 3,
    lambda key: 30 + key,
    lambda key: key << 20 | 31,
    lambda key: -1 - key,
    lambda key: (key << 61) - 2,
    lambda key: (5 - key) * 3,
]


@pytest.mark.parametrize("number", range(len(HASHES)))
def test_keys_whose_hashes_collide(number: int, pure: Binding, monkeypatch: pytest.MonkeyPatch) -> None:
    """COLL-3b: of the pure backend, whose hashes can be chosen: what was put in is found, whatever went."""
    monkeypatch.setattr(tables, "hash", lambda packed: HASHES[number](packed[0]), raising=False)
    r = random.Random(number)
    cs = bound(pure)
    for most in (1, 3, 5, 6):
        ours, theirs, only = cs.BoundedMap(most, "B", "H"), {}, cs.BoundedSet(most, "B")
        for _ in range(250):
            key, value = r.randrange(6), r.randrange(1000)
            if key in theirs and r.random() < 0.6:
                assert ours.pop(key) == theirs.pop(key)
                only.remove(key)
            elif key in theirs or len(theirs) < most:
                ours[key] = theirs[key] = value
                only.add(key)
            assert list(ours.items()) == list(theirs.items())
            assert list(reversed(ours)) == list(reversed(theirs))
            assert [ours.get(key) for key in range(7)] == [theirs.get(key) for key in range(7)]
            assert [key in only for key in range(7)] == [key in theirs for key in range(7)]
            assert sorted(only) == sorted(theirs)


@pytest.fixture
def pure(both: tuple[Binding, Binding]) -> Binding:
    """The facade bound to the pure backend."""
    return both[1]


# --- bits ---


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 13, 64, 70])
def test_each_step_of_bits(both: tuple[Binding, Binding], n: int) -> None:
    """COLL-6a: of single bits and of ranges, at each edge of a byte and of the whole."""
    native, pure = (bound(nm).BoundedBitSet(n) for nm in both)
    edges = sorted({-1, 0, 1, 7, 8, 9, n - 1, n, n + 1, 1 << 70, -(1 << 70)})
    single = [(each,) for each in (*edges, *NO_NUMBERS, 2.5)]
    pairs = [(a, b) for a in (*edges[1:-1], "x") for b in (*edges[1:-1], "x")]
    steps: list[Step] = [
        (name, each) for name in ("set", "clear", "toggle") for each in (*single, *pairs, (), (1, 2, 3))
    ]
    steps += [(name, each) for name in ("add", "discard", "contains", "next_set", "next_clear") for each in single]
    steps += [("next_set", ()), ("next_clear", ())]
    for bits in ([], [0], range(n), range(0, n, 3), [n - 1]):
        for step in steps:
            seen = []
            for thing in (native, pure):
                thing.clear()
                thing.update(bits)
                seen.append((done(thing, step), list(thing), len(thing), [i in thing for i in range(n)]))
            assert seen[0] == seen[1], (bits, step)


def test_long_runs_of_bits(nm: Binding) -> None:
    """COLL-6a: the next that is set, or clear, at each edge of what is passed over at once."""
    for n in (8192, 8200, 16384, 30001):
        bits = bound(nm).BoundedBitSet(n)
        edges = [0, 1, 7, 8, 8185, 8191, 8192, 8193, 16383, 16384, 16385, 24575, 24576, 24600, 30000]
        edges = [each for each in edges if each < n]
        for at in edges:
            bits.set(at)
            for start in (0, 1, 8, 100, 8190, 8191, 8192, 8200, 16384, at):
                assert bits.next_set(start) == (at if start <= at else None), (n, at, start)
            bits.clear(at)
        bits.set(0, n)
        for at in edges:
            bits.clear(at)
            for start in (0, 1, 8, 100, 8190, 8191, 8192, 8200, 16384, at):
                assert bits.next_clear(start) == (at if start <= at else None), (n, at, start)
            bits.set(at)
        assert bits.next_clear() is None
        bits.clear()
        assert bits.next_set() is None
