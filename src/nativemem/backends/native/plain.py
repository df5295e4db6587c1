"""The native cores of what C code takes from: a CPort, and memlib."""

from __future__ import annotations

from typing import Any

from ... import errors
from .control import address, ffi, lib
from .core import Core
from .handles import own
from .loader import dataplane, start_region
from .wrappers import TracedCore


class PlainCore:
    """Control plane of CPort: malloc's calls on a counted ``upstream``. ``hold`` is what keeps that from being
    reset or closed. Until ``close`` nothing of it goes, whatever drops it: C may have its addresses."""

    __slots__ = ("_kept", "_methods", "_ptr", "_self", "_traced")
    _kept: tuple[Any, Any] | None

    def __init__(self, upstream: Any, hold: Any) -> None:
        self._traced = TracedCore(upstream, False, False, 0, 0)
        self._ptr, handle = own("plain", (self._traced.handle,), self._traced._port, upstream.heap())
        self._self, self._methods = self._traced._port.self, self._traced._port.methods
        self._kept = (handle, hold)
        dataplane.keep(self._kept)

    def stats(self) -> tuple[int, int, int, int, int, int, int, int, int]:
        return self._traced.stats()

    def is_idle(self) -> bool:
        """Whether C has nothing of it. Takes no memory."""
        return lib.own_is_idle(self._self, self._methods)

    def words(self) -> tuple[int, int]:
        """Of the counted port, where sizes come back."""
        return self._traced.words()

    def close(self) -> Any:
        """Returns ``hold``; None the second time."""
        kept, self._kept = self._kept, None
        if kept is None:
            return None
        dataplane.let_go(kept)  # with the last reference, here, its handle ends the structure
        return kept[1]

    def context(self) -> Any:
        return ffi.cast("void *", self._ptr)

    def calls(self) -> tuple[Any, Any, Any, Any, Any]:
        """malloc, realloc, free, calloc, usable_size."""
        c = self._placed(lib.nm_plain_calls_of(self._ptr))
        return c.malloc, c.realloc, c.free, c.calloc, c.usable_size

    def expat(self) -> Any:
        return self._placed(lib.nm_plain_calls_of(self._ptr))

    def sqlite(self) -> Any:
        return self._placed(lib.nm_plain_sqlite_of(self._ptr))

    @staticmethod
    def _placed(found: Any) -> Any:
        if found == ffi.NULL:
            raise errors.Refusal(lib.NM_CAPACITY_EXCEEDED, 1, lib.NM_PLAIN_PLACES, lib.NM_PLAIN_PLACES)
        return found

    def lzma(self) -> Any:
        return lib.nm_plain_lzma_of(self._ptr)

    def freetype(self) -> Any:
        return lib.nm_plain_freetype_of(self._ptr)

    lua, zalloc, bzalloc, zfree, alloc = (
        ffi.addressof(lib, f"nm_plain_{name}") for name in ("lua", "zalloc", "bzalloc", "zfree", "alloc")
    )


class MemlibCore:
    """Control plane of what :mod:`nativemem.memlib` takes from: ``upstream``, a core, or memlib's own heap. It is
    memlib's from now on."""

    __slots__ = ("_plain", "_port", "handle", "headed", "port")
    rewinds = dataplane.REWINDS_NEVER

    def __init__(self, upstream: Any = None, hold: Any = None) -> None:
        start_region()
        #: whether something stands in front of a block
        self.headed = upstream is not None and upstream.heap() == ffi.NULL
        self._plain = None if upstream is None else PlainCore(upstream, hold)
        try:
            lib.nm_memlib_use(ffi.NULL if self._plain is None else self._plain._ptr)
            now = lib.nm_memlib_now()
            if now == ffi.NULL:
                raise errors.Refusal(lib.NM_OUT_OF_MEMORY)
            self._port = lib.nm_plain_port(now)
            self.handle = dataplane.own(0, ())  # of nothing: neither is Python's to end
            self.port = self.handle, address(self._port.self), address(self._port.methods), self.rewinds
        except BaseException:  # nothing else refers to what PlainCore keeps
            self.end()
            raise

    def usable(self, size: int, align: int) -> int:
        return size

    stats, check, check_free, clear = Core.stats, Core.check, Core.check_free, Core.clear
    hand_over, diagnose = Core.hand_over, Core.diagnose

    @staticmethod
    def pointer(thing: Any) -> Any:
        """``thing`` as a ``void *``, if it is a pointer of cffi's."""
        is_one = isinstance(thing, ffi.CData) and ffi.typeof(thing).kind == "pointer"
        return ffi.cast("void *", thing) if is_one else None

    number = staticmethod(address)  # of a pointer

    @staticmethod
    def at(number: int) -> Any:
        """A ``void *``."""
        return ffi.cast("void *", number)

    def trim(self) -> None:
        lib.nm_mem_uninit()

    def end(self) -> None:
        """Memlib's own heap takes its place."""
        lib.nm_memlib_use(ffi.NULL)
        hold = None if self._plain is None else self._plain.close()
        if hold is not None:
            hold.release()
