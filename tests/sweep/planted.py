"""Mistakes that the sweep under the interpreter has to see: ``python -m sweep.planted BACKEND FILE NAME`` prints
what it says of one."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

from bad_input.world import World
from nativemem._api import load

from .interpreter import Swept, prepare
from .scenarios import Scenario

kept: list[Any] = []


class Stumbles:
    """Finds something else than it thought when it goes."""

    def __del__(self) -> None:
        raise KeyError("x")


def keeps(w: World) -> None:
    w.ready()
    kept.append(w.allocator.alloc(8))
    [object()]
    kept.pop()


def charges(w: World) -> None:
    w.ready()
    w.budget.try_reserve(8)
    [object()]
    w.budget.release(8)


def swallows(w: World) -> str | None:
    w.ready()
    try:
        return f"{w.allocator.stats!r} {[object()]}"
    except MemoryError:
        return None


def turns(w: World) -> Any:
    w.ready()
    try:
        return [object()]
    except MemoryError:
        raise SystemError("it returned NULL") from None


def ends(w: World) -> Any:
    w.ready()
    try:
        return [object()]
    except MemoryError:
        os.abort()


def damages(w: World) -> Any:
    w.ready()
    try:
        return [object()]
    except MemoryError:
        with memoryview(w.sentinel) as raw:
            raw[3] = 255
        raise


def drops(w: World) -> None:
    thing = Stumbles()
    w.ready()
    [object()]
    del thing


def closes(w: World) -> Any:
    w.ready()
    try:
        return [object()]
    except MemoryError:
        kept.append(memoryview(w.sentinel))
        raise


#: by name: the scenario, and what is said of it on the native backend
PLANTED: dict[str, tuple[Callable[[World], Any], str]] = {
    "keeps": (keeps, "left"),
    "charges": (charges, "left"),
    "swallows": (swallows, "gave NoneType"),
    "turns": (turns, "gave SystemError: it returned NULL"),
    "ends": (ends, ""),
    "damages": (damages, "a live block has lost its content"),
    "drops": (drops, "unraisable: [\"KeyError: 'x'\""),
    "closes": (closes, "cannot be closed any more"),
}


def main(backend: str, file: str, name: str) -> None:
    swept = Swept(load(backend), "Heap", Scenario(name, PLANTED[name][0]), prepare(file))
    swept.sweep()
    print(json.dumps({name: [1, swept.complaints]}))


if __name__ == "__main__":
    main(*sys.argv[1:])
