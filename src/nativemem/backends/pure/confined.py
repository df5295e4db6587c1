"""What the cores of allocators have in common that belong to one thread."""

from __future__ import annotations

import weakref

from ...errors import Refusal, Status
from .counted import Counted
from .lock import locked
from .threads import ThreadToken, acting


class ConfinedCore(Counted):
    def __init__(self) -> None:
        super().__init__()
        self._thread = weakref.ref(acting.thread)

    def check(self) -> int:
        """WRONG_THREAD from any thread but the one that made it."""
        return Status.OK if self._thread() is acting.thread else Status.WRONG_THREAD

    def _must_be_here(self) -> None:
        if self._thread() is not acting.thread:
            raise Refusal(Status.WRONG_THREAD)

    @locked
    def hand_over(self, thread: ThreadToken) -> int:
        """From now on it is that thread's, or a Locked's."""
        status = self.check()
        if status == Status.OK:
            self._belongs_to(thread)
        return status

    def _belongs_to(self, thread: ThreadToken) -> None:
        self._thread = weakref.ref(thread)
