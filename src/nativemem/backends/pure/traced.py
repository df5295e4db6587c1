"""The core of Traced: counts, histograms, sites."""

from __future__ import annotations

import functools
import time
from typing import Any

from ..._frames import Place, places
from .counted import Make
from .lock import lock, locked
from .wrapper import WrapperCore

#: blocks by the largest of the bucket that their size, or upstream's nanoseconds, are in
_Buckets = tuple[dict[int, int], dict[int, int]]
#: of all that the process has traced with a histogram
_process_buckets: _Buckets = ({}, {})


def _ascending(buckets: _Buckets) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    sizes, latencies = (sorted(counts.items()) for counts in buckets)
    return sizes, latencies


def histograms() -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Those of all that the process has traced with a histogram."""
    with lock:
        return _ascending(_process_buckets)


class TracedCore(WrapperCore):
    """Counts what passes through, its sizes, how long upstream takes, and where it was asked for."""

    def __init__(self, upstream: Any, histogram: bool, zero_on_free: bool, depth: int, sample: int) -> None:
        super().__init__(upstream)
        self._zeroes = zero_on_free
        self._buckets: _Buckets | None = ({}, {}) if histogram else None
        self._stacks_of = depth
        #: where what was asked for, by the address of the object that stands for the memory
        self._sites: dict[int, tuple[tuple[Place, ...], int]] = {}
        self._sample = sample
        self._until = 0.0
        if sample:
            from random import Random  # here: it takes long to import

            self._gap = functools.partial(Random(1).expovariate, 1 / sample)
            self._until = self._gap()

    def _is_sampled(self, size: int) -> bool:
        if self._until > size:
            self._until -= size
            return False
        self._until = self._gap()
        return True

    def _alloc(self, size: int, align: int, make: Make) -> Any:
        wanted = bool(self._stacks_of) and (not self._sample or self._is_sampled(size))
        start = time.perf_counter_ns() if self._buckets is not None else 0
        memory = self._from_upstream(self._upstream, size, align, make)
        took = time.perf_counter_ns() - start if self._buckets is not None else 0
        if wanted:
            self._sites[id(memory)] = places(self._stacks_of), size
        self._count_alloc(size)
        if self._buckets is not None:
            for both in zip(self._buckets, _process_buckets, strict=True):
                value = size if both[0] is self._buckets[0] else max(took, 1)
                largest = _bucket_size(value)
                for buckets in both:
                    buckets[largest] = buckets.get(largest, 0) + 1
        return memory

    def _free(self, size: int, align: int, memory: Any) -> None:
        key = id(memory)  # takes memory: not once upstream has the block
        super()._free(size, align, memory)
        self._sites.pop(key, None)
        if self._zeroes:
            memory._fill(0)

    def _resize(self, old: int, size: int, memory: Any, apply: Make) -> bool:
        if not super()._resize(old, size, memory, apply):
            return False
        if id(memory) in self._sites:
            self._sites[id(memory)] = self._sites[id(memory)][0], size
        return True

    @locked
    def histograms(self) -> tuple[list[tuple[int, int]], list[tuple[int, int]]] | None:
        """(largest of the bucket, blocks), ascending, by size and by nanoseconds; None where they are not kept."""
        return None if self._buckets is None else _ascending(self._buckets)

    @locked
    def sites(self) -> tuple[list[Any], list[int]]:
        """Of each block that is known: where it came from, and its size."""
        known = self._sites.values()
        return [frames for frames, _ in known], [size for _, size in known]

    def site_of(self, block: Any) -> Any:
        """Where a live block came from; False where that is not known."""
        return self._sites.get(id(block._memory), (False, 0))[0]

    @staticmethod
    def frames(site: tuple[Place, ...]) -> tuple[Place, ...]:
        return site


def _bucket_size(size: int) -> int:
    """The largest size of the bucket that ``size`` is in: four to each doubling."""
    if size <= 4:
        return size
    step = 1 << ((size - 1).bit_length() - 3)
    return -(-size // step) * step
