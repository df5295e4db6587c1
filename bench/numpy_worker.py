"""Worker of P2: an expression with temporaries, and the same with out=, at one size."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import worker

if TYPE_CHECKING:
    import numpy.typing

    Array = numpy.typing.NDArray[numpy.float64]

#: what the functions below compute
EXPRESSIONS = {
    "chain": "(x*2 + y)*x - y",
    "nested": "sqrt(x*x + y*y) / (abs(x - y) + 1)",
}


def chain(np: Any, x: Array, y: Array) -> tuple[Callable[[], Array], Callable[[], Array]]:
    """One temporary at a time; from 256 KiB on, NumPy itself goes on in the first one."""
    out = np.empty_like(x)

    def expression() -> Array:
        return (x * 2 + y) * x - y

    def in_place() -> Array:
        np.multiply(x, 2, out=out)
        np.add(out, y, out=out)
        np.multiply(out, x, out=out)
        result: Array = np.subtract(out, y, out=out)
        return result

    return expression, in_place


def nested(np: Any, x: Array, y: Array) -> tuple[Callable[[], Array], Callable[[], Array]]:
    """Several temporaries at a time, and functions, whose arguments NumPy never writes into."""
    out, other = np.empty_like(x), np.empty_like(x)

    def expression() -> Array:
        result: Array = np.sqrt(x * x + y * y) / (np.abs(x - y) + 1)
        return result

    def in_place() -> Array:
        np.multiply(x, x, out=out)
        np.multiply(y, y, out=other)
        np.add(out, other, out=out)
        np.sqrt(out, out=out)
        np.subtract(x, y, out=other)
        np.abs(other, out=other)
        np.add(other, 1, out=other)
        result: Array = np.divide(out, other, out=out)
        return result

    return expression, in_place


def main() -> None:
    """Reports the time of one call of both, their sums, and the shared objects that were loaded."""
    parser = worker.parser()
    parser.add_argument("--expression", choices=list(EXPRESSIONS), required=True)
    parser.add_argument("--size", type=int, required=True, help="bytes of each array")
    options = parser.parse_args()
    worker.install(options.engine)
    import numpy as np

    n = options.size // 8
    make = {"chain": chain, "nested": nested}[options.expression]
    functions = make(np, np.linspace(0.5, 1.5, n), np.linspace(2.0, 3.0, n))
    sums = [float(function().sum()) for function in functions]
    calls = [1 if options.quick else worker.calls_for(function, 0.006) for function in functions]
    samples: list[list[float]] = [[], []]
    for _ in range(1 if options.quick else 5):
        for function, count, times in zip(functions, calls, samples, strict=True):
            times.append(worker.timed(function, count))
    expression, in_place = map(statistics.median, samples)
    maps = Path("/proc/self/maps")
    lines = maps.read_text().splitlines() if maps.exists() else []
    loaded = sorted({line.split()[-1] for line in lines if ".so" in line})
    worker.report(expression=expression, in_place=in_place, sums=sums, loaded=loaded)


if __name__ == "__main__":
    main()
