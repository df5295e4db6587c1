"""Two subsystems in one process: one runs into its limit again and again, the other never notices.

A service answers requests, each with a few thousand objects and an array, and measures how long it takes. A cache
that keeps what it is given is filled in between. Its budget refuses, it drops its oldest entries and goes on. The
latencies of the service are measured with the cache at rest and with the cache at work, in short turns, so that a
noisy machine disturbs both alike.

    python examples/two_subsystems.py [requests of each kind]
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import nativemem

numpy: Any = import_module("numpy") if find_spec("numpy") else None

SERVICE = nativemem.Budget("64 MiB", "service")
CACHE = nativemem.Budget("48 MiB", "cache")
TURN = 20
#: entries of the cache, few: dropping them is not to empty the processor's caches, which are the service's too
DROPPED = 4


@SERVICE
def answer(n: int) -> int:
    """One request: parses, sorts, sums."""
    rows = [{"id": i, "name": f"item {i}", "value": i * n % 97} for i in range(1500)]
    rows.sort(key=lambda row: (row["value"], row["id"]))
    total = sum(row["value"] for row in rows)
    if numpy is not None:
        total += int((numpy.arange(20_000) * n).sum()) % 7
    return total


class Cache:
    """Keeps what it is given until its budget refuses; then it drops its oldest entries."""

    def __init__(self) -> None:
        self.entries: OrderedDict[int, Any] = OrderedDict()
        self.refused = self.filled = 0

    def fill(self) -> None:
        try:
            with CACHE:
                self.entries[self.filled] = [bytes(100 + self.filled % 50) for _ in range(500)]
                self.filled += 1
        except MemoryError:
            self.refused += 1
            for _ in range(min(DROPPED, len(self.entries))):
                self.entries.popitem(last=False)


def latencies(before_each: Callable[[], None]) -> list[float]:
    times = []
    for n in range(TURN):
        before_each()
        start = time.perf_counter()
        answer(n)
        times.append(time.perf_counter() - start)
    return times


def p99(times: list[float]) -> float:
    return statistics.quantiles(times, n=100)[-1]


def main() -> int:
    requests = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    warnings.simplefilter("ignore", nativemem.MemoryPressure)
    nativemem.install()
    cache = Cache()
    while not cache.refused:
        latencies(cache.fill)
    rest: list[float] = []
    work: list[float] = []
    while len(work) < requests:
        rest += latencies(lambda: None)
        work += latencies(cache.fill)
    print(f"cache:   {cache.filled} entries filled in, refused {cache.refused} times, {CACHE}")
    print(f"service: {len(rest) + len(work)} requests, {SERVICE.denied} refused, {SERVICE}")
    for name, times in (("at rest", rest), ("at work", work)):
        print(f"  cache {name}: median {statistics.median(times) * 1e3:.3f} ms, p99 {p99(times) * 1e3:.3f} ms")
    print(f"  ratio of the medians: {statistics.median(work) / statistics.median(rest):.3f}")
    print(f"  ratio of p99: {p99(work) / p99(rest):.3f}")
    return 1 if SERVICE.denied else 0


if __name__ == "__main__":
    raise SystemExit(main())
