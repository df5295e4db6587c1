"""Bounded hash tables of packed keys; see ``csrc/binding/table.c``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .base import Packed

__all__ = ["TableMap", "TableSet"]

_NONE = 0xFFFFFFFF
_KEYS, _VALUES, _ITEMS = range(3)


class _Table(Packed):
    """A bounded hash table of packed keys, with a packed value each or none.

    The memory holds the index, two links an entry, and the entries' keys and values: see ``csrc/binding/table.c``.
    """

    __slots__ = ("_bytes", "_free", "_fresh", "_index", "_key", "_links", "_mask", "_newest", "_oldest", "_value")

    def _attach(self, buffer: Any, capacity: int, slots: int, stride: int, key: Any, value: Any) -> None:
        self._take(buffer, capacity)
        self._key, self._value, self._mask = key, value, slots - 1
        self._bytes = key.size + (value.size if value is not None else 0)
        self._divide()
        self._empty()

    def _divide(self) -> None:
        index, links = 8 * (self._mask + 1), 8 * self._capacity
        self._index = self._raw[:index].cast("Q")  # of an entry the number plus 1, and above it 32 bits of the hash
        self._links = self._raw[index : index + links].cast("I")  # of entry e: 2e the older, 2e + 1 the newer
        whole, self._raw = self._raw, self._raw[index + links :]
        whole.release()

    def _detach(self) -> None:
        if self._raw is not None:
            self._index.release()
            self._links.release()
        super()._detach()

    def _resume(self, buffer: Any) -> None:
        if self._raw is None and self._capacity:
            super()._resume(buffer)
            self._divide()

    def _empty(self) -> None:
        self._index[:] = memoryview(bytes(8 * len(self._index))).cast("Q")
        self._oldest = self._newest = self._free = _NONE
        self._fresh = self._used = 0
        self._version += 1

    def _key_of(self, e: int) -> bytes:
        at = e * self._bytes
        return bytes(self._raw[at : at + self._key.size])

    def _slot(self, packed: bytes) -> int:
        """The slot of a key, or the empty one where it would go."""
        index, mask = self._index, self._mask
        hashed = hash(packed) & _NONE
        i = hashed & mask
        while found := index[i]:
            if found >> 32 == hashed and self._key_of((found & _NONE) - 1) == packed:
                break
            i = (i + 1) & mask
        return i

    def _at(self, i: int) -> int:
        """The entry of a slot that has one."""
        return (self._index[i] & _NONE) - 1

    def _insert(self, i: int, packed: bytes) -> int:
        links, e = self._links, self._free
        if e != _NONE:
            self._free = links[2 * e + 1]
        else:
            e, self._fresh = self._fresh, self._fresh + 1
        at = e * self._bytes
        self._raw[at : at + len(packed)] = packed
        links[2 * e], links[2 * e + 1] = self._newest, _NONE
        if self._newest != _NONE:
            links[2 * self._newest + 1] = e
        else:
            self._oldest = e
        self._newest = e
        self._index[i] = (hash(packed) & _NONE) << 32 | e + 1
        self._used += 1
        self._version += 1
        return e

    def _remove(self, i: int) -> None:
        index, mask, links = self._index, self._mask, self._links
        e = self._at(i)
        j = (i + 1) & mask
        while index[j]:
            home = index[j] >> 32 & mask
            if (j - home) & mask >= (j - i) & mask:
                index[i] = index[j]
                i = j
            j = (j + 1) & mask
        index[i] = 0
        older, newer = links[2 * e], links[2 * e + 1]
        if older != _NONE:
            links[2 * older + 1] = newer
        else:
            self._oldest = newer
        if newer != _NONE:
            links[2 * newer] = older
        else:
            self._newest = older
        links[2 * e + 1] = self._free
        self._free = e
        self._used -= 1
        self._version += 1

    def _find(self, key: Any) -> int:
        """The slot of a key; -1: it is not there."""
        self._opened()
        packed = self._sought(key)
        self._opened()
        if packed is None:
            return -1
        i = self._slot(packed)
        return i if self._index[i] else -1

    def _refuse_full(self, n: int) -> None:
        if n > self._capacity - self._used:
            self._refuse("full", n)

    def _put(self, packed: bytes, value: bytes) -> None:
        i = self._slot(packed)
        if self._index[i]:
            e = self._at(i)
        else:
            self._refuse_full(1)
            e = self._insert(i, packed)
        at = e * self._bytes + self._key.size
        self._raw[at : at + len(value)] = value

    def _read(self, e: int, what: int) -> Any:
        at, middle = e * self._bytes, e * self._bytes + self._key.size
        if what == _KEYS:
            return self._key.unpack(self._raw, at)
        if what == _VALUES:
            return self._value.unpack(self._raw, middle)
        return self._key.unpack(self._raw, at), self._value.unpack(self._raw, middle)

    def _take_newest(self, what: int) -> Any:
        self._opened()
        if not self._used:
            raise KeyError(f"pop from an empty {type(self).__name__}")
        thing = self._read(self._newest, what)
        self._remove(self._slot(self._key_of(self._newest)))
        return thing

    def __contains__(self, key: Any) -> bool:
        return self._find(key) >= 0

    def clear(self) -> None:
        """Removes everything."""
        self._opened()
        self._empty()

    def _merge(self, things: dict[Any, Any]) -> None:
        """Puts all, or nothing."""
        self._opened()
        staged = {}
        for key, value in things.items():
            packed = self._key.spec[-2](key)
            staged[packed] = b"" if self._value is None else self._value.spec[-2](value)
        self._opened()
        self._refuse_full(sum(not self._index[self._slot(packed)] for packed in staged))
        for packed, value in staged.items():
            self._put(packed, value)

    def _iter(self, what: int, back: bool) -> Iterator[Any]:
        self._opened()
        return self._iterate(what, self._newest if back else self._oldest, 0 if back else 1, self._version)

    def _iterate(self, what: int, e: int, link: int, version: int) -> Iterator[Any]:
        while True:
            self._opened()
            if self._version != version:
                raise RuntimeError(f"{type(self).__name__} changed size during iteration")
            if e == _NONE:
                return
            thing, e = self._read(e, what), self._links[2 * e + link]
            yield thing

    def __iter__(self) -> Iterator[Any]:
        return self._iter(_KEYS, False)

    def __reversed__(self) -> Iterator[Any]:
        return self._iter(_KEYS, True)


_missing = object()


class TableMap(_Table):
    """A table with values."""

    __slots__ = ()

    def __getitem__(self, key: Any) -> Any:
        i = self._find(key)
        if i < 0:
            raise KeyError(key)
        return self._read(self._at(i), _VALUES)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._opened()
        packed, new = self._key.spec[-2](key), self._value.spec[-2](value)
        self._opened()
        self._put(packed, new)

    def __delitem__(self, key: Any) -> None:
        i = self._find(key)
        if i < 0:
            raise KeyError(key)
        self._remove(i)

    def get(self, key: Any, default: Any = None, /) -> Any:
        """The value of a key, or the default."""
        i = self._find(key)
        return default if i < 0 else self._read(self._at(i), _VALUES)

    def setdefault(self, key: Any, default: Any = None, /) -> Any:
        """The value of a key, which is the default if the key was not there."""
        if self._find(key) < 0:
            self[key] = default
        return self[key]

    def pop(self, key: Any, default: Any = _missing, /) -> Any:
        """Takes a key out and returns its value, or the default."""
        i = self._find(key)
        if i < 0:
            if default is _missing:
                raise KeyError(key)
            return default
        value = self._read(self._at(i), _VALUES)
        self._remove(i)
        return value

    def popitem(self) -> Any:
        """Takes the newest key and value out."""
        return self._take_newest(_ITEMS)


class TableSet(_Table):
    """A table of keys alone."""

    __slots__ = ()

    def add(self, value: Any, /) -> None:
        """Adds a value."""
        self._opened()
        packed = self._key.spec[-2](value)
        self._opened()
        self._put(packed, b"")

    def discard(self, value: Any, /) -> None:
        """Removes a value if it is there."""
        i = self._find(value)
        if i >= 0:
            self._remove(i)

    def remove(self, value: Any, /) -> None:
        """Removes a value."""
        i = self._find(value)
        if i < 0:
            raise KeyError(value)
        self._remove(i)

    def pop(self) -> Any:
        """Takes the newest value out."""
        return self._take_newest(_KEYS)
