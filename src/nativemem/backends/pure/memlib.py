"""The core of what memlib takes from."""

from __future__ import annotations

from typing import Any

from .heap import HeapCore
from .traced import TracedCore


class MemlibCore:
    """Control plane of what :mod:`nativemem.memlib` takes from: ``upstream``, a core, or a heap of its own. Made,
    it is the one or the other."""

    def __new__(cls, upstream: Any = None, hold: Any = None) -> Any:
        core: Any = _OwnMemlib(None, False) if upstream is None else _UpstreamMemlib(upstream, False, False, 0, 0)
        core._hold = hold
        return core


class _Memlib:
    _hold: Any

    @staticmethod
    def pointer(thing: Any) -> None:
        """Memory of C's is nothing here."""

    def end(self) -> None:
        """Another takes its place."""
        if self._hold is not None:
            self._hold.release()


class _OwnMemlib(_Memlib, HeapCore):
    pass


class _UpstreamMemlib(_Memlib, TracedCore):
    def trim(self) -> None:
        """What upstream keeps is its own."""
