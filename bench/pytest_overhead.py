"""What the pytest plugin costs a suite of trivial tests: instructions, by callgrind, and processor time.

    python bench/pytest_overhead.py [--tests 1000] [--rounds 11]

Three runs in this environment: without the plugin, idle, and with a budget for each test. Other plugins that are
installed run as well, so the figures are of an environment with nativemem and pytest alone. Times are medians of
rounds, in each of which the three take turns. Needs valgrind. Bytecode has to be written: PYTHONDONTWRITEBYTECODE
is taken away.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

RUNS = {"without": ["-p", "no:nativemem"], "idle": [], "budgets": ["--nativemem-budget=64MiB"]}


def environment() -> dict[str, str]:
    found = {**os.environ, "PYTHONHASHSEED": "0"}
    found.pop("PYTHONDONTWRITEBYTECODE", None)
    return found


def ran(folder: str, options: list[str], *tool: str) -> subprocess.CompletedProcess[str]:
    command = [*tool, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=True)


def instructions(folder: str, options: list[str]) -> float:
    """Millions of one run. Pre: one before it has left the bytecode."""
    done = ran(folder, options, "valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null")
    found = re.search(r"Collected : (\d+)", done.stderr)
    assert found is not None, done.stderr
    return int(found[1]) / 1e6


def milliseconds(folder: str, options: list[str]) -> float:
    """Of the processor, of one run."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ran(folder, options)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def show(figures: dict[str, float], unit: str) -> None:
    for name, figure in figures.items():
        more = 100 * (figure / figures["without"] - 1)
        print(f"{name:8} {figure:9,.0f} {unit} {more:+6.2f} %", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tests", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=11)
    arguments = parser.parse_args()
    print(f"{arguments.tests} trivial tests, CPython {platform.python_version()}, {platform.machine()}, ", end="")
    print(f"pytest {pytest.__version__}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        suite = "".join(f"def test_{i}(): assert {i} == {i}\n" for i in range(arguments.tests))
        Path(folder, "test_trivial.py").write_text(suite, encoding="utf-8")
        for options in RUNS.values():
            ran(folder, options)
        show({name: instructions(folder, options) for name, options in RUNS.items()}, "million instructions")
        times: dict[str, list[float]] = {name: [] for name in RUNS}
        for _ in range(arguments.rounds):
            for name, options in RUNS.items():
                times[name].append(milliseconds(folder, options))
    if arguments.rounds:
        show({name: statistics.median(each) for name, each in times.items()}, "ms of processor time")


if __name__ == "__main__":
    main()
