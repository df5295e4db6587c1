"""How much data a budget takes: objects of one size until the limit is met (P11).

Usage: budget_table.py [--limit SIZE] [--mix] [BYTES ...]

Each size fills a budget in a process of its own, under the engine. Prints the bytes of data, which are those of the
blocks without what Python puts before them, and their share of the limit. ``--mix`` adds a row in which the sizes
take turns.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from itertools import cycle
from typing import Any

SIZES = (1000, 1500, 3000, 5000, 8200, 9345, 12_000, 20_480, 33_000, 36_865, 45_000, 66_000, 100_001, 150_001)
SIZES += (300_000, 777_777, 1_500_000, 3_000_001, 7_777_777, 16_777_216)


def fill(sizes: list[int]) -> int:
    """Bytes of data until the budget refuses more."""
    kept: list[Any] = []
    data = 0
    try:
        for size in cycle(sizes):
            kept.append(b"x" * size)
            data += size
    except MemoryError:
        kept.clear()
    return data


def measure(limit: int, sizes: list[int]) -> int:
    program = (
        f"import nativemem; nativemem.install(limit={limit})\n"
        f"import budget_table; print(budget_table.fill({sizes}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=sys.path[0]
    )
    return int(done.stdout)


def main() -> None:
    from nativemem.sizes import parse_size

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", default="512 MiB")
    parser.add_argument("--mix", action="store_true")
    parser.add_argument("sizes", type=int, nargs="*")
    options = parser.parse_args()
    limit = parse_size(options.limit)
    sizes = options.sizes or list(SIZES)
    print(f"| size | data of {options.limit} | share |\n| ---: | ---: | ---: |")
    for row in [[size] for size in sizes] + [sizes] * options.mix:
        data = measure(limit, row)
        name = f"{row[0]:,}" if len(row) == 1 else "all of them in turn"
        print(f"| {name} | {data >> 20} MiB | {data / limit:.2f} |", flush=True)


if __name__ == "__main__":
    main()
