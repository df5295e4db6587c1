"""Slots: what object pools of threads and of coroutines share.

A *slot* is the right to have one object; there are ``max_size``. It is held by an object that lies idle, by one
that is out, and by a caller that is about to make one. Invariant: slots held <= max_size, and while a caller waits
all of them are. No callback runs with the pool's lock held.
"""

from __future__ import annotations

import collections
import math
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, NoReturn, TypeVar

from ..config import parse_count
from ..errors import ConfigError, PoolExhausted, StaleHandle, shown

__all__ = ["CLOSED", "SLOT", "Entry", "Lent", "PoolHealth", "Slots", "T", "Waiter", "seconds"]

T = TypeVar("T")


@dataclass(frozen=True)
class PoolHealth:
    """How a pool does: objects ``idle`` and ``in_use``, callers ``waiting``, ``max_size``; and since it was made:
    ``created``, ``destroyed``, ``checkouts``; ``failures`` of the factory, ``validate``, ``reset`` and the hooks,
    with the last of them, ``last_failure``; ``leaked``, leases that were dropped without being given back."""

    idle: int
    in_use: int
    waiting: int
    max_size: int
    created: int
    destroyed: int
    checkouts: int
    failures: int
    leaked: int
    last_failure: BaseException | None = None

    @property
    def utilization(self) -> float:
        """Objects in use, of those that there may be: 0 to 1."""
        return self.in_use / self.max_size

    @property
    def failure_rate(self) -> float:
        """Failures for each checkout that was tried; 0 before the first."""
        tried = self.checkouts + self.failures
        return self.failures / tried if tried else 0.0

    @property
    def leak_rate(self) -> float:
        """Leases that were dropped, of all checkouts: 0 to 1."""
        return self.leaked / self.checkouts if self.checkouts else 0.0


class Entry:
    """An object of the pool."""

    __slots__ = ("born", "value")

    def __init__(self, value: Any, born: float) -> None:
        self.value, self.born = value, born


#: what a caller is granted in place of an object: the slot for a new one; that the pool was closed
SLOT, CLOSED = object(), object()


class Waiter:
    """A caller that waits; ``grant`` is what it was given."""

    __slots__ = ("grant", "wake")

    def __init__(self, wake: Callable[[], Any]) -> None:
        self.grant: Any = None
        self.wake = wake


def seconds(value: Any, label: str, least: float = 0.0) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value < math.inf:
        raise ConfigError(f"{label}: takes seconds from {least:g} on, or None, not {shown(value)}")
    return float(value)


class _Lock:
    """A lock whose holder does ``after`` once it has let go: what a finalizer left that met it held."""

    def __init__(self, after: Callable[[], None]) -> None:
        self._lock, self._after = threading.Lock(), after

    def try_enter(self) -> bool:
        return self._lock.acquire(blocking=False)

    def leave(self) -> None:
        self._lock.release()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._lock.release()
        self._after()


class Slots(Generic[T]):
    """What both kinds of pool share: which slot is whose. Its methods call no code of the user."""

    def __init__(
        self,
        factory: Callable[[], Any],
        reset: Callable[[T], Any] | None = None,
        validate: Callable[[T], Any] | None = None,
        max_size: int = 8,
        ttl: float | None = None,
        *,
        on_create: Callable[[T], Any] | None = None,
        on_checkout: Callable[[T], Any] | None = None,
        on_checkin: Callable[[T], Any] | None = None,
        on_destroy: Callable[[T], Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = type(self).__name__
        if not callable(factory):
            raise ConfigError(f"pool.factory: takes a callable, not {shown(factory)}")
        callbacks = {
            "reset": reset,
            "validate": validate,
            "on_create": on_create,
            "on_checkout": on_checkout,
            "on_checkin": on_checkin,
            "on_destroy": on_destroy,
        }
        for label, callback in callbacks.items():
            if callback is not None and not callable(callback):
                raise ConfigError(f"pool.{label}: takes a callable or None, not {shown(callback)}")
        if not callable(clock):
            raise ConfigError(f"pool.clock: takes a callable, not {shown(clock)}")
        self._max_size = parse_count(max_size, "pool.max_size", least=1)
        self._ttl = seconds(ttl, "pool.ttl")
        self._factory, self._callbacks, self._clock = factory, callbacks, clock
        self._lock = _Lock(self._settle_leaks)
        self._idle: list[Entry] = []  # the last one in comes out first: the others may grow old
        self._waiters: collections.deque[Waiter] = collections.deque()
        self._leaks: collections.deque[Entry] = collections.deque()
        self._slots = self._out = self._created = self._destroyed = self._checkouts = 0
        self._failures = self._leaked = 0
        self._last_failure: BaseException | None = None
        self._is_closed = False

    # --- slots

    def _request(self, wake: Callable[[], Any], create: bool = True) -> Any:
        """An idle object, a slot, or a place in the queue; None where no slot may be taken and nothing is idle."""
        with self._lock:
            if self._is_closed:
                return CLOSED
            if self._idle:
                return self._idle.pop()
            if not create:
                return None
            if self._slots < self._max_size:
                self._slots += 1
                return SLOT
            waiter = Waiter(wake)
            self._waiters.append(waiter)
            return waiter

    def _stop_waiting(self, waiter: Waiter) -> Any:
        """What it was granted; None where it was nothing, and then it waits no longer."""
        with self._lock:
            if waiter.grant is None:
                self._waiters.remove(waiter)
            return waiter.grant

    def _pass_on(self, grant: Any) -> bool:
        """To the first caller that waits. With the lock."""
        if not self._waiters:
            return False
        waiter = self._waiters.popleft()
        waiter.grant = grant
        waiter.wake()
        return True

    def _free_slot(self) -> None:
        with self._lock:
            if not self._pass_on(SLOT):
                self._slots -= 1

    def _next(self) -> Any:
        """In place of an object that was destroyed: an idle one, or its slot."""
        with self._lock:
            if self._idle:
                self._slots -= 1
                return self._idle.pop()
            return SLOT

    def _put(self, entry: Entry) -> bool:
        """Back to the others. False: the pool is closed."""
        with self._lock:
            if self._is_closed:
                return False
            if not self._pass_on(entry):
                self._idle.append(entry)
            return True

    def _shut(self) -> list[Entry]:
        """Wakes all that wait; what was idle."""
        with self._lock:
            self._is_closed = True
            while self._pass_on(CLOSED):
                pass
            idle, self._idle = self._idle, []
            return idle

    # --- counting

    def _count(self, **by: int) -> None:
        with self._lock:
            for name, n in by.items():
                setattr(self, f"_{name}", getattr(self, f"_{name}") + n)

    def _failed(self, error: BaseException | None) -> None:
        with self._lock:
            self._failures += 1
            self._last_failure = error

    def _is_old(self, entry: Entry) -> bool:
        return self._ttl is not None and self._clock() - entry.born >= self._ttl

    # --- leases that were dropped

    def _leak(self, entry: Entry) -> None:
        """From a finalizer, which may have come into the midst of anything; where that has the lock, it settles
        this afterwards."""
        self._leaks.append(entry)
        self._settle_leaks()

    def _settle_leaks(self) -> None:
        """The objects may be in use somewhere still, so they are given up, not destroyed."""
        while self._leaks and self._lock.try_enter():
            try:
                while self._leaks:
                    self._leaks.popleft()
                    self._leaked += 1
                    self._out -= 1
                    if not self._pass_on(SLOT):
                        self._slots -= 1
            finally:
                self._lock.leave()

    # --- for both

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._is_closed

    @property
    def health(self) -> PoolHealth:
        """Counters and rates, as a :class:`PoolHealth`."""
        with self._lock:
            return PoolHealth(
                len(self._idle),
                self._out,
                len(self._waiters),
                self._max_size,
                self._created,
                self._destroyed,
                self._checkouts,
                self._failures,
                self._leaked,
                self._last_failure,
            )

    def _raise_closed(self) -> NoReturn:
        raise StaleHandle(f"{self._name}: is closed")

    def _raise_exhausted(self, timeout: float | None) -> NoReturn:
        raise PoolExhausted(
            f"{self._name}: all {self._max_size} objects are in use, and none came back within {timeout:g} s",
            suggestion="give objects back sooner, wait for longer, or make the pool with a larger max_size",
            requested=1,
            used=self._max_size,
            limit=self._max_size,
            capacity=self._max_size,
            available=0,
            utilization=1.0,
        )

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(f"cannot copy or pickle {self._name!r}: its objects are out once")

    def __repr__(self) -> str:
        h = self.health
        state = "closed, " if self._is_closed else ""
        return f"<{self._name} {state}{h.in_use} in use, {h.idle} idle, of {h.max_size}>"


class Lent(Generic[T]):
    """An object that is out."""

    def __init__(self, pool: Any, entry: Entry) -> None:
        self._pool, self._entry = pool, entry
        self._dropped = weakref.finalize(self, pool._leak, entry)
        self._dropped.atexit = False

    @property
    def value(self) -> T:
        """The object. Raises :class:`StaleHandle` once it was given back."""
        if self._entry is None:
            raise StaleHandle("ObjectPool: the object was given back")
        return self._entry.value

    def _end(self) -> Entry | None:
        """The object, for the one caller that gives it back."""
        if self._dropped.detach() is None:
            return None
        entry, self._entry = self._entry, None  # type: ignore[assignment]
        return entry
