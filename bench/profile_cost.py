"""What a profile costs: instructions, counted by callgrind, and CPU time beside other tools.

Usage: profile_cost.py [--times] [--rounds N] [--rate BYTES] [LOOP ...]

Instructions: of two calls of a loop less those of one, so that the start is not in it; the engine with a profile,
over the engine without. ``--times``: median CPU time of a call in rounds of processes that take turns, over the
default allocator without a tool; tracemalloc, and memray and Fil where they are installed.
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

WORKER = Path(__file__).resolve().parent / "profile_worker.py"
LOOPS = (
    "json tuples dict_of_str float_lists trees instances strings small_tuples formats "
    "async_tree deepcopy xml_etree logging_format"
)


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NATIVEMEM_", "PYTHON"))}
    return {**kept, "PYTHONHASHSEED": "0"}


def _instructions(loop: str, tool: str, rate: int, calls: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        words = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out", "--error-exitcode=0"]
        words += [sys.executable, str(WORKER), "--loop", loop, "--tool", tool, "--rate", str(rate)]
        done = subprocess.run(
            [*words, "--calls", str(calls)], env=_environment(), capture_output=True, text=True, check=False
        )
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or found is None:
        raise SystemExit(done.stderr)
    return int(found[1])


def of_a_call(loop: str, tool: str, rate: int) -> int:
    """Instructions of one call of ``loop``."""
    return _instructions(loop, tool, rate, 2) - _instructions(loop, tool, rate, 1)


def instructions(loops: list[str], rate: int) -> None:
    """Prints the table of instructions."""
    print(f"{'loop':16}{'engine':>16}{'with a profile':>16}{'cost':>9}")
    ratios = []
    for loop in loops:
        bare, profiled = of_a_call(loop, "engine", rate), of_a_call(loop, "profile", rate)
        ratios.append(profiled / bare)
        print(f"{loop:16}{bare:16,}{profiled:16,}{profiled / bare - 1:9.2%}", flush=True)
    mean = math.exp(statistics.fmean(map(math.log, ratios)))
    print(f"{'geometric mean':48}{mean - 1:9.2%}")


def _time(loop: str, tool: str, rate: int) -> float:
    words = [sys.executable, str(WORKER), "--loop", loop, "--tool", tool, "--rate", str(rate)]
    if tool == "fil":
        words = [sys.executable, "-m", "filprofiler", "-o", tempfile.mkdtemp(), "--no-browser", "run", *words[1:]]
    done = subprocess.run(words, env=_environment(), capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise SystemExit(f"{tool}: {done.stderr}")
    return json.loads(lines[-1])["time"]


def times(loops: list[str], rate: int, count: int) -> None:
    """Prints the table of times."""
    tools = ["engine", "profile", "tracemalloc"]
    if importlib.util.find_spec("memray"):
        tools += ["memray", "memray-python"]
    if importlib.util.find_spec("filprofiler"):
        tools.append("fil")
    print(f"{'loop':16}" + "".join(f"{tool:>15}" for tool in tools))
    for loop in loops:
        rounds = []
        for i in range(count):
            order = ["default", *tools][:: 1 if i % 2 == 0 else -1]
            rounds.append({tool: _time(loop, tool, rate) for tool in order})
        medians = (statistics.median(each[tool] / each["default"] for each in rounds) for tool in tools)
        print(f"{loop:16}" + "".join(f"{median:14.2f}x" for median in medians), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument(
        "--times", action="store_true", help="CPU times beside other tools, rather than instructions"
    )
    parser.add_argument("--rate", type=int, default=512 << 10, help="bytes between samples in the mean")
    parser.add_argument("--rounds", type=int, default=5, help="of --times")
    parser.add_argument("loops", nargs="*", metavar="LOOP", default=LOOPS.split())
    options = parser.parse_args()
    if not options.times and shutil.which("valgrind") is None:
        print("missing: valgrind; on Debian or Ubuntu: apt-get install valgrind", file=sys.stderr)
        return 1
    if options.times:
        times(options.loops, options.rate, options.rounds)
    else:
        instructions(options.loops, options.rate)
    return 0


if __name__ == "__main__":
    sys.exit(main())
