"""Each allocation that the interpreter makes for an operation fails: it alone, then with a row of those after it.

A program, so that a crash does not take the tests with it: ``python -m sweep.interpreter BACKEND FILE GROUP...``
prints a list of complaints, and keeps in FILE where it is.
"""

from __future__ import annotations

import gc
import itertools
import json
import linecache
import mmap
import os
import re
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

from bad_input.world import World
from nativemem import errors
from nativemem._api import load
from nativemem.backends.binding import Binding
from nativemem.backends.pure.lock import lock

from .scenarios import Scenario, scenarios, subject_of

try:
    from _testcapi import remove_mem_hooks, set_nomemory  # type: ignore[import-not-found]
except ImportError:  # not every Python has it; tests/test_sweep.py looks before it starts this
    pass

MOST = 2000
#: Every allocation up to the first number fails, then in steps that grow by this part of how many there were.
STEPS = {"native": (40, 8), "pure": (4, 2)}
if "NATIVEMEM_TEST_SWEEP_ALL" in os.environ:
    STEPS = dict.fromkeys(STEPS, (MOST, 1))
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


#: what is said of counters
COUNTERS = ("lost at the end", "Stats(", "Budget: ", "LeakError: Traced: ")

#: methods in C of the package, as they are called; everything else that is called is a function in Python
IN_C = re.compile(
    r"\b(lib\.\w+|ffi\.\w+|dataplane\.\w+|_attach|_live|_serial|_reset|_release|_shut|alloc|free|resize|__enter__|__exit__)\("
)


def indented(frame: traceback.FrameSummary) -> int:
    """By how much its line was, before it was stripped."""
    source = linecache.getline(frame.filename, frame.lineno or 0)
    return len(source) - len(source.lstrip())


def interpreters_own(error: BaseException, native: bool) -> bool:
    """Whether the interpreter lost an exception by itself: CPython 3.11 (take_ownership, frame.c) clears the one
    that is on its way out of a Python function where there is no memory for the object of the caller's frame."""
    text = str(error)
    if type(error) is not SystemError or sys.version_info[:2] != (3, 11):
        return False
    if re.match(r"<function .* returned NULL without setting an exception", text):
        return True
    if text == "<class 'zip'> returned a result with an exception set":  # with strict=True
        return True
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return False
    last = frames[-1]
    called = (last.line or "")[last.colno - indented(last) : last.end_colno - indented(last)]
    return text == "error return without exception set" and not (native and IN_C.search(called))


def ended(w: World, result: Any) -> None:
    """What a call gave and would stay: C's until it is closed."""
    for port in (result, w.stays):
        if type(port).__name__ == "CPort":
            port.close()
    w.stays = None


class SweepWorld(World):
    """One in which memory runs out from ``ready()`` to ``over()``."""

    window: tuple[int, int] | None = None
    open_ = False
    within: list[Any] | None = None

    def ready(self, argument: Any = None) -> Any:
        if self.window is not None:
            self.open_ = True
            set_nomemory(*self.window)
        return argument

    def over(self) -> None:
        if self.open_:
            remove_mem_hooks()
            self.open_ = False

    def inside(self) -> None:
        if self.window is None:
            self.within = self.numbers()

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
        #: The counters of the pure backend are the interpreter's own ints: no step of its book-keeping is sure
        #: to be without an allocation, nor is its undoing, so there they are not looked at.
        self.exact = nm.name == "native"
        self.subject = subject_of(group)
        self.label = f"{nm.name}, {group}: {scenario.label}"
        self.complaints: list[str] = []
        self.unraisable: list[Any] = []
        self.done: list[Any] = []
        self.within: list[Any] | None = None
        self.outcome = ""
        sys.unraisablehook = self.caught

    def caught(self, args: Any) -> None:
        # takes as little memory as it can; without a value where there was no memory for one
        self.unraisable.append(args.exc_type if args.exc_value is None else args.exc_value)

    def unraised(self) -> list[str]:
        """What went to the hook and should not have, as text: the frames of an exception keep what they have."""
        errors = [error() if isinstance(error, type) else error for error in self.unraisable]
        self.unraisable.clear()
        return [
            f"{type(error).__name__}: {error}"
            for error in errors
            if not isinstance(error, MemoryError) and not interpreters_own(error, self.nm.name == "native")
        ]

    def sweep(self) -> int:
        """Returns how many allocations were made fail."""
        for _ in range(3):  # what is made once is made here: imports, caches, free lists
            self.baseline()
        n = made = 0
        each, part = STEPS[self.nm.name]
        while n < MOST:
            n += 1 if n < each else 1 + n // part
            if not self.once(n, False):
                break
            made += 1
            if n < each:
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
        result = None
        try:
            result = self.scenario.run(w)
            self.outcome = type(result).__name__
        except Exception as error:
            self.outcome = type(error).__name__
        self.within, self.done = w.within, w.numbers()
        ended(w, result)
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
        kind = type(result if failed is None else failed).__name__
        if failed is not None and interpreters_own(failed, self.exact):
            failed, kind = MemoryError(), "MemoryError"
        if kind != self.outcome and not (reached and isinstance(failed, MemoryError)):
            self.note(label, [f"gave {kind}: {str(failed if result is None else result)[:200]}"])
        if failed is not None:
            walk: BaseException | None = failed
            while walk is not None:
                traceback.clear_frames(walk.__traceback__)
                walk = walk.__context__
        memory = isinstance(failed, MemoryError)
        ended(w, result)
        result = failed = walk = None
        others = self.unraised()
        if reached:
            self.afterwards(w, label, before, memory)
        self.note(label, w.finish())
        others += self.unraised()
        if others:
            self.note(label, [f"unraisable: {others}"])
        return reached

    def afterwards(self, w: SweepWorld, label: str, before: list[Any], memory: bool) -> None:
        found = w.broken()
        if not self.exact and lock.depth:
            found.append("the lock is held")
        numbers = w.numbers()
        if self.exact and not self.scenario.steps and not self.allowed(w, numbers, before):
            found.append(f"left {numbers}; before {before}, within {self.within}, when done {self.done}")
        if numbers == before and memory:
            try:
                result = self.scenario.run(w)
                kind = type(result).__name__
                ended(w, result)
                result = None
            except Exception as error:
                kind = type(error).__name__
            if kind != self.outcome:
                found.append(f"again: {kind}, not {self.outcome}")
        elif not w.allocator.closed and not self.scenario.changes and not any(b.locked for b in w.budgets):
            try:
                w.allocator.alloc(64).free()
            except (errors.NativeMemError, BufferError) as error:
                found.append(f"no block to be had afterwards: {type(error).__name__}: {error}")
        self.note(label, found)

    def allowed(self, w: SweepWorld, numbers: list[Any], before: list[Any]) -> bool:
        """Whether nothing was lost: all is as before, as when it is done, or as in the ``with`` block that it is.
        What an arena or a stack keeps until its reset, and a slab or a heap for later, is not lost."""
        states = [state for state in (before, self.within, self.done) if state]
        if numbers in states:
            return True
        for i, row in enumerate(numbers):
            rows = [state[i] for state in states]
            if row in rows:
                continue
            if not isinstance(row, tuple) or not all(isinstance(r, tuple) for r in rows):
                return False
            if len(row) == 3:  # bytes, blocks, of which some reference is left
                if row[2] > max(r[2] for r in rows):
                    return False
            elif row[1:] not in [r[1:] for r in rows]:  # a budget: used, and the rest
                return False
            if row[0] > max(r[0] for r in rows) and w.rewindable() is None:
                return False
        return True

    def note(self, label: str, found: list[str]) -> None:
        if not self.exact:
            left = any("LeakError: Traced" in what for what in found)  # so what it stands on stays open
            found = [what for what in found if not any(word in what for word in COUNTERS)]
            found = [what for what in found if not (left and "cannot be closed" in what)]
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


def prepare(file: str) -> mmap.mmap:
    """The map of the file, and a process in which what fails is what is swept."""
    with Path(file).open("r+b") as f:
        where = mmap.mmap(f.fileno(), 0)
    # CPython 3.11 crashes in a warnings.warn(..., stacklevel=3) of its own where memory runs out there
    warnings.warn = lambda *args, **kwargs: None  # type: ignore[assignment]
    scenarios()
    gc.disable()
    return where


def main(backend: str, file: str, *groups: str) -> None:
    where = prepare(file)
    print(json.dumps({group: sweep(backend, group, where) for group in groups}))


if __name__ == "__main__":
    main(*sys.argv[1:])
