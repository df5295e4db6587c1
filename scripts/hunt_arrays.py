"""Random programs of arrays, blocks and allocators, with the same done again in the midst of each call.

Usage: hunt_arrays.py [--seconds N] [--programs N] [--seed N]

Before Python 3.12 a collection can run inside the making of any object; on every version finalizers, callbacks of
weak references, watchers of budgets and profilers run inside of calls. Each of these does here what the program
does: makes, resizes and drops arrays and blocks, resets and closes allocators, changes the handler. Every array and
every block is full of a number of its own, or of zeros where it has grown, and no two of them may lie on one byte.

Prints a line for each program that is not as it should be, and ends with 1 then. Needs NumPy and the native core.
"""

from __future__ import annotations

import argparse
import contextlib
import contextvars
import gc
import random
import sys
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import nativemem
from nativemem.hooks import numpy as hook

KIB = 1 << 10
REFUSED = (MemoryError, BufferError, nativemem.NativeMemError)
SIZES = (0, 1, 2, 7, 8, 9, 100, 1000, 5000, 40_000)
DEEPEST = 3
#: interruptions within one step
MOST = 8


class Fault(AssertionError):
    """Something is not as the model has it."""


class Item:
    """An array or a block with the number that fills it."""

    def __init__(self, thing: Any, number: float) -> None:
        self.thing, self.number, self.changes = thing, number, 0

    def numbers(self) -> Any:
        """Its items, as an array; None where there are none, as of a block that is gone, or of an array that NumPy
        is about to give other memory."""
        if isinstance(self.thing, np.ndarray):
            return self.thing if self.thing.size and self.thing.__array_interface__["data"][0] else None
        try:
            return np.frombuffer(self.thing, np.float64) if self.thing.size else None
        except nativemem.errors.StaleBlock:
            return None

    def fill(self) -> None:
        numbers = self.numbers()
        if numbers is not None:
            numbers.fill(self.number)


class Cycle:
    """Garbage that only a collection finds, and whose end runs the program's code."""

    def __init__(self, finalize: Callable[[], None]) -> None:
        self.me, self.finalize = self, finalize
        self.item: Any = None

    def __del__(self) -> None:
        self.finalize()


class Program:
    """One program and what it holds."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.items: list[Item] = []
        self.holders: list[Any] = []
        self.depth = self.serial = self.left = 0
        self.nested: list[Any] = []
        self.budget = nativemem.Budget(400 * KIB, on_pressure=lambda *_: self.interrupt(0.5))
        self.allocators = [self.make_allocator() for _ in range(4)]
        self.marks: list[Any] = []
        self.fault: BaseException | None = None

    # ---- what it does ---------------------------------------------------------------------------------

    def make_allocator(self) -> Any:
        made = self.random.choice(
            (
                nativemem.Heap,
                nativemem.Arena,
                nativemem.System,
                nativemem.Slab,
                lambda: nativemem.Heap(secure=True),
                lambda: nativemem.Stack("256 KiB"),
                lambda: nativemem.Pool(8192, 8),
                lambda: nativemem.Limited(nativemem.Heap(), self.budget),
                lambda: nativemem.Traced(nativemem.Heap(), stacks=3),
                lambda: nativemem.Traced(nativemem.Arena()),
                lambda: nativemem.Failing(nativemem.Heap(), 5, sticky=self.random.random() < 0.3),
            )
        )()
        return made

    def keep(self, thing: Any) -> None:
        self.serial += 1
        item = Item(thing, float(self.serial))
        self.fill(item)
        self.items.append(item)

    def fill(self, item: Item) -> None:
        with self.undisturbed():
            item.fill()

    def take(self, things: list[Any]) -> Any:
        """One out of the list, or None."""
        try:
            return things.pop(int(self.random.random() * len(things)))
        except IndexError:  # it is empty, or was changed in the midst of this
            return None

    def some(self, kind: type) -> Item | None:
        found = [item for item in self.items if isinstance(item.thing, kind)]
        return self.random.choice(found) if found else None

    def make_array(self) -> None:
        n = self.random.choice(SIZES)
        make = self.random.choice((np.empty, np.zeros, lambda n: np.arange(float(n)), lambda n: np.ones(n) * 2.0))
        self.keep(make(n))

    def resize_array(self) -> None:
        item = self.some(np.ndarray)
        if item is not None and item.thing.flags.owndata:
            item.thing.resize(self.random.choice(SIZES[1:]), refcheck=False)
            self.fill(item)

    def replace_array(self) -> None:
        """NumPy frees the array's memory, and takes other."""
        state, item = np.zeros(self.random.choice(SIZES)).__reduce__()[2], self.some(np.ndarray)
        if item is not None and isinstance(state, tuple):
            item.changes += 1  # NumPy's pointer leads nowhere in the midst of it
            try:
                item.thing.__setstate__(state)
            finally:
                self.fill(item)
                item.changes -= 1

    def drop(self) -> None:
        self.take(self.items)

    def make_block(self) -> None:
        size = 8 * self.random.choice(SIZES)
        self.keep(self.random.choice(self.allocators).alloc(size))

    def free_block(self) -> None:
        item = self.some(nativemem.Block)
        if item is not None:
            item.thing.free()

    def resize_block(self) -> None:
        item = self.some(nativemem.Block)
        if item is not None and item.thing.alive:
            item.changes += 1  # what it has grown by is not wiped
            try:
                item.thing.allocator.resize(item.thing, 8 * self.random.choice(SIZES))
            finally:
                self.fill(item)
                item.changes -= 1

    def look(self) -> None:
        """Callbacks for blocks, arrays' as well."""
        blocks = self.random.choice(self.allocators).blocks()
        if blocks:
            self.holders.append(weakref.ref(self.random.choice(blocks), lambda _: self.interrupt(0.5)))

    def reset(self) -> None:
        allocator = self.random.choice(self.allocators)
        if isinstance(allocator, nativemem.Arena | nativemem.Stack):
            allocator.reset()

    def mark(self) -> None:
        allocator = self.random.choice(self.allocators)
        if isinstance(allocator, nativemem.Arena | nativemem.Stack):
            taken = self.take(self.marks) if self.random.random() < 0.5 else None
            if taken is not None:
                taken[0].release(taken[1])
            else:
                self.marks.append((allocator, allocator.mark()))

    def close(self) -> None:
        i = self.random.randrange(len(self.allocators))
        before, self.allocators[i] = self.allocators[i], self.make_allocator()
        if self.random.random() < 0.7:
            before.close()

    def change_handler(self) -> None:
        scope = self.take(self.nested[-1:]) if self.random.random() < 0.5 else None
        if scope is not None:
            self.nested.remove(scope)
            scope.__exit__(None, None, None)
        elif len(self.nested) < 5:
            scope = hook.using(self.random.choice(self.allocators))
            scope.__enter__()
            self.nested.append(scope)

    def change_default(self) -> None:
        if self.random.random() < 0.5:
            hook.uninstall()
        else:
            hook.install(nativemem.Heap())  # goes with its last array

    def change_engine(self) -> None:
        if self.random.random() < 0.5:
            nativemem.install(objects=False)
        else:
            nativemem.uninstall()

    def in_scope(self) -> None:
        with nativemem.Budget(self.random.choice((20, 200, 2000)) * KIB, name="scope"):
            self.step()

    def ask(self) -> None:
        hook.last_denial()
        hook.coverage()
        for item in self.items[-3:]:
            if isinstance(item.thing, np.ndarray):
                hook.owner_of(item.thing)
                hook.handler_of(item.thing)

    def make_garbage(self) -> None:
        cycle = Cycle(lambda: self.interrupt(0.5))
        cycle.item = self.take(self.items)

    STEPS: tuple[tuple[int, Callable[[Program], None]], ...] = (
        (14, make_array),
        (14, resize_array),
        (3, replace_array),
        (14, drop),
        (8, make_block),
        (5, free_block),
        (5, resize_block),
        (3, look),
        (2, reset),
        (2, mark),
        (1, close),
        (5, change_handler),
        (1, change_default),
        (1, change_engine),
        (2, in_scope),
        (1, ask),
        (5, make_garbage),
    )
    WEIGHTS = [weight for weight, _ in STEPS]

    def step(self) -> None:
        _, does = self.random.choices(self.STEPS, self.WEIGHTS)[0]
        self.depth += 1
        try:
            with contextlib.suppress(*REFUSED, ValueError):  # an array that has got other memory meanwhile
                does(self)
        finally:
            self.depth -= 1
        if len(self.items) > 60:
            del self.items[: self.random.randrange(30)]
        if len(self.holders) > 50:
            self.holders.clear()

    # ---- in the midst of what it does -----------------------------------------------------------------

    def interrupt(self, chance: float) -> None:
        """Called from anywhere."""
        if self.depth >= DEEPEST or self.left <= 0 or self.fault is not None or self.random.random() >= chance:
            return
        self.left -= 1
        try:
            for _ in range(self.random.randrange(1, 5)):
                self.step()
            if self.random.random() < 0.1:
                self.check()
        except BaseException as fault:
            self.fault = fault

    def collected(self, phase: str, _: Any) -> None:
        """For gc.callbacks."""
        if self.depth:  # not between two steps
            self.interrupt(0.3)

    def profiled(self, frame: Any, event: str, _: Any) -> None:
        """For sys.setprofile: at what the package does in Python."""
        if event == "call" and "nativemem" in frame.f_code.co_filename and self.depth:
            self.interrupt(0.02)

    # ---- what has to hold -----------------------------------------------------------------------------

    def check(self) -> None:
        """Raises :class:`Fault` where an item holds what is not its own, or lies on another."""
        with self.undisturbed():
            self.compare()

    @contextlib.contextmanager
    def undisturbed(self) -> Iterator[None]:
        """NumPy's own loops over an array do not stand that it is resized in the midst of them."""
        depth, self.depth = self.depth, DEEPEST
        try:
            yield
        finally:
            self.depth = depth

    def compare(self) -> None:
        places = []
        for item in self.items:
            numbers = item.numbers() if not item.changes else None
            if numbers is None:
                continue
            values = set(numbers.tolist())
            if not values <= {0.0, item.number}:
                raise Fault(f"{type(item.thing).__name__} {item.number} of {numbers.size} holds {values}")
            places.append((numbers.__array_interface__["data"][0], numbers.nbytes, item))
        places.sort(key=lambda place: place[0])
        for (start, size, one), (after, _, other) in zip(places, places[1:], strict=False):
            if start + size > after and one.thing is not other.thing:
                raise Fault(f"{one.number} and {other.number} share memory")

    def end(self) -> None:
        """Drops everything: nothing may be left of it."""
        self.depth = DEEPEST
        while self.nested:
            scope = self.nested.pop()
            scope.__exit__(None, None, None)
        hook.uninstall()
        nativemem.uninstall()
        self.items.clear()
        self.holders.clear()
        self.marks.clear()
        gc.collect()
        gc.collect()
        for allocator in self.allocators:
            with contextlib.suppress(nativemem.errors.StaleHandle):
                if allocator.blocks():
                    raise Fault(f"{allocator!r} has blocks to the end")
                if isinstance(allocator, nativemem.Arena | nativemem.Stack):
                    allocator.reset()
            allocator.close()


def run(seed: int, steps: int) -> BaseException | None:
    """Runs one program; returns what was wrong with it."""
    gc.collect()
    program = Program(seed)
    before = hook.coverage().arrays
    thresholds = gc.get_threshold()
    profiles = program.random.random() < 0.5
    gc.callbacks.append(program.collected)
    gc.set_threshold(program.random.choice((1, 1, 3, 20)), 2, 2)
    if profiles:
        sys.setprofile(program.profiled)
    try:
        for i in range(steps):
            program.left = MOST
            program.step()
            if i % 10 == 0:
                program.check()
            if program.fault is not None:
                return program.fault
        sys.setprofile(None)
        gc.callbacks.remove(program.collected)
        program.check()
        program.end()
        for _ in range(10):  # what waits for the interpreter's loop
            pass
        if hook.coverage().arrays != before:
            raise Fault(f"{hook.coverage().arrays - before} arrays are left")
    except Exception as fault:
        return fault
    finally:
        sys.setprofile(None)
        if program.collected in gc.callbacks:
            gc.callbacks.remove(program.collected)
        gc.set_threshold(*thresholds)
    return program.fault


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description="random programs of arrays that interrupt themselves")
    parser.add_argument("--seconds", type=float, default=0.0, help="for how long")
    parser.add_argument("--programs", type=int, default=200, help="how many, where no time is given")
    parser.add_argument("--verbose", action="store_true", help="a line for each program")
    parser.add_argument("--steps", type=int, default=300, help="of each program")
    parser.add_argument("--seed", type=int, default=0, help="of the first program")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    nativemem.install()  # imports what it needs: a module that is half imported is not what is looked at
    nativemem.uninstall()
    until = time.monotonic() + given.seconds
    wrong = programs = 0
    while programs < given.programs if not given.seconds else time.monotonic() < until:
        seed = given.seed + programs
        programs += 1
        if given.verbose:
            print(f"seed {seed}", flush=True)
        fault = contextvars.Context().run(run, seed, given.steps)  # scopes need not have ended in order
        if fault is not None:
            wrong += 1
            print(f"seed {seed}: {type(fault).__name__}: {fault}", flush=True)
    print(f"{programs} programs, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
