"""The journal cache: rebuilds its index within a budget, and fails where it needs more.

python examples/journal_cache                       rebuild, print alloc.peak_bytes; exit code 1 above the limit
python examples/journal_cache --parallel 4          so many at once, each with an arena and a budget of its own
python examples/journal_cache --table               beside Python objects alone: jitter, duplicates, peak
"""

from __future__ import annotations

import argparse
import gc
import platform
import statistics
import sys
import time
import tracemalloc
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nativemem

sys.path.insert(0, str(Path(__file__).resolve().parent))

import fixture
import index
import plain
from paths import FakePaths, Paths, PosixPaths

LIMIT, WARN = "256 MiB", 0.8


class Job:
    """One rebuild with a budget of its own."""

    def __init__(self, limit: int | str = LIMIT, number: int = 0) -> None:
        self.warned: list[str] = []
        self.budget = nativemem.Budget(limit, index.OPERATION, warn=WARN, on_pressure=self._pressed)
        self.name = f"cache-index-{number}.bin"

    def _pressed(self, level: str, budget: Any) -> None:
        if level != "refusal":
            self.warned.append(f"{level}: {budget.used} of {budget.limit} bytes")

    def run(self, edges: list[fixture.Edge], files: Paths) -> index.Rebuilt:
        with nativemem.Limited(nativemem.Heap(), self.budget) as memory:
            return index.rebuild(edges, memory, files, self.name)


def report(jobs: list[Job], rebuilt: list[index.Rebuilt]) -> None:
    print(f"fixture sha256={fixture.SHA256}")
    print(f"environment python={platform.python_version()} nativemem={nativemem.__version__} {nativemem.backend}")
    for job, each in zip(jobs, rebuilt, strict=True):
        for warning in job.warned:
            print(f"warning alloc.op={index.OPERATION} {warning}")
        limit = job.budget.limit
        print(f"alloc.peak_bytes={job.budget.peak} alloc.op={index.OPERATION} limit={limit} used={job.budget.used}")
        print(f"index edges={each.edges} paths={each.paths} digest={each.digest[:16]} saved={each.saved_bytes}")


def spread(run: Callable[[], Any], rounds: int) -> tuple[float, float]:
    """Milliseconds of the median run, and of the one in a hundred that is slowest."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times), statistics.quantiles(times, n=100)[98]


def traced_peak(run: Callable[[], Any]) -> int:
    """Bytes of Python objects at the peak."""
    gc.collect()
    tracemalloc.start()
    run()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def table(rounds: int) -> None:
    repository = fixture.Repository(fixture.verified())

    def before() -> str:
        return plain.digest(repository.edges())

    def after() -> index.Rebuilt:
        with nativemem.Heap() as heap:
            return index.rebuild(repository.edges(), heap, FakePaths())

    rebuilt = after()
    assert before() == rebuilt.digest
    job = Job()
    job.run(list(repository.edges()), FakePaths())
    rows = plain.index(repository.edges())
    kept = {"before": traced_peak(before), "after": traced_peak(after) + job.budget.peak}
    duplicates = {"before": plain.duplicate_bytes(rows), "after": 0}
    times = {name: spread(run, rounds) for name, run in (("before", before), ("after", after))}
    print(f"{'':8}{'p50 ms':>9}{'p99 ms':>9}{'duplicate bytes':>17}{'peak KiB':>10}")
    for name, (middle, slow) in times.items():
        print(f"{name:8}{middle:9.1f}{slow:9.1f}{duplicates[name]:17,}{kept[name] / 1024:10.0f}")
    print(f"before: Python objects. after: the index here. {rebuilt.edges} edges, {rounds} rounds of each.")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parallel", type=int, default=1, metavar="N", help="rebuilds at once")
    parser.add_argument("--limit", default=LIMIT, help=f"of one rebuild ({LIMIT})")
    parser.add_argument("--table", action="store_true", help="compare with Python objects")
    parser.add_argument("--rounds", type=int, default=100, help="of the table (100)")
    options = parser.parse_args()
    warnings.simplefilter("ignore", nativemem.MemoryPressure)  # the report has it
    if options.table:
        table(options.rounds)
        return 0
    edges = list(fixture.Repository(fixture.verified()).edges())
    jobs = [Job(options.limit, number) for number in range(options.parallel)]
    files = PosixPaths()
    try:
        with ThreadPoolExecutor(options.parallel) as threads:
            rebuilt = list(threads.map(lambda job: job.run(edges, files), jobs))
    except nativemem.BudgetExceeded as error:
        print(f"fixture sha256={fixture.SHA256}")
        print(f"failed alloc.op={index.OPERATION} {error}", file=sys.stderr)
        return 1
    report(jobs, rebuilt)
    return 0


if __name__ == "__main__":
    sys.exit(main())
