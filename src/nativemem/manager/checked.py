"""Providers that are checked: what each tier becomes at a level other than OFF.

:func:`checked` makes, once, a subclass of a tier in front of whose methods the checks stand. At OFF a provider is
of the tier's own class, so its methods have no instruction for checks.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from ..errors import CorruptionDetected
from ..levels import CRITICAL, INITIALIZATION, MUTATION, READ, Level
from .buffers import plain
from .verification import Verification, lock, new_key

if TYPE_CHECKING:
    from .provider import Provider

    _Base = Provider
else:
    _Base = object

__all__ = ["checked"]

_SLOTS = ("_copy", "_is_apart", "_key", "_verification")


class _Checked(_Base):
    """The checks. Under the lock, as the checksum is of what one thread wrote."""

    if not TYPE_CHECKING:  # a checker looks for the attributes below in them; the subclass has slots for those
        __slots__ = ()
    _verification: Verification
    _key: int
    #: the sizes, a second time
    _copy: tuple[int, int]
    #: whether windows are or were out, so that the checksum is not of what there is
    _is_apart: bool

    def _open(self, upstream: Any, limit: int | None) -> None:
        super()._open(upstream, limit)
        self._key, self._is_apart = new_key(), False
        self._note()
        if self._verification._keeps:
            with lock:
                self._seal()

    @property
    def level(self) -> Level:
        return self._verification.level

    def _note(self) -> None:
        self._copy = self._used, len(self._view)

    def _grow(self, least: int, size: int) -> None:
        super()._grow(least, size)
        self._note()  # of a static one this is the end of its making

    def _is_together(self) -> bool:
        """Whether the checksum is of what there is; seals anew when the last window is gone."""
        if self._is_apart:
            try:
                self._must_not_be_out("")
            except BufferError:
                return False
            self._is_apart = False
            if self._verification._keeps:
                self._seal()
        return True

    def _seal(self) -> None:
        with self._view[: self._used] as used:
            self._verification._tell("sealed", self._key, used)

    def _compare(self, importance: int) -> None:
        checks = self._verification
        if self._used < 0:
            return
        if checks.level is Level.REDUNDANT or importance == CRITICAL:
            self._compare_sizes()
        if self._verification._keeps and self._is_together():
            with self._view[: self._used] as used:  # released also where an error's traceback has it
                checks._compare(self._key, used, importance, self._name)

    def _compare_now(self) -> None:
        with self._view[: self._used] as used:
            self._verification._compare_now(self._key, used, self._name)

    def _compare_sizes(self) -> None:
        sizes = self._used, len(self._view)
        wrong = None
        if self._verification.level is Level.REDUNDANT and sizes != self._copy:
            wrong = "{} of {} bytes are used, by the second copy {} of {}".format(*sizes, *self._copy)
        elif not 0 <= sizes[0] <= sizes[1]:
            wrong = "{} of {} bytes are used".format(*sizes)
        self._verification._count(wrong)
        if wrong is not None:
            self._verification._fail(f"{self._name}: {wrong}")

    def read_bytes(self, offset: int, n: int) -> bytes:
        with lock:
            self._verification._spend("read")
            self._compare(READ)
            return super().read_bytes(offset, n)

    def write_bytes(self, offset: int, data: Any) -> None:
        with lock:
            checks = self._verification
            checks._spend("write")
            if type(data) is not bytes:
                data = plain(data, f"{self._name}.write_bytes")
            self._compare(MUTATION if self._used else INITIALIZATION)
            if not checks._keeps:
                super().write_bytes(offset, data)
                self._note()
                return
            used, n = self._used, len(data)
            old = bytes(self._view[offset : min(offset + n, used)]) if 0 <= offset < used else b""
            super().write_bytes(offset, data)
            if self._is_together():
                if self._used > used:
                    checks._tell("resized", self._key, self._used, b"")
                checks._tell("wrote", self._key, offset, old + bytes(n - len(old)), data)
                if checks.level in (Level.FULL, Level.REDUNDANT):
                    self._compare_now()
            self._note()

    def _bytes(self) -> bytes:
        with lock:
            self._verification._spend("copy")
            self._compare(READ)
            return super()._bytes()

    def resize(self, n: int | str) -> None:
        with lock:
            checks = self._verification
            checks._spend("grow")
            self._compare(CRITICAL)
            before = bytes(self._view[: self._used]) if self._verification._keeps and self._used >= 0 else b""
            super().resize(n)
            if self._verification._keeps and self._is_together():
                checks._tell("resized", self._key, self._used, before[self._used :])
            self._note()

    def acquire(self, offset: int = 0, n: int | None = None) -> memoryview:
        with lock:
            self._verification._spend("read")
            self._compare(MUTATION)
            window = super().acquire(offset, n)
            self._is_apart = True
            return window

    def release(self, window: memoryview) -> None:
        with lock:
            self._verification._spend("write")
            super().release(window)
            self._is_together()

    def verify(self) -> None:
        with lock:
            super().verify()
            self._compare_sizes()
            if self._verification._keeps and self._is_together():
                self._compare_now()

    def close(self) -> None:
        with lock:
            wrong: CorruptionDetected | None = None
            try:
                self._compare(CRITICAL)
            except CorruptionDetected as error:
                wrong = error
            super().close()
            self._verification._tell("closed", self._key)
            if wrong is not None:
                raise wrong

    def __del__(self) -> None:
        key = getattr(self, "_key", 0)
        if key:
            self._verification._later(key)


@functools.cache
def checked(tier: type[Provider]) -> Any:
    """The checked subclass of a tier."""
    namespace = {"__slots__": _SLOTS, "__module__": tier.__module__, "__doc__": tier.__doc__}
    return type(tier.__name__, (_Checked, tier), namespace)
