"""The columns of a large CSV file: strings before, handles of an intern table after.

    python examples/case_studies/csv_columns.py [--rows N]

Four columns with 6 to 5,000 different values each. Memory is that of the process for the columns; the query counts
the rows of each pair of country and product. Each side runs in a process of its own.
"""

from __future__ import annotations

import argparse
import csv
import gc
import itertools
import json
import os
import random
import subprocess
import sys
import time
from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nativemem.structures import InternTable

BATCH = 10_000
COLUMNS = {"country": 50, "city": 2000, "product": 5000, "status": 6}


def lines(rows: int) -> Iterator[str]:
    """The file, some rows at a time."""
    rng = random.Random(7)
    names = {name: [f"{name} number {i * 7919 % 9973:04d}" for i in range(n)] for name, n in COLUMNS.items()}
    for _ in range(rows):
        yield ",".join(rng.choice(values) for values in names.values()) + "\n"


def before(rows: int) -> tuple[Any, Any]:
    columns: list[list[str]] = [[] for _ in COLUMNS]
    for row in csv.reader(lines(rows)):
        for column, value in zip(columns, row, strict=True):
            column.append(value)
    return columns, lambda text: text


def after(rows: int) -> tuple[Any, Any]:
    table = InternTable()
    columns = [array("Q") for _ in COLUMNS]
    reader = csv.reader(lines(rows))
    while batch := list(itertools.islice(reader, BATCH)):
        for column, values in zip(columns, zip(*batch, strict=True), strict=True):
            column += table.acquire_many(values)
    return columns, table.str


def rss() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure(side: str, rows: int) -> dict[str, Any]:
    sum(map(len, lines(min(rows, BATCH))))  # what that leaves is of neither side
    gc.collect()
    held, start = rss(), time.perf_counter()
    columns, text = {"before": before, "after": after}[side](rows)
    read = time.perf_counter() - start
    gc.collect()
    held = rss() - held
    start = time.perf_counter()
    counts = Counter(zip(columns[0], columns[2], strict=True))
    query = time.perf_counter() - start
    found = sorted((text(a), text(b), n) for (a, b), n in counts.items())
    return {"bytes": held, "read": read, "query": query, "pairs": len(found), "first": found[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--side", choices=["before", "after"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(measure(options.side, options.rows)))
        return
    found = {}
    print(f"{'':8}{'MiB':>8}{'read s':>9}{'query s':>9}")
    for side in ("before", "after"):
        words = [sys.executable, __file__, "--rows", str(options.rows), "--side", side]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        each = found[side] = json.loads(done.stdout)
        print(f"{side:8}{each['bytes'] / (1 << 20):8.1f}{each['read']:9.2f}{each['query']:9.2f}")
    answers = [(each["pairs"], each["first"]) for each in found.values()]
    same = "the same" if answers[0] == answers[1] else "different"
    print(f"{options.rows} rows, {answers[0][0]} pairs; the answers are {same}")


if __name__ == "__main__":
    main()
