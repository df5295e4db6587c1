"""Blocks before Python 3.12, where a class in Python exports no buffer but can inherit from one that does.

A live block is an ``array``, or an ``mmap`` where an ``array`` does not have the alignment. A dead one changes its
class for a twin of the same layout that does not inherit the buffer, so that no consumer takes it for empty bytes.
The memory of a block is the block itself. Where an allocator keeps that, the object stays with it, without a
reference to it, from the moment on that nothing else refers to the object.
"""

from __future__ import annotations

import array
import contextlib
import mmap
import weakref
from functools import partial
from typing import Any, NoReturn

from .blocks import SLOTS, Block, forbid_subclasses
from .lock import lock
from .memory import LARGE, address_of, check_size, fill, is_exported, pages

#: bytes of the least memory that is asked for; what allocators under Python align to 16 from here on, but for that
#: of a 32-bit one
_LEAST = 16
#: an ``array`` that loses no more than so many bytes at a time does not ask for other memory
_STAYS = 15
#: bytes more than a block needs, to be asked for where its memory is not aligned: from 512 on a 32-bit Python takes
#: them from malloc
_ROOMS = (*range(512, 1024, 40), 4096)
_OWN_SLOTS = (*(name for name in SLOTS if name not in ("__weakref__", "_memory")), "_keeper", "_place")
_SURFACE = {name for name in dir(Block) if not name.startswith("_")}
#: what a base would allow and a block does not
_OPERATORS = (
    "__add__ __contains__ __copy__ __deepcopy__ __delitem__ __getitem__ __iadd__ __imul__ __iter__ __mod__ __mul__ "
    "__reduce__ __reduce_ex__ __reversed__ __rmod__ __rmul__ __setitem__"
).split()


class _Hidden:
    """A method of the base that a block does not have."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: Any = None) -> NoReturn:
        raise AttributeError(f"'Block' object has no attribute {self._name!r}")


def _refused(name: str) -> Any:
    def refuse(self: Any, *args: Any) -> NoReturn:
        raise TypeError(f"'nativemem.Block' object does not support {name}")

    return refuse


def _namespace(base: type) -> dict[str, Any]:
    """What a block shows in place of what its base has."""
    hidden: dict[str, Any] = {
        name: _Hidden(name) for name in dir(base) if name not in _SURFACE and not name.startswith("_")
    }
    hidden |= {name: _refused(name) for name in _OPERATORS}
    for name in ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__hash__", "__str__"):
        hidden[name] = getattr(object, name)
    hidden["__dir__"] = lambda self: dir(Block)
    return hidden | {"__module__": "nativemem", "__qualname__": "Block", "__doc__": Block.__doc__}


class _NoBuffer(type):
    """Leaves the base out of the order in which a class inherits: its layout stays, its buffer does not."""

    def mro(cls) -> list[type]:
        return [cls, _Inherited, Block, object]


def _calls(*calls: Any) -> None:
    """Calls what C implements, one after the other. No thread comes in between: all of it is one call of C."""
    tuple(map(partial.__call__, calls))


class _Own(weakref.ref):  # type: ignore[type-arg]
    """One of this module's, which it tells from those of others."""

    __slots__ = ()


def _clear_weak_references(block: Any) -> list[Any]:
    """Takes the block from the weak references of others, as its end would. Returns their callbacks."""
    others = [reference for reference in weakref.getweakrefs(block) if type(reference) is not _Own]
    calls = [partial(callback, each) for each in others if (callback := getattr(each, "__callback__", None))]
    if others:
        import ctypes  # late: few programs have such references

        clear = getattr(ctypes.pythonapi, "_PyWeakref_ClearRef", None)  # in each CPython that comes here
        for each in others:
            if clear is not None:
                clear(ctypes.py_object(each))
    return calls


def _become(block: Any, kind: type) -> Any:
    return partial(object.__setattr__, block, "__class__", kind)


class _Inherited(Block):
    __slots__ = ()
    _keeper: Any
    _live_type: type
    _dead_type: type

    @property
    def _memory(self) -> Any:
        return self

    @property
    def _kept(self) -> bool:
        return self._keeper is not None

    @_kept.setter
    def _kept(self, kept: bool) -> None:
        assert not kept
        self._keeper = None

    def _block(self) -> Any:
        return self

    def _keep_in(self, store: dict[int, Any], key: int) -> None:
        store[key] = _Own(self)  # while it is referred to: it refers to its allocator, which refers to the store
        self._keeper = store, key

    def __del__(self) -> None:
        Block.__del__(self)
        keeper = getattr(self, "_keeper", None)
        if keeper is not None:
            store, key = keeper
            calls: list[Any] = []
            with lock:
                if key in store:
                    store[key] = self  # first: what follows may want memory that is not there
                    self._allocator = None
                    self._end(False)
                    calls = _clear_weak_references(self)
            for call in calls:  # without the lock: any code
                call()

    def _address(self) -> int:
        return address_of(self)

    def _view(self) -> memoryview:
        return memoryview(self)

    def _exported(self) -> bool:
        return type(self) is self._live_type and is_exported(self)

    def _fill(self, byte: int, start: int = 0) -> None:
        with memoryview(self) as view:
            fill(view, byte, start)

    def _end(self, wipe: bool) -> None:
        if type(self) is self._dead_type:
            return
        if wipe and not self._kept:
            self._fill(0)
        first = self._looks_for_exports() if self._kept else self._empties()
        # a block that a thread took a view of since _exported was asked keeps its bytes and its class
        with contextlib.suppress(BufferError):
            try:
                _calls(first, *self._burial())
            except SystemError:  # exports were looked at, and then that this system has no mremap
                _calls(*self._burial())

    def _burial(self) -> tuple[Any, ...]:
        return (_become(self, self._dead_type),) if _twins_are_possible else ()

    def _discard(self, wipe: bool) -> None:
        if type(self) is self._dead_type:
            object.__setattr__(self, "__class__", self._live_type)
        self._keeper = None
        self._end(wipe)

    def _looks_for_exports(self) -> Any:
        raise NotImplementedError

    def _empties(self) -> Any:
        raise NotImplementedError


class _Cells(_Inherited, array.array):  # type: ignore[type-arg]
    __slots__ = _OWN_SLOTS
    locals().update(_namespace(array.array))

    def _looks_for_exports(self) -> Any:
        return partial(array.array.__delitem__, self, slice(0, 0))

    def _empties(self) -> Any:
        return partial(array.array.__delitem__, self, slice(None))

    def _cut(self, size: int) -> None:
        # In two steps, of which the second does not move them: an allocator that has cells of 8 bytes does not
        # align those to 16.
        if array.array.__len__(self) > _LEAST > size:
            array.array.__delitem__(self, slice(_LEAST, None))
            self._cut_in_place(size)
        else:
            array.array.__delitem__(self, slice(size, None))

    def _cut_in_place(self, size: int) -> None:
        """The bytes stay where they are, and their memory with them."""
        for end in (*range(array.array.__len__(self) - _STAYS, size, -_STAYS), size):
            array.array.__delitem__(self, slice(end, None))

    def _is_aligned(self) -> bool:
        return address_of(self) % self._align == 0

    def _move(self, size: int) -> bool:
        """To memory that has the alignment, if the allocator under Python has some; ``size`` bytes are left."""
        try:
            for room in _ROOMS:
                array.array.frombytes(self, bytes(size + room - array.array.__len__(self)))
                if self._is_aligned():
                    return True
        except MemoryError:
            pass
        finally:
            self._cut_in_place(size)
        return False

    def _set_size(self, size: int) -> bool:
        old = self._size
        if size < old:
            self._cut(size)
        else:
            array.array.frombytes(self, bytes(size - old))
        if self._is_aligned() or self._move(size):
            return True
        self._cut_in_place(min(size, old))
        return size < old  # what is cut off is gone


class _DeadCells(_Inherited, array.array, metaclass=_NoBuffer):  # type: ignore[type-arg]
    __slots__ = _OWN_SLOTS


class _Pages(_Inherited, mmap.mmap):  # type: ignore[misc]
    __slots__ = _OWN_SLOTS
    locals().update(_namespace(mmap.mmap))

    def _looks_for_exports(self) -> Any:
        return partial(mmap.mmap.resize, self, self._size)

    def _empties(self) -> Any:
        return partial(mmap.mmap.close, self)

    def _set_size(self, size: int) -> bool:
        try:
            mmap.mmap.resize(self, size)
        except SystemError:  # as above
            return False
        return True


class _DeadPages(_Inherited, mmap.mmap, metaclass=_NoBuffer):  # type: ignore[misc]
    __slots__ = _OWN_SLOTS


for _live, _dead in ((_Cells, _DeadCells), (_Pages, _DeadPages)):
    for _each in (_live, _dead):
        _each.__name__, _each.__qualname__, _each.__module__ = "Block", "Block", "nativemem"
        _each.__doc__ = Block.__doc__
        _each._live_type, _each._dead_type = _live, _dead
forbid_subclasses()


def _try_twins() -> bool:
    """Whether this interpreter changes the class of a block for its twin, and gives no buffer of that. Where it
    does not, a dead block is an empty buffer."""
    with contextlib.suppress(TypeError):
        for block in (_cells(1), pages(1, _Pages)):
            _become(block, block._dead_type)()
            with contextlib.suppress(TypeError):
                memoryview(block)
                return False
        return True
    return False


def _cells(size: int) -> Any:
    block: Any = array.array.__new__(_Cells, "B", bytes(max(size, _LEAST)) if size else b"")
    if size < _LEAST:
        block._cut(size)
    return block


def storage(size: int, align: int) -> Any:
    """Memory for a block, which is the block. Raises :class:`MemoryError`."""
    check_size(size)
    block = _cells(size) if size == 0 or (size < LARGE and align <= _LEAST) else None
    if block is not None:
        block._align = align
    if block is None or (size and not block._is_aligned() and not block._move(size)):
        block = pages(size, _Pages)
    block._align, block._size, block._keeper = align, size, None
    return block


_twins_are_possible = _try_twins()
