"""Slab: small blocks of a few sizes."""

from __future__ import annotations

from collections.abc import Iterable

from ..config import SlabConfig
from .base import Allocator

__all__ = ["Slab"]


class Slab(Allocator):
    """Small blocks of a few sizes, allocated and freed in any order.

    Parameters: ``bins``, ascending cell sizes in bytes, multiples of 16 up to 4096; ``zero_on_free``;
    ``upstream``. Larger blocks go to upstream. Belongs to the thread that made it: ``alloc`` from another
    raises :class:`WrongThread`, ``free`` from another is queued. When that thread ends live blocks stay valid,
    and their memory goes back with the last free. A block frees itself when collected.

    >>> import nativemem
    >>> slab = nativemem.Slab()
    >>> slab.alloc(40).usable
    64
    """

    __slots__ = ()
    _fields = ("config",)
    _config = SlabConfig
    config: SlabConfig

    def __init__(
        self,
        bins: Iterable[int | str] = (32, 64, 128, 256),
        zero_on_free: bool = False,
        upstream: Allocator | None = None,
    ) -> None:
        config = SlabConfig(bins, zero_on_free)
        upstream = self._upstream(upstream)
        core = self._make("SlabCore", upstream, upstream._core, config.bins, config.zero_on_free)
        self._open(core, upstream)
        self.config = config  # a slot of the bound class

    def trim(self) -> None:
        """Gives every empty superblock back to upstream. Only the slab's own thread may call it.

        >>> import nativemem
        >>> slab = nativemem.Slab()
        >>> slab.alloc(100).free(); slab.trim(); slab.stats.reserved
        0
        """
        self._call(self._opened().trim())
