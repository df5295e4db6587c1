"""Bounds and tables at their edges: how deep chains are, what a histogram shows of how many."""

from __future__ import annotations

import io

import pytest

from nativemem.backends.binding import Binding
from nativemem.errors import ConfigError
from nativemem.manager import MemoryManager
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
