"""CPort: an allocator as C functions. Called here through cffi's pointers, as a library would call them."""

from __future__ import annotations

import copy
import ctypes.util
import gc
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from nativemem._api import load
from nativemem.errors import (
    BudgetExceeded,
    CapacityExceeded,
    ConfigError,
    LeakError,
    NativeUnavailable,
    StaleHandle,
    WrongThread,
)

nm = pytest.importorskip("nativemem._core") and load("native")
ffi = pytest.importorskip("cffi").FFI()

ALLOCATORS: dict[str, Callable[[], Any]] = {
    "System": lambda: nm.System(),
    "Heap": lambda: nm.Heap(),
    "secure Heap": lambda: nm.Heap(secure=True),
    "Arena": lambda: nm.Arena(),
    "Slab": lambda: nm.Slab(),
    "Limited > Heap": lambda: nm.Limited(nm.Heap(), nm.Budget("64 MiB")),
    "Traced > Limited > System": lambda: nm.Traced(nm.Limited(None, nm.Budget("64 MiB")), stacks=2),
    "Locked > Arena": lambda: nm.Locked(nm.Arena()),
}


@pytest.fixture(params=ALLOCATORS)
def allocator(request: pytest.FixtureRequest) -> Iterator[Any]:
    made = ALLOCATORS[request.param]()
    yield made
    made.close()


def content(pointer: Any, size: int) -> Any:
    return ffi.buffer(pointer, size)


#: Debian's packages of the shared libraries that are called here
PACKAGES = {"zstd": "libzstd1", "brotlienc": "libbrotli1", "lzma": "liblzma5", "freetype": "libfreetype6"}


def library(name: str, declarations: str) -> tuple[Any, Any]:
    """An ffi and a library. On a CI machine one that is not there is a failure."""
    found = ctypes.util.find_library(name)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(f"CI is set, but {PACKAGES[name]} is not installed")
        pytest.skip(f"{PACKAGES[name]} is not installed")
    own = type(ffi)()
    own.cdef(declarations)
    return own, own.dlopen(found)


class TestCalls:
    def test_malloc_realloc_free(self, allocator: Any) -> None:
        with allocator.c_port() as port:
            c = port.plain
            pointer = c.malloc(100)
            assert int(ffi.cast("uintptr_t", pointer)) % 16 == 0
            assert c.usable_size(pointer) >= 100
            content(pointer, 100)[:] = bytes(range(100))
            pointer = c.realloc(pointer, 5000)
            assert content(pointer, 100)[:] == bytes(range(100))
            assert port.stats.live >= 1
            assert allocator.stats.live == port.stats.live
            zeros = c.calloc(30, 10)
            assert content(zeros, 300)[:] == bytes(300)
            c.free(zeros)
            c.free(pointer)
            c.free(ffi.NULL)
            nothing = c.malloc(0)
            assert nothing != ffi.NULL
            c.free(nothing)
            assert port.stats.live == 0

    def test_lua(self, allocator: Any) -> None:
        with allocator.c_port() as port:
            alloc, ud = port.lua
            pointer = alloc(ud, ffi.NULL, 4, 40)
            content(pointer, 40)[:] = b"x" * 40
            pointer = alloc(ud, pointer, 40, 400)
            assert content(pointer, 40)[:] == b"x" * 40
            assert alloc(ud, pointer, 400, 0) == ffi.NULL
            assert port.context == ud

    def test_zlib_and_bzip2(self, allocator: Any) -> None:
        with allocator.c_port() as port:
            zalloc, zfree, opaque = port.zlib
            bzalloc, bzfree, bz_opaque = port.bzip2
            assert zalloc(opaque, 0xFFFFFFFF, 0xFFFFFFFF) == bzalloc(bz_opaque, -1, 1) == ffi.NULL
            pointer, other = zalloc(opaque, 10, 10), bzalloc(bz_opaque, 10, 10)
            content(pointer, 100)[:] = content(other, 100)[:] = bytes(100)
            zfree(opaque, pointer)
            bzfree(bz_opaque, other)

    def test_sqlite_and_expat(self, allocator: Any) -> None:
        with allocator.c_port() as port:
            methods, suite = port.sqlite, port.expat
            assert methods.xInit(ffi.NULL) == 0 and methods.xRoundup(9) == 16
            pointer = methods.xRealloc(methods.xMalloc(10), 1000)
            assert methods.xSize(pointer) >= 1000
            methods.xFree(pointer)
            methods.xShutdown(ffi.NULL)
            assert suite.malloc == port.plain.malloc and suite.free == port.plain.free

    def test_zstd(self, allocator: Any) -> None:
        """CFFI-3: the library's own, and what it is refused."""
        own, lib = library(
            "zstd",
            """
            typedef struct {
                void *(*customAlloc)(void *, size_t);
                void (*customFree)(void *, void *);
                void *opaque;
            } ZSTD_customMem;
            typedef struct ZSTD_CCtx_s ZSTD_CCtx;
            ZSTD_CCtx *ZSTD_createCCtx_advanced(ZSTD_customMem);
            size_t ZSTD_freeCCtx(ZSTD_CCtx *);
            size_t ZSTD_compressCCtx(ZSTD_CCtx *, void *, size_t, const void *, size_t, int);
            size_t ZSTD_decompress(void *, size_t, const void *, size_t);
            unsigned ZSTD_isError(size_t);
            """,
        )
        with allocator.c_port() as port:
            memory = own.new("ZSTD_customMem *", port.zstd._asdict())[0]
            context = lib.ZSTD_createCCtx_advanced(memory)
            assert context != own.NULL
            text, packed, back = b"nativemem " * 1000, own.new("char[]", 20_000), own.new("char[]", 10_000)
            n = lib.ZSTD_compressCCtx(context, packed, 20_000, text, len(text), 3)
            assert not lib.ZSTD_isError(n) and n < 1000 and port.stats.live > 0
            assert lib.ZSTD_decompress(back, 10_000, packed, n) == len(text)
            assert own.buffer(back, len(text))[:] == text
            lib.ZSTD_freeCCtx(context)
            assert port.stats.live == 0 and port.stats.count > 1
        with nm.Limited(None, nm.Budget(1000)) as limited, limited.c_port() as port:
            assert lib.ZSTD_createCCtx_advanced(own.new("ZSTD_customMem *", tuple(port.zstd))[0]) == own.NULL

    def test_brotli(self, allocator: Any) -> None:
        """CFFI-3"""
        own, lib = library(
            "brotlienc",
            """
            typedef struct State State;
            State *BrotliEncoderCreateInstance(void *(*)(void *, size_t), void (*)(void *, void *), void *);
            int BrotliEncoderCompressStream(
                State *, int, size_t *, const uint8_t **, size_t *, uint8_t **, size_t *);
            int BrotliEncoderIsFinished(State *);
            void BrotliEncoderDestroyInstance(State *);
            """,
        )
        with allocator.c_port() as port:
            state = lib.BrotliEncoderCreateInstance(*port.brotli)
            text, room = own.new("uint8_t[]", b"nativemem " * 1000), own.new("uint8_t[]", 20_000)
            given, at = own.new("size_t *", 10_000), own.new("const uint8_t **", text)
            left, to, total = own.new("size_t *", 20_000), own.new("uint8_t **", room), own.new("size_t *")
            assert lib.BrotliEncoderCompressStream(state, 2, given, at, left, to, total)
            assert lib.BrotliEncoderIsFinished(state) and 0 < total[0] < 1000 and port.stats.live > 0
            lib.BrotliEncoderDestroyInstance(state)
            assert port.stats.live == 0 and port.stats.count > 1
        with nm.Limited(None, nm.Budget(1000)) as limited, limited.c_port() as port:
            assert lib.BrotliEncoderCreateInstance(*port.brotli) == own.NULL

    def test_lzma(self, allocator: Any) -> None:
        """CFFI-3"""
        own, lib = library(
            "lzma",
            """
            typedef struct lzma_allocator lzma_allocator;
            int lzma_easy_buffer_encode(uint32_t, int, const lzma_allocator *,
                const uint8_t *, size_t, uint8_t *, size_t *, size_t);
            int lzma_stream_buffer_decode(uint64_t *, uint32_t, const lzma_allocator *,
                const uint8_t *, size_t *, size_t, uint8_t *, size_t *, size_t);
            """,
        )
        text, packed, back = b"nativemem " * 1000, own.new("uint8_t[]", 20_000), own.new("uint8_t[]", 10_000)
        n, used, made = own.new("size_t *"), own.new("size_t *"), own.new("size_t *")
        with allocator.c_port() as port:
            memory = own.cast("lzma_allocator *", port.lzma)
            assert port.lzma == port.lzma
            assert lib.lzma_easy_buffer_encode(1, 1, memory, text, len(text), packed, n, 20_000) == 0
            assert 0 < n[0] < 1000 and port.stats.count > 1 and port.stats.live == 0
            most = own.new("uint64_t *", 1 << 30)
            assert lib.lzma_stream_buffer_decode(most, 0, memory, packed, used, n[0], back, made, 10_000) == 0
            assert own.buffer(back, made[0])[:] == text and port.stats.live == 0
        n[0] = 0
        with nm.Limited(None, nm.Budget(1000)) as limited, limited.c_port() as port:
            memory = own.cast("lzma_allocator *", port.lzma)
            mem_error = 5
            assert lib.lzma_easy_buffer_encode(1, 1, memory, text, len(text), packed, n, 20_000) == mem_error
            assert port.stats.live == 0

    def test_freetype(self, allocator: Any) -> None:
        """CFFI-3"""
        own, lib = library(
            "freetype",
            """
            typedef struct FT_MemoryRec_ {
                void *user;
                void *(*alloc)(struct FT_MemoryRec_ *, long);
                void (*free)(struct FT_MemoryRec_ *, void *);
                void *(*realloc)(struct FT_MemoryRec_ *, long, long, void *);
            } *FT_Memory;
            typedef struct FT_LibraryRec_ *FT_Library;
            int FT_New_Library(FT_Memory, FT_Library *);
            void FT_Add_Default_Modules(FT_Library);
            int FT_Done_Library(FT_Library);
            """,
        )
        with allocator.c_port() as port:
            memory, made = own.cast("FT_Memory", port.freetype), own.new("FT_Library *")
            assert memory.user == port.context
            assert lib.FT_New_Library(memory, made) == 0
            lib.FT_Add_Default_Modules(made[0])
            assert port.stats.live > 10
            assert lib.FT_Done_Library(made[0]) == 0 and port.stats.live == 0
            block = memory.realloc(memory, 0, 100, own.NULL)
            own.buffer(block, 100)[:] = b"x" * 100
            block = memory.realloc(memory, 100, 5000, block)
            assert own.buffer(block, 100)[:] == b"x" * 100
            memory.free(memory, block)
        with nm.Limited(None, nm.Budget(100)) as limited, limited.c_port() as port:
            assert lib.FT_New_Library(own.cast("FT_Memory", port.freetype), made) == 0x40  # Out_Of_Memory

    def test_an_own_ffi_takes_the_functions_as_they_are(self) -> None:
        with nm.Heap() as heap, heap.c_port() as port:
            own = type(ffi)()
            own.cdef("typedef void *(*lua_Alloc)(void *ud, void *ptr, size_t osize, size_t nsize);")
            holder = own.new("struct { lua_Alloc alloc; void *ud; } *", port.lua._asdict())
            pointer = holder.alloc(holder.ud, own.NULL, 0, 10)
            assert holder.alloc(holder.ud, pointer, 10, 0) == own.NULL

    def test_without_the_interpreters_lock_and_from_threads(self) -> None:
        with nm.Heap() as heap, heap.c_port() as port:
            c = port.plain
            errors = []

            def work() -> None:
                mine = [c.malloc(n % 500 + 1) for n in range(2000)]
                if ffi.NULL in mine:
                    errors.append("refused")
                for pointer in mine:
                    c.free(pointer)

            threads = [threading.Thread(target=work) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert not errors and port.stats.live == 0 and port.stats.count == 8000


class TestLimits:
    def test_a_refusal_is_null_and_known_to_the_budget(self) -> None:
        budget = nm.Budget("1 MiB", name="parser")
        with nm.Limited(nm.Heap(), budget) as limited, limited.c_port() as port:
            c = port.plain
            kept = c.malloc(700_000)
            assert c.malloc(700_000) == ffi.NULL
            assert c.realloc(kept, 2_000_000) == ffi.NULL
            assert budget.last_denial.owner == "parser" and budget.last_denial.requested >= 2_000_000
            assert budget.used >= 700_000 and port.stats.failures >= 2
            c.free(kept)
            assert budget.used == 0

    def test_heads_are_charged(self) -> None:
        budget = nm.Budget("1 MiB")
        with nm.Limited(None, budget) as limited, limited.c_port() as port:
            pointer = port.plain.malloc(100)
            assert budget.used == 116 and port.stats.current == 116
            port.plain.free(pointer)

    def test_a_heap_needs_no_heads(self) -> None:
        budget = nm.Budget("1 MiB")
        with nm.Limited(nm.Heap(), budget) as limited, limited.c_port() as port:
            pointer = port.plain.malloc(1024)
            assert budget.used == 1024 == port.plain.usable_size(pointer)
            port.plain.free(pointer)

    def test_so_many_sets_of_functions(self) -> None:
        with nm.Heap() as heap:
            ports = [heap.c_port() for _ in range(17)]
            calls = [port.plain for port in ports[:16]]
            assert len({int(ffi.cast("uintptr_t", c.malloc)) for c in calls}) == 16
            for shape in ("plain", "expat", "sqlite"):
                with pytest.raises(
                    CapacityExceeded, match="^CPort: 16 ports have functions without a context"
                ) as refused:
                    getattr(ports[16], shape)
                assert refused.value.state == {"requested": 1, "used": 16, "limit": 16}
            assert ports[16].lua.alloc(ports[16].context, ffi.NULL, 0, 0) == ffi.NULL
            ports[3].close()
            assert ports[16].plain == calls[3]
            for port in ports:
                port.close()

    def test_failing_below(self) -> None:
        failing = nm.Failing(None, 2)
        with failing.c_port() as port:
            first, second, third = (port.plain.malloc(n) for n in (10, 10, 0))
            assert second == ffi.NULL != first != third != ffi.NULL
            assert port.stats.failures == 1
            port.plain.free(first)
            port.plain.free(third)

    def test_another_threads_arena_gives_nothing(self) -> None:
        with nm.Arena() as arena, arena.c_port() as port:
            found = []
            thread = threading.Thread(target=lambda: found.append(port.plain.malloc(10)))
            thread.start()
            thread.join()
            assert found == [ffi.NULL]


class TestLife:
    def test_a_closed_one_lets_go_of_its_allocator(self) -> None:
        """BLOCK-11: so that what that stands on can be closed, though the port is still about."""
        budget = nm.Budget("1 MiB")
        with nm.Heap() as heap, nm.Limited(heap, budget).c_port() as port:
            pointer = port.plain.malloc(10)
            port.plain.free(pointer)
        assert heap.closed and port.closed and port.allocator is None and port.stats.count == 1
        with nm.Heap() as heap:
            kept = [nm.Limited(nm.Arena(upstream=nm.Traced(heap)), budget).c_port() for _ in range(2)]
            for port in kept:
                port.close()
            gc.collect()
        assert heap.closed and repr(kept[0]) == "<CPort closed>"

    def test_an_allocator_with_methods_of_its_own(self) -> None:
        """PORT-8"""
        logged = type("Logged", (nm.Heap,), {"free": lambda self, block: None})()
        with pytest.raises(ConfigError, match=r"^cport\.allocator: .* its own free, which Logged overrides"):
            logged.c_port()
        logged.close()

    def test_the_allocator_can_neither_close_nor_reset(self) -> None:
        arena = nm.Arena()
        port = arena.c_port()
        for verb in (arena.close, arena.reset):
            with pytest.raises(BufferError):
                verb()
        port.close()
        arena.reset()
        arena.close()

    def test_it_stays_until_closed(self) -> None:
        budget = nm.Budget("1 MiB")
        calls = nm.Limited(nm.Heap(), budget).c_port().plain
        gc.collect()
        pointer = calls.malloc(100)
        gc.collect()
        content(pointer, 100)[:] = bytes(100)
        assert budget.used >= 100
        calls.free(pointer)
        assert budget.used == 0

    def test_closing_with_blocks_out(self, allocator: Any) -> None:
        port = allocator.c_port()
        pointer = port.plain.malloc(100)
        for _ in range(2):
            with pytest.raises(LeakError, match="^CPort: 1 block of .* in all are still with C(\n|$)") as caught:
                port.close()
        assert caught.value.state["blocks"] == 1 and not port.closed
        assert caught.value.suggestion.startswith("let the library free what it has")
        port.plain.free(pointer)
        port.close()
        port.close()
        assert port.closed and repr(port) == "<CPort closed>"

    def test_after_close(self) -> None:
        heap = nm.Heap()
        port = heap.c_port()
        calls, (alloc, ud) = port.plain, port.lua
        port.close()
        assert calls.malloc(10) == calls.calloc(1, 1) == alloc(ud, ffi.NULL, 0, 10) == ffi.NULL
        calls.free(ffi.NULL)
        for name in ("plain", "lua", "zlib", "bzip2", "sqlite", "expat", "context", "__enter__"):
            with pytest.raises(StaleHandle, match="^CPort"):
                member = getattr(port, name)
                member()
        assert port.stats.live == 0 and port.allocator is heap
        heap.close()

    def test_an_error_in_the_block_is_not_hidden(self) -> None:
        with pytest.raises(ZeroDivisionError), nm.Heap().c_port() as port:
            port.plain.malloc(10)
            raise ZeroDivisionError

    def test_what_is_no_allocator(self) -> None:
        for thing in (None, 1, "heap", nm.Budget(10), object(), load("pure").Heap()):
            with pytest.raises(ConfigError, match="^cport.allocator: takes an allocator of the native backend"):
                nm.CPort(thing)

    def test_of_a_closed_one_and_of_another_threads(self) -> None:
        closed = nm.Heap()
        closed.close()
        with pytest.raises(StaleHandle):
            closed.c_port()
        arenas: list[Any] = []
        thread = threading.Thread(target=lambda: arenas.append(nm.Arena()))
        thread.start()
        thread.join()
        with pytest.raises(WrongThread):
            arenas[0].c_port()

    def test_no_room_for_it(self) -> None:
        budget = nm.Budget(10)
        with nm.Limited(nm.Heap(), budget) as limited, limited.c_port() as port:
            assert port.plain.malloc(1) == ffi.NULL
        with pytest.raises(BudgetExceeded):
            limited = nm.Limited(nm.Heap(), budget)
            limited.alloc(11)

    def test_made_once_or_never(self) -> None:
        with nm.Heap() as heap, heap.c_port() as port:
            with pytest.raises(TypeError, match="made once"):
                port.__init__(heap)
            pointer = port.plain.malloc(1)
            assert pointer != ffi.NULL and port.stats.live == 1
            port.plain.free(pointer)
        never = nm.CPort.__new__(nm.CPort)
        assert never.closed and never.allocator is None and repr(never) == "<CPort closed>"
        never.close()
        for name in ("stats", "plain", "lua", "context"):
            with pytest.raises(StaleHandle):
                getattr(never, name)

    def test_no_copies(self) -> None:
        with nm.Heap() as heap, heap.c_port() as port:
            for call in (copy.copy, copy.deepcopy, pickle.dumps):
                with pytest.raises(TypeError, match="memory has one owner"):
                    call(port)
            assert repr(port) == "<CPort 0 B in 0 blocks, of Heap>"

    def test_blocks_stay_beyond_the_interpreter(self) -> None:
        """A library may free what it has when the process ends, and use it until then."""
        program = """
import ctypes, nativemem
port = nativemem.Limited(nativemem.Heap(), nativemem.Budget("1 MiB")).c_port()
pointer = port.plain.malloc(100)
number = lambda p: int(nativemem.backends.native.control.ffi.cast("uintptr_t", p))
import nativemem.backends.native.control
libc = ctypes.CDLL(None)
# the C library's own list of what to do at the end comes after the interpreter's
register = libc.__cxa_atexit
register.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
ctypes.memset(number(pointer), 7, 100)
assert register(number(port.plain.free), number(pointer), None) == 0
print("registered")
"""
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "registered\n", "")


class TestPure:
    def test_there_is_none(self) -> None:
        pure = load("pure")
        for allocator in (pure.Heap(), pure.Limited(None, pure.Budget(100))):
            with pytest.raises(NativeUnavailable, match="a port for C code needs the native core"):
                allocator.c_port()
            allocator.close()


def test_closed_in_the_middle_of_closing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a thread, a signal or a collection may do it; both calls succeed, and the allocator is free once."""
    heap = nm.Heap()
    port = heap.c_port()
    stats = type(port).stats.fget

    def closing(self: Any) -> Any:
        monkeypatch.undo()
        found = stats(self)
        self.close()
        return found

    monkeypatch.setattr(type(port), "stats", property(closing))
    port.close()
    assert port.closed
    heap.close()
