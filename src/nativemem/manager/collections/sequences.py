"""BoundedList, BoundedStack, BoundedQueue, BoundedDeque: sequences of packed items.

What they do to items comes from the backend's rings; what is here makes, compares and shows them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, MutableSequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from ...refusals import name_of
from .base import Bounded
from .records import Record
from .storage import Storage, capacity_of

if TYPE_CHECKING:
    from ...allocators.base import Allocator

__all__ = ["BoundedDeque", "BoundedList", "BoundedQueue", "BoundedStack"]

S = TypeVar("S", bound="_Sequence")


class _Sequence(Bounded, MutableSequence[Any]):
    """What the four share. ``copy.copy`` makes another one with the same capacity; pickling is refused."""

    __slots__ = ()
    #: the builtin that it also compares with
    _like: ClassVar[type] = list
    _is_linear: ClassVar[bool] = False
    _is_strict: ClassVar[bool] = True
    _record: Record
    __hash__ = None  # type: ignore[assignment]

    def __init__(
        self, capacity: int, item_format: str, items: Iterable[Any] = (), *, upstream: Allocator | None = None
    ) -> None:
        name = name_of(self)
        capacity = capacity_of(capacity, name)
        record = Record(item_format, name)
        storage = Storage(self._binding, upstream, capacity * record.size, name)
        self._attach(storage.memory, capacity, record, self._is_linear, self._is_strict)
        self._storage, self._record = storage, record
        with self._made():
            self.extend(items)

    if TYPE_CHECKING:  # the backend's

        def _attach(self, memory: Any, capacity: int, record: Record, linear: bool, strict: bool) -> None: ...
        def __getitem__(self, index: Any) -> Any: ...
        def __setitem__(self, index: Any, value: Any) -> None: ...
        def __delitem__(self, index: Any) -> None: ...
        def __len__(self) -> int: ...
        def insert(self, index: int, value: Any) -> None: ...

    @property
    def item_format(self) -> str:
        """The struct format of its items."""
        return str(self._record.format)

    def copy(self: S) -> S:
        """Another one with the same capacity, format, items and upstream, which is charged for it too."""
        self._open_or_refuse()
        return type(self)(self.capacity, self.item_format, self[:], upstream=self.upstream)

    def _items_of(self, other: Any) -> Any:
        """What to compare with, as a list; None: nothing that it compares with."""
        if isinstance(other, self._like):
            return list(other)  # type: ignore[call-overload]
        return other[:] if isinstance(other, _Sequence) and other._like is self._like else None

    def __eq__(self, other: object) -> bool:
        items = self._items_of(other)
        return NotImplemented if items is None else self[:] == items

    def __lt__(self, other: Any) -> bool:
        items = self._items_of(other)
        return NotImplemented if items is None else self[:] < items

    def __le__(self, other: Any) -> bool:
        items = self._items_of(other)
        return NotImplemented if items is None else self[:] <= items

    def __gt__(self, other: Any) -> bool:
        items = self._items_of(other)
        return NotImplemented if items is None else self[:] > items

    def __ge__(self, other: Any) -> bool:
        items = self._items_of(other)
        return NotImplemented if items is None else self[:] >= items

    def __repr__(self) -> str:
        if self.closed:
            return f"<{name_of(self)} closed>"
        return f"{name_of(self)}({self.capacity}, {self.item_format!r}, {self[:]!r})"


class _Contiguous(_Sequence):
    """One whose items lie one behind the other from the memory's start."""

    __slots__ = ()
    _is_linear = True
    _is_strict = False

    def view(self) -> memoryview:
        """The items that are in it now, without a copy: a writable memoryview of the item format where
        :meth:`memoryview.cast` takes that, of bytes otherwise. Changes of items show through it, later appends do
        not; while it is out ``close`` raises :class:`BufferError`.

        >>> from nativemem.manager.collections import BoundedList
        >>> with BoundedList(4, "d", [1.0, 2.0]) as samples, samples.view() as view:
        ...     view[0] = 5.0
        ...     samples[0], view.shape
        (5.0, (2,))
        """
        self._open_or_refuse()
        view = memoryview(self._storage.memory)[: len(self) * self._record.size]
        code: Any = self._record.code
        return self._storage.lend(view.cast(code) if code else view)


class BoundedList(_Contiguous):
    """A list of at most ``capacity`` items of a :mod:`struct` format, packed.

    Parameters: ``capacity``, items; ``item_format``, as ``"q"`` or ``"if16s"``, whose items are tuples; ``items``,
    what is in it at first; ``upstream``, where its memory comes from, at once and for good: an allocator, a
    :class:`Budget`, an empty provider, or None for the system.

    It does what a list does, but for ``+`` and ``*``, and compares with lists; slices of it are lists. Raises
    :class:`CapacityExceeded` where it would have more items, :class:`InvalidLayout` for what does not fit the
    format, both with nothing changed: ``extend`` and slice assignment put in all or nothing.

    >>> from nativemem import Budget
    >>> from nativemem.manager.collections import BoundedList
    >>> budget = Budget("1 KiB", "samples")
    >>> samples = BoundedList(100, "d", [3.0, 1.0], upstream=budget)
    >>> samples.append(2.0)
    >>> samples.sort()
    >>> samples[1:], budget.used
    ([2.0, 3.0], 800)
    >>> samples.insert(0, 9.0); samples.remove(1.0); samples.item_format, list(samples)
    ('d', [9.0, 2.0, 3.0])
    """

    __slots__ = ()

    def sort(self, *, key: Callable[[Any], Any] | None = None, reverse: bool = False) -> None:
        """Sorts in place by ``key``, or in ``reverse``, as :meth:`list.sort`; stable. Raises :class:`ValueError`
        where ``key`` has changed how many items there are."""
        items = self[:]
        n = len(items)
        items.sort(key=key, reverse=reverse)
        if len(self) != n:
            raise ValueError(f"{name_of(self)} modified during sort")
        self[:] = items


class BoundedStack(_Contiguous):
    """A stack of at most ``capacity`` items: ``push``, ``pop`` and ``peek`` at the newest. Parameters as of
    :class:`BoundedList`; a sequence like that, oldest first.

    >>> from nativemem.manager.collections import BoundedStack
    >>> stack = BoundedStack(2, "i")
    >>> stack.push(1); stack.push(2)
    >>> stack.peek(), stack.pop(), list(stack)
    (2, 2, [1])
    """

    __slots__ = ()


class BoundedDeque(_Sequence):
    """A deque of at most ``capacity`` items: ``append`` and ``pop`` at both ends in constant time, ``rotate``.
    Parameters as of :class:`BoundedList`. Unlike a deque with a ``maxlen`` it drops nothing when it is full, but
    refuses; it also has slices, ``peek`` and ``peekleft``. Compares with deques.

    >>> from nativemem.manager.collections import BoundedDeque
    >>> last = BoundedDeque(3, "i", [1, 2])
    >>> last.appendleft(0); last.rotate(1)
    >>> list(last), last.peekleft()
    ([2, 0, 1], 2)
    >>> last.popleft(); last.clear(); last.extendleft([7, 8]); list(last)
    2
    [8, 7]
    """

    __slots__ = ()
    _like = deque


class BoundedQueue(_Sequence):
    """A queue of at most ``capacity`` items: ``push`` behind the newest, ``pop`` and ``peek`` at the oldest, in
    constant time. Parameters as of :class:`BoundedList`; a sequence, oldest first, that compares with deques.

    >>> from nativemem.manager.collections import BoundedQueue
    >>> jobs = BoundedQueue(2, "I12p")
    >>> jobs.push((1, b"resize")); jobs.push((2, b"upload"))
    >>> jobs.pop(), len(jobs)
    ((1, b'resize'), 1)
    """

    __slots__ = ()
    _like = deque
