"""The pure backend where it has no counterpart to agree with: its lock, its storage, its own hazards."""

from __future__ import annotations

import ctypes
import ctypes.util
import gc
import itertools
import mmap
import os
import shutil
import subprocess
import sys
import sysconfig
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest

from nativemem._api import load
from nativemem.backends.binding import Binding
from nativemem.backends.machine import is_free_threaded
from nativemem.backends.pure import lock as lock_file
from nativemem.backends.pure import memory
from nativemem.backends.pure.dataplane import storage
from nativemem.errors import OutOfMemory, Status
from nativemem.sizes import SIZE_MAX
from nativemem.structures import InternTable

SRC = str(Path(__file__).resolve().parent.parent / "src")


@pytest.fixture
def pure() -> Binding:
    return load("pure")


def run(script: str) -> str:
    """The output of a script in an interpreter of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script],
        env={**os.environ, "PYTHONPATH": SRC},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_off_inside_a_call(pure: Binding, enabled: bool) -> None:
    """A finaliser run in there might wait for a thread that waits for the lock; after it all is as before."""
    system = pure.System()
    core, seen = system._core, []
    count_alloc = core._count_alloc
    core._count_alloc = lambda size: (seen.append(gc.isenabled()), count_alloc(size))
    was = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        system.alloc(8).free()
        after = gc.isenabled()
    finally:
        (gc.enable if was else gc.disable)()
        del core._count_alloc
    assert seen == [False]
    assert after is enabled


@pytest.mark.parametrize(
    "call",
    [("charge", 1), ("release", 1), ("set_limit", 20), ("lock",), ("rebalance",), ("lend", 1)],
    ids=lambda call: call[0],
)
def test_budgets_change_under_the_lock(
    pure: Binding, call: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else threads would get past a limit together."""
    budget, other = pure.Budget(10), pure.Budget(10)
    budget._core.charge(5)
    name, *args = call
    if name == "lend":
        args.insert(0, other._core)
    taken, lock = [], lock_file.lock

    class Lock:
        finalise = staticmethod(lock.finalise)

        def __enter__(self) -> None:
            taken.append(name)
            lock.__enter__()

        def __exit__(self, *error: Any) -> None:
            lock.__exit__(*error)

    monkeypatch.setattr(lock_file, "lock", Lock())
    getattr(budget._core, name)(*args)
    assert taken


def test_the_collector_is_back_after_a_refusal(pure: Binding) -> None:
    limited = pure.Limited(None, pure.Budget(1))
    with pytest.raises(MemoryError):
        limited.alloc(2)
    assert gc.isenabled()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_of_fork_finds_the_lock_free() -> None:
    """Also where another thread was inside a call at the time, which the child does not have."""
    script = """
import os, signal, threading
from nativemem._api import load
system = load("pure").System()
stop = False
def work():
    while not stop:
        system.alloc(10)
threads = [threading.Thread(target=work) for _ in range(2)]
for t in threads: t.start()
failed = 0
for _ in range(20):
    pid = os.fork()
    if pid == 0:
        signal.alarm(5)  # ends a child that hangs
        system.alloc(10).free()
        os._exit(0 if system.stats.frees else 1)
    failed += os.waitpid(pid, 0)[1] != 0
stop = True
for t in threads: t.join()
print(failed)
"""
    assert run(script) == "0"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("align", [16, 64])
def test_a_child_of_fork_writes_to_its_own_copy(pure: Binding, align: int) -> None:
    block = pure.System().alloc(64, align)
    with memoryview(block) as view:
        view[0] = 1
        pid = os.fork()
        if pid == 0:
            view[0] = 2
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert view[0] == 1


@pytest.mark.parametrize("align", [16, 64])
@pytest.mark.parametrize("size", [64, memory.LARGE - 1, memory.LARGE, 2 * memory.LARGE + 3])
def test_looking_for_exports_changes_nothing(pure: Binding, size: int, align: int) -> None:
    block = pure.System().alloc(size, align)
    address = block.address
    with memoryview(block) as view:
        view[:64] = bytes(range(64))
        assert block._memory._exported()
    assert not block._memory._exported()
    with memoryview(block) as view:
        assert view[:64].tobytes() == bytes(range(64))
        with pytest.raises(BufferError):
            block.free()
    assert block.address == address
    block.free()


@pytest.mark.parametrize("size", [64, memory.LARGE])
@pytest.mark.parametrize("align", [16, 64])
def test_a_view_taken_while_the_block_is_freed(pure: Binding, align: int, size: int) -> None:
    """As another thread may: the free passes, and the view keeps bytes that no other block has."""
    system = pure.System()
    block = system.alloc(size, align)
    core, views = system._core, []
    count_free = core._count_free
    core._count_free = lambda size: (views.append(memoryview(block)), count_free(size))
    try:
        block.free()
    finally:
        del core._count_free
    assert not block.alive
    assert system.stats.live == 0
    views[0][:64] = bytes(range(64))
    assert views[0][:64].tobytes() == bytes(range(64))


def test_a_budget_that_refused_goes_with_its_last_reference(pure: Binding) -> None:
    """Its memory of the denial is no cycle, so its charge comes back without a collection."""
    parent = pure.Budget(1000)
    child = pure.Budget(50, parent=parent)
    assert child.try_reserve(10)
    assert not child.try_reserve(50)
    gc.disable()
    try:
        del child
        assert parent.used == 0
    finally:
        gc.enable()


def test_releasing_twice_through_an_ancestor(pure: Binding) -> None:
    """What the ancestor released by itself cannot come back a second time."""
    parent = pure.Budget(1000)
    child = pure.Budget(500, parent=parent)
    assert child.try_reserve(100)
    parent.release(100)
    child.release(100)
    assert (parent.used, child.used) == (0, 0)


@pytest.mark.parametrize("align", [16, 64])
def test_the_storage_does_not_show(pure: Binding, align: int) -> None:
    """A block is no ``bytearray`` or ``mmap`` to look at: not its contents, not their methods."""
    block = pure.System().alloc(8, align)
    assert str(block) == f"{block}" == repr(block)
    assert dir(block) == dir(pure.Block)
    for name in ("append", "clear", "close", "resize", "hex", "__alloc__"):
        assert not hasattr(block, name)


def test_the_collector_is_back_after_a_profiler_came_in(pure: Binding) -> None:
    system = pure.System()
    blocks = []

    def profile(*event: object) -> None:
        if len(blocks) < 50:
            blocks.append(system.alloc(1))

    sys.setprofile(profile)
    try:
        system.alloc(10)
    finally:
        sys.setprofile(None)
    assert blocks
    assert gc.isenabled()


def test_a_block_that_goes_in_the_midst_of_another_threads_call(pure: Binding) -> None:
    """BLOCK-9: where its allocator would not take it back it waits, and goes with the reset of the stack."""
    stack = pure.Stack(1000)
    blocks = [pure.Failing(stack).alloc(100)]

    def drop() -> None:
        with lock_file.lock, lock_file.lock:  # as in a call
            blocks.clear()

    thread = threading.Thread(target=drop)
    thread.start()
    thread.join()
    # without the lock an object's last reference is dropped in the thread that made it, whose stack takes its block
    assert (stack.stats.live, stack.blocks()) == (0 if is_free_threaded() else 1, [])
    stack.reset()
    assert stack.stats.live == 0


def test_an_interrupt_while_the_lock_is_taken(pure: Binding) -> None:
    """At each call on the way: the lock is free again, and the collector is back."""
    system, kept = pure.System(), []
    taking = type(lock_file.lock).__enter__.__code__
    for at in range(1, 10):
        events = iter(range(1, 1000))

        def interrupt(frame: Any, event: str, _: object, at: int = at, events: Any = events) -> None:
            if frame.f_code is taking and event in ("c_call", "c_return") and next(events) == at:
                raise KeyboardInterrupt

        sys.setprofile(interrupt)
        try:
            kept.append(system.alloc(10))
            break
        except KeyboardInterrupt:
            pass
        finally:
            sys.setprofile(None)
        taken: list[int] = []
        thread = threading.Thread(target=lambda taken=taken: taken.append(system.alloc(10).size), daemon=True)
        thread.start()
        thread.join(30)
        assert taken == [10] and gc.isenabled()
    assert at > 4  # acquire, isenabled, disable


def test_what_an_interrupt_left_is_done_before_the_next_call(pure: Binding) -> None:
    """A finaliser that was put off may be interrupted at the end of a call: the others are due at the next one."""
    system = pure.System()
    first, second = system.alloc(10), system.alloc(20)
    done: list[int] = []

    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), lock_file.lock:
        assert lock_file.lock.put_off(interrupted, None)
        assert lock_file.lock.put_off(lambda block: done.append(block.size), first)
    assert done == []
    core = system._core
    count_free = core._count_free
    core._count_free = lambda *arguments: (done.append(0), count_free(*arguments))[1]
    second.free()
    assert done == [10, 0]
    assert gc.isenabled()


@pytest.mark.parametrize("noun", ["Arena", "Stack"])
def test_the_core_itself_refuses_marks(pure: Binding, noun: str) -> None:
    """The facade asks before; between the two a finaliser may have reset the allocator."""
    allocator = pure.Arena() if noun == "Arena" else pure.Stack(1000)
    core = allocator._core
    kept = allocator.alloc(10)
    status, mark = core.take_mark()
    assert status == Status.OK
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(core.release(mark)))
    thread.start()
    thread.join()
    assert seen == [Status.WRONG_THREAD] and core.release(mark) == Status.OK and kept.alive
    allocator.reset()
    assert core.release(mark) == Status.INVALID_MARK
    again = allocator.alloc(10)  # what is there now is as large as it was
    assert core.release(mark) == Status.INVALID_MARK and again.alive


# --- alignment, whatever allocator is under Python ---

#: the module that has this version's blocks
MODULE = sys.modules[storage.__module__]
ALIGNS = (1, 16, 64, 4096)


@pytest.mark.parametrize("shift", range(16))
def test_bytes_of_any_alignment(pure: Binding, shift: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """PYV-8: as if what Python gave lay anywhere."""
    address_of = memory.address_of

    def shifted(bytes_: Any) -> int:
        return address_of(bytes_) + shift * (not isinstance(bytes_, mmap.mmap))

    monkeypatch.setattr(MODULE, "address_of", shifted)
    heap, arena = pure.Heap(), pure.Arena()
    for size, align, allocator in itertools.product((1, 7, 8, 15, 16, 17, 100, 5000), ALIGNS, (heap, arena)):
        block = allocator.alloc(size, align)
        assert block.address % align == 0
        with memoryview(block) as view:
            assert len(view) == size
            view[:] = b"x" * size
        grown = allocator.resize(block, size + 1)
        assert block.address % align == 0
        assert bytes(block)[:size] == b"x" * size
        assert block.size == size + grown


ALIGNED = """
import ctypes
from nativemem._api import load
nm = load("pure")
limited = nm.Limited(nm.Arena(), nm.Budget("1 GiB"))
allocators = [nm.System(), nm.Heap(), nm.Arena(), nm.Stack("1 MiB"), nm.Slab(), limited]
blocks = [
    allocator.alloc(size, align)
    for allocator in allocators
    for align in (1, 2, 4, 8, 16, 32, 64, 128, 4096)
    for size in (*range(1, 40), 100, 1000)
]
assert all(block.address % block.align == 0 for block in blocks)
for number, block in enumerate(blocks):
    ctypes.memset(block.address, number % 251, block.size)
assert all(bytes(block) == bytes([number % 251]) * block.size for number, block in enumerate(blocks))
spans = sorted((block.address, block.address + block.size) for block in blocks)
assert all(end <= start for (_, end), (start, _) in zip(spans, spans[1:]))
print(len(blocks))
"""


@pytest.mark.parametrize(
    "under", ["pymalloc", "pymalloc_debug", "malloc", "malloc_debug", "debug", "mimalloc", "mimalloc_debug"]
)
def test_under_each_of_pythons_allocators(under: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """PYV-8"""
    if "mimalloc" in under and sys.version_info < (3, 13):
        pytest.skip("mimalloc came with 3.13")
    if "malloc" in under.replace("mimalloc", "") and is_free_threaded():
        pytest.skip("a free-threaded interpreter has mimalloc alone")
    monkeypatch.setenv("PYTHONMALLOC", under)
    assert run(ALIGNED) == "2214"


@pytest.mark.parametrize("preloaded", ["jemalloc", "mimalloc", "tcmalloc_minimal"])
def test_under_other_allocators(preloaded: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """PYV-8"""
    library = ctypes.util.find_library(preloaded)
    if library is None:
        pytest.skip(f"lib{preloaded} is not installed")
    if is_free_threaded():
        pytest.skip("a free-threaded interpreter has mimalloc alone")
    monkeypatch.setenv("LD_PRELOAD", library)
    monkeypatch.setenv("PYTHONMALLOC", "malloc")
    assert run(ALIGNED) == "2214"


EIGHTS = """
import ctypes, itertools
library = ctypes.CDLL({library!r})
from nativemem._api import load
nm = load("pure")
allocators = [nm.System(), nm.Heap(), nm.Arena(), nm.Stack("64 MiB"), nm.Slab(), nm.Pool(8192, 2000)]
library.put()
grown = 0
for allocator, size in itertools.product(allocators, (*range(1, 40), *range(90, 700, 37), 5000)):
    for to in (size - 1, size + 1, size // 2, size * 2, size // 20, size + 600):
        block = allocator.alloc(size)
        assert block.address % 16 == 0
        with memoryview(block) as view:
            view[:] = bytes(i % 251 for i in range(size))
        done = allocator.resize(block, to)
        assert block.size == len(memoryview(block)) == (to if done else size) and block.address % 16 == 0
        kept = min(size, block.size)
        assert bytes(block)[:kept] == bytes(i % 251 for i in range(kept)), (allocator, size, to)
        grown += done and to > size
        block.free()
assert ctypes.c_ulong.in_dll(library, "eights").value > 1000
print(grown > 100)
"""


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="puts an allocator under CPython")
@pytest.mark.skipif(is_free_threaded(), reason="a free-threaded interpreter has mimalloc alone")
def test_under_an_allocator_that_aligns_to_8(tmp_path: Path) -> None:
    """PYV-8: as a 32-bit Python's does, below 512 bytes."""
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        pytest.skip(f"needs {compiler}")
    library = str(tmp_path / "eights.so")
    source = Path(__file__).resolve().parent / "beside" / "eights.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, str(source)], check=True)
    assert run(EIGHTS.format(library=library)) == "True"


def test_sizes_that_no_process_has_do_not_reach_the_interpreter(
    pure: Binding, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PYV-7"""
    asked: list[int] = []

    def spied(function: Any) -> Any:
        def spy(size: int, *rest: Any) -> Any:
            asked.append(size)
            return function(size, *rest)

        return spy

    for module, name in itertools.product((memory, MODULE), ("cells", "pages", "_cells")):
        if hasattr(module, name):
            monkeypatch.setattr(module, name, spied(getattr(module, name)))
    upstream = pure.System()
    makers = (
        lambda n: upstream.alloc(n),
        lambda n: pure.Heap().alloc(n),
        lambda n: pure.Arena(upstream=upstream).alloc(n),
        lambda n: pure.Arena(n, upstream=upstream).alloc(1),
        lambda n: pure.Stack(n, upstream=upstream),
        lambda n: pure.Pool(n, 1, upstream=upstream),
        lambda n: pure.Slab(upstream=upstream).alloc(n),
        lambda n: pure.Traced(upstream).array("d", n // 8),
    )
    for make, size in itertools.product(makers, ((1 << 47) + 16, 1 << 62, SIZE_MAX - 15)):
        with pytest.raises(OutOfMemory):
            make(size)
    assert max(asked, default=0) <= memory.MOST
    assert upstream.stats.current == 0
    upstream.alloc(10).free()
    assert asked


# --- dead blocks ---


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="memory is no block there")
def test_where_a_block_cannot_change_its_class(pure: Binding, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on an interpreter that may refuse it: nothing else is different."""
    assert MODULE._twins_are_possible
    monkeypatch.setattr(MODULE, "_twins_are_possible", False)
    arena, system = pure.Arena(), pure.System()
    for allocator in (arena, system):
        block = allocator.alloc(100)
        block.free()
        assert not block.alive
    address = arena.alloc(100).address
    assert arena.blocks() == []
    ctypes.memset(address, 1, 100)
    arena.close()
    assert (system.stats.live, len(memoryview(block))) == (0, 0)


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="memory is no block there")
def test_weak_references_do_not_see_what_an_arena_keeps(pure: Binding) -> None:
    arena = pure.Arena()
    block = arena.alloc(10)
    seen: list[Any] = []
    reference = weakref.ref(block)
    told = weakref.ref(block, seen.append)
    table = weakref.WeakValueDictionary({1: block})
    del block
    assert (reference(), told(), seen, dict(table)) == (None, None, [told], {})
    arena.reset()
    assert seen == [told]


def test_wiped_before_it_is_given_back(pure: Binding) -> None:
    """ARENA-4: freed, dropped and live ones alike."""
    if sys.version_info < (3, 12):
        pytest.skip("the bytes go with the block")
    arena = pure.Arena(zero_on_free=True)
    blocks = [arena.alloc(100) for _ in range(3)]
    bytes_ = [block._memory._bytes for block in blocks]
    for block in blocks:
        memoryview(block)[:] = b"s" * 100
    blocks.pop().free()
    del blocks[0], block
    assert all(each.tobytes().count(b"s") == 100 for each in bytes_)
    arena.reset()
    assert not any(each.tobytes().count(b"s") for each in bytes_)
    heap = pure.Heap(secure=True)
    collected = heap.alloc(100)
    memoryview(collected)[:] = b"s" * 100
    bytes_ = [collected._memory._bytes]
    del collected
    assert not bytes_[0].tobytes().count(b"s")


def test_the_check_of_an_intern_table_notices(pure: Binding) -> None:
    """INTERN-1: each of its invariants in turn is not what it says."""
    table = InternTable(pure.Heap())
    table.acquire("a")
    core = table._core
    assert core.check() is None
    core._references += 1
    assert core.check() == "references is not the sum of the records'"
    core._references -= 1
    (number,) = core._by_id
    record = core._by_id.pop(number)
    assert core.check() == "the two dictionaries have different records"
    core._by_id[number] = record
    assert core.check() is None
    table.close()
