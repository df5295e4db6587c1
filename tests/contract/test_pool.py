"""POOL: cells of one size, checked frees, growth, confinement, natural size."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import threading

import pytest

from nativemem._api import load
from nativemem.backends.binding import Binding
from nativemem.config import PoolConfig
from nativemem.errors import (
    BudgetExceeded,
    ConfigError,
    CorruptionDetected,
    InvalidLayout,
    OutOfMemory,
    PoolExhausted,
    WrongThread,
)
from nativemem.sizes import SIZE_MAX

from .helpers import collect, content, figures, fill, in_thread, is_one_line, unchanged

# --- configuration ---


def test_defaults(nm: Binding) -> None:
    """POOL-1, CFG-3"""
    pool = nm.Pool(100, 10)
    assert pool.config == PoolConfig(100, 10, False)
    assert pool.upstream is nm.default_system
    assert nm.Pool("1 KiB", 3, True).config == PoolConfig(1024, 3, True)


@pytest.mark.parametrize(
    ("arguments", "error", "section"),
    [
        ({"block_size": 0, "count": 1}, InvalidLayout, "pool.block_size"),
        ({"block_size": -1, "count": 1}, InvalidLayout, "pool.block_size"),
        ({"block_size": 1.5, "count": 1}, InvalidLayout, "pool.block_size"),
        ({"block_size": 1 << 63, "count": 1}, InvalidLayout, "pool.block_size"),
        ({"block_size": 16, "count": 0}, InvalidLayout, "pool.count"),
        ({"block_size": 16, "count": -3}, InvalidLayout, "pool.count"),
        ({"block_size": 16, "count": None}, InvalidLayout, "pool.count"),
        ({"block_size": 16, "count": SIZE_MAX}, InvalidLayout, "pool.count"),
        ({"block_size": SIZE_MAX, "count": 1}, InvalidLayout, "pool.count"),
        ({"block_size": 16, "count": 1, "grow": 1}, ConfigError, "pool.grow"),
        ({"block_size": 16, "count": 1, "upstream": "x"}, ConfigError, "pool.upstream"),
    ],
    ids=repr,
)
def test_bad_configuration(nm: Binding, arguments: dict[str, object], error: type[Exception], section: str) -> None:
    """CFG-1, LAYOUT-3, LAYOUT-4: the message names the section; a product does not wrap."""
    with pytest.raises(error) as caught:
        nm.Pool(**arguments)
    assert str(caught.value).startswith(section + ":")
    assert is_one_line(caught.value)


@pytest.mark.parametrize("given", [{}, {"block_size": 16}, {"count": 1}])
def test_both_are_required(nm: Binding, given: dict[str, int]) -> None:
    """CFG-2"""
    with pytest.raises(TypeError, match="missing"):
        nm.Pool(**given)


@pytest.mark.parametrize(
    ("block_size", "cell"), [(1, 16), (15, 16), (16, 16), (17, 32), (100, 112), (4096, 4096), (5000, 5008)]
)
def test_the_cell(nm: Binding, block_size: int, cell: int) -> None:
    """POOL-1: the block size, rounded up to a multiple of 16, at least 16."""
    system = nm.System()
    pool = nm.Pool(block_size, 3, upstream=system)
    block = pool.alloc()
    assert (block.size, block.usable) == (block_size, cell)
    assert (pool.stats.reserved, pool.stats.limit) == (3 * cell, 3 * cell)
    assert (system.stats.current, system.stats.live) == (3 * cell, 1)
    whole = pool.alloc(cell)
    fill(block, 1)
    fill(whole, 2)
    assert content(block) == b"\x01" * block_size
    assert abs(whole.address - block.address) >= cell


# --- sizes and alignments ---


def test_what_a_cell_fits(nm: Binding) -> None:
    """POOL-3: a larger request, or an alignment that the cell is no multiple of, is a bad layout, no failure."""
    pool = nm.Pool(40, 10)  # cells of 48
    for size, align in ((49, 16), (1 << 40, 1), (1, 32), (48, 4096)):
        with unchanged(pool), pytest.raises(InvalidLayout) as caught:
            pool.alloc(size, align)
        assert is_one_line(caught.value)
        assert f"a block of {size} bytes, so aligned, does not fit a cell of 48 bytes" in str(caught.value)
        assert figures(caught.value) == {"requested": size, "used": 0, "limit": 48}
    for size, align in ((1, 1), (48, 16), (0, 4096), (20, 8)):
        assert pool.alloc(size, align).address % align == 0
    for align in (1, 64, 256, 4096):
        block = nm.Pool(4096, 3).alloc(10, align)
        assert block.address % align == 0


def test_the_natural_size(nm: Binding) -> None:
    """POOL-3: alloc() takes the block size, also through wrappers; nothing else has one."""
    pool = nm.Pool(100, 10)
    wrapped = nm.Traced(nm.Limited(pool, nm.Budget(1000)))
    assert [allocator.alloc().size for allocator in (pool, wrapped, wrapped.upstream)] == [100] * 3
    for allocator in (nm.Arena(upstream=nm.Pool("64 KiB", 2)), nm.Traced(nm.System()), nm.Heap()):
        with unchanged(allocator), pytest.raises(TypeError):
            allocator.alloc()


# --- taking and giving ---


def test_empty(nm: Binding) -> None:
    """POOL-3: refused, and usable after."""
    pool = nm.Pool(10, 3)
    blocks = [pool.alloc() for _ in range(3)]
    assert len({block.address for block in blocks}) == 3
    before = pool.stats
    with pytest.raises(PoolExhausted) as caught:
        pool.alloc()
    assert isinstance(caught.value, MemoryError)
    assert is_one_line(caught.value)
    assert figures(caught.value) == {"requested": 10, "used": 30, "limit": 48}
    assert pool.stats.failures == before.failures + 1
    assert (pool.stats.current, pool.stats.live) == (before.current, before.live)
    assert pool.alloc(0).alive, "no bytes, no cell"
    blocks.pop(1).free()
    blocks.append(pool.alloc(16))
    with pytest.raises(PoolExhausted):
        pool.alloc(1)


def test_any_order(nm: Binding) -> None:
    """POOL-1: cells are used again, blocks keep their bytes."""
    system = nm.System()
    pool = nm.Pool(64, 100, upstream=system)
    blocks: dict[int, object] = {}
    for step in range(1000):
        key = step * 37 % 100
        if key in blocks:
            assert content(blocks[key]) == bytes([key]) * 64
            blocks.pop(key).free()
        blocks[key] = pool.alloc()
        fill(blocks[key], key)
    assert len(blocks) == pool.stats.live == 100
    assert system.stats.count == 1


def test_growing(nm: Binding) -> None:
    """POOL-1: as many again each time; the chunks go back at the end."""
    system = nm.System()
    pool = nm.Pool(16, 4, grow=True, upstream=system)
    blocks, seen = [], []
    for _ in range(33):
        blocks.append(pool.alloc())
        seen.append(pool.stats.reserved // 16)
    assert seen == [4] * 4 + [8] * 4 + [16] * 8 + [32] * 16 + [64]
    assert (system.stats.live, system.stats.current, pool.stats.limit) == (5, 1024, None)
    for number, block in enumerate(blocks):
        fill(block, number)
    assert [content(block) for block in blocks] == [bytes([k]) * 16 for k in range(33)]
    for block in blocks[::2]:
        block.free()
    del blocks[::2]
    blocks += [pool.alloc() for _ in range(17)]
    assert system.stats.count == 5, "free cells serve first"
    pool.close()
    assert (system.stats.live, system.stats.current) == (0, 0)


def test_growth_that_upstream_refuses(nm: Binding) -> None:
    """POOL-1: upstream's reason comes out; the pool goes on with what it has."""
    budget = nm.Budget(160, name="b")
    pool = nm.Pool(16, 4, grow=True, upstream=nm.Limited(nm.System(), budget))
    blocks = [pool.alloc() for _ in range(8)]
    with pytest.raises(BudgetExceeded) as caught:
        pool.alloc()
    assert figures(caught.value) == {"requested": 128, "used": 128, "limit": 160, "owner": "b"}
    assert (pool.stats.failures, pool.stats.live, pool.stats.reserved) == (1, 8, 128)
    blocks.pop().free()
    assert pool.alloc().alive
    with pytest.raises(BudgetExceeded):
        nm.Pool(16, 11, upstream=nm.Limited(None, budget))


def test_a_first_chunk_that_is_not_to_be_had(nm: Binding) -> None:
    """POOL-1: no pool, and the reason."""
    with pytest.raises(OutOfMemory):
        nm.Pool(1 << 40, 1 << 20)


def test_resize_stays_in_its_cell(nm: Binding) -> None:
    """POOL-3"""
    pool = nm.Pool(40, 2)
    block = pool.alloc(10)
    fill(block, 3)
    assert pool.resize(block, 48) is True
    assert content(block)[:10] == b"\x03" * 10
    with unchanged(pool):
        assert pool.resize(block, 49) is False
    assert (pool.stats.current, pool.stats.total, pool.stats.peak) == (48, 48, 48)
    assert pool.resize(block, 1) is True
    assert (pool.stats.current, pool.stats.failures) == (1, 0)


def test_blocks_free_themselves(nm: Binding) -> None:
    """POOL-3: an endless loop of temporaries needs one cell."""
    pool = nm.Pool(64, 2)
    for _ in range(100):
        fill(pool.alloc(), 1)
    collect()
    assert (pool.stats.live, pool.stats.frees, pool.stats.failures) == (0, 100, 0)


def test_close_gives_everything_back(nm: Binding) -> None:
    system = nm.System()
    pool = nm.Pool(64, 2, grow=True, upstream=system)
    blocks = [pool.alloc(n) for n in (1, 64, 10, 0)]
    pool.close()
    assert (system.stats.current, system.stats.live) == (0, 0)
    assert not any(block.alive for block in blocks)


# --- what a write through a dangling pointer does ---


@pytest.mark.touches_freed
@pytest.mark.usefixtures("needs_native")
@pytest.mark.parametrize("junk", [b"\x41" * 64, b"\xff" * 64, b"\x01" + bytes(63)])
def test_a_broken_free_list_is_not_followed(junk: bytes) -> None:
    """POOL-2: a write into a free cell that leads to what is no free cell is found before memory is handed out;
    nothing changes, and what can still be done can be done."""
    pool = load("native").Pool(64, 4)
    blocks = pool.alloc_many([64] * 4)
    for number, block in enumerate(blocks):
        fill(block, number)
    address = blocks[1].address
    blocks[2].free()
    blocks[1].free()
    ctypes.memmove(address, junk, 64)
    taken = pool.alloc()  # the cell itself is free; where its link leads is looked at when it is followed
    assert taken.address == address
    for _ in range(2):
        with unchanged(pool), pytest.raises(CorruptionDetected) as caught:
            pool.alloc()
        assert is_one_line(caught.value)
        assert isinstance(caught.value, RuntimeError)
    assert content(blocks[0]) == bytes(64)
    assert content(blocks[3]) == b"\x03" * 64
    blocks[3].free()
    assert pool.alloc().size == 64
    pool.close()


# --- confinement ---


def test_calls_from_another_thread(nm: Binding) -> None:
    """POOL-4"""
    pool = nm.Pool(64, 10, upstream=nm.System())
    block, empty = pool.alloc(), pool.alloc(0)
    fill(block, 6)
    for call in (
        pool.alloc,
        lambda: pool.alloc(0),
        lambda: pool.array("d", 3),
        lambda: pool.alloc_many([1, 2]),
        lambda: pool.free(block),
        lambda: pool.free(empty),
        block.free,
        lambda: pool.resize(block, 32),
        pool.close,
    ):
        with unchanged(pool), pytest.raises(WrongThread) as caught:
            in_thread(call)
        assert is_one_line(caught.value)
    assert content(block) == b"\x06" * 64
    assert in_thread(lambda: pool.stats) == pool.stats


@pytest.mark.parametrize("kind", ["Arena", "Stack", "Pool", "Slab"])
def test_what_a_dead_thread_made_belongs_to_nobody(nm: Binding, kind: str) -> None:
    """POOL-4, ARENA-5, SLAB-3: also where the system gives its number to a thread that comes later."""
    arguments = {"Stack": (1000,), "Pool": (64, 10)}.get(kind, ())
    made: list[tuple[object, object, int]] = []

    def work() -> None:
        allocator = getattr(nm, kind)(*arguments)
        made.append((allocator, allocator.alloc(20), threading.get_ident()))

    def intrude() -> int:
        with pytest.raises(WrongThread):
            allocator.alloc(1)
        with pytest.raises(WrongThread):
            allocator.resize(block, 10)
        return threading.get_ident()

    # which number a thread gets is the system's choice; as a rule it is the last one that got free
    for _ in range(50):
        in_thread(work)
        allocator, block, ident = made.pop()
        reused = in_thread(intrude) == ident
        if reused:
            break
    if sys.platform == "linux":
        assert reused, "the test is about numbers that are used again"
    with pytest.raises(WrongThread):
        allocator.alloc(1)
    fill(block, 9)
    assert content(block) == b"\x09" * 20


TWO_THREADS = """
import gc, sys, threading
from nativemem._api import load
nm = load(sys.argv[1])
pool = nm.Pool(64, 100)
blocks = [pool.alloc() for _ in range(50)]
blocks = [blocks]
blocks[0].append(blocks[0])  # a cycle: the thread that finds it finalises them, whatever the interpreter
gc.disable()
def drop():
    blocks.clear()
    gc.collect()
thread = threading.Thread(target=drop)
thread.start()
thread.join()
gc.enable()
print(pool.stats.live, [pool.alloc().size for _ in range(3)])
"""


def test_exit_with_blocks_that_another_thread_dropped(nm: Binding) -> None:
    """LIFE-6, LIFE-8"""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", TWO_THREADS, nm.name], capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "50 [64, 64, 64]\n", "")
