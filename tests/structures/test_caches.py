"""Caches and their layers, for threads and for coroutines. No test waits for time to pass."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("cachetools", reason="cachetools is not installed (it comes with nativemem[cache])")

from nativemem.backends.binding import Binding
from nativemem.errors import CircuitOpenError, ConfigError, InvalidLayout, NativeUnavailable, RateLimitExceeded
from nativemem.structures import AsyncCache, Cache, DedupCache

from .clock import Clock, fail, never


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_the_protocol() -> None:
    """CACHE-1"""
    cache = Cache()
    assert cache.get("a") is None and cache.get("a", 7) == 7
    assert cache.get_or_compute("a", lambda: None) is None
    assert cache.get_or_compute("a", never) is None  # None is a value
    cache.set("b", 2)
    assert cache.get("b") == 2 and len(cache) == 2
    cache.invalidate("b")
    cache.invalidate("b")
    assert cache.get("b") is None
    cache.clear()
    info = cache.cache_info()
    assert (info.hits, info.misses, info.items, info.bytes, info.maxsize, info.max_bytes) == (2, 4, 0, 0, 128, None)
    assert info.hit_rate == 2 / 6 and cache


def test_an_error_is_not_kept() -> None:
    cache = Cache()
    with pytest.raises(OSError, match="down"):
        cache.get_or_compute("a", fail)
    assert cache.get_or_compute("a", lambda: 1) == 1


@pytest.mark.parametrize(("policy", "gone"), [("lru", "b"), ("lfu", "c"), ("fifo", "a"), ("rr", None)])
def test_policies(policy: str, gone: str | None) -> None:
    """CACHE-1"""
    cache = Cache(3, policy=policy)
    for key in "abc":
        cache.set(key, key)
    for key in "ab", "a", "a":
        for each in key:
            cache.get(each)
    cache.get("c")
    cache.get("b") if policy == "lfu" else None
    cache.get("a")
    cache.set("d", "d")
    left = {key for key in "abcd" if cache.get_stale(key)}
    assert len(left) == 3 and "d" in left
    assert gone is None or gone not in left
    assert cache.cache_info().evicted == 1


def test_bounded_in_bytes() -> None:
    """CACHE-1: a value that is too large is returned, not kept."""
    cache = Cache(max_bytes="1 KiB", getsizeof=len)
    for i in range(10):
        cache.set(i, bytes(300))
    assert len(cache) == 3 and cache.cache_info().bytes == 900 and cache.get(9) is not None
    assert len(cache.get_or_compute("large", lambda: bytes(1025))) == 1025
    cache.set(9, bytes(2000))
    assert cache.get("large") is None and cache.get(9) is None and cache.cache_info().refused == 2
    cache.set("all", bytes(1024))
    assert len(cache) == 1


def test_a_value_ages(clock: Clock) -> None:
    """CACHE-2, CACHE-6"""
    cache = Cache(2, ttl=10, stale=5, clock=clock)
    cache.set("a", 1)
    clock.now += 9.9
    assert cache.get("a") == 1
    clock.now += 0.1
    assert cache.get("a") is None and cache.get_stale("a") == 1
    clock.now += 5
    assert cache.get_stale("a") is None and len(cache) == 0


def test_hits_refresh_recency(clock: Clock) -> None:
    """CACHE-2"""
    cache = AsyncCache(2, ttl=10, clock=clock)
    cache.set("a", 1)
    cache.set("b", 2)
    cache.get("a")
    cache.set("c", 3)
    assert cache.get("a") == 1 and cache.get("b") is None


def test_values_are_charged(nm: Binding) -> None:
    """CACHE-7"""
    budget = nm.Budget(1000, "cache", warn=1)
    cache = Cache(4, getsizeof=len, budget=budget)
    for i in range(6):
        cache.set(i, bytes(100))
    assert budget.used == cache.cache_info().bytes == 400
    cache.set(9, bytes(850))  # the others go first
    assert budget.used == 950 and cache.get(9) is not None and len(cache) == 2
    assert len(cache.get_or_compute("more", lambda: bytes(1001))) == 1001
    assert cache.get("more") is None and budget.used == 0 and cache.cache_info().refused == 1
    cache.set("x", bytes(10))
    cache.invalidate("x")
    assert budget.used == 0
    cache.set("x", bytes(10))
    del cache
    assert budget.used == 0


def test_what_grew_old_is_released(nm: Binding, clock: Clock) -> None:
    """CACHE-7"""
    budget = nm.Budget(1000, warn=1)
    cache = Cache(ttl=10, getsizeof=len, budget=budget, clock=clock)
    cache.set("a", bytes(600))
    clock.now += 10
    cache.set("b", bytes(600))
    assert budget.used == 600 and len(cache) == 1


def test_it_gives_way_before_another_is_refused(nm: Binding) -> None:
    """CACHE-7: by on_pressure, only as much as is needed; two caches of a budget do not wait for each other."""
    caches: list[Cache] = []

    def make_room(level: str, budget: Any) -> None:
        for cache in caches:
            cache.on_pressure(level, budget)

    budget = nm.Budget(10_000, on_pressure=make_room, warn=1)
    caches += [Cache(getsizeof=len, budget=budget).with_dedup(), Cache(getsizeof=len, budget=budget)]
    for i in range(40):
        caches[0].set(i, bytes(100))
        caches[1].set(i, bytes(100))
    with budget.reserve(2500):
        assert budget.used <= 10_000 and caches[0].cache_info().items == 35
    limited = nm.Limited(nm.Heap(), budget)
    blocks = [limited.alloc(1000) for _ in range(9)]
    assert budget.used <= 10_000 and len(blocks) == 9
    threads = [
        threading.Thread(target=lambda c=cache: [c.set(i % 97, bytes(200 + i % 300)) for i in range(500)])
        for cache in caches
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    held = sum(cache.cache_info().bytes for cache in caches)
    assert budget.used == held + 9000


def test_invalidated_while_it_is_computed() -> None:
    for end in (lambda cache: cache.invalidate("a"), lambda cache: cache.clear()):
        cache = Cache()

        def compute(cache: Cache = cache, end: Any = end) -> int:
            end(cache)
            return 1

        assert cache.get_or_compute("a", compute) == 1
        assert cache.get("a") is None
        assert cache.get_or_compute("a", lambda: 2) == 2 and cache.get("a") == 2


def test_nothing_is_left_of_a_compute() -> None:
    """CACHE-2: neither its key, once that is dropped, nor of one in the midst of another of the same key, which may
    still be invalidated."""

    class Key: ...

    cache, key = Cache(), Key()
    cache.get_or_compute(key, lambda: 1)
    gone = weakref.ref(key)
    cache.invalidate(key)
    del key
    gc.collect()
    assert gone() is None

    def outer() -> int:
        assert cache.get_or_compute("key", lambda: 1) == 1
        cache.invalidate("key")
        return 2

    assert cache.get_or_compute("key", outer) == 2 and cache.get("key") is None


def test_a_hundred_coroutines_compute_once() -> None:
    """CACHE-3"""

    async def main() -> None:
        cache, calls = AsyncCache().with_dedup(), []
        gate = asyncio.Event()

        async def compute() -> str:
            calls.append(1)
            await gate.wait()
            return "value"

        tasks = [asyncio.ensure_future(cache.get_or_compute("key", compute)) for _ in range(100)]
        await turns()
        for task in tasks[:40]:
            task.cancel()  # the first among them
        await turns()
        gate.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert len(calls) == 1 and found[40:] == ["value"] * 60
        assert all(isinstance(each, asyncio.CancelledError) for each in found[:40])
        assert cache.get("key") == "value"

    asyncio.run(main())


def test_an_error_reaches_all_and_is_not_kept() -> None:
    """CACHE-3"""

    async def main() -> None:
        cache, calls = AsyncCache().with_dedup(), []

        async def down() -> None:
            calls.append(1)
            await asyncio.sleep(0)
            raise OSError("down")

        found = await asyncio.gather(
            *(cache.get_or_compute("key", down) for _ in range(10)), return_exceptions=True
        )
        assert len(calls) == 1 and {str(error) for error in found} == {"down"}
        assert await cache.get_or_compute("key", lambda: 1) == 1

    asyncio.run(main())


def test_no_sharing_after_an_invalidation() -> None:
    async def main() -> None:
        cache, gate = AsyncCache().with_dedup(), asyncio.Event()

        async def old() -> str:
            await gate.wait()
            return "old"

        first = asyncio.ensure_future(cache.get_or_compute("key", old))
        await turns()
        cache.invalidate("key")
        assert await cache.get_or_compute("key", lambda: "new") == "new"
        gate.set()
        assert await first == "old" and cache.get("key") == "new"

    asyncio.run(main())


def test_threads_compute_once() -> None:
    """CACHE-3"""
    cache, calls, entered, go = Cache().with_dedup(), [], threading.Event(), threading.Event()
    found: list[Any] = []

    def compute() -> str:
        calls.append(1)
        entered.set()
        assert go.wait(60)
        return "value"

    def work() -> None:
        found.append(cache.get_or_compute("key", compute))

    threads = [threading.Thread(target=work) for _ in range(8)]
    threads[0].start()
    assert entered.wait(60)
    for thread in threads[1:]:
        thread.start()
    go.set()
    for thread in threads:
        thread.join()
    assert len(calls) == 1 and found == ["value"] * 8
    assert (
        cache.get_or_compute("a", lambda: cache.get_or_compute("a", lambda: 1) + 1) == 2
    )  # does not wait for itself
    with pytest.raises(OSError):
        cache.get_or_compute("b", fail)
    assert cache.get_or_compute("b", lambda: 3) == 3


def test_an_error_reaches_the_threads_that_wait() -> None:
    """CACHE-3"""
    cache, entered, go = Cache().with_dedup(), threading.Event(), threading.Event()
    found: list[BaseException] = []

    def compute() -> None:
        entered.set()
        assert go.wait(60)
        raise OSError("down")

    def work() -> None:
        try:
            cache.get_or_compute("key", compute)
        except OSError as error:
            found.append(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(4)]
    threads[0].start()
    assert entered.wait(60)
    (flight,) = cache._flights.values()
    for thread in threads[1:]:
        thread.start()
    until = time.monotonic() + 60
    while len(flight._condition._waiters) < 3:  # they are about to
        assert time.monotonic() < until
        threading.Event().wait(0.001)
    go.set()
    for thread in threads:
        thread.join(60)
    assert [str(error) for error in found] == ["down"] * 4


def test_a_breaker(clock: Clock) -> None:
    """CACHE-4"""
    cache = Cache(clock=clock).with_circuit_breaker(clock=clock)
    cache.set("hit", 1)
    for n in range(5):
        assert cache.state == "closed"
        if n == 3:  # a success between them begins anew
            assert cache.get_or_compute("good", lambda: 1) == 1
            for _ in range(4):
                with pytest.raises(OSError):
                    cache.get_or_compute("a", fail)
            assert cache.state == "closed"
        with pytest.raises(OSError):
            cache.get_or_compute("a", fail)
        if n == 3:
            break
    assert cache.state == "open" and cache.get_or_compute("hit", never) == 1
    clock.now += 20
    with pytest.raises(CircuitOpenError, match="after 5 failures") as caught:
        cache.get_or_compute("a", never)
    assert caught.value.retry_after == 40 and caught.value.retryable
    clock.now += 40
    assert cache.state == "half-open"
    with pytest.raises(OSError):
        cache.get_or_compute("a", fail)  # the probe
    assert cache.state == "open"
    clock.now += 60
    assert cache.get_or_compute("a", lambda: 2) == 2 and cache.state == "closed"


def test_a_single_probe(clock: Clock) -> None:
    """CACHE-4"""

    async def main() -> None:
        cache = AsyncCache().with_circuit_breaker(1, 60, clock=clock)
        with pytest.raises(OSError):
            await cache.get_or_compute("a", fail)
        clock.now += 60
        gate = asyncio.Event()

        async def probe() -> int:
            await gate.wait()
            return 1

        for _ in range(2):
            first = asyncio.ensure_future(cache.get_or_compute("a", probe))
            await turns()
            with pytest.raises(CircuitOpenError) as caught:
                await cache.get_or_compute("b", never)
            assert caught.value.retry_after == 0 and cache.state == "half-open"
            first.cancel()  # which says nothing: another may try
            await turns()
        gate.set()
        assert await cache.get_or_compute("a", probe) == 1 and cache.state == "closed"

    asyncio.run(main())


def test_a_timeout_is_a_failure() -> None:
    """CACHE-4"""

    async def main() -> None:
        cache = AsyncCache().with_circuit_breaker(1, timeout=0)

        async def forever() -> None:
            await asyncio.Event().wait()

        with pytest.raises(asyncio.TimeoutError):
            await cache.get_or_compute("a", forever)
        assert cache.state == "open"

    asyncio.run(main())


@pytest.mark.parametrize("is_async", [False, True])
def test_stale_values_if_asked(clock: Clock, is_async: bool) -> None:
    """CACHE-4"""
    kind: Any = AsyncCache if is_async else Cache
    cache = kind(ttl=10, stale=100, clock=clock).with_circuit_breaker(1, 60, serve_stale=True, clock=clock)

    def ask(key: str, compute: Callable[[], Any]) -> Any:
        result = cache.get_or_compute(key, compute)
        return asyncio.run(result) if is_async else result

    assert ask("a", lambda: 1) == 1
    clock.now += 10
    with pytest.raises(OSError):
        ask("a", fail)
    assert ask("a", never) == 1
    with pytest.raises(CircuitOpenError):
        ask("b", never)


def test_one_failure_for_all_that_share_it(clock: Clock) -> None:
    """CACHE-3, CACHE-4"""

    async def main() -> None:
        cache = AsyncCache().with_dedup().with_circuit_breaker(5, clock=clock)

        async def down() -> None:
            await asyncio.sleep(0)
            raise OSError("down")

        for _ in range(5):
            assert cache.state == "closed"
            asked = (cache.get_or_compute("key", down) for _ in range(100))
            found = await asyncio.gather(*asked, return_exceptions=True)
            assert {str(error) for error in found} == {"down"}
        found = await asyncio.gather(*(cache.get_or_compute("key", down) for _ in range(3)), return_exceptions=True)
        assert [type(error) for error in found] == [CircuitOpenError] * 3

    asyncio.run(main())


def test_what_a_guarded_compute_returns(clock: Clock) -> None:
    """CACHE-3 to CACHE-5: its result, computed by a coroutine, by a function that is none, and kept."""

    async def main() -> None:
        async def compute() -> int:
            await asyncio.sleep(0)
            return 7

        for guard in (
            AsyncCache().with_circuit_breaker(1, 60, clock=clock), AsyncCache().with_dedup(),
            AsyncCache().with_rate_limit(9, clock=clock),
        ):  # fmt: skip
            assert await guard.get_or_compute("a", compute) == 7
            assert await guard.get_or_compute("b", lambda: 8) == 8
            assert await guard.get_or_compute("a", never) == 7

    asyncio.run(main())


def test_a_limit_on_the_rate(clock: Clock) -> None:
    """CACHE-5"""
    cache = Cache().with_rate_limit(2, burst=3, clock=clock)
    for key in "abc":
        assert cache.get_or_compute(key, lambda: 1) == 1
    assert cache.get_or_compute("a", never) == 1  # hits are free
    with pytest.raises(RateLimitExceeded, match="more than 2 computes a second") as caught:
        cache.get_or_compute("d", never)
    assert caught.value.retry_after == 0.5 and caught.value.retryable
    clock.now += 0.125
    with pytest.raises(RateLimitExceeded) as caught:
        cache.get_or_compute("d", never)
    assert caught.value.retry_after == 0.375
    clock.now += 0.375
    assert cache.get_or_compute("d", lambda: 4) == 4
    with pytest.raises(RateLimitExceeded):
        cache.get_or_compute("e", never)
    clock.now += 1000
    for n in range(3):
        cache.get_or_compute(n, lambda: 1)
    with pytest.raises(RateLimitExceeded):
        cache.get_or_compute("f", never)


def test_they_wrap_each_other(clock: Clock) -> None:
    """CACHE-5"""
    base = Cache(clock=clock)
    cache = base.with_dedup().with_rate_limit(5, clock=clock).with_circuit_breaker(2, clock=clock)
    assert cache.get_or_compute("a", lambda: 1) == 1
    cache.set("b", 2)
    assert base.get("a") == 1 and base.get("b") == 2 and cache.get_stale("b") == 2
    assert cache.cache_info() == base.cache_info()
    cache.invalidate("a")
    assert cache.get("a") is None
    cache.clear()
    assert len(base) == 0
    assert repr(cache).startswith(
        "<CircuitBreakerCache around <RateLimitedCache around <DedupCache around <Cache 0 of"
    )


@pytest.mark.parametrize(
    ("make", "label"),
    [
        (lambda: Cache(0), "cache.maxsize"),
        (lambda: Cache(policy="mru"), "cache.policy: takes lru, lfu, fifo, rr"),
        (lambda: Cache(ttl=-1), "cache.ttl"),
        (lambda: Cache(ttl=1, policy="lfu"), "cache.ttl"),
        (lambda: Cache(stale=1), "cache.stale"),
        (lambda: Cache(max_bytes=0), "cache.max_bytes"),
        (lambda: Cache(getsizeof=3), "cache.getsizeof"),  # type: ignore[arg-type]
        (lambda: Cache(getsizeof=lambda value: -1).set("a", 1), "cache.getsizeof"),
        (lambda: Cache(getsizeof=lambda value: "x").set("a", 1), "cache.getsizeof"),  # type: ignore[arg-type, return-value]
        (lambda: Cache(budget=3), "cache.budget"),
        (lambda: Cache(clock=3), "cache.clock"),  # type: ignore[arg-type]
        (lambda: DedupCache(3), "DedupCache: takes a cache"),
        (lambda: Cache().with_circuit_breaker(failures=0), "breaker.failures"),
        (lambda: Cache().with_circuit_breaker(reset_after=None), "breaker.reset_after"),
        (lambda: Cache().with_circuit_breaker(timeout=1), "breaker.timeout"),
        (lambda: Cache().with_circuit_breaker(serve_stale=1), "breaker.serve_stale"),
        (lambda: Cache().with_circuit_breaker(clock=1), "breaker.clock"),
        (lambda: Cache().with_rate_limit(0), "ratelimit.rate"),
        (lambda: Cache().with_rate_limit("1"), "ratelimit.rate"),  # type: ignore[arg-type]
        (lambda: Cache().with_rate_limit(1, burst=0), "ratelimit.burst"),
        (lambda: Cache().with_rate_limit(1, clock=1), "ratelimit.clock"),
    ],
)
def test_bad_arguments(make: Callable[[], Any], label: str) -> None:
    with pytest.raises((ConfigError, InvalidLayout), match=label):
        make()


def test_without_cachetools() -> None:
    """CACHE-1: it is not needed before, and the error says what to install."""
    program = (
        "import sys; sys.modules['cachetools'] = None\n"
        "from nativemem.structures import Cache\n"
        "try: Cache()\n"
        "except Exception as error: print(type(error).__name__, error.suggestion)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout == f"{NativeUnavailable.__name__} pip install 'nativemem[cache]'\n"
