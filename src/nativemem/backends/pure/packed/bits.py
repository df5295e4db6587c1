"""Bounded sets of small integers, one bit each; see ``csrc/binding/bits.c``."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

from .base import Packed

__all__ = ["Bits"]


class Bits(Packed):
    """A bounded set of small integers, one bit each."""

    __slots__ = ()

    def _attach(self, buffer: Any, capacity: int) -> None:
        self._take(buffer, capacity)
        self._raw[:] = bytes(len(self._raw))

    def _number(self, bit: Any) -> int:
        try:
            i = operator.index(bit)
        except TypeError:
            raise TypeError(f"{type(self).__name__} takes ints, not {type(bit).__name__}") from None
        self._opened()
        if not 0 <= i < self._capacity:
            raise IndexError(f"{type(self).__name__}: there is no bit {i} of {self._capacity}")
        return i

    def _bound(self, bit: Any) -> int:
        try:
            i = operator.index(bit)
        except TypeError:
            raise TypeError(f"{type(self).__name__} takes ints, not {type(bit).__name__}") from None
        if i < 0:
            raise IndexError(f"{type(self).__name__}: there is no bit {i} of {self._capacity}")
        return min(i, self._capacity)

    def _range(self, bits: tuple[Any, ...], name: str) -> tuple[int, int]:
        if len(bits) == 1:
            i = self._number(bits[0])
            return i, i + 1
        if len(bits) == 2:
            start, stop = map(self._bound, bits)
            self._opened()
            return start, max(start, stop)
        raise TypeError(f"{name} takes a bit, or start and stop ({len(bits)} arguments given)")

    def _change(self, start: int, stop: int, change: Any) -> bool:
        """Whether what ``change`` makes of the bits, as a number and with a mask of those meant, is another."""
        if start == stop:
            return False
        first, last = start // 8, (stop - 1) // 8 + 1
        was = int.from_bytes(self._raw[first:last], "little")
        new = change(was, ((1 << stop - start) - 1) << start % 8)
        self._raw[first:last] = new.to_bytes(last - first, "little")
        return bool(new != was)

    def set(self, *bits: Any) -> bool:
        """set(bit) or set(start, stop): sets bits; returns whether one has changed."""
        return self._change(*self._range(bits, "set"), operator.or_)

    def clear(self, *bits: Any) -> bool:
        """clear(bit), clear(start, stop) or clear(): clears bits; returns whether one has changed."""
        where = self._range(bits or (0, self._capacity), "clear")
        return self._change(*where, lambda was, mask: was & ~mask)

    def toggle(self, *bits: Any) -> bool:
        """toggle(bit) or toggle(start, stop): changes bits; returns whether there was one."""
        return self._change(*self._range(bits, "toggle"), operator.xor)

    def add(self, bit: Any, /) -> None:
        """Sets a bit."""
        self.set(bit)

    def discard(self, bit: Any, /) -> None:
        """Clears a bit, if it is set."""
        if bit in self:
            self.clear(int(bit))

    def __contains__(self, bit: Any) -> bool:
        self._opened()
        i: Any = bit if type(bit) is int else self._sought(bit)
        raw = self._opened()
        return i is not None and 0 <= i < self._capacity and bool(raw[i >> 3] >> (i & 7) & 1)

    def __len__(self) -> int:
        return int.from_bytes(self._opened(), "little").bit_count()

    def _next(self, start: Any, without: int) -> int | None:
        """The first bit from ``start`` on that is not as all bits of a byte ``without`` are."""
        i = self._bound(start)
        raw = self._opened()
        while i < self._capacity:
            byte = (raw[i >> 3] ^ without) >> (i & 7)
            if byte:
                i += (byte & -byte).bit_length() - 1
                return i if i < self._capacity else None
            i = (i | 7) + 1
            if not i & 0x1FFF:  # a KiB at a time where it is all the same
                while i < self._capacity and raw[i >> 3 : (i >> 3) + 1024] == bytes([without]) * 1024:
                    i += 8192
        return None

    def next_set(self, start: Any = 0, /) -> int | None:
        """The first set bit from start on, or None."""
        return self._next(start, 0)

    def next_clear(self, start: Any = 0, /) -> int | None:
        """The first clear bit from start on, or None."""
        return self._next(start, 255)

    def __iter__(self) -> Iterator[int]:
        self._opened()
        return self._iterate()

    def _iterate(self) -> Iterator[int]:
        i = self._next(0, 0)
        while i is not None:
            yield i
            i = self._next(i + 1, 0)
