"""Linear memory: what a WebAssembly module sees, in pages of 64 KiB that grow up to a maximum."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any, NoReturn

from ..config import parse_count
from ..errors import ConfigError, OutOfBounds, shown
from ..levels import Level
from .providers import CappedProvider

if TYPE_CHECKING:
    from ..allocators.base import Allocator

__all__ = ["PAGE", "LinearMemory"]

#: bytes of a page, and the most pages that an address of 32 bits reaches (WebAssembly 1.0, 2.5.4 and 4.2.8)
PAGE = 64 << 10
MOST_PAGES = 1 << 16


class LinearMemory:
    """Bytes in pages of 64 KiB, all zero at first, that grow and never shrink.

    Parameters: ``pages`` at first; ``maximum``, pages (None: 65536, which is 4 GiB); ``upstream``, an allocator
    (None: the system's), whose budget is charged; ``verification``, as for providers (None: OFF). Raises
    :class:`ConfigError` for values that these do not take, and what the allocator raises where there is no memory.

    A subscript reads and writes bytes, ``memory[16]`` an int and ``memory[16:20]`` as many bytes as that, counted
    from the start; what is not within the pages is :class:`OutOfBounds`, a trap. One thread at a time. A context
    manager that closes.

    >>> from nativemem.manager import LinearMemory
    >>> memory = LinearMemory(1, maximum=2)
    >>> memory.grow(1), memory.grow(1), memory.size(), len(memory)
    (1, -1, 2, 131072)
    >>> memory[65536:65541] = b"hello"; memory.read_bytes(65536, 5)
    b'hello'
    """

    __slots__ = ("_maximum", "_provider")

    def __init__(
        self,
        pages: int = 1,
        maximum: int | None = None,
        *,
        upstream: Allocator | None = None,
        verification: Any = None,
    ) -> None:
        most = MOST_PAGES if maximum is None else parse_count(maximum, "linear.maximum")
        if most > MOST_PAGES:
            raise ConfigError(f"linear.maximum: takes at most {MOST_PAGES} pages, not {shown(maximum)}")
        first = parse_count(pages, "linear.pages")
        if first > most:
            raise ConfigError(f"linear.pages: {first} are more than the maximum of {most}")
        self._maximum = most
        self._provider = CappedProvider(max(most, 1) * PAGE, upstream=upstream, verification=verification)
        self._provider.resize(first * PAGE)

    @property
    def maximum(self) -> int:
        """The most pages that there can be."""
        return self._maximum

    @property
    def level(self) -> Level:
        """The verification level that it was made with."""
        return self._provider.level

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._provider.closed

    def size(self) -> int:
        """The number of pages now."""
        return len(self._provider) // PAGE

    def __len__(self) -> int:
        return len(self._provider)

    def grow(self, n: int) -> int:
        """Adds ``n`` pages of zeros. Returns how many there were, or -1, with nothing changed, where that would be
        more than the maximum, or than the budget or the system gives. Where the bytes have to move the old and the
        new ones are both there, and charged, for a moment.

        Raises :class:`BufferError`, with nothing changed, while a view is out, as the bytes may move;
        :class:`ConfigError` for what is no number of pages; :class:`StaleHandle` when closed.
        """
        n = parse_count(n, "linear.grow: n")
        before = self.size()
        if before + n > self._maximum:
            self._provider._must_be_open("grow")
            return -1
        try:
            self._provider.resize((before + n) * PAGE)
        except MemoryError:
            return -1
        return before

    def _must_be_inside(self, call: str, offset: int, n: int) -> None:
        self._provider._must_be_open(call)
        if offset < 0 or n < 0 or offset + n > len(self):
            raise OutOfBounds(
                f"LinearMemory.{call}: {shown(n)} bytes at {shown(offset)} are not within its {len(self)}",
                suggestion="grow() adds pages; an address that a program computed may be wrong",
                requested=n,
                offset=offset,
                used=len(self),
                capacity=self._maximum * PAGE,
            )

    def read_bytes(self, offset: int, n: int) -> bytes:
        """A copy of ``n`` bytes from ``offset`` on. Raises :class:`OutOfBounds`, :class:`StaleHandle`."""
        self._must_be_inside("read_bytes", offset, n)
        return self._provider.read_bytes(offset, n)

    def write_bytes(self, offset: int, data: Any) -> None:
        """Copies ``data``, bytes or another buffer, to ``offset``; whole or not at all. Raises
        :class:`OutOfBounds`, :class:`StaleHandle`."""
        with memoryview(data) as view:
            self._must_be_inside("write_bytes", offset, view.nbytes)
            self._provider.write_bytes(offset, view)

    def acquire(self, offset: int = 0, n: int | None = None) -> memoryview:
        """A writable view of ``n`` bytes from ``offset`` on (None: of all that follow), until :meth:`release`.
        Raises :class:`OutOfBounds`, :class:`StaleHandle`."""
        return self._provider.acquire(offset, n)

    def release(self, view: memoryview) -> None:
        """Ends a view that :meth:`acquire` gave. Raises :class:`ConfigError` for any other."""
        self._provider.release(view)

    def _span(self, key: Any) -> tuple[int, int]:
        """Offset and length of a subscript."""
        if isinstance(key, slice):
            if key.step not in (None, 1):
                raise ConfigError(f"linear memory: a slice has a step of 1, not {shown(key.step)}")
            start = 0 if key.start is None else operator.index(key.start)
            stop = len(self) if key.stop is None else operator.index(key.stop)
            return start, stop - start
        return operator.index(key), 1

    def __getitem__(self, key: Any) -> Any:
        offset, n = self._span(key)
        data = self.read_bytes(offset, n)
        return data if isinstance(key, slice) else data[0]

    def __setitem__(self, key: Any, value: Any) -> None:
        offset, n = self._span(key)
        data = value if isinstance(key, slice) else bytes((value,))
        with memoryview(data) as view:
            if view.nbytes != n:
                raise ConfigError(f"linear memory: {n} bytes are to be written, not {view.nbytes}")
            self.write_bytes(offset, view)

    def verify(self) -> None:
        """As :meth:`Provider.verify`."""
        self._provider.verify()

    def close(self) -> None:
        """Gives the memory back. Idempotent. Raises :class:`BufferError` while a view is out."""
        self._provider.close()

    def __enter__(self) -> LinearMemory:
        self._provider.__enter__()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._provider.__exit__(kind, error, trace)

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("cannot copy or pickle 'LinearMemory': memory has one owner")

    def __repr__(self) -> str:
        return f"<LinearMemory {'closed' if self.closed else f'{self.size()} of {self._maximum} pages'}>"
