"""Locked: an allocator of one thread for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..errors import Status
from ..refusals import raise_status
from .base import Wrapper

if TYPE_CHECKING:
    from ..allocators.base import Allocator

__all__ = ["Locked"]


class Locked(Wrapper):
    """Lets any thread use allocators that belong to one, such as an arena: one call at a time.

    It takes over what is below it: from then on that refuses every thread, the one that made it too, but for
    calls that come through here. ``close()`` hands it to the thread that closes.

    Parameter: ``upstream``, an allocator (None: the system). Raises :class:`WrongThread` where what is below
    belongs to another thread.

    >>> import nativemem, threading
    >>> arena = nativemem.Arena()
    >>> with nativemem.Locked(arena) as locked:
    ...     thread = threading.Thread(target=lambda: locked.alloc(100))
    ...     thread.start(); thread.join()
    ...     with locked.owning():
    ...         arena.reset()
    >>> arena.stats.current
    0
    """

    __slots__ = ()

    def __init__(self, upstream: Allocator | None = None) -> None:
        upstream = self._upstream(upstream)
        self._open(self._make("LockedCore", upstream, upstream._core), upstream, wraps=True)
        taken: list[Any] = []
        for link in self._below():
            status = link._core.hand_over(self._core.thread())
            if status != Status.OK:
                with self.owning():
                    for other in taken:
                        other._core.hand_over(self._backend.this_thread())
                super().close()
                raise_status(link, status)
            taken.append(link)

    def _confined(self) -> None:
        return None

    def _below(self) -> Iterator[Allocator]:
        """What it takes over: all below, down to another of its kind, which has what is below that."""
        link = self.upstream
        while link is not None and not isinstance(link, Locked):
            yield link
            link = link.upstream

    def _arena_below(self) -> Any:
        return None  # only the owner could take a mark

    @property
    def contended(self) -> int:
        """Calls that had to wait for another. On the pure backend always 0: its one lock is held before.

        >>> import nativemem
        >>> nativemem.Locked(nativemem.Arena()).contended
        0
        """
        return self._core.contended()

    @contextmanager
    def owning(self) -> Iterator[Allocator]:
        """Has this thread be the owner of what is below, for what an allocator does not do through a wrapper: a
        reset, a mark, a close. Yields ``upstream``. Calls of other threads may come between two of its calls.

        Raises :class:`StaleHandle` when closed."""
        core = self._opened()
        before = core.enter()
        try:
            yield self.upstream  # type: ignore[misc]  # None only of a closed one
        finally:
            core.leave(before)

    def close(self) -> None:
        """As every close; then what is below belongs to this thread."""
        if self.closed:
            return
        core, below = self._core, list(self._below())
        before = core.enter()
        try:
            super().close()
            for link in below:
                link._core.hand_over(self._backend.this_thread())
        finally:
            core.leave(before)
