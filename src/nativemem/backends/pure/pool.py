"""The core of Pool."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ...errors import Refusal, Status
from ...sizes import SIZE_MAX
from .chunks import CHUNK_ALIGN, Chunk, give_chunk_back
from .confined import ClearableCore
from .counted import Make
from .lock import lock


class PoolCore(ClearableCore):
    """The native pool's chunks, counted; each block has memory of its own."""

    def __init__(self, upstream: Any, block_size: int, count: int, grow: bool) -> None:
        super().__init__()
        self._upstream, self._grow = upstream, grow
        self._cell = -(-block_size // 16) * 16
        self._align = min(self._cell & -self._cell, CHUNK_ALIGN)
        self._first = count
        self._cells = self._taken = 0
        self._chunks: list[Chunk] = []
        with lock:
            self._take_chunk(count, upstream._alloc)

    def usable(self, size: int, align: int) -> int:
        """Bytes behind a block of this layout."""
        return self._cell

    def _reserved(self) -> int:
        return self._cells * self._cell

    def _limit(self) -> int:
        return 0 if self._grow else self._first * self._cell

    def _take_chunk(self, cells: int, alloc: Callable[..., Any]) -> None:
        size, align = cells * self._cell, self._align
        if size > SIZE_MAX:
            raise Refusal(Status.INVALID_LAYOUT, (1 << 64) - 1)
        chunk = alloc(size, align, lambda: Chunk(size, align))
        self._chunks.append(chunk)
        self._cells += cells

    def _alloc(self, size: int, align: int, make: Make) -> Any:
        self._must_be_here()
        if size > self._cell or align > self._align:
            raise Refusal(Status.INVALID_LAYOUT, size, self._used, self._cell)
        if self._taken == self._cells:
            if not self._grow or not self._cells:
                self._failures += 1
                raise Refusal(Status.POOL_EXHAUSTED, size, self._used, self._reserved())
            self._take_chunk(self._cells, functools.partial(self._from_upstream, self._upstream))
        memory = self._memory(size, make)
        self._taken += 1
        self._count_alloc(size)
        return memory

    def _free(self, size: int, align: int, memory: Any) -> None:
        self._must_be_here()
        self._taken -= 1
        self._count_free(size)

    def _resize(self, old: int, size: int, memory: Any, apply: Make) -> bool:
        self._must_be_here()
        if size > self._cell:
            return False
        if not apply():
            return False
        self._count_resize(old, size)
        return True

    def _destroy(self) -> None:
        while self._chunks:
            give_chunk_back(self._upstream, self._chunks.pop())
        self._frees += self._live
        self._cells = self._taken = self._used = self._live = 0
