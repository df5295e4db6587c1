"""A web service that keeps rendered pages, bounded in items before, by memory after.

    python examples/case_studies/web_cache.py [--requests N]

Pages have 1 to 256 KiB, and some are asked for far more often than others. In the second half of the day most
requests are for large ones. Now and then a report takes 24 MiB. The service may use 64 MiB in all. Before:
``functools.lru_cache`` with as many items as fit on average. After: a ``Cache`` that is charged to the service's
budget and gives way to the report.
"""

from __future__ import annotations

import argparse
import functools
import random
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import nativemem
from nativemem.structures import Cache

LIMIT, REPORT, PAGES, EVERY = 64 << 20, 24 << 20, 4000, 500
KIB = 1 << 10


def render(number: int) -> bytes:
    """A page, always the same one."""
    size = KIB << (0, 1, 2, 3, 4, 5, 6, 6, 7, 8)[number % 10]
    return b"%06d" % number * (size // 6)


@dataclass
class Outcome:
    """Of a run: pages that were there already, of all; bytes at most; requests' times; reports beyond the limit."""

    hits: float = 0.0
    peak: int = 0
    refused: int = 0
    times: tuple[float, ...] = ()

    def row(self, name: str) -> str:
        slow = statistics.quantiles(self.times, n=100)[98] * 1e6
        return f"{name:8}{self.hits:9.1%}{self.peak / (1 << 20):11.1f}{self.refused:17}{slow:9.0f}"


def requests(count: int) -> list[int]:
    rng = random.Random(4)
    made = [int(PAGES * rng.random() ** 2) for _ in range(count)]
    for turn in range(count // 2, count):
        if turn % 10:
            made[turn] = made[turn] // 10 * 10 + 7 + turn % 3
    return made


def serve(count: int, page: Callable[[int], bytes], report: Callable[[], None]) -> tuple[float, ...]:
    times = []
    for turn, number in enumerate(requests(count)):
        start = time.perf_counter()
        page(number)
        times.append(time.perf_counter() - start)
        if turn % EVERY == EVERY - 1:
            report()
    return tuple(times)


def before(count: int) -> Outcome:
    """So many items as fit on average; nothing knows of bytes, so the limit is passed unseen."""
    average = sum(len(render(number)) for number in range(100)) // 100
    items = (LIMIT - REPORT) // average
    held: dict[int, int] = {}
    cached = functools.lru_cache(maxsize=items)(render)
    done = Outcome()

    def page(number: int) -> bytes:
        result = cached(number)
        held.pop(number, None)
        held[number] = len(result)
        while len(held) > items:
            del held[next(iter(held))]
        return result

    def report() -> None:
        used = sum(held.values()) + REPORT
        done.peak = max(done.peak, used)
        done.refused += used > LIMIT

    done.times = serve(count, page, report)
    info = cached.cache_info()
    done.hits = info.hits / (info.hits + info.misses)
    return done


def after(count: int) -> Outcome:
    """As many bytes as others leave."""
    warnings.simplefilter("ignore", nativemem.MemoryPressure)
    budget = nativemem.Budget(LIMIT, "service", on_pressure=lambda *asked: cache.on_pressure(*asked))
    cache = Cache(PAGES, getsizeof=len, budget=budget)
    done = Outcome()

    def report() -> None:
        try:
            with budget.reserve(REPORT):
                pass
        except nativemem.BudgetExceeded:
            done.refused += 1

    done.times = serve(count, lambda number: cache.get_or_compute(number, lambda: render(number)), report)
    done.hits, done.peak = cache.cache_info().hit_rate, budget.peak
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    count = parser.parse_args().requests
    print(f"{'':8}{'hits':>9}{'peak MiB':>11}{'beyond the limit':>17}{'p99 us':>9}")
    print(before(count).row("before"))
    print(after(count).row("after"))


if __name__ == "__main__":
    main()
