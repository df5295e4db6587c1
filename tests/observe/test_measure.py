"""OBS-2: what a block of code took."""

from __future__ import annotations

import threading

import pytest

import nativemem
from nativemem.backends.binding import Binding
from nativemem.errors import ConfigError
from nativemem.observe.measure import measure

from .helpers import native, run


def test_the_peak_inside(nm: Binding) -> None:
    """OBS-2: a peak can be taken, and is counted anew from then on; the budget's own stays."""
    budget = nm.Budget(1000)
    budget.try_reserve(700)
    budget.release(500)
    core = budget._core
    assert (core.take_peak(), core.take_peak()) == (700, 200)
    budget.try_reserve(100)
    budget.release(300)
    assert (core.take_peak(), core.take_peak(), budget.peak) == (300, 0, 700)


def test_a_budget_in_a_block(nm: Binding) -> None:
    """OBS-2: what was charged meanwhile, whatever came before."""
    budget = nm.Budget(1000)
    budget.try_reserve(600)
    budget.release(100)
    measured = measure(budget)
    assert (measured.sees, measured.delta, measured.seconds) == ("nothing", None, 0)
    with measured as same:
        assert same is measured and (same.sees, same.delta, same.peak, same.count) == ("budget", 0, 0, 0)
        budget.try_reserve(300)
        budget.release(500)
        assert (same.delta, same.peak, same.count, same.denials) == (-200, 300, 1, 0)
        budget.try_reserve(100)
        assert not budget.try_reserve(900)
    budget.try_reserve(500)
    assert (same.delta, same.peak, same.count, same.denials) == (-100, 300, 2, 1)
    assert budget.peak == 900 and same.seconds > 0
    assert str(same).endswith(" s, -100 B more, at most 300 B, 2 charges, 1 denial")
    with pytest.raises(RuntimeError, match="was used before"):
        same.__enter__()


def test_nested_and_reset(nm: Binding) -> None:
    """OBS-2: each block has a peak of its own, also where one begins it anew."""
    budget = nm.Budget(10_000)
    with measure(budget) as outer:
        budget.try_reserve(1000)
        budget.release(900)
        with measure(budget) as inner:
            budget.try_reserve(500)
            budget.release(400)
            inner.reset_peak()
            assert (inner.peak, outer.peak) == (100, 1000)
            budget.try_reserve(200)
            budget.release(250)
        budget.try_reserve(50)
    assert (inner.delta, inner.peak, inner.count) == (50, 300, 2)
    assert (outer.delta, outer.peak, outer.count) == (200, 1000, 4)


def test_blocks_that_overlap(nm: Binding) -> None:
    """OBS-2: as those of tasks and threads do."""
    budget = nm.Budget(10_000)
    first, second, third = measure(budget), measure(budget), measure(budget)
    with first:
        budget.try_reserve(100)
        second.__enter__()
        budget.try_reserve(200)
    budget.release(250)
    third.__enter__()
    budget.try_reserve(1000)
    second.__exit__(None, None, None)
    budget.release(1000)
    budget.try_reserve(10)
    third.__exit__(None, None, None)
    assert [(m.delta, m.peak) for m in (first, second, third)] == [(300, 300), (950, 950), (10, 1000)]


def test_threads(nm: Binding) -> None:
    """OBS-2: windows over one budget come and go in any thread, and none misses the peak inside it."""
    budget = nm.Budget(1 << 40)
    found: list[bool] = []

    def work(n: int) -> None:
        for _ in range(200):
            with measure(budget) as measured:
                budget.try_reserve(n)
                budget.release(n)
            found.append((measured.peak or 0) >= n - sum(sizes) + n)

    sizes = [1000, 3000, 7000]
    threads = [threading.Thread(target=work, args=(n,)) for n in sizes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 600
    with measure(budget) as last:
        budget.try_reserve(5)
    assert (last.delta, last.peak, budget.peak >= 7000) == (5, 5, True)


def test_what_is_no_owner() -> None:
    """OBS-2"""
    for owner in (3, "cache", nativemem.Arena(), b""):
        with pytest.raises(ConfigError, match="measure.owner: takes a Budget, 'process' or None"):
            measure(owner)  # type: ignore[arg-type]


def test_without_the_engine() -> None:
    """OBS-2: the process is seen by tracemalloc where it traces; else it is said that nothing is."""
    run("""
        import tracemalloc
        from nativemem.observe.measure import measure
        for owner in (None, "process"):
            with measure(owner) as blind: kept = bytes(100_000)
            assert (blind.sees, blind.delta, blind.peak, blind.count, blind.denials) == ("nothing", *[None] * 4)
            assert str(blind).endswith("nothing counts what the process takes: call nativemem.install()"), blind
        tracemalloc.start()
        with measure() as outer:
            gone = bytes(1_000_000)
            del gone
            with measure() as inner: kept = bytes(50_000)
        assert (inner.sees, inner.count, inner.denials) == ("tracemalloc", None, None)
        assert 50_000 <= inner.delta < 60_000 and inner.peak < 100_000 and outer.peak >= 1_000_000, (inner, outer)
    """)


@native
def test_what_the_code_in_a_block_takes() -> None:
    """OBS-2: with the engine on, by scope: nested, in tasks and in threads; others do not count."""
    run("""
        import asyncio, threading
        import nativemem
        from nativemem.observe.measure import measure
        from nativemem.observe.snapshot import snapshot
        nativemem.install(limit="1 GiB")
        MIB = 1 << 20
        def near(n, expected): return expected * 0.95 <= n <= expected * 1.3 + MIB
        with measure(): assert snapshot().owners == ()
        with measure() as nothing: pass
        assert nothing.sees == "scope" and nothing.delta == 0 and nothing.peak <= 256 << 10, nothing
        with measure() as outer:
            kept = [bytes(1000) for _ in range(2000)]
            with measure() as inner:
                gone = bytearray(20 * MIB)
                del gone
                kept += [bytes(1000) for _ in range(4000)]
                assert inner.delta > 3 * MIB
        assert near(inner.delta, 4 * MIB) and near(inner.peak, 20 * MIB) and 4000 <= inner.count < 10_000, inner
        assert near(outer.delta, 6 * MIB) and near(outer.peak, 22 * MIB), outer
        assert outer.count >= inner.count + 2000, outer

        def make(n): return [bytes(1000) for _ in range(n)]
        async def job(n):
            with measure() as measured:
                kept = []
                for _ in range(4):
                    kept += make(n)
                    await asyncio.sleep(0)
            return measured, kept
        async def jobs(): return await asyncio.gather(job(2000), job(500), job(1000))
        with measure() as around: made = asyncio.run(jobs())
        for (measured, _), n in zip(made, (8000, 2000, 4000)):
            assert near(measured.delta, 1050 * n) and n <= measured.count < 2.5 * n, measured
        assert near(around.delta, 14 * MIB) and around.count >= 14_000, around

        found = {}
        def work(n):
            with measure() as found[n]: kept = make(n); done.wait()
        done = threading.Barrier(2)
        threads = [threading.Thread(target=work, args=(n,)) for n in (2000, 8000)]
        for t in threads: t.start()
        for t in threads: t.join()
        assert all(near(found[n].delta, 1050 * n) for n in found), found
    """)


@native
def test_refusals_in_a_block() -> None:
    """OBS-2: the owner around is charged, and refuses; the process can be measured as well."""
    run("""
        import nativemem
        from nativemem.observe.measure import measure
        nativemem.install(limit="1 GiB")
        cache = nativemem.Budget("20 MiB", "cache")
        with cache, measure() as outer:
            with measure() as inner:
                for _ in range(3):
                    try: bytearray(30 << 20)
                    except MemoryError: pass
                kept = bytearray(5 << 20)
        assert (inner.denials, outer.denials, cache.denied) == (3, 3, 3), (inner, outer)
        assert cache.used >= 5 << 20 and cache.last_denial.owner == "cache"
        with measure("process") as all_of_it:
            big = bytearray(50 << 20)
            del big
            with measure("process") as last: pass
        assert all_of_it.sees == "engine" and all_of_it.delta < 1 << 20, all_of_it
        assert 50 << 20 <= all_of_it.peak < 52 << 20 and all_of_it.count > 0, all_of_it
        assert last.peak < 1 << 20, last
    """)
