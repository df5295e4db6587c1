"""Layers around a cache: one compute for each key, a circuit breaker, a limit on the rate.

A layer hands a ``compute`` of its own to the cache inside, so it sees what is really computed, once, and no hit: a
breaker around a :class:`DedupCache` counts one failure for a hundred callers that shared it.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from ..config import parse_count
from ..errors import CircuitOpenError, ConfigError, RateLimitExceeded, shown
from .composable import Composable
from .slots import seconds

if TYPE_CHECKING:
    from ..budgets.budget import Budget
    from .caches import CacheInfo

__all__ = ["CircuitBreakerCache", "DedupCache", "RateLimitedCache"]

_MISSING = object()


class _Layer(Composable):
    def __init__(self, inner: Any) -> None:
        if not isinstance(inner, Composable):
            raise ConfigError(f"{type(self).__name__}: takes a cache, not {shown(inner)}")
        self._inner: Any = inner
        self._is_async = inner._is_async

    def _layers(self) -> Any:
        return self._inner._layers()

    def get(self, key: Hashable, default: Any = None) -> Any:
        """As :meth:`Cache.get`."""
        return self._inner.get(key, default)

    def get_stale(self, key: Hashable, default: Any = None) -> Any:
        """As :meth:`Cache.get_stale`."""
        return self._inner.get_stale(key, default)

    def set(self, key: Hashable, value: Any) -> None:
        """As the cache's."""
        self._inner.set(key, value)

    def get_or_compute(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """As the cache's; a coroutine where that is an :class:`AsyncCache`."""
        return self._inner.get_or_compute(key, compute)

    def invalidate(self, key: Hashable) -> None:
        """As the cache's."""
        self._inner.invalidate(key)

    def clear(self) -> None:
        """As the cache's."""
        self._inner.clear()

    def cache_info(self) -> CacheInfo:
        """The cache's counters."""
        return self._inner.cache_info()

    def on_pressure(self, level: str, budget: Budget) -> None:
        """As :meth:`Cache.on_pressure`."""
        self._inner.on_pressure(level, budget)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} around {self._inner!r}>"


class DedupCache(_Layer):
    """Callers that want one key at the same time share one compute, and its value or its error, which is not kept.
    What :meth:`Cache.with_dedup` returns, around ``inner``, that cache.

    With an :class:`AsyncCache` the compute is a task of its own: a caller that is cancelled leaves the others, and
    the task, as they are. Callers of other event loops compute for themselves. Any thread.

    >>> import asyncio
    >>> from nativemem.structures import AsyncCache
    >>> async def main():
    ...     cache, calls = AsyncCache().with_dedup(), []
    ...     async def compute():
    ...         calls.append(1)
    ...         return await asyncio.sleep(0, "value")
    ...     values = await asyncio.gather(*(cache.get_or_compute("key", compute) for _ in range(100)))
    ...     return len(calls), set(values)
    >>> asyncio.run(main())
    (1, {'value'})
    """

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self._lock = threading.Lock()
        self._flights: dict[Any, Any] = {}

    def get_or_compute(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """The value of ``key``; of many callers at once only one computes it."""
        return self._share(key, compute) if self._is_async else self._share_threads(key, compute)

    def invalidate(self, key: Hashable) -> None:
        """As the cache's; a caller that comes now does not share what is being computed."""
        with self._lock:
            for flight in [flight for flight in self._flights if flight[1] == key]:
                del self._flights[flight]
        self._inner.invalidate(key)

    def clear(self) -> None:
        """As the cache's; a caller that comes now does not share what is being computed."""
        with self._lock:
            self._flights.clear()
        self._inner.clear()

    def _land(self, flight: Any, thing: Any) -> None:
        with self._lock:
            if self._flights.get(flight) is thing:
                del self._flights[flight]

    async def _share(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        loop = asyncio.get_running_loop()
        flight = (loop, key)
        with self._lock:
            task = self._flights.get(flight)
            if task is None:
                task = self._flights[flight] = loop.create_task(self._inner.get_or_compute(key, compute))
                task.add_done_callback(lambda done: self._landed(flight, done))
        # not asyncio.shield, which from 3.14 on tells the loop of an error that no caller waits for any more
        await asyncio.wait((task,))
        return task.result()

    def _landed(self, flight: Any, task: asyncio.Task[Any]) -> None:
        self._land(flight, task)
        if not task.cancelled():
            task.exception()  # the caller that waited for it may have been cancelled

    def _share_threads(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        flight = (None, key)
        me = threading.get_ident()
        with self._lock:
            future = self._flights.get(flight)
            first = (
                future is None or future.computes_in == me
            )  # in the midst of its own compute: it would wait for ever
            if future is None:
                future = self._flights[flight] = _Flight(me)
        if not first:
            return future.result()
        try:
            value = self._inner.get_or_compute(key, compute)
        except BaseException as error:
            self._land(flight, future)
            if not future.done():
                future.set_exception(error)
            raise
        self._land(flight, future)
        if not future.done():
            future.set_result(value)
        return value


class _Flight(Future):  # type: ignore[type-arg]
    def __init__(self, computes_in: int) -> None:
        super().__init__()
        self.computes_in = computes_in


class _Guarded(_Layer):
    """Lets a compute through, or raises; and is told how it went."""

    def _enter(self) -> Any:
        """Lets a compute through."""

    def _leave(self, entered: Any, error: BaseException | None) -> None:
        """How it went."""

    def get_or_compute(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """As the cache's, where this layer lets the compute through."""
        if self._is_async:
            return self._inner.get_or_compute(key, lambda: self._run_async(compute))
        return self._inner.get_or_compute(key, lambda: self._run(compute))

    def _run(self, compute: Callable[[], Any]) -> Any:
        entered = self._enter()
        try:
            value = compute()
        except BaseException as error:
            self._leave(entered, error)
            raise
        self._leave(entered, None)
        return value

    async def _run_async(self, compute: Callable[[], Any]) -> Any:
        entered = self._enter()
        try:
            value = compute()
            if inspect.isawaitable(value):
                value = await self._within(value)
        except BaseException as error:
            self._leave(entered, error)
            raise
        self._leave(entered, None)
        return value

    async def _within(self, value: Any) -> Any:
        return await value


class CircuitBreakerCache(_Guarded):
    """Spares what is down: after ``failures`` computes in a row that failed it lets none through for
    ``reset_after`` seconds; then one, the probe, whose success closes the circuit and whose failure opens it
    again. Hits are served all the time.

    Parameters: ``inner``, a cache, whose ``with_circuit_breaker`` makes it; ``failures``; ``reset_after``;
    ``timeout``, seconds for one compute of an :class:`AsyncCache` (None: any), which counts as a failure when they
    are over; ``serve_stale``, whether a value that is no longer fresh is returned in place of
    :class:`CircuitOpenError` (the cache keeps it for its ``stale`` seconds); ``clock``.

    What is cancelled counts as nothing. Any thread.

    >>> import nativemem.errors
    >>> from nativemem.structures import Cache
    >>> cache = Cache().with_circuit_breaker(failures=1, reset_after=60, clock=lambda: 0.0)
    >>> try:
    ...     cache.get_or_compute("key", lambda: 1 / 0)
    ... except ZeroDivisionError:
    ...     cache.state
    'open'
    >>> try:
    ...     cache.get_or_compute("key", lambda: 1)
    ... except nativemem.errors.CircuitOpenError as error:
    ...     error.retry_after
    60.0
    """

    def __init__(
        self,
        inner: Any,
        failures: int = 5,
        reset_after: float = 60.0,
        *,
        timeout: float | None = None,
        serve_stale: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(inner)
        self._most = parse_count(failures, "breaker.failures", least=1)
        after = seconds(reset_after, "breaker.reset_after")
        if after is None:
            raise ConfigError("breaker.reset_after: takes seconds")
        self._timeout = seconds(timeout, "breaker.timeout")
        if self._timeout is not None and not self._is_async:
            raise ConfigError("breaker.timeout: goes with an AsyncCache; a thread cannot be stopped")
        if not isinstance(serve_stale, bool):
            raise ConfigError(f"breaker.serve_stale: takes True or False, not {shown(serve_stale)}")
        if not callable(clock):
            raise ConfigError(f"breaker.clock: takes a callable, not {shown(clock)}")
        self._after, self._serves_stale, self._clock = after, serve_stale, clock
        self._lock = threading.Lock()
        self._failed, self._probing = 0, False
        #: when it was opened; None: it is closed
        self._opened: float | None = None

    @property
    def state(self) -> str:
        """``"closed"``, ``"open"``, or ``"half-open"``: the next compute is the probe, or it is under way."""
        with self._lock:
            if self._opened is None:
                return "closed"
            return "open" if self._rest() > 0 and not self._probing else "half-open"

    def _rest(self) -> float:
        return 0.0 if self._opened is None else max(self._opened + self._after - self._clock(), 0.0)

    def _enter(self) -> bool:
        """Whether it is the probe."""
        with self._lock:
            if self._opened is None:
                return False
            rest = self._rest()
            if rest > 0 or self._probing:
                raise CircuitOpenError(
                    f"the circuit is open after {self._failed} failures in a row",
                    suggestion=f"try again in {rest:g} s, or serve what is stale",
                    retry_after=rest,
                    failures=self._failed,
                )
            self._probing = True
            return True

    def _leave(self, was_probe: bool, error: BaseException | None) -> None:
        with self._lock:
            if was_probe:
                self._probing = False
            if error is None:
                # one that began before the circuit opened says nothing of now
                if was_probe or self._opened is None:
                    self._failed, self._opened = 0, None
            elif isinstance(error, Exception):
                self._failed += 1
                if was_probe or (self._opened is None and self._failed >= self._most):
                    self._opened = self._clock()

    async def _within(self, value: Any) -> Any:
        return await asyncio.wait_for(value, self._timeout)

    def get_or_compute(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """As the cache's; raises :class:`CircuitOpenError` where the circuit is open and nothing is to be had."""
        found = super().get_or_compute
        if self._is_async:
            return self._or_stale_async(key, found, compute)
        try:
            return found(key, compute)
        except CircuitOpenError:
            return self._stale(key)

    async def _or_stale_async(self, key: Hashable, found: Any, compute: Callable[[], Any]) -> Any:
        try:
            return await found(key, compute)
        except CircuitOpenError:
            return self._stale(key)

    def _stale(self, key: Hashable) -> Any:
        """In the handler of CircuitOpenError."""
        value = self._inner.get_stale(key, _MISSING) if self._serves_stale else _MISSING
        if value is _MISSING:
            raise
        return value


class RateLimitedCache(_Guarded):
    """What :meth:`Cache.with_rate_limit` returns, around ``inner``, that cache: at most ``rate`` computes a second,
    and ``burst`` at once after a while without (None: one second's); hits are free. Beyond that:
    :class:`RateLimitExceeded`, which says when. (A token bucket.) Any thread.

    >>> import nativemem.errors
    >>> from nativemem.structures import Cache
    >>> cache = Cache().with_rate_limit(1, clock=lambda: 0.0)
    >>> cache.get_or_compute("a", lambda: 1)
    1
    >>> try:
    ...     cache.get_or_compute("b", lambda: 2)
    ... except nativemem.errors.RateLimitExceeded as error:
    ...     error.retry_after
    1.0
    """

    def __init__(
        self,
        inner: Any,
        rate: float,
        burst: int | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(inner)
        each = seconds(rate, "ratelimit.rate")
        if not each:
            raise ConfigError(f"ratelimit.rate: takes a number above 0, not {shown(rate)}")
        if not callable(clock):
            raise ConfigError(f"ratelimit.clock: takes a callable, not {shown(clock)}")
        self._rate = each
        self._burst = max(int(each), 1) if burst is None else parse_count(burst, "ratelimit.burst", least=1)
        self._clock, self._lock = clock, threading.Lock()
        self._tokens, self._at = float(self._burst), clock()

    def _enter(self) -> None:
        with self._lock:
            now = self._clock()
            self._tokens = min(self._tokens + max(now - self._at, 0.0) * self._rate, float(self._burst))
            self._at = now
            if self._tokens < 1:
                rest = (1 - self._tokens) / self._rate
                raise RateLimitExceeded(
                    f"more than {self._rate:g} computes a second",
                    suggestion=f"try again in {rest:g} s, or allow a higher rate",
                    retry_after=rest,
                    rate=self._rate,
                )
            self._tokens -= 1
