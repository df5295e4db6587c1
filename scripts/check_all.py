"""Everything that can be asked of the tree, variant by variant: `make check-all`.

Usage: check_all.py [--only NAMES] [--list | --markdown | --summary]

Runs the target of each variant, goes on where one fails, and keeps what each said in ``build/check-all/NAME.log``
and how it ended in ``NAME.json``. ``summary.txt`` has one line of each variant, whenever it was run last: its
outcome, the commit, its time, its last line. So a part at a time makes the whole table. Exit code, of those that
were asked: 1 where one failed; 75 where none failed and the machine could not do one (a tool or a system is
missing); else 0.

The table below is the one list of variants: ``docs/ci.md`` shows it (tests/test_check_all.py), and ``.ci/run`` runs
those that say so.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
LOGS = ROOT / "build" / "check-all"
NOT_HERE = 75
OUTCOMES = "passed", "failed", "not here", "not run"


class Variant(NamedTuple):
    name: str
    make: str  # the target and its variables
    shows: str
    in_ci: str = ""  # the stage of .ci/run; empty: too slow, or more than its machine has
    needs: tuple[str, ...] = ()  # programs
    as_root: bool = False


VARIANTS = (
    Variant("lint", "lint", "style, types, guardrails", "make lint"),
    Variant(
        "lint-c", "lint-c", "warnings of gcc and clang as errors, headers alone in C11 and C++17", "make lint-c"
    ),
    Variant(
        "lint-c-deep",
        "lint-c-deep",
        "clang-tidy with clang's analyzer, cppcheck",
        "make -j2 lint-c-deep",
        ("clang-tidy-19", "cppcheck"),
    ),
    Variant(
        "release", "test", "the package as it is released, on both backends, C tests and doctests", "make test"
    ),
    Variant("slow", "test-slow", "the tests that take long by nature", "make test-slow"),
    Variant("pure", "test-pure", "an environment without the C core", "make test-pure"),
    Variant("disabled", "test-disabled", "the kill switch, NATIVEMEM_DISABLE=1", "make -j2 test-oom test-disabled"),
    Variant("oom", "test-oom", "the contract with allocations that fail", "make -j2 test-oom test-disabled"),
    Variant(
        "debug-hooks",
        "test-debug-hooks",
        "the engine where the interpreter fills what is freed, PYTHONMALLOC=debug",
        "make test-debug-hooks",
    ),
    Variant("orders", "test-orders", "the contract on every order of wrappers"),
    Variant("clang", "c-tests-clang", "the C tests, compiled by clang", "make -j2 c-tests-clang", ("clang-19",)),
    Variant("asan", "c-tests-asan", "AddressSanitizer, UBSan, LeakSanitizer: the C tests", "make test"),
    Variant("asan-python", "python-tests-asan", "the same under the Python suite"),
    Variant("tsan", "c-tests-tsan", "ThreadSanitizer: the C tests", "make -j2 c-tests-tsan"),
    Variant(
        "valgrind",
        "c-tests-valgrind",
        "Valgrind, told of blocks: the C tests",
        "make -j2 c-tests-valgrind",
        ("valgrind",),
    ),
    Variant(
        "cbmc", "cbmc", "bounded model checking of the core's sequential parts (docs/proofs.md)", "", ("cbmc",)
    ),
    Variant(
        "fuzz",
        "fuzz FUZZ_SECONDS=60",
        "a minute of coverage-guided fuzzing",
        "make fuzz FUZZ_SECONDS=60",
        ("clang-19",),
    ),
    Variant("differential", "differential", "200,000 operations on both backends and a model"),
    Variant(
        "budget",
        "journal-cache",
        "the journal cache's rebuild within its budget, or exit code 1",
        "make journal-cache",
    ),
    Variant("musl", "c-tests-musl", "the C tests on musl", "make -j2 c-tests-musl c-tests-aarch64", ("musl-gcc",)),
    Variant(
        "aarch64",
        "c-tests-aarch64",
        "the C tests for aarch64, in qemu",
        "make -j2 c-tests-musl c-tests-aarch64",
        ("aarch64-linux-gnu-gcc", "qemu-aarch64"),
    ),
    Variant("pythons", "test-pythons", "each CPython at hand, from 3.10 on"),
    Variant("newest", "test-newest", "the newest CPython of Debian sid", "scripts/test_newest.sh", (), True),
    Variant("free-threaded", "test-free-threaded", "a CPython without the lock", "", (), True),
    Variant("overcommit", "test-overcommit", "vm.overcommit_memory=2", "", (), True),
    Variant("dist", "dist", "sdist -> wheel -> fresh environment -> tests, for each CPython; the pure wheel"),
    Variant(
        "wheel", "test-wheel", "those wheels where there is no compiler, with the ten-minute page", "", (), True
    ),
    Variant("audit", "audit", "known vulnerabilities of what is installed with the package"),
    Variant(
        "suites-fast",
        "suites-fast",
        "a part of the suites of CPython and NumPy, engine off and on",
        "make suites-fast",
    ),
    Variant("coverage", "coverage", "lines of C and of Python that tests reach, each at least 95 %"),
    Variant(
        "browser", "browser", "the pages of reports in Chromium, with the keyboard", "make browser", ("chromium",)
    ),
    Variant("docs", "docs", "the site without a warning, and its links"),
    Variant("examples", "demo", "the examples, with and without nativemem"),
)


def markdown() -> str:
    rows = ["| variant | command | what it shows | in `.ci/run` | needs |", "| --- | --- | --- | --- | --- |"]
    for each in VARIANTS:
        needs = ", ".join([*(f"`{tool}`" for tool in each.needs), *(["root"] if each.as_root else [])])
        rows.append(
            f"| {each.name} | `make {each.make}` | {each.shows} | {'yes' if each.in_ci else '-'} | {needs} |"
        )
    return "\n".join(rows)


def missing(variant: Variant) -> str:
    tools = [tool for tool in variant.needs if shutil.which(tool) is None]
    if variant.as_root and os.geteuid() != 0:
        tools.append("root")
    return ", ".join(tools)


class Outcome(NamedTuple):
    """How a variant's last run ended. ``said``: the last line of it, or what is missing."""

    outcome: str
    commit: str = ""
    seconds: float = 0.0
    said: str = ""


def run(variant: Variant, at: str) -> Outcome:
    lacks = missing(variant)
    if lacks:
        return Outcome("not here", at, 0.0, f"missing: {lacks}")
    log = LOGS / f"{variant.name}.log"
    began = time.monotonic()
    with log.open("w", encoding="utf-8") as out:
        # ARGS of `make check-all` are this program's, and make hands them on
        command = ["make", "--no-print-directory", "ARGS=", *variant.make.split()]
        code = subprocess.run(
            command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        ).returncode
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    # make says 2 for any failure of a recipe; the recipe's own code is in its last lines
    not_here = code != 0 and any(f"Error {NOT_HERE}" in line for line in lines[-3:])
    outcome = "passed" if code == 0 else "not here" if not_here else "failed"
    return Outcome(outcome, at, time.monotonic() - began, lines[-1].strip("= ") if lines else "")


def commit() -> str:
    done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() or "no commit"


def last(variant: Variant) -> Outcome:
    """Of its last run, whenever that was."""
    file = LOGS / f"{variant.name}.json"
    return Outcome(*json.loads(file.read_text(encoding="utf-8"))) if file.exists() else Outcome("not run")


def line(variant: Variant, outcome: Outcome) -> str:
    text = f"{variant.name:14} {outcome.outcome:9}"
    if outcome.commit:
        text += f" {outcome.commit:9} {outcome.seconds:6.0f} s  {outcome.said[:120]}"
    return text.rstrip()


def summary() -> list[str]:
    """A line of each variant, and how many ended in which way."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    outcomes = [last(each) for each in VARIANTS]
    counts = {kind: sum(each.outcome == kind for each in outcomes) for kind in OUTCOMES}
    return [
        f"make check-all on {platform.platform()}, {cores} cores, Python {platform.python_version()}",
        *map(line, VARIANTS, outcomes),
        ", ".join(f"{count} {kind}" for kind, count in counts.items()),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description="Runs every variant, and keeps what each said in build/check-all.")
    parser.add_argument("--only", metavar="NAMES", help="of these variants alone: names with commas between them")
    parser.add_argument("--list", action="store_true", help="say which variants there are, and do nothing")
    parser.add_argument("--summary", action="store_true", help="how each ended when it ran last, and do nothing")
    parser.add_argument("--markdown", action="store_true", help="the table of docs/ci.md")
    options = parser.parse_args()
    if options.markdown:
        print(markdown())
        return 0
    if options.summary:
        print("\n".join(summary()))
        return 0
    names = options.only.split(",") if options.only else [each.name for each in VARIANTS]
    unknown = sorted(set(names) - {each.name for each in VARIANTS})
    if unknown:
        parser.error(f"no variant is called {', '.join(unknown)}")
    chosen = [each for each in VARIANTS if each.name in names]
    if options.list:
        for each in chosen:
            print(f"{each.name:14} make {each.make:32} {each.shows}")
        return 0
    LOGS.mkdir(parents=True, exist_ok=True)
    at, outcomes = commit(), []
    for each in chosen:
        outcome = run(each, at)
        outcomes.append(outcome.outcome)
        print(line(each, outcome), flush=True)
        (LOGS / f"{each.name}.json").write_text(json.dumps(outcome) + "\n", encoding="utf-8")
        (LOGS / "summary.txt").write_text("\n".join(summary()) + "\n", encoding="utf-8")
    print(summary()[-1])
    return 1 if "failed" in outcomes else NOT_HERE if "not here" in outcomes else 0


if __name__ == "__main__":
    sys.exit(main())
