"""PYV-2: many threads at what the data plane shares beside the calls of alloc and free: lists of live blocks, weak
references, the ends of allocators, collections and their iterators, the intern table."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from nativemem import errors
from nativemem._api import load
from nativemem.backends.binding import Binding
from nativemem.manager.collections import bound
from nativemem.structures import InternTable
from test_free_threaded import THREADS, at_once, fill, is_filled, run, size_of, turns

__all__ = ["turns"]  # the fixture: threads take turns as often as they can

ROUNDS = 150


@pytest.fixture
def cs(needs_native: None) -> SimpleNamespace:
    """The collections of the native backend, whose calls exclude each other; those in Python are for one thread."""
    return bound(load("native"))


def test_blocks_are_listed_while_they_go(nm: Binding) -> None:
    """PYV-2: A list has only blocks that were given and not yet freed when it was made."""
    heap = nm.Heap()

    def work(i: int) -> None:
        for n in range(ROUNDS):
            if i % 2:
                block = heap.alloc(size_of(i, n))
                if n % 3:
                    block.free()
                del block
            else:
                for block in heap.blocks():
                    assert 1 <= block.size <= 700
                    assert block.allocator is heap
                del block

    heap.alloc(1).free()
    first = heap.alloc(7)
    at_once(work)
    assert heap.blocks() == [first]
    first.free()
    assert heap.stats.live == 0


def test_weak_references_to_blocks_that_go(nm: Binding) -> None:
    """PYV-2: one gives the block or None; its callback is called once."""
    heap = nm.Heap()
    called: list[int] = []
    for _ in range(10):
        blocks = [heap.alloc(48) for _ in range(THREADS * 5)]
        references = [weakref.ref(block, lambda _: called.append(1)) for block in blocks]
        owned = [[blocks.pop() for _ in range(5)] for _ in range(THREADS)]

        def work(i: int, references: list[Any] = references, owned: list[Any] = owned) -> None:
            for reference in references:
                block = reference()
                assert block is None or block.size == 48
                del block
                if owned[i]:
                    owned[i].pop()

        at_once(work)
        gc.collect()
        assert all(reference() is None for reference in references)
    assert (heap.stats.live, len(called)) == (0, 10 * THREADS * 5)


@pytest.mark.parametrize("wraps", [True, False])
def test_an_allocator_is_closed_among_calls(nm: Binding, wraps: bool) -> None:
    """PYV-2: the calls that come after get StaleHandle; nothing of it stays with its upstream."""
    budget = nm.Budget("1 GiB")
    heap = nm.Heap(budget)

    def attempt() -> None:
        allocator = nm.Limited(heap, nm.Budget("1 GiB")) if wraps else nm.Locked(nm.Slab(upstream=heap))
        upstream = allocator.upstream
        closed = threading.Event()

        def work(i: int) -> None:
            kept = []
            for n in range(20):
                if i == 0 and n == 10:
                    try:
                        allocator.close()
                        if not wraps:
                            upstream.close()
                    finally:
                        closed.set()
                try:
                    block = allocator.alloc(size_of(i, n))
                    kept.append(block)
                    if n % 2:
                        kept.pop(0).free()
                except (errors.StaleHandle, errors.StaleBlock, errors.DoubleFree):
                    pass
            assert closed.wait(60)
            with pytest.raises(errors.StaleHandle):
                allocator.alloc(1)

        at_once(work)
        assert allocator.closed

    for _ in range(8):
        attempt()
    gc.collect()
    assert (heap.stats.live, heap.stats.current) == (0, 0)
    heap.close()
    assert budget.used == 0


def test_resets_among_calls(nm: Binding) -> None:
    """PYV-2: an arena is reset by a thread while others allocate through a Locked: a block is whole or stale."""
    arena = nm.Arena()
    locked = nm.Locked(arena)
    stale = []

    def work(i: int) -> None:
        for n in range(ROUNDS):
            if i == 0:
                try:
                    with locked.owning():
                        if n % 2:
                            arena.reset()
                        else:
                            arena.release(arena.mark())
                except BufferError:  # a view is out
                    pass
                continue
            block = locked.alloc(size_of(i, n))
            try:
                with memoryview(block) as view:
                    view[:] = bytes([i]) * len(view)
                    assert bytes(view) == bytes([i]) * len(view)
            except (errors.StaleBlock, TypeError):  # the last: before Python 3.12
                stale.append(n)

    at_once(work)
    with locked.owning():
        arena.reset()
    assert arena.stats.current == 0
    assert arena.blocks() == []


def test_blocks_of_one_with(nm: Binding) -> None:
    """PYV-2: threads leave the same `with` blocks: each block is freed once."""
    heap = nm.Heap()

    def attempt() -> None:
        blocks = [heap.alloc(100) for _ in range(20)]

        def work(i: int) -> None:
            for block in blocks:
                try:
                    with block:
                        fill(block, 0)
                        assert is_filled(block, 0)
                except (errors.StaleBlock, errors.DoubleFree, BufferError, TypeError):
                    pass

        at_once(work)
        for block in blocks:
            if block.alive:
                block.free()

    for _ in range(5):
        attempt()
    stats = heap.stats
    assert (stats.live, stats.count, stats.frees) == (0, 100, 100)


def test_items_of_a_list(cs: SimpleNamespace) -> None:
    """PYV-2: what is taken and what stays is what was added, each item once."""
    items = cs.BoundedDeque(THREADS * ROUNDS, "q")
    taken: list[list[int]] = [[] for _ in range(THREADS)]

    def work(i: int) -> None:
        for n in range(ROUNDS):
            (items.append if n % 2 else items.appendleft)(1_000_000 * (i + 1) + n)
            if n % 3 == 0:
                taken[i].append(items.pop())

    at_once(work)
    found = Counter(items)
    for each in taken:
        found.update(each)
    assert found == Counter(1_000_000 * (i + 1) + n for i in range(THREADS) for n in range(ROUNDS))
    items.close()


def test_a_list_that_others_change_is_added_whole(cs: SimpleNamespace) -> None:
    """PYV-2: `extend` takes a list as it is at one instant, whatever other threads do to it."""
    source = [70_000 + n for n in range(20)]
    items = cs.BoundedList(100, "q")

    def work(i: int) -> None:
        for n in range(ROUNDS):
            if i % 2:
                source.append(90_000 + n)
                source.pop()
            else:
                try:
                    items.extend(source)
                    items.clear()
                except errors.CapacityExceeded:
                    items.clear()

    at_once(work)
    items.clear()
    items.extend(source)
    assert list(items) == source
    items.close()


def test_keys_of_a_map(cs: SimpleNamespace) -> None:
    """PYV-2: each thread finds its own, whatever the others put and take; iterators say that the map changed."""
    entries = cs.BoundedMap(THREADS * ROUNDS, "q", "q")

    def work(i: int) -> None:
        for n in range(ROUNDS):
            key = 10_000 * i + n
            entries[key] = -key
            assert entries[key] == -key
            if n % 3 == 0:
                del entries[key]
                assert key not in entries
            elif n % 10 == 1:
                try:
                    for other, value in entries.items():
                        assert value == -other
                except RuntimeError:
                    pass

    at_once(work)
    kept = {10_000 * i + n for i in range(THREADS) for n in range(ROUNDS) if n % 3}
    assert dict(entries.items()) == {key: -key for key in kept}
    entries.close()


def test_bits_of_one_word(cs: SimpleNamespace) -> None:
    """PYV-2: threads that change neighbouring bits lose none."""
    bits = cs.BoundedBitSet(THREADS * 10)

    def work(i: int) -> None:
        for n in range(ROUNDS):
            for k in range(10):
                if (n + k) % 2:
                    bits.add(THREADS * k + i)
                else:
                    bits.discard(THREADS * k + i)

    at_once(work)
    assert set(bits) == {THREADS * k + i for i in range(THREADS) for k in range(10) if (ROUNDS - 1 + k) % 2}
    bits.close()


@pytest.mark.parametrize("kind", ["BoundedList", "BoundedSet", "BoundedBitSet"])
def test_an_iterator_of_many_threads(cs: SimpleNamespace, kind: str) -> None:
    """PYV-2: each item is given once; the threads that come after the last get nothing."""
    made = getattr(cs, kind)
    collection = made(900) if kind == "BoundedBitSet" else made(900, "q")
    for n in range(900):
        (collection.append if kind == "BoundedList" else collection.add)(n)
    for _ in range(5):
        iterator = iter(collection)
        parts = at_once(lambda i, iterator=iterator: list(iterator))
        assert sorted(item for part in parts for item in part) == list(range(900))
        assert next(iterator, None) is None
    collection.close()


def test_values_of_an_intern_table(nm: Binding) -> None:
    """PYV-2: equal values have one handle; after the last release there are none."""
    table = InternTable(nm.Heap())
    values = [f"value {n}" for n in range(40)]

    def work(i: int) -> list[Any]:
        for _ in range(10):
            handles = [table.acquire(value) for value in values]
            assert [table.str(handle) for handle in handles] == values
            for handle in handles:
                table.release(handle)
        return [table.acquire(value) for value in values]

    found = at_once(work)
    assert all(handles == found[0] for handles in found)
    assert table.stats.unique == len(values)
    for handles in found:
        for handle in handles:
            table.release(handle)
    assert table.stats.unique == 0
    table.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forks_among_threads_that_wait_for_one_another(needs_native: None) -> None:
    """PYV-2: a child does not wait for a thread of its parent that was about to take what it takes."""
    script = """
import os, signal, threading, warnings
warnings.simplefilter("ignore")
import nativemem
from nativemem._api import load
from nativemem.manager.collections import bound
from nativemem.structures.intern import InternTable
budget = nativemem.Budget("1 GiB", warn=1)
heap = nativemem.Limited(nativemem.Heap(), budget)
kinds = bound(load("native"))
items, entries = kinds.BoundedDeque(100, "q"), kinds.BoundedMap(100, "q", "q")
bits, words, stop = kinds.BoundedBitSet(100), InternTable(), threading.Event()
def use(i):
    words.release(words.acquire("one"))
    with heap.alloc(100):
        entries[i] = i
        bits.add(i)
    items.append(i)
    items.pop()
def work(i):
    while not stop.is_set():
        use(i)
threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
for thread in threads: thread.start()
codes = set()
for _ in range(20):
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        use(7)
        heap.blocks()
        os._exit(7)
    codes.add(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
stop.set()
for thread in threads: thread.join()
print(codes, len(items), budget.used)
"""
    assert run(script) == "{7} 0 0"
