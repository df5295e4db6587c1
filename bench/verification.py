"""What each verification level costs: nanoseconds an operation, as a table in Markdown.

Usage: python bench/verification.py [--repeat N]

Of a provider of 4 KiB 64 bytes are read and written; of a manager, and of a
heap in a Verified, 64 bytes are allocated and given back. Each figure is the least processor time of N runs: what
took more was disturbed.
"""

from __future__ import annotations

import argparse
import platform
import time
import timeit
from collections.abc import Callable

import nativemem
from nativemem.manager import Level, MemoryManager, StaticProvider, StdProvider

USED, PIECE = 4096, 64


def calls(level: Level) -> dict[str, Callable[[], object]]:
    """What is timed, by its name."""
    data = b"x" * PIECE
    std, static = StdProvider(verification=level), StaticProvider(USED, verification=level)
    for provider in (std, static):
        provider.resize(USED)
    verified = nativemem.Verified(nativemem.Heap(), level)
    manager = MemoryManager({"bench": "1 MiB"}, verification=level)
    return {
        "static read": lambda: static.read_bytes(1000, PIECE),
        "static write": lambda: static.write_bytes(1000, data),
        "std read": lambda: std.read_bytes(1000, PIECE),
        "std write": lambda: std.write_bytes(1000, data),
        "verified block": lambda: verified.alloc(PIECE).free(),
        "managed block": lambda: manager.deallocate(manager.allocate("bench", PIECE)),
    }


def nanoseconds(call: Callable[[], object], repeat: int) -> float:
    timer, loops = timeit.Timer(call, timer=time.thread_time), 1000
    return min(timer.repeat(repeat, loops)) / loops * 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=50)
    repeat = parser.parse_args().repeat
    empty = nanoseconds(lambda: None, repeat)
    where = f"CPython {platform.python_version()}, {nativemem.backend} backend"
    print(f"{where}, nanoseconds less the {empty:.0f} of an empty call\n")
    names = list(calls(Level.OFF))
    print(f"| level | {' | '.join(names)} |\n| --- |{' --- |' * len(names)}")
    for level in Level:
        row = [nanoseconds(call, repeat) - empty for call in calls(level).values()]
        print(f"| {level.name} | {' | '.join(f'{each:.0f}' for each in row)} |")


if __name__ == "__main__":
    main()
