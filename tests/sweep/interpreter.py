"""Each allocation that the interpreter makes for an operation fails: it alone, then with a row of those after it.

A program, so that a crash does not take the tests with it: ``python -m sweep.interpreter BACKEND FILE GROUP...``
prints a list of complaints, and keeps in FILE where it is.
"""

from __future__ import annotations

import gc
import itertools
import json
import mmap
import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

from _testcapi import remove_mem_hooks, set_nomemory  # type: ignore[import-not-found]
from bad_input.world import World
from nativemem import errors
from nativemem._backend import Binding, load

from .scenarios import Scenario, scenarios, subject_of

#: every one up to here; then in growing steps
EACH = int(os.environ.get("NATIVEMEM_TEST_SWEEP_EACH", "40"))
MOST = 2000
#: So many in a row. Not all to the end: Python 3.11 needs an int to enter some handlers, and tries for ever.
ROW = 16
#: more than the blocks that the native backend keeps for later
SPARES = 300


def spent(n: int) -> bool:
    """Whether the n-th allocation, which is the one to fail, has been made."""
    try:
        for _ in itertools.repeat(None, n + 1):
            object()
    except MemoryError:
        return False
    return True


class SweepWorld(World):
    """One in which memory runs out from ``ready()`` to ``over()``."""

    window: tuple[int, int] | None = None
    open_ = False

    def ready(self, argument: Any = None) -> Any:
        if self.window is not None:
            self.open_ = True
            set_nomemory(*self.window)
        return argument

    def over(self) -> None:
        if self.open_:
            remove_mem_hooks()
            self.open_ = False

    def numbers(self) -> list[Any]:
        """What must not be lost."""
        rows: list[Any] = []
        for allocator in (self.system, *self.opened):
            if allocator.closed:
                rows.append("closed")
            elif type(allocator).__name__ == "TypedArena":
                rows.append(len(allocator))
            else:
                rows.append((allocator.stats.current, allocator.stats.live, len(allocator.blocks())))
        return rows + [(b.used, b.limit, b.lent, b.locked) for b in self.budgets]


class Swept:
    """One scenario on one backend."""

    def __init__(self, nm: Binding, group: str, scenario: Scenario, where: mmap.mmap) -> None:
        self.nm, self.scenario, self.where = nm, scenario, where
        self.subject = subject_of(group)
        self.label = f"{nm.name}, {group}: {scenario.label}"
        self.complaints: list[str] = []
        self.unraisable: list[Any] = []
        self.done: list[Any] = []
        self.outcome = ""
        sys.unraisablehook = self.caught

    def caught(self, args: Any) -> None:
        self.unraisable.append(args.exc_type)

    def sweep(self) -> int:
        """Returns how many allocations were made fail."""
        for _ in range(3):  # what is made once is made here: imports, caches, free lists
            self.baseline()
        n = made = 0
        while n < MOST:
            n += 1 if n < EACH else 1 + n // 8
            if not self.once(n, False):
                break
            made += 1
            if n < EACH:
                self.once(n, True)
                made += 1
        return made

    def world(self) -> SweepWorld:
        w = SweepWorld(self.nm, self.subject)
        self.scenario.prepare(w)
        if self.scenario.dry:
            w.another("dry", lambda: w.open(w.nm.Heap()))
            w.kept = [w.aside["dry"].alloc(0) for _ in range(SPARES)]
        return w

    def baseline(self) -> None:
        w = self.world()
        try:
            result = self.scenario.run(w)
            self.outcome = type(result).__name__
        except Exception as error:
            self.outcome = type(error).__name__
        self.done = w.numbers()
        result = None
        self.note("without a failure", w.finish())

    def once(self, n: int, sticky: bool) -> bool:
        label = f"allocation {n}{' and the next' * sticky}"
        place = f"{self.label}: {label}".encode()
        self.where[: len(place) + 1] = place + b"\0"
        w = self.world()
        before = w.numbers()
        w.window = (n - 1, n + ROW if sticky else n)
        result = failed = None
        try:
            try:
                result = self.scenario.run(w)
            finally:
                reached = sticky or not w.open_ or spent(n)
                w.over()
        except Exception as error:
            failed = error
        w.window = None
        if isinstance(failed, MemoryError) and not reached:
            self.note(label, [f"MemoryError without a failure: {failed}"])
        kind = type(result if failed is None else failed).__name__
        if not isinstance(failed, MemoryError) and kind != self.outcome:
            self.note(label, [f"gave {kind}: {str(failed if result is None else result)[:200]}"])
        if failed is not None:
            walk: BaseException | None = failed
            while walk is not None:
                traceback.clear_frames(walk.__traceback__)
                walk = walk.__context__
        memory = isinstance(failed, MemoryError)
        result = failed = walk = None
        if reached:
            self.afterwards(w, label, before, memory)
        self.note(label, w.finish())
        others = [kind.__name__ for kind in self.unraisable if not issubclass(kind, MemoryError)]
        self.unraisable.clear()
        if others:
            self.note(label, [f"unraisable: {others}"])
        return reached

    def afterwards(self, w: SweepWorld, label: str, before: list[Any], memory: bool) -> None:
        found = w.broken()
        numbers = w.numbers()
        if numbers not in (before, self.done) and not self.scenario.steps:
            found.append(f"left {numbers}; before {before}, when done {self.done}")
        if numbers == before and memory:
            try:
                kind = type(self.scenario.run(w)).__name__
            except Exception as error:
                kind = type(error).__name__
            if kind != self.outcome:
                found.append(f"again: {kind}, not {self.outcome}")
        elif not w.allocator.closed and not self.scenario.changes:
            try:
                w.allocator.alloc(64).free()
            except (errors.NativeMemError, BufferError) as error:
                found.append(f"no block to be had afterwards: {type(error).__name__}: {error}")
        self.note(label, found)

    def note(self, label: str, found: list[str]) -> None:
        self.complaints += [f"{self.label}: {label}: {what}" for what in found]


def sweep(backend: str, group: str, where: mmap.mmap) -> tuple[int, list[str]]:
    """How many allocations were made fail, and what was wrong then."""
    nm = load(backend)
    made, complaints = 0, []
    for scenario in scenarios()[group]:
        swept = Swept(nm, group, scenario, where)
        made += swept.sweep()
        complaints += swept.complaints
    return made, complaints


def main(backend: str, file: str, *groups: str) -> None:
    with Path(file).open("r+b") as f:
        where = mmap.mmap(f.fileno(), 0)
    warnings.simplefilter("ignore")
    scenarios()
    gc.disable()
    print(json.dumps({group: sweep(backend, group, where) for group in groups}))


if __name__ == "__main__":
    main(*sys.argv[1:])
