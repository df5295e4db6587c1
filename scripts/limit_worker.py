"""The processes that hunt_limits.py starts: cases of limit_bodies.py, one after another, in which memory ends.

Usage: limit_worker.py SPEC

SPEC is a file of JSON: the cases, where to tell of each, and how the process is to end. The process tells a
line for each case that begins and each that is done, and prints nothing. The case that it does not survive is
the one that began last.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MIB = 1 << 20
#: the process's limit is at least this above what is in use; what is more than asked for is taken before
LEAST_OF_PROCESS = MIB
SUPERBLOCK = 64 << 10
#: seconds that code which goes on goes on
LONGEST = 1.0


@dataclass(frozen=True)
class Case:
    number: int
    body: str
    variant: str
    kind: str
    limit: int
    seed: int

    def repeat(self) -> str:
        what = f"--only {self.body} --variant {self.variant} --kind {self.kind}"
        return f"{what} --limit {self.limit} --seed {self.seed}"


def load(path: str) -> dict[str, Callable[[random.Random, int], Any]]:
    import importlib.util

    spec = importlib.util.spec_from_file_location("limit_bodies", path)
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    sys.modules["limit_bodies"] = module
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module.BODIES  # type: ignore[no-any-return]


def worker(spec: dict[str, Any]) -> int:
    import faulthandler
    import gc
    import threading

    control = spec["control"]
    if not control:
        import nativemem
        from nativemem.engine.install import core
        from nativemem.process import usage

        nativemem.install()
        engine = core()
    pipe: int = spec["pipe"]
    bodies = load(spec["bodies"])

    def tell(*words: Any) -> None:
        os.write(pipe, (json.dumps(words) + "\n").encode())

    #: classes of what went to hooks instead of to a caller, and how many there were: made before memory ends
    aside: list[Any] = [None] * 64
    asides = bytearray(1)

    def lay_aside(arguments: Any) -> None:
        kind = getattr(arguments, "exc_type", None)
        if kind is None or not issubclass(kind, (MemoryError, KeyboardInterrupt, GeneratorExit)):
            aside[asides[0]] = (kind, getattr(arguments, "exc_value", None), getattr(arguments, "object", None))
            asides[0] = min(asides[0] + 1, 63)

    sys.unraisablehook = lay_aside
    threading.excepthook = lay_aside

    class Run:
        """One case: what it kept, what it got, how often it was refused."""

        def __init__(self, case: Case) -> None:
            self.case = case
            r = random.Random(case.seed)
            self.size = int(2 ** r.uniform(0, 8.6))
            self.times = int(2 ** r.uniform(0, 10))
            self.spare = int(2 ** r.uniform(0, 6)) - 1
            self.function = bodies[case.body]
            self.left = [None] * self.times
            self.filled: list[Any] = []
            self.results: list[Any] = []
            self.errors = 0
            self.denied = 0
            self.random = r
            self.until = 0.0
            self.budget: Any = None
            self.budgets: list[Any] = []
            self.expected = self.function(random.Random(case.seed), self.size)

        def call(self) -> Any:
            return self.function(random.Random(self.case.seed), self.size)

        def fill(self) -> None:
            """Takes all there is, in blocks of each size, and gives the last few back."""
            keep, size = self.filled, self.case.limit
            while size > 2048:
                try:
                    while True:
                        keep.append(bytearray(size))
                except MemoryError:
                    self.errors += 1
                size //= 2
            if control:
                return
            for size in range(0, 2049, 16 if self.case.seed % 2 else 96):
                try:
                    while True:
                        keep.append(bytes(size))
                except MemoryError:
                    self.errors += 1
            for _ in range(self.spare):
                if keep:
                    keep.pop()

        def go_on(self) -> None:
            """Catches, keeps what it got, and goes on."""
            while self.left:
                try:
                    while self.left:
                        self.left.pop()
                        try:
                            self.results.append(self.call())
                        except MemoryError:
                            self.errors += 1
                        if time.monotonic() > self.until:
                            self.left.clear()
                except MemoryError:
                    pass

        def limits(self) -> Any:
            if control:
                return failing_from(self)
            return scope(self) if self.case.kind == "scope" else of_process(self)

    @contextlib.contextmanager
    def failing_from(run: Run) -> Iterator[None]:
        from _testcapi import remove_mem_hooks, set_nomemory  # type: ignore[import-not-found]

        start, stop = spec["fail"][run.case.number]
        set_nomemory(start, stop)
        try:
            yield
        finally:
            remove_mem_hooks()

    def scope(run: Run) -> Any:
        limit, seed = run.case.limit, run.case.seed
        parent = nativemem.Budget(limit * 2, name="parent") if seed % 3 == 0 else None
        told = (lambda *_: None) if seed % 5 == 0 else None
        run.budget = nativemem.Budget(limit, name="hunted", parent=parent, on_pressure=told)
        run.budgets.append(run.budget)
        return run.budget

    class of_process:
        def __init__(self, run: Run) -> None:
            self.run = run
            self.before = usage().denials
            self.ballast: list[Any] = []

        def __enter__(self) -> None:
            held = usage().held
            while True:  # what is held grows by itself, in steps
                try:
                    nativemem.install(limit=held + max(self.run.case.limit, LEAST_OF_PROCESS))
                    break
                except nativemem.errors.InvalidLayout:
                    held = usage().held + 2 * SUPERBLOCK
            try:
                while (
                    self.run.case.limit < LEAST_OF_PROCESS
                    and usage().held < held + LEAST_OF_PROCESS - self.run.case.limit
                ):
                    self.ballast.append(bytearray(60_000))
            except MemoryError:
                pass

        def __exit__(self, *error: Any) -> None:
            peak, limit = engine.engine_lift(), 0
            self.ballast.clear()
            if not peak:
                tell("odd", "no peak", limit)

    scope_or_not = contextlib.nullcontext

    # ---- the code around a body ----

    variants: dict[str, Callable[[Run], None]] = {}

    def variant(function: Callable[[Run], None]) -> Callable[[Run], None]:
        variants[function.__name__] = function
        return function

    @variant
    def plain(run: Run) -> None:
        with run.limits():
            for _ in run.left:
                run.results.append(run.call())
                if time.monotonic() > run.until:
                    break

    @variant
    def catching(run: Run) -> None:
        with run.limits():
            run.go_on()

    @variant
    def full(run: Run) -> None:
        with run.limits():
            run.fill()
            run.go_on()

    @variant
    def full_once(run: Run) -> None:
        with run.limits():
            run.fill()
            run.results.append(run.call())

    far_source = ["def far(run):"]
    far_source += [f"    a{i} = {i}; b{i} = a{i}" for i in range(90)]
    far_source += [
        "    with run.limits():",
        "        run.fill()",
        "        while run.left:",
        "            try:",
        "                try:",
        "                    run.left.pop()",
        "                    with scope_or_not():",
        "                        run.results.append(run.call())",
        "                finally:",
        "                    [run.left]",
        "            except MemoryError as error:",
        "                run.errors += 1",
        "                del error",
        "            for x in (a1, a2):",
        "                try:",
        "                    (x, [x])",
        "                except MemoryError:",
        "                    pass",
        "            if time.monotonic() > run.until: break",
    ]
    made: dict[str, Any] = {"time": time, "scope_or_not": scope_or_not}
    exec("\n".join(far_source), made)
    variants["far"] = made["far"]

    @variant
    def in_handlers(run: Run) -> None:
        with run.limits():
            run.fill()
            while run.left and time.monotonic() < run.until:
                run.left.pop()
                try:
                    raise KeyError(run)
                except KeyError:
                    try:
                        run.results.append(run.call())
                    except MemoryError as error:
                        run.errors += 1
                        error.__traceback__ = None
                finally:
                    try:
                        run.results.append(run.call())
                    except MemoryError:
                        pass

    @variant
    def in_generator(run: Run) -> None:
        def steps() -> Iterator[None]:
            with run.limits():
                run.fill()
                for _ in range(min(run.times, 50)):
                    try:
                        run.results.append(run.call())
                    except MemoryError:
                        run.errors += 1
                    yield

        at = steps()
        for _ in at:
            if run.case.kind == "scope":
                [[] for _ in range(10)]
            if time.monotonic() > run.until:
                break
        at.close()

    @variant
    def deep(run: Run) -> None:
        def down(depth: int) -> None:
            if depth:
                return down(depth - 1)
            run.go_on()

        with run.limits():
            run.fill()
            down(run.case.seed % 400)

    @variant
    def managed(run: Run) -> None:
        """In a context manager of the program's own, which enters and leaves the budget."""

        class Manager:
            def __enter__(self) -> None:
                self.limits = run.limits()
                self.limits.__enter__()

            def __exit__(self, *error: Any) -> None:
                self.limits.__exit__(*error)

        with Manager():
            run.fill()
            run.go_on()

    @variant
    def in_methods(run: Run) -> None:
        class Holder:
            @property
            def got(self) -> Any:
                return run.call()

            def __getattr__(self, name: str) -> Any:
                return run.call()

            def __eq__(self, other: object) -> bool:
                run.results.append(run.call())
                return True

            def __hash__(self) -> int:
                return 1

            def __iter__(self) -> Iterator[Any]:
                yield run.call()

            def __del__(self) -> None:
                run.results.append(run.call())

        with run.limits():
            run.fill()
            for _ in range(min(run.times, 60)):
                try:
                    one = Holder()
                    run.results.append(one.got)
                    run.results.append(one.absent)
                    _ = one == Holder(), {one: 1}[Holder()]
                    run.results.extend(one)
                    sorted([1, 2], key=lambda _: run.call() and 1)
                except MemoryError:
                    run.errors += 1
                if time.monotonic() > run.until:
                    break

    @variant
    def nested(run: Run) -> None:
        if control or run.case.kind == "process":
            return full(run)
        with run.limits():
            inner = nativemem.Budget(max(run.case.limit // 2, 1), name="inner", parent=run.budget)
            run.budgets.append(inner)
            try:
                with inner:
                    run.fill()
                    run.go_on()
            except MemoryError:
                run.errors += 1
            run.left = [None] * run.times
            run.go_on()

    @variant
    def one_thread(run: Run) -> None:
        threads(run, 1)

    @variant
    def many_threads(run: Run) -> None:
        threads(run, 3)

    def threads(run: Run, count: int) -> None:
        def work() -> None:
            try:
                if run.budget is not None:
                    with run.budget:
                        run.go_on()
                else:
                    run.go_on()
            except MemoryError:
                pass

        started = []
        try:
            with run.limits():
                run.fill()
                for _ in range(count):
                    thread = threading.Thread(target=work)
                    thread.start()
                    started.append(thread)
                run.go_on()
        finally:
            for thread in started:
                thread.join()

    @variant
    def in_pool(run: Run) -> None:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(2) as executor:
            pool = run.budget = None
            with run.limits():
                run.fill()
                pool = executor if run.budget is None else run.budget.wrap(executor)
                for _ in range(min(run.times, 30)):
                    try:
                        waiting = [pool.submit(run.call), pool.submit(run.call)]
                        run.results.extend(future.result() for future in waiting)
                    except MemoryError:
                        run.errors += 1
                    if time.monotonic() > run.until:
                        break

    @variant
    def in_tasks(run: Run) -> None:
        import asyncio

        async def request() -> None:
            if run.case.kind == "scope":
                with run.limits():
                    run.fill()
                    run.go_on()
                    await asyncio.sleep(0)
                    run.results.append(run.call())
            else:
                await asyncio.sleep(0)
                run.go_on()
                await asyncio.sleep(0)

        async def serve() -> None:
            got = await asyncio.gather(request(), request(), return_exceptions=True)
            for one in got:
                if isinstance(one, MemoryError):
                    run.errors += 1
                elif one is not None:
                    raise one  # type: ignore[misc]

        if run.case.kind == "scope":
            asyncio.run(serve())
        else:
            with run.limits():
                run.fill()
                asyncio.run(serve())

    @variant
    def interrupted(run: Run) -> None:
        """Code that only ever catches MemoryError has to be reached by Ctrl-C."""
        if threading.current_thread() is not threading.main_thread():
            return
        try:
            with run.limits():
                run.fill()
                signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
                while True:
                    try:
                        run.call()
                    except MemoryError:
                        pass
        except KeyboardInterrupt:
            signal.setitimer(signal.ITIMER_REAL, 0)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    if not control:
        signal.signal(signal.SIGALRM, signal.default_int_handler)

    # ---- and what has to hold after it ----

    checks = [(name, bodies[name](random.Random(9), 5)) for name in spec["checks"]]

    def works() -> str:
        for name, value in checks:
            if bodies[name](random.Random(9), 5) != value:
                return f"afterwards {name} differs"
        return ""

    def one(case: Case) -> None:
        run = Run(case)
        asides[0] = 0
        outcome = "right"
        run.until = time.monotonic() + LONGEST
        before = 0 if control else usage().denials
        try:
            variants[case.variant](run)
        except MemoryError:
            run.errors += 1
        except BaseException as error:
            cause: Any = error
            while cause is not None and not isinstance(cause, MemoryError):
                cause = cause.__cause__
            if cause is None:
                where = []
                at = error.__traceback__
                while at is not None:
                    where.append(f"{Path(at.tb_frame.f_code.co_filename).name}:{at.tb_lineno}")
                    at = at.tb_next
                outcome = f"{type(error).__name__}: {str(error)[:80]}"
                tell("where", case.number, where[-4:])
            else:
                run.errors += 1
        run.filled.clear()
        if any(result != run.expected for result in run.results):
            outcome = "wrong result"
        for i in range(asides[0]):  # with the exception, what it holds
            kind, value, thing = aside[i]
            outcome = f"aside: {kind.__name__}: {value} in {getattr(thing, '__qualname__', type(thing).__name__)}"
        denied = sum(budget.denied for budget in run.budgets)
        for budget in run.budgets:
            if budget.peak > budget.limit:
                outcome = f"over the limit: {budget.peak} of {budget.limit}"
            broken = budget._core.check()
            if broken is not None:
                outcome = f"broken: {broken}"
            if budget.denied and budget.last_denial is None:
                outcome = "denied without last_denial"
        if not control:
            denied += usage().denials - before
            if run.errors and not denied:
                outcome = "MemoryError without a denial"
        run.results.clear()
        aside[:] = [None] * len(aside)
        tell("done", case.number, outcome, run.errors, denied, works())

    faulthandler.enable(spec["faults"])
    for case in spec["cases"]:
        case = Case(*case)
        tell("case", case.number)
        faulthandler.dump_traceback_later(spec["patience"] * 0.6, file=spec["faults"])
        one(case)
        faulthandler.cancel_dump_traceback_later()
        if case.number % 16 == 0:
            gc.collect()
    if spec["end"] == "free" or control:
        tell("end")
        return 0
    # it ends with its limit met and its data there
    faulthandler.dump_traceback_later(spec["patience"] * 0.6, file=spec["faults"])
    tell("end")
    global kept
    nativemem.install(limit=usage().held + MIB)
    if spec["end"] == "uncaught":
        while True:
            kept.append([bytes(100)])
    errors = 0
    while errors < 5:
        try:
            kept.append([bytes(100)])
        except MemoryError:
            errors += 1
    return 0


kept: list[Any] = []


if __name__ == "__main__":
    sys.exit(worker(json.loads(Path(sys.argv[1]).read_text())))
