"""Random programs of scopes, generators, contexts, tasks and threads, against a model of what is charged.

Usage: hunt_scopes.py [--seconds N] [--seed N]

A program keeps which scopes each frame has open in which context, and asks the engine after each step which
budget is charged, and with NumPy which one an array is charged to. The model: the innermost running frame that
has a scope open in this context, or, of a generator, in one that is not below on this stack of contexts; where none
has, what the context was copied with. Scopes are entered and left in all ways, and left wrongly, too.
Generators go on in other threads.
"""

from __future__ import annotations

import argparse
import contextlib
import contextvars
import functools
import gc
import random
import sys
import threading
import time
import warnings
from collections.abc import Callable, Generator
from importlib import import_module
from importlib.util import find_spec
from inspect import GEN_RUNNING, getgeneratorstate
from typing import Any

import nativemem
from nativemem import Budget
from nativemem.backends.native import budget as _native

numpy: Any = import_module("numpy") if find_spec("numpy") else None

DEPTH = 5


class Context:
    """A context and, by the model, which budget is charged in it when none of its frames is in a scope."""

    def __init__(self, inherits: Budget | None, is_copy: bool = False) -> None:
        self.inherits, self.is_copy = inherits, is_copy
        self.frames: list[Frame] = []  # that run in it, innermost last


class Frame:
    def __init__(self, program: Program) -> None:
        self.program = program  # that it runs in
        self.open: list[tuple[Context, Budget]] = []
        self.is_helped = False  # other frames leave what is open


class Managed:
    def __init__(self, budget: Budget) -> None:
        self.budget = budget

    def __enter__(self) -> None:
        self.budget.__enter__()

    def __exit__(self, *error: object) -> None:
        self.budget.__exit__(*error)

    async def __aenter__(self) -> None:
        self.budget.__enter__()

    async def __aexit__(self, *error: object) -> None:
        self.budget.__exit__(*error)


@contextlib.contextmanager
def serving(budget: Budget) -> Generator[None, None, None]:
    with contextlib.ExitStack() as stack:
        stack.enter_context(budget)
        yield


def drive(coroutine: Any) -> None:
    try:
        while True:
            coroutine.send(None)
    except StopIteration:
        pass


async def in_coroutine(step: Callable[[], Any]) -> None:
    step()


async def two_deep(step: Callable[[], Any]) -> None:
    await in_coroutine(step)


def in_generator(step: Callable[[], Any]) -> Generator[None, None, None]:
    step()
    yield


async def in_async_generator(step: Callable[[], Any]) -> Any:
    step()
    yield


async def use(generator: Any) -> None:
    async for _ in generator:
        pass


def through_stack(step: Callable[[], Any]) -> None:
    with contextlib.ExitStack() as stack:
        stack.callback(step)


async def through_async_stack(step: Callable[[], Any]) -> None:
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(step)


#: calls it in other frames than the caller's: by these a scope is entered and left
WAYS: tuple[Callable[[Callable[[], Any]], Any], ...] = (
    lambda step: step(),
    lambda step: [*filter(lambda _: step(), [0])],
    lambda step: list(in_generator(step)),
    lambda step: drive(in_coroutine(step)),
    lambda step: drive(two_deep(step)),
    lambda step: drive(use(in_async_generator(step))),
    through_stack,
    lambda step: drive(through_async_stack(step)),
)


class Program:
    """One thread's. It may leave generators to others."""

    def __init__(self, seed: int, budgets: list[Budget], left: list[Any], given: list[Any]) -> None:
        self.random = random.Random(seed)
        self.budgets, self.left, self.given = budgets, left, given
        self.current = Context(None)
        self.contexts = [self.current]  # entered, innermost last
        self.gave = False
        self.asleep: list[tuple[Frame, Any]] = []
        self.kept: list[Any] = []
        self.steps = 0

    def expected(self) -> Budget | None:
        here = self.charged_by(self.current)
        if here is not None or self.current.inherits is not None:
            return here or self.current.inherits
        for context in reversed(self.contexts):
            if budget := self.charged_by(context):
                return budget
        return None

    def charged_by(self, outer: Context) -> Budget | None:
        for frame in reversed(outer.frames):
            for context, budget in reversed(frame.open):
                if context is self.current or context not in self.contexts:
                    return budget
        return None

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
        budget = self.random.choice(self.budgets)
        with budget:
            self.block(budget, depth)
        self.check("leaving")

    def block(self, budget: Budget, depth: int) -> None:
        frame = self.current.frames[-1]
        frame.open.append((self.current, budget))
        self.check("entering")
        try:
            self.run(depth + 1, 5)
        finally:
            frame.open.pop()

    def managed(self, depth: int) -> None:
        """In other managers."""
        budget = self.random.choice(self.budgets)
        manager: Any = self.random.choice((Managed, serving))(budget)
        with manager:
            self.block(budget, depth)
        self.check("leaving a manager")

    def stacked(self, depth: int) -> None:
        budget = self.random.choice(self.budgets)

        async def host() -> None:
            async with contextlib.AsyncExitStack() as stack:
                if self.random.random() < 0.5:
                    stack.enter_context(budget)
                else:
                    await stack.enter_async_context(Managed(budget))
                self.block(budget, depth)

        drive(host())
        self.check("leaving a stack")

    def by_hand(self, depth: int) -> None:
        budget = self.random.choice(self.budgets)
        self.random.choice(WAYS)(budget.__enter__)
        try:
            self.block(budget, depth)
        finally:
            self.random.choice(WAYS)(functools.partial(budget.__exit__, None, None, None))
        self.check("leaving by hand")

    def wrong(self, leaves: Budget, words: str) -> None:
        try:
            self.random.choice(WAYS)(functools.partial(leaves.__exit__, None, None, None))
        except nativemem.errors.ScopeError as error:
            if words not in str(error):
                raise
        else:
            raise AssertionError(f"{leaves.name} was left, which is not {words}")

    def another_order(self, depth: int) -> None:
        outer, inner = self.random.choice(self.budgets), self.random.choice(self.budgets)
        if outer is inner:
            return
        frame = self.current.frames[-1]
        self.random.choice(WAYS)(outer.__enter__)
        self.random.choice(WAYS)(inner.__enter__)
        frame.open.append((self.current, inner))
        self.check("entering two")
        self.wrong(outer, f"before the scope of budget {inner.name!r}")
        self.check("leaving the outer one")
        self.random.choice(WAYS)(functools.partial(inner.__exit__, None, None, None))
        frame.open.pop()
        self.check("leaving the inner one")

    def not_open(self, depth: int) -> None:
        if self.gave or any(context.is_copy for context in self.contexts):
            return
        frames = [frame for context in self.contexts for frame in context.frames]
        frames += [frame for frame, _ in self.asleep]
        is_open = {id(budget) for frame in frames for _, budget in frame.open}
        for budget in self.budgets:
            if id(budget) not in is_open:
                self.wrong(budget, "the scope of budget")
                self.check("leaving what is not open")

    def call(self, depth: int) -> None:
        self.within(Frame(self), lambda: self.run(depth + 1, 5))

    def another(self, run: Callable[..., Any], context: Context, depth: int) -> None:
        outer, self.current = self.current, context
        self.contexts.append(self.current)
        try:
            run(self.within, Frame(self), lambda: self.run(depth + 1, 5))
        finally:
            self.contexts.pop()
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
            self.within(Frame(self), fail)
        except KeyError:
            pass
        self.check("an exception")

    def copy(self, depth: int) -> None:
        if not self.asleep and not self.gave:  # what sleeps would be inherited: nothing tells of a copy
            self.another(contextvars.copy_context().run, Context(self.expected(), True), depth)

    def fresh(self, depth: int) -> None:
        self.another(contextvars.Context().run, Context(None), depth)

    def body(self, frame: Frame) -> Generator[None, None, None]:
        for _ in range(self.random.randrange(1, 4)):
            budget, by_hand = frame.program.random.choice(self.budgets), frame.program.random.randrange(4)
            frame.is_helped = by_hand > 0
            with contextlib.nullcontext() if by_hand else budget:
                if by_hand == 1:
                    budget.__enter__()
                elif by_hand == 2:
                    list(in_generator(budget.__enter__))
                elif by_hand:
                    list(in_generator(functools.partial(list, in_generator(budget.__enter__))))
                frame.open.append((frame.program.current, budget))
                try:
                    frame.program.check("entering in a generator")
                    for _ in range(frame.program.random.randrange(3)):
                        yield
                        frame.program.check("going on in a generator")
                        frame.program.run(DEPTH - 1, 3)
                finally:
                    if by_hand:
                        frame.program.random.choice(WAYS)(functools.partial(budget.__exit__, None, None, None))
                    frame.open.pop()
            frame.program.check("leaving in a generator")
            if frame.program.random.random() < 0.5:
                yield

    async def async_body(self, frame: Frame) -> Any:
        for _ in range(self.random.randrange(1, 4)):
            budget, kind = frame.program.random.choice(self.budgets), frame.program.random.randrange(3)
            frame.is_helped = True
            async with contextlib.AsyncExitStack() as stack:
                if kind == 0:
                    await stack.enter_async_context(Managed(budget))
                elif kind == 1:
                    await two_deep(budget.__enter__)
                    stack.push(budget)
                else:
                    budget.__enter__()
                    stack.push_async_exit(Managed(budget))
                frame.open.append((frame.program.current, budget))
                try:
                    frame.program.check("entering in an async generator")
                    for _ in range(frame.program.random.randrange(3)):
                        yield
                        frame.program.check("going on in an async generator")
                finally:
                    # what is charged is not asked for until the stack has left it
                    frame.open.pop()
            frame.program.check("leaving in an async generator")
            if frame.program.random.random() < 0.5:
                yield

    def start(self, depth: int) -> None:
        frame = Frame(self)
        generator = Steps(self.async_body(frame)) if self.random.random() < 0.5 else self.body(frame)
        self.asleep.append((frame, generator))
        self.check("making a generator")

    def sleeping(self) -> tuple[Frame, Any] | None:
        """One that may go on. Where its own context is left for this one for a while, the engine does not tell that
        it is resumed here from its calling through the other context."""
        if not self.asleep:
            return None
        frame, generator = at = self.random.choice(self.asleep)
        left = any(context in self.contexts[:-1] and context is not self.current for context, _ in frame.open)
        return None if is_running(generator) or (frame.is_helped and left) else at

    def resume(self, depth: int) -> None:
        if at := self.sleeping():
            frame, generator = at
            ended = object()
            if self.within(frame, lambda: next(generator, ended)) is ended and at in self.asleep:
                self.asleep.remove(at)
            self.check("a generator's step")

    def end(self, depth: int) -> None:
        if at := self.sleeping():
            frame, generator = at
            self.asleep.remove(at)
            self.within(frame, generator.close)
            self.check("a generator's end")

    def give(self, depth: int) -> None:
        if at := self.sleeping():
            self.asleep.remove(at)
            self.gave = True
            self.given.append(at)

    def take(self, depth: int) -> None:
        if self.given:
            self.adopt(self.given.pop())

    def adopt(self, at: tuple[Frame, Any]) -> None:
        at[0].program = self
        self.asleep.append(at)

    actions = (
        *(scope, scope, call, failing, copy, fresh, start, start, resume, resume, resume, resume),
        *(end, give, take, take),
        *(managed, stacked, by_hand, by_hand, another_order, not_open),
    )

    def finish(self) -> None:
        while self.asleep:
            self.end(0)
        self.check("the end")


class Steps:
    """An async generator, driven by hand: nothing in it waits."""

    def __init__(self, generator: Any) -> None:
        self.generator = generator

    def __iter__(self) -> Steps:
        return self

    def __next__(self) -> None:
        try:
            self.generator.asend(None).send(None)
        except StopIteration:
            pass
        except StopAsyncIteration:
            raise StopIteration from None

    def close(self) -> None:
        drive(self.generator.aclose())


def is_running(generator: Any) -> bool:
    if isinstance(generator, Steps):
        return bool(generator.generator.ag_running)
    return getgeneratorstate(generator) == GEN_RUNNING


def one(seed: int) -> int:
    chosen = random.Random(seed)
    parent = Budget("1 GiB", name="parent")
    budgets = [Budget("256 MiB", name=f"b{i}", parent=parent) for i in range(chosen.randrange(1, 5))]
    for budget in budgets:
        with budget:
            pass
    left: list[Any] = []
    given: list[Any] = []
    failures: list[BaseException] = []
    steps = [0]

    def thread(number: int) -> None:
        program = Program(seed * 8 + number, budgets, left, given)
        try:
            program.current.frames.append(Frame(program))
            if number < 0:
                while given:
                    program.adopt(given.pop())
            else:
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
    thread(-1)  # what no thread has taken
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
