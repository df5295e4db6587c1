"""Worker of P6: a stream of strings, of which few are different, each of them kept once."""

from __future__ import annotations

import gc
import json
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: acquires, different strings, and how many are made at a time, as a reader of a file does
ACQUIRES, DISTINCT, BATCH = 10_000_000, 100_000, 100_000
_PAGE = os.sysconf("SC_PAGE_SIZE")

#: what is kept; from a batch to what stands for its strings; bytes of what is kept, where the process cannot tell
Side = tuple[Any, Callable[[list[str]], Any], Callable[[], int] | None]


def native() -> Side:
    from nativemem.structures import InternTable

    table = InternTable()
    return table, table.acquire_many, None


def dictionary() -> Side:
    kept: dict[str, str] = {}
    setdefault = kept.setdefault
    return kept, lambda batch: list(map(setdefault, batch, batch)), None


def sys_intern() -> Side:
    kept: list[Any] = []  # what is interned goes with its last reference

    def intern(batch: list[str]) -> Any:
        out = list(map(sys.intern, batch))
        if not kept:
            kept.append(out)  # of the first batch, which has each string once
        return out

    return kept, intern, None


def pyarrow() -> Side:
    """Each batch has a dictionary of its own there; kept is the last one."""
    import pyarrow

    kept: list[Any] = []

    def encode(batch: list[str]) -> Any:
        encoded = pyarrow.array(batch).dictionary_encode()
        kept[:] = [encoded.dictionary]
        return encoded

    return kept, encode, lambda: int(kept[0].nbytes)


SIDES = {"native": native, "dict": dictionary, "sys.intern": sys_intern, "pyarrow": pyarrow}


def rss() -> int:
    """Bytes of memory that the process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


def main() -> None:
    side, workload, quick = SIDES[sys.argv[1]], sys.argv[2], sys.argv[3] == "1"
    acquires, distinct = (20_000, 1_000) if quick else (ACQUIRES, DISTINCT)
    rng = random.Random(6)
    numbers = [rng.randrange(distinct) for _ in range(min(BATCH, acquires))]

    def made(order: list[int] | range) -> list[str]:
        return [f"customer/{i * 7919 % 1000003:07d}" for i in order]

    kept, intern, told = side()
    made(numbers)  # what that leaves behind is none of the table's
    gc.collect()
    before = rss()
    intern(made(range(distinct)))
    gc.collect()
    size = told() if told is not None else rss() - before
    same = made(numbers)
    times = []
    for turn in range(1, acquires // len(numbers) + 1):
        values = same if workload == "same" else made([(i + turn) % distinct for i in numbers])
        start = time.perf_counter()
        out = intern(values)
        times.append(time.perf_counter() - start)
        del out, values
    print(json.dumps({"time": sum(times) / (len(times) * len(numbers)), "bytes": size}))


if __name__ == "__main__":
    main()
