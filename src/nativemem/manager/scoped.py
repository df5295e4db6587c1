"""A block for a ``with`` block, and the owner that is charged where none is named: the calling package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._folder import PACKAGE
from .._frames import frame_at
from ..sizes import parse_size

if TYPE_CHECKING:
    from ..allocators.block import Block
    from .manager import MemoryManager

__all__ = ["Scoped", "caller", "zeroed_size"]


def caller() -> str:
    """The top-level package of the innermost code that is not this package's; ``"unknown"`` without any."""
    n = 1
    while (frame := frame_at(n)) is not None and frame.f_code.co_filename.startswith(PACKAGE):
        n += 1
    name = None if frame is None else frame.f_globals.get("__name__")
    return name.partition(".")[0] if isinstance(name, str) and name else "unknown"


def zeroed_size(size: Any) -> int:
    """Bytes of a zeroed block, at least 1. Raises :class:`InvalidLayout`."""
    return parse_size(size, "memory: size", least=1)


class Scoped:
    """A block from the beginning of a ``with`` block to its end."""

    __slots__ = ("_blocks", "_manager", "_owner", "_size")

    def __init__(self, manager: MemoryManager, size: Any, owner: str) -> None:
        self._manager, self._size, self._owner = manager, zeroed_size(size), owner
        self._blocks: list[Block] = []

    def __enter__(self) -> Block:
        block = self._manager.allocate(self._owner, self._size, zero=True)
        self._blocks.append(block)
        return block

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        block = self._blocks.pop()
        if not block.alive:
            return
        try:
            self._manager.deallocate(block)
        except BufferError as out:
            if error is None:
                raise
            if hasattr(error, "add_note"):  # what went wrong first goes on; the block goes with the last view
                error.add_note(str(out))
