"""What blocks of :mod:`nativemem.interop.memlib` come from."""

from __future__ import annotations

from typing import Any

from .base import Allocator

__all__ = ["Memlib"]


class Memlib(Allocator):
    """What blocks of memlib come from; not for users."""

    __slots__ = ()
    _fields = ("_below",)
    _below: Any

    def __init__(self, below: Any = None) -> None:
        self._below = below
        if below is None:
            core = self._make("MemlibCore", self)
        else:
            hold = memoryview(below.alloc(0))  # a view is out: it can be neither closed nor reset
            core = self._make("MemlibCore", below, below._opened(), hold)
        try:
            self._open(core)
        except BaseException:  # or what it keeps would stay for good
            core.end()
            raise

    @property
    def owner(self) -> Any:
        """The budget that C's blocks are charged to, too."""
        return None if self._below is None else self._below.owner
