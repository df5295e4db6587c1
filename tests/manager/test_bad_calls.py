"""ERR-4: whatever a public call of the room is given, it returns or raises an error that says why."""

from __future__ import annotations

import gc
import inspect
import itertools
from collections.abc import Iterator
from typing import Any

from conftest import NATIVE_IS_BUILT
from nativemem.errors import NativeMemError
from nativemem.facades import load
from nativemem.manager import (
    CappedProvider,
    Level,
    LinearMemory,
    MemoryManager,
    StaticProvider,
    StdProvider,
    Verification,
    default_provider,
    memory,
    with_memory,
)
from nativemem.manager.collections import bound

JUNK: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 1 << 70, 1.5, float("nan"), "x", "", "1 KiB", b"x", [], {}, (), object(), len, int),
    *("decoder", 3 + 1j, range(3), {"a": 1}, memoryview(b"abc")),
)
#: as what a bytearray raises for a byte that is none
ALLOWED = (NativeMemError, TypeError, BufferError)
#: opens whatever file it is given, or leaves nothing to be tried
NOT_CALLED = {"from_toml", "close", "lock"}


def subjects(nm: Any) -> Iterator[Any]:
    heap = nm.Heap()
    for level in ("off", "redundant"):
        rest: dict[str, Any] = {"upstream": heap, "verification": level}
        yield MemoryManager({"decoder": "64 KiB"}, **rest)
        yield from (StdProvider(**rest), CappedProvider(1000, **rest), StaticProvider(64, **rest))
        yield LinearMemory(1, 2, **rest)
    yield from (Verification("basic"), Level.FULL)


def arguments(count: int) -> Iterator[tuple[Any, ...]]:
    yield ()
    if count >= 1:
        yield from ((each,) for each in JUNK)
    if count >= 2:
        yield from itertools.product(JUNK[::2], JUNK[1::2])
    if count >= 3:
        yield from (("decoder", "decoder", each) for each in JUNK)


def test_junk() -> None:
    """ERR-4b: on every method of every class of the room."""
    calls = 0
    for subject in itertools.chain(subjects(load("pure")), subjects(load())):
        for name in dir(subject):
            if (
                name.startswith("_")
                or name in NOT_CALLED
                or not inspect.isroutine(getattr(type(subject), name, None))
            ):
                continue
            method = getattr(subject, name)
            parameters = inspect.signature(method).parameters.values()
            count = sum(each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD) for each in parameters)
            for given in arguments(count):
                calls += 1
                try:
                    method(*given)
                except ALLOWED as error:
                    assert str(error) or isinstance(error, BufferError), (subject, name, given)
        if isinstance(subject, MemoryManager):
            gc.collect()
            assert subject.total.used == 0
            subject.verification.check()
    assert calls > 3000


def test_junk_to_begin_with() -> None:
    """ERR-4b: on every parameter of what makes one."""
    makers = (MemoryManager, StdProvider, CappedProvider, StaticProvider, LinearMemory, Verification)
    for make in (*makers, memory, with_memory, default_provider):
        for parameter in inspect.signature(make).parameters:
            for each in JUNK:
                given = {
                    parameter: each,
                    **({"total": 1000} if make is MemoryManager and parameter != "total" else {}),
                }
                try:
                    make(**given)
                except ALLOWED as error:
                    assert str(error)


#: what the builtins raise for the same, and what ``unknown`` says
AS_BUILTINS = (*ALLOWED, IndexError, KeyError, ValueError, OverflowError, RuntimeError)
SEQUENCE = ("__getitem__", "__setitem__", "__delitem__", "__contains__", "__iadd__", "__eq__", "__lt__")
MAPPING = ("__getitem__", "__setitem__", "__delitem__", "__contains__", "__ior__", "__eq__")
SET = (
    "__contains__",
    "__or__",
    "__and__",
    "__sub__",
    "__xor__",
    "__ior__",
    "__iand__",
    "__isub__",
    "__ixor__",
    "__le__",
)
#: of each kind: what it is made with, and its special methods
COLLECTIONS: dict[str, tuple[tuple[Any, ...], tuple[str, ...]]] = {
    **{
        name: ((4, "h", [1, 2, 0]), SEQUENCE)
        for name in ("BoundedList", "BoundedStack", "BoundedQueue", "BoundedDeque")
    },
    "BoundedMap": ((4, "4p", "d", {b"x": 1.0, b"": 0.5}), MAPPING),
    "BoundedSet": ((4, "d", [1.0, 2.0]), SET),
    "BoundedBitSet": ((70, [1, 64]), SET),
    "BoundedString": (
        (8, "ab\u00e9"),
        ("__getitem__", "__setitem__", "__delitem__", "__contains__", "__iadd__", "__eq__"),
    ),
}


def shape(thing: Any) -> Any:
    """What both backends have to give alike."""
    if isinstance(thing, (int, float, str, bytes, type(None), tuple)):
        return repr(thing)
    return type(thing).__name__


def tried(ns: Any, kind: str, name: str, given: tuple[Any, ...]) -> tuple[Any, Any]:
    """What a call gives or raises, and what is in the collection afterwards."""
    with getattr(ns, kind)(*COLLECTIONS[kind][0]) as c:
        before = repr(c)
        try:
            out = shape(getattr(c, name)(*given))
        except AS_BUILTINS as error:
            assert str(error) or isinstance(error, (BufferError, KeyError, StopIteration)), (kind, name, given)
            assert repr(c) == before, f"{kind}.{name}{given} was refused, and something has changed"
            out = type(error).__name__
        return out, None if c.closed else repr(c)


def test_junk_for_collections() -> None:
    """ERR-4b: on every method of each bounded collection; a refused call changes nothing; both backends agree."""
    backends = [bound(load(name)) for name in ("pure", "native") if name == "pure" or NATIVE_IS_BUILT]
    for kind, (_, special) in COLLECTIONS.items():
        names = [name for name in dir(getattr(backends[0], kind)) if not name.startswith("_")]
        for name in (*names, *special):
            if not inspect.isroutine(inspect.getattr_static(getattr(backends[0], kind), name)):
                continue
            pairs = itertools.product(JUNK[::2], JUNK[1::3])
            for given in ((), *((each,) for each in JUNK), *pairs):
                answers = [tried(ns, kind, name, given) for ns in backends]
                assert answers[0] == answers[-1], (kind, name, given)
