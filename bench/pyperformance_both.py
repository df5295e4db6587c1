"""Runs the benchmarks of pyperformance with the engine off and on, and compares them.

    python bench/pyperformance_both.py [--benchmarks json_dumps,go] [--fast | --memory] [--resume]

Each benchmark runs off, on, on, off (--turns 2), so that what changes on the machine changes for both. Both sides
have nativemem on their path; on is NATIVEMEM_AUTOINSTALL=1, for the benchmark's processes and their children. The
files of pyperf are kept below build/pyperformance, those of each turn and, for `pyperf compare_to`, off.json and
on.json; the table is table.md there. Needs pyperformance, and a package registry for what the benchmarks import:
pyperformance installs it into an environment of its own, below build/pyperformance/venv. The benchmarks themselves
need no network. --memory compares the peak resident bytes alone, of a process that measures one value; those do not
depend on what else the machine does.

Exit code: 0, or 1 if a benchmark failed on one side only or ran with the engine in another state than it should.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyperf
from peers import clean
from ratios import machine, shown

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
TOP = ROOT / "build" / "pyperformance"
#: what both sides find nativemem in
SITE = TOP / "site"
SIDES: Mapping[str, Mapping[str, str]] = {"off": {}, "on": {"NATIVEMEM_AUTOINSTALL": "1"}}
PASSED_ON = "PYTHONPATH,NATIVEMEM_AUTOINSTALL"
#: targets, the mean's and each one's: off/on
MEAN, LEAST = 1.08, 0.97
#: of on/off
MEMORY = 1.05
#: starts Python without `site`, and so without the engine
WITHOUT_SITE = "python_startup_no_site"


def run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs in TOP; standard output and standard error are one."""
    env = {**clean(os.environ), **environment}
    env.pop("PYTHONHASHSEED", None)
    return subprocess.run(
        command, cwd=TOP, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )


def install(keep: bool) -> None:
    """nativemem and the hook, into a folder that the benchmarks' environments need not know of."""
    if keep and SITE.exists():
        return
    shutil.rmtree(SITE, ignore_errors=True)
    TOP.mkdir(parents=True, exist_ok=True)
    for stale in (ROOT / "build").glob("lib*"):  # would bring what was deleted since
        shutil.rmtree(stale)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    done = run([*pip, "--target", str(SITE), str(ROOT)], USE_NATIVE_MEM="1")
    if done.returncode:
        raise SystemExit(f"nativemem could not be installed into {SITE}\n{done.stdout}")
    shutil.copytree(HERE / "pyperf_hook", SITE, dirs_exist_ok=True)
    information = SITE / "nativemem_peak_rss-1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: nativemem-peak-rss\nVersion: 1\n")
    (information / "entry_points.txt").write_text("[pyperf.hook]\npeak_rss = nativemem_peak_rss:PeakRSS\n")


def benchmarks(chosen: str | None) -> list[str]:
    """Names, as pyperformance lists them."""
    words = [sys.executable, "-m", "pyperformance", "list"]
    done = run([*words, *(["--benchmarks", chosen] if chosen else [])])
    names = re.findall(r"^- (\w+)$", done.stdout, re.MULTILINE)
    if done.returncode or not names:
        raise SystemExit(f"pyperformance lists no benchmarks\n{done.stdout}")
    return names


def file_of(name: str, side: str, turn: int) -> Path:
    return TOP / side / f"{name}.{turn}.json"


def measure(name: str, side: str, turn: int, options: argparse.Namespace) -> str | None:
    """Writes the turn's file, or returns why there is none."""
    file = file_of(name, side, turn)
    if options.resume and file.exists():
        return None
    file.parent.mkdir(exist_ok=True)
    file.unlink(missing_ok=True)
    words = [sys.executable, "-m", "pyperformance", "run", "--python", sys.executable, "--benchmarks", name]
    words += ["--output", str(file), "--inherit-environ", PASSED_ON, "--hook", "peak_rss"]
    words += ["--timeout", str(options.timeout), *(["--fast"] if options.fast else [])]
    words += ["--debug-single-value"] if options.memory else []
    done = run(words, PYTHONPATH=str(SITE), **SIDES[side])
    file.with_suffix(".log").write_text(done.stdout)
    if done.returncode == 0 and file.exists():
        return None
    file.unlink(missing_ok=True)
    said = [line for line in done.stdout.splitlines() if re.search(r"error", line, re.IGNORECASE)]
    return (said or ["no result"])[-1].strip()


def together(names: list[str], side: str, turns: int) -> pyperf.BenchmarkSuite:
    """What a side's turns measured, in one."""
    whole: dict[str, pyperf.Benchmark] = {}
    for name in names:
        for turn in range(turns):
            for each in pyperf.BenchmarkSuite.load(str(file_of(name, side, turn))):
                if each.get_name() in whole:
                    whole[each.get_name()].add_runs(each)
                else:
                    whole[each.get_name()] = each
    return pyperf.BenchmarkSuite(list(whole.values()))


@dataclass
class Side:
    """One benchmark on one side: seconds, peak resident bytes of a process, the states of the engine."""

    times: list[float]
    peak: float | None
    engine: set[str]

    @classmethod
    def of(cls, benchmark: pyperf.Benchmark) -> Side:
        found: dict[str, list[Any]] = {"peak_rss": [], "nativemem": []}
        # a command's memory is another process's
        command = "command" in benchmark.get_metadata()
        for each in benchmark.get_runs():
            # a run that calibrates may do more, or less, than those that count
            if each.values:
                metadata = each.get_metadata()
                for key, values in found.items():
                    if key in metadata:
                        values.append(metadata[key])
        peaks = found["peak_rss"]
        return cls(
            list(benchmark.get_values()),
            statistics.median(peaks) if peaks and not command else None,
            set(found["nativemem"]),
        )

    def shown(self) -> str:
        spread = statistics.stdev(self.times) if len(self.times) > 1 else 0.0
        return f"{shown(statistics.mean(self.times), 's')} ± {shown(spread, 's')}"


@dataclass
class Row:
    name: str
    off: Side
    on: Side

    @property
    def speed(self) -> float:
        """How many times as fast with the engine on: of means, as ``pyperf compare_to`` has it."""
        return statistics.mean(self.off.times) / statistics.mean(self.on.times)

    @property
    def undisturbed(self) -> float:
        """The same of lower quartiles: what else the machine does only ever makes a run slower."""
        off, on = (sorted(side.times)[len(side.times) // 4] for side in (self.off, self.on))
        return off / on

    @property
    def memory(self) -> float | None:
        return None if self.off.peak is None or self.on.peak is None else self.on.peak / self.off.peak

    @property
    def wrong(self) -> str | None:
        """What state the engine was in, where it was not the side's."""
        for side, wanted in ((self.off, "off"), (self.on, "on")):
            if side.engine != {wanted}:
                return f"{self.name}: {wanted} ran with the engine {' and '.join(sorted(side.engine)) or 'unknown'}"
        return None

    def peaks(self) -> tuple[str, str]:
        memory = self.memory
        return ("", "") if memory is None else (shown(self.off.peak or 0, "B"), f"{memory:.2f}")

    def cells(self) -> tuple[str, ...]:
        """Texts in the order of :data:`HEAD`."""
        speed = f"{self.speed:.2f}"
        if round(self.speed, 2) < LEAST:
            speed = f"**{speed}** below {LEAST}"
        return (self.name, self.off.shown(), self.on.shown(), speed, f"{self.undisturbed:.2f}", *self.peaks())


MEMORY_HEAD = ("benchmark", "peak RSS off", "on/off")
HEAD = (MEMORY_HEAD[0], "off", "on", "off/on", "quartiles", *MEMORY_HEAD[1:])


def memory_sum(found: list[Row]) -> Iterator[str]:
    peaks = [row.memory for row in found if row.memory is not None]
    if peaks:
        above = sum(round(peak, 2) > MEMORY for peak in peaks)
        mean = statistics.geometric_mean(peaks)
        yield f"Peak RSS, geometric mean of {len(peaks)}: {mean:.3f}; {above} above {MEMORY} (target: none)."


def memory_table(found: list[Row], failed: Mapping[str, str]) -> Iterator[str]:
    """Markdown."""
    yield from (f"    {line}" for line in machine())
    yield f"    pyperf {pyperf.__version__}, --debug-single-value"
    yield ""
    yield f"| {' | '.join(MEMORY_HEAD)} |"
    yield "| --- | ---: | ---: |"
    for row in sorted(found, key=lambda row: row.memory or 0):
        if row.memory is not None:
            yield f"| {row.name} | {' | '.join(row.peaks())} |"
    yield ""
    yield from memory_sum(found)
    for name, reason in failed.items():
        yield f"Left out: {name}: {reason}."


def table(found: list[Row], failed: Mapping[str, str], fast: bool) -> Iterator[str]:
    """Markdown."""
    yield from (f"    {line}" for line in machine())
    yield f"    pyperf {pyperf.__version__}{', --fast' if fast else ''}"
    yield ""
    yield "off/on: how many times as fast with the engine on, by the means; quartiles: by the lower quartiles,"
    yield "since what else the machine does only makes runs slower. Peak RSS: the median of the processes', no"
    yield "commands'."
    if any(row.name == WITHOUT_SITE for row in found):
        yield f"{WITHOUT_SITE} starts an interpreter that reads no .pth files, so its commands have no engine."
    yield ""
    yield f"| {' | '.join(HEAD)} |"
    yield f"| --- |{' ---: |' * (len(HEAD) - 1)}"
    for row in sorted(found, key=lambda row: row.speed):
        yield f"| {' | '.join(row.cells())} |"
    yield ""
    speed = statistics.geometric_mean(row.speed for row in found)
    below = sum(round(row.speed, 2) < LEAST for row in found)
    yield f"Geometric mean of {len(found)}: {speed:.3f} (target >= {MEAN}); {below} below {LEAST} (target: none)."
    undisturbed = statistics.geometric_mean(row.undisturbed for row in found)
    below = sum(round(row.undisturbed, 2) < LEAST for row in found)
    yield f"By the lower quartiles: {undisturbed:.3f}; {below} below {LEAST}."
    yield from memory_sum(found)
    for name, reason in failed.items():
        yield f"Left out: {name}: {reason}."


def main() -> int:
    parser = argparse.ArgumentParser(description="pyperformance with the engine off and on")
    parser.add_argument("--benchmarks", metavar="LIST", help="names or groups with commas, -name leaves one out")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--fast", action="store_true", help="rough answers, sooner")
    how.add_argument("--memory", action="store_true", help="peak resident bytes alone, of one value each")
    parser.add_argument("--resume", action="store_true", help="keep what an earlier run measured, and its build")
    parser.add_argument("--turns", type=int, default=2, help="of each side (default: %(default)s)")
    parser.add_argument("--timeout", type=int, default=900, help="seconds of a process (default: %(default)s)")
    options = parser.parse_args()
    install(options.resume)
    names = benchmarks(options.benchmarks)
    failed: dict[str, str] = {}
    bad = 0
    for number, name in enumerate(names):
        errors: dict[str, str] = {}
        for turn in range(options.turns):
            for side in list(SIDES)[:: 1 if (number + turn) % 2 == 0 else -1]:
                if side not in errors:
                    reason = measure(name, side, turn, options)
                    if reason is not None:
                        errors[side] = reason
            if errors:
                failed[name] = "; ".join(f"{side}: {reason}" for side, reason in errors.items())
                bad += len(errors) < len(SIDES)
                break
        print(f"{number + 1}/{len(names)} {name}: {failed.get(name, 'done')}", flush=True)
    measured = [name for name in names if name not in failed]
    if not measured:
        raise SystemExit("nothing was measured")
    suites = {side: together(measured, side, options.turns) for side in SIDES}
    found = []
    for side, suite in suites.items():
        suite.dump(str(TOP / f"{side}.json"), replace=True)
    for name in suites["off"].get_benchmark_names():
        found.append(Row(name, *(Side.of(suites[side].get_benchmark(name)) for side in SIDES)))
    text = "\n".join(memory_table(found, failed) if options.memory else table(found, failed, options.fast))
    (TOP / "table.md").write_text(text + "\n", encoding="utf-8")
    print(text)
    for row in found:
        if row.wrong is not None:
            print(row.wrong)
            bad += 1
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
