"""Ordinary Python where memory ends: each process goes on with MemoryError or the right result, and ends by itself.

Usage: hunt_limits.py [--denials N] [--seed S] [--python PATH] [--only BODY] [--variant V] [--kind K] [--limit SIZE]
                      [--secure] [--control]

A case is a body of limit_bodies.py, a variant of the code around it, a limit, and whether that is a budget's, by a
scope, or the process's. Its number and the seed say what it does. A process runs some hundred cases; processes are
started until N MemoryErrors came out. A finding is printed once for each body, variant, outcome and C stack, with
the arguments that repeat it. --control runs its body and variant without nativemem, with allocations of the
interpreter failing: what happens there too is its own fault.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KIB, MIB = 1 << 10, 1 << 20
LIMITS = (64 * KIB, 100 * KIB, 256 * KIB, MIB, 4 * MIB, 20 * MIB)
#: the process's limit is at least this above what is in use; what is more than asked for is taken before
LEAST_OF_PROCESS = MIB
SUPERBLOCK = 64 * KIB
KINDS = ("scope", "process")
#: seconds without a sign from a process
PATIENCE = 30.0  # or as --patience says
#: seconds that code which goes on goes on
LONGEST = 1.0
CASES_OF_A_PROCESS = 150
ENDS = ("free", "full", "uncaught")
#: bodies with which it is asked whether a process works on
CHECKS = ("lists", "dicts", "jsons", "expressions", "exceptions", "instances", "closures")


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


# ---- in a process of its own ------------------------------------------------------------------------------


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


# ---- what starts them -------------------------------------------------------------------------------------


@dataclass
class Finding:
    outcome: str
    case: Case
    where: list[str]
    count: int = 1


@dataclass
class Tally:
    errors: int = 0
    denied: int = 0
    cases: int = 0
    processes: int = 0
    known: int = 0
    findings: dict[tuple[str, ...], Finding] = field(default_factory=dict)
    seconds: float = 0.0


def draw(seed: int, number: int, names: list[str], options: argparse.Namespace) -> Case:
    r = random.Random(seed * 1_000_003 + number)
    limit = r.choice((*LIMITS, *LIMITS[:3], int(2 ** r.uniform(16, 24))))
    variant = "interrupted" if r.random() < 0.01 else r.choice(VARIANTS)
    drawn = Case(number, r.choice(names), variant, r.choice(KINDS), limit, r.randrange(1 << 30))
    return Case(
        number,
        options.only or drawn.body,
        options.variant or drawn.variant,
        options.kind or drawn.kind,
        options.limit or drawn.limit,
        drawn.seed,
    )


VARIANTS = (
    "plain", "catching", "full", "full_once", "far", "in_handlers", "in_generator", "deep",
    "managed", "in_methods", "nested", "one_thread", "many_threads", "in_pool", "in_tasks",
)  # fmt: skip


#: what stands above the refusal itself
ALLOCATION = re.compile(r"(mem|obj|raw|array)_(malloc|calloc|realloc)")
WAITS = re.compile(r"poll|select|epoll_wait|futex|pthread_cond|nanosleep|syscall|read")
NOISE = re.compile(
    r"raise|_*pthread_kill.*|faulthandler_.*|_*GI_.*|<signal|\?\?|abort|__restore_rt|_PyEval_\w*|_PyFunction_Vectorcall"
    r"|_?PyObject_\w*[cC]all\w*|call_function|method_vectorcall|_PyErr_\w*|Py_X?DECREF|vectorcall_\w*"
)


def c_stack(*arguments: str) -> list[str]:
    """The functions of the thread that a core or a hang is about, the innermost first; without gdb none."""
    if shutil.which("gdb") is None:
        return []
    command = ["gdb", "-nx", "-batch", "-ex", "set pagination off", "-ex", "thread apply all bt 40", *arguments]
    try:
        out = subprocess.run(command, capture_output=True, text=True, timeout=90, stdin=subprocess.DEVNULL).stdout
    except subprocess.TimeoutExpired:
        return ["gdb takes too long"]
    stacks = dict(re.findall(r"^Thread (\d+) (.*?)(?=^Thread \d|\Z)", out, re.MULTILINE | re.DOTALL))
    names = {k: re.findall(r"^#\d+ +(?:0x\w+ in )?([\w.?<]+)", stack, re.MULTILINE) for k, stack in stacks.items()}
    if arguments[0] != "-p":
        return names.get("1", [])  # which the signal was for
    busy = [stack for stack in names.values() if stack and not any(map(WAITS.search, stack[:4]))]
    return (busy or list(names.values()) or [[]])[0]


def shown_stack(names: list[str]) -> list[str]:
    """Without what is the same in all, and without how far a refusal had got."""
    for i in reversed(range(len(names))):
        if ALLOCATION.fullmatch(names[i]):
            names = [f"refusing {names[i]}", *names[i + 1 :]]
            break
    return [name for name in names if not NOISE.fullmatch(name)][:5]


#: what the interpreter does by itself where it is refused memory: body (any: ""), how the outcome begins, why
KNOWN = (
    ("documents", "ParseError: out of memory", "expat says so in its own words"),
    (
        "",
        "aside: AttributeError: '_UnixSelectorEventLoop' object has no attribute",
        "asyncio's loop has a __del__ that expects an __init__ that came to its end",
    ),
)


def dump_cores() -> None:
    most = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (most, most))


class Batch:
    """Cases in one process, to the first that it does not survive."""

    def __init__(
        self,
        options: argparse.Namespace,
        cases: list[Case],
        end: str,
        secure: bool,
        fail: list[tuple[int, int]] | None = None,
    ) -> None:
        self.cases, self.secure = cases, secure
        self.folder = Path(tempfile.mkdtemp(prefix="hunt-limits-"))
        self.now: int | None = None
        self.done: list[tuple[int, str, int, int, str]] = []
        self.where: dict[int, list[str]] = {}
        self.ending = False
        self.fault = ""
        self.stack: list[str] = []
        reader, writer = os.pipe()
        with (self.folder / "faults").open("w+b") as faults, (self.folder / "output").open("w+b") as output:
            spec = {
                "pipe": writer, "faults": faults.fileno(), "cases": [tuple(vars(case).values()) for case in cases],
                "end": end, "control": fail is not None, "fail": fail, "checks": options.checks,
                "bodies": options.bodies, "patience": options.patience,
            }  # fmt: skip
            (self.folder / "spec").write_text(json.dumps(spec))
            environment = os.environ | {
                "PYTHONHASHSEED": "0", "NATIVEMEM_SECURE": str(int(secure)), "PYTHONWARNINGS": "ignore",
                "PYTHONDONTWRITEBYTECODE": "1", "OPENBLAS_NUM_THREADS": "1",
            }  # fmt: skip
            process = subprocess.Popen(
                [options.python, os.path.abspath(__file__), "--work", str(self.folder / "spec")],
                pass_fds=(writer, faults.fileno()),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=environment,
                preexec_fn=dump_cores,
            )
            os.close(writer)
            try:
                self.listen(process, reader, options.patience)
                code = process.wait()
            finally:
                process.kill()
                process.wait()
                os.close(reader)
            output.seek(0)
            said = output.read()[-4000:].decode(errors="replace")
            faults.seek(0)
            frames = re.findall(
                r'File "[^"]*?([\w.<>]+)", line (\d+) in (\w+)', faults.read().decode(errors="replace")
            )
            self.python_stack = [":".join(frame) for frame in frames[:6]]
        wanted = 1 if end == "uncaught" and self.ending else 0
        if not self.fault:
            if code < 0:
                self.fault = signal.Signals(-code).name
                if "Fatal Python error" in said:
                    self.fault += re.findall(r"Fatal Python error: ([^\n]{0,80})", said)[0]
                core = next(self.folder.glob("core*"), None)
                if core is not None:
                    self.stack = c_stack(options.python, str(core))
            elif code != wanted or (self.ending is False and code == 0):
                self.fault = f"exit code {code}: {said.strip().splitlines()[-1][:100] if said.strip() else ''}"
            elif wanted == 1 and "MemoryError" not in said:
                self.fault = f"no traceback: {said.strip()[-100:]}"
        shutil.rmtree(self.folder, ignore_errors=True)

    def listen(self, process: subprocess.Popen[bytes], reader: int, patience: float) -> None:
        buffer = b""
        while True:
            ready, _, _ = select.select([reader], [], [], patience)
            if not ready:
                self.stack = c_stack("-p", str(process.pid))
                process.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(3)
                self.fault = "hang, deaf to Ctrl-C" if process.poll() is None else "hang"
                process.kill()
                return
            got = os.read(reader, 65536)
            if not got:
                if self.ending:
                    try:
                        process.wait(patience)
                    except subprocess.TimeoutExpired:
                        self.stack = c_stack("-p", str(process.pid))
                        self.fault = "hang at exit"
                        process.kill()
                return
            buffer += got
            *lines, buffer = buffer.split(b"\n")
            for line in lines:
                word, *rest = json.loads(line)
                if word == "case":
                    self.now = rest[0]
                elif word == "done":
                    self.now = None
                    self.done.append(tuple(rest))
                elif word == "where":
                    self.where[rest[0]] = rest[1]
                elif word == "end":
                    self.ending, self.now = True, None


def note(
    tally: Tally, outcome: str, case: Case, first: int, secure: bool, stack: list[str], where: list[str], seed: int
) -> None:
    if any(name in ("", case.body) and outcome.startswith(start) for name, start, _ in KNOWN):
        tally.known += 1
        return
    # where a hang was interrupted is chance
    key = (outcome, case.body, case.variant, *(stack[:3] if "hang" not in outcome else where[:1]))
    if key in tally.findings:
        tally.findings[key].count += 1
        return
    tally.findings[key] = Finding(outcome, case, [*stack, *map(str, where)])
    more = " --secure" if secure else ""
    print(f"  {outcome}  [{' < '.join(stack)}] {' < '.join(map(str, where))}")
    print(
        f"    {case.repeat()}{more}\n    after others: --seed {seed} --cases {first}-{case.number}{more}",
        flush=True,
    )


def hunt(options: argparse.Namespace, names: list[str]) -> Tally:
    tally, number, start = Tally(), 0, time.monotonic()
    while tally.errors < options.denials and time.monotonic() - start < options.seconds:
        index = number // CASES_OF_A_PROCESS
        secure = options.secure or (index % 4 == 3 and not options.only)
        end = "free" if options.only or options.cases else ENDS[index % 3]
        if options.only:
            cases = [Case(i, options.only, *pick) for i, pick in enumerate(alone(options))]
        elif options.cases:
            cases = [draw(options.seed, i, names, options) for i in options.cases]
        else:
            cases = [draw(options.seed, number + i, names, options) for i in range(CASES_OF_A_PROCESS)]
        number += CASES_OF_A_PROCESS
        while cases and time.monotonic() - start < options.seconds:
            cases = one_process(options, cases, end, secure, tally)
        if options.only or options.cases:
            break
    tally.seconds = time.monotonic() - start
    return tally


def one_process(options: argparse.Namespace, cases: list[Case], end: str, secure: bool, tally: Tally) -> list[Case]:
    """What it did not survive to run."""
    batch = Batch(options, cases, end, secure)
    tally.processes += 1
    by_number = {case.number: case for case in cases}

    def found(outcome: str, case: Case, stack: list[str], where: list[str]) -> None:
        note(tally, outcome, case, cases[0].number, secure, stack, where, options.seed)

    for k, outcome, errors, denied, after in batch.done:
        tally.errors += errors
        tally.denied += denied
        tally.cases += 1
        if outcome != "right":
            found(outcome, by_number[k], [], batch.where.get(k, []))
        if after:
            found(after, by_number[k], [], [])
    last = max((k for k, *_ in batch.done), default=cases[0].number - 1)
    if not batch.fault:
        return []
    stack = shown_stack(batch.stack)
    if batch.now is None:  # at its start, or in the end
        number = cases[-1].number if batch.ending else cases[0].number
        what = Case(number, f"end-{end}" if batch.ending else "between", "-", "process", MIB, options.seed)
        found(batch.fault, what, stack, batch.python_stack[:3])
        return [] if batch.ending or not batch.done else [case for case in cases if case.number > last]
    found(batch.fault, by_number[batch.now], stack, batch.python_stack[:3])
    return [case for case in cases if case.number > batch.now]


def alone(options: argparse.Namespace) -> Iterator[tuple[str, str, int, int]]:
    for variant in [options.variant] if options.variant else VARIANTS:
        for kind in [options.kind] if options.kind else KINDS:
            for limit in [options.limit] if options.limit else LIMITS:
                yield variant, kind, limit, options.seed


def control(options: argparse.Namespace) -> int:
    """The same body and variant, where the interpreter's k-th allocation and what follows fails."""
    numbers = [*range(100), *range(100, 600, 7), *range(600, 6000, 97)]
    fail = [(k, k + width if width else 0) for width in (0, 1, 16) for k in numbers]
    variant = options.variant or "catching"
    cases = [
        Case(i, options.only, variant, "process", options.limit or MIB, options.seed) for i in range(len(fail))
    ]
    seen: Counter[str] = Counter()
    until = time.monotonic() + min(options.seconds, 300)
    while cases and time.monotonic() < until:
        batch = Batch(options, cases, "free", False, fail)
        outcomes = [(k, outcome) for k, outcome, *_ in batch.done if outcome != "right"]
        last = max((k for k, *_ in batch.done), default=cases[0].number - 1)
        if batch.fault:
            last = cases[0].number if batch.now is None else batch.now
            outcomes.append((last, batch.fault))
        for k, outcome in outcomes:
            if outcome not in seen:
                start, stop = fail[k]
                what = f"from allocation {start}" if stop == 0 else f"{stop - start} from allocation {start}"
                stack = " < ".join(shown_stack(batch.stack)) if k == batch.now else ""
                print(f"  without nativemem: {outcome}  [{stack}] {batch.where.get(k, batch.python_stack[:3])}")
                print(f"    failing: {what}", flush=True)
            seen[outcome] += 1
        cases = [case for case in cases if case.number > last]
    print(f"control: {dict(seen) or 'MemoryError or the right result'}")
    return 0


def cases_of(text: str) -> range:
    first, last = map(int, text.split("-"))
    return range(first, last + 1)


def size(text: str) -> int:
    match = re.fullmatch(r"(\d+)\s*(KiB|MiB|)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"no size: {text}")
    return int(match[1]) * {"KiB": KIB, "MiB": MIB, "": 1}[match[2]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--denials", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=3600.0, help="at most")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--python", default=sys.executable, help="an interpreter that has nativemem, with or without NumPy"
    )
    parser.add_argument("--patience", type=float, default=PATIENCE, help="seconds for a case")
    parser.add_argument("--only", metavar="BODY")
    parser.add_argument("--variant", choices=(*VARIANTS, "interrupted"))
    parser.add_argument("--kind", choices=KINDS)
    parser.add_argument("--limit", type=size)
    parser.add_argument("--cases", type=cases_of, metavar="A-B", help="of the seed, in one process")
    parser.add_argument("--secure", action="store_true", help="every process, not each fourth")
    parser.add_argument("--control", action="store_true", help="--only BODY without nativemem, allocations failing")
    bodies = Path(__file__).resolve().with_name("limit_bodies.py")
    parser.add_argument("--bodies", default=str(bodies), help="a file with others")
    parser.add_argument("--list", action="store_true", help="the bodies")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        return worker(json.loads(Path(options.work).read_text()))
    if options.list:
        print(*load(options.bodies))
        return 0
    listed = [options.python, os.path.abspath(__file__), "--bodies", options.bodies, "--list"]
    names = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split()
    options.checks = [name for name in CHECKS if name in names]
    if options.only and options.only not in names:
        parser.error(f"no such body: {options.only}; there are {', '.join(names)}")
    if options.control:
        if not options.only:
            parser.error("--control takes --only BODY")
        return control(options)
    tally = hunt(options, names)
    by_outcome = Counter(
        f"{f.outcome} {f.case.kind} [{' < '.join(map(str, f.where[:4]))}]" for f in tally.findings.values()
    )
    for outcome, count in by_outcome.most_common():
        print(f"{count:4} x {outcome}")
    print(
        f"seed {options.seed}: {tally.errors} MemoryErrors, {tally.denied} denials, {tally.cases} cases,"
        f" {tally.processes} processes, {tally.seconds:.0f} s, {tally.known} times a known fault of CPython:"
        f" {len(tally.findings) or 'no'} findings"
    )
    return int(bool(tally.findings))


if __name__ == "__main__":
    sys.exit(main())
