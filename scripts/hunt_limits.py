"""Ordinary Python where memory ends: each process goes on with MemoryError or the right result, and ends by itself.

Usage: hunt_limits.py [--denials N] [--seed S] [--python PATH] [--only BODY] [--variant V] [--kind K] [--limit SIZE]
                      [--secure] [--control]

A case is a body of limit_bodies.py, a variant of the code around it, a limit, and whether that is a budget's,
by a scope, or the process's. Its number and the seed say what it does. A process, limit_worker.py, runs some
hundred cases; processes are started until N MemoryErrors came out. A finding is printed once for each body,
variant, outcome and C stack, with the arguments that repeat it. --control runs its body and variant without
nativemem, with allocations of the interpreter failing: what happens there too is its own fault.
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
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from limit_worker import MIB, Case, load

KIB = 1 << 10
WORKER = str(Path(__file__).resolve().with_name("limit_worker.py"))
LIMITS = (64 * KIB, 100 * KIB, 256 * KIB, MIB, 4 * MIB, 20 * MIB)
KINDS = ("scope", "process")
#: seconds without a sign from a process
PATIENCE = 30.0  # or as --patience says
CASES_OF_A_PROCESS = 150
ENDS = ("free", "full", "uncaught")
#: bodies with which it is asked whether a process works on
CHECKS = ("lists", "dicts", "jsons", "expressions", "exceptions", "instances", "closures")


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
                [options.python, WORKER, str(self.folder / "spec")],
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
    options = parser.parse_args()
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
