"""BoundedMap and BoundedSet: hash tables of packed keys.

What they do to keys comes from the backend's tables; what is here makes, merges, compares and shows them.
"""

from __future__ import annotations

from collections.abc import (
    ItemsView,
    Iterable,
    Iterator,
    KeysView,
    Mapping,
    MutableMapping,
    MutableSet,
    Set,
    ValuesView,
)
from typing import TYPE_CHECKING, Any, TypeVar

from ...errors import InvalidLayout
from ...refusals import name_of
from .base import Bounded
from .records import Record
from .storage import Storage, capacity_of

if TYPE_CHECKING:
    from ...allocators.base import Allocator

__all__ = ["BoundedMap", "BoundedSet"]

T = TypeVar("T", bound="_Hashed")

_KEYS, _VALUES, _ITEMS = range(3)
#: entries have numbers of 32 bits
_MOST = (1 << 32) - 2


class _Hashed(Bounded):
    """What map and set share: the table's layout, and how a key is looked up that is no plain one."""

    __slots__ = ()
    _record: Record
    __hash__ = None  # type: ignore[assignment]

    def _begin(self, capacity: Any, key: Record, value: Record | None, upstream: Any) -> None:
        name = name_of(self)
        capacity = capacity_of(capacity, name, _MOST)
        slots = 1 << (capacity + capacity // 4).bit_length()  # from 1.25 times the capacity to 2.5 times
        stride = 8 + key.size + (value.size if value else 0)
        stride += -stride % 8
        storage = Storage(self._binding, upstream, 8 * slots + capacity * stride, name)
        self._attach(storage.memory, capacity, slots, stride, key, value)
        self._storage, self._record = storage, key  # type: ignore[misc]  # slots of the bound class

    if TYPE_CHECKING:  # the backend's

        def _attach(
            self, memory: Any, capacity: int, slots: int, stride: int, key: Record, value: Record | None
        ) -> None: ...
        def _merge(self, things: dict[Any, Any]) -> None: ...
        def _iter(self, what: int, back: bool) -> Iterator[Any]: ...
        def __contains__(self, key: object) -> bool: ...
        def __iter__(self) -> Iterator[Any]: ...
        def __len__(self) -> int: ...
        def clear(self) -> None: ...

    def _sought(self, key: Any) -> bytes | None:
        """The bytes of a key that is looked up; None where no key can be equal to it."""
        try:
            return self._record.pack_key(key)
        except InvalidLayout:
            return None


class _Keys(KeysView[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(self._mapping)  # type: ignore[attr-defined]  # at once: it refuses to go on from now on, not from the first item on

    def __reversed__(self) -> Iterator[Any]:
        return reversed(self._mapping)  # type: ignore[attr-defined]


class _Items(ItemsView[Any, Any]):
    def __iter__(self) -> Iterator[Any]:
        return self._mapping._iter(_ITEMS, False)  # type: ignore[attr-defined]

    def __reversed__(self) -> Iterator[Any]:
        return self._mapping._iter(_ITEMS, True)  # type: ignore[attr-defined]


class _Values(ValuesView[Any]):
    def __iter__(self) -> Iterator[Any]:
        return self._mapping._iter(_VALUES, False)  # type: ignore[attr-defined]

    def __reversed__(self) -> Iterator[Any]:
        return self._mapping._iter(_VALUES, True)  # type: ignore[attr-defined]

    def __contains__(self, value: object) -> bool:
        return any(value is each or value == each for each in self)


class BoundedMap(_Hashed, MutableMapping[Any, Any]):
    """A map of at most ``capacity`` keys, keys and values packed by :mod:`struct` formats, in the order of
    insertion.

    Parameters: ``capacity``, keys; ``key_format`` and ``value_format``, struct formats, of which one with several
    fields stands for tuples; ``items``, a mapping or pairs; ``upstream``, where its memory comes from, at once and
    for good: an allocator, a :class:`Budget`, an empty provider, or None for the system.

    It does what a dict does, and compares with mappings. Lookup, insertion and removal take constant time. A key
    has to come back as it was: a NaN, or 0.1 for ``"f"``, is none; shorter bytes in an ``s`` field come back with
    zeros behind them, in a ``p`` field as they were. What the format cannot hold is never in the map. Raises
    :class:`CapacityExceeded` for a new key where it is full, :class:`InvalidLayout` for what does not fit a format,
    both with nothing changed: ``update`` puts in all or nothing.

    >>> from nativemem.manager.collections import BoundedMap
    >>> ports = BoundedMap(2, "12p", "H", {b"http": 80, b"https": 443})
    >>> ports[b"http"] = 8080
    >>> list(ports.items()), ports.get(b"ssh")
    ([(b'http', 8080), (b'https', 443)], None)
    >>> ports.popitem(), ports.setdefault(b"ssh", 22), ports.key_format, ports.value_format
    ((b'https', 443), 22, '12p', 'H')
    """

    __slots__ = ()
    _fields = (*Bounded._fields, "_value_record")
    _value_record: Record

    if TYPE_CHECKING:  # the backend's

        def __getitem__(self, key: Any) -> Any: ...
        def __setitem__(self, key: Any, value: Any) -> None: ...
        def __delitem__(self, key: Any) -> None: ...

    def __init__(
        self,
        capacity: int,
        key_format: str,
        value_format: str,
        items: Mapping[Any, Any] | Iterable[tuple[Any, Any]] = (),
        *,
        upstream: Allocator | None = None,
    ) -> None:
        name = name_of(self)
        value = Record(value_format, f"{name} value")
        self._begin(capacity, Record(key_format, f"{name} key", key=True), value, upstream)
        self._value_record = value
        with self._made():
            self.update(items)

    @property
    def key_format(self) -> str:
        """The struct format of its keys."""
        return str(self._record.format)

    @property
    def value_format(self) -> str:
        """The struct format of its values."""
        return str(self._value_record.format)

    def update(self, other: Any = (), /, **items: Any) -> None:
        """Puts in all items of ``other``, a mapping or pairs, or none: also where it does not have room for all, or
        one does not fit a format, or reading them fails."""
        self._open_or_refuse()
        self._merge(dict(other, **items))

    def __ior__(self: T, other: Any) -> T:
        self.update(other)  # type: ignore[attr-defined]
        return self

    def keys(self) -> KeysView[Any]:
        """Its keys, as a set."""
        return _Keys(self)

    def values(self) -> ValuesView[Any]:
        """Its values."""
        return _Values(self)

    def items(self) -> ItemsView[Any, Any]:
        """Its keys and values, in pairs."""
        return _Items(self)

    def copy(self) -> BoundedMap:
        """Another one with the same capacity, formats, items and upstream, which is charged for it too."""
        self._open_or_refuse()
        return type(self)(self.capacity, self.key_format, self.value_format, self, upstream=self.upstream)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mapping):
            return NotImplemented
        return dict(self.items()) == (other if isinstance(other, dict) else dict(other.items()))

    def __repr__(self) -> str:
        if self.closed:
            return f"<{name_of(self)} closed>"
        formats = f"{self.capacity}, {self.key_format!r}, {self.value_format!r}"
        return f"{name_of(self)}({formats}, {dict(self.items())!r})"


class BoundedSet(_Hashed, MutableSet[Any]):
    """A set of at most ``capacity`` values, packed by a :mod:`struct` format, in the order of insertion.

    Parameters as of :class:`BoundedList`; what can be a value is what can be a key of a :class:`BoundedMap`. It
    does what a set does in place, and compares with sets; ``|``, ``&``, ``-`` and ``^`` give plain sets. ``update``
    and ``|=`` put in all or nothing.

    >>> from nativemem.manager.collections import BoundedSet
    >>> seen = BoundedSet(3, "I", [1, 2])
    >>> seen.add(2); seen |= {3}
    >>> seen & {2, 3, 4} == {2, 3}, len(seen)
    (True, 3)
    >>> seen.remove(1); seen.discard(7); sorted(seen)
    [2, 3]
    """

    __slots__ = ()

    def __init__(
        self, capacity: int, item_format: str, items: Iterable[Any] = (), *, upstream: Allocator | None = None
    ) -> None:
        self._begin(capacity, Record(item_format, name_of(self), key=True), None, upstream)
        with self._made():
            self.update(items)

    @property
    def item_format(self) -> str:
        """The struct format of its values."""
        return str(self._record.format)

    def update(self, *others: Iterable[Any]) -> None:
        """Adds all values of all iterables (``others``), or none."""
        self._open_or_refuse()
        self._merge({value: None for each in others for value in each})

    @classmethod
    def _from_iterable(cls, it: Iterable[Any]) -> Any:
        return set(it)

    def __ior__(self: T, other: Any) -> T:
        if not isinstance(other, Set):
            return NotImplemented
        self.update(other)  # type: ignore[attr-defined]
        return self

    def __ixor__(self, other: Any) -> Any:
        if not isinstance(other, Iterable):
            return NotImplemented
        self._open_or_refuse()
        others = _plain_set(other)
        gone = [value for value in self if value in others]
        new = [value for value in others if value not in self]
        more = len({self._record.pack_key(value) for value in new}) - len(gone)  # equal ones are packed the same
        if more > self.capacity - len(self):
            self._refuse("full", more)
        for value in gone:
            self.discard(value)
        self.update(new)
        return self

    def __and__(self, other: Any) -> Any:
        return set(self) & _plain_set(other) if isinstance(other, Iterable) else NotImplemented

    def __or__(self, other: Any) -> Any:
        return set(self) | _plain_set(other) if isinstance(other, Iterable) else NotImplemented

    def __sub__(self, other: Any) -> Any:
        return set(self) - _plain_set(other) if isinstance(other, Iterable) else NotImplemented

    def __xor__(self, other: Any) -> Any:
        return set(self) ^ _plain_set(other) if isinstance(other, Iterable) else NotImplemented

    def copy(self) -> BoundedSet:
        """Another one with the same capacity, format, values and upstream, which is charged for it too."""
        self._open_or_refuse()
        return type(self)(self.capacity, self.item_format, self, upstream=self.upstream)

    def __repr__(self) -> str:
        if self.closed:
            return f"<{name_of(self)} closed>"
        return f"{name_of(self)}({self.capacity}, {self.item_format!r}, {list(self)!r})"


def _plain_set(values: Iterable[Any]) -> Any:
    return values if isinstance(values, (set, frozenset)) else set(values)
