"""What C has of the interpreter's it gives up again: each method of each collection, with what it takes and what it
does not, leaves no block of the interpreter's behind."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from bad_input.cases import REPEATED, rising
from nativemem._api import load
from nativemem.manager.collections import bound
from nativemem.structures import InternTable

pytestmark = pytest.mark.usefixtures("old_objects_apart")

#: of objects in general
OTHERS = {"__class__", "__new__", "__init_subclass__", "__subclasshook__", "__class_getitem__", "__sizeof__"}
KINDS: dict[str, Callable[[SimpleNamespace, Any], Any]] = {
    **{
        name: lambda cs, upstream, name=name: getattr(cs, name)(4, "q", [10, 20, 30], upstream=upstream)
        for name in ("BoundedList", "BoundedStack", "BoundedQueue", "BoundedDeque", "BoundedSet")
    },
    "a list of records": lambda cs, upstream: cs.BoundedList(4, "q5pd", [(1, b"ab", 0.5)], upstream=upstream),
    "a deque of bytes": lambda cs, upstream: cs.BoundedDeque(4, "6p", [b"ab", b"cd"], upstream=upstream),
    "BoundedMap": lambda cs, upstream: cs.BoundedMap(4, "q", "8p", {10: b"a", 20: b"b"}, upstream=upstream),
    "BoundedString": lambda cs, upstream: cs.BoundedString(9, "abc", upstream=upstream),
    "BoundedBitSet": lambda cs, upstream: cs.BoundedBitSet(30, [10, 20], upstream=upstream),
    "InternTable": lambda cs, upstream: filled(InternTable(upstream)),
}


def filled(table: InternTable) -> InternTable:
    for value in ("a", b"b", "\u03a9"):
        table.acquire(value)
    return table


class Odd:
    """What answers with an error."""

    def __index__(self) -> int:
        raise KeyError("odd")

    __hash__ = __eq__ = __len__ = __iter__ = __index__  # type: ignore[assignment]


def arguments(make: Callable[[], Any]) -> list[tuple[Any, ...]]:
    values: list[Any] = [10, 0, -1, 99, 1.5, "x", b"ab", (2, b"cd", 1.5), [10, 40], range(9), slice(0, 2), None]
    values.append(Odd())
    pairs = [(0, 40), (10, b"c"), (slice(0, 1), [40]), (slice(0, 2), []), (0, "x"), (1, 2, 3), (Odd(), Odd())]
    return [(), *((value,) for value in values), (make(),), *pairs]


@pytest.mark.usefixtures("needs_native", "needs_counts")
@pytest.mark.parametrize("kind", KINDS)
def test_no_method_keeps_what_it_was_given(kind: str) -> None:
    """COLL-1, INT-1: in C, where each reference has to be given up by hand."""
    nm = load("native")
    cs, heap = bound(nm), nm.Heap()

    def make() -> Any:
        return KINDS[kind](cs, heap)

    names = [name for name in dir(make()) if name not in OTHERS]

    def round_() -> None:
        for given in arguments(make):
            for name in names:
                thing = make()
                for _ in range(REPEATED):
                    with contextlib.suppress(Exception):
                        got = getattr(thing, name)
                        if callable(got):
                            got = got(*given)
                        list(got)
            del thing, got

    assert rising(round_) is None
