"""Blocks of the pure backend: buffers that count their exports.

Python code cannot make a class that exports a buffer before 3.12, but it can inherit from one. ``bytearray``
refuses to change its size while a buffer is out, which is how exports are found; its memory is aligned to 16
bytes. ``mmap`` does the same at page alignment, and serves the stricter alignments. Their own methods are
hidden, so that a block is no more than it is on the native backend.
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import raise_block

if TYPE_CHECKING:
    from .dataplane import Allocator

LIVE, FREED, STALE = range(3)
#: alignment that ``bytearray`` gives
_PLAIN = 16


class Block:
    """Memory handed to a user: a writable buffer that keeps its allocator alive.

    Made by an allocator's alloc; freed by free(), at the end of a ``with`` block, or, where its allocator
    takes single blocks back, when it is collected. As thread-safe as its allocator.
    """

    __slots__ = ()
    _allocator: Allocator
    _size: int
    _align: int
    _serial: int
    _state: int

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("cannot create 'nativemem.Block' instances")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError("cannot create 'nativemem.Block' instances")

    if TYPE_CHECKING:  # what the storage types below add

        def _exported(self) -> bool: ...
        def _set_size(self, size: int) -> None: ...
        def _discard(self, wipe: bool) -> None: ...
        def _fill(self, byte: int, start: int = 0) -> None: ...

    @property
    def size(self) -> int:
        """Bytes asked for."""
        return self._size

    @property
    def align(self) -> int:
        """Alignment asked for, in bytes."""
        return self._align

    @property
    def alive(self) -> bool:
        """Whether the block can be used."""
        return self._state == LIVE

    @property
    def allocator(self) -> Any:
        """The allocator that gave the block."""
        return self._allocator

    @property
    def owner(self) -> Any:
        """The Budget that the block is charged to, or None."""
        return self._allocator.owner  # type: ignore[attr-defined]

    @property
    def usable(self) -> int:
        """Bytes actually behind the block."""
        self._must_live()
        return self._allocator._usable(self._size, self._align)  # type: ignore[attr-defined,no-any-return]

    @property
    def address(self) -> int:
        """Address of the first byte; valid while the block is alive."""
        self._must_live()
        if not self._size:
            return mmap.PAGESIZE  # of no bytes, at every alignment
        import ctypes

        return ctypes.addressof((ctypes.c_char * 1).from_buffer(self))  # type: ignore[arg-type]

    def free(self) -> None:
        """Gives the block back. DoubleFree or StaleBlock if it is gone, BufferError while a view is out."""
        self._allocator.free(self)

    def _must_live(self) -> None:
        if self._state != LIVE:
            raise_block(self._allocator, self, self._dead_word())

    def _dead_word(self) -> str:
        return "freed" if self._state == FREED else "stale"

    def __enter__(self) -> Block:
        self._must_live()
        return self

    def __exit__(self, *error: object) -> None:
        if self._state == LIVE:
            self.free()

    def __len__(self) -> int:
        return self._size

    def __repr__(self) -> str:
        if self._state != LIVE:
            return f"<Block {self._size} B, {self._dead_word()}>"
        return f"<Block {self._size} B at {self.address:#x}>"

    def __del__(self) -> None:
        # a block that was never finished, because memory ran out while it was made, has no state
        if getattr(self, "_state", STALE) == LIVE:
            self._allocator._collected(self)


_SURFACE = {name for name in dir(Block) if not name.startswith("_")}
_SLOTS = ("_align", "_allocator", "_place", "_serial", "_size", "_state")


class _Hidden:
    """A method of the storage that a block does not have."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: Any = None) -> NoReturn:
        raise AttributeError(f"'Block' object has no attribute {self._name!r}")


def _refused(name: str) -> Any:
    def refuse(self: Any, *args: Any) -> NoReturn:
        raise TypeError(f"'nativemem.Block' object does not support {name}")

    return refuse


#: what a storage type would allow and a block does not
_OPERATORS = (
    "__add__ __contains__ __delitem__ __getitem__ __iadd__ __imul__ __iter__ __mod__ __mul__ __reduce__ "
    "__reduce_ex__ __reversed__ __rmod__ __rmul__ __setitem__"
).split()


def _storage_namespace(storage: type) -> dict[str, Any]:
    namespace: dict[str, Any] = {
        name: _Hidden(name)
        for name in (*dir(storage), "__alloc__")
        if name not in _SURFACE and (name == "__alloc__" or not name.startswith("_"))
    }
    namespace |= {name: _refused(name) for name in _OPERATORS}
    for name in ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__hash__", "__str__"):
        namespace[name] = getattr(object, name)
    namespace["__dir__"] = lambda self: dir(Block)
    return namespace | {"__module__": "nativemem", "__qualname__": "Block"}


def _buffer(self: Any, flags: int) -> memoryview:
    self._must_live()
    return super(type(self), self).__buffer__(flags)  # type: ignore[misc,no-any-return]


class _Bytes(Block, bytearray):  # type: ignore[misc]
    __doc__ = Block.__doc__  # at any address that ``bytearray`` gives

    __slots__ = (*_SLOTS, "__weakref__")
    locals().update(_storage_namespace(bytearray), __buffer__=_buffer)

    def _exported(self) -> bool:
        try:
            # deletes nothing, but in a stride other than 1, for which exports are looked at first; one call,
            # so no thread comes in between
            bytearray.__delitem__(self, slice(0, 0, 2))
        except BufferError:
            return True
        return False

    def _set_size(self, size: int) -> None:
        # straight to the slot methods: the operators are hidden
        if size < self._size:
            bytearray.__delitem__(self, slice(size, None))
        else:
            bytearray.extend(self, bytes(size - self._size))

    def _fill(self, byte: int, start: int = 0) -> None:
        n = bytearray.__len__(self)
        bytearray.__setitem__(self, slice(start, n), bytes([byte]) * (n - start))

    def _discard(self, wipe: bool) -> None:
        if wipe:
            bytearray.__setitem__(self, slice(None), bytes(self._size))
        bytearray.clear(self)


class _Pages(Block, mmap.mmap):  # type: ignore[misc]
    __doc__ = Block.__doc__  # at the start of a page

    __slots__ = _SLOTS
    locals().update(_storage_namespace(mmap.mmap), __buffer__=_buffer)

    def _exported(self) -> bool:
        try:
            mmap.mmap.resize(self, self._size)
        except BufferError:
            return True
        except SystemError:  # exports are looked at first, then that this system has no mremap
            return False
        return False

    def _set_size(self, size: int) -> None:
        mmap.mmap.resize(self, size)

    def _fill(self, byte: int, start: int = 0) -> None:
        n = mmap.mmap.__len__(self)
        mmap.mmap.__setitem__(self, slice(start, n), bytes([byte]) * (n - start))

    def _discard(self, wipe: bool) -> None:
        if wipe:
            mmap.mmap.__setitem__(self, slice(None), bytes(self._size))
        mmap.mmap.close(self)


Block.__module__ = "nativemem"
for _storage in (_Bytes, _Pages):
    _storage.__name__ = "Block"


@classmethod  # type: ignore[misc]
def _final(cls: Any) -> NoReturn:
    raise TypeError("type 'nativemem.Block' is not an acceptable base type")


# only now: the two above are its only subclasses
Block.__init_subclass__ = _final  # type: ignore[assignment]


def storage(size: int, align: int) -> Any:
    """Memory for a block, without an allocator yet. Raises :class:`MemoryError`."""
    block: Any
    try:
        if align <= _PLAIN or size == 0:
            block = bytearray.__new__(_Bytes)
            bytearray.__init__(block, size)
            return block
        if hasattr(mmap, "MAP_PRIVATE"):  # a child made by fork gets its own copy
            return mmap.mmap.__new__(_Pages, -1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        return mmap.mmap.__new__(_Pages, -1, size)
    except (OSError, OverflowError) as error:
        raise MemoryError(str(error)) from None
