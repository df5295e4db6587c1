"""The core of Heap."""

from __future__ import annotations

import os
from bisect import bisect_left
from typing import Any

from ...errors import Refusal
from .budget import BudgetCore
from .counted import Make
from .system import SystemCore

#: the cell sizes of csrc/heap/bins.c
_BINS = (
    *range(16, 1025, 16),
    *range(1088, 2049, 64),
    *((64 << 10) // n // 64 * 64 for n in (30, 28, 26, *range(24, 7, -1))),
    *((256 << 10) // n // 64 * 64 for n in (30, 28, 26, 24, 22, *range(20, 7, -1))),
)


class HeapCore(SystemCore):
    """The native heap's cell sizes; Python gives the memory. A secure one wipes what is freed; memory here has
    no free lists and no neighbours to protect."""

    #: what the native secure heap adds to a block, and to a span: there it is a page of the system
    _TAIL, _GUARD = 16, os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
    #: the unit of spans
    _PAGE = max(_GUARD, 4096)

    def __init__(self, budget: BudgetCore | None, secure: bool) -> None:
        super().__init__()
        self._budget, self._wipes = budget, secure

    def usable(self, size: int, align: int) -> int:
        """Bytes behind a block of this layout."""
        return size if self._wipes else self._class(size, align)

    def _class(self, size: int, align: int) -> int:
        if self._wipes:
            size += self._TAIL
        if size > _BINS[-1]:
            size += self._GUARD * self._wipes
            return -(-size // self._PAGE) * self._PAGE
        place = bisect_left(_BINS, size)
        while _BINS[place] % align:  # the last has every alignment that may be asked for
            place += 1
        return _BINS[place]

    def _alloc(self, size: int, align: int, make: Make) -> Any:
        """The budget is charged what the block's cell or span takes; a native heap charges pages of
        superblocks and spans."""
        held = self._class(size, align)
        if self._budget is not None:
            try:
                self._budget._hold_or_refuse(held)
            except Refusal:
                self._failures += 1
                raise
        try:
            memory = super()._alloc(size, align, make)
        except Refusal:
            self._discharge(held)
            raise
        if self._budget is not None:
            self._budget._settle()
        return memory

    def _discharge(self, n: int) -> None:
        if self._budget is not None:
            self._budget.release(n)

    def _free(self, size: int, align: int, memory: Any) -> None:
        super()._free(size, align, memory)
        self._discharge(self._class(size, align))

    def _resize(self, old: int, size: int, memory: Any, apply: Make) -> bool:
        if self._class(old, memory._align) != self._class(size, memory._align):
            return False
        if not apply():
            return False
        self._count_resize(old, size)
        return True

    def trim(self) -> None:
        """Nothing is kept."""
