"""SLAB: bins, superblocks, confinement and frees from elsewhere."""

from __future__ import annotations

import queue
import threading

import pytest

from nativemem.backends.binding import Binding
from nativemem.config import SlabConfig
from nativemem.errors import BudgetExceeded, ConfigError, InvalidLayout, WrongThread

from .helpers import collect, content, fill, in_thread, is_one_line, unchanged, wait_for_end

SUPERBLOCK = 65536
CELLS = 15  # of 4096 bytes in a superblock: the first 4096 hold its header


def test_defaults(nm: Binding) -> None:
    """SLAB-1, CFG-3"""
    slab = nm.Slab()
    assert slab.config == SlabConfig((32, 64, 128, 256), False)
    assert slab.upstream is nm.default_system
    assert slab.stats.limit is None


@pytest.mark.parametrize(
    ("arguments", "error", "section"),
    [
        ({"bins": ()}, ConfigError, "slab.bins"),
        ({"bins": 64}, ConfigError, "slab.bins"),
        ({"bins": (24,)}, ConfigError, "slab.bins"),
        ({"bins": (64, 32)}, ConfigError, "slab.bins"),
        ({"bins": (32, 32)}, ConfigError, "slab.bins"),
        ({"bins": (4112,)}, ConfigError, "slab.bins"),
        ({"bins": (0, 16)}, InvalidLayout, "slab.bins"),
        ({"bins": (16, "x")}, InvalidLayout, "slab.bins"),
        ({"bins": (16.0,)}, InvalidLayout, "slab.bins"),
        ({"bins": (-16,)}, InvalidLayout, "slab.bins"),
        ({"zero_on_free": 1}, ConfigError, "slab.zero_on_free"),
        ({"upstream": "x"}, ConfigError, "slab.upstream"),
    ],
    ids=repr,
)
def test_bad_configuration(nm: Binding, arguments: dict[str, object], error: type[Exception], section: str) -> None:
    """CFG-1, SLAB-1"""
    with pytest.raises(error) as caught:
        nm.Slab(**arguments)
    assert str(caught.value).startswith(section + ":")
    assert is_one_line(caught.value)


def test_bins_may_be_any_iterable(nm: Binding) -> None:
    assert nm.Slab(["16", "1 KiB", 4096]).config.bins == (16, 1024, 4096)
    assert nm.Slab(iter(range(16, 4097, 16))).alloc(33).usable == 48


@pytest.mark.parametrize(
    ("size", "align", "usable"),
    [
        (1, 16, 48),
        (48, 16, 48),
        (49, 16, 96),
        (1, 32, 96),
        (1, 64, 256),
        (100, 1, 256),
        (256, 256, 256),
        (257, 16, 1536),
        (1, 512, 1536),
        (1, 1024, 1),
        (1537, 16, 1537),
        (5000, 4096, 5000),
        (0, 16, 0),
    ],
)
def test_the_smallest_bin_that_fits_size_and_alignment(nm: Binding, size: int, align: int, usable: int) -> None:
    """SLAB-1"""
    slab = nm.Slab(bins=(48, 96, 256, 1536), upstream=nm.System())
    block = slab.alloc(size, align)
    assert block.usable == usable
    assert block.address % align == 0


def test_larger_blocks_go_to_upstream(nm: Binding) -> None:
    """SLAB-1"""
    system = nm.System()
    slab = nm.Slab(upstream=system)
    block = slab.alloc(1000)
    assert (system.stats.current, system.stats.live) == (1000, 1)
    assert slab.stats.current == slab.stats.reserved == 1000
    assert slab.resize(block, 900) is True
    assert system.stats.current == slab.stats.current == 900
    assert slab.resize(block, 901) is False
    assert slab.resize(block, 200) is False, "it would belong in a bin"
    block.free()
    assert (system.stats.current, slab.stats.current, slab.stats.reserved) == (0, 0, 0)


def test_pass_through_keeps_the_usable_of_upstream(nm: Binding) -> None:
    slab = nm.Slab(upstream=nm.Traced(nm.Heap()))
    assert slab.alloc(1000).usable == 1008


def test_superblocks(nm: Binding) -> None:
    """SLAB-1, SLAB-2: one spare is kept, the rest goes back as soon as it is empty."""
    system = nm.System()
    slab = nm.Slab(bins=(4096,), upstream=system)
    blocks = [slab.alloc(4000) for _ in range(CELLS)]
    assert (system.stats.current, system.stats.live) == (SUPERBLOCK, 1)
    blocks.append(slab.alloc(1))
    assert (system.stats.current, system.stats.live) == (2 * SUPERBLOCK, 2)
    assert slab.stats.reserved == 2 * SUPERBLOCK
    assert slab.stats.current == CELLS * 4000 + 1
    for block in blocks:
        block.free()
    assert (system.stats.live, slab.stats.reserved) == (1, SUPERBLOCK)
    blocks = [slab.alloc(1) for _ in range(CELLS)]
    assert system.stats.count == 2, "the spare serves first"
    for block in blocks:
        block.free()
    assert slab.trim() is None
    assert (system.stats.live, slab.stats.reserved) == (0, 0)
    assert slab.alloc(10).alive


def test_a_spare_for_each_bin(nm: Binding) -> None:
    """SLAB-2"""
    system = nm.System()
    slab = nm.Slab(upstream=system)
    for n in (10, 50, 100, 200):
        slab.alloc(n).free()
    assert system.stats.live == 4
    slab.trim()
    assert system.stats.live == 0


def test_every_cell_is_used(nm: Binding) -> None:
    """SLAB-1: a superblock holds as many cells as fit behind its 192-byte header."""
    for cell, cells in ((16, 4084), (32, 2042), (64, 1021), (256, 255), (1008, 64), (2048, 31)):
        system = nm.System()
        slab = nm.Slab(bins=(cell,), upstream=system)
        blocks = [slab.alloc(cell) for _ in range(cells)]
        assert system.stats.live == 1, cell
        blocks.append(slab.alloc(1))
        assert system.stats.live == 2, cell
        assert len({block.address for block in blocks}) == cells + 1


def test_cells_are_used_again(nm: Binding) -> None:
    system = nm.System()
    slab = nm.Slab(bins=(64,), upstream=system)
    blocks = [slab.alloc(64) for _ in range(1021)]
    for _ in range(3):
        for block in blocks[::2]:
            block.free()
        blocks[::2] = [slab.alloc(33) for _ in blocks[::2]]
    assert system.stats.count == 1
    assert slab.stats.live == 1021


def test_upstream_refusal(nm: Binding) -> None:
    """The upstream's reason comes out, and the slab is usable after it."""
    budget = nm.Budget(SUPERBLOCK, name="b")
    slab = nm.Slab(bins=(4096,), upstream=nm.Limited(nm.System(), budget))
    blocks = [slab.alloc(100) for _ in range(CELLS)]
    before = slab.stats
    with pytest.raises(BudgetExceeded) as caught:
        slab.alloc(100)
    assert caught.value.state["requested"] == SUPERBLOCK
    assert caught.value.state["owner"] == "b"
    assert slab.stats.failures == before.failures + 1
    assert (slab.stats.current, slab.stats.live) == (before.current, before.live)
    blocks.pop().free()
    assert slab.alloc(4096).alive
    with pytest.raises(BudgetExceeded):
        slab.alloc(5000)
    assert slab.stats.failures == 2


@pytest.mark.parametrize("hint", [1, 100, 4096, 65536, 100_000, 131_072])
def test_superblocks_out_of_an_arena(nm: Binding, hint: int) -> None:
    """SLAB-1: they get their 64 KiB alignment wherever they come from, so cells stay apart."""
    arenas, blocks = [], []
    for number in range(12):
        arenas.append(nm.Arena(hint, upstream=nm.System()))
        arenas[-1].alloc(number * 100)
        slab = nm.Slab(bins=(4096,), upstream=nm.Traced(arenas[-1]))
        blocks += [slab.alloc(4096, 4096) for _ in range(CELLS + 1)]
    for number, block in enumerate(blocks):
        assert block.address % 4096 == 0
        fill(block, number)
    for number, block in enumerate(blocks):
        assert content(block) == bytes([number]) * 4096
    while blocks:
        blocks.pop().free()
    assert all(arena.stats.frees > 0 for arena in arenas)


@pytest.mark.parametrize(
    ("old", "new", "done"),
    [(20, 32, True), (20, 33, False), (64, 33, True), (64, 32, False), (200, 256, True)],
)
def test_resize_stays_in_its_bin(nm: Binding, old: int, new: int, done: bool) -> None:
    slab = nm.Slab()
    block = slab.alloc(old)
    assert slab.resize(block, new) is done
    assert block.size == slab.stats.current == (new if done else old)
    assert slab.stats.total == max(old, block.size)
    assert slab.stats.failures == 0


def test_resize_keeps_its_alignment(nm: Binding) -> None:
    slab = nm.Slab(bins=(48, 64, 96))
    block = slab.alloc(60, 32)
    assert block.usable == 64
    assert slab.resize(block, 33) is True, "48 does not fit the alignment, so 64 is its bin"
    assert block.usable == 64


def test_zero_on_free(nm: Binding) -> None:
    """SLAB-4: freed bytes are not to be found again (the first 16 may link free cells)."""
    slab = nm.Slab(bins=(64,), zero_on_free=True)
    blocks = [slab.alloc(64) for _ in range(2000)]
    for block in blocks:
        fill(block, 0xA7)
    del block
    blocks.clear()
    collect()
    blocks = [slab.alloc(64) for _ in range(1000)]
    assert not any(0xA7 in content(block)[16:] for block in blocks)


def test_close_gives_everything_back(nm: Binding) -> None:
    system = nm.System()
    slab = nm.Slab(upstream=system)
    blocks = [slab.alloc(n) for n in (1, 50, 100, 200, 5000, 0)]
    slab.close()
    assert (system.stats.current, system.stats.live) == (0, 0)
    assert not any(block.alive for block in blocks)


def test_collected_slabs_give_everything_back(nm: Binding) -> None:
    system = nm.System()
    slab = nm.Slab(upstream=system)
    block = slab.alloc(10)
    slab.alloc(5000)
    del slab
    collect()
    assert system.stats.live == 1
    fill(block, 1)
    del block
    collect()
    assert system.stats.live == 0


# --- threads ---


def test_alloc_belongs_to_the_thread(nm: Binding) -> None:
    """SLAB-3"""
    slab = nm.Slab(upstream=nm.System())
    block, large = slab.alloc(64), slab.alloc(5000)
    for call in (
        lambda: slab.alloc(10),
        lambda: slab.alloc(0),
        lambda: slab.alloc(5000),
        lambda: slab.resize(block, 50),
        lambda: slab.resize(large, 4000),
        slab.trim,
        slab.close,
    ):
        with unchanged(slab), pytest.raises(WrongThread) as caught:
            in_thread(call)
        assert is_one_line(caught.value)


def test_frees_from_another_thread(nm: Binding) -> None:
    """SLAB-3: counted at once, the cell comes back to the owner."""
    system = nm.System()
    slab = nm.Slab(bins=(4096,), upstream=system)
    blocks = [slab.alloc(100) for _ in range(CELLS)]
    large = slab.alloc(5000)
    in_thread(lambda: [block.free() for block in (*blocks, large)])
    stats = slab.stats
    assert (stats.current, stats.live, stats.frees) == (0, 0, CELLS + 1)
    again = [slab.alloc(100) for _ in range(CELLS)]
    assert (system.stats.live, system.stats.count) == (1, 2)
    assert slab.stats.live == len(again)


def test_an_empty_block_freed_by_another_thread(nm: Binding) -> None:
    """SLAB-3: code that frees need not know whether there is anything in it."""
    slab = nm.Slab()
    block = slab.alloc(0)
    in_thread(block.free)
    assert not block.alive


def test_trim_collects_what_others_freed(nm: Binding) -> None:
    """SLAB-3"""
    system = nm.System()
    slab = nm.Slab(upstream=system)
    blocks = [slab.alloc(100) for _ in range(10)]
    in_thread(lambda: [block.free() for block in blocks])
    slab.trim()
    assert system.stats.live == 0


def test_blocks_collected_by_another_thread(nm: Binding) -> None:
    """SLAB-3"""
    slab = nm.Slab()
    blocks = [slab.alloc(100) for _ in range(10)]
    in_thread(blocks.clear)
    collect()
    assert (slab.stats.live, slab.stats.frees) == (0, 10)


def test_frees_race_with_the_owner(nm: Binding) -> None:
    """SLAB-3: nothing is lost, nothing is served twice."""
    slab = nm.Slab(bins=(64,))
    queues = [queue.SimpleQueue(), queue.SimpleQueue()]

    def work(handed: queue.SimpleQueue) -> None:
        for block in iter(handed.get, None):
            block.free()

    threads = [threading.Thread(target=work, args=(handed,)) for handed in queues]
    for thread in threads:
        thread.start()
    try:
        for n in range(3000):
            block = slab.alloc(64)
            fill(block, n % 256)
            assert content(block) == bytes([n % 256]) * 64
            queues[n % 2].put(block)
    finally:
        for handed, thread in zip(queues, threads, strict=True):
            handed.put(None)
            thread.join()
    stats = slab.stats
    assert (stats.count, stats.frees, stats.live, stats.current) == (3000, 3000, 0, 0)


def test_blocks_outlive_the_owners_thread(nm: Binding) -> None:
    """SLAB-5: they stay valid, and the last free gives the memory back."""
    system = nm.System()

    def work() -> list[object]:
        slab = nm.Slab(upstream=system)
        return [slab.alloc(n) for n in (10, 100, 5000)]

    blocks = in_thread(work)
    for block in blocks:
        fill(block, 8)
        assert content(block) == b"\x08" * block.size
    blocks.pop().free()
    del block
    blocks.clear()
    collect()
    assert (system.stats.live, system.stats.current) == (0, 0)


def test_the_end_of_the_owners_thread(nm: Binding) -> None:
    """SLAB-5: spares and free superblocks go at once, those with a live block with the last free into them."""
    system = nm.System()
    made: list[object] = []

    def work() -> None:
        slab = nm.Slab(bins=(64, 4096), upstream=system)
        blocks = [slab.alloc(4096) for _ in range(2 * CELLS)]
        made.extend([slab, blocks[0], blocks[-1], slab.alloc(5000)])
        slab.alloc(64).free()

    in_thread(work)
    slab, first, last, large = made
    made.clear()
    collect()
    assert system.stats.current == 2 * SUPERBLOCK + 5000
    for number, block in enumerate((first, last, large)):
        fill(block, number)
    for call in (lambda: slab.alloc(10), lambda: slab.alloc(0), lambda: slab.resize(first, 100), slab.trim):
        with unchanged(slab), pytest.raises(WrongThread):
            call()
        with unchanged(slab), pytest.raises(WrongThread):
            in_thread(call)
    assert [content(block)[0] for block in (first, last, large)] == [0, 1, 2]
    in_thread(first.free)
    assert system.stats.current == SUPERBLOCK + 5000
    large.free()
    assert system.stats.current == SUPERBLOCK
    last.free()
    assert (system.stats.current, system.stats.live) == (0, 0)
    assert (slab.stats.live, slab.stats.current, slab.stats.reserved) == (0, 0, 0)


def test_frees_race_with_the_end_of_the_owners_thread(nm: Binding) -> None:
    """SLAB-5: nothing stays behind, whichever thread comes last."""
    system = nm.System()
    for _ in range(30):
        handed: queue.SimpleQueue = queue.SimpleQueue()

        def owner(handed: queue.SimpleQueue = handed) -> None:
            try:
                slab = nm.Slab(bins=(256,), upstream=system)
                for n in range(300):
                    block = slab.alloc(256)
                    fill(block, n % 256)
                    handed.put(block)
            finally:
                handed.put(None)

        thread = threading.Thread(target=owner)
        thread.start()
        for block in iter(handed.get, None):
            block.free()
        thread.join()
        wait_for_end(thread.native_id)
        del block
    collect()
    assert (system.stats.current, system.stats.live) == (0, 0)
