"""Times calls that are too short to be timed one by one, each member of a group in turn."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

#: of a function that is timed
CALLS = 1000
UNROLLED = 20


def unrolled(statement: str, names: dict[str, Any], after: str = "") -> Callable[[], None]:
    """A function of CALLS calls, unrolled so that the loop around them does not show, and then ``after``."""
    body = "\n        ".join([statement] * UNROLLED)
    source = f"def run():\n    for _ in turns:\n        {body}\n    {after}"
    known: dict[str, Any] = {"turns": range(CALLS // UNROLLED), **names}
    exec(source, known)
    run: Callable[[], None] = known["run"]
    return run


def turns(runs: dict[str, Callable[[], None]], count: int) -> dict[str, list[float]]:
    """Seconds for each call, for each member in turn, ``count`` times."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    clock = time.perf_counter
    collecting = gc.isenabled()
    gc.disable()
    try:
        for number in range(-count // 10, count):
            for name, run in runs.items():
                start = clock()
                run()
                spent = clock() - start
                if number >= 0:  # the rounds before are for warming up
                    times[name].append(spent / CALLS)
    finally:
        if collecting:
            gc.enable()
    return times
