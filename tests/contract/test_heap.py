"""HEAP: bins and spans, any thread frees."""

from __future__ import annotations

import os

import pytest

from nativemem.backends.binding import Binding
from nativemem.errors import BudgetExceeded, ConfigError

from .helpers import collect, content, fill, in_thread, is_one_line

PAGE = max(os.sysconf("SC_PAGE_SIZE"), 4096)
#: bytes, and how many cells there may be in one: eight at least
SUPERBLOCKS = ((65536, (30, 28, 26, *range(24, 7, -1))), (262144, (30, 28, 26, 24, 22, *range(20, 7, -1))))
BINS = (
    *range(16, 1025, 16),
    *range(1088, 2049, 64),
    *(superblock // cells // 64 * 64 for superblock, all_cells in SUPERBLOCKS for cells in all_cells),
)


def usable(size: int, align: int) -> int:
    """HEAP-1 in plain words: the smallest bin that fits size and alignment, else whole pages."""
    for cell in BINS:
        if cell >= size and cell % align == 0:
            return cell
    return -(-size // PAGE) * PAGE


def test_the_bins() -> None:
    """HEAP-1: the table above is the one that the clause describes."""
    assert len(BINS) == 64 + 16 + 20 + 18
    assert BINS[32:36] == (528, 544, 560, 576) and BINS[64:68] == (1088, 1152, 1216, 1280)
    assert BINS[-1] == 32768


@pytest.mark.parametrize("align", [1, 16, 32, 64, 256, 4096])
def test_usable(nm: Binding, align: int) -> None:
    """HEAP-1"""
    heap = nm.Heap()
    sizes = {n for cell in (*BINS, 36864, 65536, 131072) for n in (cell - 1, cell, cell + 1)}
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
        (1000, 1008, True),
        (1000, 1009, False),
        (1030, 1088, True),
        (1030, 1089, False),
        (33000, 36864, True),
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


# --- charged to a budget ---


def test_a_heap_charges_what_it_holds(nm: Binding) -> None:
    """HEAP-3: at least what is used; natively whole pages, which is what it reserves."""
    budget = nm.Budget("4 MiB", name="b")
    heap = nm.Heap(budget)
    assert heap.owner is budget
    assert budget.used == 0
    blocks = [heap.alloc(n) for n in (10, 100, 1000, 100_000)]
    assert blocks[0].owner is budget
    assert heap.stats.current <= heap.stats.reserved <= budget.used
    if nm.name == "native":
        assert budget.used == heap.stats.reserved
        assert budget.used % PAGE == 0
    charged = budget.used
    heap.alloc(0)
    assert budget.used == charged
    while blocks:
        blocks.pop().free()
    heap.trim()
    assert budget.used == 0
    assert budget.peak == charged


def test_a_heaps_budget_refuses(nm: Binding) -> None:
    """HEAP-3: with the owner's name; what there is goes on."""
    budget = nm.Budget("1 MiB", name="cache")
    heap = nm.Heap(budget)
    kept = heap.alloc(100)
    fill(kept, 3)
    used = budget.used
    with pytest.raises(BudgetExceeded, match="budget 'cache' has") as caught:
        heap.alloc(2 << 20)
    error = caught.value
    assert is_one_line(error)
    assert str(error).startswith("Heap: ")
    assert error.state["owner"] == "cache"
    assert error.state["requested"] >= 2 << 20
    assert (error.state["used"], error.state["limit"]) == (used, 1 << 20)
    assert (heap.stats.failures, budget.denied, budget.used) == (1, 1, used)
    assert budget.last_denial.owner == "cache"
    assert content(kept) == b"\x03" * 100
    blocks = []
    with pytest.raises(BudgetExceeded):
        blocks.extend(iter(lambda: heap.alloc(32_000), None))
    assert sum(block.size for block in blocks) >= (1 << 20) - 2 * 65536
    assert budget.used <= budget.limit
    assert heap.alloc(100).alive


def test_an_ancestor_refuses_a_heap(nm: Binding) -> None:
    """HEAP-3, BUDGET-1"""
    parent = nm.Budget("512 KiB", name="all")
    heaps = [nm.Heap(nm.Budget("4 MiB", name=str(k), parent=parent)) for k in range(2)]
    blocks = [heap.alloc(100_000) for heap in heaps]
    assert parent.used == sum(heap.owner.used for heap in heaps)
    with pytest.raises(BudgetExceeded) as caught:
        heaps[0].alloc(400_000)
    assert caught.value.state["owner"] == "all"
    assert all(block.alive for block in blocks)


def test_a_heap_gives_its_charge_back(nm: Binding) -> None:
    """HEAP-3: when it is closed, and when it is collected with the last block."""
    budget = nm.Budget("4 MiB")
    with nm.Heap(budget) as heap:
        blocks = [heap.alloc(n) for n in (10, 1000, 100_000)]
        assert budget.used > 0
    assert budget.used == 0
    assert not any(block.alive for block in blocks)
    heap = nm.Heap(budget)
    block = heap.alloc(100)
    del heap
    collect()
    assert budget.used > 0
    fill(block, 1)
    del block
    collect()
    assert budget.used == 0


@pytest.mark.parametrize("budget", [100, "1 KiB", object()])
def test_a_heaps_budget_is_a_budget(nm: Binding, budget: object) -> None:
    """CFG-1"""
    with pytest.raises(ConfigError, match=r"^heap\.budget: takes a Budget of the "):
        nm.Heap(budget)


# --- fork ---


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # 3.12 on, where threads run: that is the test
@pytest.mark.parametrize("secure", [False, True])
def test_a_child_works_on(nm: Binding, secure: bool) -> None:
    """HEAP-5: blocks keep their bytes on both sides, and both go on allocating, also after threads."""
    heap = nm.Heap(secure=secure)
    blocks = [heap.alloc(n) for n in (10, 1000, 100_000)]
    blocks += in_thread(lambda: [heap.alloc(n) for n in (20, 2000)])
    for number, block in enumerate(blocks):
        fill(block, number)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            assert all(content(b) == bytes([k]) * b.size for k, b in enumerate(blocks))
            fill(blocks[0], 99)
            while blocks:
                blocks.pop().free()
            more = [heap.alloc(n) for n in range(1, 3000, 7)]
            assert heap.stats.live == len(more)
            in_thread(lambda: heap.alloc(10).free())
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert all(content(b) == bytes([k]) * b.size for k, b in enumerate(blocks))
    assert heap.alloc(10).alive
