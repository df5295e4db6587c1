"""Plants one small fault at a time in a copy of the C sources and shows which check notices it.

Usage: mutants.py [--list] [--only NAME]... [--jobs N] [--markdown] [--random N [--seed S] [--strata NAME,...]]

A mutant that no check notices is a hole in the tests: exit code 1. For faults in the core the checks are the C
tests, plain, then under AddressSanitizer and UndefinedBehaviorSanitizer, then, for faults that only threads show,
under ThreadSanitizer; for faults in csrc/binding and csrc/engine the Python tests. Each runs up to its first
failure, and the one that docs/testing.md names is asked before all others. The checks run on the sound sources
first; they must pass, and how long they take says when a mutant hangs.
All files are made below build/mutants.

--random draws mutants instead: in C, in locks and atomics, in Python (mutants_random.py). Those that do not compile
are left out, those that are known to be equivalent (mutants_equivalent.py), and those that pass the nearest tests
and of which the compiler makes the same as of the sound source.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import os
import random
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import time
import venv
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mutants_random
from mutant_table import MUTANTS, Mutant
from mutants_equivalent import EQUIVALENT

ROOT = Path(__file__).resolve().parents[1]
TOP = ROOT / "build" / "mutants"

C_FLAGS = ("-std=c11", "-pthread", "-Icsrc/include", "-Icsrc", "-O1", "-g", "-w", "-DNM_DEBUG")
SANITIZERS = {
    "plain": (),
    "asan": (
        *("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"),
        "-fno-omit-frame-pointer",
    ),
    "tsan": ("-fsanitize=thread", "-fno-omit-frame-pointer"),
}
#: a request that no machine can serve is part of the contract: it must come back as NULL
SANITIZER_OPTIONS = {
    "NM_TEST_EVERY": "7",
    "ASAN_OPTIONS": "allocator_may_return_null=1",
    "TSAN_OPTIONS": "allocator_may_return_null=1:halt_on_error=1",
}
CORPUS = "tests/c/test_corpus"
#: a mutant that runs this many times as long as the sound program hangs; seconds at least
SLOWER, PATIENCE = 5, 20.0
#: for compilers, and for what has to pass
MOST_PATIENCE = 600.0
#: a mutant may complain without end
OUTPUT_MOST = 16 << 20  # bytes


#: exit codes of pytest for what is not a test that failed; any other is the program's under test
PYTEST_ENDS = {2: "pytest is interrupted", 3: "internal error of pytest", 4: "pytest does not start"}


class Unfit(Exception):
    """A mutant, or a sound tree, that nothing can be said about."""


class Stillborn(Unfit):
    """A mutant that does not compile."""


class Same(Unfit):
    """A mutant of which the compiler makes what it makes of the sound source."""


@dataclass(frozen=True)
class Outcome:
    mutant: Mutant
    caught_by: str  # empty: it survived
    seconds: float


def mutate(mutant: Mutant, tree: Path) -> None:
    path = tree / mutant.file
    text = path.read_text(encoding="utf-8")
    if mutant.line:
        lines = text.splitlines(keepends=True)
        if lines[mutant.line - 1].rstrip("\n") != mutant.old:
            raise Unfit(f"{mutant.name}: line {mutant.line} of {mutant.file} is not {mutant.old!r}")
        lines[mutant.line - 1] = f"{mutant.new}\n"
        path.write_text("".join(lines), encoding="utf-8")
        return
    found = text.count(mutant.old)
    if found != 1:
        raise Unfit(f"{mutant.name}: found {found} times in {mutant.file}, not once: {mutant.old!r}")
    path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")


@dataclass(frozen=True)
class Noted:
    """The check that docs/testing.md names for a mutant. It most likely notices it again."""

    program: str = ""  # below tests, without its ending
    test: str = ""
    kind: str = "plain"

    def in_python(self) -> tuple[str, ...]:
        """What pytest is told; nothing where there is no such test."""
        files = [ROOT / "tests" / f"{self.program}.py", *sorted((ROOT / "tests").rglob(f"{self.program}.py"))]
        for file in files if self.program and self.test else ():
            if file.exists() and f"def {self.test}(" in file.read_text(encoding="utf-8"):
                return (file.relative_to(ROOT).as_posix(), "-k", f"{self.test} and not pure")
        return ()


def noted(page: str) -> dict[str, Noted]:
    """By mutant, of the table that `--markdown` prints."""
    found = {}
    for line in page.partition("| mutant | file |")[2].splitlines()[2:]:
        name, _, caught_by = line.strip("| ").split(" | ", 2)
        words = caught_by.split(", ")
        sanitizers = {"ThreadSanitizer": "tsan", "Sanitizer": "asan", "runtime error": "asan"}
        kind = next((kind for word, kind in sanitizers.items() if word in caught_by), "plain")
        found[name] = Noted(words[0], next((word for word in words[1:] if word.startswith("test_")), ""), kind)
    return found


def copy_tree(tree: Path, parts: Iterable[str], source: Path = ROOT, built: bool = False) -> None:
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info", *(() if built else ("*.so", "_core.c")))
    for part in parts:
        if (source / part).is_dir():
            shutil.copytree(source / part, tree / part, ignore=ignore)
        else:
            shutil.copy(source / part, tree / part)


def run(
    command: Sequence[object], tree: Path, *, timeout: float, env: dict[str, str] | None = None, most: int = 0
) -> tuple[int | None, str]:
    """Exit code, None where it took too long, and what it printed, up to `most` bytes (0: all)."""
    with (tree / f"output-{threading.get_ident()}").open("w+b") as output:
        process = subprocess.Popen(
            [str(word) for word in command],
            cwd=tree,
            env=os.environ | SANITIZER_OPTIONS | (env or {}),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        if most:
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (most, most))
            resource.prlimit(process.pid, resource.RLIMIT_CORE, (0, 0))
        code: int | None = None
        RUNNING.add(process)
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            end(process)
            process.wait()
        finally:
            RUNNING.discard(process)
        output.seek(0)
        return code, output.read(OUTPUT_MOST).decode(errors="replace")


#: by mutant, what caught it when the page was written
NOTED = noted((ROOT / "docs" / "testing.md").read_text(encoding="utf-8"))

#: groups of their own, which do not end with this program
RUNNING: set[subprocess.Popen[Any]] = set()


def end(process: subprocess.Popen[Any]) -> None:
    """Ends it and what it forked."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def end_all() -> None:
    for process in list(RUNNING):
        end(process)


# ---- the C tests --------------------------------------------------------------------------------------


class CTests:
    """The C tests on the sound sources and on mutants of them. What a mutant leaves as it is is compiled once."""

    def __init__(self, top: Path, programs: Sequence[str] = ()) -> None:
        self.top = top
        self.sound = top / "sound"
        self.compiler = shlex.split(os.environ.get("CC") or "gcc")
        copy_tree(self.sound, ("csrc", "tests/c"))
        self.core = sorted(
            path.relative_to(self.sound).with_suffix("")
            for path in (self.sound / "csrc").rglob("*.c")
            if path.parent.name not in ("binding", "engine") and path.name != "memlib_system.c"
        )
        self.programs = [f"tests/c/{name}" for name in programs] or [
            str(path.relative_to(self.sound).with_suffix(""))
            for path in sorted((self.sound / "tests" / "c").glob("test_*.c"))
        ]
        self.seconds: dict[tuple[str, str], float] = {}
        self.compiled: set[str] = set()
        self.lock = threading.Lock()

    def compile(self, tree: Path, kind: str, units: Iterable[object]) -> None:
        for unit in units:
            (tree / kind / str(unit)).parent.mkdir(parents=True, exist_ok=True)
            out = f"{kind}/{unit}.o"
            command = (*self.compiler, *C_FLAGS, *SANITIZERS[kind], "-MMD", "-c", f"{unit}.c", "-o", out)
            code, output = run(command, tree, timeout=MOST_PATIENCE)
            if code != 0:
                raise Stillborn(f"{tree.name}: {unit}.c does not compile:\n{output}")

    def prepare(self, kind: str, programs: Sequence[str]) -> None:
        """Compiles the sound sources, and runs those of the tests on them that have not run yet."""
        with self.lock:
            if kind not in self.compiled:
                self.compile(self.sound, kind, (*self.core, *self.programs))
                self.compiled.add(kind)
            for program in programs:
                if (kind, program) in self.seconds:
                    continue
                self.link(self.sound, kind, program, changed=())
                start = time.monotonic()
                code, output = run([f"{kind}/{program}"], self.sound, timeout=MOST_PATIENCE)
                if code != 0:
                    raise Unfit(f"{program} ({kind}) fails on the sound sources:\n{output}")
                self.seconds[kind, program] = time.monotonic() - start

    def link(self, tree: Path, kind: str, program: str, changed: Iterable[object]) -> None:
        mine = {str(unit) for unit in changed}
        objects = [
            (tree if str(unit) in mine else self.sound) / kind / f"{unit}.o" for unit in (*self.core, program)
        ]
        more = self.sound / f"{program}.link"
        told = [f"@{more}"] if more.exists() else []
        command = (*self.compiler, *C_FLAGS, *SANITIZERS[kind], "-o", tree / kind / program, *objects, *told)
        (tree / kind / program).parent.mkdir(parents=True, exist_ok=True)
        code, output = run(command, tree, timeout=MOST_PATIENCE)
        if code != 0:
            raise Stillborn(f"{tree.name}: {program} does not link:\n{output}")

    def depend(self, kind: str, file: str) -> Iterator[str]:
        """The units whose object a change of the file changes."""
        for unit in map(str, (*self.core, *self.programs)):
            words = (self.sound / kind / f"{unit}.d").read_text(encoding="utf-8").split()
            if file in map(os.path.normpath, words):
                yield unit

    def catch(self, mutant: Mutant, kind: str, first: str = "") -> str:
        """What noticed it; nothing if it survives. The program ``first`` is asked before the others."""
        known = [name for name in self.programs if Path(name).name == first]
        self.prepare(kind, known)
        tree = self.top / mutant.name
        copy_tree(tree, ("csrc", "tests/c"), self.sound)
        mutate(mutant, tree)
        changed = set(self.depend(kind, mutant.file))
        self.compile(tree, kind, sorted(changed.intersection(map(str, self.core))))
        for programs in (known, [name for name in self.programs if name not in known]):
            self.prepare(kind, programs)
            # generated programs say least about what is wrong
            stem = Path(mutant.file).stem
            order = {name: (name == CORPUS, stem not in name, self.seconds[kind, name]) for name in programs}
            for program in sorted(programs, key=order.__getitem__):
                self.compile(tree, kind, changed & {program})
                self.link(tree, kind, program, changed)
                patience = max(PATIENCE, SLOWER * self.seconds[kind, program])
                code, output = run([f"{kind}/{program}"], tree, timeout=patience, most=OUTPUT_MOST)
                if code != 0:
                    return self.describe(program, code, output, tree)
        return ""

    @staticmethod
    def describe(program: str, code: int | None, output: str, tree: Path) -> str:
        words = [Path(program).name]
        failed = re.search(r"^FAILED (\w+)", output, re.MULTILINE)
        frame = re.search(r"#\d+ .*?\b(test_\w+) ", output)
        line = re.search(r"^(tests/c/\w+\.c):(\d+): ", output, re.MULTILINE)
        report = re.search(r"(\w+Sanitizer): ([\w-]+)|(runtime error): ([\w ]+)", output)
        if failed:
            words.append(failed[1])
        elif frame:
            words.append(frame[1])
        elif line and (name := function_at(tree / line[1], int(line[2]))).startswith("test_"):
            words.append(name)
        if report:
            words.append(": ".join(part for part in report.groups() if part))
        elif code is None:
            words.append("timeout")
        elif code < 0:
            words.append(signal.Signals(-code).name)
        return ", ".join(words)


def function_at(source: Path, line: int) -> str:
    """The function of a C source that a line is in."""
    for text in reversed(source.read_text(encoding="utf-8").splitlines()[:line]):
        match = re.match(r"\w[\w *]*?(\w+)\(.*\{$", text)
        if match:
            return match[1]
    return ""


def is_the_same(mutant: Mutant, top: Path) -> bool:
    """Whether the compiler makes the same of it, as the extension is built for this interpreter: a line for another
    one, or a test of an invariant, which is there under NM_DEBUG alone."""
    trees = (top / f"{mutant.name}-before", top / f"{mutant.name}-after")
    include = sysconfig.get_paths()["include"]
    compiler = (*shlex.split(os.environ.get("CC") or "gcc"), *C_FLAGS[:4], "-I.", f"-I{include}", "-w")

    def told(tree: Path, unit: Path, *options: str) -> str:
        code, output = run((*compiler, *options, unit), tree, timeout=MOST_PATIENCE)
        if code != 0:
            raise Stillborn(f"{mutant.name}: {unit} does not compile:\n{output}")
        return output

    try:
        for tree in trees:
            copy_tree(tree, ("csrc",))
            (tree / "nm_config.h").write_text("#define NM_BUILT_NATIVE 1\n", encoding="utf-8")
        mutate(mutant, trees[1])
        units = [Path(mutant.file)]
        if mutant.file.endswith(".h"):
            sources = [path.relative_to(trees[0]) for path in sorted((trees[0] / "csrc").rglob("*.c"))]
            units = [
                unit
                for unit in sources
                if unit.name != "memlib_system.c"
                and mutant.file in map(os.path.normpath, told(trees[0], unit, "-MM").split())
            ]
        return all(
            told(trees[0], unit, "-O2", "-S", "-o-") == told(trees[1], unit, "-O2", "-S", "-o-") for unit in units
        )
    finally:
        for tree in trees:
            shutil.rmtree(tree, ignore_errors=True)


# ---- the Python tests ---------------------------------------------------------------------------------


class PythonTests:
    """The Python tests on an extension built from a mutant's tree."""

    PARTS = (
        *("csrc", "src", "tests", "scripts", "docs", "examples"),
        *("setup.py", "pyproject.toml", "README.md", "Makefile", "MANIFEST.in", "LICENSE"),
    )

    def __init__(self, top: Path, lenient: bool = False) -> None:
        self.top = top
        #: a test that fails on the sound sources is left out, and they are asked where one has failed, not before
        self.lenient = lenient
        self.unsound: set[str] = set()
        self.seconds: dict[tuple[str, ...], float] = {}
        self.lock = threading.Lock()
        self.is_built = False

    def sound(self) -> Path:
        tree = self.top / "sound-python"
        if not self.is_built:
            copy_tree(tree, self.PARTS)
            self.build(tree)
            self.is_built = True
        return tree

    def prepare(self, tests: tuple[str, ...]) -> None:
        with self.lock:
            if tests in self.seconds:
                return
            tree = self.sound()
            start = time.monotonic()
            code, output = self.test(tree, tests, 3 * MOST_PATIENCE)
            if code != 0:
                raise Unfit(f"{' '.join(tests)} fails on the sound sources:\n{output}")
            self.seconds[tests] = time.monotonic() - start

    @staticmethod
    def environment(tree: Path) -> dict[str, str]:
        # -O0 at the end, where it wins: this is built more often than it is run
        return {"USE_NATIVE_MEM": "1", "NATIVEMEM_CFLAGS": "-O0"}

    @staticmethod
    def interpreter(tree: Path) -> Path:
        """One whose packages are the tree's and then this one's. Not by PYTHONPATH, which some tests take away from
        the programs that they start: those would run what is installed."""
        root = tree / "venv"
        if not root.exists():
            venv.EnvBuilder(symlinks=True).create(root)
            packages = sysconfig.get_path("purelib", vars={"base": str(root), "platbase": str(root)})
            lines = [tree / "src", *(path for path in sys.path if path.endswith("site-packages"))]
            (Path(packages) / "tree.pth").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return root / "bin" / "python"

    def build(self, tree: Path) -> None:
        command = (sys.executable, "setup.py", "--quiet", "build_ext", "--inplace", "--force")
        code, output = run(command, tree, timeout=MOST_PATIENCE, env=self.environment(tree))
        if code != 0:
            raise Stillborn(f"{tree.name}: the extension does not build:\n{output}")

    def test(
        self, tree: Path, tests: tuple[str, ...], patience: float, *, in_c: bool = False
    ) -> tuple[int | None, str]:
        options = ["-v", "-x", "--tb=no", "-p", "no:cacheprovider"]  # verbose: what began is printed, and when
        options += [f"--deselect={test}" for test in sorted(self.unsound)]
        if in_c and "-k" not in tests:  # what runs on the pure backend sees nothing of it
            options += ["-k", "not pure"]
        if any(test.startswith("src/") for test in tests):
            options.append("--doctest-modules")
        command = (self.interpreter(tree), "-m", "pytest", *options, *tests)
        return run(command, tree, timeout=patience, env=self.environment(tree))

    def plant(self, mutant: Mutant, builds: bool) -> Path:
        tree = self.top / mutant.name
        copy_tree(tree, self.PARTS, self.top / "sound-python", built=not builds)
        mutate(mutant, tree)
        if builds:
            self.build(tree)
        return tree

    def catch(self, mutant: Mutant, tests: tuple[str, ...] = (), first: tuple[str, ...] = ()) -> str:
        """What noticed it; nothing if it survives. What ``first`` tells pytest is asked before ``tests``."""
        tree, in_c = None, mutant.file.endswith((".c", ".h"))
        for asked in filter(None, (first, tests or mutant.tests)):
            if self.lenient:
                with self.lock:
                    self.sound()
            else:
                self.prepare(asked)
            tree = tree or self.plant(mutant, builds=in_c and asked != mutants_random.ORDERS)
            for each in self.in_turn(mutant, asked) if self.lenient else (asked,):
                if caught_by := self.ask(mutant, tree, each, in_c):
                    return caught_by
        return ""

    def in_turn(self, mutant: Mutant, tests: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        """The tests file by file, of each folder that of the mutant's name first; single tests together."""
        single = tuple(test for test in tests if "::" in test)
        if single:
            yield single
        stem = Path(mutant.file).stem
        for test in tests:
            if "::" in test:
                continue
            files = sorted((self.sound() / test).rglob("test_*.py")) or [self.sound() / test]
            for file in sorted(files, key=lambda file: (stem not in file.stem, file)):
                yield (file.relative_to(self.sound()).as_posix(),)

    def ask(self, mutant: Mutant, tree: Path, tests: tuple[str, ...], in_c: bool) -> str:
        patience = SLOWER * self.seconds.get(tests, MOST_PATIENCE / 2 / SLOWER)
        code, output = self.test(tree, tests, max(PATIENCE, patience), in_c=in_c)
        if self.lenient and code is None and tests not in self.seconds:
            start = time.monotonic()  # is it the mutant, or what else the machine does?
            self.test(self.sound(), tests, 3 * MOST_PATIENCE, in_c=in_c)
            self.seconds[tests] = time.monotonic() - start
            return self.ask(mutant, tree, tests, in_c)
        names = re.findall(r"^(?:FAILED|ERROR) (\S+?\.py::.*?)(?: - .*)?$", output, re.MULTILINE)
        if self.lenient and code == 1 and names:
            if self.test(self.sound(), tuple(names), MOST_PATIENCE, in_c=in_c)[0] != 0:
                print(f"left out, because it fails on the sound sources: {names[0]}", flush=True)
                self.unsound |= set(names)
                return self.ask(mutant, tree, tests, in_c)
        if code in (0, 5):  # there are none of it
            return ""
        if code not in (None, 1) and code >= 0:  # is it the mutant, or this machine?
            code_of_the_sound, its_output = self.test(self.sound(), tests, 3 * MOST_PATIENCE, in_c=in_c)
            if code_of_the_sound not in (0, 1):
                raise Unfit(f"pytest ends with {code_of_the_sound} on the sound sources, too:\n{its_output}")
        return self.describe(code, output)

    @staticmethod
    def describe(code: int | None, output: str) -> str:
        """The first test that failed. Where pytest came to no verdict, which a mutant may bring about as well: the
        test that had begun, and how pytest ended."""
        test = r"(?:tests|src)/(\S+?)\.py(?:::(?:\w+::)*([\w.]+))?"
        failed = re.search(rf"^(?:FAILED|ERROR) {test}", output, re.MULTILINE)
        if failed:
            return ", ".join(part for part in failed.groups() if part)
        begun = [match for match in re.findall(rf"^{test}", output, re.MULTILINE) if match[1]]
        where = begun[-1] if begun else ()
        if code is None:
            how = "timeout"
        elif code < 0:
            how = signal.Signals(-code).name
        else:
            how = PYTEST_ENDS.get(code, f"exit code {code}")
        return ", ".join((*where, how))


class PlantedTests:
    """Mutants of Python in forks of one process that knows which test reaches which line (mutants_python.py)."""

    PROGRAM = ROOT / "scripts" / "mutants_python.py"

    def __init__(self, top: Path, python_tests: PythonTests, most: float) -> None:
        self.top = top
        self.python_tests = python_tests
        #: seconds of the tests that may be asked of one
        self.most = most
        self.process: subprocess.Popen[str] | None = None
        self.unsound: list[str] = []
        self.lock = threading.Lock()

    def start(self) -> subprocess.Popen[str]:
        tree = self.top / "planted"
        with self.python_tests.lock:
            copy_tree(tree, PythonTests.PARTS, self.python_tests.sound(), built=True)
        digest = hashlib.sha256()  # of what lines there are; the map knows the tests' files by itself
        for path in sorted((tree / "src").rglob("*.py")):
            digest.update(path.read_bytes())
        reached = self.top / f"reached-{digest.hexdigest()[:16]}.json"
        if not reached.exists():
            for old in self.top.glob("reached-*.json"):
                old.unlink()
            print("which tests reach which line is found out first; some minutes", flush=True)
        tests = (*mutants_random.MORE, *sorted(mutants_random.WITH_DOCTESTS))
        self.process = subprocess.Popen(
            [PythonTests.interpreter(tree), self.PROGRAM, reached, *tests],
            cwd=tree,
            env=os.environ | PythonTests.environment(tree),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        RUNNING.add(self.process)
        self.unsound = self.answer(self.process)["unsound"]
        for test in self.unsound:
            print(f"left out, because it fails on the sound sources: {test}", flush=True)
        return self.process

    @staticmethod
    def answer(process: subprocess.Popen[str]) -> dict[str, Any]:
        assert process.stdout is not None
        line = process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "it has ended"}
        if "error" in answer:
            raise Unfit(f"{PlantedTests.PROGRAM.name}: {answer['error']}")
        return answer

    def catch(self, mutant: Mutant) -> str:
        """What noticed it; nothing if it survives."""
        with self.lock:
            process = self.process or self.start()
            assert process.stdin is not None
            request = {"file": mutant.file, "line": mutant.line, "old": mutant.old, "new": mutant.new}
            nearest = mutants_random.tests_of(mutant.file)
            process.stdin.write(json.dumps(request | {"nearest": nearest, "most": self.most}) + "\n")
            process.stdin.flush()
            answer = self.answer(process)
        if "stillborn" in answer:
            raise Stillborn(f"{mutant.name}: {answer['stillborn']}")
        if caught := answer.get("caught_by"):
            return str(caught).removeprefix("tests/").replace(".py::", ", ").replace("::", ".")
        if self.most < math.inf and not answer["at_import"]:
            return ""
        asked = [mutants_random.IMPORTS, tuple(answer["near"])]
        if answer["at_import"]:
            asked.append(mutants_random.tests_of(mutant.file))
        for tests in filter(None, asked):
            self.python_tests.unsound |= set(self.unsound)
            if caught_by := self.python_tests.catch(mutant, tests):
                return caught_by
        return ""


# ---- all of them --------------------------------------------------------------------------------------


def hunt(mutant: Mutant, c_tests: CTests, python_tests: PythonTests, planted: PlantedTests) -> Outcome:
    start = time.monotonic()
    caught_by = ""
    in_python = mutant.file.endswith(".py")
    known = Noted() if mutant.line else NOTED.get(mutant.name, Noted())
    if in_python:
        caught_by = planted.catch(mutant)
    elif mutant.threads and mutant.line:
        caught_by = python_tests.catch(mutant, mutants_random.ORDERS)
    if caught_by or in_python:
        pass
    elif mutant.tests:
        caught_by = python_tests.catch(mutant, first=known.in_python())
    else:
        kinds = ("plain", "asan", "tsan") if mutant.threads else ("plain", "asan")
        for kind in sorted(kinds, key=lambda kind: kind != known.kind):
            caught_by = c_tests.catch(mutant, kind, known.program)
            if caught_by:
                break
    if not caught_by and mutant.line and not in_python and is_the_same(mutant, c_tests.top):
        raise Same(f"{mutant.name}: the same code")
    if not caught_by and mutant.line and not in_python:  # what was drawn may be anybody's to see
        more = (*mutants_random.MORE, *mutants_random.MORE_IN_C)
        if not mutant.tests:
            more = mutants_random.tests_of(mutant.file)
        caught_by = python_tests.catch(mutant, more)
    if caught_by:  # a survivor's tree is what its hunter wants to look at
        shutil.rmtree(c_tests.top / mutant.name, ignore_errors=in_python)
    return Outcome(mutant, caught_by, time.monotonic() - start)


def not_of_the_table(options: argparse.Namespace, strata: Sequence[str]) -> list[Mutant]:
    if options.of:
        mutants, left = mutants_random.every(ROOT, options.of, EQUIVALENT, strata)
        if options.random:
            mutants = random.Random(options.seed).sample(mutants, min(options.random, len(mutants)))
    else:
        mutants, left = mutants_random.draw(ROOT, options.random, options.seed, EQUIVALENT, strata)
    for mutant, reason in left:
        print(f"{mutant.name}: equivalent: {reason}")
    return mutants


def difference(mutant: Mutant) -> str:
    return f"  {mutant.file}:{mutant.line}\n  - {mutant.old.strip()}\n  + {mutant.new.strip()}"


def markdown(outcomes: Sequence[Outcome]) -> str:
    lines = ["| mutant | file | caught by |", "| --- | --- | --- |"]
    for o in outcomes:
        caught_by = o.caught_by.replace("|", "\\|") or "nothing"
        lines.append(f"| {o.mutant.name} | `{o.mutant.file.removeprefix('csrc/')}` | {caught_by} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="print the table and run nothing")
    parser.add_argument("--only", action="append", metavar="NAME", default=[], help="this mutant, or these")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N")
    parser.add_argument("--random", type=int, default=0, metavar="N", help="draw N instead")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--strata", default=",".join(mutants_random.SHARES), help="in turn; %(default)s")
    parser.add_argument(
        "--of",
        action="append",
        metavar="PATTERN",
        default=[],
        help="every one of these files instead, as in 'src/nativemem/budgets/*'; with --random so many of them",
    )
    parser.add_argument(
        "--most",
        type=float,
        default=math.inf,
        metavar="SECONDS",
        help="of Python: ask no more tests of one than take so long together; what survives may yet be caught",
    )
    parser.add_argument("--markdown", action="store_true", help="end with the table as docs/testing.md has it")
    options = parser.parse_args(arguments)
    strata = options.strata.split(",")
    if not set(strata) <= set(mutants_random.STRATA):
        parser.error(f"strata are {', '.join(mutants_random.STRATA)}")
    of_the_table = not (options.random or options.of)
    table = MUTANTS if of_the_table else not_of_the_table(options, strata)
    names = {mutant.name: mutant for mutant in table}
    unknown = [name for name in options.only if name not in names]
    if unknown:
        parser.error(f"no such mutant: {', '.join(unknown)}")
    chosen = [names[name] for name in options.only] or list(table)
    if options.list:
        for mutant in chosen:
            print(f"{mutant.name}  {mutant.file}\n  - {mutant.old}\n  + {mutant.new}")
        return 0

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    start = time.monotonic()
    c_tests, python_tests = CTests(TOP), PythonTests(TOP, lenient=not of_the_table)
    planted = PlantedTests(TOP, python_tests, options.most)
    outcomes: dict[str, Outcome] = {}
    stillborn = same = 0
    # the long ones first, so that they do not stand alone at the end
    queue = sorted(chosen, key=lambda mutant: not mutant.tests)
    with ThreadPoolExecutor(options.jobs) as pool:
        futures = [pool.submit(hunt, mutant, c_tests, python_tests, planted) for mutant in queue]
        try:
            for future in as_completed(futures):
                try:
                    o = future.result()
                except Stillborn as error:
                    if of_the_table:
                        raise
                    stillborn += 1
                    print(f"{str(error).splitlines()[0]}: left out", flush=True)
                    continue
                except Same as error:
                    same += 1
                    print(f"{error}: left out", flush=True)
                    continue
                outcomes[o.mutant.name] = o
                print(f"{o.mutant.name:34} {o.caught_by or 'SURVIVED':60} {o.seconds:6.1f} s", flush=True)
                if not of_the_table:
                    print(difference(o.mutant), flush=True)
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            end_all()
            if not isinstance(error, Unfit):
                raise
            print(f"mutants: {error}", file=sys.stderr)
            return 2
    end_all()
    run = [outcomes[mutant.name] for mutant in chosen if mutant.name in outcomes]
    survivors = [o.mutant.name for o in run if not o.caught_by]
    caught = (len(run) - len(survivors)) / max(len(run), 1)
    what = "" if of_the_table else f"{stillborn} that do not compile, {same} of which the compiler makes the same: "
    if options.random:
        what = f"seed {options.seed}, {what}"
    seconds = time.monotonic() - start
    print(f"{what}{len(run)} mutants, {len(survivors)} survived ({caught:.0%} caught), {seconds:.0f} s")
    if options.markdown:
        print(markdown(run))
    if survivors:
        print(f"survived, so the tests have a hole: {', '.join(survivors)}", file=sys.stderr)
    return int(bool(survivors))


if __name__ == "__main__":
    sys.exit(main())
