"""Heap: the general allocator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..config import HeapConfig
from ..errors import ConfigError
from .base import Allocator

if TYPE_CHECKING:
    from ..budgets.budget import Budget

__all__ = ["Heap"]


class Heap(Allocator):
    """The general allocator: any size, any thread may allocate and free.

    Parameters: ``budget``, a :class:`Budget` that is charged for what the heap holds, in whole pages
    (None: none); ``secure``, see docs/safety.md (None: as ``NATIVEMEM_SECURE`` says). A block frees itself
    when collected. In a secure heap a free that finds bytes behind the block changed raises
    :class:`CorruptionDetected`.

    >>> import nativemem
    >>> heap = nativemem.Heap()
    >>> heap.alloc(1000).usable
    1008
    """

    __slots__ = ()
    _fields = ("config", "_budget")
    _config = HeapConfig
    config: HeapConfig
    _budget: Budget | None

    def __init__(self, budget: Budget | None = None, *, secure: bool | None = None) -> None:
        config = HeapConfig.from_env() if secure is None else HeapConfig(secure)
        if budget is not None and not isinstance(budget, self._binding.Budget):
            raise ConfigError(
                f"heap.budget: takes a Budget of the {self._backend.name} backend, not {type(budget).__name__}"
            )
        core = self._make("HeapCore", self, None if budget is None else budget._core, config.secure)
        self._open(core)
        self.config = config
        self._budget = budget

    def _confined(self) -> None:
        return None

    @property
    def owner(self) -> Budget | None:
        """The budget that the heap's memory is charged to, or None."""
        return self._budget

    def trim(self) -> None:
        """Gives free memory back to the system at once, rather than after the decay time. Any thread.

        >>> import nativemem
        >>> heap = nativemem.Heap()
        >>> heap.alloc("1 MiB").free(); heap.trim(); heap.stats.current
        0
        """
        self._opened().trim()
