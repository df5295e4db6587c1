"""Random programs of scopes, generators, contexts, tasks and threads, against a model of who is charged.

Usage: hunt_scopes.py [--seconds N] [--seed N]

A program keeps which scopes each frame has open in which context, and asks the engine after each step who is
charged, and with NumPy whom an array is charged to. The model: the innermost running frame that has a scope open in
this context; where none has, what the context was copied with.
"""

from __future__ import annotations

import argparse
import contextvars
import gc
import random
import sys
import threading
import time
import warnings
from collections.abc import Callable, Generator
from importlib import import_module
from importlib.util import find_spec
from inspect import GEN_CLOSED, GEN_RUNNING, getgeneratorstate
from typing import Any

import nativemem
from nativemem import Budget, _native

numpy: Any = import_module("numpy") if find_spec("numpy") else None

DEPTH = 5


class Context:
    """A context and, by the model, who is charged in it when none of its frames is in a scope."""

    def __init__(self, inherits: Budget | None) -> None:
        self.inherits = inherits
        self.frames: list[Frame] = []  # that run in it, innermost last


class Frame:
    def __init__(self) -> None:
        self.open: list[tuple[Context, Budget]] = []


class Program:
    """One thread's. It may leave generators to others."""

    def __init__(self, seed: int, budgets: list[Budget], left: list[Any]) -> None:
        self.random = random.Random(seed)
        self.budgets, self.left = budgets, left
        self.current = Context(None)
        self.asleep: list[tuple[Frame, Generator[None, None, None]]] = []
        self.kept: list[Any] = []
        self.steps = 0

    def expected(self) -> Budget | None:
        for frame in reversed(self.current.frames):
            for context, budget in reversed(frame.open):
                if context is self.current:
                    return budget
        return self.current.inherits

    def check(self, what: str) -> None:
        self.steps += 1
        self.allocate()
        charged, budget = _native.dataplane.scope_current(), self.expected()
        if charged is not (None if budget is None else budget._core._owner):
            names = {id(b._core._owner): b.name for b in self.budgets}
            wanted = None if budget is None else budget.name
            raise AssertionError(f"after {what}: charged is {names.get(id(charged), charged)}, not {wanted}")
        if numpy is not None:
            array = numpy.empty(3)
            core = _native.array_budget(array.__array_interface__["data"][0])
            if core is not (None if budget is None else budget._core):
                raise AssertionError(f"after {what}: an array is charged to {core}, not {budget}")

    def allocate(self) -> None:
        choice = self.random.randrange(6)
        if choice == 0:
            self.kept.append([(i, i) for i in range(self.random.randrange(60))])
        elif choice == 1:
            self.kept.append(bytearray(self.random.randrange(1, 200_000)))
        elif choice == 2 and self.kept:
            self.kept[self.random.randrange(len(self.kept))] = None
        elif choice == 3 and len(self.kept) > 50:
            self.kept.clear()
        elif choice == 4 and self.left:
            self.kept.append(self.left.pop())  # of another thread: freed here

    def run(self, depth: int = 0, steps: int = 12) -> None:
        for _ in range(self.random.randrange(1, steps)):
            if depth < DEPTH:
                self.random.choice(self.actions)(self, depth)
            self.check("a step")

    def scope(self, depth: int) -> None:
        budget, frame = self.random.choice(self.budgets), self.current.frames[-1]
        with budget:
            frame.open.append((self.current, budget))
            self.check("entering")
            try:
                self.run(depth + 1, 5)
            finally:
                frame.open.pop()
        self.check("leaving")

    def call(self, depth: int) -> None:
        self.within(Frame(), lambda: self.run(depth + 1, 5))

    def another(self, run: Callable[..., Any], inherits: Budget | None, depth: int) -> None:
        outer, self.current = self.current, Context(inherits)
        try:
            run(self.within, Frame(), lambda: self.run(depth + 1, 5))
        finally:
            self.current = outer
        self.check("another context")

    def within(self, frame: Frame, call: Callable[[], Any]) -> Any:
        frames = self.current.frames
        frames.append(frame)
        try:
            return call()
        finally:
            frames.pop()

    def failing(self, depth: int) -> None:
        def fail() -> None:
            self.scope(depth + 1)
            raise KeyError

        try:
            self.within(Frame(), fail)
        except KeyError:
            pass
        self.check("an exception")

    def copy(self, depth: int) -> None:
        if not self.asleep:  # what sleeps would be inherited, too: nothing tells when a context is copied
            self.another(contextvars.copy_context().run, self.expected(), depth)

    def fresh(self, depth: int) -> None:
        self.another(contextvars.Context().run, None, depth)

    def body(self, frame: Frame) -> Generator[None, None, None]:
        for _ in range(self.random.randrange(1, 4)):
            budget = self.random.choice(self.budgets)
            here = self.current
            with budget:
                frame.open.append((here, budget))
                try:
                    self.check("entering in a generator")
                    for _ in range(self.random.randrange(3)):
                        yield
                        self.check("going on in a generator")
                finally:
                    frame.open.pop()
            self.check("leaving in a generator")
            if self.random.random() < 0.5:
                yield

    def start(self, depth: int) -> None:
        frame = Frame()
        self.asleep.append((frame, self.body(frame)))
        self.check("making a generator")

    def resume(self, depth: int) -> None:
        if not self.asleep:
            return
        frame, generator = at = self.random.choice(self.asleep)
        if getgeneratorstate(generator) == GEN_RUNNING:
            return
        self.within(frame, lambda: next(generator, None))
        if getgeneratorstate(generator) == GEN_CLOSED and at in self.asleep:
            self.asleep.remove(at)
        self.check("a generator's step")

    def end(self, depth: int) -> None:
        if not self.asleep:
            return
        frame, generator = at = self.random.choice(self.asleep)
        if getgeneratorstate(generator) == GEN_RUNNING:
            return
        self.asleep.remove(at)
        self.within(frame, generator.close)
        self.check("a generator's end")

    actions = (scope, scope, call, failing, copy, fresh, start, resume, resume, resume, end)

    def finish(self) -> None:
        while self.asleep:
            self.end(0)
        self.check("the end")


def one(seed: int) -> int:
    chosen = random.Random(seed)
    parent = Budget("1 GiB", name="parent")
    budgets = [Budget("256 MiB", name=f"b{i}", parent=parent) for i in range(chosen.randrange(1, 5))]
    for budget in budgets:
        with budget:
            pass
    left: list[Any] = []
    failures: list[BaseException] = []
    steps = [0]

    def thread(number: int) -> None:
        program = Program(seed * 8 + number, budgets, left)
        try:
            program.current.frames.append(Frame())
            program.run(0, 60)
            program.finish()
            left.extend(program.kept)
            steps[0] += program.steps
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=thread, args=(i,)) for i in range(chosen.randrange(1, 4))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if failures:
        raise failures[0]
    left.clear()
    threads.clear()
    gc.collect()
    for budget in (parent, *budgets):
        broken = budget._core.check()
        if broken is not None:
            raise AssertionError(broken)
    if parent.used != sum(b.used for b in budgets):
        raise AssertionError("a parent is not charged what its children are")
    return steps[0]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--seed", type=int, default=None)
    arguments = parser.parse_args()
    nativemem.install()
    warnings.simplefilter("ignore", nativemem.MemoryPressure)
    sys.setswitchinterval(1e-4)
    until, seed, steps = time.monotonic() + arguments.seconds, arguments.seed or 0, 0
    while time.monotonic() < until:
        try:
            steps += one(seed)
        except BaseException:
            print(f"hunt_scopes: --seed {seed}", flush=True)
            raise
        seed += 1
        if arguments.seed is not None:
            break
    print(f"to seed {seed}, {steps} steps: no difference")


if __name__ == "__main__":
    main()
