"""Histograms of sizes and latencies: percentiles, and how they are printed."""

from __future__ import annotations

import os
import sys

from .._version import __version__
from ..sizes import format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TextIO

__all__ = ["percentiles", "show", "show_all"]

#: (the bucket's largest, blocks in it)
Counts = list[tuple[int, int]]
_WIDTH = 40


def percentiles(counts: Counts) -> dict[int, int] | None:
    """The nearest-rank percentiles of ``(size, count)`` pairs, in whatever order."""
    total = sum(count for _, count in counts)
    if not total:
        return None
    ascending, result = sorted(counts), {}
    for p in (50, 90, 99):
        rank = -(-p * total // 100)
        for size, count in ascending:
            rank -= count
            if rank <= 0:
                result[p] = size
                break
    return result


def show(title: str, sizes: Counts, latencies: Counts, backend: str, file: TextIO | None = None) -> None:
    """Prints both, to ``file`` (None: stderr), and what they were measured on."""
    blocks = sum(count for _, count in sizes)
    lines = [f"{title}: {blocks} {'block' if blocks == 1 else 'blocks'}"]
    lines += _table("size up to", [(format_size(size), count) for size, count in sizes])
    lines += _summary(" size", sizes, format_size)
    lines += _table("upstream took up to", [(_time(ns), count) for ns, count in latencies])
    lines += _summary(" time", latencies, _time)
    lines.append(f"  {environment(backend)}")
    print(*lines, sep="\n", file=sys.stderr if file is None else file)


def show_all(backend: Any) -> None:
    """Prints, to stderr, those of all that the process has traced on a backend; nothing where there was nothing."""
    sizes, latencies = backend.histograms()
    if sizes:
        show("nativemem: all that was traced", sizes, latencies, backend.name)


def _table(head: str, rows: list[tuple[str, int]]) -> list[str]:
    most = max((count for _, count in rows), default=0)
    lines = [f"  {head:>19}  {'blocks':>10}"] if rows else []
    return lines + [f"  {name:>19}  {count:>10}  {'#' * -(-count * _WIDTH // most)}" for name, count in rows]


def _summary(what: str, counts: Counts, shown: Callable[[int], str]) -> list[str]:
    found = percentiles(counts)
    return [] if found is None else [f"  {what}: " + ", ".join(f"p{p} {shown(n)}" for p, n in found.items())]


def _time(ns: int) -> str:
    for unit, size in (("s", 10**9), ("ms", 10**6), ("us", 10**3)):
        if ns >= size:
            return f"{ns / size:.3g} {unit}"
    return f"{ns} ns"


def environment(backend: str) -> str:
    """What a measurement was made on, in one line."""
    import platform  # here: it takes longer than all the rest of this package's import

    return (
        f"nativemem {__version__} ({backend}), {platform.python_implementation()} {platform.python_version()}, "
        f"{platform.platform()}, {os.cpu_count()} CPUs"
    )
