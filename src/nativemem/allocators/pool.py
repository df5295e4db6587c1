"""Pool: cells of one size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..config import PoolConfig
from ..errors import Refusal, Status
from ..refusals import space
from .base import Allocator

if TYPE_CHECKING:
    from .block import Block

__all__ = ["Pool"]


class Pool(Allocator):
    """Cells of one size, taken and given back in any order, in constant time.

    Parameters: ``block_size``, bytes, rounded up to a multiple of 16 for the cells; ``count``, cells, taken
    from ``upstream`` (None: the system) at once; ``grow``: when all are in use, take as many again.

    ``alloc()`` takes the block size where none is given. Belongs to the thread that made it: any call from
    another raises :class:`WrongThread`. Raises :class:`PoolExhausted` when all cells are in use,
    :class:`InvalidLayout` for a block that no cell fits, :class:`CorruptionDetected` where a freed cell was
    written to. A block frees itself when collected.

    >>> import nativemem
    >>> pool = nativemem.Pool(100, 1000)
    >>> block = pool.alloc()
    >>> block.size, block.usable
    (100, 112)
    """

    __slots__ = ()
    _fields = ("config",)
    _config = PoolConfig
    config: PoolConfig

    if TYPE_CHECKING:

        def alloc(self, size: int | str = ..., align: int = 16) -> Block: ...

    def __init__(
        self, block_size: int | str, count: int, grow: bool = False, upstream: Allocator | None = None
    ) -> None:
        config: Any = PoolConfig(block_size, count, grow)
        upstream = self._upstream(upstream)
        core = self._make("PoolCore", upstream, upstream._core, config.block_size, config.count, config.grow)
        self._open(core, upstream, natural=config.block_size)
        self.config = config

    def _largest_free(self) -> int | None:
        plane: Any = self
        _, _, _, limit, _, live, *_ = self._core.stats()
        cell = self._usable(plane._natural, 1)
        return cell if not limit or live * cell < limit else 0

    @staticmethod
    def _explain(allocator: Any, refused: Refusal, layout: tuple[int, int] | None) -> tuple[dict[str, Any], str]:
        requested, used, limit = refused.requested, refused.used, refused.limit
        if refused.status == Status.INVALID_LAYOUT:  # of a cell
            if requested > limit:
                advice = f"make the pool for blocks of {requested} bytes"
                return {}, f"{advice}, or use Slab or Heap for blocks of many sizes"
            return {}, "the alignment must divide the cell: make the pool for blocks of a multiple of it"
        state = {**space(requested, used, limit), "largest_free": 0}
        if 2 * used < limit:
            return state, (
                f"its blocks use {state['utilization']:.0%} of their cells: make the pool for smaller blocks, or "
                "use Slab or Heap, which fit the cell to the block"
            )
        return state, ""
