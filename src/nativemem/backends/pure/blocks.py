"""Blocks of the pure backend, but for their memory: windows.py has that, and inherited.py where a class does not
decide what its buffer is."""

from __future__ import annotations

import functools
import importlib
import mmap
from typing import Any, NoReturn

from ...refusals import raise_block
from ..machine import is_free_threaded
from .lock import F, lock
from .memory import WINDOWS

LIVE, FREED, STALE = range(3)
SLOTS = ("__weakref__", "_align", "_allocator", "_memory", "_serial", "_size", "_state")


def _exclusive(method: F) -> F:
    """Of what makes or ends a view, or looks where one would be.

    In a free-threaded interpreter ``array`` and ``mmap`` count their views without a lock of their own, so that two
    threads could count one for both: the block would be exported for good, or not at all. Elsewhere each such step
    is one call, which the interpreter's lock covers.
    """
    if not is_free_threaded():
        return method

    @functools.wraps(method)
    def inside(self: Any, *args: Any, lock: Any = lock) -> Any:  # of its own, see Lock
        with lock:
            return method(self, *args)

    return inside  # type: ignore[return-value]


class Block:
    """Memory handed to a user: a writable buffer that keeps its allocator alive.

    Made by an allocator's alloc; freed by free(), at the end of a ``with`` block, or, where its allocator
    takes single blocks back, when it is collected. As thread-safe as its allocator.
    """

    __slots__ = SLOTS if WINDOWS else ()
    _allocator: Any
    _memory: Any
    _size: int
    _align: int
    _serial: int
    _state: int

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("cannot create 'nativemem.Block' instances")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError("cannot create 'nativemem.Block' instances")

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
        return getattr(self._allocator, "owner", None)

    @property
    def usable(self) -> int:
        """Bytes actually behind the block."""
        self._must_live()
        return self._allocator._usable(self._size, self._align)

    @property
    @_exclusive
    def address(self) -> int:
        """Address of the first byte; valid while the block is alive."""
        self._must_live()
        if not self._size:
            return mmap.PAGESIZE  # of no bytes, at every alignment
        return int(self._memory._address())

    def free(self) -> None:
        """Gives the block back. DoubleFree or StaleBlock if it is gone, BufferError while a view is out."""
        if self._allocator is None:  # what is left of it, where a weak reference still finds it
            self._must_live()
        self._allocator.free(self)

    def _must_live(self) -> None:
        if self._state != LIVE:
            raise_block(self._allocator or self, self, self._dead_word())

    @_exclusive
    def __buffer__(self, flags: int) -> memoryview:
        self._must_live()
        return self._memory._give_view()

    @_exclusive
    def __release_buffer__(self, view: memoryview) -> None:
        # Nothing is left to do, but NumPy holds on to a buffer only where its object has this.
        view.release()

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        # NumPy asks for the buffer first, and, where that is refused, would make an array of one object
        self._must_live()
        return importlib.import_module("numpy").asarray(memoryview(self), *args, **kwargs)

    def _dead_word(self) -> str:
        return "freed" if self._state == FREED else "stale"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("cannot copy or pickle 'Block': memory has one owner")

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


Block.__module__ = "nativemem"


@classmethod  # type: ignore[misc]
def _final(cls: Any) -> NoReturn:
    raise TypeError("type 'nativemem.Block' is not an acceptable base type")


def forbid_subclasses() -> None:
    """From now on nothing derives from it."""
    Block.__init_subclass__ = _final  # type: ignore[assignment]
