"""Bounds and tables at their edges: how deep chains are, what a histogram shows of how many."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import pytest

from nativemem.backends.binding import Binding
from nativemem.errors import ConfigError, InvalidLayout
from nativemem.manager import (
    CappedProvider,
    LinearMemory,
    MemoryManager,
    StaticProvider,
    StdProvider,
    default_provider,
)
from nativemem.manager.collections import BoundedString
from nativemem.structures import Cache, CircuitBreakerCache, InternTable, ObjectPool, RateLimitedCache
from nativemem.wrappers import histogram


def test_the_depth_of_a_chain(nm: Binding) -> None:
    """A hundred, and what is refused changes nothing."""
    allocator, budget = nm.System(), nm.Budget(1000, "1")
    for n in range(2, 101):
        allocator, budget = nm.Failing(allocator), nm.Budget(1000, str(n), budget)
    with pytest.raises(ConfigError, match="^failing.upstream: at most 100 allocators make a chain"):
        nm.Failing(allocator)
    with pytest.raises(ConfigError, match="^budget.parent: at most 100 budgets stand below each other"):
        nm.Budget(1000, "101", budget)
    with allocator.alloc(10) as block, budget.reserve(20):
        assert (block.size, budget.used, allocator.stats.live) == (10, 20, 1)


HISTOGRAM = """\
title: 121 blocks
           size up to      blocks
                 16 B          80  ########################################
              1.0 KiB          40  ####################
              1.0 MiB           1  #
   size: p50 16 B, p90 1.0 KiB, p99 1.0 KiB
  upstream took up to      blocks
               999 ns           1  ####################
                 1 us           2  ########################################
              1.5 ms           1  ####################
                  2 s           1  ####################
   time: p50 1 us, p90 2 s, p99 2 s
"""


def test_a_histogram() -> None:
    sizes = [(16, 80), (1024, 40), (1 << 20, 1)]
    latencies = [(999, 1), (1000, 2), (1_500_000, 1), (2_000_000_000, 1)]
    out = io.StringIO()
    histogram.show("title", sizes, latencies, "pure", out)
    page, _, last = out.getvalue().rpartition("  nativemem ")
    assert [line.split() for line in page.splitlines()] == [line.split() for line in HISTOGRAM.splitlines()]
    assert len({len(line.partition("#")[0]) for line in page.splitlines() if "#" in line}) == 1
    assert " (pure), " in last and last.endswith(" CPUs\n")
    out = io.StringIO()
    histogram.show("one", [(16, 1)], [], "pure", out)
    assert out.getvalue().startswith("one: 1 block\n") and "time" not in out.getvalue()


@pytest.mark.parametrize(
    ("counts", "p50", "p90", "p99"),
    [
        ([(8, 1)], 8, 8, 8),
        ([(8, 1), (16, 1)], 8, 16, 16),
        ([(8, 50), (16, 40), (32, 9), (64, 1)], 8, 16, 32),
        ([(8, 49), (16, 40), (32, 9), (64, 2)], 16, 32, 64),
        ([(8, 0), (16, 1)], 16, 16, 16),
    ],
)
def test_nearest_ranks(counts: list[tuple[int, int]], p50: int, p90: int, p99: int) -> None:
    assert histogram.percentiles(counts) == {50: p50, 90: p90, 99: p99}
    assert histogram.percentiles([]) is histogram.percentiles([(8, 0)]) is None


def test_a_minimum_is_at_most_the_limit(nm: Binding) -> None:
    """And may be as much, of a budget and of a manager's owner."""
    budget = nm.Budget(1000, minimum=1000)
    assert (budget.limit, budget.minimum) == (1000, 1000)
    with pytest.raises(ConfigError, match="minimum"):
        nm.Budget(1000, minimum=1001)
    m = MemoryManager({"a": {"limit": 1000, "minimum": 1000}}, upstream=nm.Heap())
    assert m.owner("a").minimum == 1000
    with pytest.raises(ConfigError, match="owners.a.minimum: is 1001 bytes, above the limit of 1000"):
        MemoryManager({"a": {"limit": 1000, "minimum": 1001}})


def _set_limit(budget: Any, limit: int) -> None:
    budget.limit = limit


#: parameter, the least that it takes, and a call with a value of it
LEAST: list[tuple[str, int, Callable[[Binding, int], Any]]] = [
    ("arena.hint", 1, lambda nm, n: nm.Arena(hint=n)),
    ("arena.cap", 1, lambda nm, n: nm.Arena(hint=1, cap=n)),
    ("stack.capacity", 1, lambda nm, n: nm.Stack(n)),
    ("pool.block_size", 1, lambda nm, n: nm.Pool(n, 1)),
    ("pool.count", 1, lambda nm, n: nm.Pool(16, n)),
    ("slab.bins", 16, lambda nm, n: nm.Slab((n,))),
    ("budget.limit", 1, lambda nm, n: nm.Budget(n)),
    ("budget.limit", 1, lambda nm, n: _set_limit(nm.Budget(9), n)),
    ("failing.n", 0, lambda nm, n: nm.Failing(nm.System(), n)),
    ("traced.stacks", 0, lambda nm, n: nm.Traced(nm.System(), stacks=n)),
    ("verified.seed", 1, lambda nm, n: nm.Verified(nm.System(), seed=n)),
    ("CappedProvider.max_size", 1, lambda nm, n: CappedProvider(n, upstream=nm.System())),
    ("StaticProvider.capacity", 1, lambda nm, n: StaticProvider(n, upstream=nm.System())),
    ("default_provider.size", 1, lambda nm, n: default_provider("alloc", n, upstream=nm.System())),
    ("linear.pages", 0, lambda nm, n: LinearMemory(n, upstream=nm.System())),
    ("linear.maximum", 0, lambda nm, n: LinearMemory(0, n, upstream=nm.System())),
    ("linear.grow: n", 0, lambda nm, n: LinearMemory(0, upstream=nm.System()).grow(n)),
    ("BoundedString: capacity", 1, lambda nm, n: BoundedString(n, upstream=nm.System())),
    ("BoundedString: capacity", 1, lambda nm, n: BoundedString.from_str_truncate("", n, upstream=nm.System())),
    ("cache.maxsize", 1, lambda nm, n: Cache(n)),
    ("cache.max_bytes", 1, lambda nm, n: Cache(max_bytes=n)),
    ("pool.max_size", 1, lambda nm, n: ObjectPool(list, max_size=n)),
    ("breaker.failures", 1, lambda nm, n: CircuitBreakerCache(Cache(), n)),
    ("ratelimit.burst", 1, lambda nm, n: RateLimitedCache(Cache(), 1, n)),
]


@pytest.mark.parametrize(("name", "least", "call"), LEAST, ids=[name for name, *_ in LEAST])
def test_the_least_that_a_parameter_takes(
    nm: Binding, name: str, least: int, call: Callable[[Binding, int], Any]
) -> None:
    """It is taken; one less is refused by a message that has the parameter and the least."""
    if name.startswith(("cache.", "breaker.", "ratelimit.")):
        pytest.importorskip("cachetools", reason="cachetools is not installed (it comes with nativemem[cache])")
    call(nm, least)
    told = rf"^{re.escape(name)}.*(the least is {least}\b|from {least} to|not the negative -1\b)"
    with pytest.raises((ConfigError, InvalidLayout), match=told):
        call(nm, least - 1)


#: parameter, the most that it takes, and a call with a value of it
MOST: list[tuple[str, int, Callable[[Binding, int], Any]]] = [
    ("traced.stacks", 128, lambda nm, n: nm.Traced(nm.System(), stacks=n)),
    ("budget.overcommit", 1000, lambda nm, n: nm.Budget(1, overcommit=n)),
    ("linear.maximum", 65536, lambda nm, n: LinearMemory(0, n, upstream=nm.System())),
    ("intern.shards", 256, lambda nm, n: InternTable(nm.Heap(), shards=n if n == 256 else 512)),
]


@pytest.mark.parametrize(("name", "most", "call"), MOST, ids=[name for name, *_ in MOST])
def test_the_most_that_a_parameter_takes(
    nm: Binding, name: str, most: int, call: Callable[[Binding, int], Any]
) -> None:
    call(nm, most)
    with pytest.raises(ConfigError, match=rf"^{re.escape(name)}: .*\b{most}\b"):
        call(nm, most + 1)


def test_the_runs_of_a_sweep(nm: Binding) -> None:
    """One allocation takes two: one in which it fails, one in which it does not."""

    def one(allocator: Any) -> None:
        allocator.alloc(16).free()

    assert nm.Failing.sweep(one, nm.System(), most=2) == 1
    with pytest.raises(ConfigError, match="^failing.most: still not done after 1 allocations"):
        nm.Failing.sweep(one, nm.System(), most=1)
    with pytest.raises(ConfigError, match="^failing.most: takes an integer from 1 to"):
        nm.Failing.sweep(one, nm.System(), most=0)


def test_a_provider_counts_so_many_regions(nm: Binding) -> None:
    with StdProvider(upstream=nm.System()) as provider:
        provider.write_bytes(0, bytes(5000))
        for i in range(4094):
            provider.read_bytes(i, 1)
        assert provider.stats.regions == 4095
        for i in range(4094, 4100):
            provider.read_bytes(i, 1)
        assert provider.stats.regions == 4096
