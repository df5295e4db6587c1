"""Test suites of other people with the engine off and on, test by test: do any two outcomes differ?

Usage: suites.py [--pythons all | 3.12 ...] [--suites interpreter numpy pandas sklearn] [--fast] [--scoped] ...

For each interpreter there is an environment below build/suites, with nativemem and the libraries. The sides are:

off     NATIVEMEM_AUTOINSTALL is not set
on      it is 1: the engine, in the tests' process and in the programs that tests start
scoped  that, and the main thread of each enters a budget with a limit that no test reaches

Each file (of pandas and scikit-learn: each package) runs in a process of its own, both sides one after the other,
with the same hash seed, locale and time zone, in an empty folder that is also its home and its place for temporary
files. What came out is kept in build/suites/PYTHON/SUITE/SIDE/outcomes.jsonl, a line for each file: a run that was
interrupted goes on where it was, and `--report` prints the tables of what there is. Tests that differ are run again
on both sides: a difference is an outcome that was only seen with the engine on.

Each difference needs a reason in suites_reasons.py, or the exit code is 1.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import itertools
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypedDict

from suites_parts import FAST_INTERPRETER, PANDAS, SKLEARN
from suites_reasons import REASONS, Reason

ROOT = Path(__file__).resolve().parents[1]
TOP = ROOT / "build" / "suites"
PAGE = ROOT / "docs" / "measured" / "suites.md"
SUPPORTED = ("3.10", "3.11", "3.12", "3.13", "3.14", "3.15")
#: What enters the budget, at the start of each Python of the environment that has the variable
SCOPED = "SUITES_SCOPED"
SCOPE_LINE = f"import os; {SCOPED!r} in os.environ and __import__('nativemem_suites')\n"
SCOPE_MODULE = """\
import nativemem

if nativemem.installed():
    budget = nativemem.Budget(1 << 44, "suites")
    budget.__enter__()
"""
#: the test that stands for the process as a whole
PROCESS = "(the process)"
ENDED, ABSENT = "ended", "absent"
SIDES = ("off", "on", "scoped")
#: seconds after which a test says where it hangs
TIMEOUT = 840
ADDRESS = re.compile(r"\b0x[0-9a-f]{6,}\b")


class Record(TypedDict):
    """How one file's run ended. ``round``: 0, then 1 and so on where it is run again."""

    unit: str
    round: int
    seconds: float
    outcomes: dict[str, list[str]]  # from the outcome to the tests


# --- what there is to run ---


@dataclass(frozen=True)
class Suite:
    """``units`` lists what is run in a process each; ``command`` is how, with the file for the outcomes."""

    name: str
    packages: tuple[str, ...]  # the first is the one that is tested
    units: Callable[[Python], list[str]]
    command: Callable[[Python, str, str], list[str]]
    name_of: Callable[[ElementTree.Element], str]
    #: the unit to run again for a test
    again: Callable[[str, str], str]
    #: the tests that the output says failed, where the file of outcomes does not tell all
    failures: Callable[[str], list[str]] | None = None
    fast: tuple[str, ...] = ()
    timeout: int = 900  # seconds


def interpreter_units(python: Python) -> list[str]:
    if python.ask("import importlib.util as u; print(u.find_spec('test.test_dict') is not None)") != "True":
        sys.exit(
            f"missing: the test suite of {python.base}; on Debian or Ubuntu: "
            f"apt-get install libpython{python.name}-testsuite"
        )
    listed = subprocess.run(
        [python.path, "-m", "test", "--list-tests"], capture_output=True, text=True, check=True, cwd=TOP
    )
    return listed.stdout.split()


def interpreter_command(python: Python, unit: str, output: str) -> list[str]:
    # VSOCK: to the hypervisor, which may never answer
    options = ["-v", "--randseed=1", f"--timeout={TIMEOUT}", f"--junit-xml={output}", "--ignore=*VSOCK*"]
    return [str(python.path), "-m", "test", *options, unit]


def pytest_units(package: str, folders: Iterable[str], *, by_file: bool) -> Callable[[Python], list[str]]:
    def units(python: Python) -> list[str]:
        top = python.site / package
        files = sorted(
            file
            for folder in folders
            for file in (top / folder).rglob("test_*.py")
            if "tests" in file.relative_to(python.site).parts
        )
        paths = files if by_file else sorted({file.parent for file in files})
        return [dotted(path.relative_to(python.site)) for path in paths]

    return units


def dotted(path: Path) -> str:
    return ".".join(path.with_suffix("").parts)


def pytest_command(python: Python, unit: str, output: str) -> list[str]:
    folder = python.site.joinpath(*unit.split("."))
    modules = [f"{unit}.{file.stem}" for file in sorted(folder.glob("test_*.py"))] or [unit]
    options = ["-v", "-p", "no:cacheprovider", "--hypothesis-seed=1", "-m", "not slow and not network and not db"]
    # xunit1 tells the file of each test
    xml = [f"--junit-xml={output}", "-o", "junit_family=xunit1", "-o", f"faulthandler_timeout={TIMEOUT}"]
    return [str(python.path), "-m", "pytest", *options, *xml, "--pyargs", *modules]


def interpreter_name(case: ElementTree.Element) -> str:
    return case.get("name", "")


def interpreter_failures(output: str) -> list[str]:
    """The file of outcomes has a case without a name for each test of which only sub-tests failed."""
    found = re.findall(r"^(?:FAIL|ERROR): (\w+) \(([\w.]+)\)", output, re.MULTILINE)
    # since 3.11 the name is part of what stands in the brackets
    return [kind if kind.endswith(f".{name}") else f"{kind}.{name}" for name, kind in found]


def pytest_name(case: ElementTree.Element) -> str:
    kind, name = case.get("classname", "").rpartition(".")[2], case.get("name", "")
    if not case.get("file"):  # a module that could not be imported
        return name
    file = Path(case.get("file", "").rpartition("site-packages/")[2])
    return f"{dotted(file)}::{name}" if kind in ("", file.stem) else f"{dotted(file)}::{kind}::{name}"


def same_unit(unit: str, test: str) -> str:
    return unit


def own_module(unit: str, test: str) -> str:
    return test.partition("::")[0] if "::" in test else unit


SUITES = {
    suite.name: suite
    for suite in (
        Suite(
            "interpreter",
            (),
            interpreter_units,
            interpreter_command,
            interpreter_name,
            same_unit,
            failures=interpreter_failures,
            fast=(*FAST_INTERPRETER, *(f"test.{name}" for name in FAST_INTERPRETER)),
        ),
        Suite(
            "numpy",
            ("numpy", "meson", "ninja", "setuptools"),  # some tests build extensions
            pytest_units("numpy", ["."], by_file=True),
            pytest_command,
            pytest_name,
            own_module,
            fast=("numpy._core.tests.test_multiarray", "numpy._core.tests.test_mem_policy"),
        ),
        Suite(
            "pandas",
            ("pandas",),
            pytest_units("pandas/tests", PANDAS, by_file=False),
            pytest_command,
            pytest_name,
            own_module,
            timeout=3600,
        ),
        Suite(
            "sklearn",
            ("scikit-learn",),
            pytest_units("sklearn", SKLEARN, by_file=False),
            pytest_command,
            pytest_name,
            own_module,
            timeout=3600,
        ),
    )
}


# --- environments ---


def fingerprint() -> str:
    """Of what is installed: outcomes with the engine on are those of one build."""
    digest = hashlib.sha256()
    files = [ROOT / "setup.py", *(ROOT / "csrc").rglob("*"), *(ROOT / "src").rglob("*")]
    for file in sorted(files):
        if file.suffix in (".c", ".h", ".py", ".pth") and file.name != "_core.c":
            digest.update(f"{file.relative_to(ROOT)}\n".encode() + file.read_bytes())
    return digest.hexdigest()


def environment(side: str, folder: str, commands: Path) -> dict[str, str]:
    """The same for all sides, but for what makes the side; nothing of the caller's that a test could notice."""
    started = {"NATIVEMEM_AUTOINSTALL": "1"} if side != "off" else {}
    return {
        "PATH": f"{commands}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "HOME": folder,
        "TMPDIR": folder,
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "PYTHONHASHSEED": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        **started,
        **({SCOPED: "1"} if side == "scoped" else {}),
    }


@dataclass
class Python:
    """An interpreter, and the environment that its suites run in."""

    base: Path
    name: str

    @property
    def top(self) -> Path:
        return TOP / self.name

    @property
    def path(self) -> Path:
        return self.top / "venv" / "bin" / "python"

    @cached_property
    def site(self) -> Path:
        return Path(self.ask("import sysconfig; print(sysconfig.get_path('platlib'))"))

    def ask(self, code: str, *flags: str, side: str = "off") -> str:
        command, env = [str(self.path), *flags, "-c", code], environment(side, str(TOP), self.path.parent)
        done = subprocess.run(command, capture_output=True, text=True, cwd=TOP, env=env)
        if done.returncode:
            sys.exit(f"suites: {self.name}: {done.stderr}")
        return done.stdout.strip()

    def make(self, packages: Iterable[str]) -> None:
        """Brings the environment up to date; forgets what was found out about another build."""
        mark, wanted = self.top / "installed", fingerprint()
        if not self.path.exists():
            subprocess.run([self.base, "-m", "venv", self.path.parents[1]], check=True)
        pip = (self.path, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        subprocess.run([*pip, "pytest>=8", "hypothesis>=6.100", *packages], check=True)
        if not mark.exists() or mark.read_text() != wanted:
            for stale in (*ROOT.glob("build/lib*"), *ROOT.glob("build/bdist*")):
                shutil.rmtree(stale)
            subprocess.run([*pip, ROOT], check=True, env=os.environ | {"USE_NATIVE_MEM": "1"})
            for side in SIDES[1:]:
                for old in self.top.glob(f"*/{side}"):
                    shutil.rmtree(old)
            # run in the order of their names, so after the package's own
            for file, text in (("nativemem_suites.pth", SCOPE_LINE), ("nativemem_suites.py", SCOPE_MODULE)):
                (self.site / file).write_text(text)
            mark.write_text(wanted)
        self.check()

    def check(self) -> None:
        """That the sides are what they are called, in programs that are started with -I or -E too."""
        for flags, side in itertools.product(([], ["-I"], ["-E"]), SIDES):
            code = "import nativemem; print(bool(nativemem.installed()))"
            if self.ask(code, *flags, side=side) != str(side != "off"):
                sys.exit(f"suites: {self.name}: {side!r} has no effect with {flags}")

    def versions(self) -> dict[str, str]:
        """Of the packages, and of CPython itself."""
        listed = "{d.name: d.version for d in importlib.metadata.distributions()}"
        packages = json.loads(self.ask(f"import importlib.metadata, json; print(json.dumps({listed}))"))
        return {**packages, "CPython": self.ask("import platform; print(platform.python_version())")}


def resolve(word: str) -> list[Python]:
    """The interpreters that ``word`` names: a path or a command, a version, or all."""
    found = []
    for name in SUPPORTED if word == "all" else (word,):
        choices: list[Path | str | None] = [shutil.which(name), shutil.which(f"python{name}")]
        if name in SUPPORTED:
            pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
            choices += pyenv.glob(f"versions/{name}.*/bin/python3")
        for choice in (choice for choice in choices if choice):
            code = "import sys; print('%d.%d' % sys.version_info[:2])"
            done = subprocess.run([choice, "-c", code], capture_output=True, text=True)
            if done.returncode == 0 and done.stdout.strip() in SUPPORTED:
                found.append(Python(Path(choice), done.stdout.strip()))
                break
        else:
            if word != "all":
                sys.exit(f"suites: no CPython {', '.join(SUPPORTED)} is called {word!r}")
    return found


# --- running ---


@dataclass
class Task:
    python: Python
    suite: Suite
    fast: bool

    @property
    def top(self) -> Path:
        return self.python.top / (f"{self.suite.name}-fast" if self.fast else self.suite.name)

    def units(self) -> list[str]:
        """In the order of a former run's times, the longest first."""
        units = self.suite.units(self.python)
        if self.fast:
            units = [unit for unit in units if unit in self.suite.fast]
        seconds = {record["unit"]: record["seconds"] for record in self.records("off")}
        return sorted(units, key=lambda unit: -seconds.get(unit, 0))

    def records(self, side: str) -> list[Record]:
        file = self.top / side / "outcomes.jsonl"
        records = []
        for line in file.read_text().splitlines() if file.exists() else ():
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:  # the run was interrupted
                continue
        return records

    def keep(self, side: str, record: Record) -> None:
        with writing, open(self.top / side / "outcomes.jsonl", "a", encoding="utf-8") as file:
            print(json.dumps(record), file=file)

    def run(self, unit: str, side: str, again: int) -> None:
        """Runs one file. Whatever it leaves running is ended."""
        log = self.top / side / f"{unit}.{again}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="nm-", ignore_cleanup_errors=True) as folder:
            output, work = Path(folder, "outcomes.xml"), Path(folder, "work")
            work.mkdir()
            with open(log, "wb") as out:
                process = subprocess.Popen(
                    self.suite.command(self.python, unit, str(output)),
                    cwd=work,
                    env=environment(side, str(work), self.python.path.parent),
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
                code: int | None
                try:
                    code = process.wait(self.suite.timeout + 60)
                except subprocess.TimeoutExpired:
                    code = None
                finally:
                    try:
                        os.killpg(process.pid, signal.SIGKILL)
                    except ProcessLookupError:
                        pass
                process.wait()
            outcomes = read_outcomes(output, self.suite.name_of)
            if self.suite.failures is not None:
                text = log.read_text(encoding="utf-8", errors="replace")
                outcomes |= dict.fromkeys(self.suite.failures(text), "failed")
            # the interpreter's suite writes nothing about a file that is skipped, and ends with 0 or 4 then
            outcomes[PROCESS] = end_of_process(code, output.exists() or code in (0, 4), log)
        by_outcome: dict[str, list[str]] = {}
        for test, outcome in outcomes.items():
            by_outcome.setdefault(outcome, []).append(test)
        seconds = round(time.monotonic() - started, 1)
        self.keep(side, {"unit": unit, "round": again, "seconds": seconds, "outcomes": by_outcome})
        rest = {outcome: len(tests) for outcome, tests in by_outcome.items() if outcome not in ("passed", ENDED)}
        print(f"{self.python.name} {self.suite.name} {side:6} {unit}: {seconds} s", rest or "", flush=True)


writing = threading.Lock()


def read_outcomes(file: Path, name_of: Callable[[ElementTree.Element], str]) -> dict[str, str]:
    outcomes: dict[str, str] = {}
    try:
        cases = ElementTree.parse(file).iter("testcase")
    except (OSError, ElementTree.ParseError):
        return outcomes
    words = {"failure": "failed", "error": "failed", "skipped": "skipped"}
    for case in cases:
        found = [words[child.tag] for child in case if child.tag in words]
        name = base = ADDRESS.sub("0x", name_of(case))
        if not base:
            continue
        number = 1
        while name in outcomes:  # a test that is there several times, and sub-tests that fail
            number += 1
            name = f"{base} #{number}"
        outcomes[name] = found[0] if found else "passed"
    return outcomes


def end_of_process(code: int | None, complete: bool, log: Path) -> str:
    if code is not None and code < 0:
        return f"ended by {signal.Signals(-code).name}"
    if code is None or (not complete and b"Timeout (" in log.read_bytes()):
        return "hung"
    return ENDED if complete else f"ended with {code}"


def run_suite(task: Task, sides: tuple[str, ...], options: argparse.Namespace) -> None:
    units = [unit for unit in task.units() if fnmatch.fnmatchcase(unit, options.only)]
    done = {side: {record["unit"] for record in task.records(side) if record["round"] == 0} for side in sides}
    run_all(task, [(unit, side, 0) for unit in units for side in sides if unit not in done[side]], options.jobs)
    for again in range(1, options.again + 1):
        todo = []
        for side in sides[1:]:
            open_units = {
                task.suite.again(found.unit, found.test)
                for found in compare(task, side)
                if found.kind != UNSTABLE
                and fnmatch.fnmatchcase(found.unit, options.only)
                and (again == 1 or reason_for(found, task, side) is None)  # known, and seen twice
            }
            for one in (sides[0], side):
                known = {(record["unit"], record["round"]) for record in task.records(one)}
                todo += [(unit, one, again) for unit in sorted(open_units) if (unit, again) not in known]
        run_all(task, sorted(set(todo)), options.jobs)


def run_all(task: Task, todo: list[tuple[str, str, int]], jobs: int) -> None:
    with ThreadPoolExecutor(jobs) as pool:
        try:
            for _ in pool.map(lambda words: task.run(*words), todo):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


# --- comparing ---


@dataclass(frozen=True)
class Found:
    """A test whose first outcomes differ; what came out of all runs, counted."""

    unit: str
    test: str
    off: Counter[str]
    on: Counter[str]

    @property
    def name(self) -> str:
        return name_of(self.unit, self.test)

    @property
    def kind(self) -> str:
        if set(self.on) <= set(self.off):
            return UNSTABLE
        new = sum(count for outcome, count in self.on.items() if outcome not in self.off)
        return ONCE if new == 1 and sum(self.on.values()) > 3 and self.test != PROCESS else DIFFERENT


DIFFERENT, UNSTABLE, ONCE = "different", "unstable", "once"


def name_of(unit: str, test: str) -> str:
    return f"{unit} {PROCESS}" if test == PROCESS else test


def by_test(record: Record) -> dict[str, str]:
    return {test: outcome for outcome, tests in record["outcomes"].items() for test in tests}


def compare(task: Task, side: str) -> list[Found]:
    off, on = task.records("off"), task.records(side)
    first = {record["unit"]: by_test(record) for record in on if record["round"] == 0}
    again = {
        name: [(record["unit"], by_test(record)) for record in records if record["round"]]
        for name, records in (("off", off), (side, on))
    }

    def all_of(name: str, outcome: str, unit: str, test: str) -> Counter[str]:
        counts = Counter([outcome])
        for other, outcomes in again[name]:
            if other == unit and (test == PROCESS or outcomes[PROCESS] == ENDED):
                counts[outcomes.get(test, ABSENT)] += 1
        return counts

    found = []
    for record in off:
        if record["round"] or record["unit"] not in first:
            continue
        unit, a, b = record["unit"], by_test(record), first[record["unit"]]
        # where one side did not come to its end only that counts
        tests = sorted(a.keys() | b.keys()) if a[PROCESS] == b[PROCESS] else [PROCESS]
        for test in tests:
            before, after = a.get(test, ABSENT), b.get(test, ABSENT)
            if before != after:
                where = task.suite.again(unit, test)
                counts = (all_of("off", before, where, test), all_of(side, after, where, test))
                found.append(Found(unit, test, *counts))
    return found


def reason_for(found: Found, task: Task, side: str) -> Reason | None:
    for reason in REASONS:
        if reason.covers(task.suite.name, task.python.name, side, found.name):
            return reason
    return None


# --- telling ---


def counts(records: list[Record]) -> list[int]:
    """Files, tests, passed, failed, skipped, files without an end."""
    first = [record["outcomes"] for record in records if record["round"] == 0]
    sums = [sum(len(outcomes.get(word, ())) for outcomes in first) for word in ("passed", "failed", "skipped")]
    return [len(first), sum(sums), *sums, sum(ENDED not in outcomes for outcomes in first)]


def shown(counted: Counter[str]) -> str:
    if len(counted) == 1:
        return next(iter(counted))
    return ", ".join(f"{count} x {outcome}" for outcome, count in counted.most_common())


def row(*cells: object) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def table(columns: tuple[str, ...], rows: dict[tuple[str, ...], list[str]]) -> list[str]:
    """The names come last."""
    return [row(*columns), row(*["---"] * len(columns)), *(row(*cells, "<br>".join(rows[cells])) for cells in rows)]


@dataclass
class Report:
    """``text`` in Markdown; ``unexplained`` differences; ``unused`` reasons."""

    text: str
    unexplained: int
    unused: list[Reason]


def report(tasks: list[Task]) -> Report:
    lines: list[str] = []
    unexplained = 0
    applied: set[Reason] = set()
    used: set[Reason] = set()
    for name, group in itertools.groupby(tasks, key=lambda task: task.python.name):
        mine = [task for task in group if task.records("off")]
        if not mine:
            continue
        versions = mine[0].python.versions()
        packages = sorted({task.suite.packages[0] for task in mine if task.suite.packages})
        title = ", ".join(f"{package} {versions[package]}" for package in ("CPython", *packages, "nativemem"))
        lines += ["", f"## {title}", "", f"On {machine()}; {time.strftime('%Y-%m-%d')}.", ""]
        columns = ("suite", "engine", "files", "tests", "passed", "failed", "skipped", "crashed, hung")
        lines += [row(*columns), row(*["---"] * 8)]
        #: from the cells of a row beside the names to the names
        differences: dict[tuple[str, ...], list[str]] = {}
        others: dict[str, dict[tuple[str, ...], list[str]]] = {ONCE: {}, UNSTABLE: {}}
        for task in mine:
            for side in SIDES:
                if records := task.records(side):
                    lines.append(row(task.suite.name, side, *(f"{count:,}" for count in counts(records))))
            for side in SIDES[1:]:
                ran = {name_of(record["unit"], test) for record in task.records(side) for test in by_test(record)}
                applied |= {r for r in REASONS if any(r.covers(task.suite.name, name, side, test) for test in ran)}
                for found in compare(task, side):
                    cells: tuple[str, ...] = (side, shown(found.off), shown(found.on))
                    if found.kind == DIFFERENT:
                        reason = reason_for(found, task, side)
                        unexplained += reason is None
                        used |= {reason} if reason else set()
                        cells = (*cells, reason.text if reason else "**none**")
                        differences.setdefault(cells, []).append(f"`{found.name}`")
                    else:
                        others[found.kind].setdefault(cells, []).append(f"`{found.name}`")
        if differences:
            lines += ["", *table(("engine", "without it", "with it", "reason", "tests"), differences)]
        else:
            lines += ["", "No differences."]
        for kind, heading in (
            (ONCE, "Once, in four runs with the engine on:"),
            (UNSTABLE, "Tests that do not always end the same way, whatever the engine does:"),
        ):
            if others[kind]:
                lines += ["", heading, "", *table(("engine", "without it", "with it", "tests"), others[kind])]
    return Report("\n".join(lines).strip() + "\n", unexplained, [r for r in REASONS if r in applied - used])


def machine() -> str:
    model = "an unknown processor"
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    libc = " ".join(platform.libc_ver())
    return f"{model}, {os.cpu_count()} cores, Linux {platform.release()} ({platform.machine()}), {libc}"


def sections(text: str) -> dict[tuple[int, ...], str]:
    """By the version of CPython that each is about."""
    split = re.split("^(?=## )", text, flags=re.MULTILINE)
    found = (re.match(r"## CPython (\d+)\.(\d+)", section) for section in split)
    return {(int(m[1]), int(m[2])): f"{m.string.strip()}\n" for m in found if m}


def write_page(text: str) -> None:
    """Puts the tables below the page's mark; those of other versions stay."""
    mark = "<!-- below: written by scripts/suites.py --page -->\n"
    head, found, below = PAGE.read_text(encoding="utf-8").partition(mark)
    if not found:
        sys.exit(f"suites: {PAGE.name} has no line {mark.strip()!r}")
    tables = sections(below) | sections(text)
    PAGE.write_text(f"{head}{mark}\n" + "\n".join(tables[version] for version in sorted(tables)), encoding="utf-8")


def hand_on_no_ignored_signals() -> None:
    """What is ignored here, as in the background or under nohup, tests would ignore too, and some hang then."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


def main() -> int:
    hand_on_no_ignored_signals()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    own = [sys.executable]
    parser.add_argument("--pythons", nargs="+", default=own, metavar="PYTHON", help="versions, paths, or all")
    parser.add_argument("--suites", nargs="+", choices=SUITES, default=list(SUITES))
    parser.add_argument("--fast", action="store_true", help="some files, of what touches memory most; always anew")
    parser.add_argument("--scoped", action="store_true", help="in a budget's scope, instead of the engine alone")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--again", type=int, default=3, metavar="N", help="how often to run again what differs")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="these files")
    parser.add_argument("--report", action="store_true", help="run nothing, tell what is there")
    parser.add_argument("--page", action="store_true", help=f"and put it into docs/measured/{PAGE.name}")
    options = parser.parse_args()
    TOP.mkdir(parents=True, exist_ok=True)

    names = options.suites if not options.fast else [n for n in options.suites if SUITES[n].fast]
    pythons = [python for word in options.pythons for python in resolve(word)]
    tasks = [Task(python, SUITES[name], options.fast) for python in pythons for name in names]
    if not options.report:
        for task in tasks:
            task.python.make(task.suite.packages)
            if task.fast:
                shutil.rmtree(task.top, ignore_errors=True)
            run_suite(task, ("off", "scoped" if options.scoped else "on"), options)
    told = report(tasks)
    print(told.text)
    for reason in told.unused:
        print(f"suites: without a difference: the reason for {reason.suite} {reason.test}")
    if options.page:
        write_page(told.text)
    if told.unexplained:
        print(f"suites: {told.unexplained} differences without a reason in scripts/suites_reasons.py")
    return int(told.unexplained > 0)


if __name__ == "__main__":
    sys.exit(main())
