"""What the wrappers have in common."""

from __future__ import annotations

from typing import Any

from ..allocators.base import Allocator

__all__ = ["Wrapper"]


class Wrapper(Allocator):
    __slots__ = ()

    def _arena_below(self) -> Any:
        return None if self.upstream is None else self.upstream._arena_below()  # None: closed
