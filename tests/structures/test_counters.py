"""Figures in what pools and caches tell: each by its value, after a story that tells them apart."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
from typing import Any

import pytest

from nativemem.errors import PoolExhausted
from nativemem.structures import AsyncObjectPool, Cache, ObjectPool


def figures(counters: Any) -> tuple[Any, ...]:
    return tuple(getattr(counters, field.name) for field in dataclasses.fields(counters))


def test_the_health_of_a_pool() -> None:
    """POOLOBJ-1"""
    stuck = ValueError("stuck")
    bad: list[Any] = []

    def reset(thing: list[int]) -> None:
        if thing in bad:
            raise stuck

    pool = ObjectPool(lambda: [pool.health.created], reset=reset, max_size=5)
    assert figures(pool.health) == (0, 0, 0, 5, 0, 0, 0, 0, 0, None)
    assert (pool.health.utilization, pool.health.failure_rate, pool.health.leak_rate) == (0.0, 0.0, 0.0)
    leases = [pool.get() for _ in range(4)]
    bad.append(leases[0].value)
    leases.pop(0).release()  # destroyed
    leases.pop(0).release()  # idle
    leases.pop(0).discard()  # destroyed
    assert figures(pool.health) == (1, 1, 0, 5, 4, 2, 4, 1, 0, stuck)
    del leases
    gc.collect()
    health = pool.health
    assert figures(health) == (1, 0, 0, 5, 4, 2, 4, 1, 1, stuck)
    assert (health.utilization, health.failure_rate, health.leak_rate) == (0.0, 0.2, 0.25)
    everything = [pool.get(0) for _ in range(5)]  # no slot was lost, and none made twice
    assert figures(pool.health)[:6] == (0, 5, 0, 5, 8, 2) and pool.health.utilization == 1.0
    with pytest.raises(PoolExhausted, match=r"none came back within 0 s(\n|$)") as caught:
        pool.get(0)
    state = {"requested": 1, "used": 5, "limit": 5, "capacity": 5, "available": 0, "utilization": 1.0}
    assert {key: caught.value.state[key] for key in state} == state
    for lease in everything:
        lease.release()
    pool.close()
    assert figures(pool.health) == (0, 0, 0, 5, 8, 7, 9, 1, 1, stuck)  # the leaked one was given up


def test_the_health_of_a_pool_of_coroutines() -> None:
    """POOLOBJ-2"""

    async def main() -> None:
        fails: list[BaseException] = []

        async def factory() -> list[int]:
            if fails:
                raise fails[0]
            return []

        pool = AsyncObjectPool(factory, max_size=3)
        one, two = await pool.get(), await pool.get()
        fails.append(OSError("down"))
        with pytest.raises(OSError, match="down"):
            await pool.get(timeout=0)
        assert figures(pool.health) == (0, 2, 0, 3, 2, 0, 2, 1, 0, fails[0])
        await one.release()
        await two.discard()
        assert figures(pool.health) == (1, 0, 0, 3, 2, 1, 2, 1, 0, fails[0])
        error = fails.pop()
        three = [await pool.get(timeout=0) for _ in range(3)]
        assert figures(pool.health) == (0, 3, 0, 3, 4, 1, 5, 1, 0, error)
        del three
        gc.collect()
        assert figures(pool.health) == (0, 0, 0, 3, 4, 1, 5, 1, 3, error)
        await pool.close()

    asyncio.run(main())


def test_the_counters_of_a_cache() -> None:
    """CACHE-1"""
    pytest.importorskip("cachetools", reason="cachetools is not installed")
    cache = Cache(3, max_bytes=100, getsizeof=len)
    assert figures(cache.cache_info()) == (0, 0, 0, 3, 0, 100, 0, 0)
    assert cache.cache_info().hit_rate == 0.0 and bool(cache)
    for key, size in (("a", 10), ("b", 20), ("c", 30)):
        cache.set(key, bytes(size))
    assert figures(cache.cache_info()) == (0, 0, 3, 3, 60, 100, 0, 0)
    assert cache.get("a") and cache.get("none") is None and cache.get("none", 7) == 7
    cache.set("b", bytes(25))  # in the place of what was there: nothing has to go for it
    assert figures(cache.cache_info()) == (1, 2, 3, 3, 65, 100, 0, 0)
    assert cache.cache_info().hit_rate == 1 / 3
    cache.set("d", bytes(45))  # one too many: the one unused for longest goes
    assert figures(cache.cache_info()) == (1, 2, 3, 3, 80, 100, 1, 0)
    assert (cache.get_stale("c"), len(cache.get_stale("a"))) == (None, 10)
    cache.set("e", bytes(20))  # "a" was just looked at, so "b" goes
    cache.set("f", bytes(101))
    assert figures(cache.cache_info()) == (1, 2, 3, 3, 75, 100, 2, 1)
    assert repr(cache) == "<Cache 3 of 3 items, 75 bytes>"
    assert cache.get_or_compute("g", lambda: bytes(35)) == bytes(35)
    assert figures(cache.cache_info()) == (1, 3, 3, 3, 65, 100, 3, 1)
    cache.set("h", bytes(45))  # just as many bytes as there may be
    assert figures(cache.cache_info()) == (1, 3, 3, 3, 100, 100, 4, 1)
    cache.set("i", bytes(46))  # one more than two would have
    assert figures(cache.cache_info()) == (1, 3, 2, 3, 91, 100, 6, 1)
    cache.clear()
    assert figures(cache.cache_info()) == (1, 3, 0, 3, 0, 100, 6, 1) and len(cache) == 0
