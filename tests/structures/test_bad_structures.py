"""ERR-4c: whatever a public call is given, it returns or raises an error that says why; nothing is lost."""

from __future__ import annotations

import asyncio
import gc
import inspect
import itertools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from nativemem.backends.binding import Binding
from nativemem.errors import NativeMemError
from nativemem.structures import (
    AsyncCache,
    AsyncObjectPool,
    Cache,
    CircuitBreakerCache,
    DedupCache,
    InternTable,
    ObjectPool,
    RateLimitedCache,
)


class Boom(Exception):
    """What a callable raises that was passed in: it comes out as it is."""


def fails(*given: Any) -> Any:
    raise Boom("as it was told")


class Hostile:
    """Raises whatever is asked of it."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise Boom("compared")

    def __bool__(self) -> bool:
        raise Boom("asked for its truth")

    def __iter__(self) -> Iterator[Any]:
        raise Boom("iterated over")


class Text(str):
    """A subclass, whose encoding fails."""

    def encode(self, *given: Any) -> bytes:
        raise Boom("encoded")


JUNK: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 1 << 70, -0.5, 1.5, float("nan"), float("inf"), "x", "", "1 KiB", "\ud800", b"x"),
    *(
        [],
        {},
        (),
        [1],
        ["x", 1],
        object(),
        len,
        int,
        fails,
        3 + 1j,
        range(3),
        Text("x"),
        memoryview(b"abc"),
        Hostile(),
    ),
)
ALLOWED = (NativeMemError, TypeError, Boom)
#: leaves nothing to be tried
LAST = {"close"}


def judged(call: Callable[[], Any]) -> Any:
    """What the call gives; None where it is refused as it may be."""
    try:
        return call()
    except ALLOWED as error:
        assert str(error).strip() and "\n" not in str(error).split("\n\n")[0], call
        return None


def arguments(method: Any) -> Iterator[tuple[Any, ...]]:
    parameters = inspect.signature(method).parameters.values()
    count = sum(each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD) for each in parameters)
    yield ()
    if count >= 1:
        yield from ((each,) for each in JUNK)
    if count >= 2:
        yield from itertools.product(JUNK[::3], JUNK[1::2])
    yield tuple(JUNK[: count + 1])


def methods(subject: Any) -> Iterator[Any]:
    for name in dir(subject):
        if not name.startswith("_") and name not in LAST and inspect.isroutine(getattr(type(subject), name, None)):
            yield getattr(subject, name)


MAKERS: dict[str, Callable[..., Any]] = {
    "ObjectPool": lambda **rest: ObjectPool(**{"factory": list, **rest}),
    "AsyncObjectPool": lambda **rest: AsyncObjectPool(**{"factory": list, **rest}),
    "Cache": lambda **rest: Cache(**{"maxsize": 4, **rest}),
    "AsyncCache": lambda **rest: AsyncCache(**{"maxsize": 4, **rest}),
    "DedupCache": lambda **rest: DedupCache(**{"inner": Cache(maxsize=4), **rest}),
    "CircuitBreakerCache": lambda **rest: CircuitBreakerCache(**{"inner": Cache(maxsize=4), **rest}),
    "RateLimitedCache": lambda **rest: RateLimitedCache(**{"inner": Cache(maxsize=4), "rate": 1000, **rest}),
    "InternTable": lambda **rest: InternTable(**rest),
}
CLASSES = (
    *(ObjectPool, AsyncObjectPool, Cache, AsyncCache),
    *(DedupCache, CircuitBreakerCache, RateLimitedCache, InternTable),
)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_what_they_are_made_with(cls: type[Any]) -> None:
    """ERR-4c: each parameter of each constructor, by its name; nothing that was made before is charged."""
    if cls.__name__.endswith("Cache"):
        pytest.importorskip("cachetools", reason="cachetools is not installed")
    make = MAKERS[cls.__name__]
    parameters = list(inspect.signature(cls).parameters)
    made = 0
    for name, value in itertools.product(parameters, JUNK):
        thing = judged(lambda name=name, value=value: make(**{name: value}))  # type: ignore[misc]
        made += thing is not None
        if isinstance(thing, (ObjectPool, InternTable)):
            thing.close()
    assert made > 0 or cls is DedupCache  # which takes a cache and nothing else
    assert judged(lambda: cls(*JUNK)) is None


def caches(nm: Binding) -> Iterator[tuple[Any, Any]]:
    """Each cache and composition, with its budget."""
    for wrap in (
        lambda cache: cache,
        lambda cache: cache.with_dedup(),
        lambda cache: cache.with_circuit_breaker(failures=2),
        lambda cache: cache.with_rate_limit(10000),
        lambda cache: cache.with_dedup().with_circuit_breaker(failures=2).with_rate_limit(10000),
    ):
        for policy in ("lru", "lfu", "fifo", "rr"):
            budget = nm.Budget(4000, policy)
            yield (
                wrap(Cache(maxsize=4, policy=policy, max_bytes=3000, getsizeof=sys.getsizeof, budget=budget)),
                budget,
            )


def test_calls_of_caches(nm: Binding) -> None:
    """ERR-4c: and what is charged is what is held, all the time."""
    pytest.importorskip("cachetools", reason="cachetools is not installed")
    calls = 0
    for cache, budget in caches(nm):
        for method in methods(cache):
            for given in arguments(method):
                calls += 1
                judged(lambda method=method, given=given: method(*given))  # type: ignore[misc]
                info = cache.cache_info()
                assert info.bytes == budget.used <= 3000 and info.items <= 4
        cache.clear()
        assert budget.used == 0
    assert calls > 3000


def test_calls_of_caches_of_coroutines() -> None:
    """ERR-4c"""
    pytest.importorskip("cachetools", reason="cachetools is not installed")

    async def tried() -> None:
        for cache in (AsyncCache(maxsize=3), AsyncCache(maxsize=3).with_dedup().with_circuit_breaker()):
            for method in methods(cache):
                for given in arguments(method):
                    thing = judged(lambda method=method, given=given: method(*given))  # type: ignore[misc]
                    if inspect.isawaitable(thing):
                        try:
                            await thing
                        except ALLOWED as error:
                            assert str(error).strip()
                    assert cache.cache_info().items <= 3

    asyncio.run(tried())


def test_calls_of_pools() -> None:
    """ERR-4c: an object that a refused call was about is neither lost nor lent twice."""
    pool = ObjectPool(list, max_size=2)
    for method in methods(pool):
        for given in arguments(method):
            lease = judged(lambda method=method, given=given: method(*given))  # type: ignore[misc]
            if lease is not None:
                lease.release()
    health = pool.health
    assert health.in_use == 0
    with pool.get(timeout=0) as one, pool.get(timeout=0) as other:
        assert one is not other
    for lease in (pool.get(timeout=0), pool.get(timeout=0)):
        for method in methods(lease):
            for given in arguments(method):
                judged(lambda method=method, given=given: method(*given))  # type: ignore[misc]
    assert pool.health.in_use == 0
    pool.close()

    async def tried() -> None:
        pool = AsyncObjectPool(list, max_size=2)
        for method in methods(pool):
            for given in arguments(method):
                thing = judged(lambda method=method, given=given: method(*given))  # type: ignore[misc]
                if thing is None:
                    continue
                try:
                    await (await thing).release()
                except ALLOWED as error:
                    assert str(error).strip()
        assert pool.health.in_use == 0
        await pool.close()

    asyncio.run(tried())


def test_calls_of_an_intern_table(nm: Binding) -> None:
    """ERR-4c: a refused call adds no value and takes no reference."""
    table = InternTable(nm.Heap())
    spent = table.acquire_many(map(str, range(50)))  # so that no number in JUNK stands for the one that is kept
    kept = table.acquire("kept")
    table.release_many(spent)
    for method in methods(table):
        for given in arguments(method):
            before = len(table), table.stats.references
            out = judged(lambda method=method, given=given: method(*given))  # type: ignore[misc]
            if method.__name__ == "acquire" and out is not None:
                table.release(out)
            elif method.__name__ == "acquire_many" and out is not None:
                table.release_many(out)
            assert (len(table), table.stats.references) == before
    assert table.str(kept) == "kept"
    table.release(kept)
    assert len(table) == 0
    table.close()
    for method in methods(table):
        for given in arguments(method):
            assert judged(lambda method=method, given=given: method(*given)) is None  # type: ignore[misc]
    gc.collect()


def test_each_public_class_is_tried() -> None:
    """ERR-4c: a new one needs a line here."""
    from nativemem import structures

    others = {"CacheInfo", "Handle", "InternStats", "PoolHealth"}  # records, and a number
    assert set(MAKERS) | others == set(structures.__all__)
