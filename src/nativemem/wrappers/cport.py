"""CPort: an allocator for C libraries, in the shapes that they take.

The values that it returns do not change: any thread may read them.
"""

from __future__ import annotations

import weakref
from typing import Any, NamedTuple, NoReturn

from ..allocators.base import Allocator, Stats, check_source
from ..backends.selection import unavailable
from ..errors import CapacityExceeded, ConfigError, LeakError, Refusal, Status, shown
from ..refusals import raise_status
from ..sizes import format_size

__all__ = ["BrotliCalls", "BzipCalls", "CPort", "LuaCalls", "PlainCalls", "ZlibCalls", "ZstdCalls"]


class PlainCalls(NamedTuple):
    """C functions without a context, as the C library's own: ``malloc``, ``realloc``, ``free``, ``calloc``,
    ``usable_size``. See :attr:`CPort.plain`."""

    malloc: Any
    realloc: Any
    free: Any
    calloc: Any
    usable_size: Any


class LuaCalls(NamedTuple):
    """What ``lua_newstate`` takes: ``alloc``, a ``lua_Alloc``, and ``ud``."""

    alloc: Any
    ud: Any


class ZlibCalls(NamedTuple):
    """What a ``z_stream`` has fields for: ``zalloc``, ``zfree``, ``opaque``. What :attr:`CPort.zlib` returns."""

    zalloc: Any
    zfree: Any
    opaque: Any


class BzipCalls(NamedTuple):
    """What a ``bz_stream`` has fields for: ``bzalloc``, ``bzfree``, ``opaque``. What
    :attr:`CPort.bzip2` returns."""

    bzalloc: Any
    bzfree: Any
    opaque: Any


class ZstdCalls(NamedTuple):
    """What a ``ZSTD_customMem`` has fields for: ``customAlloc``, ``customFree``, ``opaque``. What
    :attr:`CPort.zstd` returns."""

    customAlloc: Any
    customFree: Any
    opaque: Any


class BrotliCalls(NamedTuple):
    """What ``BrotliEncoderCreateInstance`` and ``BrotliDecoderCreateInstance`` take: ``alloc_func``, ``free_func``,
    ``opaque``. What :attr:`CPort.brotli` returns."""

    alloc_func: Any
    free_func: Any
    opaque: Any


class CPort:
    """An allocator as C functions, for libraries that can be told where to take their memory from.

    What C takes is counted here, and charged, traced and refused by ``allocator``, as any block of it is; a refusal
    is ``NULL`` to the library, and for Python ``budget.last_denial`` says why. Functions and contexts are
    :mod:`cffi`'s pointers, which every ``ffi`` takes where the C type is the same, and ``ffi.cast`` makes others
    of. They may be called with or without the interpreter's lock, by the threads that may use ``allocator``.

    Blocks in a :class:`Heap` are as large as the cell they lie in; elsewhere each takes 16 bytes more, which know
    its size. Alignment is 16.

    Until it is closed it stays, even if nothing refers to it, and so does the allocator, which can be neither
    closed nor reset. Closing with blocks still out raises :class:`LeakError` and leaves everything as it is; what a
    library asks of a closed one is refused. Get one from :meth:`Allocator.c_port`. Any thread that may use
    ``allocator``.

    >>> import nativemem
    >>> def as_lua_does(alloc, ud):  # lib.lua_newstate(*port.lua)
    ...     block = alloc(ud, nothing, 0, 100)
    ...     return alloc(ud, block, 100, 0) == nothing  # freed
    >>> if nativemem.backend == "native":
    ...     from nativemem._core import ffi
    ...     nothing = ffi.NULL
    ...     with nativemem.Heap().c_port() as port:
    ...         assert as_lua_does(*port.lua) and port.stats.count == 1
    ...         assert isinstance(port, nativemem.CPort)
    """

    __slots__ = ("__weakref__", "_allocator", "_closed", "_core")

    _backend: Any
    _allocator: Any  # of one that is closed: a weak reference

    def __init__(self, allocator: Allocator) -> None:
        if not isinstance(allocator, self._backend.Allocator) or not isinstance(allocator, Allocator):
            raise ConfigError(
                f"cport.allocator: takes an allocator of the {self._backend.name} backend, not {shown(allocator)}"
            )
        if "c-port" not in self._backend.features:
            raise unavailable("a port for C code")
        if hasattr(self, "_core"):
            raise TypeError("a CPort is made once")
        core = allocator._opened()
        check_source(allocator, "cport.allocator")
        hold = memoryview(allocator.alloc(0))  # a view is out: neither closed nor reset
        try:
            self._core = self._backend.PlainCore(core, hold)
        except Refusal as r:
            refusal = r.status, r.requested, r.used, r.limit
        else:
            self._allocator, self._closed = allocator, False
            return
        hold.release()
        raise_status(allocator, *refusal)

    def _opened(self) -> Any:
        if self.closed:
            raise_status(self, Status.CLOSED)
        return self._core

    def _place(self, what: str) -> Any:
        core = self._opened()
        try:
            return getattr(core, what)()
        except Refusal as r:
            limit = r.limit
        self._opened()  # meanwhile
        raise CapacityExceeded(
            f"CPort: {limit} ports have functions without a context, and there are no more",
            suggestion="close one, or use a shape with a context (lua, zlib, bzip2)",
            requested=1,
            used=limit,
            limit=limit,
        )

    @property
    def allocator(self) -> Allocator | None:
        """Whose memory it is; None for one that was never made, or closed after which its allocator went."""
        allocator = getattr(self, "_allocator", None)
        return allocator() if isinstance(allocator, weakref.ref) else allocator

    @property
    def context(self) -> Any:
        """``void *``: what functions with a context take as theirs."""
        return self._opened().context()

    @property
    def plain(self) -> PlainCalls:
        """malloc's calls, without a context: there are 16 sets of these in a process. Raises
        :class:`CapacityExceeded` where all are in use."""
        return PlainCalls(*self._place("calls"))

    @property
    def expat(self) -> Any:
        """Points to an ``XML_Memory_Handling_Suite`` (cast it), for ``XML_ParserCreate_MM``. Takes a set as
        :attr:`plain` does.

        >>> import nativemem
        >>> if nativemem.backend == "native":
        ...     from cffi import FFI
        ...     ffi = FFI()
        ...     ffi.cdef(
        ...         "typedef struct { void *(*malloc)(size_t); void *(*realloc)(void *, size_t);"
        ...         "  void (*free)(void *); } XML_Memory_Handling_Suite;"
        ...     )
        ...     with nativemem.Heap().c_port() as port:
        ...         calls = ffi.cast("XML_Memory_Handling_Suite *", port.expat)
        ...         block = calls.malloc(200)
        ...         assert port.stats.live == 1 and port.stats.current >= 200
        ...         calls.free(block)
        """
        return self._place("expat")

    @property
    def sqlite(self) -> Any:
        """Points to a ``sqlite3_mem_methods`` (cast it), for ``sqlite3_config(SQLITE_CONFIG_MALLOC, ...)``. Takes a
        set as :attr:`plain` does.

        SQLite takes it before its first use in the process and then for the whole of it. Once it is initialised,
        as it is by the import of Python's ``sqlite3`` where that is linked with the same library,
        ``sqlite3_config`` changes nothing and answers ``SQLITE_MISUSE`` (21), which is to be looked at.
        ``sqlite3_shutdown``, with every connection closed, makes it possible again.

        >>> import nativemem
        >>> if nativemem.backend == "native":
        ...     from cffi import FFI
        ...     ffi = FFI()
        ...     ffi.cdef(
        ...         "typedef struct { void *(*xMalloc)(int); void (*xFree)(void *); } sqlite3_mem_methods;"
        ...     )
        ...     with nativemem.Heap().c_port() as port:
        ...         calls = ffi.cast("sqlite3_mem_methods *", port.sqlite)
        ...         block = calls.xMalloc(200)
        ...         assert port.stats.live == 1 and port.stats.current >= 200
        ...         calls.xFree(block)
        """
        return self._place("sqlite")

    @property
    def lua(self) -> LuaCalls:
        """For ``lua_newstate``."""
        return LuaCalls(self._opened().lua, self.context)

    @property
    def zlib(self) -> ZlibCalls:
        """For the fields of a ``z_stream``, before ``deflateInit`` or ``inflateInit``, a :class:`ZlibCalls`.

        >>> import nativemem
        >>> if nativemem.backend == "native":
        ...     with nativemem.Heap().c_port() as port:
        ...         alloc, free, context = port.zlib
        ...         block = alloc(context, 10, 20)
        ...         assert port.stats.live == 1 and port.stats.current >= 200
        ...         free(context, block)
        """
        core = self._opened()
        return ZlibCalls(core.zalloc, core.zfree, self.context)

    @property
    def bzip2(self) -> BzipCalls:
        """For the fields of a ``bz_stream``, before ``BZ2_bzCompressInit`` or ``BZ2_bzDecompressInit``, a
        :class:`BzipCalls`.

        >>> import nativemem
        >>> if nativemem.backend == "native":
        ...     with nativemem.Heap().c_port() as port:
        ...         alloc, free, context = port.bzip2
        ...         block = alloc(context, 10, 20)
        ...         assert port.stats.live == 1 and port.stats.current >= 200
        ...         free(context, block)
        """
        core = self._opened()
        return BzipCalls(core.bzalloc, core.zfree, self.context)

    @property
    def zstd(self) -> ZstdCalls:
        """For the fields of a ``ZSTD_customMem``, which ``ZSTD_createCCtx_advanced`` and the like take, a
        :class:`ZstdCalls`.

        >>> import nativemem
        >>> if nativemem.backend == "native":
        ...     with nativemem.Heap().c_port() as port:
        ...         alloc, free, context = port.zstd
        ...         block = alloc(context, 200)
        ...         assert port.stats.live == 1 and port.stats.current >= 200
        ...         free(context, block)
        """
        core = self._opened()
        return ZstdCalls(core.alloc, core.zfree, self.context)

    @property
    def brotli(self) -> BrotliCalls:
        """For ``BrotliEncoderCreateInstance`` and ``BrotliDecoderCreateInstance``, a :class:`BrotliCalls`.

        >>> import nativemem
        >>> if nativemem.backend == "native":
        ...     with nativemem.Heap().c_port() as port:
        ...         alloc, free, context = port.brotli
        ...         block = alloc(context, 200)
        ...         assert port.stats.live == 1 and port.stats.current >= 200
        ...         free(context, block)
        """
        core = self._opened()
        return BrotliCalls(core.alloc, core.zfree, self.context)

    @property
    def lzma(self) -> Any:
        """Points to an ``lzma_allocator`` (cast it), for the field of an ``lzma_stream`` and the functions that
        take one. It stays where it is.

        >>> import nativemem
        >>> if nativemem.backend == "native":
        ...     from cffi import FFI
        ...     ffi = FFI()
        ...     ffi.cdef(
        ...         "typedef struct { void *(*alloc)(void *, size_t, size_t);"
        ...         "  void (*free)(void *, void *); void *opaque; } lzma_allocator;"
        ...     )
        ...     with nativemem.Heap().c_port() as port:
        ...         calls = ffi.cast("lzma_allocator *", port.lzma)
        ...         block = calls.alloc(calls.opaque, 10, 20)
        ...         assert port.stats.live == 1 and port.stats.current >= 200
        ...         calls.free(calls.opaque, block)
        """
        return self._opened().lzma()

    @property
    def freetype(self) -> Any:
        """Points to an ``FT_MemoryRec_`` (cast it to ``FT_Memory``), for ``FT_New_Library``. It stays where it
        is.

        >>> import nativemem
        >>> if nativemem.backend == "native":
        ...     from cffi import FFI
        ...     ffi = FFI()
        ...     ffi.cdef(
        ...         "typedef struct memory { void *user; void *(*alloc)(struct memory *, long);"
        ...         "  void (*free)(struct memory *, void *); } *FT_Memory;"
        ...     )
        ...     with nativemem.Heap().c_port() as port:
        ...         calls = ffi.cast("FT_Memory", port.freetype)
        ...         block = calls.alloc(calls, 200)
        ...         assert port.stats.live == 1 and port.stats.current >= 200
        ...         calls.free(calls, block)
        """
        return self._opened().freetype()

    @property
    def stats(self) -> Stats:
        """What C has taken through this port, as a :class:`Stats`; also of a closed one. Any thread."""
        if not hasattr(self, "_core"):  # was never made
            raise_status(self, Status.CLOSED)
        used, peak, reserved, limit, *rest = self._core.stats()
        return Stats(used, peak, reserved, limit or None, *rest)

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return getattr(self, "_closed", True)

    def close(self) -> None:
        """Ends it. Idempotent; no call of C may be under way. Raises :class:`LeakError`, changing nothing, while C
        has blocks of it."""
        if self.closed:
            return
        if not self._core.is_idle():  # from here on closing takes no memory: it may be for want of that
            stats = self.stats
            noun = "block" if stats.live == 1 else "blocks"
            raise LeakError(
                f"CPort: {stats.live} {noun} of {format_size(stats.current)} in all are still with C",
                suggestion="let the library free what it has: close its states, parsers and connections first",
                blocks=stats.live,
                used=stats.current,
            )
        hold = self._core.close()
        self._closed = True
        self._allocator = weakref.ref(self._allocator)  # which may go now, and let go of what it stands on
        if hold is not None:  # else another call came first, from another thread or a collection in the middle
            hold.release()

    def __enter__(self) -> CPort:
        self._opened()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            self.close()
        except LeakError:
            if error is None:
                raise

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("cannot copy or pickle 'CPort': memory has one owner")

    def __repr__(self) -> str:
        if self.closed:
            return "<CPort closed>"
        stats = self.stats
        return f"<CPort {format_size(stats.current)} in {stats.live} blocks, of {self._allocator.describe()}>"
