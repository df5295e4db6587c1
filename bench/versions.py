"""P2 and P3 on several interpreters, each on its own allocator and with the engine on, all of them in turns.

Usage: versions.py [--table p2 | p3] [--rounds N] [--only PATTERN]... [--default NAME=COMMAND]... NAME=COMMAND...

COMMAND starts an interpreter that has nativemem and NumPy, and finds this folder at the same path: a file's name,
or "chroot DIR PYTHON". --default measures one as it is, without the engine: `env LD_PRELOAD=huge_arenas.so PYTHON`.
Times are CPU times of a process; a cell is the median over the rounds, a ratio that of the rounds' own ratios. The
tables are in Markdown, with the machine and the versions below.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import shlex
import statistics
import subprocess
from collections.abc import Iterator

from interleave import HERE, Command, turns
from numpy_worker import EXPRESSIONS
from object_worker import LOOPS
from ratios import paired, shown, size_name

SIZES = [64 << 2 * i for i in range(11)]
ASK = "import platform as p; print(p.python_version(), *p.libc_ver())"


def workloads(table: str) -> Iterator[tuple[str, str, list[str]]]:
    """What each row is called, its worker, and the worker's arguments."""
    if table == "p3":
        for name in LOOPS:
            yield name, "object_worker.py", ["--loop", name]
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
    parser.add_argument("--table", choices=["p2", "p3"], default="p3")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", action="append", metavar="PATTERN", help="these rows")
    parser.add_argument("--quick", action="store_true", help="one short sample, to see that it runs")
    options = parser.parse_args()
    both, alone = dict(options.interpreters), dict(options.default)
    first = next(iter(both))
    columns = ["workload"]
    for name in both:
        columns += [f"{name} default", f"{name} native", "native/default"]
    columns += [f"{name} / {list(both)[-1]} default" for name in alone]
    print(row(columns))
    print(row(["---", *["---:"] * (len(columns) - 1)]))
    ratios: dict[str, list[float]] = {name: [] for name in (*both, *alone)}
    memories: dict[str, list[float]] = {name: [] for name in (*both, *alone)}
    for workload, worker, arguments in workloads(options.table):
        if not any(fnmatch.fnmatchcase(workload, pattern) for pattern in options.only or ["*"]):
            continue
        words = [str(HERE / worker), "--cpu", *arguments, *(["--quick"] if options.quick else [])]
        commands = {f"{name} default": Command([*command, *words, "--default"]) for name, command in both.items()}
        commands |= {f"{name} native": Command([*command, *words, "--engine"]) for name, command in both.items()}
        commands |= {name: Command([*command, *words, "--default"]) for name, command in alone.items()}
        reports = turns(commands, options.rounds)
        key = "time" if options.table == "p3" else "expression"
        times = {side: [report[key] for report in each] for side, each in reports.items()}
        peaks = {
            side: [report["peak_rss"] if options.table == "p3" else 0 for report in each]
            for side, each in reports.items()
        }
        cells = [workload]
        for name in both:
            default, native = f"{name} default", f"{name} native"
            ratio = paired(times[native], times[default])[0]
            ratios[name].append(ratio)
            cells += [shown(statistics.median(times[default]), "s"), shown(statistics.median(times[native]), "s")]
            cells.append(f"{ratio:.2f}")
            if options.table == "p3":
                memories[name].append(paired(peaks[native], peaks[default])[0])
        last = f"{list(both)[-1]} default"
        for name in alone:
            ratio = paired(times[name], times[last])[0]
            ratios[name].append(ratio)
            cells.append(f"{ratio:.2f}")
            if options.table == "p3":
                memories[name].append(paired(peaks[name], peaks[last])[0])
        print(row(cells), flush=True)
    for label, found in (("geometric mean", ratios), ("peak RSS, geometric mean", memories)):
        if all(found.values()):
            means = {name: f"{statistics.geometric_mean(each):.2f}" for name, each in found.items()}
            pairs = [cell for name in both for cell in ("", "", means[name])]
            print(row([label, *pairs, *(means[name] for name in alone)]))
    print()
    for name, command in both.items():
        told = subprocess.run([*command, "-c", ASK], capture_output=True, text=True, check=True).stdout
        print(f"{name}: {told.strip()}")
    print(f"{options.rounds} rounds on {os.uname().sysname} {os.uname().release}, {os.cpu_count()} cores,", end=" ")
    print(f"load {os.getloadavg()[2]:.0f}; {first} first in odd rounds, last in even ones")


if __name__ == "__main__":
    main()
