"""The core of Heap."""

from __future__ import annotations

import os
from typing import Any

from ...errors import Refusal
from .budget import BudgetCore
from .chunks import SUPERBLOCK
from .counted import Make
from .system import SystemCore


class HeapCore(SystemCore):
    """The native heap's cell sizes; Python gives the memory. A secure one wipes what is freed; memory here has
    no free lists and no neighbours to protect."""

    #: what the native secure heap adds to a block, and to a span: there it is a page of the system
    _TAIL, _GUARD = 16, os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096

    def __init__(self, budget: BudgetCore | None, secure: bool) -> None:
        super().__init__()
        self._budget, self._wipes = budget, secure

    def usable(self, size: int, align: int) -> int:
        """Bytes behind a block of this layout."""
        return size if self._wipes else self._class(size, align)

    def _class(self, size: int, align: int) -> int:
        if self._wipes:
            size += self._TAIL
        if size > 32768:
            size += self._GUARD * self._wipes
            return -(-size // SUPERBLOCK) * SUPERBLOCK
        cell = -(-size // 16) * 16
        if size > 512:
            step = 1 << ((size - 1).bit_length() - 3)
            cell = -(-size // step) * step
        while cell % align:
            cell += 16 if cell < 512 else 1 << (cell.bit_length() - 3)
        return cell

    def _alloc(self, size: int, align: int, make: Make) -> Any:
        """The budget is charged what the block's cell or span takes; a native heap charges whole superblocks."""
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
