"""The core of Failing."""

from __future__ import annotations

from typing import Any

from ...errors import Refusal, Status
from .counted import Make
from .lock import locked
from .wrapper import WrapperCore


class FailingCore(WrapperCore):
    """Refuses the n-th allocation."""

    def __init__(self, upstream: Any, n: int, sticky: bool) -> None:
        super().__init__(upstream)
        self.arm(n, sticky)

    @locked
    def arm(self, n: int, sticky: bool) -> None:
        """Counts from zero again."""
        self._n, self._sticky, self._calls, self._failed = n, sticky, 0, 0

    @locked
    def calls(self) -> tuple[int, int]:
        """Allocations since it was armed, and how many of them it refused."""
        return self._calls, self._failed

    def _alloc(self, size: int, align: int, make: Make) -> Any:
        self._calls += 1
        if self._n and (self._calls == self._n or (self._calls > self._n and self._sticky)):
            self._failed += 1
            self._failures += 1
            raise Refusal(Status.OUT_OF_MEMORY, size)
        memory = self._from_upstream(self._upstream, size, align, make)
        self._count_alloc(size)
        return memory
