"""SYS: the bottom of every chain, from any thread."""

from __future__ import annotations

import threading

import pytest

from nativemem.allocators.base import Stats
from nativemem.backends.binding import Binding

from .helpers import collect, content, fill, in_thread


def test_counters(nm: Binding) -> None:
    """SYS-1"""
    system = nm.System()
    assert system.stats == Stats(0, 0, 0, None, 0, 0, 0, 0, 0)
    one, other = system.alloc(100), system.alloc(50, 4096)
    one.free()
    stats = system.stats
    assert (stats.current, stats.peak, stats.limit, stats.total) == (50, 150, None, 150)
    assert (stats.live, stats.count, stats.frees, stats.failures) == (1, 2, 1, 0)
    assert stats.reserved >= stats.current
    assert other.usable == 50


def test_resize_only_shrinks(nm: Binding) -> None:
    """SYS-1: a failed resize leaves the old block counted."""
    system = nm.System()
    block = system.alloc(100)
    fill(block, 1)
    assert system.resize(block, 101) is False
    assert (block.size, system.stats.current, system.stats.failures) == (100, 100, 0)
    assert system.resize(block, 60) is True
    assert (block.size, system.stats.current) == (60, 60)
    assert content(block) == b"\x01" * 60
    assert system.resize(block, 61) is False
    block.free()
    assert (system.stats.current, system.stats.total) == (0, 100)


def test_each_system_counts_for_itself(nm: Binding) -> None:
    one, other = nm.System(), nm.System()
    block = one.alloc(10)
    assert (one.stats.current, other.stats.current) == (10, 0)
    block.free()


@pytest.mark.unplanted("looks at what there is without it")
def test_the_shared_one_is_the_default(nm: Binding) -> None:
    assert isinstance(nm.default_system, nm.System)
    assert nm.Arena().upstream is nm.Slab().upstream is nm.Traced().upstream is nm.default_system
    assert nm.System().upstream is None


def test_any_thread(nm: Binding) -> None:
    """SYS-1: exact after threads that allocate, hand over and free."""
    for allocator in (nm.System(), nm.Heap()):
        handed: list[object] = []
        start = threading.Barrier(4)

        def work(number: int) -> None:
            start.wait()  # noqa: B023
            for n in range(200):
                block = allocator.alloc(n + 1)  # noqa: B023
                fill(block, number)
                assert content(block) == bytes([number]) * (n + 1)
                handed.append(block)  # noqa: B023
                if n % 2:
                    handed.pop().free()  # noqa: B023

        threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stats = allocator.stats
        assert (stats.count, stats.frees, stats.live) == (800, 400, 400)
        assert stats.total == 4 * sum(range(1, 201))
        assert stats.current == sum(block.size for block in handed)
        assert stats.peak >= stats.current
        handed.clear()
        collect()
        assert (allocator.stats.current, allocator.stats.live) == (0, 0)


def test_freed_by_another_thread(nm: Binding) -> None:
    block = nm.System().alloc(100)
    in_thread(block.free)
    assert not block.alive
