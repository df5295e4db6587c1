"""The counters that every core has, and the refusals that they count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...errors import Refusal, Status
from .lock import locked
from .threads import ThreadToken

#: refusals that count as failures: want of memory, not misuse
WANT_OF_MEMORY = (
    Status.OUT_OF_MEMORY,
    Status.EXHAUSTED,
    Status.OVER_BUDGET,
    Status.POOL_EXHAUSTED,
    Status.CAPACITY_EXCEEDED,
)

Numbers = tuple[int, int, int, int, int, int, int, int, int]
Make = Callable[[], Any]


class Counted:
    """The counters that every core has."""

    _wipes: bool = False  # whether memory is zeroed before it is given up

    def __init__(self) -> None:
        self._used = self._peak = self._total = self._live = 0
        self._count = self._frees = self._failures = 0

    @locked
    def stats(self) -> Numbers:
        """used, peak, reserved, limit, total, live, count, frees, failures."""
        return (
            self._used,
            self._peak,
            self._reserved(),
            self._limit(),
            self._total,
            self._live,
            self._count,
            self._frees,
            self._failures,
        )

    def _reserved(self) -> int:
        return self._used

    def _limit(self) -> int:
        return 0

    def check(self) -> int:
        """OK, or WRONG_THREAD."""
        return Status.OK

    def hand_over(self, thread: ThreadToken) -> int:
        """Makes what only one thread may use another's; for all others nothing changes."""
        return Status.OK

    def check_free(self) -> int:
        """OK, or WRONG_THREAD where this thread may not give a block back."""
        return self.check()

    def clear(self) -> int:
        """Gives everything back."""
        return Status.OK

    def diagnose(self) -> dict[str, int]:
        """What a refusal tells of it beside the counters."""
        return {}

    def unwind(self) -> None:
        """Blocks are about to be dropped together."""

    def _destroy(self) -> None:
        """The allocator was collected: no call of it comes any more."""

    def _count_alloc(self, size: int) -> None:
        self._used += size
        self._total += size
        self._live += 1
        self._count += 1
        if self._used > self._peak:
            self._peak = self._used

    def _count_free(self, size: int) -> None:
        self._used -= size
        self._live -= 1
        self._frees += 1

    def _count_resize(self, old: int, size: int) -> None:
        self._used += size - old
        if size > old:
            self._total += size - old
            if self._used > self._peak:
                self._peak = self._used

    def _from_upstream(self, upstream: Any, size: int, align: int, make: Make) -> Any:
        try:
            return upstream._alloc(size, align, make)
        except Refusal as refusal:
            self._failures += refusal.status in WANT_OF_MEMORY
            raise

    def _memory(self, size: int, make: Make) -> Any:
        try:
            return make()
        except MemoryError:
            self._failures += 1
            raise Refusal(Status.OUT_OF_MEMORY, size) from None
