"""How much data a budget takes: objects of one size until the limit is met (P11).

Usage: budget_table.py [--limit SIZE] [--kind KIND] [--sweep N] [--seed N] [--below SHARE] [--mix] [BYTES ...]

Each size fills a budget in a process of its own, under the engine. Prints the share of the limit that is data,
and that of the data with what Python adds to it: a ``bytes`` has 33 bytes before its data, a ``bytearray`` or an
array an object beside it, and the list that keeps them 8 bytes for each. A ``block`` is one of ``Heap``'s, and
has nothing but its bytes; its budget is the heap's, and no larger than 400,000 blocks fill.

``--sweep`` draws so many sizes from 64 bytes to 16 MiB, from each doubling as many; ``--below`` prints those rows
alone whose second share is less, and then the least of all; ``--mix`` adds a row in which the sizes take turns.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
from itertools import cycle
from typing import Any

SIZES = (1000, 1500, 3000, 5000, 8200, 9345, 12_000, 20_480, 33_000, 36_865, 45_000, 66_000, 100_001, 150_001)
SIZES += (300_000, 777_777, 1_500_000, 3_000_001, 7_777_777, 16_777_216)
SMALLEST, DOUBLINGS = 64, 18
#: of them at most, as each has an object of Python's that is not the heap's
BLOCKS = 400_000


def bytes_(limit: int) -> Any:
    return bytes, 33 + 8


def bytearray_(limit: int) -> Any:
    return bytearray, 56 + 1 + 8


def array(limit: int) -> Any:
    import numpy as np

    return lambda size: np.empty(size, np.uint8), np.ndarray.__basicsize__ + 8


def block(limit: int) -> Any:
    import nativemem

    return nativemem.Heap(nativemem.Budget(limit)).alloc, 0


KINDS = {"bytes": bytes_, "bytearray": bytearray_, "array": array, "block": block}


def fill(kind: str, limit: int, sizes: list[int]) -> tuple[int, int]:
    """Bytes of data until the budget refuses more, and of the data with what Python adds to it."""
    import nativemem

    make, added = KINDS[kind](limit)
    nativemem.install(limit=None if kind == "block" else limit)
    kept: list[Any] = []
    data = 0
    try:
        for size in cycle(sizes):
            kept.append(make(size))
            data += size
    except MemoryError:
        n = len(kept)
        kept.clear()
    return data, data + n * added


def measure(kind: str, limit: int, sizes: list[int]) -> tuple[float, float]:
    """Both shares of the limit."""
    if kind == "block":
        limit = min(limit, max(BLOCKS * sum(sizes) // len(sizes), 1 << 20))
    program = f"import budget_table; print(*budget_table.fill({kind!r}, {limit}, {sizes}))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=sys.path[0]
    )
    data, whole = map(int, done.stdout.split())
    return data / limit, whole / limit


def swept(n: int, seed: int) -> list[int]:
    """So many sizes, as many from each doubling."""
    draw = random.Random(seed)
    return [round(SMALLEST * 2 ** (DOUBLINGS * (i + draw.random()) / n)) for i in range(n)]


def main() -> None:
    from nativemem.sizes import parse_size

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", default="512 MiB")
    parser.add_argument("--kind", default="bytes", choices=KINDS)
    parser.add_argument("--sweep", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--below", type=float, default=2.0)
    parser.add_argument("--mix", action="store_true")
    parser.add_argument("sizes", type=int, nargs="*")
    options = parser.parse_args()
    limit = parse_size(options.limit)
    sizes = options.sizes or (swept(options.sweep, options.seed) if options.sweep else list(SIZES))
    print(f"| {options.kind} | data in {options.limit} | and what Python adds |\n| ---: | ---: | ---: |")
    shares = []
    for row in [[size] for size in sizes] + [sizes] * options.mix:
        data, whole = measure(options.kind, limit, row)
        shares.append((whole, data, row))
        name = f"{row[0]:,}" if len(row) == 1 else "all of them in turn"
        if whole < options.below:
            print(f"| {name} | {data:.3f} | {whole:.3f} |", flush=True)
    least, data, row = min(shares)
    name = f"{row[0]:,} bytes" if len(row) == 1 else "all of them"
    print(f"\nThe least of {len(shares)}: {least:.3f} ({data:.3f} data), at {name}.")


if __name__ == "__main__":
    main()
