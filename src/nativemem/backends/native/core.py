"""What the native cores of all allocators have in common."""

from __future__ import annotations

from typing import Any

from .control import address, ffi, lib
from .handles import own
from .loader import dataplane


class Core:
    """What the cores of all allocators share."""

    __slots__ = ("_port", "_ptr", "handle", "port")
    #: which verbs drop several blocks at once, for the data plane
    rewinds = dataplane.REWINDS_NEVER
    _port: Any
    _ptr: Any
    handle: Any
    #: what the data plane takes of a core: the handle, the port's two words, and ``rewinds``
    port: tuple[Any, int, int, int]

    def _open(self, kind: str, needs: tuple[Any, ...], *args: Any) -> None:
        # a list, because CPython loses references where it has no memory to shorten a tuple made of a generator
        self._ptr, self.handle = own(kind, tuple([core.handle for core in needs]), *args)
        self._port = getattr(lib, f"nm_{kind}_port")(self._ptr)
        self.port = self.handle, address(self._port.self), address(self._port.methods), self.rewinds

    def words(self) -> tuple[int, int]:
        """The port's two."""
        return self.port[1:3]

    def stats(self) -> tuple[int, int, int, int, int, int, int, int, int]:
        s = ffi.new("nm_stats *")
        self._port.methods.stats(self._port.self, s)
        return s.used, s.peak, s.reserved, s.limit, s.total, s.live, s.count, s.frees, s.failures

    def check(self) -> int:
        return 0

    def check_free(self) -> int:
        return self.check()

    def clear(self) -> int:
        return 0

    def diagnose(self) -> dict[str, int]:
        return {}

    def heap(self) -> Any:
        """The heap that blocks lie in, or NULL."""
        return ffi.NULL

    def hand_over(self, thread: Any) -> int:
        """Makes what only one thread may use another's; for all others nothing changes."""
        return 0
