"""What the calls are tried with: values of every wrong kind, and objects that act while they are looked at."""

from __future__ import annotations

import array
import contextlib
import ctypes
import decimal
import fractions
import math
import mmap
from collections.abc import Callable, Iterator
from typing import Any

import nativemem
from nativemem import errors
from nativemem._api import load
from nativemem.backends.binding import Binding

from .world import World, worker


class Hostile(Exception):
    """What an object of ours raises while it is looked at."""


def _hostile(answer: Callable[[str], Any], base: type = object, but: tuple[str, ...] = ()) -> type:
    """A class whose special methods all do as ``answer`` says."""
    names = (
        "index int float complex bool len length_hint iter next contains getitem setitem delitem call eq ne lt le "
        "gt ge hash repr str bytes format trunc round add radd mul rmul sub floordiv neg pos abs and or divmod mod "
        "enter exit reversed fspath buffer release_buffer instancecheck reduce reduce_ex dir sizeof missing"
    ).split()
    namespace: dict[str, Any] = {}
    for name in names:
        if name in but:
            continue

        def method(self: Any, *args: Any, _name: str = name) -> Any:
            return answer(_name)

        namespace[f"__{name}__"] = method
    return type("Hostile", (base,), namespace)


def _raise(name: str) -> Any:
    raise Hostile(name)


#: of the wrong type for each of them
_WRONG = {
    "index": "x", "int": "x", "float": "x", "bool": 2, "len": -1, "length_hint": -2, "iter": 5, "hash": "x",
    "repr": 5, "str": 5, "bytes": 5, "buffer": 5, "eq": "yes", "call": object(),
}  # fmt: skip
_HUGE = {"index": 2**70, "int": 2**70, "float": math.inf, "len": 2**62, "length_hint": 2**62, "hash": 1, "call": 1}

RaisesAll = _hostile(_raise)
WrongAll = _hostile(lambda name: _WRONG.get(name, NotImplemented))
HugeAll = _hostile(
    lambda name: _HUGE.get(name, 2**70), but=("iter", "getitem", "repr", "str", "buffer", "reduce_ex", "reduce")
)
RaisingInt = _hostile(_raise, int)
RaisingStr = _hostile(_raise, str)
RaisingBytes = _hostile(_raise, bytes)
RaisingFloat = _hostile(_raise, float)
RaisingList = _hostile(_raise, list)
RaisingDict = _hostile(_raise, dict)


class NoAttributes:
    """Not even its class can be asked for."""

    def __getattribute__(self, name: str) -> Any:
        raise Hostile(name)


class LyingClass:
    """Says that it is an int."""

    __class__ = int  # type: ignore[assignment]


class Plain:
    """An object that can do nothing."""


def _recursive() -> list[Any]:
    thing: list[Any] = []
    thing.append(thing)
    return thing


def _released() -> memoryview:
    view = memoryview(bytearray(8))
    view.release()
    return view


#: Sizes between 1 GiB and 2**48 are missing: a system that hands them out would have them touched.
PLAIN: dict[str, Any] = {
    "None": None,
    "True": True,
    "False": False,
    "0": 0,
    "1": 1,
    "3": 3,
    "-1": -1,
    "-2**63": -(2**63),
    "-2**63-1": -(2**63) - 1,
    "2**48": 2**48,
    "2**62": 2**62,
    "2**63-1": 2**63 - 1,
    "2**63": 2**63,
    "2**64-1": 2**64 - 1,
    "2**64": 2**64,
    "2**64+64": 2**64 + 64,
    "10**400": 10**400,
    "-10**400": -(10**400),
    "10**5000": 10**5000,
    "0.0": 0.0,
    "1.5": 1.5,
    "-0.5": -0.5,
    "1e308": 1e308,
    "nan": math.nan,
    "inf": math.inf,
    "-inf": -math.inf,
    "1j": 1j,
    "Decimal": decimal.Decimal("64"),
    "Fraction": fractions.Fraction(1, 2),
    "''": "",
    "' '": " ",
    "'x'": "x",
    "'i'": "i",
    "'P'": "P",
    "'O'": "O",
    "'-1'": "-1",
    "'64 KiB'": "64 KiB",
    "'0'": "0",
    "'1e3'": "1e3",
    "'64 XB'": "64 XB",
    "'99999999999 TiB'": "99999999999 TiB",
    "other digits": "\u0661\u0662",
    "long string": "x" * 100_000,
    "long digits": "1" * 5000,
    "NUL": "\0",
    "64 and NUL": "64\0",
    "d and NUL": "d\0",
    "surrogate": "\ud800",
    "surrogates": "64 \udc80\udfff",
    "lines": "one\ntwo\r\nthree",
    "0 fields": "0s",
    "pad": "8x",
    "huge format": f"{2**48}s",
    "huge pad": f"{2**48}x",
    "overflowing format": f"{2**62}d",
    "long format": "d" * 3000,
    "b''": b"",
    "b'64'": b"64",
    "b'd'": b"d",
    "memoryview": memoryview(bytes(16)),
    "strided view": memoryview(bytes(16))[::2],
    "view of doubles": memoryview(bytes(16)).cast("d"),
    "view of rows": memoryview(bytes(16)).cast("B", (4, 4)),
    "released view": _released(),
    "()": (),
    "(1,)": (1,),
    "(1, 2, 3)": (1, 2, 3),
    "[]": [],
    "[None]": [None],
    "[-1]": [-1],
    "[2**62, 2**62]": [2**62, 2**62],
    "['x', b'']": ["x", b""],
    "itself in a list": _recursive(),
    "{}": {},
    "{'limit': 1}": {"limit": 1},
    "set": {1, 2},
    "frozenset": frozenset({"a"}),
    "range": range(3),
    "slice": slice(None),
    "slice, odd": slice(2**64, None, -(2**64)),
    "slice, no ints": slice("a", 1.5, None),
    "object": Plain(),
    "object()": object(),
    "int type": int,
    "Exception type": Exception,
    "exception": ValueError("x"),
    "StopIteration": StopIteration(),
    "function": len,
    "raising function": _raise,
    "module": math,
    "...": ...,
    "NotImplemented": NotImplemented,
    "ctypes.c_int": ctypes.c_int,
    "ctypes pointer": ctypes.c_void_p,
    "ctypes object": ctypes.py_object,
    "ctypes array": ctypes.c_int * 3,
    "ctypes array of none": ctypes.c_int * 0,
    "ctypes instance": ctypes.c_int(5),
    "raises": RaisesAll(),
    "raising int": RaisingInt(64),
    "raising str": RaisingStr("64"),
    "raising bytes": RaisingBytes(b"64"),
    "raising float": RaisingFloat(0.5),
    "raising list": RaisingList([1]),
    "raising dict": RaisingDict({"a": 1}),
    "wrong answers": WrongAll(),
    "huge answers": HugeAll(),
    "no attributes": NoAttributes(),
    "lying class": LyingClass(),
}

#: those that stand for the others where a method was tried with all of them on another class
FEW = (
    "None", "True", "0", "-1", "2**63-1", "2**64", "10**400", "nan", "''", "'64 KiB'", "surrogate", "d and NUL",
    "b'64'", "released view", "[-1]", "object", "raises", "raising int", "raising str", "wrong answers",
    "huge answers", "no attributes",
)  # fmt: skip


# ---- things of the package in the wrong place ---------------------------------------------------------------


def _other(nm: Binding) -> Binding | None:
    try:
        return load("pure" if nm.name == "native" else "native")
    except errors.NativeUnavailable:
        return None


def _from_other(make: Callable[[Binding], Any]) -> Callable[[World], Any]:
    def maker(w: World) -> Any:
        other = _other(w.nm)
        return None if other is None else make(other)

    return maker


def _freed(w: World) -> Any:
    block = w.another_allocator().alloc(64)
    block.free()
    return block


def _own_freed(w: World) -> Any:
    def make() -> Any:
        block = w.allocator.alloc(64)
        block.free()
        return block

    return w.another(f"freed by {w.allocator.id}", make)  # once: an arena keeps it


def _stale(w: World) -> Any:
    arena = w.another_arena()
    block = arena.alloc(64)
    arena.reset()
    return block


def _closed(w: World) -> Any:
    heap = w.nm.Heap()
    heap.close()
    return heap


def _orphaned_arena(w: World) -> Any:
    def make() -> Any:
        return w.nm.Arena(upstream=w.nm.System())

    return w.another("arena of another thread", lambda: worker.run(make))


def _exported(w: World) -> Any:
    block = w.another("exported", lambda: w.another_allocator().alloc(64))
    if not w.views:
        w.views.append(memoryview(block))
    return block


def _readonly(w: World) -> Any:
    return memoryview(w.sentinel).toreadonly() if w.sentinel is not None else memoryview(b"")


def _released_mark(w: World) -> Any:
    arena = w.another_arena()
    mark = arena.mark()
    arena.release(mark)
    return mark


WORLDLY: dict[str, Callable[[World], Any]] = {
    "the subject": lambda w: w.subject,
    "its class": lambda w: type(w.subject),
    "its allocator": lambda w: w.allocator,
    "its block": lambda w: w.block,
    "a block in a list": lambda w: [w.block],
    "freed block": _freed,
    "own freed block": _own_freed,
    "stale block": _stale,
    "exported block": _exported,
    "another's block": lambda w: w.another("block", lambda: w.another_allocator().alloc(64)),
    "block of the other backend": _from_other(lambda nm: nm.Heap().alloc(64)),
    "block of no bytes": lambda w: w.another("empty", lambda: w.another_allocator().alloc(0)),
    "view of a block": lambda w: w.another("view", lambda: memoryview(w.another_allocator().alloc(64))),
    "readonly view": lambda w: w.another("readonly", lambda: _readonly(w)),
    "closed allocator": _closed,
    "another allocator": lambda w: w.another_allocator(),
    "allocator of another thread": _orphaned_arena,
    "allocator of the other backend": _from_other(lambda nm: nm.System()),
    "allocator never made": lambda w: w.nm.Arena.__new__(w.nm.Arena),
    "typed arena": lambda w: w.another("typed", lambda: w.open(w.nm.TypedArena("d", upstream=w.system))),
    "budget": lambda w: w.budget,
    "another budget": lambda w: w.another_budget(),
    "budget of the other backend": _from_other(lambda nm: nm.Budget(1 << 30)),
    "budget never made": lambda w: w.nm.Budget.__new__(w.nm.Budget),
    "another's mark": lambda w: w.another("mark", lambda: w.another_arena().mark()),
    "released mark": _released_mark,
    "mark never made": lambda w: type(_released_mark(w)).__new__(type(_released_mark(w))),
    "value": lambda w: w.another("value", lambda: w.another_allocator().alloc_value("d", 1.5)),
    "config of another": lambda w: nativemem.config.StackConfig(64),
    "bytearray": lambda w: bytearray(b"64"),
    "array": lambda w: array.array("d", [1.0, 2.0]),
    "mmap": lambda w: w.another("mmap", lambda: memoryview(mmap.mmap(-1, 16))),
}


FEW_WORLDLY = (
    "the subject", "its block", "own freed block", "stale block", "exported block", "another's block",
    "block of the other backend", "closed allocator", "allocator of another thread",
    "allocator of the other backend", "budget of the other backend", "another's mark",
)  # fmt: skip


# ---- objects that act ---------------------------------------------------------------------------------------


def _quietly(act: Callable[[World], Any]) -> Callable[[World], None]:
    """What they do may be refused; that is another case's business."""

    def inside(w: World) -> None:
        with contextlib.suppress(Exception):
            act(w)

    return inside


def _reset(w: World) -> None:
    rewinds = w.rewindable()
    if rewinds is not None:
        rewinds.reset()
    elif w.name == "TypedArena":
        w.subject.reset()


def _close_all(w: World) -> None:
    for thing in reversed(w.opened):
        with contextlib.suppress(Exception):
            thing.close()


def _export(w: World) -> None:
    w.views.append(memoryview(w.block))


def _elsewhere(w: World) -> None:
    """Another thread uses the allocator, in the middle of this one's call."""
    with contextlib.suppress(errors.NativeMemError):
        worker.run(lambda: w.allocator.alloc(16))


ACTIONS: dict[str, Callable[[World], None]] = {
    "closes": _quietly(lambda w: w.subject.close() if hasattr(w.subject, "close") else w.allocator.close()),
    "closes all": _close_all,
    "frees": _quietly(lambda w: w.block.free()),
    "allocates": _quietly(lambda w: w.kept.append(w.allocator.alloc(64))),
    "resets": _quietly(_reset),
    "releases": _quietly(lambda w: w.rewindable().release(w.mark)),
    "exports": _quietly(_export),
    "another thread": _elsewhere,
}

#: what each special method answers after it has acted: something good
_ANSWERS: dict[str, Callable[[], Any]] = {
    "index": lambda: 64,
    "int": lambda: 64,
    "float": lambda: 0.5,
    "iter": lambda: iter([64]),
    "len": lambda: 1,
    "bool": lambda: True,
    "repr": lambda: "repr",
    "str": lambda: "str",
    "hash": lambda: 1,
    "eq": lambda: False,
    "call": lambda: True,
    "length_hint": lambda: 1,
    "enter": lambda: None,
    "exit": lambda: False,
    "bytes": lambda: b"bytes",
    "buffer": lambda: memoryview(bytearray(16)),
}


def _acting(w: World, action: Callable[[World], None], base: type = object) -> type:
    def answer(name: str) -> Any:
        if name not in _ANSWERS:
            return NotImplemented
        action(w)
        return _ANSWERS[name]()

    return _hostile(answer, base, but=("getitem", "reduce_ex", "reduce", "next", "contains", "release_buffer"))


def actor(action: Callable[[World], None]) -> Callable[[World], Any]:
    """An object whose special methods act, then answer well."""
    return lambda w: _acting(w, action)()


def acting_int(action: Callable[[World], None]) -> Callable[[World], Any]:
    """The same, but an int."""
    return lambda w: _acting(w, action, int)(64)


def acting_iterator(action: Callable[[World], None]) -> Callable[[World], Any]:
    """An iterator that acts between its items, and when one is dropped."""

    def items(w: World) -> Iterator[int]:
        class Dying(int):
            def __del__(self) -> None:
                if w.subject is not None:
                    action(w)

        for item in (16, 32):
            yield item
            action(w)
        yield Dying(48)
        yield 64

    return items


def make_garbage(w: World, action: Callable[[World], None]) -> None:
    """Leaves a cycle that acts when it is collected."""

    class Garbage:
        def __init__(self) -> None:
            self.cycle = self

        def __del__(self) -> None:
            if w.subject is not None:
                action(w)

    Garbage()
