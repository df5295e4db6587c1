"""The core of System."""

from __future__ import annotations

from typing import Any

from .counted import Counted, Make


class SystemCore(Counted):
    """Counts; Python gives the memory."""

    def usable(self, size: int, align: int) -> int:
        """Bytes behind a block of this layout."""
        return size

    def _alloc(self, size: int, align: int, make: Make) -> Any:
        memory = self._memory(size, make)
        self._count_alloc(size)
        return memory

    def _free(self, size: int, align: int, memory: Any) -> None:
        self._count_free(size)

    def _resize(self, old: int, size: int, memory: Any, apply: Make) -> bool:
        if size > old:
            return False
        if not apply():
            return False
        self._count_resize(old, size)
        return True
