"""COLL-3: the same steps on a bounded collection and on the builtin, whatever they are."""

from __future__ import annotations

import operator
from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nativemem.backends.binding import Binding
from nativemem.errors import CapacityExceeded
from nativemem.manager.collections import bound

MOST = 8
values = st.integers(-3, 3)
lists = st.lists(values, max_size=MOST)
index = st.integers(-MOST - 2, MOST + 2)
bounds = st.none() | index
slices = st.builds(slice, bounds, bounds, st.none() | st.integers(-3, 3))
keys = st.integers(0, 12)

FEW = settings(max_examples=60, deadline=None)


@pytest.fixture
def cs(nm: Binding) -> SimpleNamespace:
    """The collections of the backend."""
    return bound(nm)


def outcome(call: Any, *args: Any) -> Any:
    """What a call returns, or the class of what it raises."""
    try:
        result = call(*args)
    except Exception as error:
        return type(error)
    return list(result) if isinstance(result, (list, deque)) else result


def step(thing: Any, name: str, args: tuple[Any, ...]) -> Any:
    """A method, or a function of the operator module."""
    if name == "sort":
        return outcome(lambda: thing.sort(key=abs, reverse=args[0]))
    if hasattr(type(thing), name):
        return outcome(getattr(thing, name), *args)
    return outcome(getattr(operator, name), thing, *args)


def follows(ours: Any, model: Any, name: str, args: tuple[Any, ...]) -> None:
    """Does a step on both, unless it would make the model too large: then ours refuses, and nothing has changed."""
    before = list(model)
    theirs = step(model, name, args)
    if len(model) > ours.capacity:
        assert step(ours, name, args) is CapacityExceeded, (name, args)
        assert list(ours) == before
        model.clear()
        model.update(before) if isinstance(model, dict) else model.extend(before)
        return
    got = step(ours, name, args)
    if isinstance(theirs, type) and isinstance(got, type):
        assert issubclass(got, theirs), (name, args, got, theirs)
    else:
        assert type(got) is type(theirs) or theirs in (model, before) or got is NotImplemented or got == theirs
        if theirs is not model:
            assert got == theirs or list(got) == list(theirs), (name, args)
    assert list(ours) == list(model), (name, args)
    assert len(ours) == len(model)


of_lists = st.one_of(
    st.tuples(st.just("append"), st.tuples(values)),
    st.tuples(st.just("insert"), st.tuples(index, values)),
    st.tuples(st.just("extend"), st.tuples(lists)),
    st.tuples(st.just("pop"), st.tuples(index) | st.tuples()),
    st.tuples(st.sampled_from(["remove", "count", "index", "contains"]), st.tuples(values)),
    st.tuples(st.just("index"), st.tuples(values, index) | st.tuples(values, index, index)),
    st.tuples(st.sampled_from(["reverse", "clear"]), st.tuples()),
    st.tuples(st.just("getitem"), st.tuples(index)),
    st.tuples(st.just("setitem"), st.tuples(index, values)),
    st.tuples(st.just("delitem"), st.tuples(index)),
)
of_slices = st.one_of(
    st.tuples(st.just("getitem"), st.tuples(slices)),
    st.tuples(st.just("setitem"), st.tuples(slices, lists)),
    st.tuples(st.just("delitem"), st.tuples(slices)),
    st.tuples(st.just("sort"), st.tuples(st.booleans())),
)
of_deques = st.one_of(
    st.tuples(st.just("appendleft"), st.tuples(values)),
    st.tuples(st.just("extendleft"), st.tuples(lists)),
    st.tuples(st.just("popleft"), st.tuples()),
    st.tuples(st.just("pop"), st.tuples()),
    st.tuples(st.just("rotate"), st.tuples(st.integers(-20, 20)) | st.tuples()),
)


@pytest.mark.parametrize("item_format", ["b", "d", ">h"])
def test_programs_against_a_list(cs: SimpleNamespace, item_format: str) -> None:
    """COLL-3a: indexes, slices with steps, search, order; what a list raises too."""

    @FEW
    @given(lists, st.lists(of_lists | of_slices, max_size=25))
    def program(items: list[int], steps: list[tuple[str, tuple[Any, ...]]]) -> None:
        ours, model = cs.BoundedList(MOST, item_format, items), list(items)
        for name, args in steps:
            follows(ours, model, name, args)
        assert list(reversed(ours)) == model[::-1]

    program()


def test_programs_against_a_deque(cs: SimpleNamespace) -> None:
    """COLL-3a: whose items lie around the end of the memory; slices are compared with a list's."""

    def steps_of(draw_pop: Any) -> Any:
        return st.lists(of_deques | of_lists.filter(lambda each: each[0] != "pop"), max_size=40)

    @FEW
    @given(lists, steps_of(None), slices, lists)
    def program(items: list[int], steps: list[tuple[str, tuple[Any, ...]]], where: slice, new: list[int]) -> None:
        ours, model = cs.BoundedDeque(MOST, "h", items), deque(items)
        for name, args in steps:
            follows(ours, model, name, args)
        plain = list(model)
        follows(ours, plain, "getitem", (where,))
        follows(ours, plain, "setitem", (where, new))
        follows(ours, plain, "delitem", (where,))

    program()


def test_every_place_in_the_memory(cs: SimpleNamespace) -> None:
    """COLL-3a: a deque's items around the end of the memory, from each slot on: every range put in place of every
    range, every rotation."""
    most = 5
    for head in range(most):
        for used in range(most + 1):
            ours = cs.BoundedDeque(most, "h")
            for start in range(used + 1):
                for stop in range(start, used + 1):
                    for n in range(most - used + stop - start + 1):
                        at(ours, head, used)
                        model = list(range(used))
                        ours[start:stop] = model[start:stop] = range(10, 10 + n)
                        assert list(ours) == model, (head, used, start, stop, n)
            for n in range(-used, used + 1):
                at(ours, head, used)
                turned = deque(range(used))
                ours.rotate(n)
                turned.rotate(n)
                assert ours == turned, (head, used, n)
                ours.reverse()
                turned.reverse()
                assert ours == turned


def at(ours: Any, head: int, used: int) -> None:
    """Has the numbers from 0 on in it, the first in that slot."""
    ours.clear()
    for _ in range(head):
        ours.append(0)
        ours.append(0)
        ours.popleft()
        ours.pop()
    ours.extend(range(used))


of_maps = st.one_of(
    st.tuples(st.just("setitem"), st.tuples(keys, values)),
    st.tuples(st.sampled_from(["getitem", "delitem", "contains", "get", "pop"]), st.tuples(keys)),
    st.tuples(st.sampled_from(["get", "pop", "setdefault"]), st.tuples(keys, values)),
    st.tuples(st.sampled_from(["popitem", "clear"]), st.tuples()),
    st.tuples(st.just("update"), st.tuples(st.dictionaries(keys, values, max_size=4))),
    st.tuples(st.just("update"), st.tuples(st.lists(st.tuples(keys, values), max_size=4))),
    st.tuples(st.just("contains"), st.tuples(st.sampled_from([1.0, 1.5, "x", None, (1, 2), 1 << 70]))),
)


@pytest.mark.parametrize("key_format", ["q", "<i", "d"])
def test_programs_against_a_dict(cs: SimpleNamespace, key_format: str) -> None:
    """COLL-3b: contents and order, also after many removals."""

    @FEW
    @given(st.lists(of_maps, max_size=60))
    def program(steps: list[tuple[str, tuple[Any, ...]]]) -> None:
        ours: Any = cs.BoundedMap(MOST, key_format, "b")
        model: dict[int, int] = {}
        for name, args in steps:
            before = dict(model)
            theirs = step(model, name, args)
            if len(model) > MOST:
                assert step(ours, name, args) is CapacityExceeded
                model.clear()
                model.update(before)
            else:
                assert step(ours, name, args) == theirs, (name, args)
            assert list(ours.items()) == list(model.items()), (name, args)
            assert (list(ours), list(ours.values())) == (list(model), list(model.values()))
            assert list(reversed(ours)) == list(reversed(model))
            assert [ours.get(k) for k in range(13)] == [model.get(k) for k in range(13)]
        assert ours == model
        assert ours.keys() == model.keys()

    program()


of_sets = st.one_of(
    st.tuples(st.sampled_from(["add", "discard", "remove", "contains"]), st.tuples(keys)),
    st.tuples(st.just("clear"), st.tuples()),
    st.tuples(st.sampled_from(["ior", "iand", "isub", "ixor"]), st.tuples(st.sets(keys, max_size=6))),
    st.tuples(
        st.sampled_from(["or_", "and_", "sub", "xor", "lt", "le", "eq"]), st.tuples(st.sets(keys, max_size=6))
    ),
    st.tuples(st.just("isdisjoint"), st.tuples(st.sets(keys, max_size=3))),
)


@pytest.mark.parametrize("name", ["BoundedSet", "BoundedBitSet"])
def test_programs_against_a_set(cs: SimpleNamespace, name: str) -> None:
    """COLL-3b, COLL-6b"""

    @FEW
    @given(st.lists(of_sets, max_size=40))
    def program(steps: list[tuple[str, tuple[Any, ...]]]) -> None:
        ours = cs.BoundedSet(13, "B") if name == "BoundedSet" else cs.BoundedBitSet(13)
        model: set[int] = set()
        for verb, args in steps:
            theirs, got = step(model, verb, args), step(ours, verb, args)
            if theirs is not model and verb != "clear":  # that of a bit set says whether there was one
                assert got == theirs, (verb, args)
            assert set(ours) == model, (verb, args)
            assert len(ours) == len(model)
        assert sorted(ours) == sorted(model)

    program()


@pytest.mark.parametrize("n", [1, 63, 64, 65, 130])
def test_ranges_of_bits_against_a_list(cs: SimpleNamespace, n: int) -> None:
    """COLL-6a"""
    bit = st.integers(0, n)
    verbs = st.tuples(st.sampled_from(["set", "clear", "toggle"]), bit, bit)

    @FEW
    @given(st.lists(verbs, max_size=12), bit)
    def program(steps: list[tuple[str, int, int]], start: int) -> None:
        ours, model = cs.BoundedBitSet(n), [False] * n
        for verb, first, stop in steps:
            before = list(model)
            for i in range(first, stop):
                model[i] = {"set": True, "clear": False, "toggle": not model[i]}[verb]
            assert getattr(ours, verb)(first, stop) == (before != model)
            assert list(ours) == [i for i in range(n) if model[i]]
        assert ours.next_set(start) == next((i for i in range(start, n) if model[i]), None)
        assert ours.next_clear(start) == next((i for i in range(start, n) if not model[i]), None)
        runs = list(ours.runs())
        assert [i for a, b in runs for i in range(a, b)] == list(ours)
        assert all(a < b for a, b in runs)
        assert all(b < c for (_, b), (c, _) in zip(runs, runs[1:], strict=False))
        ours.invert()
        assert list(ours) == [i for i in range(n) if not model[i]]

    program()


texts = st.text(alphabet="ab\u00e9\u20ac\U0001f600", max_size=5)


def test_programs_against_a_string(cs: SimpleNamespace) -> None:
    """COLL-5: a list of characters is the model of what changes, a str of what is read."""
    of_texts = st.one_of(
        st.tuples(st.sampled_from(["append", "extend"]), st.tuples(texts)),
        st.tuples(st.just("insert"), st.tuples(index, texts)),
        st.tuples(st.just("setitem"), st.tuples(index, texts) | st.tuples(slices, texts)),
        st.tuples(st.just("delitem"), st.tuples(index) | st.tuples(slices)),
        st.tuples(st.just("clear"), st.tuples()),
    )

    @FEW
    @given(texts, st.lists(of_texts, max_size=12), slices)
    def program(text: str, steps: list[tuple[str, tuple[Any, ...]]], where: slice) -> None:
        ours, model = cs.BoundedString(24, text), list(text)
        for name, args in steps:
            before = "".join(model)
            theirs = step(model, "extend" if name == "append" else name, args)
            model[:] = "".join(model)
            got = step(ours, name, args)
            if len("".join(model).encode()) > 24:
                assert got is CapacityExceeded
                model[:] = before
            else:
                assert got == theirs, (name, args)
            assert str(ours) == "".join(model), (name, args)
            assert (len(ours), ours.size) == (len(model), len(str(ours).encode()))
        if where.step != 0:
            assert ours[where] == str(ours)[where]
        assert list(ours) == model

    program()
