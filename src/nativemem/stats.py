"""The figures that allocators, budgets and the process have alike.

They do not change: any thread may read them.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Stats"]


@dataclass(frozen=True)
class Stats:
    """Counters of an allocator, a budget or the process at one moment; sizes in bytes.

    ``current`` bytes in live blocks, ``peak`` the highest ``current``, ``reserved`` bytes taken from
    upstream, ``limit`` the most allowed (None: no limit), ``total`` bytes ever handed out, ``live`` blocks,
    ``count`` blocks ever handed out, ``frees`` blocks given back, ``failures`` calls refused for want of
    memory, of which there are two where a budget was asked for room and refused again; ``largest_free`` the largest
    block, at alignment 1, that would be served now (None: not known). A freed block of an arena counts as live
    until reset.

    Of a budget, blocks are charges: ``current`` is what is charged, which is all that is ``reserved``, and
    ``failures`` are denials. Of the process, they are what the engine serves: ``current`` is what it holds for
    live blocks, in whole pages, ``reserved`` that and what it keeps for reuse, ``total`` an estimate above 32
    KiB. Neither counts what comes back one by one: there ``live`` and ``frees`` are 0.

    >>> stats = Stats(300, 400, 1000, None, 1200, 3, 10, 7, 0, 500)
    >>> stats.efficiency, stats.fragmentation, stats.turnover
    (0.3, 0.7, 3.0)
    """

    current: int
    peak: int
    reserved: int
    limit: int | None
    total: int
    live: int
    count: int
    frees: int
    failures: int
    largest_free: int | None = None

    @property
    def efficiency(self) -> float:
        """The share of ``reserved`` that is in live blocks; 1 where nothing is reserved."""
        return min(self.current / self.reserved, 1.0) if self.reserved else 1.0

    @property
    def fragmentation(self) -> float:
        """The share of ``reserved`` that is in no live block; 0 where nothing is reserved."""
        return max(self.reserved - self.current, 0) / self.reserved if self.reserved else 0.0

    @property
    def turnover(self) -> float:
        """How many times ``peak`` was handed out: 1 where nothing was used again, 0 where nothing was handed
        out."""
        return self.total / self.peak if self.peak else 0.0
