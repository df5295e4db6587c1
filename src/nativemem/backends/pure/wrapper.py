"""What the cores of wrappers have in common."""

from __future__ import annotations

from typing import Any

from .counted import Counted, Make


class WrapperCore(Counted):
    def __init__(self, upstream: Any) -> None:
        super().__init__()
        self._upstream = upstream
        self._wipes = upstream._wipes

    def usable(self, size: int, align: int) -> int:
        """Bytes behind a block of this layout."""
        return self._upstream.usable(size, align)

    def check(self) -> int:
        """As upstream."""
        return self._upstream.check()

    def check_free(self) -> int:
        """As upstream."""
        return self._upstream.check_free()

    def _free(self, size: int, align: int, memory: Any) -> None:
        self._upstream._free(size, align, memory)
        self._count_free(size)

    def _resize(self, old: int, size: int, memory: Any, apply: Make) -> bool:
        if not self._upstream._resize(old, size, memory, apply):
            return False
        self._count_resize(old, size)
        return True
