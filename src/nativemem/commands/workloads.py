"""What ``nativemem bench`` runs, each in a process of its own: one that prints seconds for one call, as JSON.

``python -m nativemem.commands.workloads WORKLOAD SIDE SECONDS``
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from ..engine.install import install
from ..facades import configured

__all__ = ["WORKLOADS"]


def _objects() -> int:
    rows = [{"id": i, "name": f"name {i}", "at": (i, i + 1)} for i in range(20_000)]
    return sum(len(row["name"]) for row in rows)  # type: ignore[misc, arg-type]


def _engine(objects: bool) -> None:
    if not install(objects=objects, arrays=not objects):
        raise SystemExit("the engine did not start")


def _objects_in(side: str) -> Callable[[], Any]:
    if side == "native":
        _engine(objects=True)
    return _objects


def _charged_in(side: str) -> Callable[[], Any]:
    """All of it charged to an owner, or to what else tells whose memory it is."""
    if side == "tracemalloc":
        import tracemalloc

        tracemalloc.start()
        return _objects
    _engine(objects=True)
    if side == "limit":
        return _objects
    budget = configured().Budget("1 GiB", name="bench")

    def charged() -> None:
        with budget:
            _objects()

    return charged


def _arrays_in(side: str) -> Callable[[], Any]:
    import numpy as np

    if side == "native":
        _engine(objects=False)
    a, b = np.ones(1 << 17), np.ones(1 << 17)
    if side == "limit":
        out = np.empty_like(a)

        def steps() -> None:
            for _ in range(20):
                np.multiply(a, b, out=out)
                np.add(out, a, out=out)

        return steps

    def temporaries() -> None:
        for _ in range(20):
            _ = a * b + a

    return temporaries


def _blocks_in(side: str) -> Callable[[], Any]:
    count = range(10_000)
    if side == "bytearray":

        def arrays() -> None:
            for _ in count:
                bytearray(64)

        return arrays
    if side == "limit":
        give = (1).conjugate

        def calls() -> None:
            for _ in count:
                give()

        return calls
    arena = configured().Arena()
    alloc = arena.alloc

    def blocks() -> None:
        for _ in count:
            alloc(64)
        arena.reset()

    return blocks


#: by name: what it is, how it is made for a side, and its sides, of which the first is ours
WORKLOADS: dict[str, tuple[str, Callable[[str], Callable[[], Any]], tuple[str, ...]]] = {
    "objects": (
        "20,000 dicts, strings and tuples, made and dropped",
        _objects_in,
        ("native", "default", "mimalloc", "jemalloc", "tcmalloc"),
    ),
    "arrays": (
        "NumPy: a * b + a of 1 MiB; limit: with out=",
        _arrays_in,
        ("native", "default", "mimalloc", "jemalloc", "tcmalloc", "limit"),
    ),
    "charged": (
        "the objects charged to an owner; limit: the engine without",
        _charged_in,
        ("native", "tracemalloc", "limit"),
    ),
    "blocks": (
        "Arena.alloc(64); limit: a C method that returns its object",
        _blocks_in,
        ("native", "bytearray", "pure", "limit"),
    ),
}


def _seconds(call: Callable[[], Any], budget: float) -> float:
    """The median time of a call, of as many as fit, five or more."""
    call()
    times: list[float] = []
    until = time.perf_counter() + budget
    while len(times) < 5 or time.perf_counter() < until:
        began = time.process_time()
        call()
        times.append(time.process_time() - began)
    return statistics.median(times)


if __name__ == "__main__":
    _workload, _side, _budget = sys.argv[1:]
    json.dump(_seconds(WORKLOADS[_workload][1](_side), float(_budget)), sys.stdout)
