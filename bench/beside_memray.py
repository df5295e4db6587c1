"""Whether a profile says what memray says: the largest lines of a program, with what chance makes of samples.

Usage: beside_memray.py [--rate SIZE]... [--top N] [PROGRAM [ARGUMENT ...]]

Runs PROGRAM (examples/index_stdlib.py) once under memray, which notes each allocation of Python's, on the C
library's malloc so that no arena is counted beside its objects, and once for each rate on the engine with a
profile. Both begin in a process that has imported the same modules. Compared is what each line had when the process
had most. A line of W bytes at a rate of R has about W / R samples, a Poisson number, so its estimate has a standard
deviation of sqrt(W * R), or 1 / sqrt(samples) of it. Exit code 1 where one of the N largest (10) is more than three
away.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import os
import platform
import runpy
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import memray
import peers

import nativemem
from nativemem.observe.profile import Profile
from nativemem.observe.recording import read
from nativemem.sizes import format_size, parse_size

ROOT = Path(__file__).resolve().parents[1]
OBJECTS = {memray.AllocatorType.PYMALLOC_MALLOC, memray.AllocatorType.PYMALLOC_CALLOC}
OBJECTS |= {memray.AllocatorType.PYMALLOC_REALLOC}
Line = tuple[str, int]


def watched(tool: str, file: str, program: list[str]) -> None:
    """Runs the program in this process, watched by `memray` or by a profile of that rate."""
    sys.argv = program
    if tool == "memray":
        watch: Any = memray.Tracker(file, trace_python_allocators=True)
    elif nativemem.install():
        watch = Profile(file, rate=tool)
    else:
        raise SystemExit("the engine did not start")
    with watch, contextlib.redirect_stdout(io.StringIO()):
        try:
            runpy.run_path(program[0], run_name="__main__")
        except SystemExit as end:
            if end.code:
                raise


def run(tool: str, file: Path, program: list[str], **environment: str) -> None:
    """Runs the program in a process of its own; it has to end well."""
    kept = {**peers.clean(os.environ), "PYTHONHASHSEED": "0", **environment}
    words = [sys.executable, __file__, "--watched", tool, str(file), *program]
    done = subprocess.run(words, env=kept, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: exit code {done.returncode}\n{done.stderr}")


def line_of(file: str, line: int) -> Line:
    """A line; of the program's own file memray has the name that it was given, and a profile its path."""
    return (file if file.startswith("<") else os.path.realpath(file), line)


def of_memray(program: list[str], folder: Path) -> Counter[Line]:
    """Bytes at the peak by line, each allocation of Python's noted."""
    file = folder / "run.bin"
    run("memray", file, program, PYTHONMALLOC="malloc")
    found: Counter[Line] = Counter()
    with memray.FileReader(file) as reader:
        for record in reader.get_high_watermark_allocation_records(merge_threads=True):
            if record.allocator not in OBJECTS:
                continue
            stack = record.stack_trace(max_stacks=1)
            found[line_of(stack[0][1], stack[0][2]) if stack else ("", 0)] += record.size
    return found


def of_profile(program: list[str], rate: str, folder: Path) -> tuple[Counter[Line], int]:
    """Bytes at the peak by line, and how many samples there were."""
    file = folder / f"{rate}.nm"
    run(rate, file, program)
    recording = read(file)
    found: Counter[Line] = Counter()
    for site in recording.sites:
        if site.source == "objects":
            found[line_of(site.path.file, site.path.line)] += site.peak
    return found, recording.samples


def compare(rate: str, samples: int, ours: Counter[Line], theirs: Counter[Line], top: int) -> float:
    """Prints the table of one rate. Returns the largest difference in standard deviations."""
    bytes_apart = parse_size(rate, "rate")
    rank = {where: n for n, (where, _) in enumerate(ours.most_common(), 1)}
    print(f"\na sample in {rate}: {samples:,} samples; {format_size(ours.total())} at the peak,", end=" ")
    print(f"memray's objects {format_size(theirs.total())}")
    print(f"{'memray':>12}{'profile':>12}{'rank':>6}{'samples':>9}{'±':>7}{'off by':>9}{'in ±':>7}  line")
    worst = 0.0
    for where, exact in theirs.most_common(top):
        found = ours[where]
        deviation = math.sqrt(exact * bytes_apart)
        off = (found - exact) / deviation
        worst = max(worst, abs(off))
        print(
            f"{format_size(exact):>12}{format_size(found):>12}{rank.get(where, 0):6}{exact / bytes_apart:9,.0f}"
            f"{deviation / exact:7.1%}{found / exact - 1:+9.1%}{off:+7.1f}  {Path(where[0]).name}:{where[1]}"
        )
    return worst


def main() -> int:
    if sys.argv[1:2] == ["--watched"]:
        watched(*sys.argv[2:4], sys.argv[4:])
        return 0
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rate", action="append", help="bytes between samples (512KiB, and 16KiB)")
    parser.add_argument("--top", type=int, default=10)
    parser.add_argument("program", nargs=argparse.REMAINDER, metavar="PROGRAM [ARGUMENT ...]")
    options = parser.parse_args()
    program = options.program or [str(ROOT / "examples" / "index_stdlib.py")]
    shown = " ".join(os.path.relpath(word, ROOT) if os.path.isabs(word) else word for word in program)
    print(f"{shown}, bytes of objects at the peak, by line")
    print(f"CPython {platform.python_version()}, memray {memray.__version__}, Linux {platform.release()}")
    with tempfile.TemporaryDirectory() as folder:
        theirs = of_memray(program, Path(folder))
        worst = 0.0
        for rate in options.rate or ["512KiB", "16KiB"]:
            ours, samples = of_profile(program, rate, Path(folder))
            worst = max(worst, compare(rate, samples, ours, theirs, options.top))
    print(f"\nthe largest difference is {worst:.1f} standard deviations: ", end="")
    print("within sampling error" if worst <= 3 else "more than chance")
    return 0 if worst <= 3 else 1


if __name__ == "__main__":
    sys.exit(main())
