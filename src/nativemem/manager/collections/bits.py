"""BoundedBitSet: a set of small integers, one bit each."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, MutableSet, Set
from typing import TYPE_CHECKING, Any

from ...refusals import name_of
from ...sizes import SIZE_MAX
from .base import Bounded
from .storage import Storage, capacity_of

if TYPE_CHECKING:
    from ...allocators.base import Allocator

__all__ = ["BoundedBitSet"]

_plain_set = set  # the class below has a method of that name


class BoundedBitSet(Bounded, MutableSet[int]):
    """A set of the integers from 0 to ``capacity`` - 1, one bit each.

    Parameters: ``capacity``, bits; ``bits``, those that are set at first; ``upstream``, where its memory comes
    from, at once and for good: an allocator, a :class:`Budget`, an empty provider, or None for the system.

    ``set``, ``clear`` and ``toggle`` take a bit, or start and stop, and return whether they have changed something.
    ``&``, ``|``, ``^`` and ``-`` of two with the same capacity, and ``~``, make another one, in memory of the same
    upstream; with other sets they give plain sets. ``&=`` and so on work in place, ``|=`` and ``^=`` on all or
    nothing. A bit that it does not have raises :class:`IndexError`, and is never in it.

    >>> from nativemem.manager.collections import BoundedBitSet
    >>> free = BoundedBitSet(100)
    >>> free.set(10, 20), free.set(10), free.clear(15)
    (True, False, True)
    >>> list(free.runs()), free.next_set(15), free.next_clear(16)
    ([(10, 15), (16, 20)], 16, 20)
    >>> free.toggle(15); free.remove(10); free.discard(10); free.invert(); len(free)
    True
    91
    """

    __slots__ = ()
    _unit = "bits"
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, capacity: int, bits: Iterable[int] = (), *, upstream: Allocator | None = None) -> None:
        name = name_of(self)
        capacity = capacity_of(capacity, name)
        storage = Storage(self._binding, upstream, -(-capacity // 64) * 8, name)
        self._attach(storage.memory, capacity)
        self._storage = storage  # a slot of the bound class
        with self._made():
            self.update(bits)

    if TYPE_CHECKING:  # the backend's

        def _attach(self, memory: Any, capacity: int) -> None: ...
        def set(self, start: int, stop: int = ..., /) -> bool: ...
        def clear(self, start: int = ..., stop: int = ..., /) -> bool: ...  # type: ignore[override]
        def toggle(self, start: int, stop: int = ..., /) -> bool: ...
        def next_set(self, start: int = 0, /) -> int | None: ...
        def next_clear(self, start: int = 0, /) -> int | None: ...
        def add(self, value: int) -> None: ...
        def discard(self, value: int) -> None: ...
        def __contains__(self, value: object) -> bool: ...
        def __iter__(self) -> Iterator[int]: ...
        def __len__(self) -> int: ...

    def _sought(self, bit: Any) -> int | None:
        """The bit that is equal to what is looked for; None: no int is."""
        hash(bit)
        try:
            number = int(bit)
        except (TypeError, ValueError, OverflowError):
            return None
        return number if number == bit and -1 <= number <= SIZE_MAX else None

    def _bits(self) -> int:
        self._open_or_refuse()
        return int.from_bytes(self._storage.memory, "little")

    def _put(self, bits: int) -> None:
        self._open_or_refuse()
        with memoryview(self._storage.memory) as raw:
            raw[:] = bits.to_bytes(len(raw), "little")

    def _staged(self, values: Any) -> int:
        """The bits of an iterable, as one number. Raises :class:`IndexError` where there is no such bit."""
        if isinstance(values, BoundedBitSet):
            bits = values._bits()
            if bits >> self.capacity:
                self._refuse_bit(bits.bit_length() - 1)
            return bits
        packed = bytearray(-(-self.capacity // 64) * 8)
        for value in values:
            try:
                i = operator.index(value)
            except TypeError:
                raise TypeError(f"{name_of(self)} takes ints, not {type(value).__name__}") from None
            if not 0 <= i < self.capacity:
                self._refuse_bit(i)
            packed[i >> 3] |= 1 << (i & 7)
        return int.from_bytes(packed, "little")

    def _refuse_bit(self, i: int) -> None:
        raise IndexError(f"{name_of(self)}: there is no bit {i} of {self.capacity}")

    def update(self, *others: Iterable[int]) -> None:
        """Sets the bits of all iterables (``others``), or none."""
        self._open_or_refuse()
        bits = 0
        for each in others:
            bits |= self._staged(each)
        self._put(self._bits() | bits)

    def remove(self, value: int) -> None:
        """Clears the bit ``value``, a number from 0 on. Raises :class:`KeyError` where it is not set."""
        if value not in self:
            raise KeyError(value)
        self.discard(value)

    def pop(self) -> int:
        """Clears the first set bit and returns it. Raises :class:`KeyError` where none is set."""
        first = self.next_set()
        if first is None:
            raise KeyError(f"pop from an empty {name_of(self)}")
        self.discard(first)
        return first

    def runs(self) -> Iterator[tuple[int, int]]:
        """The runs of set bits, ascending, as start and stop. What changes in front of the iterator shows.

        >>> from nativemem.manager.collections import BoundedBitSet
        >>> list(BoundedBitSet(10, [1, 2, 3, 9]).runs())
        [(1, 4), (9, 10)]
        """
        self._open_or_refuse()
        return self._runs()

    def _runs(self) -> Iterator[tuple[int, int]]:
        start = self.next_set()
        while start is not None:
            stop = self.next_clear(start)
            if stop is None:
                stop = self.capacity
            yield start, stop
            start = self.next_set(stop)

    def invert(self) -> None:
        """Changes every bit, in place."""
        self._put(self._bits() ^ ((1 << self.capacity) - 1))

    def _other(self, bits: int) -> BoundedBitSet:
        made = type(self)(self.capacity, upstream=self.upstream)
        made._put(bits)
        return made

    def copy(self) -> BoundedBitSet:
        """Another one with the same capacity, bits and upstream, which is charged for it too."""
        return self._other(self._bits())

    def __invert__(self) -> BoundedBitSet:
        return self._other(self._bits() ^ ((1 << self.capacity) - 1))

    def _is_alike(self, other: Any) -> bool:
        return isinstance(other, BoundedBitSet) and other.capacity == self.capacity

    def __and__(self, other: Any) -> Any:
        if self._is_alike(other):
            return self._other(self._bits() & other._bits())
        return _plain_set(self) & _plain_set(other) if isinstance(other, Iterable) else NotImplemented

    def __or__(self, other: Any) -> Any:
        if self._is_alike(other):
            return self._other(self._bits() | other._bits())
        return _plain_set(self) | _plain_set(other) if isinstance(other, Iterable) else NotImplemented

    def __xor__(self, other: Any) -> Any:
        if self._is_alike(other):
            return self._other(self._bits() ^ other._bits())
        return _plain_set(self) ^ _plain_set(other) if isinstance(other, Iterable) else NotImplemented

    def __sub__(self, other: Any) -> Any:
        if self._is_alike(other):
            return self._other(self._bits() & ~other._bits())
        return _plain_set(self) - _plain_set(other) if isinstance(other, Iterable) else NotImplemented

    @classmethod
    def _from_iterable(cls, it: Iterable[Any]) -> Any:
        return _plain_set(it)

    def __ior__(self, other: Any) -> Any:
        if not isinstance(other, Set):
            return NotImplemented
        self.update(other)
        return self

    def __iand__(self, other: Any) -> Any:
        if not isinstance(other, Set):
            return NotImplemented
        bits = other._bits() if isinstance(other, BoundedBitSet) else self._staged(i for i in self if i in other)
        self._put(self._bits() & bits)
        return self

    def __ixor__(self, other: Any) -> Any:
        if not isinstance(other, Set):
            return NotImplemented
        self._put(self._bits() ^ self._staged(other))
        return self

    def __isub__(self, other: Any) -> Any:
        if not isinstance(other, Set):
            return NotImplemented
        bits = other._bits() if isinstance(other, BoundedBitSet) else self._staged(i for i in self if i in other)
        self._put(self._bits() & ~bits)
        return self

    def __eq__(self, other: object) -> bool:
        if isinstance(other, BoundedBitSet):
            return self._bits() == other._bits()
        return Set.__eq__(self, other)

    def __repr__(self) -> str:
        if self.closed:
            return f"<{name_of(self)} closed>"
        return f"{name_of(self)}({self.capacity}, {list(self)!r})"
