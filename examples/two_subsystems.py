"""Two subsystems in one process: one runs into its limit again and again, the other never notices.

A service answers requests, each with a few thousand objects and an array, and measures how long it takes. A cache
that keeps what it is given is filled in between. Its budget refuses, it drops its oldest half and goes on. The
latencies of the service are measured with the cache at rest and with the cache at work, in turns, so that a noisy
machine disturbs both alike.

    python examples/two_subsystems.py [rounds]
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import nativemem

try:
    import numpy
except ImportError:
    numpy = None  # type: ignore[assignment]

SERVICE = nativemem.Budget("64 MiB", "service")
CACHE = nativemem.Budget("48 MiB", "cache")
REQUESTS, ENTRIES = 400, 3


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
    """Keeps what it is given until its budget refuses; then it drops the oldest half."""

    def __init__(self) -> None:
        self.entries: OrderedDict[int, Any] = OrderedDict()
        self.refused = self.filled = 0

    def fill(self) -> None:
        for _ in range(ENTRIES):
            try:
                with CACHE:
                    self.entries[self.filled] = [bytes(100 + self.filled % 50) for _ in range(500)]
                    self.filled += 1
            except MemoryError:
                self.refused += 1
                for _ in range(len(self.entries) // 2):
                    self.entries.popitem(last=False)


def latencies(before_each: Callable[[], None]) -> list[float]:
    times = []
    for n in range(REQUESTS):
        before_each()
        start = time.perf_counter()
        answer(n)
        times.append(time.perf_counter() - start)
    return times


def p99(times: list[float]) -> float:
    return statistics.quantiles(times, n=100)[-1]


def main() -> int:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    warnings.simplefilter("ignore", nativemem.MemoryPressure)
    nativemem.install()
    cache = Cache()
    latencies(cache.fill)  # warm
    rest: list[float] = []
    work: list[float] = []
    ratios = []
    for _ in range(rounds):
        turn = latencies(lambda: None), latencies(cache.fill)
        rest += turn[0]
        work += turn[1]
        ratios.append(p99(turn[1]) / p99(turn[0]))
    print(f"cache:   {cache.filled} entries filled in, refused {cache.refused} times, {CACHE}")
    print(f"service: {len(rest) + len(work)} requests, {SERVICE.denied} refused, {SERVICE}")
    for name, times in (("at rest", rest), ("at work", work)):
        print(f"  cache {name}: median {statistics.median(times) * 1e3:.3f} ms, p99 {p99(times) * 1e3:.3f} ms")
    print(f"  ratio of p99: {p99(work) / p99(rest):.3f}, median of the rounds {statistics.median(ratios):.3f}")
    if not cache.refused:
        print("the cache was never refused: give it more rounds")
    return 0 if cache.refused and not SERVICE.denied else 1


if __name__ == "__main__":
    raise SystemExit(main())
