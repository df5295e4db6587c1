"""ObjectPool: expensive objects, made once and used again, by threads."""

from __future__ import annotations

import threading
from typing import Any

from .slots import CLOSED, SLOT, Entry, Lent, Slots, T, Waiter, seconds

__all__ = ["Lease", "ObjectPool"]


class Lease(Lent[T]):
    """What :meth:`ObjectPool.get` returns: ``with`` it, or :meth:`release` it. Dropped without either it is counted
    as a leak, and its slot is free again."""

    def release(self) -> None:
        """Gives the object back: it is reset, and serves again. Once that is done it does nothing."""
        entry = self._end()
        if entry is not None:
            self._pool._check_in(entry)

    def discard(self) -> None:
        """Gives the slot back, and has the object destroyed: it is not to be used again."""
        entry = self._end()
        if entry is not None:
            self._pool._count(out=-1)
            self._pool._destroy(entry)
            self._pool._free_slot()

    def __enter__(self) -> T:
        return self.value

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.release()


class ObjectPool(Slots[T]):
    """Objects that are expensive to make, such as parsers, connections, compiled models: made when they are first
    needed, given out one at a time, and used again.

    Parameters: ``factory``, makes one; ``reset(object)``, called when it comes back; ``validate(object)``, called
    before it goes out again, false or an error says that it is of no use any more; ``max_size``, how many there are
    at most; ``ttl``, seconds from an object's making after which it is not given out any more; ``on_create``,
    ``on_checkout``, ``on_checkin``, ``on_destroy``, each called with the object; ``clock``, for ``ttl``.

    The object that came back last goes out first. One whose ``reset`` or ``validate`` fails is destroyed, and its
    slot is free; :attr:`health` has the error. What ``factory``, ``on_create`` and ``on_checkout`` raise comes out
    of :meth:`get`, and the slot is free. Callers that wait are served in their order. Any thread; no callback is
    called with a lock held.

    >>> pool = ObjectPool(dict, reset=dict.clear, max_size=2)
    >>> with pool.get() as scratch:
    ...     scratch["a"] = 1
    >>> with pool.get() as again:
    ...     again is scratch, again
    (True, {})
    """

    def get(self, timeout: float | None = None) -> Lease[T]:
        """An object, for a ``with`` block; a new one where none is idle and ``max_size`` allows it.

        Parameters: ``timeout``, seconds to wait for one to come back (None: for ever; 0: not at all). Raises
        :class:`PoolExhausted` after that, :class:`StaleHandle` where the pool is or gets closed, what the factory
        raises.
        """
        wait = seconds(timeout, "pool.get: timeout")
        event = threading.Event()
        grant = self._request(event.set)
        if isinstance(grant, Waiter):
            grant = self._wait(grant, event, wait)
        return self._lease(grant)

    def _wait(self, waiter: Waiter, event: threading.Event, timeout: float | None) -> Any:
        try:
            event.wait(timeout)
        except BaseException:  # an interrupt: what it was granted meanwhile is the next one's
            self._hand_back(self._stop_waiting(waiter))
            raise
        grant = self._stop_waiting(waiter)
        if grant is None:
            self._raise_exhausted(timeout)
        return grant

    def _hand_back(self, grant: Any) -> None:
        if isinstance(grant, Entry):
            if not self._put(grant):
                self._destroy(grant)
                self._free_slot()
        elif grant is SLOT:
            self._free_slot()

    def try_get(self) -> Lease[T] | None:
        """An object that lies idle, or None: it neither waits nor makes one. Raises :class:`StaleHandle` where the
        pool is closed.

        >>> pool = ObjectPool(dict)
        >>> pool.try_get() is None
        True
        >>> pool.get().release()
        >>> lease = pool.try_get(); lease.discard(); pool.health.destroyed, pool.health.leak_rate
        (1, 0.0)
        >>> pool.health.failure_rate
        0.0
        """
        while True:
            grant = self._request(lambda: None, create=False)
            if grant is None:
                return None
            if grant is CLOSED:
                self._raise_closed()
            if self._is_fit(grant):
                return self._lend(grant)
            self._free_slot()

    def _lease(self, grant: Any) -> Lease[T]:
        while True:
            if grant is CLOSED:
                self._raise_closed()
            if grant is SLOT:
                return self._lend(self._make())
            if self._is_fit(grant):
                return self._lend(grant)
            grant = self._next()

    def _make(self) -> Entry:
        """With a slot, which is free again if it fails."""
        entry = None
        try:
            entry = Entry(self._factory(), self._clock())
            self._count(created=1)
            self._tell("on_create", entry)
        except BaseException as error:
            self._failed(error)
            if entry is not None:
                self._destroy(entry)
            self._free_slot()
            raise
        return entry

    def _is_fit(self, entry: Entry) -> bool:
        """Whether it may go out; else it is destroyed, and its slot is the caller's."""
        validate = self._callbacks["validate"]
        error = None
        try:
            fit = not self._is_old(entry)
            if fit and validate is not None and not validate(entry.value):
                fit = False
                self._failed(None)
        except Exception as caught:
            fit, error = False, caught
        except BaseException:
            self._destroy(entry)
            self._free_slot()
            raise
        if error is not None:
            self._failed(error)
        if not fit:
            self._destroy(entry)
        return fit

    def _lend(self, entry: Entry) -> Lease[T]:
        try:
            self._tell("on_checkout", entry)
        except BaseException as error:
            self._failed(error)
            self._destroy(entry)
            self._free_slot()
            raise
        self._count(out=1, checkouts=1)
        return Lease(self, entry)

    def _tell(self, hook: str, entry: Entry) -> None:
        callback = self._callbacks[hook]
        if callback is not None:
            callback(entry.value)

    def _check_in(self, entry: Entry) -> None:
        self._count(out=-1)
        kept = False
        try:
            self._tell("reset", entry)
            self._tell("on_checkin", entry)
            kept = not self._is_old(entry) and self._put(entry)
        except Exception as error:
            self._failed(error)
        finally:
            if not kept:
                self._destroy(entry)
                self._free_slot()

    def _destroy(self, entry: Entry) -> None:
        self._count(destroyed=1)
        try:
            self._tell("on_destroy", entry)
        except Exception as error:
            self._failed(error)

    def close(self) -> None:
        """Destroys what is idle, and wakes callers that wait, with :class:`StaleHandle`. Objects that are out are
        destroyed when they come back. Idempotent."""
        for entry in self._shut():
            self._destroy(entry)

    def __enter__(self) -> ObjectPool[T]:
        if self._is_closed:
            self._raise_closed()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.close()
