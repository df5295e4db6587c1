"""What the providers of all tiers have in common: used bytes in one block, copied in and out.

A provider is a run of *used* bytes, from 0 to ``len(provider)``, in one block of an allocator. Invariants:
0 <= used <= capacity, which is the block's size, and each byte from used to capacity is zero. Reads and writes
copy; a *window* is a view of the bytes themselves, and while one is out nothing changes how many are used, so a
view never moves. A provider does not serve several threads at once: a race loses a write or gives an error.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn, TypeVar

from ..allocators.base import Allocator, wipe
from ..errors import CapacityExceeded, ConfigError, CorruptionDetected, OutOfBounds, StaleHandle, shown
from ..facades import configured
from ..levels import Level
from ..refusals import space
from ..sizes import SIZE_MAX, parse_size
from .buffers import plain
from .verification import Verification

__all__ = ["Provider", "ProviderStats", "source"]

P = TypeVar("P", bound="Provider")

_NONE = memoryview(bytearray())


@dataclass(frozen=True)
class ProviderStats:
    """Counters of a provider at one moment; sizes in bytes.

    ``used`` bytes, the ``capacity`` of its block, the ``limit`` of that (None: the allocator's alone), and what the
    tracker of a :class:`StdProvider` counted, None elsewhere: ``accesses``, how many distinct ``regions`` (offset
    and length) they were of, up to 4096, and the ``largest`` of them.
    """

    used: int
    capacity: int
    limit: int | None
    accesses: int | None = None
    regions: int | None = None
    largest: int | None = None


def source(upstream: Any, label: str) -> Any:
    """The allocator to take memory from, checked; the shared system allocator for None."""
    if upstream is None:
        return configured().default_system
    if not isinstance(upstream, Allocator):
        raise ConfigError(f"{label}: takes an allocator or None, not {shown(upstream)}")
    if upstream.closed:
        raise StaleHandle(f"{label}: {type(upstream).__name__} is closed")
    return upstream


class Provider:
    """What all providers do. The tiers are :class:`StdProvider`, :class:`CappedProvider`, :class:`StaticProvider`.

    ``len`` is the number of used bytes. ``read_bytes``, ``write_bytes`` and ``resize`` copy and never do half of
    what was asked. ``acquire`` and ``release`` give and end a window. Equality, order and hash are those of the
    used bytes, across tiers; so a provider that is a key must not change. A context manager that closes.

    Parameters: ``verification``, a level, its name or a :class:`Verification` (None: the tier's); the ``rest`` as
    the tier has it.

    >>> from nativemem.manager import Provider, StdProvider
    >>> isinstance(StdProvider(), Provider)
    True
    """

    __slots__ = ("__weakref__", "_block", "_limit", "_upstream", "_used", "_view", "_windows")
    #: how a configuration calls the tier
    tier: ClassVar[str] = ""
    _default: ClassVar[Level] = Level.OFF
    _block: Any
    _view: memoryview
    _limit: int | None
    _windows: list[weakref.ref[memoryview]]

    def __new__(cls: type[P], *args: Any, verification: Any = None, **rest: Any) -> P:
        """At OFF an object of the class itself, whose code has no checks; at any other level one of a subclass."""
        if cls.tier == "":
            raise TypeError(f"{cls.__name__} is what the tiers have in common: make one of those")
        checks = Verification.of(cls._default if verification is None else verification)
        if checks.level is Level.OFF:
            return super().__new__(cls)
        from .checked import checked

        kind: Any = cls
        self: Any = super().__new__(checked(kind))
        self._verification = checks
        return self

    def _open(self, upstream: Any, limit: int | None) -> None:
        self._block, self._view, self._used, self._windows = None, _NONE, 0, []
        self._upstream, self._limit = source(upstream, f"{self._name}.upstream"), limit

    @property
    def _name(self) -> str:
        return type(self).__name__

    @property
    def level(self) -> Level:
        """The verification level that it was made with."""
        return Level.OFF

    @property
    def capacity(self) -> int:
        """Bytes of the block behind it."""
        return len(self._view)

    @property
    def limit(self) -> int | None:
        """The most that the capacity can be; None: what the allocator gives."""
        return self._limit

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._used < 0

    @property
    def stats(self) -> ProviderStats:
        """Counters now. Raises :class:`StaleHandle` when closed."""
        self._must_be_open("stats")
        return ProviderStats(self._used, self.capacity, self._limit)

    def __len__(self) -> int:
        return max(self._used, 0)

    def read_bytes(self, offset: int, n: int) -> bytes:
        """A copy of ``n`` used bytes from ``offset`` on. Raises :class:`OutOfBounds` for what is not within them,
        :class:`StaleHandle` when closed.

        >>> from nativemem.manager import StdProvider
        >>> provider = StdProvider()
        >>> provider.write_bytes(0, b"hello"); provider.read_bytes(1, 3)
        b'ell'
        """
        end = offset + n
        if offset < 0 or n < 0 or end > self._used:
            return self._read_beyond(offset, n)
        return bytes(self._view[offset:end])

    def _read_beyond(self, offset: int, n: int) -> bytes:
        self._must_be_open("read_bytes")
        raise self._beyond("read_bytes", offset, n)

    def _beyond(self, call: str, offset: int, n: int) -> OutOfBounds:
        for each in (offset, n):
            if not hasattr(each, "__index__"):
                raise TypeError(f"{self._name}.{call}: takes ints, not {shown(each)}")
        return OutOfBounds(
            f"{self._name}.{call}: {shown(n)} bytes at {shown(offset)} are not within the {self._used} used ones",
            requested=n,
            offset=offset,
            used=self._used,
            capacity=self.capacity,
        )

    def write_bytes(self, offset: int, data: Any) -> None:
        """Copies ``data``, bytes or another buffer, to ``offset``. Beyond the used bytes there are more from then
        on; those between are zero.

        Raises, with nothing written, :class:`OutOfBounds` for an offset that cannot be; :class:`CapacityExceeded`
        beyond the limit and what the allocator raises where there is no memory; :class:`BufferError` where more
        would be used while a window is out; :class:`StaleHandle` when closed.

        >>> from nativemem.manager import CappedProvider
        >>> provider = CappedProvider(8)
        >>> provider.write_bytes(2, b"abc"); provider.read_bytes(0, 5)
        b'\\x00\\x00abc'
        """
        if type(data) is not bytes:
            data = plain(data, f"{self._name}.write_bytes")
        end = offset + len(data)
        if offset < 0 or end > self._used:
            self._write_beyond(offset, len(data))
        self._view[offset:end] = data

    def _write_beyond(self, offset: int, n: int) -> None:
        """Has the bytes up to the end of a write used, or raises."""
        self._must_be_open("write_bytes")
        if not 0 <= offset <= SIZE_MAX - n or not hasattr(offset, "__index__") or (not n and offset > self._used):
            raise self._beyond("write_bytes", offset, n)
        self._reach(offset + n, "write_bytes", spare=True)

    def resize(self, n: int | str) -> None:
        """Has ``n`` bytes used, an int or a string such as ``"64 KiB"``; new ones are zero. Raises as
        :meth:`write_bytes`, and :class:`InvalidLayout` for what is no size.

        >>> from nativemem.manager import StaticProvider
        >>> provider = StaticProvider(16)
        >>> provider.resize(4); provider.read_bytes(0, 4)
        b'\\x00\\x00\\x00\\x00'
        """
        self._must_be_open("resize")
        n = parse_size(n, f"{self._name}.resize:")
        if n >= self._used:
            self._reach(n, "resize", spare=False)
            return
        self._must_not_be_out("resize")
        if n:
            wipe_range(self._view, n, self._used)
        else:
            self._empty()  # first: it may be refused
        self._used = n
        self._give_back()

    def _reach(self, end: int, call: str, *, spare: bool) -> None:
        """Has the bytes up to ``end``, above ``used``, used; all that can fail comes first. ``spare``: may take
        more than that, for the next write."""
        if end == self._used:
            return
        self._must_not_be_out(call)
        if self._limit is not None and end > self._limit:
            raise CapacityExceeded(
                f"{self._name}.{call}: up to byte {end}, beyond the {self._limit} that there can be",
                suggestion="write less, resize to fewer bytes, or make it with more capacity",
                **space(end - self._used, self._used, self._limit),
            )
        if end > self.capacity:
            most = SIZE_MAX if self._limit is None else self._limit
            self._grow(end, min(max(end, self.capacity * 3 // 2, 64), most) if spare else end)
        self._used = end

    def _grow(self, least: int, size: int) -> None:
        """To a block of ``size`` bytes, or of ``least`` where there is no room for that; all or nothing."""
        if self._block is not None and self._resize_block(size):
            return
        try:
            block = self._upstream.alloc(size)
        except MemoryError:
            if size == least:
                raise
            block = self._upstream.alloc(least)
        wipe(block)
        view, used = memoryview(block), self._used
        view[:used] = self._view[:used]
        try:
            self._free_block()
        except BufferError:  # a slice of a window that was released
            view.release()
            block.free()
            raise
        self._block, self._view = block, view

    def _resize_block(self, size: int) -> bool:
        """Resizes the block where it is; False, with nothing changed, where that is not possible."""
        before = len(self._view)
        self._view.release()
        try:
            return bool(self._upstream.resize(self._block, size))
        except (MemoryError, BufferError):  # where it is; elsewhere there may be room
            return False
        finally:
            self._view = memoryview(self._block)
            wipe_range(self._view, before, len(self._view))

    def _free_block(self) -> None:
        if self._block is not None:
            self._view.release()
            try:
                self._block.free()
            except BaseException:
                self._view = memoryview(self._block)
                raise
        self._block, self._view = None, _NONE

    def _empty(self) -> None:
        """Has no byte used any more. BufferError, with nothing changed, where a slice of a window is out."""
        self._free_block()

    def _give_back(self) -> None:
        """Gives back what is no longer used, where it is most of the block."""
        if 0 < self._used <= self.capacity // 2:
            self._resize_block(self._used)

    def acquire(self, offset: int = 0, n: int | None = None) -> memoryview:
        """A window: a writable view of ``n`` used bytes from ``offset`` on (None: of all that follow).

        Until it is released nothing that changes the number of used bytes is done: :class:`BufferError`. What is
        written through it is not checked meanwhile. Raises :class:`OutOfBounds` as :meth:`read_bytes`,
        :class:`StaleHandle` when closed.

        >>> from nativemem.manager import StdProvider
        >>> provider = StdProvider()
        >>> provider.resize(8)
        >>> window = provider.acquire(2, 3)
        >>> window[:] = b"abc"
        >>> provider.release(window); provider.read_bytes(0, 6)
        b'\\x00\\x00abc\\x00'
        """
        self._must_be_open("acquire")
        if n is None:
            n = self._used - offset
        if offset < 0 or n < 0 or offset + n > self._used:
            raise self._beyond("acquire", offset, n)
        with memoryview(_NONE if self._block is None else self._block) as whole:
            window = whole[offset : offset + n]
        self._windows.append(weakref.ref(window))
        return window

    def release(self, window: memoryview) -> None:
        """Ends a window. Raises :class:`ConfigError` for what is none of this provider's, or was released."""
        for each in self._windows:
            if each() is window and _is_out(each):
                window.release()
                self._windows.remove(each)
                return
        raise ConfigError(f"{self._name}.release: takes a window that acquire gave, once, not {shown(window)}")

    def _must_not_be_out(self, call: str) -> None:
        if self._windows:
            self._windows = [each for each in self._windows if _is_out(each)]
            if self._windows:
                raise BufferError(f"{self._name}.{call}: refused while a window is out; release that first")

    def _must_be_open(self, call: str) -> None:
        if self._used < 0:
            raise StaleHandle(f"{self._name}.{call}: the provider is closed")

    def verify(self) -> None:
        """Checks the invariants and, at a level that keeps a checksum, the contents. Raises
        :class:`CorruptionDetected`, :class:`StaleHandle` when closed."""
        self._must_be_open("verify")
        size = 0 if self._block is None else self._block.size
        if not 0 <= self._used <= len(self._view) == size or (self._block is not None and not self._block.alive):
            raise CorruptionDetected(
                f"{self._name}.verify: {self._used} of {len(self._view)} bytes are used, in a block of {size}",
                used=self._used,
                capacity=size,
            )

    def close(self) -> None:
        """Gives the memory back. Idempotent. Raises :class:`BufferError`, with nothing changed, while a window is
        out."""
        if not self.closed:
            self._must_not_be_out("close")
            self._free_block()
            self._used = -1

    def __enter__(self: P) -> P:
        self._must_be_open("__enter__")
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            self.close()
        except (BufferError, CorruptionDetected):
            if error is None:
                raise

    def _bytes(self) -> bytes:
        return bytes(self._view[: max(self._used, 0)])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Provider):
            return NotImplemented
        return self is other or (self._used == other._used and self._bytes() == other._bytes())

    def __lt__(self, other: Any) -> bool:
        return self._bytes() < other._bytes() if isinstance(other, Provider) else NotImplemented

    def __le__(self, other: Any) -> bool:
        return self._bytes() <= other._bytes() if isinstance(other, Provider) else NotImplemented

    def __gt__(self, other: Any) -> bool:
        return self._bytes() > other._bytes() if isinstance(other, Provider) else NotImplemented

    def __ge__(self, other: Any) -> bool:
        return self._bytes() >= other._bytes() if isinstance(other, Provider) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._bytes())

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(f"cannot copy or pickle {self._name!r}: memory has one owner")

    def __repr__(self) -> str:
        if self.closed:
            return f"<{self._name} closed>"
        return f"<{self._name} {self._used} of {self.capacity} bytes>"


def _is_out(window: weakref.ref[memoryview]) -> bool:
    """Whether a window is neither released nor collected."""
    view = window()
    if view is None:
        return False
    try:
        return view.nbytes >= 0
    except ValueError:
        return False


def wipe_range(view: memoryview, start: int, end: int) -> None:
    """Zeroes a part of a view, 64 KiB at a time."""
    for at in range(start, end, 1 << 16):
        stop = min(at + (1 << 16), end)
        view[at:stop] = bytes(stop - at)
