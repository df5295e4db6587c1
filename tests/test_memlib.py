"""memlib from Python, on both backends, each in a process of its own: memlib is the process's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nativemem.backends.machine import is_free_threaded
from nativemem.memlib import Level

HERE = Path(__file__).resolve().parent
BACKENDS = ["native", "pure"]


def run(backend: str, program: str, **env: str) -> subprocess.CompletedProcess[str]:
    if backend == "native":
        pytest.importorskip("nativemem._core")
    whole = "import gc, logging\nimport nativemem as nm\nfrom nativemem import memlib\n" + program
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", whole],
        env={**os.environ, "NATIVEMEM_BACKEND": backend, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize("backend", BACKENDS)
class TestCalls:
    def test_round_trips(self, backend: str) -> None:
        run(
            backend,
            """
block = memlib.hmalloc(64)
assert block.size == 64 and block.address % 16 == 0
with memoryview(block) as view:
    view[:] = bytes(range(64))
    assert bytes(view) == bytes(range(64))
memlib.hfree(block)
assert not block.alive
for size in (48, 3000, "128 KiB"):
    used = [memlib.hmalloc(size) for _ in range(3)]
    for block in used:
        with memoryview(block) as view:
            view[:] = b"x" * len(view)
        memlib.hfree(block)
    zeros = [memlib.hcalloc(size) for _ in range(3)]  # of what was just used, most likely
    for block in zeros:
        with memoryview(block) as view:
            assert len(view) == used[0].size and not any(view)
        memlib.hfree(block)
memlib.hfree(None)
""",
        )

    def test_realloc(self, backend: str) -> None:
        run(
            backend,
            """
block = memlib.hmalloc(32)
with memoryview(block) as view:
    view[:] = b"p" * 32
for size in (256, 100_000, 17):
    before = block
    block = memlib.hrealloc(block, size)
    assert block.size == size and (block is before or not before.alive)
    assert nm.interop.memlib._memlib().stats.live == 1
    with memoryview(block) as view:
        assert bytes(view[:17]) == b"p" * 17
memlib.hfree(block)
memlib.hfree(memlib.hrealloc(None, 64))
""",
        )

    def test_no_bytes_are_one(self, backend: str) -> None:
        run(
            backend,
            """
blocks = [memlib.hmalloc(0), memlib.hcalloc(0), memlib.hrealloc(None, 0)]
live = memlib.hmalloc(10)
blocks.append(memlib.hrealloc(live, 0))
assert not live.alive
assert [block.size for block in blocks] == [1, 1, 1, 1]
with memoryview(blocks[1]) as view:
    assert view[0] == 0
for block in blocks:
    memlib.hfree(block)
""",
        )

    def test_what_is_dropped_goes(self, backend: str) -> None:
        run(
            backend,
            """
memlib.hmalloc(100)
gc.collect()
memlib.use(None)  # refuses while one is out
""",
        )

    def test_bad_input_is_refused_and_loses_nothing(self, backend: str) -> None:
        run(
            backend,
            """
block = memlib.hmalloc(10)
stranger = nm.Heap().alloc(10)
held = []
def refused(error, call, *args):
    try:
        call(*args)
    except error as caught:
        assert str(caught)
        held.append(caught) # and what its frames have
        return
    raise AssertionError((call, args))
for size in (-1, 1.5, "much", None, True, 1 << 64):
    for call in (memlib.hmalloc, memlib.hcalloc):
        refused((ValueError, TypeError), call, size)
    refused((ValueError, TypeError), memlib.hrealloc, block, size)
for thing in (1, "x", object(), 4096):
    refused(TypeError, memlib.hfree, thing)
    refused(TypeError, memlib.hrealloc, thing, 10)
refused(ValueError, memlib.hfree, stranger)
refused(ValueError, memlib.hrealloc, stranger, 100)
with memoryview(block):
    refused(BufferError, memlib.hfree, block)
    for size in (0, 5, 100_000):
        refused(BufferError, memlib.hrealloc, block, size)
assert block.size == 10 and block.alive and stranger.alive
def interrupt(frame, event, argument): # where the old block is to be freed
    function = argument if event == "c_call" else frame.f_code
    if event in ("call", "c_call") and getattr(function, "__name__", getattr(function, "co_name", "")) == "free":
        raise KeyboardInterrupt("now")
import sys
sys.setprofile(interrupt)
refused(KeyboardInterrupt, memlib.hrealloc, block, 100_000)
sys.setprofile(None)
assert block.size == 10 and nm.interop.memlib._memlib().stats.live == 1
memlib.hfree(block)
for call in (lambda: memlib.hfree(block), lambda: memlib.hrealloc(block, 5)):
    refused(nm.NativeMemError, call)
memlib.use(None)
""",
        )

    def test_out_of_memory(self, backend: str) -> None:
        done = run(
            backend,
            """
logging.basicConfig(format="%(name)s %(levelno)s %(message)s", level=logging.DEBUG)
memlib.use(nm.Failing(nm.Heap(), 2, sticky=True))
block = memlib.hmalloc(100)
for call, args in ((memlib.hmalloc, (10,)), (memlib.hmalloc, (0,)), (memlib.hcalloc, (10,)),
                   (memlib.hrealloc, (None, 10)), (memlib.hrealloc, (block, 100_000))):
    try:
        call(*args)
    except MemoryError as error:
        assert isinstance(error, nm.OutOfMemory)
    else:
        raise AssertionError(call)
assert block.alive and block.size == 100
memlib.hfree(block)
memlib.use(None)
""",
        )
        names = ["HMalloc", "HMalloc", "HCalloc", "HRealloc", "HRealloc"]
        assert done.stderr.splitlines() == [f"nativemem.memlib 50 {name}() FATAL: out of memory." for name in names]

    def test_over_budget(self, backend: str) -> None:
        run(
            backend,
            """
logging.disable(logging.FATAL)
budget = nm.Budget("1 MiB", name="legacy")
memlib.use(nm.Limited(nm.Heap(), budget))
kept = memlib.hmalloc(600_000)
try:
    memlib.hmalloc(600_000)
except nm.BudgetExceeded as error:
    assert "legacy" in str(error)
else:
    raise AssertionError
assert budget.used >= 600_000
memlib.hfree(kept)
assert budget.used == 0
""",
        )

    def test_lifecycle(self, backend: str) -> None:
        done = run(
            backend,
            """
logging.basicConfig(format="%(levelno)s %(message)s", level=logging.INFO)
block = memlib.hmalloc(10)
assert memlib.mem_init() is memlib.mem_init() is memlib.mem_uninit() is memlib.mem_uninit() is True
assert block.alive
memlib.hfree(memlib.hmalloc(10))
""",
        )
        init, again, *uninit = done.stderr.splitlines()
        assert init == again == f"20 mem_init(): the {backend} backend"
        assert uninit == ["20 mem_uninit(): done"] * 2

    def test_the_end_gives_back_what_is_kept(self, backend: str) -> None:
        if is_free_threaded():
            pytest.skip("without the lock the interpreter itself keeps what it gets back: of a bytearray, too")
        run(
            backend,
            """
def resident():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmRSS:"))
memlib.mem_init()
before = resident()
block = memlib.hmalloc("2 MiB")
with memoryview(block) as view: view[:] = b"x" * len(view)
memlib.hfree(block)
memlib.mem_uninit()
assert resident() - before < 1 << 20
""",
        )

    def test_use(self, backend: str) -> None:
        run(
            backend,
            """
def refused(error, thing):
    try:
        memlib.use(thing)
    except error as caught:
        assert str(caught).startswith("memlib.use: ") or error is nm.errors.StaleHandle
        return
    raise AssertionError(thing)
for thing in (1, "heap", object(), nm.Budget(10), nm.Heap):
    refused(nm.errors.ConfigError, thing)
for thing in (nm.Arena(), nm.Stack(1000), nm.Pool(64, 2), nm.Slab(), nm.Traced(nm.Arena())):
    refused(nm.errors.ConfigError, thing)
closed = nm.Heap()
closed.close()
refused(nm.errors.StaleHandle, closed)
refused(nm.errors.ConfigError, type("Logged", (nm.Heap,), {"alloc": lambda self, size: 1})())
block = memlib.hmalloc(10)
heap = nm.Heap()
refused(nm.LeakError, heap)
memlib.hfree(block)
memlib.use(heap)
block = memlib.hmalloc(10)
refused(nm.LeakError, None)
try:
    heap.close()
except BufferError:
    pass
else:
    raise AssertionError
memlib.hfree(block)
memlib.use(nm.Locked(nm.Arena()))
heap.close()
memlib.hfree(memlib.hmalloc(10))
memlib.use(None)
""",
        )

    def test_classes_of_a_programs_own(self, backend: str) -> None:
        """What they are counts, and not what they are called."""
        run(
            backend,
            """
class Mine(nm.Heap):
    pass
class Heap(nm.Arena):
    pass
memlib.use(Mine())
memlib.hfree(memlib.hmalloc(100))
memlib.use(None)
try:
    memlib.use(Heap())
except nm.errors.ConfigError:
    pass
else:
    raise AssertionError
""",
        )

    def test_under_the_kill_switch(self, backend: str) -> None:
        run(
            backend,
            """
assert nm.backend == "pure"
memlib.hfree(memlib.hrealloc(memlib.hcalloc(10), 100))
""",
            NATIVEMEM_DISABLE="1",
        )


def needs_nomemory() -> None:
    pytest.importorskip("_testcapi")
    if sys.version_info[:2] != (3, 11):
        pytest.skip("only CPython 3.11 is known to stand it that its own allocations fail")


class TestBetweenLanguages:
    def test_a_block_becomes_cs(self) -> None:
        run(
            "native",
            """
from nativemem.backends.native.control import lib, ffi
block = memlib.hmalloc(100)
view = memoryview(block)
try:
    memlib.detach(block)
except BufferError:
    view.release()
pointer = memlib.detach(block)
assert not block.alive and int(ffi.cast("uintptr_t", pointer))
for call in (memlib.hfree, memlib.detach):
    try:
        call(block)
    except nm.NativeMemError:
        pass
    else:
        raise AssertionError(call)
del block
gc.collect()
ffi.buffer(pointer, 100)[:] = bytes(100)  # it is still there
memlib.hfree(ffi.cast("char *", pointer))
memlib.hfree(ffi.NULL)
memlib.use(None)
""",
        )

    def test_pointers_to_no_block(self) -> None:
        """Whatever is passed, nothing is read that cannot be."""
        run(
            "native",
            """
import cffi
from nativemem.backends.native.control import lib
ffi = cffi.FFI()
def refused(pointer):
    try:
        memlib.hfree(pointer)
    except (nm.errors.ForeignBlock, nm.errors.DoubleFree):
        return
    raise AssertionError(pointer)
buffer = ffi.new("char[]", 256)
for below in (None, nm.System()):
    memlib.use(below)
    inside = memlib.detach(memlib.hmalloc(1000))
    for number in (1, 15, 16, 4096, 1 << 40, (1 << 47) - 16, (1 << 64) - 1):
        refused(ffi.cast("void *", number))
    refused(ffi.cast("char *", buffer) + 32)
    refused(ffi.cast("char *", inside) + 16)
    memlib.hfree(inside)
    memlib.use(None)
heaps = nm.Heap(), nm.Heap(secure=True)
for below in (None, nm.System(), nm.Heap(secure=True)):
    memlib.use(below)
    # what starts a superblock or a span has nothing in front of it that can be looked at
    for heap in heaps:
        blocks = [heap.alloc(size) for size in (64, 30_000, 100_000) for _ in range(100)]
        for block in blocks:
            refused(ffi.cast("void *", block.address))
            refused(ffi.cast("void *", block.address & ~0xFFFF))
            refused(ffi.cast("void *", block.address + 1))
        assert all(block.alive for block in blocks)
    # what belongs to the engine's region and was never handed out
    for power in range(20, 36):
        refused(ffi.cast("void *", (block.address & ~0xFFFF) + (1 << power)))
    memlib.use(None)
""",
        )

    def test_freed_twice_by_its_address(self) -> None:
        """Where nothing stands in front of a block to tell."""
        run(
            "native",
            """
import threading
from nativemem.backends.native.control import ffi
def refused(error, pointer):
    try:
        memlib.hfree(pointer)
    except error:
        return
    raise AssertionError(pointer)
for below in (None, nm.System(), nm.Heap(secure=True)):
    memlib.use(below)
    for size in (16, 1000, 40_000, 1_000_000):
        kept = [memlib.hmalloc(size) for _ in range(10)]
        pointers = [memlib.detach(memlib.hmalloc(size)) for _ in range(3)]
        memlib.hfree(pointers[0])
        there = threading.Thread(target=memlib.hfree, args=(pointers[1],))
        there.start()
        there.join()
        for pointer in pointers[:2]:
            if below is None or size < 1000:  # memory of the system may be gone by now, and then says so, too
                refused(nm.NativeMemError, pointer)
        refused(nm.errors.ForeignBlock, ffi.cast("void *", kept[5].address))
        memlib.hfree(pointers[2])
        for block in kept:
            memlib.hfree(block)
    memlib.use(None)
""",
        )

    def test_freed_by_many_threads_at_once(self) -> None:
        """Of the threads that free one address one succeeds, and the others are told."""
        run(
            "native",
            """
import sys, threading
from collections import Counter
sys.setswitchinterval(1e-6)
start = threading.Barrier(4)
said = Counter()
def free_all():
    told = Counter()
    for pointer in pointers:
        try:
            memlib.hfree(pointer)
        except (nm.errors.DoubleFree, nm.errors.ForeignBlock):
            told["refused"] += 1
        else:
            told["freed"] += 1
    with lock:
        said.update(told)
lock = threading.Lock()
pointers = [memlib.detach(memlib.hmalloc(64)) for _ in range(2000)]
threads = [threading.Thread(target=lambda: (start.wait(), free_all())) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert said == {"freed": 2000, "refused": 6000}, said
assert nm.interop.memlib._memlib().stats.live == 0
""",
        )

    def test_a_fork_while_another_thread_changes_it(self) -> None:
        run(
            "native",
            """
import os, signal, threading, warnings
from nativemem.facades import configured
warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads, which is what this is about
signal.alarm(60)
changing, forked = threading.Event(), threading.Event()
kind = configured().Memlib
stats = kind.stats
def pausing(self):
    changing.set()
    forked.wait()
    return stats.fget(self)
kind.stats = property(pausing)
thread = threading.Thread(target=memlib.use, args=(nm.Heap(),))
thread.start()
changing.wait()
child = os.fork()
if child == 0:
    signal.alarm(30)  # ends it, should it wait for a thread that it does not have
    kind.stats = stats
    memlib.use(nm.Heap())
    memlib.hfree(memlib.hmalloc(100))
    os._exit(0)
forked.set()
thread.join()
assert os.waitpid(child, 0)[1] == 0
memlib.use(None)
""",
        )

    def test_changed_by_many_threads_at_once(self) -> None:
        """None of what was changed to is kept."""
        run(
            "native",
            """
import sys, threading
sys.setswitchinterval(1e-6)
heaps = [nm.Heap() for _ in range(4)]
def change(heap):
    for _ in range(200):
        memlib.use(heap)
        memlib.use(None)
threads = [threading.Thread(target=change, args=(heap,)) for heap in heaps]
for thread in threads: thread.start()
for thread in threads: thread.join()
for heap in heaps: heap.close()
""",
        )

    def test_no_memory_for_the_change(self) -> None:
        """Whatever allocation of the interpreter fails, the allocator is not kept by what was not made."""
        needs_nomemory()
        run(
            "native",
            """
import _testcapi
budget = nm.Budget("1 MiB")
failed = served = 0
for n in range(1, 1000):
    heap = nm.Limited(nm.Heap(), budget)
    _testcapi.set_nomemory(n, n + 1)
    try:
        memlib.use(heap)
    except (MemoryError, SystemError):  # the latter where CPython loses the former
        _testcapi.remove_mem_hooks()
        failed += 1
    else:
        _testcapi.remove_mem_hooks()
        served += 1
    memlib.hfree(memlib.hmalloc(100))
    memlib.use(None)
    heap.close()
assert failed > 100 and served > 100 and budget.used == 0, (failed, served)
""",
        )

    def test_no_memory_for_the_pointer(self) -> None:
        """A block that could not be handed over is still the caller's."""
        needs_nomemory()
        run(
            "native",
            """
import _testcapi
kept = 0
for n in range(1, 100):
    block = memlib.hmalloc(100)
    pointer = None
    _testcapi.set_nomemory(n, n + 1)
    try:
        pointer = memlib.detach(block)
    except (MemoryError, SystemError):  # the latter where CPython loses the former
        _testcapi.remove_mem_hooks()
        kept += block.alive
    else:
        _testcapi.remove_mem_hooks()
    memlib.hfree(pointer or block)
assert kept and nm.interop.memlib._memlib().stats.live == 0
""",
        )

    def test_c_and_python_have_the_same_memory(self) -> None:
        run(
            "native",
            """
from nativemem.backends.native.control import lib, ffi
budget = nm.Budget("1 MiB")
memlib.use(nm.Limited(nm.Heap(), budget))
pointer = lib.nm_hmalloc(1000)
assert budget.used >= 1000
try:
    memlib.use(None)
except nm.LeakError:
    pass
else:
    raise AssertionError
memlib.hfree(pointer)
assert budget.used == 0
""",
        )

    def test_on_the_pure_backend_there_is_no_c(self) -> None:
        run(
            "pure",
            """
block = memlib.hmalloc(10)
try:
    memlib.detach(block)
except nm.NativeUnavailable:
    pass
else:
    raise AssertionError
assert block.alive
""",
        )


def test_levels() -> None:
    import logging

    names = ["NOTHING", "USER", "ERROR", "WARNING", "INFO", "DEBUG", "ALL"]
    assert [level.name for level in Level] == names and [int(level) for level in Level] == list(range(7))
    assert Level.FATAL is Level.USER
    for unknown in (-1, 7, 99, 1 << 70):
        assert Level(unknown) is Level.INFO
    with pytest.raises(ValueError):
        Level("loud")
    numbers = [Level(n).logging for n in range(1, 6)]
    assert numbers == [logging.FATAL, logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG]
    assert Level.NOTHING.logging > logging.FATAL and Level.ALL.logging < logging.DEBUG
