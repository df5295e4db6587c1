"""Parsers that are expensive to make: one for each request before, a pool after.

    python examples/case_studies/parser_pool.py [--requests N]

A parser compiles a grammar of a hundred patterns. Four threads answer requests. Before: each request makes a parser
of its own, so as many are alive as threads are at work. After: an ``ObjectPool`` of two, whose parsers are reset
when they come back.
"""

from __future__ import annotations

import argparse
import itertools
import re
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from nativemem.structures import ObjectPool

WORDS, THREADS, POOL = 95, 4, 2
_numbers = itertools.count()


class Parser:
    """Tells the words of a small language; keeps what it has seen until it is reset."""

    made = alive = most = 0
    _lock = threading.Lock()

    def __init__(self) -> None:
        number = next(_numbers)  # a pattern of its own: re keeps those it has compiled
        patterns = (f"(?P<w{i}>word{i}[a-f]{{{i % 5 + 1}}}(?:-[0-9]+)?)" for i in range(WORDS))
        self._grammar = re.compile("|".join(patterns) + f"|(?P<none>never {number})")
        self.seen: list[str] = []
        with Parser._lock:
            Parser.made += 1
            Parser.alive += 1
            Parser.most = max(Parser.most, Parser.alive)

    def parse(self, text: str) -> int:
        self.seen += [match.lastgroup or "" for match in self._grammar.finditer(text)]
        return len(self.seen)

    def reset(self) -> None:
        self.seen.clear()

    def close(self) -> None:
        with Parser._lock:
            Parser.alive -= 1


def request(number: int) -> str:
    return " ".join(f"word{(number + i) % WORDS}{'abcdef'[: (number + i) % WORDS % 5 + 1]}" for i in range(20))


def before(number: int) -> int:
    parser = Parser()
    try:
        return parser.parse(request(number))
    finally:
        parser.close()


def run(answer: Callable[[int], int], count: int) -> tuple[float, float, int]:
    """Seconds in all, milliseconds of the slowest in a hundred, and what was found."""
    times: list[float] = []

    def timed(number: int) -> int:
        start = time.perf_counter()
        found = answer(number)
        times.append(time.perf_counter() - start)
        return found

    start = time.perf_counter()
    with ThreadPoolExecutor(THREADS) as threads:
        found = sum(threads.map(timed, range(count)))
    return time.perf_counter() - start, statistics.quantiles(times, n=100)[98] * 1e3, found


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--requests", type=int, default=200)
    count = arguments.parse_args().requests
    pool = ObjectPool(Parser, reset=Parser.reset, max_size=POOL, on_destroy=Parser.close)

    def after(number: int) -> int:
        with pool.get(timeout=60) as parser:
            return parser.parse(request(number))

    found = set()
    print(f"{'':8}{'seconds':>9}{'p99 ms':>9}{'made':>7}{'alive at most':>15}")
    for name, answer in (("before", before), ("after", after)):
        Parser.made = Parser.alive = Parser.most = 0
        seconds, slow, words = run(answer, count)
        found.add(words)
        print(f"{name:8}{seconds:9.2f}{slow:9.1f}{Parser.made:7}{Parser.most:15}")
    pool.close()
    print(f"{count} requests, {found.pop()} words each time" if len(found) == 1 else "the answers differ")


if __name__ == "__main__":
    main()
