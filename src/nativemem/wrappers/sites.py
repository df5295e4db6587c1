"""Where blocks were asked for: frames, and the live blocks of each stack of them.

The values that it returns do not change: any thread may read them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

__all__ = ["Frame", "Site"]

#: of one stack
MOST_FRAMES = 128


@dataclass(frozen=True, order=True)
class Frame:
    """A place in a program: ``file``, ``line``, and the ``function`` that the line is in."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} in {self.function}"


@dataclass(frozen=True)
class Site:
    """The live blocks of one stack: ``frames``, innermost first, ``blocks`` and their ``bytes``. Where blocks were
    sampled the two are estimates of all. No frames: no Python code was running, or there was no memory to look."""

    frames: tuple[Frame, ...]
    blocks: int
    bytes: int

    def __str__(self) -> str:
        noun = "block" if self.blocks == 1 else "blocks"
        where = ", from ".join(map(str, self.frames)) or "an unknown place"
        return f"{self.bytes} bytes in {self.blocks} {noun}: {where}"


def gather(sites: Iterable[Any], sizes: Iterable[int], frames: Callable[[Any], Any], sample: int) -> list[Site]:
    """The sites of blocks, most bytes first.

    A block of n bytes is sampled with a probability of ``1 - exp(-n / sample)`` and stands for as many as that
    makes likely (Horvitz and Thompson, A generalization of sampling without replacement, 1952).
    """
    found: dict[Any, list[float]] = {}
    for site, size in zip(sites, sizes, strict=True):
        weight = 1 / -math.expm1(-size / sample) if sample else 1
        sums = found.setdefault(site, [0, 0])
        sums[0] += weight
        sums[1] += weight * size
    merged: dict[tuple[Frame, ...], list[float]] = {}
    for site, (blocks, total) in found.items():
        sums = merged.setdefault(tuple(Frame(*place) for place in frames(site)), [0, 0])
        sums[0] += blocks
        sums[1] += total
    result = [Site(where, round(blocks), round(total)) for where, (blocks, total) in merged.items()]
    return sorted(result, key=lambda site: (-site.bytes, -site.blocks, site.frames))
