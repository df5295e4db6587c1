"""Cache, AsyncCache: values by key, bounded in items and bytes, charged to a budget.

What goes first is decided by a policy of :mod:`cachetools`, which the extra ``nativemem[cache]`` installs.
Invariant: what is charged to the budget is the policy's ``currsize``, the sum of the sizes of what it holds; each
method settles the two before it returns.

The values that it returns do not change: any thread may read them.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import sys
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any

from ..budgets.budget import Budget
from ..config import parse_count
from ..errors import BudgetExceeded, BudgetUnderflow, ConfigError, NativeUnavailable, shown
from ..sizes import parse_size
from .composable import Composable
from .slots import seconds

__all__ = ["AsyncCache", "Cache", "CacheInfo"]

_POLICIES = {"lru": "LRUCache", "lfu": "LFUCache", "fifo": "FIFOCache", "rr": "RRCache"}
_NO_LIMIT = sys.maxsize


@dataclass(frozen=True)
class CacheInfo:
    """Counters of a cache: ``hits`` and ``misses``; ``items`` held, at most ``maxsize``, of ``bytes`` in all, at
    most ``max_bytes`` (None: no limit); ``evicted`` to make room; ``refused``, values too large, or that a budget
    had no room for, which were returned and not kept."""

    hits: int
    misses: int
    items: int
    maxsize: int
    bytes: int
    max_bytes: int | None
    evicted: int
    refused: int

    @property
    def hit_rate(self) -> float:
        """Hits of all look-ups, 0 to 1; 0 before the first."""
        asked = self.hits + self.misses
        return self.hits / asked if asked else 0.0


class _Entry:
    __slots__ = ("fresh_until", "size", "value")

    def __init__(self, value: Any, size: int, fresh_until: float | None) -> None:
        self.value, self.size, self.fresh_until = value, size, fresh_until


def _cachetools() -> Any:
    try:
        return importlib.import_module("cachetools")
    except ModuleNotFoundError as error:
        if error.name != "cachetools":
            raise
        raise NativeUnavailable(
            "caches need cachetools, which has the policies of eviction, and it is not installed",
            suggestion="pip install 'nativemem[cache]'",
        ) from None


class Cache(Composable):
    """Values by key, for threads.

    Parameters: ``maxsize``, items at most; ``policy``, which goes first: ``"lru"`` the one unused for longest,
    ``"lfu"`` the least used, ``"fifo"`` the oldest, ``"rr"`` any; ``ttl``, seconds for which a value is fresh, with
    ``"lru"`` only; ``stale``, seconds for which it is kept beyond that, for a layer that may serve it;
    ``max_bytes``, bytes (or a string) of all values, as ``getsizeof(value)`` says (None: :func:`sys.getsizeof`,
    which sees the outermost object only); ``budget``, which is charged those bytes; ``clock``, for ``ttl``.

    A value larger than ``max_bytes``, or that the budget has no room for though everything else was evicted and its
    ``on_pressure`` asked, is returned and not kept. To give memory to others before they are refused, pass
    :meth:`on_pressure` to the budget.

    Any thread; ``compute`` and ``getsizeof`` run without the lock. Raises :class:`NativeUnavailable` without
    cachetools, :class:`ConfigError` for other arguments.

    >>> cache = Cache(maxsize=2, getsizeof=len)
    >>> cache.get_or_compute("a", lambda: b"four"), cache.get_or_compute("a", lambda: b"never called")
    (b'four', b'four')
    >>> cache.cache_info().hit_rate, cache.cache_info().bytes
    (0.5, 4)
    """

    def __init__(
        self,
        maxsize: int = 128,
        *,
        policy: str = "lru",
        ttl: float | None = None,
        stale: float = 0.0,
        max_bytes: int | str | None = None,
        getsizeof: Callable[[Any], int] | None = None,
        budget: Budget | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._maxsize = parse_count(maxsize, "cache.maxsize", least=1)
        if policy not in _POLICIES:
            raise ConfigError(f"cache.policy: takes {', '.join(_POLICIES)}, not {shown(policy)}")
        self._ttl = seconds(ttl, "cache.ttl")
        kept = seconds(stale, "cache.stale")
        if kept is None or (kept and self._ttl is None):
            raise ConfigError("cache.stale: takes seconds beside a ttl")
        if self._ttl is not None and policy != "lru":
            raise ConfigError(f"cache.ttl: goes with the policy lru, not {policy}")
        self._max_bytes = None if max_bytes is None else parse_size(max_bytes, "cache.max_bytes:", least=1)
        for label, function in (("getsizeof", getsizeof), ("clock", clock)):
            if function is not None and not callable(function):
                raise ConfigError(f"cache.{label}: takes a callable, not {shown(function)}")
        if budget is not None and not isinstance(budget, Budget):
            raise ConfigError(f"cache.budget: takes a Budget or None, not {shown(budget)}")
        self._getsizeof = getsizeof or sys.getsizeof
        self._budget, self._clock = budget, clock
        tools, most = _cachetools(), self._max_bytes or _NO_LIMIT
        self._policy: Any = (
            getattr(tools, _POLICIES[policy])(most, getsizeof=_size_of)
            if self._ttl is None
            else tools.TTLCache(most, self._ttl + kept, timer=clock, getsizeof=_size_of)
        )
        # a value that goes, or a key that is compared, may run code that comes back here
        self._lock = threading.RLock()
        #: by key, of those that are being computed: whether the value is still wanted
        self._computing: dict[Hashable, list[list[bool]]] = {}
        self._charged = self._hits = self._misses = self._evicted = self._refused = 0

    def _layers(self) -> Any:
        from . import layers  # with the first one: asyncio comes with them

        return layers

    # --- the policy

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        """With the lock. What is charged beyond what is held then is released when that was let go of: a budget may
        call back, and that may want the lock of another cache."""
        with self._lock:
            try:
                yield
            finally:
                freed = self._charged - int(self._policy.currsize)
                self._charged -= freed
        if freed and self._budget is not None:
            self._budget.release(freed)

    def _evict(self) -> None:
        self._policy.popitem()
        self._evicted += 1

    def _make_room(self, size: int) -> None:
        while len(self._policy) >= self._maxsize or (
            self._max_bytes is not None and len(self._policy) and self._policy.currsize + size > self._max_bytes
        ):
            self._evict()

    def _charge(self, size: int) -> bool:
        """Without the lock."""
        if self._budget is None or not size:
            return True
        while not self._budget.try_reserve(size):
            with self._held():
                any_left = len(self._policy) > 0
                if any_left:
                    self._evict()
            if not any_left:
                try:
                    self._budget.reserve(size)  # asks for room
                except BudgetExceeded:
                    return False
                break
        return True

    # --- the protocol

    def get(self, key: Hashable, default: Any = None) -> Any:
        """The value of ``key`` if it is there and fresh, else ``default``."""
        with self._held():
            entry = self._policy.get(key)
            if entry is None or (entry.fresh_until is not None and self._clock() >= entry.fresh_until):
                self._misses += 1
                return default
            self._hits += 1
            return entry.value

    def get_stale(self, key: Hashable, default: Any = None) -> Any:
        """The value of ``key`` if it is there, fresh or not (``stale``), else ``default``; counted nowhere.

        >>> cache = Cache()
        >>> cache.set("a", 1); cache.get_stale("a"), cache.get_stale("b", 0)
        (1, 0)
        >>> cache.invalidate("a"); cache.get_stale("a") is None
        True
        """
        with self._held():
            entry = self._policy.get(key)
            return default if entry is None else entry.value

    def set(self, key: Hashable, value: Any) -> None:
        """Keeps ``value``, unless it is too large; then what was there is gone all the same."""
        self._keep(key, value, self._size(value))

    def _size(self, value: Any) -> int:
        size = self._getsizeof(value)
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise ConfigError(f"cache.getsizeof: has to give bytes, not {shown(size)}")
        return size

    def _keep(self, key: Hashable, value: Any, size: int, wanted: list[bool] | None = None) -> None:
        with self._held():
            if wanted is not None and not wanted[0]:
                return
            self._policy.pop(key, None)
            fits = self._max_bytes is None or size <= self._max_bytes
            if fits:
                self._make_room(size)
        if not fits or not self._charge(size):
            self._refused += 1
            return
        with self._held():
            self._charged += size
            if wanted is not None and not wanted[0]:
                return
            self._policy.pop(key, None)
            self._make_room(size)
            until = None if self._ttl is None else self._clock() + self._ttl
            self._policy[key] = _Entry(value, size, until)

    def get_or_compute(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """The value of ``key``, or what ``compute()`` returns, which is kept; not if it was invalidated meanwhile.
        Whatever ``compute`` raises comes out, and nothing is kept."""
        value = self.get(key, _MISSING)
        if value is not _MISSING:
            return value
        wanted = self._begin(key)
        try:
            value = compute()
            self._keep(key, value, self._size(value), wanted)
            return value
        finally:
            self._end(key, wanted)

    def _begin(self, key: Hashable) -> list[bool]:
        wanted = [True]
        with self._lock:
            self._computing.setdefault(key, []).append(wanted)
        return wanted

    def _end(self, key: Hashable, wanted: list[bool]) -> None:
        with self._lock:
            others = [other for other in self._computing.pop(key, ()) if other is not wanted]
            if others:
                self._computing[key] = others

    def invalidate(self, key: Hashable) -> None:
        """Drops the value of ``key``, and what is just being computed for it."""
        with self._held():
            for wanted in self._computing.get(key, ()):
                wanted[0] = False
            self._policy.pop(key, None)

    def clear(self) -> None:
        """Drops every value, and what is just being computed."""
        with self._held():
            for each in self._computing.values():
                for wanted in each:
                    wanted[0] = False
            self._policy.clear()

    def cache_info(self) -> CacheInfo:
        """Counters, as a :class:`CacheInfo`."""
        with self._held():
            items, held = len(self._policy), int(self._policy.currsize)
            sizes = (items, self._maxsize, held, self._max_bytes)
            return CacheInfo(self._hits, self._misses, *sizes, self._evicted, self._refused)

    def on_pressure(self, level: str, budget: Budget) -> None:
        """For a :class:`Budget`: before it refuses a request (``level`` is ``"refusal"``), evicts as much as that
        lacks.

        >>> import nativemem
        >>> caches = []
        >>> budget = nativemem.Budget(1000, on_pressure=lambda *asked: caches[0].on_pressure(*asked), warn=1)
        >>> caches.append(Cache(getsizeof=len, budget=budget))
        >>> for i in range(9):
        ...     caches[0].set(i, bytes(100))
        >>> with budget.reserve(500):
        ...     budget.used, caches[0].cache_info().items
        (1000, 5)
        """
        denial = budget.last_denial if level == "refusal" else None
        if denial is None:
            return
        missing = denial.requested - max(denial.limit - denial.used, 0)
        with self._held():
            least = self._policy.currsize - missing
            while len(self._policy) and self._policy.currsize > least:
                self._evict()

    def __len__(self) -> int:
        """Items held."""
        return self.cache_info().items

    def __bool__(self) -> bool:
        """True, also of an empty one."""
        return True

    def __del__(self) -> None:
        if getattr(self, "_charged", 0) and self._budget is not None:
            with contextlib.suppress(BudgetUnderflow):  # a collection took both, the budget first
                self._budget.release(self._charged)

    def __repr__(self) -> str:
        info = self.cache_info()
        return f"<{type(self).__name__} {info.items} of {info.maxsize} items, {info.bytes} bytes>"


class AsyncCache(Cache):
    """A :class:`Cache` for coroutines: ``compute`` may be a coroutine function, and ``get_or_compute`` is one. All
    other methods are as quick as a look-up, and plain. Parameters as of :class:`Cache`. Any thread, and any event
    loop.

    >>> import asyncio
    >>> async def ask():
    ...     return "answer"
    >>> cache = AsyncCache(ttl=60)
    >>> asyncio.run(cache.get_or_compute("question", ask)), cache.get("question")
    ('answer', 'answer')
    """

    _is_async = True

    async def get_or_compute(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """As :meth:`Cache.get_or_compute`."""
        value = self.get(key, _MISSING)
        if value is not _MISSING:
            return value
        wanted = self._begin(key)
        try:
            value = compute()
            if inspect.isawaitable(value):
                value = await value
            self._keep(key, value, self._size(value), wanted)
            return value
        finally:
            self._end(key, wanted)


_MISSING = object()


def _size_of(entry: _Entry) -> int:
    return entry.size
