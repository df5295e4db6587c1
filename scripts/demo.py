"""Run the example programs on the default allocator and under nativemem, side by side.

The programs do not know about nativemem: the same files run as `python FILE` and as
`python -m nativemem run FILE`. The two sides take turns, must print the same, and are measured
from outside: wall time, and the kernel's figure of each child's peak RSS. After that each runs once
more with a profile, which is no part of the figures, and its report is written as a page.

    python scripts/demo.py
    python scripts/demo.py --repeat 5
    python scripts/demo.py --quick --reports FOLDER

Exit codes: 0; 1 when a run fails or the two sides differ; 2 when something needed is missing.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
REPORTS = ROOT / "build" / "demo"
SIDES = ("default", "nativemem")
UNKNOWN = "\N{EN DASH}"
# ru_maxrss counts KiB, except on macOS.
RSS_UNIT = 1 if sys.platform == "darwin" else 1024
# Often enough for a picture of small inputs, too.
PROFILE_RATE = "64KiB"
# Wide enough for the table, so nothing is cut when the output goes to a file or a pipe.
PIPED_WIDTH = 100


class Summary(TypedDict, total=False):
    """What the table takes from the file that `nativemem run -o` writes; sizes in bytes."""

    backend: str
    allocations: int | None
    p50: int | None
    p90: int | None
    p99: int | None
    budget_bytes: int | None
    headroom_bytes: int | None


@dataclass(frozen=True)
class Program:
    """An example and how the demo runs it."""

    name: str
    budget: str
    needs: tuple[str, ...]
    reads: Path
    quick: tuple[str, ...]

    @property
    def script(self) -> Path:
        return EXAMPLES / f"{self.name}.py"

    def missing(self) -> list[str]:
        """Return the modules the program imports that are not installed."""
        return [name for name in self.needs if importlib.util.find_spec(name) is None]


PROGRAMS = (
    Program(
        name="index_stdlib",
        budget="2GiB",
        needs=(),
        reads=Path(sysconfig.get_path("stdlib")),
        quick=("--limit", "40"),
    ),
    Program(
        name="image_pipeline",
        budget="256MiB",
        needs=("numpy", "PIL"),
        reads=EXAMPLES / "images",
        quick=("--rounds", "1", "--size", "128"),
    ),
)


@dataclass(frozen=True)
class Run:
    """One finished child."""

    wall_s: float
    peak_rss_bytes: int
    output: bytes
    summary: Summary


@dataclass
class Result:
    """All runs of a program on one side."""

    program: Program
    side: str
    runs: list[Run] = field(default_factory=list)

    @property
    def wall_s(self) -> float:
        return statistics.median(run.wall_s for run in self.runs)

    @property
    def spread(self) -> tuple[float, float]:
        times = [run.wall_s for run in self.runs]
        return min(times), max(times)

    @property
    def peak_rss_bytes(self) -> float:
        return statistics.median(run.peak_rss_bytes for run in self.runs)

    @property
    def summary(self) -> Summary:
        """The last run's own figures; the default side has none."""
        return self.runs[-1].summary


class DemoError(Exception):
    """A run failed, or the sides disagree."""


def environment() -> dict[str, str]:
    """Return the children's environment: equal on both sides, and nothing that swaps allocators."""
    kept = dict(os.environ)
    for name in ("NATIVEMEM_AUTOINSTALL", "PYTHONMALLOC", "PYTHONTRACEMALLOC"):
        kept.pop(name, None)
    kept["PYTHONHASHSEED"] = "0"
    return kept


def run_child(program: Program, side: str, quick: bool, folder: Path, profile: Path | None = None) -> Run:
    """Run the program once, in a child of its own, and measure it; with a profile, which goes into that file."""
    arguments = [str(program.script), *(program.quick if quick else ())]
    report = folder / "summary.json"
    report.unlink(missing_ok=True)
    if side == "default":
        command = [sys.executable, *arguments]
    else:
        options = ["--budget", program.budget, "--summary", str(report)]
        if profile is not None:
            options += [f"--profile={PROFILE_RATE}", "-o", str(profile)]
        command = [sys.executable, "-m", "nativemem", "run", *options, *arguments]
    # Files, not pipes: nothing has to read while wait4 waits.
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        child = subprocess.Popen(command, stdout=output, stderr=errors, env=environment())
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        printed, complaint = output.read(), errors.read().decode(errors="replace").strip()
    if child.returncode != 0:
        raise DemoError(
            f"{program.name} on the {side} side ended with exit code {child.returncode}:\n"
            f"{complaint or 'it printed nothing on stderr'}"
        )
    summary: Summary = {}
    if side == "nativemem":
        if not report.exists():
            raise DemoError(f"{program.name}: nativemem run ended well but wrote no summary")
        summary = json.loads(report.read_text(encoding="utf-8"))
    return Run(wall, usage.ru_maxrss * RSS_UNIT, printed, summary)


def warm(folder: Path) -> None:
    """Read the program's input once, or the first side alone would pay for a cold disk."""
    for path in folder.rglob("*"):
        if path.suffix in {".py", ".png"} and "site-packages" not in path.parts:
            path.read_bytes()


def compare(program: Program, repeat: int, quick: bool, folder: Path, say: Callable[[str], None]) -> list[Result]:
    """Run both sides in turns; raise DemoError when any two outputs differ."""
    warm(program.reads)
    results = [Result(program, side) for side in SIDES]
    for number in range(1, repeat + 1):
        for result in results:
            run = run_child(program, result.side, quick, folder)
            result.runs.append(run)
            say(f"{program.name}, {result.side}, run {number} of {repeat}: {run.wall_s:.2f} s")
            expected = results[0].runs[0].output
            if run.output != expected:
                raise DemoError(
                    f"{program.name}: run {number} on the {result.side} side printed something "
                    f"else than the first on the default side\n"
                    f"{first_difference(expected, run.output)}"
                )
    return results


def write_reports(programs: list[Program], quick: bool, folder: Path, reports: Path) -> Iterator[str]:
    """Run each program once more with a profile, and write its report as a page; yield a line on each."""
    from nativemem.observe.recording import read
    from nativemem.observe.report import render

    reports.mkdir(parents=True, exist_ok=True)
    for program in programs:
        recording, page = folder / f"{program.name}.nm", reports / f"{program.name}.html"
        run = run_child(program, "nativemem", quick, folder, recording)
        if not recording.exists():
            backend = run.summary.get("backend")
            yield f"{program.name} has no report: a profile is the engine's, and this was {backend}"
            continue
        page.write_bytes(as_bytes(render(read(recording), "html", where=program.name)))
        near = page.relative_to(Path.cwd()) if page.is_relative_to(Path.cwd()) else page
        yield f"{near}: where the memory of {program.name} went, from one more run; open it in a browser"


def as_bytes(made: str | bytes) -> bytes:
    """Return what `render` made as the bytes of a file."""
    return made if isinstance(made, bytes) else made.encode()


def first_difference(expected: bytes, printed: bytes) -> str:
    """Return the first pair of lines that differ."""
    pairs = itertools.zip_longest(expected.splitlines(), printed.splitlines())
    for number, (one, other) in enumerate(pairs, start=1):
        if one != other:
            return f"  line {number} expected {one!r}\n  line {number} printed  {other!r}"
    return "  they differ in line ends only"


def size(value: float | None) -> str:
    """Return a number of bytes in binary units."""
    if value is None:
        return UNKNOWN
    for unit in ("B", "KiB", "MiB"):
        if abs(value) < 1024:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.2f} GiB"


def count(value: int | None) -> str:
    """Return a number with thousands separators."""
    return UNKNOWN if value is None else f"{value:,}"


def rows(results: list[Result]) -> Iterator[list[str]]:
    """Yield the table's rows: a label, then one cell a result."""
    base = {result.program: result for result in results if result.side == "default"}

    def ratio(result: Result) -> str:
        default = base[result.program]
        if result is default:
            return UNKNOWN
        (fast, slow), (least, most) = result.spread, default.spread
        unclear = " (?)" if len(result.runs) > 1 and fast <= most and least <= slow else ""
        return f"{default.wall_s / result.wall_s:.2f}x as fast{unclear}"

    def spread(result: Result) -> str:
        least, most = result.spread
        return UNKNOWN if len(result.runs) == 1 else f"{least:.2f} - {most:.2f} s"

    cells: list[tuple[str, Callable[[Result], str]]] = [
        ("wall time", lambda r: f"{r.wall_s:.2f} s"),
        ("fastest, slowest", spread),
        ("speed", ratio),
        ("peak RSS", lambda r: size(r.peak_rss_bytes)),
        ("allocations", lambda r: count(r.summary.get("allocations"))),
        ("size p50", lambda r: size(r.summary.get("p50"))),
        ("size p90", lambda r: size(r.summary.get("p90"))),
        ("size p99", lambda r: size(r.summary.get("p99"))),
        ("budget", lambda r: size(r.summary.get("budget_bytes"))),
        ("headroom", lambda r: size(r.summary.get("headroom_bytes"))),
        ("backend", lambda r: r.summary.get("backend") or UNKNOWN),
    ]
    for label, cell in cells:
        yield [label, *(cell(result) for result in results)]


def positive(text: str) -> int:
    """Parse a command-line number that must be 1 or more."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {value}")
    return value


def main() -> int:
    """Run the demo and print its table."""
    parser = argparse.ArgumentParser(description="Example programs on both allocators.")
    parser.add_argument("--repeat", type=positive, help="runs of each program on each side (default: 3)")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="tiny inputs, and one run unless --repeat is given: shows that all works, not how fast",
    )
    parser.add_argument("--reports", type=Path, default=REPORTS, help="where the reports go (default: build/demo)")
    options = parser.parse_args()
    repeat = options.repeat or (1 if options.quick else 3)
    for needed, remedy in (("rich", "pip install rich"), ("nativemem", "build or install it")):
        if importlib.util.find_spec(needed) is None:
            print(f"demo: {needed} is not importable here: {remedy}", file=sys.stderr)
            return 2

    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else PIPED_WIDTH, highlight=False)
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as folder:
        for program in PROGRAMS:
            missing = program.missing()
            if missing:
                console.print(f"{program.name} is left out: {', '.join(missing)} not installed")
                continue
            try:
                results += compare(program, repeat, options.quick, Path(folder), console.print)
            except DemoError as error:
                print(f"demo: {error}", file=sys.stderr)
                return 1
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("")
    for result in results:
        heading = f"{result.program.name}\n{result.side}"
        # fold: a narrow terminal breaks long cells instead of cutting them
        table.add_column(heading, justify="right", overflow="fold")
    for row in rows(results):
        table.add_row(*row)
    console.print(table)
    middle = "medians of" if repeat > 1 else "figures of"
    console.print(
        f"CPython {platform.python_version()}, {platform.machine()}, {os.cpu_count()} CPUs; "
        f"time and RSS: {middle} {repeat} {'runs' if repeat > 1 else 'run'} a side."
    )
    if repeat > 1:
        console.print("(?) the times of the two sides overlap: on this machine, now, the runs cannot tell.")
    else:
        console.print("One run a side shows that all works, not how fast.")
    console.print("Both sides printed the same output in every run.")
    programs = [result.program for result in results if result.side == "nativemem"]
    with tempfile.TemporaryDirectory() as folder:
        try:
            for line in write_reports(programs, options.quick, Path(folder), options.reports.resolve()):
                console.print(line, soft_wrap=True)
        except (DemoError, OSError) as error:
            print(f"demo: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
