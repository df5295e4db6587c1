"""Worker of P7: objects replaced at random among many live ones, or those of many owners in their turns."""

from __future__ import annotations

import gc
import random
import statistics
import time
from array import array
from collections.abc import Callable
from contextlib import nullcontext
from itertools import cycle, islice
from typing import Any

import numpy
import worker

#: an object is a slice of it: 33 bytes more than the slice is long
TEXT = bytes(range(64))
PARTS = [slice(k) for k in range(1, 64)]
#: live objects of an owner, and how many it replaces when it is its turn
OWNED, TURN = 100, 10
#: of a sample
STEPS, TURNS = 200_000, 10_000
#: makes ready, untimed, and returns what is timed and how many steps it is
Sample = Callable[[], tuple[Callable[[], None], int]]


def _shuffled(count: int) -> list[bytes]:
    """Objects that are in the list in another order than in memory."""
    made = [TEXT[part] for part in islice(cycle(PARTS), count)]
    order: list[int] = numpy.random.default_rng(1).permutation(count).tolist()
    return [made[i] for i in order]


def _steps(count: int, quick: bool, loop: Callable[[list[bytes], array[int], list[slice]], None]) -> Sample:
    live = _shuffled(count)
    steps = STEPS // 100 if quick else STEPS
    parts = list(islice(cycle(PARTS), steps))
    rng = numpy.random.default_rng(2)

    def sample() -> tuple[Callable[[], None], int]:
        places = array("q", rng.integers(count, size=steps, dtype="i8").tobytes())
        return lambda: loop(live, places, parts), steps

    return sample


def replace(count: int, engine: bool, quick: bool) -> Sample:
    """One of ``count`` live objects, chosen at random, is replaced in each step."""

    def loop(live: list[bytes], places: array[int], parts: list[slice]) -> None:
        text = TEXT
        for place, part in zip(places, parts, strict=True):
            live[place] = text[part]

    return _steps(count, quick, loop)


def touch(count: int, engine: bool, quick: bool) -> Sample:
    """As :func:`replace`, but the object stays, and is only looked at."""

    def loop(live: list[bytes], places: array[int], parts: list[slice]) -> None:
        for place, _ in zip(places, parts, strict=True):
            live[place] = live[place]

    return _steps(count, quick, loop)


def owners(count: int, engine: bool, quick: bool) -> Sample:
    """The next of ``count`` owners replaces some of its objects, within its scope if there is the engine."""
    rng = random.Random(1)
    scopes: list[Any] = [nullcontext() for _ in range(count)]
    if engine:
        import nativemem

        scopes = [nativemem.Budget("1 GiB", f"owner {i}") for i in range(count)]
    those = []
    for scope in scopes:
        with scope:
            those.append((scope, [TEXT[part] for part in islice(cycle(PARTS), OWNED)]))
    rng.shuffle(those)
    turn = cycle(those)
    turns = TURNS // 100 if quick else TURNS
    parts = [PARTS[i * 7 % len(PARTS)] for i in range(TURN)]
    number = 0

    def loop() -> None:
        nonlocal number
        text = TEXT
        for scope, objects in islice(turn, turns):
            at = number % OWNED
            number += TURN
            with scope:
                for part in parts:
                    objects[at] = text[part]
                    at += 1

    return lambda: (loop, turns)


KINDS = {each.__name__: each for each in (replace, touch, owners)}


def main() -> None:
    parser = worker.parser()
    parser.add_argument("--kind", choices=list(KINDS), required=True)
    parser.add_argument("--count", type=int, required=True)
    options = parser.parse_args()
    worker.install(options.engine)
    sample = KINDS[options.kind](options.count, options.engine, options.quick)
    gc.disable()
    times = []
    for _ in range(2 if options.quick else 6):
        function, steps = sample()
        start = time.perf_counter()
        function()
        times.append((time.perf_counter() - start) / steps)
    worker.report(time=statistics.median(times[1:]))


if __name__ == "__main__":
    main()
