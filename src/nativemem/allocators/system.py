"""System: the allocator below every chain."""

from __future__ import annotations

from typing import Any

from ..errors import Refusal
from .base import Allocator

__all__ = ["System"]


class System(Allocator):
    """libc's allocator (Python's on the pure backend), counted; the bottom of each chain.

    Any thread may call it. A block frees itself when it is collected.

    >>> import nativemem
    >>> system = nativemem.System()
    >>> block = system.alloc("1 KiB", 64)
    >>> block.size, block.address % 64, system.stats.current
    (1024, 0, 1024)
    >>> block.free(); system.stats.current
    0
    """

    __slots__ = ()

    def __init__(self) -> None:
        self._open(self._make("SystemCore", self))

    def _confined(self) -> None:
        return None

    @staticmethod
    def _explain(allocator: Any, refused: Refusal, layout: tuple[int, int] | None) -> tuple[dict[str, Any], str]:
        return {}, "no machine has so much: look at how the size came about" if refused.requested >> 47 else ""
