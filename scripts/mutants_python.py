"""Judges Python mutants in seconds: pytest collects once, and each mutant is tried in a fork of that process.

Usage: mutants_python.py MAP TEST... (a program of mutants.py, in a tree of its own)

The fork gives the functions of the sound modules the code of the mutant; what is imported later, and programs that
the tests start, read it from the tree. Which tests reach which line is asked of the sound sources first and kept in
MAP, beside the tree, until a source or the test's file changes. A mutant of what runs at an import cannot be
planted so.

The tests nearest to the line are asked first, in rounds that grow. A test that takes too long is run alone with the
sound sources and again with the mutant: only one that takes too long then too, measured by the former, has noticed.

Requests are lines of JSON on standard input, answers lines of JSON on the standard output that it started with.
"""

from __future__ import annotations

import ast
import collections
import contextlib
import gc
import hashlib
import json
import os
import random
import re
import select
import signal
import sys
import threading
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PACKAGE = Path("src/nativemem").resolve()
#: of a test with many parameters, so many are asked for the map
OF_EACH = 16
#: files of tests that do little but start programs, whose lines are not seen
PROGRAMS = tuple(
    f"tests/test_{name}.py"
    for name in "examples run_is_python goes_on errors_doc cli doctor denials capi free_threaded".split()
)
#: seconds of a test in which its lines are looked at; what comes later it has most likely reached before
MOST_TRACED = 20.0
#: what each round but the last may take on the sound sources; seconds
ROUNDS = (3.0, 10.0, 30.0)
#: so many tests are asked first of what runs at an import
MOST_NEAR = 300
#: a test that runs this many times as long as with the sound sources hangs; seconds at least, and at most, but when
#: it is run alone
SLOWER, PATIENCE, MOST_PATIENCE = 8, 20.0, 120.0
#: what the fork exits with where all passed: a mutant may end it with 0
ALL_PASSED = 77
#: what tells that a test starts a program
STARTS = ("subprocess.Popen", "os.posix_spawn", "os.fork", "os.forkpty", "os.exec", "os.system")


def inner(code: types.CodeType) -> Iterator[types.CodeType]:
    """The code and all that is in it, in the order of the source."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from inner(constant)


def itself(code: types.CodeType) -> tuple[object, ...]:
    """What it does, without the functions in it."""
    constants = [c for c in code.co_consts if not isinstance(c, types.CodeType)]
    return code.co_code, repr(constants), code.co_names, code.co_varnames, code.co_freevars, code.co_flags


class AtImport(Exception):
    """The mutant is in code that runs where the module is imported."""


def replacements(sound: str, mutant: str, path: str) -> dict[types.CodeType, types.CodeType]:
    old = list(inner(compile(sound, path, "exec")))
    new = list(inner(compile(mutant, path, "exec")))
    if len(old) != len(new):
        raise AtImport
    pairs = dict(zip(old, new, strict=True))
    for before, after in pairs.items():
        function = before.co_flags & 2  # CO_NEWLOCALS: neither a module's nor a class's body
        if itself(before) != itself(after) and (not function or before.co_freevars != after.co_freevars):
            raise AtImport
    return pairs


def plant(pairs: dict[types.CodeType, types.CodeType], path: str) -> None:
    for function in gc.get_objects():
        if type(function) is types.FunctionType and function.__code__.co_filename == path:
            try:
                function.__code__ = pairs[function.__code__]
            except KeyError:
                raise AtImport from None  # it is not what the file says


class Mutated:
    """A mutant, which is there within a `with` statement: in the functions and in the file."""

    def __init__(self, path: Path, sound: str, mutant: str) -> None:
        self.path, self.sound, self.mutant = path, sound, mutant
        self.pairs = replacements(sound, mutant, str(path))
        plant({code: code for code in self.pairs}, str(path))  # they are all there

    def __enter__(self) -> Mutated:
        self.path.write_text(self.mutant, encoding="utf-8")
        plant(self.pairs, str(self.path))
        return self

    def __exit__(self, *_: object) -> None:
        plant({new: old for old, new in self.pairs.items()}, str(self.path))
        self.path.write_text(self.sound, encoding="utf-8")


class Lines:
    """The lines of the package that run."""

    def __init__(self, package: Path = PACKAGE) -> None:
        self.package = package
        self.seen: set[tuple[str, int]] = set()
        self.mine: dict[str, str] = {}
        self.all_seen: set[types.CodeType] = set()
        self.until = 0.0

    def of(self, path: str) -> str:
        if path not in self.mine:
            at = Path(path)
            self.mine[path] = at.relative_to(self.package).as_posix() if self.package in at.parents else ""
        return self.mine[path]

    def trace(self, frame: types.FrameType, event: str, argument: object) -> Any:
        code = frame.f_code
        file = self.of(code.co_filename)
        if not file or code in self.all_seen or time.monotonic() > self.until:
            return None
        seen = self.seen

        def line(frame: types.FrameType, event: str, argument: object) -> Any:
            seen.add((file, frame.f_lineno))
            if event == "return" and all((file, number) in seen for _, _, number in code.co_lines() if number):
                self.all_seen.add(code)
            return line

        seen.add((file, frame.f_lineno))
        return line

    def __enter__(self) -> Lines:
        self.seen.clear()
        self.all_seen.clear()
        self.until = time.monotonic() + MOST_TRACED
        threading.settrace(self.trace)
        sys.settrace(self.trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]


class Server:
    def __init__(self, map_file: Path, answers: int) -> None:
        self.map_file = map_file
        self.answers = answers
        self.failed: list[str] = []
        self.sure: dict[str, bool] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.answer({"error": f"{report.nodeid} is not collected: {report.longrepr}"})

    def answer(self, what: object) -> None:
        os.write(self.answers, (json.dumps(what) + "\n").encode())

    # ---- the map --------------------------------------------------------------------------------------

    def make_map(self, items: list[pytest.Item]) -> None:
        functions: dict[str, list[pytest.Item]] = collections.defaultdict(list)
        for item in items:
            functions[item.nodeid.partition("[")[0]].append(item)
        r = random.Random(0)
        kept: set[pytest.Item] = set()
        for group in functions.values():
            kept |= set(group if len(group) <= OF_EACH else r.sample(group, OF_EACH))
        lines = Lines()
        started: list[str] = []
        sys.addaudithook(lambda event, _: started.append(event) if event in STARTS else None)
        mapped = [item for item in items if item in kept and not item.nodeid.startswith(PROGRAMS)]
        tests, fresh = self.known(mapped)
        for i, item in enumerate(fresh):
            after = fresh[i + 1] if i + 1 < len(fresh) else None
            self.failed.clear()
            started.clear()
            start = time.monotonic()
            with lines:
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
            tests[item.nodeid] = {
                "seconds": time.monotonic() - start,
                "failed": bool(self.failed),
                "starts": bool(started),
                "lines": sorted(lines.seen),
            }
        text = json.dumps({"files": self.digests(mapped), "tests": tests})
        self.map_file.write_text(text, encoding="utf-8")

    @staticmethod
    def digests(items: list[pytest.Item]) -> dict[str, str]:
        files = {item.nodeid.partition("::")[0] for item in items}
        return {file: hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in sorted(files)}

    def known(self, items: list[pytest.Item]) -> tuple[dict[str, Any], list[pytest.Item]]:
        """What the map says of tests whose files are as they were, and the others."""
        if not self.map_file.exists():
            return {}, items
        before = json.loads(self.map_file.read_text(encoding="utf-8"))
        same = {file for file, digest in self.digests(items).items() if before["files"].get(file) == digest}
        tests = {name: test for name, test in before["tests"].items() if name.partition("::")[0] in same}
        return tests, [item for item in items if item.nodeid.partition("::")[0] not in same]

    # ---- the mutants ----------------------------------------------------------------------------------

    def run(self, items: list[pytest.Item], seconds: float = 0.0) -> tuple[str, bool]:
        """The first test that fails, in a fork, "" if none does; and whether it took too long.

        One that is run alone takes `seconds` with the sound sources."""
        end, told = os.pipe()
        child = os.fork()
        if child == 0:
            os.setsid()
            try:
                for i, item in enumerate(items):
                    after = items[i + 1] if i + 1 < len(items) else None
                    os.write(told, f"\n{item.nodeid}".encode())
                    item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
                    if self.failed:
                        os._exit(1)
                os._exit(ALL_PASSED)
            except BaseException:
                os._exit(2)
        os.close(told)
        last, late = b"", False
        while True:
            known = self.tests.get(last.decode(errors="replace"), {"seconds": 0.0})["seconds"]
            patience = max(PATIENCE, SLOWER * seconds or min(SLOWER * known, MOST_PATIENCE))
            if not select.select([end], [], [], patience)[0]:
                late = True
                break
            if not (more := os.read(end, 1 << 16)):
                break
            last = (last + more).rpartition(b"\n")[2]
        os.close(end)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL) if late else None
        status = os.waitpid(child, 0)[1]
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # what it started
        name = last.decode(errors="replace")
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == ALL_PASSED:
            return "", False
        if not late and os.WIFSIGNALED(status):
            return f"{name or 'the first test'}, signal {os.WTERMSIG(status)}", False
        return name, late

    def ask(self, mutant: Mutated, names: list[str]) -> str:
        """The first of these tests that notices the mutant; "" if none does."""
        order = {item: i for i, item in enumerate(self.items)}
        rest = sorted(names, key=order.__getitem__)
        while rest:
            with mutant:
                caught, late = self.run([self.items[name] for name in rest])
            if not late:
                name = re.sub(r", signal \d+$", "", caught)
                if name not in rest or self.passes(name):
                    return caught
                rest = rest[rest.index(name) + 1 :]
                continue
            # was it the mutant, or what else the machine does?
            start = time.monotonic()
            self.run([self.items[caught]], MOST_PATIENCE)
            seconds = time.monotonic() - start
            with mutant:
                alone, late = self.run([self.items[caught]], seconds)
            if alone:
                return f"{alone}, timeout" if late else alone
            rest = rest[rest.index(caught) + 1 :]
        return ""

    def passes(self, name: str) -> bool:
        """Whether a test passes with the sound sources; asked once."""
        if name not in self.sure:
            self.sure[name] = name in self.items and self.run([self.items[name]]) == ("", False)
        return self.sure[name]

    def rounds(self, names: list[str], nearest: tuple[str, ...]) -> Iterator[list[str]]:
        """Those of the nearest files first, one of each function before the next of any, the slow ones last."""
        of_each = collections.Counter[str]()
        ranks = {}
        for i, name in enumerate(names):
            function = name.partition("[")[0]
            slow = self.seconds(name) > ROUNDS[0]
            ranks[name] = (slow, of_each[function] // 2, not name.startswith(nearest), i)
            of_each[function] += 1
        budgets = iter(ROUNDS)
        total, most, chosen = 0.0, next(budgets), list[str]()
        for name in sorted(ranks, key=ranks.__getitem__):
            if chosen and total + self.seconds(name) > most:
                yield chosen
                total, most, chosen = 0.0, next(budgets, float("inf")), []
            chosen.append(name)
            total += self.seconds(name)
        if chosen:
            yield chosen

    def seconds(self, name: str) -> float:
        unknown = 1.0 if name.startswith(PROGRAMS) else 0.1
        return float(self.tests.get(name, {"seconds": unknown})["seconds"])

    def judge(
        self, file: str, line: int, old: str, new: str, nearest: list[str], most: float = float("inf")
    ) -> dict[str, object]:
        """Asks rounds until one notices it, or ``most`` seconds of the sound sources' time are asked."""
        path = Path(file).resolve()
        sound = path.read_text(encoding="utf-8")
        text = sound.splitlines(keepends=True)
        if text[line - 1].rstrip("\n") != old:
            return {"error": f"line {line} of {file} is not {old!r}"}
        text[line - 1] = f"{new}\n"
        try:
            mutant = Mutated(path, sound, "".join(text))
        except AtImport:
            return {"at_import": True, "near": self.near(path, sound, line)}
        except SyntaxError as error:
            return {"stillborn": str(error)}
        at = (path.relative_to(PACKAGE).as_posix(), line)
        reached = [name for name in self.by_line.get(at, ()) if name in self.items]
        # what is not seen may have run in a program that a test starts
        also = [
            name
            for name in self.items
            if name not in reached and name.startswith(tuple(nearest)) and self.starts(name)
        ]
        asked = 0
        for names in self.rounds([*reached, *also], tuple(nearest)):
            if sum(map(self.seconds, names)) > most:
                break
            most -= sum(map(self.seconds, names))
            asked += len(names)
            if caught := self.ask(mutant, names):
                return {"caught_by": caught, "asked": asked, "reached": len(reached)}
        # it may have run where the module was imported, or once for the whole process
        near = self.near(path, sound, line)
        return {"caught_by": "", "asked": asked, "reached": len(reached), "near": near, "at_import": not reached}

    def starts(self, name: str) -> bool:
        known = self.tests.get(name, {"starts": name.startswith(PROGRAMS), "failed": False})
        return bool(known["starts"]) and not known["failed"] and self.sure.get(name, True)

    def near(self, path: Path, sound: str, line: int) -> list[str]:
        """Tests for a line that runs at the import: those that reach most of the function or class around it."""
        first, last = line, line
        for node in ast.walk(ast.parse(sound)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                start = min([node.lineno, *(d.lineno for d in node.decorator_list)])
                if start <= line < (node.end_lineno or line):
                    first, last = start, node.end_lineno or line
        file = path.relative_to(PACKAGE).as_posix()
        reached: collections.Counter[str] = collections.Counter()
        for number in range(first, last + 1):
            reached.update(self.by_line.get((file, number), ()))
        if not reached:
            for (other, _), names in self.by_line.items():
                if other == file:
                    reached.update(names)
        chosen, of_each = [], collections.Counter[str]()
        for name in sorted(reached, key=lambda name: (-reached[name], len(self.tests[name]["lines"]), name)):
            function = name.partition("[")[0]
            of_each[function] += 1
            if of_each[function] <= 4 and len(chosen) < MOST_NEAR:
                chosen.append(name)
        return chosen

    def unsound(self, name: str) -> bool:
        return bool(self.tests.get(name, {}).get("failed"))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self.items = {item.nodeid: item for item in session.items}
        child = os.fork()
        if child == 0:
            try:
                self.make_map(session.items)
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        self.tests = json.loads(self.map_file.read_text(encoding="utf-8"))["tests"]
        self.by_line: dict[tuple[str, int], list[str]] = collections.defaultdict(list)
        # those that reach least say most about the line
        for name in sorted(self.tests, key=lambda name: (len(self.tests[name]["lines"]), name)):
            if not self.unsound(name):
                for file, line in self.tests[name]["lines"]:
                    self.by_line[file, line].append(name)
        self.answer({"ready": len(self.tests), "unsound": [name for name in self.tests if self.unsound(name)]})
        for request in sys.stdin:
            self.answer(self.judge(**json.loads(request)))
        return True


def main() -> int:
    answers = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    map_file, *tests = sys.argv[1:]
    options = ["-q", "-s", "--tb=no", "-p", "no:cacheprovider", "--doctest-modules"]
    code = pytest.main([*options, *tests], plugins=[Server(Path(map_file), answers)])
    if code not in (0, 5):
        os.write(answers, json.dumps({"error": f"pytest ended with {code}"}).encode() + b"\n")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
