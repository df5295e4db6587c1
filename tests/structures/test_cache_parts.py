"""CACHE: each early return, boundary and word of the caches and their layers."""

from __future__ import annotations

import asyncio
import gc
import importlib
import sys
import threading
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("cachetools", reason="cachetools is not installed (it comes with nativemem[cache])")

from nativemem.backends.binding import Binding
from nativemem.errors import CircuitOpenError, ConfigError, NativeUnavailable, RateLimitExceeded
from nativemem.structures import AsyncCache, Cache, CircuitBreakerCache, DedupCache, RateLimitedCache, layers
from nativemem.structures.composable import Composable
from nativemem.structures.slots import seconds

from .clock import Clock, fail, never


def run(main: Callable[[], Awaitable[Any]]) -> None:
    """Nothing may go wrong beside it."""
    wrong: list[Any] = []

    async def both() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: wrong.append(context))
        await main()
        gc.collect()
        await asyncio.sleep(0)

    asyncio.run(both())
    assert wrong == []


# --- what they take


def test_seconds() -> None:
    for value in (0, 0.0, 1, 2.5, 1e300):
        assert seconds(value, "x") == value and type(seconds(value, "x")) is float
    assert seconds(None, "x") is None and seconds(2, "x", 2.0) == 2.0
    for bad in (-1, -1e-9, float("inf"), float("nan"), True, False, "1"):
        with pytest.raises(ConfigError, match="^x: takes seconds from 0 on, or None, not "):
            seconds(bad, "x")
    with pytest.raises(ConfigError, match=r"^x: takes seconds from 2\.5 on, or None, not 2"):
        seconds(2, "x", 2.5)


def test_the_least_that_they_take(clock: Clock) -> None:
    one = Cache(1, getsizeof=lambda value: 0)
    one.set("a", 1)
    one.set("b", 2)
    assert (one.get("a"), one.get("b"), len(one)) == (None, 2, 1)
    small = Cache(max_bytes=1, getsizeof=len)
    small.set("a", b"x")
    small.set("b", b"")
    assert (small.get("a"), small.get("b")) == (b"x", b"")
    short = Cache(ttl=0, stale=0, clock=clock)
    short.set("a", 1)
    assert short.get("a") is None
    breaker = Cache().with_circuit_breaker(1, 0, clock=clock)
    with pytest.raises(OSError):
        breaker.get_or_compute("a", fail)
    assert breaker.state == "half-open"
    assert Cache().with_rate_limit(1e-9, 1).get_or_compute("a", lambda: 1) == 1


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: Cache(policy="mru"), "cache.policy: takes lru, lfu, fifo, rr, not 'mru'"),
    (lambda: Cache(ttl=1, policy="rr"), "cache.ttl: goes with the policy lru, not rr"),
    (lambda: Cache(stale=1), "cache.stale: takes seconds beside a ttl"),
    (lambda: Cache(ttl=1, stale=None), "cache.stale: takes seconds beside a ttl"),  # type: ignore[arg-type]
    (lambda: Cache(stale=None), "cache.stale: takes seconds beside a ttl"),  # type: ignore[arg-type]
    (lambda: Cache(getsizeof=3), "cache.getsizeof: takes a callable, not 3"),  # type: ignore[arg-type]
    (lambda: Cache(clock=3), "cache.clock: takes a callable, not 3"),  # type: ignore[arg-type]
    (lambda: Cache(budget=3), "cache.budget: takes a Budget or None, not 3"),
    *(
        (
            lambda size=size: Cache(getsizeof=lambda value: size).set("a", 1),  # type: ignore[misc]
            "cache.getsizeof: has to give bytes, not ",
        )
        for size in (-1, True, 1.0, "1", None)
    ),
    (lambda: DedupCache(dict()), "DedupCache: takes a cache, not {}"),  # noqa: C408
    (lambda: CircuitBreakerCache(None), "CircuitBreakerCache: takes a cache, not None"),
    (lambda: Cache().with_circuit_breaker(1, None), "breaker.reset_after: takes seconds"),  # type: ignore[arg-type]
    (lambda: Cache().with_circuit_breaker(timeout=1), "breaker.timeout: goes with an AsyncCache; a thread"),
    (lambda: Cache().with_circuit_breaker(serve_stale=0), "breaker.serve_stale: takes True or False, not 0"),
    (lambda: Cache().with_circuit_breaker(clock=0), "breaker.clock: takes a callable, not 0"),
    (lambda: Cache().with_rate_limit(0.0), "ratelimit.rate: takes a number above 0, not 0.0"),
    (lambda: Cache().with_rate_limit(None), "ratelimit.rate: takes a number above 0, not None"),  # type: ignore[arg-type]
    (lambda: Cache().with_rate_limit(1, clock=0), "ratelimit.clock: takes a callable, not 0"),
]


def test_what_they_do_not_take() -> None:
    for make, says in REFUSED:
        with pytest.raises(ConfigError) as caught:
            make()
        assert str(caught.value).startswith(says)


def test_sizes_are_the_interpreters_where_nothing_else_is_said() -> None:
    cache = Cache()
    cache.set("a", "text")
    assert cache.cache_info().bytes == sys.getsizeof("text")


def test_another_module_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that cachetools needs is not taken for cachetools."""
    missing = ["cachetools", "cachetools.keys"]

    def gone(name: str) -> Any:
        raise ModuleNotFoundError(f"no {missing[0]}", name=missing[0])

    monkeypatch.setattr(importlib, "import_module", gone)
    with pytest.raises(NativeUnavailable, match="^caches need cachetools, which has the policies") as caught:
        Cache()
    assert caught.value.suggestion == "pip install 'nativemem[cache]'" and caught.value.__suppress_context__
    missing.pop(0)
    with pytest.raises(ModuleNotFoundError, match=r"^no cachetools\.keys$"):
        Cache()


# --- budgets


def test_what_takes_nothing_is_not_charged(nm: Binding) -> None:
    budget = nm.Budget(100, warn=1)
    budget.try_reserve(100)
    cache = Cache(getsizeof=len, budget=budget)
    cache.set("a", b"")
    assert cache.get("a") == b"" and cache.cache_info().refused == 0 and budget.denied == 0
    cache.set("a", b"x")
    assert cache.get("a") is None and cache.cache_info().refused == 1 and budget.used == 100


def test_room_is_made_by_the_budgets_callback(nm: Binding) -> None:
    """Once everything else was evicted; the value is kept then."""
    held: list[Any] = []
    budget = nm.Budget(100, on_pressure=lambda level, _: held.clear() if level == "refusal" else None, warn=1)
    held.append(budget.reserve(60))
    held[0].__enter__()
    cache = Cache(getsizeof=len, budget=budget)

    class Held:
        def __del__(self) -> None:
            budget.release(60)

    held[:] = [Held()]
    cache.set("a", bytes(40))
    cache.set("b", bytes(90))
    gc.collect()
    assert (cache.get("a"), len(cache.get("b"))) == (None, 90) and budget.used == 90
    assert (cache.cache_info().evicted, cache.cache_info().refused) == (1, 0)


def test_a_key_that_is_invalidated_while_its_value_is_charged(nm: Binding) -> None:
    """It is not kept, and its charge goes back."""
    caches: list[Cache] = []

    def called(level: str, budget: Any) -> None:
        if level == "refusal":
            budget.limit = 1000
            caches[0].invalidate("a")

    budget = nm.Budget(100, on_pressure=called, warn=1)
    cache = Cache(getsizeof=len, budget=budget)
    caches.append(cache)
    assert len(cache.get_or_compute("a", lambda: bytes(500))) == 500
    assert cache.get("a") is None and budget.used == 0 and budget.limit == 1000
    assert cache.cache_info().refused == 0
    assert len(cache.get_or_compute("a", lambda: bytes(500))) == 500
    assert cache.get("a") is not None and budget.used == 500


def pressed(**figures: int) -> Any:
    """A budget that has just refused something."""
    return SimpleNamespace(last_denial=SimpleNamespace(**figures))


@pytest.mark.parametrize(
    ("denial", "left"),
    [
        ({"requested": 250, "limit": 1000, "used": 800}, 4),  # 50 are missing: one goes
        ({"requested": 300, "limit": 1000, "used": 800}, 4),
        ({"requested": 301, "limit": 1000, "used": 800}, 3),
        ({"requested": 200, "limit": 1000, "used": 800}, 5),  # nothing is missing
        ({"requested": 100, "limit": 500, "used": 800}, 4),  # above its limit already
        ({"requested": 100_000, "limit": 1000, "used": 1000}, 0),
    ],
)
def test_it_gives_way_by_as_much_as_is_missing(denial: dict[str, int], left: int) -> None:
    cache = Cache(getsizeof=len)
    for i in range(5):
        cache.set(i, bytes(100))
    for level in ("warn", "critical", "full", "normal"):
        cache.on_pressure(level, pressed(**denial))
    cache.on_pressure("refusal", SimpleNamespace(last_denial=None))  # type: ignore[arg-type]
    assert len(cache) == 5
    cache.with_dedup().on_pressure("refusal", pressed(**denial))
    assert (len(cache), cache.cache_info().evicted) == (left, 5 - left)
    assert all(cache.get(i) is not None for i in range(5 - left, 5)), "the oldest went"


def test_what_is_left_of_a_cache_that_goes(nm: Binding) -> None:
    """Its charge goes back, where the budget has it still."""
    budget = nm.Budget(100, warn=1)
    cache = Cache(getsizeof=len, budget=budget)
    cache.set("a", bytes(60))
    budget.release(60)  # as when a collection took both
    cache.__del__()
    assert budget.used == 0
    free = Cache(getsizeof=len)
    free.set("a", bytes(60))
    free.__del__()


# --- layers


def test_what_a_layer_passes_on() -> None:
    base = Cache()
    for layer in (base.with_dedup(), base.with_circuit_breaker(), base.with_rate_limit(5)):
        assert layer.get("none", 3) == 3 and layer.get_stale("none", 4) == 4
        assert layer.get("none") is None and layer.get_stale("none") is None
        layer.set("a", 1)
        assert base.get("a") == layer.get("a") == layer.get_stale("a") == 1
        layer.invalidate("a")
        assert base.get("a") is None
        layer.set("b", 1)
        layer.clear()
        assert len(base) == 0 and repr(layer) == f"<{type(layer).__name__} around {base!r}>"
    assert type(base.with_dedup().with_rate_limit(1)) is RateLimitedCache
    for call in (
        Composable().with_dedup,
        Composable().with_circuit_breaker,
        lambda: Composable().with_rate_limit(1),
    ):
        with pytest.raises(NotImplementedError):
            call()


def test_a_layer_that_adds_nothing() -> None:
    """What each layer has that says nothing else: the cache's own, kind and all."""
    base = Cache()
    assert layers._Layer(base).get_or_compute("a", lambda: 3) == 3 and base.get("a") == 3
    assert layers._Layer(base)._is_async is False and layers._Layer(AsyncCache())._is_async is True
    assert layers._Layer(base)._layers() is layers


def test_an_open_circuit_says_when(clock: Clock) -> None:
    cache = Cache().with_circuit_breaker(2, 10, clock=clock)
    for _ in range(2):
        assert cache.state == "closed"
        with pytest.raises(OSError):
            cache.get_or_compute("a", fail)
    clock.now += 2.5
    with pytest.raises(CircuitOpenError, match="^the circuit is open after 2 failures in a row") as caught:
        cache.get_or_compute("a", never)
    assert caught.value.suggestion == "try again in 7.5 s, or serve what is stale"
    assert (caught.value.retry_after, caught.value.state["failures"]) == (7.5, 2) and cache.state == "open"
    clock.now += 7.25
    assert cache.state == "open" and cache._rest() == 0.25
    with pytest.raises(CircuitOpenError):
        cache.get_or_compute("a", never)
    clock.now += 0.25
    assert cache.state == "half-open" and cache._rest() == 0.0
    clock.now += 100
    assert cache.state == "half-open" and cache._rest() == 0.0
    assert cache.get_or_compute("a", lambda: 1) == 1
    assert cache.state == "closed" and cache._rest() == 0.0
    with pytest.raises(OSError):
        cache.get_or_compute("b", fail)
    assert cache.state == "closed", "it counts from 0 again"


def test_a_probe_is_under_way(clock: Clock) -> None:
    """Whatever time it takes it is half open, and none but the probe is let through."""
    cache = Cache().with_circuit_breaker(1, 10, clock=clock)
    with pytest.raises(OSError):
        cache.get_or_compute("a", fail)
    clock.now += 10

    def probe() -> str:
        clock.now -= 5
        assert cache.state == "half-open"
        with pytest.raises(CircuitOpenError):
            cache.get_or_compute("b", never)
        clock.now += 5
        with pytest.raises(CircuitOpenError) as caught:
            cache.get_or_compute("b", never)
        assert caught.value.retry_after == 0
        raise OSError("down still")

    with pytest.raises(OSError, match="still"):
        cache.get_or_compute("a", probe)
    assert cache.state == "open" and cache._rest() == 10


def test_what_began_before_the_circuit_opened_says_nothing(clock: Clock) -> None:
    cache = Cache().with_circuit_breaker(1, 10, clock=clock)

    def compute(fails: bool) -> int:
        with pytest.raises(OSError):
            cache.get_or_compute("b", fail)
        clock.now += 4
        if fails:
            raise OSError("late")
        return 7

    assert cache.get_or_compute("a", lambda: compute(False)) == 7
    assert cache.state == "open" and cache._rest() == 6
    clock.now += 6
    assert cache.get_or_compute("c", lambda: 1) == 1 and cache.state == "closed"
    with pytest.raises(OSError, match="late"):
        cache.get_or_compute("d", lambda: compute(True))
    assert cache.state == "open" and cache._rest() == 6, "it does not open anew"


def test_an_interrupt_counts_as_nothing(clock: Clock) -> None:
    cache = Cache().with_circuit_breaker(1, 10, clock=clock)

    def interrupt() -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.get_or_compute("a", interrupt)
    assert cache.state == "closed"
    with pytest.raises(OSError):
        cache.get_or_compute("a", fail)
    clock.now += 10
    with pytest.raises(KeyboardInterrupt):
        cache.get_or_compute("a", interrupt)  # the probe
    assert cache.state == "half-open"
    assert cache.get_or_compute("a", lambda: 1) == 1 and cache.state == "closed"


@pytest.mark.parametrize("serves", [False, True])
def test_what_is_stale(clock: Clock, serves: bool) -> None:
    """None is a value, and is served; without being asked to it serves nothing."""
    cache = Cache(ttl=1, stale=100, clock=clock).with_circuit_breaker(1, 10, serve_stale=serves, clock=clock)
    assert cache.get_or_compute("a", lambda: None) is None
    clock.now += 1
    with pytest.raises(OSError):
        cache.get_or_compute("a", fail)
    if serves:
        assert cache.get_or_compute("a", never) is None
    else:
        with pytest.raises(CircuitOpenError):
            cache.get_or_compute("a", never)
    with pytest.raises(CircuitOpenError):
        cache.get_or_compute("b", never)


def test_how_many_at_once(clock: Clock) -> None:
    """One second's, at least one; a clock that goes back gives nothing."""
    for rate, burst, most in ((0.5, None, 1), (1, None, 1), (2.9, None, 2), (3, None, 3), (0.5, 2, 2)):
        cache = Cache().with_rate_limit(rate, burst, clock=clock)
        for n in range(most):
            assert cache.get_or_compute(n, lambda n=n: n) == n  # type: ignore[misc]
        with pytest.raises(RateLimitExceeded, match=f"^more than {rate:g} computes a second") as caught:
            cache.get_or_compute("more", never)
        assert caught.value.retry_after == 1 / rate and caught.value.state["rate"] == rate
        assert caught.value.suggestion == f"try again in {1 / rate:g} s, or allow a higher rate"
        clock.now -= 50
        with pytest.raises(RateLimitExceeded) as caught:
            cache.get_or_compute("more", never)
        assert caught.value.retry_after == 1 / rate
        clock.now += 1.001 / rate
        assert cache.get_or_compute("more", lambda: 1) == 1


def test_computes_in_one_another_share_with_threads() -> None:
    """One in the midst of its own compute does not wait for itself; what the inner one met the others meet."""
    cache = Cache().with_dedup()

    def outer() -> int:
        with pytest.raises(OSError):
            cache.get_or_compute("a", fail)
        return 5

    assert cache.get_or_compute("a", outer) == 5 and cache.get("a") == 5 and cache._flights == {}

    def raises() -> int:
        assert cache.get_or_compute("b", lambda: 1) == 1
        raise LookupError("outer")

    with pytest.raises(LookupError, match="outer"):
        cache.get_or_compute("b", raises)
    assert cache._flights == {}


@pytest.mark.parametrize("how", ["invalidate", "clear", "another key"])
def test_flights_that_are_left(how: str) -> None:
    """After an invalidation a caller computes for itself, and what it shares is its own; another key's stays."""
    cache, began, go = Cache().with_dedup(), threading.Event(), threading.Event()

    def slow() -> str:
        began.set()
        assert go.wait(60)
        return "old"

    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(cache.get_or_compute("a", slow)))
    thread.start()
    assert began.wait(60)
    (flight,) = cache._flights
    if how == "another key":
        cache.invalidate("b")
        assert list(cache._flights) == [flight]
    else:
        _ = cache.invalidate("a") if how == "invalidate" else cache.clear()
        assert cache._flights == {}
        others: list[Any] = []

        def new() -> str:
            others.append(list(cache._flights))
            go.set()
            thread.join(60)  # the older one lands meanwhile, and takes away its own flight alone
            others.append(list(cache._flights))
            return "new"

        assert cache.get_or_compute("a", new) == "new" and others == [[flight]] * 2
    go.set()
    thread.join(60)
    assert found == ["old"] and cache._flights == {}
    assert cache.get("a") == ("old" if how == "another key" else "new")


def test_a_compute_that_nothing_waits_for(clock: Clock) -> None:
    """Its error is nobody's, and is not complained of; neither is one that cancels itself."""

    async def main() -> None:
        cache, gate = AsyncCache().with_dedup(), asyncio.Event()

        async def down() -> None:
            await gate.wait()
            raise OSError("down")

        alone = asyncio.ensure_future(cache.get_or_compute("a", down))
        for _ in range(5):
            await asyncio.sleep(0)
        alone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await alone
        gate.set()
        for _ in range(5):
            await asyncio.sleep(0)
        assert cache._flights == {}

        async def cancels() -> None:
            raise asyncio.CancelledError

        with pytest.raises(asyncio.CancelledError):
            await cache.get_or_compute("b", cancels)
        await asyncio.sleep(0)
        assert cache._flights == {}

    run(main)


def test_a_timeout_that_is_not_reached() -> None:
    async def main() -> None:
        cache = AsyncCache().with_circuit_breaker(1, timeout=60)

        async def compute() -> int:
            await asyncio.sleep(0)
            return 3

        assert await cache.get_or_compute("a", compute) == 3 and cache.state == "closed"
        assert cache._timeout == 60.0 and AsyncCache().with_circuit_breaker()._timeout is None

    run(main)
