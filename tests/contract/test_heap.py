"""HEAP: bins and spans, any thread frees."""

from __future__ import annotations

import pytest

from nativemem._backend import Binding

from .helpers import collect, content, fill, in_thread

BINS = (
    *range(16, 513, 16),
    *(base * quarter // 4 for base in (512, 1024, 2048, 4096, 8192, 16384) for quarter in (5, 6, 7, 8)),
)


def usable(size: int, align: int) -> int:
    """HEAP-1 in plain words: the smallest bin that fits size and alignment, else whole 64 KiB."""
    for cell in BINS:
        if cell >= size and cell % align == 0:
            return cell
    return -(-size // 65536) * 65536


def test_the_bins() -> None:
    """HEAP-1: the table above is the one that the clause describes."""
    assert len(BINS) == 32 + 24
    assert BINS[32:40] == (640, 768, 896, 1024, 1280, 1536, 1792, 2048)
    assert BINS[-1] == 32768


@pytest.mark.parametrize("align", [1, 16, 32, 64, 256, 4096])
def test_usable(nm: Binding, align: int) -> None:
    """HEAP-1"""
    heap = nm.Heap()
    sizes = {n for cell in (*BINS, 65536, 131072) for n in (cell - 1, cell, cell + 1)}
    for size in sorted(sizes):
        block = heap.alloc(size, align)
        assert block.usable == usable(size, align), size
        assert block.address % align == 0
    collect()
    assert heap.stats.live == 1


@pytest.mark.parametrize(
    ("old", "new", "done"),
    [
        (100, 112, True),
        (100, 97, True),
        (100, 113, False),
        (100, 96, False),
        (1000, 1024, True),
        (1000, 1025, False),
        (33000, 65536, True),
        (33000, 65537, False),
        (33000, 32768, False),
        (200000, 196609, True),
        (200000, 196608, False),
    ],
)
def test_resize_stays_in_its_cell(nm: Binding, old: int, new: int, done: bool) -> None:
    heap = nm.Heap()
    block = heap.alloc(old)
    fill(block, 1)
    assert heap.resize(block, new) is done
    assert block.size == heap.stats.current == (new if done else old)
    assert content(block)[: min(old, new)] == b"\x01" * min(old, new)
    stats = heap.stats
    assert stats.total == max(old, block.size)
    assert (stats.live, stats.count, stats.frees, stats.failures) == (1, 1, 0, 0)


@pytest.mark.parametrize("size", [24, 5000, 40000, 1 << 20, 65 << 20])
def test_any_thread_frees(nm: Binding, size: int) -> None:
    """HEAP-1"""
    heap = nm.Heap()
    block = heap.alloc(size)
    with memoryview(block) as view:
        view[0] = view[-1] = 1
    in_thread(block.free)
    assert not block.alive
    stats = heap.stats
    assert (stats.current, stats.live, stats.frees, stats.peak) == (0, 0, 1, size)
    assert heap.alloc(size).alive


def test_blocks_outlive_the_thread_that_took_them(nm: Binding) -> None:
    heap = nm.Heap()

    def work() -> list[object]:
        blocks = [heap.alloc(n * 100 + 1) for n in range(100)]
        for n, block in enumerate(blocks):
            fill(block, n)
        return blocks

    blocks = in_thread(work)
    assert heap.stats.live == 100
    assert all(content(block) == bytes([n]) * block.size for n, block in enumerate(blocks))
    del blocks
    collect()
    assert heap.stats.live == 0
    heap.trim()


def test_trim(nm: Binding) -> None:
    """HEAP-2: gives back what is free; what is live stays."""
    heap = nm.Heap()
    kept = heap.alloc(1 << 20)
    fill(kept, 7)
    for _ in range(20):
        heap.alloc(1 << 20)
    collect()
    before = heap.stats.reserved
    heap.trim()
    assert kept.size <= heap.stats.reserved <= before
    assert content(kept) == b"\x07" * (1 << 20)


def test_reserved_covers_what_is_live(nm: Binding) -> None:
    heap = nm.Heap()
    blocks = [heap.alloc(n) for n in (1, 100, 5000, 100000)]
    assert heap.stats.reserved >= heap.stats.current == sum(block.size for block in blocks)
    assert heap.stats.limit is None
