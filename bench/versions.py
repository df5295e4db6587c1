"""P2, P3 and P4 on several interpreters, each on its own allocator and with the engine on, all of them in turns.

Usage: versions.py [--table p2 | p3 | p4] [--rounds N] [--only PATTERN]... [--default NAME=COMMAND]...
    NAME=COMMAND...

COMMAND starts an interpreter that has nativemem and NumPy, and finds this folder at the same path: a file's name,
or "chroot DIR PYTHON". --default measures one as it is, without the engine: `env LD_PRELOAD=huge_arenas.so PYTHON`.
In P4 a third side, "charged", is the engine with a budget that is charged with everything. Times are CPU times of a
process; a cell is the median over the rounds, a ratio that of the rounds' own ratios. The tables are in Markdown,
with the machine and the versions below.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import shlex
import statistics
import subprocess
from collections.abc import Iterator

from accounting_worker import WORKLOADS
from interleave import HERE, Command, turns
from numpy_worker import EXPRESSIONS
from object_worker import LOOPS
from ratios import paired, shown, size_name

SIZES = [64 << 2 * i for i in range(11)]
#: each side's arguments, by table
SIDES = {"default": ["--default"], "native": ["--engine"]}
ACCOUNTS = {
    "default": ["--default", "--account", "no_account"],
    "native": ["--engine", "--account", "no_account"],
    "charged": ["--engine", "--account", "owner"],
}
#: and which of them a row compares
PAIRS = {
    "p2": [("native", "default")],
    "p3": [("native", "default")],
    "p4": [("charged", "native"), ("charged", "default")],
}
ASK = "import platform as p; print(p.python_version(), *p.libc_ver())"


def workloads(table: str) -> Iterator[tuple[str, str, list[str]]]:
    """What each row is called, its worker, and the worker's arguments."""
    if table == "p3":
        for name in LOOPS:
            yield name, "object_worker.py", ["--loop", name]
        return
    if table == "p4":
        for name in WORKLOADS:
            yield name, "accounting_worker.py", ["--workload", name, "--samples", "1"]  # the rounds are the samples
        return
    for name in EXPRESSIONS:
        for size in SIZES:
            yield f"{name} {size_name(size)}", "numpy_worker.py", ["--expression", name, "--size", str(size)]


def named(text: str) -> tuple[str, list[str]]:
    name, found, command = text.partition("=")
    if not found or not command:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=COMMAND")
    return name, shlex.split(command)


def row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("interpreters", nargs="+", type=named, metavar="NAME=COMMAND")
    parser.add_argument("--default", action="append", type=named, default=[], metavar="NAME=COMMAND")
    parser.add_argument("--table", choices=list(PAIRS), default="p3")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", action="append", metavar="PATTERN", help="these rows")
    parser.add_argument("--quick", action="store_true", help="one short sample, to see that it runs")
    options = parser.parse_args()
    both, alone = dict(options.interpreters), dict(options.default)
    first, last = next(iter(both)), f"{list(both)[-1]} default"
    sides, pairs = (ACCOUNTS if options.table == "p4" else SIDES), PAIRS[options.table]
    compared = {f"{name} {a}/{b}": (f"{name} {a}", f"{name} {b}") for name in both for a, b in pairs}
    compared |= {f"{name} / {last}": (name, last) for name in alone}
    columns = ["workload"]
    for name in both:
        columns += [f"{name} {side}" for side in sides] + [f"{a}/{b}" for a, b in pairs]
    columns += [f"{name} / {last}" for name in alone]
    print(row(columns))
    print(row(["---", *["---:"] * (len(columns) - 1)]))
    ratios: dict[str, list[float]] = {name: [] for name in compared}
    memories: dict[str, list[float]] = {name: [] for name in compared}
    for workload, worker, arguments in workloads(options.table):
        if not any(fnmatch.fnmatchcase(workload, pattern) for pattern in options.only or ["*"]):
            continue
        words = [str(HERE / worker), "--cpu", *arguments, *(["--quick"] if options.quick else [])]
        commands = {
            f"{name} {side}": Command([*command, *words, *own])
            for side, own in sides.items()
            for name, command in both.items()
        }
        commands |= {name: Command([*command, *words, *sides["default"]]) for name, command in alone.items()}
        reports = turns(commands, options.rounds)
        key = "expression" if options.table == "p2" else "time"
        times = {side: [report[key] for report in each] for side, each in reports.items()}
        for name, (a, b) in compared.items():
            ratios[name].append(paired(times[a], times[b])[0])
            if options.table == "p3":
                memories[name].append(paired(*([each["peak_rss"] for each in reports[side]] for side in (a, b)))[0])
        cells = [workload]
        for name in both:
            cells += [shown(statistics.median(times[f"{name} {side}"]), "s") for side in sides]
            cells += [f"{ratios[f'{name} {a}/{b}'][-1]:.2f}" for a, b in pairs]
        cells += [f"{ratios[f'{name} / {last}'][-1]:.2f}" for name in alone]
        print(row(cells), flush=True)
    for label, found in (("geometric mean", ratios), ("peak RSS, geometric mean", memories)):
        if all(found.values()):
            means = {name: f"{statistics.geometric_mean(each):.2f}" for name, each in found.items()}
            cells = [label]
            for name in both:
                cells += [""] * len(sides) + [means[f"{name} {a}/{b}"] for a, b in pairs]
            print(row([*cells, *(means[f"{name} / {last}"] for name in alone)]))
    print()
    for name, command in both.items():
        told = subprocess.run([*command, "-c", ASK], capture_output=True, text=True, check=True).stdout
        print(f"{name}: {told.strip()}")
    print(f"{options.rounds} rounds on {os.uname().sysname} {os.uname().release}, {os.cpu_count()} cores,", end=" ")
    print(f"load {os.getloadavg()[2]:.0f}; {first} first in odd rounds, last in even ones")


if __name__ == "__main__":
    main()
