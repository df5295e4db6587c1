"""What the wrappers have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..allocators.base import Allocator

if TYPE_CHECKING:
    from ..allocators.block import Block

__all__ = ["Wrapper"]


class Wrapper(Allocator):
    __slots__ = ()

    if TYPE_CHECKING:  # a size is needed where the upstream needs one

        def alloc(self, size: int | str = ..., align: int = 16) -> Block: ...

    def _largest_free(self) -> int | None:
        return self.upstream._largest_free() if self.upstream is not None and not self.upstream.closed else None

    def _confined(self) -> Allocator | None:
        return self if self.upstream is None else self.upstream._confined()  # None: closed

    def _arena_below(self) -> Any:
        return None if self.upstream is None else self.upstream._arena_below()  # None: closed
