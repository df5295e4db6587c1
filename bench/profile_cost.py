"""What a profile costs: instructions, counted by callgrind, and CPU time beside other tools.

Usage: profile_cost.py [--times [--only TOOL,TOOL] | --pairs N] [--rounds N] [--rate BYTES] [LOOP ...]

Instructions: of the second call of a loop, by callgrind; the engine with a profile, over the engine without. The
collector is off in that call (see profile_worker.py).

``--times``: median CPU time of a call in rounds of processes that take turns, over the default allocator without a
tool; tracemalloc, and memray and Fil where they are installed. What a profile adds to the engine is the median of
the rounds' own ratios. ``--pairs``: that alone, of calls with a profile and without that take turns in one process,
so that what two processes differ by is not in it; the median and the quartiles of the pairs.

A loop ``pyperformance:NAME`` is that benchmark of pyperformance's, from its own script; ``pyperformance`` stands
for those of pyperformance_programs.py.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import core_build
from pyperformance_programs import CALLS

WORKER = Path(__file__).resolve().parent / "profile_worker.py"
LOOPS = (
    "json tuples dict_of_str float_lists trees instances strings small_tuples formats "
    "async_tree deepcopy xml_etree logging_format"
)


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NATIVEMEM_", "PYTHON"))}
    return {**kept, "PYTHONHASHSEED": "0"}


def of_a_call(loop: str, tool: str, rate: int) -> int:
    """Instructions of one call of ``loop``."""
    counted = core_build.loaded("libcounted.so", "counted.c")
    with tempfile.TemporaryDirectory() as folder:
        words = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={folder}/out"]
        words += [sys.executable, str(WORKER), "--loop", loop, "--tool", tool, "--rate", str(rate)]
        words += ["--counted", str(counted)]
        done = subprocess.run(words, env=_environment(), capture_output=True, text=True, check=False)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or found is None:
        raise SystemExit(done.stderr)
    return int(found[1])


def instructions(loops: list[str], rate: int) -> None:
    """Prints the table of instructions."""
    print(f"{'loop':40}{'engine':>16}{'with a profile':>16}{'cost':>9}")
    ratios = []
    for loop in loops:
        bare, profiled = of_a_call(loop, "engine", rate), of_a_call(loop, "profile", rate)
        ratios.append(profiled / bare)
        print(f"{loop:40}{bare:16,}{profiled:16,}{profiled / bare - 1:9.2%}", flush=True)
    mean = math.exp(statistics.fmean(map(math.log, ratios)))
    print(f"{'geometric mean':72}{mean - 1:9.2%}")


def _time(loop: str, tool: str, rate: int) -> float:
    words = [sys.executable, str(WORKER), "--loop", loop, "--tool", tool, "--rate", str(rate)]
    if tool == "fil":
        words = [sys.executable, "-m", "filprofiler", "-o", tempfile.mkdtemp(), "--no-browser", "run", *words[1:]]
    done = subprocess.run(words, env=_environment(), capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise SystemExit(f"{tool}: {done.stderr}")
    return json.loads(lines[-1])["time"]


def _installed() -> list[str]:
    tools = ["engine", "profile", "tracemalloc"]
    if importlib.util.find_spec("memray"):
        tools += ["memray", "memray-python"]
    if importlib.util.find_spec("filprofiler"):
        tools.append("fil")
    return tools


def times(loops: list[str], rate: int, count: int, tools: list[str]) -> None:
    """Prints the table of times."""
    added = {"engine", "profile"} <= set(tools)
    print(f"{'loop':40}" + "".join(f"{tool:>15}" for tool in tools) + f"{'profile adds':>15}" * added)
    for loop in loops:
        rounds = []
        for i in range(count):
            order = ["default", *tools][:: 1 if i % 2 == 0 else -1]
            rounds.append({tool: _time(loop, tool, rate) for tool in order})
        medians = (statistics.median(each[tool] / each["default"] for each in rounds) for tool in tools)
        row = f"{loop:40}" + "".join(f"{median:14.2f}x" for median in medians)
        if added:
            row += f"{statistics.median(each['profile'] / each['engine'] for each in rounds) - 1:15.1%}"
        print(row, flush=True)


def in_turns(loops: list[str], rate: int, pairs: int) -> None:
    """Prints what a profile adds to the time of a call, by pairs of calls in one process."""
    print(f"{'loop':40}{'profile adds':>15}{'quartiles':>20}")
    for loop in loops:
        words = [sys.executable, str(WORKER), "--loop", loop, "--tool", "engine", "--rate", str(rate)]
        words += ["--pairs", str(pairs)]
        done = subprocess.run(words, env=_environment(), capture_output=True, text=True, check=True)
        low, middle, high = statistics.quantiles(json.loads(done.stdout.splitlines()[-1]), n=4)
        print(f"{loop:40}{middle - 1:15.1%}{low - 1:11.1%} to {high - 1:5.1%}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument(
        "--times", action="store_true", help="CPU times beside other tools, rather than instructions"
    )
    parser.add_argument("--rate", type=int, default=512 << 10, help="bytes between samples in the mean")
    parser.add_argument("--rounds", type=int, default=5, help="of --times")
    parser.add_argument("--pairs", type=int, help="calls with a profile and without, in turns in one process")
    parser.add_argument("--only", metavar="TOOLS", help="of --times: these alone, with commas")
    parser.add_argument("loops", nargs="*", metavar="LOOP", default=LOOPS.split())
    options = parser.parse_args()
    loops = []
    for loop in options.loops:
        loops += [f"pyperformance:{name}" for name in CALLS] if loop == "pyperformance" else [loop]
    lacking = "valgrind" if shutil.which("valgrind") is None else core_build.missing()
    if not options.times and not options.pairs and lacking is not None:
        print(f"missing: {lacking}; on Debian or Ubuntu: apt-get install valgrind gcc", file=sys.stderr)
        return 1
    if options.pairs:
        in_turns(loops, options.rate, options.pairs)
    elif options.times:
        times(loops, options.rate, options.rounds, options.only.split(",") if options.only else _installed())
    else:
        instructions(loops, options.rate)
    return 0


if __name__ == "__main__":
    sys.exit(main())
