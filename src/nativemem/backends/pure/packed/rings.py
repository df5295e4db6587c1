"""Bounded sequences of packed items; see ``csrc/binding/ring.c``."""

from __future__ import annotations

import operator
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from .base import Packed

__all__ = ["Ring", "RingDeque", "RingQueue", "RingStack"]


class Ring(Packed):
    """A bounded sequence of packed items, which lie around the end of the memory."""

    __slots__ = ("_code", "_head", "_linear", "_pack", "_plain", "_size", "_strict", "_typed", "_unpack")

    def _attach(self, buffer: Any, capacity: int, record: Any, linear: bool, strict: bool) -> None:
        self._take(buffer, capacity)
        self._size, self._pack, self._unpack = record.size, record.spec[-2], record.spec[-1]
        self._linear, self._strict, self._head = linear, strict, 0
        self._code = record.code
        #: single precision would take what is too large for it
        self._plain = {"f": None, "d": float, "?": bool}.get(record.code, int)
        self._see_items()

    def _see_items(self) -> None:
        """Where the interpreter has a view of such items, reads go through that."""
        self._typed = self._raw[: self._capacity * self._size].cast(self._code) if self._code else None

    def _detach(self) -> None:
        typed = getattr(self, "_typed", None)
        if typed is not None:
            typed.release()
        super()._detach()

    def _resume(self, buffer: Any) -> None:
        if self._raw is None and self._capacity:
            super()._resume(buffer)
            self._see_items()

    def _refuse_full(self, n: int) -> None:
        if n > self._capacity - self._used:
            self._refuse("full", n)

    def _read(self, i: int) -> Any:
        at = (self._head + i) % self._capacity
        if self._typed is not None:
            return self._typed[at]
        return self._unpack(bytes(self._raw[at * self._size : (at + 1) * self._size]))

    def _wrote(self, at: int, value: Any) -> bool:
        """Whether the item was put into a slot through the interpreter's view: a number of just that type."""
        if self._typed is None or type(value) is not self._plain:
            return False
        try:
            self._typed[at] = value
        except (TypeError, ValueError):  # packing says so
            return False
        return True

    def _move(self, to: int, start: int, n: int) -> None:
        """As ``ring_move`` in C: slots are counted from the start of the memory."""
        size, capacity, raw = self._size, self._capacity, self._raw
        if n <= 0 or to == start:
            return
        if to + n <= capacity and start + n <= capacity:
            raw[to * size : (to + n) * size] = bytes(raw[start * size : (start + n) * size])
            return
        backward = (to - start) % capacity < n
        for k in range(n - 1, -1, -1) if backward else range(n):
            at, source = (to + k) % capacity * size, (start + k) % capacity * size
            raw[at : at + size] = raw[source : source + size]

    def _put(self, i: int, packed: Any, n: int) -> None:
        at, size = (self._head + i) % self._capacity, self._size
        first = min(self._capacity - at, n)
        self._raw[at * size : (at + first) * size] = packed[: first * size]
        if n > first:
            self._raw[: (n - first) * size] = packed[first * size : n * size]

    def _splice(self, start: int, stop: int, packed: Any, n: int) -> None:
        """Puts n packed items in place of those from start to stop; they fit."""
        more, tail, capacity = n - (stop - start), self._used - stop, self._capacity
        if more:
            if self._linear or start >= tail:
                self._move((self._head + start + n) % capacity, (self._head + stop) % capacity, tail)
            else:
                head = (self._head - more) % capacity
                self._move(head, self._head, start)
                self._head = head
            self._used += more
            self._version += 1
        if n:
            self._put(start, packed, n)

    def _staged(self, values: Iterable[Any], fewer: int) -> tuple[bytes, int]:
        """All of ``values``, packed, unless that is more than fits in place of ``fewer``."""
        if isinstance(values, (list, tuple)):
            self._refuse_full(len(values) - fewer)
        if values is self:
            values = self[:]
        packed = []
        for value in values:
            packed.append(self._pack(value))
            self._opened()
            self._refuse_full(len(packed) - fewer)
        return b"".join(packed), len(packed)

    def _index(self, index: Any, what: str) -> int:
        try:
            i = operator.index(index)
        except TypeError:
            raise TypeError(
                f"{type(self).__name__} indices must be integers or slices, not {type(index).__name__}"
            ) from None
        self._opened()
        n = self._used
        if not -n <= i < n:
            raise IndexError(f"{type(self).__name__} {what} out of range")
        return i % n

    def __getitem__(self, index: Any) -> Any:
        self._opened()
        if isinstance(index, slice):
            where = range(*index.indices(self._used))
            self._opened()
            if self._typed is not None and self._head == 0 and where.step > 0:
                return self._typed[where.start : where.stop : where.step].tolist()
            return [self._read(i) for i in where]
        return self._read(self._index(index, "index"))

    def __setitem__(self, index: Any, value: Any) -> None:
        self._opened()
        if isinstance(index, slice):
            self._set_range(index, value)
            return
        i = self._index(index, "assignment index")
        if self._wrote((self._head + i) % self._capacity, value):
            return
        packed = self._pack(value)
        self._put(self._index(index, "assignment index"), packed, 1)

    def _set_range(self, index: slice, values: Any) -> None:
        where = range(*index.indices(self._used))
        packed, n = self._staged(values, len(where) if where.step == 1 else self._used)
        where = range(*index.indices(self._used))
        self._opened()
        if where.step == 1:
            self._refuse_full(n - len(where))
            self._splice(where.start, max(where.start, where.stop), packed, n)
            return
        if n != len(where):
            raise ValueError(f"attempt to assign sequence of size {n} to extended slice of size {len(where)}")
        for k, i in enumerate(where):
            self._put(i, packed[k * self._size : (k + 1) * self._size], 1)

    def __delitem__(self, index: Any) -> None:
        self._opened()
        if not isinstance(index, slice):
            i = self._index(index, "assignment index")
            self._splice(i, i + 1, b"", 0)
            return
        where = range(*index.indices(self._used))
        self._opened()
        if where.step in (1, -1):
            if where:
                self._splice(min(where), max(where) + 1, b"", 0)
            return
        for i in sorted(where, reverse=True):
            self._splice(i, i + 1, b"", 0)

    def append(self, value: Any, /) -> None:
        """Adds ``value`` behind the last item."""
        self._opened()
        n = self._used
        if n < self._capacity and self._wrote((self._head + n) % self._capacity, value):
            self._used = n + 1
            self._version += 1
        else:
            self.insert(sys.maxsize, value)

    def insert(self, index: Any, value: Any, /) -> None:
        """Adds ``value`` before the item at ``index``."""
        self._opened()
        at = operator.index(index)
        packed = self._pack(value)
        self._opened()
        self._refuse_full(1)
        at = min(max(at + self._used if at < 0 else at, 0), self._used)
        self._splice(at, at, packed, 1)

    def extend(self, values: Iterable[Any], /) -> None:
        """Adds all of ``values`` behind the last item, or none."""
        self._opened()
        packed, n = self._staged(values, 0)
        self._opened()
        self._refuse_full(n)
        self._splice(self._used, self._used, packed, n)

    def __iadd__(self, values: Iterable[Any]) -> Any:
        self.extend(values)
        return self

    def _take_out(self, index: Any) -> Any:
        self._opened()
        if not self._used:
            raise IndexError(f"pop from an empty {type(self).__name__}")
        i = self._index(index, "pop index")
        value = self._read(i)
        self._splice(i, i + 1, b"", 0)
        return value

    def pop(self, index: Any = -1, /) -> Any:
        """Takes the item at ``index`` out, the last unless told otherwise."""
        return self._take_out(index)

    def _peek(self, i: int) -> Any:
        self._opened()
        if not self._used:
            raise IndexError(f"peek at an empty {type(self).__name__}")
        return self._read(i % self._used)

    def clear(self) -> None:
        """Removes all items."""
        self._opened()
        self._head = self._used = 0
        self._version += 1

    def reverse(self) -> None:
        """Turns the order round, in place."""
        self._opened()
        size = self._size
        for i in range(self._used // 2):
            a, b = ((self._head + k) % self._capacity * size for k in (i, self._used - 1 - i))
            kept = bytes(self._raw[a : a + size])
            self._raw[a : a + size] = self._raw[b : b + size]
            self._raw[b : b + size] = kept
        self._version += 1

    def _find(self, value: Any, i: int, stop: int) -> int:
        while i < min(stop, self._used):
            same = self._read(i) == value
            self._opened()
            if same:
                return i
            i += 1
        return -1

    def __contains__(self, value: Any) -> bool:
        self._opened()
        return self._find(value, 0, self._used) >= 0

    def index(self, value: Any, start: Any = 0, stop: Any = sys.maxsize, /) -> int:
        """Index of the first item equal to ``value``, from ``start`` to before ``stop``."""
        self._opened()
        try:
            start, stop = operator.index(start), operator.index(stop)
        except TypeError:
            raise TypeError("slice indices must be integers or have an __index__ method") from None
        self._opened()
        first, last = (max(each + self._used, 0) if each < 0 else each for each in (start, stop))
        i = self._find(value, first, last)
        if i < 0:
            raise ValueError(f"{value!r} is not in the {type(self).__name__}")
        return i

    def count(self, value: Any, /) -> int:
        """How many items are equal to ``value``."""
        self._opened()
        n, i = 0, self._find(value, 0, sys.maxsize)
        while i >= 0:
            n, i = n + 1, self._find(value, i + 1, sys.maxsize)
        return n

    def remove(self, value: Any, /) -> None:
        """Removes the first item equal to ``value``."""
        self._opened()
        version = self._version
        i = self._find(value, 0, self._used)
        if i < 0:
            raise ValueError(f"{value!r} is not in the {type(self).__name__}")
        if version != self._version:
            raise RuntimeError(f"{type(self).__name__} mutated during remove()")
        self._splice(i, i + 1, b"", 0)

    def __iter__(self) -> Iterator[Any]:
        self._opened()
        return self._iterate(0, 1, self._version)

    def __reversed__(self) -> Iterator[Any]:
        self._opened()
        return self._iterate(self._used - 1, -1, self._version)

    def _iterate(self, i: int, step: int, version: int) -> Iterator[Any]:
        while True:
            self._opened()
            if self._strict and self._version != version:
                raise RuntimeError(f"{type(self).__name__} mutated during iteration")
            if not 0 <= i < self._used:
                return
            yield self._read(i)
            i += step


class RingStack(Ring):
    """A ring that is used from one end."""

    __slots__ = ()

    def push(self, value: Any, /) -> None:
        """Adds ``value`` behind the last item."""
        self.append(value)

    def peek(self) -> Any:
        """The newest item, which stays."""
        return self._peek(-1)


class RingDeque(Ring):
    """A ring that is used from both ends."""

    __slots__ = ()

    def appendleft(self, value: Any, /) -> None:
        """Adds ``value`` before the first item."""
        self.insert(0, value)

    def extendleft(self, values: Iterable[Any], /) -> None:
        """Adds ``values`` one after the other before the first item, or none."""
        self._opened()
        packed, n = self._staged(values, 0)
        self._opened()
        self._refuse_full(n)
        for k in range(n):
            self._splice(0, 0, packed[k * self._size : (k + 1) * self._size], 1)

    def popleft(self) -> Any:
        """Takes the first item out."""
        return self._take_out(0)

    def peek(self) -> Any:
        """The last item, which stays."""
        return self._peek(-1)

    def peekleft(self) -> Any:
        """The first item, which stays."""
        return self._peek(0)

    def rotate(self, n: Any = 1, /) -> None:
        """Moves the last n items to the front."""
        n = operator.index(n)
        if not -sys.maxsize - 1 <= n <= sys.maxsize:
            raise OverflowError("cannot fit 'int' into an index-sized integer")
        self._opened()
        if self._used < 2:
            return
        n %= self._used
        size, raw = self._size, self._raw
        items = b"".join(
            raw[at * size : (at + 1) * size]
            for at in ((self._head + i) % self._capacity for i in range(self._used))
        )
        cut = (self._used - n) * size
        self._put(0, items[cut:] + items[:cut], self._used)
        self._version += 1


class RingQueue(Ring):
    """A ring that items enter at one end and leave at the other."""

    __slots__ = ()

    def push(self, value: Any, /) -> None:
        """Adds ``value`` behind the last item."""
        self.append(value)

    def pop(self, index: Any = 0, /) -> Any:
        """Takes the item at ``index`` out, the oldest unless told otherwise."""
        return self._take_out(index)

    def peek(self) -> Any:
        """The oldest item, which stays."""
        return self._peek(0)
