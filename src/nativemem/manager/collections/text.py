"""BoundedString: text in UTF-8, of at most so many bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableSequence
from typing import TYPE_CHECKING, Any, TypeVar

from ...errors import InvalidLayout, shown
from ...refusals import name_of
from ...sizes import parse_size
from .base import Bounded
from .storage import Storage

if TYPE_CHECKING:
    from ...allocators.base import Allocator

__all__ = ["BoundedString"]

T = TypeVar("T", bound="BoundedString")


class BoundedString(Bounded, MutableSequence[str]):
    """Text of at most ``capacity`` bytes of UTF-8.

    Parameters: ``capacity``, bytes or a size such as ``"4 KiB"``; ``text``, what is in it at first; ``upstream``,
    where its memory comes from, at once and for good: an allocator, a :class:`Budget`, an empty provider, or None
    for the system.

    A sequence of characters: ``len`` counts those, ``size`` the bytes; ``str()`` of it is the text. It compares
    with strings, has no hash since it can change, and its methods take time in the length of the text, but for
    ``append`` and ``len``. Raises :class:`CapacityExceeded` where it would have more bytes, :class:`InvalidLayout`
    for half a surrogate pair, which UTF-8 cannot hold, and :class:`TypeError` for what is no text, all with nothing
    changed.

    >>> from nativemem.manager.collections import BoundedString
    >>> line = BoundedString(8, "caf\u00e9")
    >>> len(line), line.size
    (4, 5)
    >>> line += " x"
    >>> line[:4] = "tea"; str(line), "ea" in line
    ('tea x', True)
    """

    __slots__ = ()
    _fields = (*Bounded._fields, "_capacity", "_size", "_length", "_raw")
    _unit = "bytes"
    __hash__ = None  # type: ignore[assignment]
    _capacity: int
    _size: int
    _length: int
    _raw: memoryview | None

    def __init__(self, capacity: int | str, text: Any = "", *, upstream: Allocator | None = None) -> None:
        name = name_of(self)
        if getattr(self, "_capacity", 0):
            raise RuntimeError(f"{name}: was initialised before")
        capacity = parse_size(capacity, f"{name}: capacity", least=1)
        storage = Storage(self._binding, upstream, capacity, name)
        # slots of the bound class
        self._storage, self._capacity = storage, capacity
        self._size, self._length, self._raw = 0, 0, memoryview(storage.memory)
        with self._made():
            self.append(text)

    @classmethod
    def from_str_truncate(cls: type[T], text: Any, capacity: int | str, *, upstream: Allocator | None = None) -> T:
        """As much of ``text`` as fits, cut between two characters. Parameters and errors as of the class.

        >>> from nativemem.manager.collections import BoundedString
        >>> str(BoundedString.from_str_truncate("na\u00efve", 3))
        'na'
        """
        limit = parse_size(capacity, f"{cls.__name__}: capacity", least=1)
        if isinstance(text, BoundedString):
            text = str(text)
        if not isinstance(text, str):
            raise TypeError(f"{cls.__name__}: takes text, not {type(text).__name__}")
        head = text[:limit]  # a character has at least a byte
        cut = _encoded(head, cls.__name__)[:limit].decode("utf-8", "ignore")
        return cls(capacity, cut, upstream=upstream)

    @property
    def closed(self) -> bool:  # type: ignore[override]
        """Whether it was closed."""
        return getattr(self, "_raw", None) is None

    @property
    def capacity(self) -> int:  # type: ignore[override]
        """Most bytes of text that it holds."""
        return getattr(self, "_capacity", 0)

    @property
    def size(self) -> int:
        """Bytes of text that are in it."""
        self._open_or_refuse()
        return self._size

    def _in_use(self) -> int:
        return self._size

    def _opened(self) -> memoryview:
        raw = getattr(self, "_raw", None)
        if raw is None:
            self._refuse("closed", 0)
        return raw

    def _detach(self) -> None:
        raw, self._raw = self._raw, None
        if raw is not None:
            raw.release()

    def _resume(self, memory: Any) -> None:
        self._raw = memoryview(memory)

    def _text_of(self, value: Any) -> str:
        if isinstance(value, BoundedString):
            return str(value)
        if not isinstance(value, str):
            raise TypeError(f"{name_of(self)}: takes text, not {type(value).__name__}")
        return value

    def _put(self, text: str) -> None:
        """Puts a text in place of what there is."""
        packed = _encoded(text, name_of(self))
        raw = self._opened()
        if len(packed) > self._capacity:
            self._refuse("full", len(packed) - self._size)
        raw[: len(packed)] = packed
        self._size, self._length = len(packed), len(text)

    def __str__(self) -> str:
        return str(self._opened()[: self._size], "utf-8")

    def __bytes__(self) -> bytes:
        return str(self).encode()

    def __len__(self) -> int:
        self._open_or_refuse()
        return self._length

    def __getitem__(self, index: Any) -> str:  # type: ignore[override]
        return str(self)[index]

    def __iter__(self) -> Iterator[str]:
        return iter(str(self))

    def __contains__(self, text: Any) -> bool:
        return self._text_of(text) in str(self)

    def __setitem__(self, index: Any, value: Any) -> None:
        """Puts text in place of a character or of a slice; it may have another length, but for a slice with
        steps."""
        whole = list(str(self))
        if isinstance(index, slice):
            whole[index] = list(value if isinstance(value, str) else "".join(map(self._text_of, value)))
        else:
            whole[index] = self._text_of(value)
        self._put("".join(whole))

    def __delitem__(self, index: Any) -> None:
        whole = list(str(self))
        del whole[index]
        self._put("".join(whole))

    def index(self, value: Any, start: int = 0, stop: int | None = None) -> int:
        """Where ``value``, a character, is first found, from ``start`` on and before ``stop``. Raises
        :class:`ValueError` where it is not."""
        try:
            return super().index(value, start, stop)  # type: ignore[arg-type]
        except ValueError:
            raise ValueError(f"{shown(value)} is not in the {name_of(self)}") from None

    def insert(self, index: int, value: Any) -> None:
        """Puts the text ``value`` in before the character at ``index``. Raises as :meth:`append`."""
        whole = list(str(self))
        whole.insert(index, self._text_of(value))
        self._put("".join(whole))

    def append(self, value: Any) -> None:
        """Adds ``value``, a text, at the end."""
        text = self._text_of(value)
        packed = _encoded(text, name_of(self))
        raw = self._opened()
        size = self._size + len(packed)
        if size > self._capacity:
            self._refuse("full", len(packed))
        raw[self._size : size] = packed
        self._size, self._length = size, self._length + len(text)

    def extend(self, values: Iterable[Any]) -> None:
        """Adds ``values``, a text, or all texts of an iterable, or nothing."""
        if isinstance(values, (str, BoundedString)):
            self.append(values)
            return
        self._open_or_refuse()
        texts, size = [], 0
        for value in values:
            texts.append(self._text_of(value))
            size += len(texts[-1])
            if size > self._capacity - self._size:  # it may have no end
                self._refuse("full", size)
        self.append("".join(texts))

    def __iadd__(self: T, values: Any) -> T:
        self.extend(values)
        return self

    def clear(self) -> None:
        """Removes all text."""
        self._put("")

    def copy(self: T) -> T:
        """Another one with the same capacity, text and upstream, which is charged for it too."""
        return type(self)(self.capacity, str(self), upstream=self.upstream)

    def __eq__(self, other: object) -> bool:
        return str(self) == str(other) if isinstance(other, (str, BoundedString)) else NotImplemented

    def __lt__(self, other: Any) -> bool:
        return str(self) < str(other) if isinstance(other, (str, BoundedString)) else NotImplemented

    def __le__(self, other: Any) -> bool:
        return str(self) <= str(other) if isinstance(other, (str, BoundedString)) else NotImplemented

    def __gt__(self, other: Any) -> bool:
        return str(self) > str(other) if isinstance(other, (str, BoundedString)) else NotImplemented

    def __ge__(self, other: Any) -> bool:
        return str(self) >= str(other) if isinstance(other, (str, BoundedString)) else NotImplemented

    def __repr__(self) -> str:
        if self.closed:
            return f"<{name_of(self)} closed>"
        return f"{name_of(self)}({self.capacity}, {str(self)!r})"


def _encoded(text: str, label: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        half = text[error.start : error.start + 1]
        raise InvalidLayout(f"{label}: UTF-8 cannot hold {shown(half)}, half of a surrogate pair") from None
