"""Worker of P3: one object-heavy loop; plain Python that knows nothing of nativemem."""

from __future__ import annotations

import json
import statistics
import zlib
from collections.abc import Callable
from typing import Any

import worker

LOOPS: dict[str, Callable[[], int]] = {}


def loop(function: Callable[[], int]) -> Callable[[], int]:
    """Adds a loop; it returns a number that depends on all it built."""
    LOOPS[function.__name__.removeprefix("loop_")] = function
    return function


@loop
def loop_json() -> int:
    rows = [
        {
            "id": i,
            "name": f"name {i}",
            "tags": [f"t{i % 7}", f"t{i % 11}"],
            "at": {"x": i * 0.5, "y": -i},
        }
        for i in range(20_000)
    ]
    text = json.dumps(rows)
    again = json.loads(text)
    return zlib.crc32(text.encode()) + len(again)


@loop
def loop_tuples() -> int:
    total = 0
    for _ in range(4):
        rows = [(i, (i + 1, i + 2), (i, i * 3, i * 5)) for i in range(60_000)]
        total += sum(len(c) + b[0] for _, b, c in rows)
    return total


@loop
def loop_dict_of_str() -> int:
    total = 0
    for _ in range(3):
        table = {f"key {i}": f"value {i * 7}" for i in range(80_000)}
        total += sum(map(len, table.values()))
        for i in range(0, 80_000, 2):
            del table[f"key {i}"]
        total += len(table)
    return total


@loop
def loop_float_lists() -> int:
    total = 0.0
    for step in range(6):
        rows = [[j * 0.25 + step for j in range(20)] for _ in range(8_000)]
        columns = [sum(column) for column in zip(*rows, strict=True)]
        total += sum(columns)
    return int(total)


@loop
def loop_trees() -> int:
    def make(depth: int) -> tuple[Any, Any] | None:
        return None if depth == 0 else (make(depth - 1), make(depth - 1))

    def count(tree: tuple[Any, Any] | None) -> int:
        return 0 if tree is None else 1 + count(tree[0]) + count(tree[1])

    kept = make(16)
    return sum(count(make(12)) for _ in range(16)) + count(kept)


class _Point:
    def __init__(self, x: int, y: float, name: str) -> None:
        self.x, self.y, self.name = x, y, name

    def moved(self, by: int) -> _Point:
        return _Point(self.x + by, self.y - by, self.name)


class _Slotted:
    __slots__ = ("left", "right", "value")

    def __init__(self, value: float, left: Any, right: Any) -> None:
        self.value, self.left, self.right = value, left, right


@loop
def loop_instances() -> int:
    total = 0
    for _ in range(2):
        points = [_Point(i, i * 0.5, "p") for i in range(40_000)]
        points = [point.moved(3) for point in points]
        chain = None
        for point in points:
            chain = _Slotted(point.y, chain, None)
        total += sum(point.x for point in points)
        while chain is not None:
            total += int(chain.value)
            chain = chain.left
    return total


@loop
def loop_strings() -> int:
    words = [f"w{i % 977:x}" for i in range(60_000)]
    total = 0
    for width in (3, 10, 40):
        lines = [" ".join(words[i : i + width]) for i in range(0, len(words), width)]
        text = "\n".join(line.title().replace("W", f"<{width}>") for line in lines)
        total += zlib.crc32(text.encode()) + len(text.split())
    return total


def main() -> None:
    parser = worker.parser()
    parser.add_argument("--loop", choices=list(LOOPS), required=True)
    options = parser.parse_args()
    worker.install(options.engine)
    function = LOOPS[options.loop]
    check = function()
    calls = 1 if options.quick else worker.calls_for(function, 0.1)
    samples = [worker.timed(function, calls) for _ in range(1 if options.quick else 5)]
    worker.report(time=statistics.median(samples), check=check, peak_rss=worker.peak_rss())


if __name__ == "__main__":
    main()
