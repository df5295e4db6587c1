"""ERR-4: whatever a public call of the room is given, it returns or raises an error that says why."""

from __future__ import annotations

import gc
import inspect
import itertools
from collections.abc import Iterator
from typing import Any

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
