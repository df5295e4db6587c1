"""The core of Locked."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from ...errors import Status
from .counted import Make
from .threads import ThreadToken, acting
from .wrapper import WrapperCore


class LockedCore(WrapperCore):
    """Acts as the owner of what is below it. The backend's lock is all the lock it needs."""

    def __init__(self, upstream: Any) -> None:
        super().__init__(upstream)
        self._acts_as = ThreadToken()

    def check(self) -> int:
        """Any thread."""
        return Status.OK

    check_free = check

    def thread(self) -> ThreadToken:
        """The token that the confined allocators below it are handed to."""
        return self._acts_as

    def enter(self) -> ThreadToken:
        """Has the calling thread act as that one; returns what ``leave`` wants."""
        before, acting.thread = acting.thread, self._acts_as
        return before

    @staticmethod
    def leave(before: ThreadToken) -> None:
        acting.thread = before

    def contended(self) -> int:
        """Not known: the lock is the whole backend's."""
        return 0

    @contextlib.contextmanager
    def _acting(self) -> Iterator[None]:
        before = self.enter()
        try:
            yield
        finally:
            self.leave(before)

    def _alloc(self, size: int, align: int, make: Make) -> Any:
        with self._acting():
            memory = self._from_upstream(self._upstream, size, align, make)
        self._count_alloc(size)
        return memory

    def _free(self, size: int, align: int, memory: Any) -> None:
        with self._acting():
            self._upstream._free(size, align, memory)
        self._count_free(size)

    def _resize(self, old: int, size: int, memory: Any, apply: Make) -> bool:
        with self._acting():
            if not self._upstream._resize(old, size, memory, apply):
                return False
        self._count_resize(old, size)
        return True
