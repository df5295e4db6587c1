"""Worker of P3: a container that is built again and again, the one before still alive; plain Python that knows
nothing of nativemem."""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable

import worker


def build_dict(n: int) -> dict[int, int]:
    return {i: i for i in range(n)}


def build_set(n: int) -> set[int]:
    return {i for i in range(n)}  # noqa: C416 - it is to grow


def build_list(n: int) -> list[int]:
    built = []
    for i in range(n):
        built.append(i)  # it is to grow
    return built


def build_bytearray(n: int) -> bytearray:
    built = bytearray()
    for _ in range(n):
        built += b"0123456789"
    return built


def build_join(n: int) -> str:
    return ",".join([str(i) for i in range(n)])


def build_bytesio(n: int) -> io.BytesIO:
    built = io.BytesIO()
    for _ in range(n):
        built.write(b"0123456789")
    return built


KINDS: dict[str, Callable[[int], object]] = {
    "dict": build_dict,
    "set": build_set,
    "list": build_list,
    "bytearray": build_bytearray,
    "join": build_join,
    "BytesIO": build_bytesio,
}
#: items
SIZES = [1000, 2000, 3000, 5000, 8000, 12_000, 20_000, 30_000, 50_000, 80_000, 120_000, 200_000]


def main() -> None:
    parser = worker.parser()
    parser.add_argument("--kind", choices=list(KINDS), required=True)
    parser.add_argument("--items", type=int, required=True)
    options = parser.parse_args()
    worker.install(options.engine)
    build, n = KINDS[options.kind], options.items
    kept = build(n)
    turns = 1 if options.quick else max(20, 1_000_000 // n)
    samples = []
    for _ in range(1 if options.quick else 5):
        start = time.process_time()  # of the process: others on the machine do not count
        for _ in range(turns):
            kept = build(n)
        samples.append((time.process_time() - start) / turns)
    del kept
    worker.report(time=statistics.median(samples), peak_rss=worker.peak_rss())


if __name__ == "__main__":
    main()
