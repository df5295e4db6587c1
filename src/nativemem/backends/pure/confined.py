"""What the cores of allocators have in common that belong to one thread."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

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


class ClearableCore(ConfinedCore):
    """One that can give all its memory back while it is there."""

    @locked
    def clear(self) -> int:
        """Drops every block and gives all memory back."""
        if self.check():
            return Status.WRONG_THREAD
        self._destroy()
        return Status.OK


class ResettableCore(ClearableCore):
    """One whose blocks are dropped together: all, or those that are newer than a mark. A subclass says how."""

    _empty: Callable[[], None]  # drops every block
    _mark: Callable[[], tuple[Any, ...]]  # the position now
    check_mark: Callable[[Any], int]
    _return_to: Callable[[Any], None]  # drops what is newer than a mark that check_mark has passed

    @locked
    def reset(self) -> int:
        """Drops every block."""
        if self.check():
            return Status.WRONG_THREAD
        self._empty()
        return Status.OK

    @locked
    def take_mark(self) -> tuple[int, Any]:
        """The position now."""
        if self.check():
            return Status.WRONG_THREAD, None
        return Status.OK, self._mark()

    @locked
    def release(self, mark: Any) -> int:
        """Drops what is newer than the mark."""
        if self.check():
            return Status.WRONG_THREAD
        if self.check_mark(mark):
            return Status.INVALID_MARK
        self._return_to(mark)
        return Status.OK
