"""Typed views of blocks: arrays, single values, and an arena of one element type."""

from __future__ import annotations

import operator
import re
import struct
import sys
from bisect import bisect
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from ..errors import ALIGN_DEFAULT, ArenaExhausted, BudgetExceeded, InvalidLayout, OutOfMemory, shown
from ..refusals import coerce_layout, name_of
from ..sizes import parse_size

if TYPE_CHECKING:
    from typing_extensions import Self

    from .arena import Arena
    from .base import Allocator, Stats
    from .block import Block

__all__ = ["Array", "TypedArena", "Value", "typed"]


#: a struct format of one value; since 3.15 those of complex numbers have two letters
_ONE = re.compile(r"Z?[a-zA-Z?]")
#: what ctypes calls the simple types that hold a value; a complex number is a letter in 3.14 and two in 3.15
_CTYPES_VALUES = frozenset((*"cbBhHiIlLqQfdgu?vPFDG", "Zf", "Zd", "Zg"))


def _has_pointers(kind: Any) -> bool:
    """Whether reading a ctypes type follows an address or takes a reference."""
    import ctypes

    if issubclass(kind, ctypes.Array):
        return _has_pointers(kind._type_)
    if issubclass(kind, (ctypes.Structure, ctypes.Union)):
        fields = (field for cls in kind.__mro__ for field in vars(cls).get("_fields_", ()))
        return any(_has_pointers(field[1]) for field in fields)
    return getattr(kind, "_type_", None) not in _CTYPES_VALUES


def typed(kind: Any, label: str) -> tuple[int, int, int, Any]:
    """Item size, the alignment that an item needs, the one that suits it (bytes), and a function that makes a view
    of a block and a count."""
    if isinstance(kind, str) and _ONE.fullmatch(kind):
        try:
            itemsize = memoryview(bytes(16)).cast(kind).itemsize  # type: ignore[call-overload]
        except ValueError:
            itemsize = 0
        if itemsize:
            return itemsize, itemsize, 16, lambda block, n: memoryview(block).cast(kind)  # type: ignore[call-overload]
    if isinstance(kind, type):
        import ctypes

        try:
            itemsize, align = ctypes.sizeof(kind), ctypes.alignment(kind)
        except TypeError:
            pass
        else:
            if _has_pointers(kind):
                raise InvalidLayout(f"{label}: {shown(kind)} has pointers; raw memory must not be read so")
            return itemsize, align, max(align, 16), lambda block, n: (kind * n).from_buffer(block)
    numpy = sys.modules.get("numpy")  # where there is a dtype it is imported
    if numpy is not None and isinstance(kind, numpy.dtype) and not kind.hasobject and kind.itemsize:
        # not ndarray(buffer=...), which gives the buffer back at once and keeps the address
        return kind.itemsize, kind.alignment, 64, lambda block, n: numpy.frombuffer(block, kind)
    raise InvalidLayout(
        f"{label}: kind takes a native struct format of one value, a ctypes type or a "
        f"numpy.dtype without objects, not {shown(kind)}"
    )


_ITEM = re.compile(rf"(\d*)({_ONE.pattern})")


def _values(repeat: str, kind: str) -> int:
    """How many values an item of a struct format stands for."""
    if kind in "sp":
        return 1
    return 0 if kind == "x" else int(repeat or 1)


_FORMATS = (
    "'I' is an int, 'd' a float, '?' a bool, '16p' bytes of at most 15, 'I16p' a tuple of an int and such bytes; "
    "others are in the struct module's documentation"
)


class _Record:
    """A struct format; values of one field stand for themselves, those of several are tuples."""

    __slots__ = ("format", "places", "single", "size", "struct")

    def __init__(self, fmt: Any, label: str) -> None:
        try:
            self.struct = struct.Struct(fmt)
        except (struct.error, TypeError, ValueError):  # which one is another matter in each version
            raise InvalidLayout(f"{label}: takes a struct format, not {shown(fmt)}", suggestion=_FORMATS) from None
        self.format, self.size = self.struct.format, self.struct.size
        if not self.size:
            raise InvalidLayout(f"{label}: {shown(fmt)} is a format of no bytes")
        # counted, not unpacked: a record may be larger than memory
        self.places = sum(_values(*item) for item in _ITEM.findall(self.format))
        self.single = self.places == 1

    def pack(self, value: Any, label: str) -> bytes:
        try:
            return self.struct.pack(value) if self.single else self.struct.pack(*value)
        except (struct.error, TypeError, OverflowError):
            raise self.misfit(value, label) from None
        except MemoryError:
            message = f"{label}: the system has no {self.size} bytes to give"
            raise OutOfMemory(message, requested=self.size) from None

    def misfit(self, value: Any, label: str, why: str = "", advice: str = "") -> InvalidLayout:
        """The error for a value that cannot be packed."""
        text = f"{label}: {shown(value)} does not fit the format {shown(self.format)}{why}"
        return InvalidLayout(text, suggestion=advice or self._advice(value))

    def _advice(self, value: Any) -> str:
        fields = value if type(value) in (tuple, list) else (value,)
        if any(type(field) is str for field in fields):
            return "text is encoded first, as name.encode(), and decoded when it comes back"
        if len(fields) != self.places:
            return f"an item is {'one value' if self.single else f'a tuple of {self.places} values'}"
        return "values are those that struct.pack takes: ints in the range of their field, bytes for s and p"

    def unpack(self, raw: Any, offset: int) -> Any:
        fields = self.struct.unpack_from(raw, offset)
        return fields[0] if self.single else fields


def _offset(index: Any, n: int, label: str) -> int:
    """The item that a subscript stands for, from the end where it is negative."""
    try:
        i = operator.index(index)
    except TypeError:
        raise TypeError(f"{label}: an index is an int, not {type(index).__name__}") from None
    if not -n <= i < n:
        raise IndexError(f"{label}: there is no item {shown(i)} of {n}")
    return i % n


class _Typed:
    """A block that is read and written as a type. As thread-safe as the block's allocator.

    A context manager that frees at its end, unless the block is gone already. Reading or writing one that is
    raises :class:`StaleBlock`.
    """

    __slots__ = ("_block", "_record")

    _block: Any
    _record: _Record

    @property
    def block(self) -> Block:
        """The :class:`Block` behind it."""
        return self._block

    @property
    def format(self) -> str:
        """The struct format."""
        return str(self._record.format)

    def free(self) -> None:
        """As the block's ``free``."""
        self._block.free()

    def _read(self, offset: int) -> Any:
        self._block.__enter__()  # raises where the block is gone
        with memoryview(self._block) as raw:
            return self._record.unpack(raw, offset)

    def _write(self, offset: int, packed: bytes) -> None:
        self._block.__enter__()
        with memoryview(self._block) as raw:
            raw[offset : offset + len(packed)] = packed

    def __enter__(self) -> Self:
        self._block.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._block.__exit__(*error)


class Value(_Typed):
    """What :meth:`Allocator.alloc_value` returns: one value of a :mod:`struct` format in a block of its own. A
    format of one field stands for that, one of several for a tuple. As thread-safe as the block's allocator."""

    __slots__ = ()

    def __init__(self, allocator: Allocator, fmt: str, value: Any, align: int = ALIGN_DEFAULT) -> None:
        label = f"{name_of(allocator)}.alloc_value"
        self._record = _Record(fmt, label)
        packed = self._record.pack(value, label)
        self._block = allocator.alloc(*coerce_layout(allocator, len(packed), align, label))
        self._write(0, packed)  # packed once: an iterator gives its fields once

    @property
    def value(self) -> Any:
        """The value; assign to change it."""
        return self._read(0)

    @value.setter
    def value(self, value: Any) -> None:
        self._write(0, self._record.pack(value, "Value"))

    def __repr__(self) -> str:
        return f"<Value {self.format!r} in {self._block!r}>"


class Array(_Typed):
    """What :meth:`Allocator.alloc_array` returns: items of a :mod:`struct` format, one behind the other, in a block
    of their own. As thread-safe as the block's allocator."""

    __slots__ = ("_n",)

    def __init__(
        self, allocator: Allocator, fmt: str, items: Iterable[Any] | int, align: int = ALIGN_DEFAULT
    ) -> None:
        label = f"{name_of(allocator)}.alloc_array"
        self._record = record = _Record(fmt, label)
        if isinstance(items, Iterable):
            packed = b"".join(record.pack(item, label) for item in items)
            self._n = len(packed) // record.size
            self._block = allocator.alloc(*coerce_layout(allocator, len(packed), align, label))
            with memoryview(self._block) as raw:
                raw[:] = packed
        else:
            self._n = parse_size(items, f"{label}: items")
            size = parse_size(self._n * record.size, f"{label}: size")
            self._block = allocator.alloc(*coerce_layout(allocator, size, align, label))
            with memoryview(self._block) as raw:
                raw[:] = bytes(len(raw))

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._n))]
        return self._read(_offset(index, self._n, "Array") * self._record.size)

    def __setitem__(self, index: int, value: Any) -> None:
        offset = _offset(index, self._n, "Array") * self._record.size
        self._write(offset, self._record.pack(value, "Array"))

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(self._n))

    def __repr__(self) -> str:
        return f"<Array of {self._n} {self.format!r} in {self._block!r}>"


class _Records:
    """A block seen as records, one each ``stride`` bytes, through a view that is taken when it is needed."""

    __slots__ = ("_block", "_raw", "_record", "_stride")

    def __init__(self, block: Any, record: _Record, stride: int) -> None:
        self._block, self._record, self._stride = block, record, stride
        self._raw: Any = None

    def _view(self) -> Any:
        if self._raw is None:
            self._raw = memoryview(self._block)
        return self._raw

    @property
    def alive(self) -> bool:
        """Whether the block is."""
        return bool(self._block.alive)

    def release(self) -> None:
        """Lets go of the view until it is needed again."""
        raw, self._raw = self._raw, None
        if raw is not None:
            raw.release()

    def __getitem__(self, i: int) -> Any:
        return self._record.unpack(self._view(), i * self._stride)

    def put(self, i: int, packed: bytes) -> None:
        at = i * self._stride
        self._view()[at : at + len(packed)] = packed


#: bytes of a run of items, where neither the arena's first chunk nor its cap is smaller
_RUN = 4096


class TypedArena:
    """An arena of one element type: items are appended, found by their index, and dropped together.

    Parameters: ``fmt``, a :mod:`struct` format; ``align``, of which the address of each item is a multiple (None:
    items lie one behind the other); the others as of :class:`Arena`. Items never move. Belongs to the thread that
    made it. Raises what an arena raises, :class:`InvalidLayout` for another format or alignment; an index that
    there is not is an ``IndexError``.

    >>> import nativemem
    >>> with nativemem.TypedArena("dd") as points:
    ...     points.append((1.0, 2.0))
    ...     points.append((3.0, 4.0))
    ...     points[0] = (5.0, 6.0)
    ...     list(points)
    0
    1
    [(5.0, 6.0), (3.0, 4.0)]
    """

    __slots__ = ("_align", "_arena", "_n", "_record", "_room", "_run", "_starts", "_stride", "_views")
    _binding: ClassVar[Any]

    def __init__(
        self,
        fmt: str,
        hint: int | str | None = None,
        cap: int | str | None = None,
        zero_on_free: bool = False,
        upstream: Allocator | None = None,
        *,
        patterns: bool = False,
        align: int | None = None,
    ) -> None:
        self._record = _Record(fmt, "TypedArena")
        self._align, self._stride = ALIGN_DEFAULT, self._record.size
        if align is not None:
            _, self._align = coerce_layout(self, 0, align, "TypedArena")
            self._stride += -self._stride % self._align
        self._arena = self._binding.Arena(
            hint, cap, zero_on_free=zero_on_free, upstream=upstream, patterns=patterns
        )
        config = self._arena.config
        bytes_ = min(_RUN, config.hint, config.cap or _RUN)
        self._run = max(1, bytes_ // self._stride)  # items
        self._views: list[_Records] = []
        self._starts: list[int] = []  # index of each run's first item
        self._n = self._room = 0

    @property
    def arena(self) -> Arena:
        """The :class:`Arena` that the items lie in."""
        return self._arena

    @property
    def format(self) -> str:
        """The struct format."""
        return str(self._record.format)

    @property
    def stats(self) -> Stats:
        """The arena's :class:`Stats`: whole runs of items count as blocks."""
        return self._arena.stats

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return bool(self._arena.closed)

    def append(self, value: Any) -> int:
        """Adds an item and returns its index. Raises :class:`InvalidLayout` where the value does not fit the
        format, :class:`ArenaExhausted` and the like where there is no room."""
        packed = self._record.pack(value, "TypedArena.append")  # once, and first: it may run any code
        self._arena._call(self._arena._opened().check())
        if self._n == self._room:
            self._grow()
        n = self._n
        view, i = self._place(n)
        view.put(i, packed)
        self._n = n + 1
        return n

    def extend(self, values: Iterable[Any]) -> None:
        """Appends each; those before one that fails stay."""
        for value in values:
            self.append(value)

    def _grow(self) -> None:
        """A run more; a shorter one where there is no room for a whole."""
        items = self._run
        while True:
            try:
                block = self._arena.alloc(items * self._stride, self._align)
                break
            except (ArenaExhausted, BudgetExceeded, OutOfMemory):
                if items == 1:
                    raise
                items //= 2
        # either both lists have it or neither, should there be no memory for that
        view, room = _Records(block, self._record, self._stride), self._room + items
        self._views.append(view)
        try:
            self._starts.append(self._room)
        except BaseException:
            self._views.pop()
            raise
        self._room = room

    def _place(self, i: int) -> tuple[_Records, int]:
        run = bisect(self._starts, i) - 1
        return self._views[run], i - self._starts[run]

    def _find(self, index: Any) -> tuple[_Records, int]:
        self._arena._call(self._arena._opened().check())
        return self._place(_offset(index, self._n, "TypedArena"))

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, index: int) -> Any:
        view, i = self._find(index)
        return view[i]

    def __setitem__(self, index: int, value: Any) -> None:
        self._find(index)  # an index that there is not comes before a value that does not fit
        packed = self._record.pack(value, "TypedArena")
        view, i = self._find(index)  # again: packing may have run any code
        view.put(i, packed)

    def __iter__(self) -> Iterator[Any]:
        self._arena._opened()
        return (self[i] for i in range(self._n))

    def _drop(self, verb: Any) -> None:
        """Lets go of the views while the arena drops what they show."""
        self._arena._call(self._arena._core.check())
        views: list[_Records] = []
        starts: list[int] = []
        for view in self._views:
            view.release()
        try:
            verb()
        finally:
            if not any(view.alive for view in self._views):
                self._views, self._starts, self._n, self._room = views, starts, 0, 0

    def reset(self) -> None:
        """Drops every item, keeps memory for reuse."""
        self._arena._opened()
        self._drop(self._arena.reset)

    def close(self) -> None:
        """Drops every item and gives the memory back. Idempotent."""
        if not self.closed:
            self._drop(self._arena.close)

    def __enter__(self) -> TypedArena:
        self._arena._opened()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(f"cannot copy or pickle {name_of(self)!r}: memory has one owner")

    def __repr__(self) -> str:
        return f"<TypedArena of {self._n} {self.format!r}{', closed' if self.closed else ''}>"
