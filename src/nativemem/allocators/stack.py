"""Stack: blocks that end in the reverse order of their making."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from ..config import StackConfig
from ..errors import Refusal
from ..refusals import is_full, space
from .rewindable import Rewindable

if TYPE_CHECKING:
    from typing_extensions import Self

    from .base import Allocator

__all__ = ["Stack"]


class Stack(Rewindable):
    """Blocks that end in the reverse order of their making; each gives its memory back at once.

    Parameters: ``capacity``, bytes for blocks and the padding between them, taken from ``upstream`` (None:
    the system) at once; ``patterns``, for debugging: new blocks are filled with 0xCC, freed ones with 0xDD.

    Belongs to the thread that made it: any call from another raises :class:`WrongThread`. Freeing a block that
    is not the newest raises :class:`LifoViolation` and changes nothing. A block that nothing refers to stays
    until it is dropped by ``reset``, ``release``, the end of a ``frame`` or ``close``. Raises
    :class:`CapacityExceeded` where a block does not fit. ``resize`` serves the newest block.

    >>> import nativemem
    >>> with nativemem.Stack("64 KiB") as stack:
    ...     with stack.frame():
    ...         a, b = stack.alloc(100), stack.alloc(200)
    ...         try:
    ...             a.free()
    ...         except nativemem.errors.LifoViolation as error:
    ...             print(error)
    ...     stack.stats.current
    Stack: the block of 100 bytes is not the newest; blocks above it are live
    0
    """

    __slots__ = ()
    _fields = ("config", "_marks")
    _config = StackConfig
    config: StackConfig

    def __init__(self, capacity: int | str, upstream: Allocator | None = None, *, patterns: bool = False) -> None:
        config = StackConfig(capacity, patterns)
        upstream = self._upstream(upstream)
        core = self._make("StackCore", upstream, upstream._core, config.capacity, config.patterns)
        self._open(core, upstream, auto=False)
        self.config = config
        self._marks = []

    def frame(self) -> AbstractContextManager[Self]:
        """Context manager: drops what was allocated inside, also when the body raises.

        >>> import nativemem
        >>> stack = nativemem.Stack(1000)
        >>> with stack.frame():
        ...     block = stack.alloc(900)
        >>> stack.alloc(900).size
        900
        """
        return self._rewound("stack's frame")

    @staticmethod
    def _explain(allocator: Any, refused: Refusal, layout: tuple[int, int] | None) -> tuple[dict[str, Any], str]:
        requested = refused.requested
        state = space(requested, refused.used, refused.limit)
        state["largest_free"] = state["available"]
        if requested > refused.limit:
            return state, f"no block of this size ever fits: make it with a capacity of at least {requested} bytes"
        if requested <= state["available"]:
            return state, "the bytes are there, but not at that alignment: align less, or free the newest blocks"
        if is_full(state):
            return state, f"it is {state['utilization']:.0%} full: free the newest blocks, or end a frame"
        return state, ""
