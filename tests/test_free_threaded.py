"""PYV-2: many threads at once, and totals that have to be exact.

Without the interpreter's lock the threads run at the same time; with it they take turns as often as they can."""

from __future__ import annotations

import gc
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import nativemem
from conftest import NATIVE_IS_BUILT
from nativemem import errors
from nativemem._api import load
from nativemem.backends.binding import Binding
from nativemem.backends.machine import is_free_threaded
from nativemem.backends.pure.lock import lock

SRC = str(Path(nativemem.__file__).resolve().parent.parent)
FREE_THREADED = is_free_threaded()
THREADS = 6
ROUNDS = 300


@pytest.fixture(autouse=True)
def turns() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def at_once(work: Callable[[int], Any], threads: int = THREADS) -> list[Any]:
    """What ``work`` returned in each of the threads, which begin together; raises what it raised in any."""
    start = threading.Barrier(threads)
    results: list[Any] = [None] * threads
    failures: list[BaseException] = []

    def body(i: int) -> None:
        try:
            start.wait()
            results[i] = work(i)
        except BaseException as error:
            failures.append(error)

    started = [threading.Thread(target=body, args=(i,)) for i in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    if failures:
        raise failures[0]
    gc.collect()
    return results


def size_of(i: int, n: int) -> int:
    return 1 + (37 * i + 101 * n) % 700


def sizes(threads: int = THREADS, rounds: int = ROUNDS) -> list[int]:
    return [size_of(i, n) for i in range(threads) for n in range(rounds)]


def fill(block: Any, i: int) -> None:
    with memoryview(block) as view:
        view[:] = bytes([i + 1]) * len(view)


def is_filled(block: Any, i: int) -> bool:
    return bytes(block) == bytes([i + 1]) * block.size


def assert_all_back(allocator: Any, count: int, total: int) -> None:
    stats = allocator.stats
    assert (stats.current, stats.live) == (0, 0)
    assert (stats.count, stats.frees, stats.total, stats.failures) == (count, count, total, 0)


def shared(nm: Binding, kind: str) -> Any:
    if kind == "System":
        return nm.System()
    if kind == "Limited":
        return nm.Limited(nm.Heap(), nm.Budget("1 GiB"))
    if kind == "Traced":
        return nm.Traced(nm.Heap(), histogram=True, stacks=2)
    if kind == "Locked":
        return nm.Locked(nm.Slab())
    if kind == "Verified":
        return nm.Verified(nm.Heap(), "redundant")
    return nm.Heap()


SHARED = ("System", "Heap", "Limited", "Traced", "Locked", "Verified")


@pytest.mark.parametrize("kind", SHARED)
def test_blocks_of_a_shared_allocator(nm: Binding, kind: str) -> None:
    """PYV-2: allocated, written, resized, freed or dropped; every byte and every counter is right."""
    allocator = shared(nm, kind)

    def work(i: int) -> None:
        kept: list[Any] = []
        for n in range(ROUNDS):
            block = allocator.alloc(size_of(i, n))
            fill(block, i)
            kept.append(block)
            if len(kept) > 5:
                old = kept.pop(0)
                assert is_filled(old, i)
                if n % 2:
                    old.free()
        for block in kept:
            assert is_filled(block, i)

    at_once(work)
    assert_all_back(allocator, THREADS * ROUNDS, sum(sizes()))


@pytest.mark.parametrize("kind", SHARED)
def test_blocks_that_other_threads_free(nm: Binding, kind: str) -> None:
    """PYV-2: each thread hands its blocks to the next, which frees one half and lets go of the other, while this
    one goes on allocating."""
    allocator = shared(nm, kind)
    queues: list[queue.SimpleQueue[Any]] = [queue.SimpleQueue() for _ in range(THREADS)]

    def work(i: int) -> None:
        after = queues[(i + 1) % THREADS]
        for n in range(ROUNDS):
            block = allocator.alloc(size_of(i, n))
            fill(block, i)
            after.put(block)
            del block
            other = queues[i].get()
            assert is_filled(other, (i - 1) % THREADS)
            if n % 2:
                other.free()
            del other

    at_once(work)
    assert_all_back(allocator, THREADS * ROUNDS, sum(sizes()))


def test_one_block_is_freed_once(nm: Binding) -> None:
    """PYV-2: of many threads that free one block one does; the others get DoubleFree."""
    heap = nm.Heap()
    blocks = [heap.alloc(64) for _ in range(ROUNDS)]

    def work(i: int) -> int:
        freed = 0
        for block in blocks:
            try:
                block.free()
                freed += 1
            except errors.DoubleFree:
                pass
        return freed

    assert sum(at_once(work)) == ROUNDS
    assert_all_back(heap, ROUNDS, 64 * ROUNDS)


def test_views_of_one_block(nm: Binding) -> None:
    """PYV-2: views that threads take and release are counted one by one: after the last the block can be freed,
    and before it not."""
    heap = nm.Heap()
    for size in (100, 2 << 20):  # bytes in an array, and in pages
        block = heap.alloc(size)

        def work(i: int, block: Any = block) -> None:
            views = []
            for _ in range(ROUNDS):
                views.append(memoryview(block))
                if len(views) > 3:
                    views.pop(0).release()
            for view in views:
                view.release()

        at_once(work)
        with memoryview(block), pytest.raises(BufferError):
            block.free()
        block.free()
        assert not block.alive


def test_a_view_or_a_free(nm: Binding) -> None:
    """PYV-2: where one thread frees a block and another takes a view of it the view has all its bytes, or there is
    none."""
    heap = nm.Heap()
    blocks = [heap.alloc(50) for _ in range(ROUNDS)]
    for block in blocks:
        fill(block, 0)

    def work(i: int) -> None:
        for block in blocks if i % 2 else reversed(blocks):
            if i % 2:
                try:
                    view = memoryview(block)
                except (errors.StaleBlock, errors.DoubleFree, TypeError):  # the last: before Python 3.12
                    continue
                with view:
                    assert len(view) == 50 or not FREE_THREADED
            else:
                try:
                    block.free()
                except (BufferError, errors.DoubleFree):
                    pass

    at_once(work)
    for block in blocks:
        if block.alive:
            block.free()
    assert_all_back(heap, ROUNDS, 50 * ROUNDS)


@pytest.mark.parametrize("kind", ["Arena", "Pool", "Slab", "Stack"])
def test_allocators_of_one_thread(nm: Binding, kind: str) -> None:
    """PYV-2: each thread has its own, all on one upstream, and gets WrongThread from the others'."""
    budget = nm.Budget("1 GiB")
    upstream = nm.Limited(nm.Heap(), budget)
    made: list[Any] = [None] * THREADS
    all_made, all_tried = threading.Barrier(THREADS), threading.Barrier(THREADS)

    def make() -> Any:
        if kind == "Arena":
            return nm.Arena(4096, upstream=upstream)
        if kind == "Pool":
            return nm.Pool(64, 8, grow=True, upstream=upstream)
        if kind == "Stack":
            return nm.Stack("64 KiB", upstream=upstream)
        return nm.Slab(upstream=upstream)

    def work(i: int) -> int:
        mine = made[i] = make()
        all_made.wait()
        for n in range(ROUNDS):
            blocks = [mine.alloc(1 + (n + k) % 64) for k in range(3)]
            for block in reversed(blocks):
                fill(block, i)
            for block in reversed(blocks):
                assert is_filled(block, i)
                block.free()
        refused = 0
        for other in made:
            if other is not mine:
                try:
                    other.alloc(8)
                except errors.WrongThread:
                    refused += 1
        all_tried.wait()
        assert mine.stats.count == 3 * ROUNDS
        mine.close()
        return refused

    assert at_once(work) == [THREADS - 1] * THREADS
    assert budget.used == 0
    stats = upstream.stats
    assert (stats.current, stats.live) == (0, 0)
    assert stats.count == stats.frees


def test_a_slabs_blocks_are_freed_anywhere(nm: Binding) -> None:
    """PYV-2: frees of other threads wait for the owner, and none is lost."""
    slab = nm.Slab()
    handed: queue.SimpleQueue[Any] = queue.SimpleQueue()
    rest = THREADS - 1

    def work(i: int) -> None:
        if i:
            for n in range(ROUNDS):
                block = handed.get()
                if n % 2:
                    block.free()
                del block

    def feed() -> None:
        for n in range(rest * ROUNDS):
            handed.put(slab.alloc(1 + n % 200))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(1, THREADS)]
    for thread in threads:
        thread.start()
    feed()
    for thread in threads:
        thread.join()
    gc.collect()
    slab.trim()
    assert_all_back(slab, rest * ROUNDS, sum(1 + n % 200 for n in range(rest * ROUNDS)))


def test_a_limit_holds_at_every_instant(nm: Binding) -> None:
    """PYV-2: more is asked for than there is; what was granted and what was refused are all that was asked for."""
    parent = nm.Budget(5000)
    budget = nm.Budget(4000, parent=parent)
    limited = nm.Limited(nm.System(), budget)

    def work(i: int) -> tuple[int, int]:
        granted = refused = 0
        kept = []
        for _ in range(ROUNDS):
            try:
                kept.append(limited.alloc(300))
                granted += 1
            except errors.BudgetExceeded:
                refused += 1
                kept.clear()
            assert budget.used <= 4000
            if budget.try_reserve(100):
                budget.release(100)
        return granted, refused

    results = at_once(work)
    granted, refused = (sum(each) for each in zip(*results, strict=True))
    assert granted + refused == THREADS * ROUNDS
    assert budget.peak <= 4000 and parent.peak <= 5000
    assert (budget.used, parent.used) == (0, 0)
    stats = limited.stats
    assert (stats.live, stats.count, stats.failures) == (0, granted, refused)


def test_histograms_and_sites_count_each(nm: Binding) -> None:
    """PYV-2: what a Traced keeps of each block adds up, while blocks come and go and others look."""
    traced = nm.Traced(nm.System(), histogram=True, stacks=1)
    kept = at_once(lambda i: [traced.alloc(16) if n % 2 else None for n in range(ROUNDS) if traced.sites() or True])
    blocks = sum(block is not None for each in kept for block in each)
    assert sum(n for _, n in traced._histograms()[0]) == traced.stats.count == blocks
    assert sum(site.blocks for site in traced.sites()) == traced.stats.live == blocks
    assert len(traced.leaks()) == blocks
    kept.clear()
    gc.collect()
    assert traced.sites() == []
    traced.close()


def test_lending_keeps_the_sum(nm: Binding) -> None:
    """PYV-2: limits go round among budgets; none is lost or made, and each loan is given back once."""
    budgets = [nm.Budget(10_000, f"b{i}") for i in range(THREADS)]
    loans: list[Any] = []

    def work(i: int) -> None:
        for n in range(ROUNDS):
            lender, borrower = budgets[i], budgets[(i + 1 + n % (THREADS - 1)) % THREADS]
            try:
                loan = lender.lend(borrower, 1 + n % 500)
            except errors.BudgetExceeded:
                continue
            loans.append(loan)
            for other in loans[-3:]:  # of other threads too: each may settle it
                other.settle()

    at_once(work)
    for loan in loans:
        loan.settle()
    assert [(budget.limit, budget.lent, budget.used) for budget in budgets] == [(10_000, 0, 0)] * THREADS


def test_wrappers_and_budgets_come_and_go(nm: Binding) -> None:
    """PYV-2: with blocks of theirs that others hold and drop; what ends them is the last reference or a collection,
    which finalises in any order."""
    parent = nm.Budget("1 GiB")
    assert parent.try_reserve(500)
    below = nm.Heap()
    places: list[Any] = [None] * 8

    def work(i: int) -> None:
        for n in range(ROUNDS):
            child = nm.Budget("1 MiB", parent=parent)
            limited = nm.Limited(below, child)
            block = limited.alloc(100)
            if n % 3 == 0:
                cycle = [block, limited, child]
                cycle.append(cycle)
                del cycle
            places[(i + n) % len(places)] = block
            if n % 50 == 49:
                gc.collect()

    at_once(work)
    assert parent.used <= 500 + 100 * len(places)
    places.clear()
    gc.collect()
    assert parent.used == 500
    assert below.stats.live == 0


def test_a_reservation_is_released_once(nm: Binding) -> None:
    """PYV-2: whichever threads leave it."""
    budget = nm.Budget(1000)
    reservations = [budget.reserve(3) for _ in range(ROUNDS)]
    at_once(lambda i: [each.__exit__(None, None, None) for each in reservations])
    assert budget.used == 0


def test_failures_are_counted_one_by_one(nm: Binding) -> None:
    """PYV-2: the n-th allocation fails, once."""
    failing = nm.Failing(nm.System(), n=ROUNDS)

    def work(i: int) -> int:
        failed = 0
        for _ in range(ROUNDS):
            try:
                failing.alloc(8)
            except errors.OutOfMemory:
                failed += 1
        return failed

    assert sum(at_once(work)) == 1
    assert (failing.calls, failing.failed) == (THREADS * ROUNDS, 1)


def test_memlib_in_many_threads(nm: Binding) -> None:
    """PYV-2: hmalloc, hrealloc and hfree."""
    del nm  # it has the configured backend
    from nativemem.interop import memlib

    def work(i: int) -> None:
        for n in range(ROUNDS // 3):
            block = memlib.hmalloc(size_of(i, n))
            fill(block, i)
            size = block.size
            block = memlib.hrealloc(block, size + 900)
            assert bytes(block)[:size] == bytes([i + 1]) * size
            memlib.hfree(block)

    before = memlib._memlib().stats
    at_once(work)
    after = memlib._memlib().stats
    assert (after.live, after.current) == (before.live, before.current)


def run(script: str, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": SRC, **env},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_first_load_is_one_for_all_threads() -> None:
    """PYV-2: the classes of a second one would not take the first one's objects."""
    script = """
import sys, threading
sys.setswitchinterval(1e-6)
from nativemem._api import load
from nativemem import facades
facades._bindings.clear()
start, found = threading.Barrier(8), []
def body():
    start.wait()
    found.append(load("pure"))
threads = [threading.Thread(target=body) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len({id(each) for each in found}))
"""
    assert run(script, NATIVEMEM_BACKEND="pure") == "1"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("first", ["nativemem.budgets.budget", "nativemem.backends.pure.lock"])
def test_forks_among_threads_that_lend(first: str) -> None:
    """PYV-2: neither the fork nor its child waits for a thread that waits for it, whatever was loaded first."""
    script = f"""
import importlib, os, sys, threading, warnings
warnings.simplefilter("ignore")
sys.setswitchinterval(1e-5)
importlib.import_module({first!r})
from nativemem._api import load
nm = load("pure")
budgets = [nm.Budget(1000, warn=1), nm.Budget(1000, warn=1)]
heap, stop = nm.Heap(), threading.Event()
def use(i):
    with budgets[i].lend(budgets[1 - i], 10), budgets[i].reserve(10):
        heap.alloc(100)
def work(i):
    while not stop.is_set():
        use(i % 2)
threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
for thread in threads: thread.start()
codes = []
for _ in range(15):
    pid = os.fork()
    if pid == 0:
        use(0), use(1)
        os._exit(7)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
stop.set()
for thread in threads: thread.join()
print(set(codes), sum(budget.limit for budget in budgets), [budget.used for budget in budgets])
"""
    assert run(script) == "{7} 2000 [0, 0]"


AS_FREE_THREADED = """
import sys
from nativemem.backends import selection as _choice
from nativemem.engine import startup as _program
# what such a build before 3.14 says of itself is put in this one's mouth
_choice.FREE_THREADED = (9, 9)
_choice.is_free_threaded = _program.is_free_threaded = lambda: True
_choice._has_core = lambda: False
"""


def test_a_build_for_another_lock_is_told() -> None:
    """PYV-2: what needs the core says why there is none, and what to do."""
    script = (
        AS_FREE_THREADED
        + """
import nativemem
from nativemem._api import load
for call in (nativemem.install, nativemem.Budget(1000).__enter__, lambda: load("native")):
    try:
        call()
    except nativemem.NativeUnavailable as error:
        print(error, error.suggestion, sep="; ")
"""
    )
    lines = run(script).splitlines()
    assert len(lines) == 3
    for line in lines:
        assert "the core does not run on a free-threaded interpreter before 3.14; take the interpreter of" in line


def test_a_program_is_run_all_the_same() -> None:
    """PYV-2: measured with tracemalloc; what it does not bound is said."""
    said = "print(_program._meter().note)"
    note = run(AS_FREE_THREADED + said)
    if FREE_THREADED:
        here = run("from nativemem.engine import startup as _program\n" + said)
        done = subprocess.run(
            [sys.executable, "-m", "nativemem", "run", "--budget", "64MiB", "-c", "print(6 * 7)"],
            env={**os.environ, "PYTHONPATH": SRC},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert (done.returncode, done.stdout) == (0, "42\n")
        assert here in done.stderr
    assert note.startswith(
        "pure backend, as the core does not run on a free-threaded interpreter before 3.14; what threads"
    )
    assert "nor what C code takes by itself: measured with tracemalloc" in note


@pytest.mark.parametrize("backend", ["auto", "pure"])
def test_the_end_of_a_process_is_quiet(backend: str) -> None:
    """PYV-2: with allocators of every kind, blocks and budgets still there. Without its lock an interpreter keeps
    more objects until it takes modules apart."""
    script = """
import threading, nativemem as nm
budget = nm.Budget("1 MiB", parent=nm.Budget("2 MiB"))
kinds = [nm.System(), nm.Heap(budget), nm.Arena(4096), nm.Stack(4096), nm.Pool(64, 8), nm.Slab()]
kinds += [nm.Limited(kinds[1], budget), nm.Traced(kinds[0], stacks=1), nm.Locked(nm.Arena()), nm.Failing(n=9)]
blocks = [kind.alloc(40) for kind in kinds]
views = [memoryview(block) for block in blocks]
def late():
    global others
    others = [nm.Slab(upstream=kinds[6]), nm.Arena()]
    blocks.extend(other.alloc(30) for other in others)
thread = threading.Thread(target=late)
thread.start(); thread.join()
def keeps():
    return blocks, views, kinds
keeps.cycle = keeps, blocks, kinds
nm.kept_by_the_module = blocks, kinds
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": SRC, "NATIVEMEM_BACKEND": backend},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.skipif(not FREE_THREADED, reason="this interpreter has its lock always")
def test_the_import_leaves_the_lock_off() -> None:
    """PYV-2: of the package and of each of its modules."""
    script = """
import importlib, pkgutil, sys
assert not sys._is_gil_enabled()
import nativemem
with nativemem.Arena() as arena:
    arena.alloc(10)
for module in pkgutil.walk_packages(nativemem.__path__, "nativemem."):
    if module.name.rpartition(".")[2] not in ("__main__", "ffi_build", "inherited"):
        try:
            importlib.import_module(module.name)
        except (ImportError, nativemem.NativeUnavailable):
            pass
print(nativemem.backend, sys._is_gil_enabled())
"""
    assert run(script).split() == ["native" if NATIVE_IS_BUILT else "pure", "False"]


def test_a_finaliser_waits_for_the_call_that_it_comes_into() -> None:
    """PYV-2: a block, an allocator and a budget that go in the midst of a call with the lock change nothing until
    it is done. In a free-threaded interpreter another thread may have had the last reference."""
    pure = load("pure")
    budget = pure.Budget(1000)
    system = pure.System()
    inner = pure.Budget(500, parent=budget)
    assert inner.try_reserve(200)
    held: list[Any] = [system.alloc(100), pure.Stack(100, upstream=system), inner]
    del inner
    core = system._core
    count_alloc, seen = core._count_alloc, []

    def in_the_midst(size: int) -> None:
        held.clear()
        gc.collect()
        seen.append((core._live, core._used, budget._core._used))
        count_alloc(size)

    core._count_alloc = in_the_midst
    try:
        last = system.alloc(7)
    finally:
        del core._count_alloc
    assert seen == [(2, 200, 200)]
    assert (system.stats.live, system.stats.current, budget.used) == (1, 7, 0)
    last.free()
    assert not lock._late


def test_what_such_a_finaliser_raises_is_not_the_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """PYV-2: it goes to sys.unraisablehook; the rest is done."""
    system = load("pure").System()
    seen: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: seen.append(unraisable.exc_value))

    def fail() -> None:
        raise RuntimeError("in a finaliser")

    done: list[int] = []
    with lock:
        lock.finalise(fail)
        lock.finalise(lambda: done.append(1))
        assert done == []
    assert done == [1]
    assert [str(error) for error in seen] == ["in a finaliser"]
    system.alloc(10).free()
