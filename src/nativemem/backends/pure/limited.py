"""The core of Limited."""

from __future__ import annotations

from typing import Any

from ...errors import Refusal, Status
from .budget import BudgetCore
from .counted import Make
from .lock import locked
from .wrapper import WrapperCore


class LimitedCore(WrapperCore):
    """Charges before upstream serves."""

    def __init__(self, upstream: Any, budget: BudgetCore) -> None:
        super().__init__(upstream)
        self._budget = budget

    def _limit(self) -> int:
        return self._budget._limit

    def _charge(self, n: int) -> None:
        try:
            self._budget._hold_or_refuse(n)
        except Refusal:
            self._failures += 1
            raise

    def _alloc(self, size: int, align: int, make: Make) -> Any:
        self._charge(size)
        try:
            memory = self._from_upstream(self._upstream, size, align, make)
        except Refusal:
            self._budget.release(size)
            raise
        self._budget._settle()
        self._count_alloc(size)
        return memory

    def _free(self, size: int, align: int, memory: Any) -> None:
        self._upstream._free(size, align, memory)
        # what still stands on it when it is destroyed, in a collection, was released with all it had
        self._budget.release(min(size, max(self._used, 0)))
        self._count_free(size)

    def _resize(self, old: int, size: int, memory: Any, apply: Make) -> bool:
        if size > old:
            self._charge(size - old)
        try:
            done = self._upstream._resize(old, size, memory, apply)
        except Refusal:
            if size > old:
                self._budget.release(size - old)
            raise
        if not done:
            if size > old:
                self._budget.release(size - old)
            return False
        if size < old:
            self._budget.release(old - size)
        self._budget._settle()
        self._count_resize(old, size)
        return True

    @locked
    def clear(self) -> int:
        """Gives back what is still charged, for blocks that will not be freed any more."""
        self._destroy()
        return Status.OK

    def _destroy(self) -> None:
        used, self._used = self._used, 0
        self._budget.release(used)
