"""Blocks from Python 3.12 on, and on PyPy, where a class decides what its buffer is: a part of memory that belongs
to no block.

So an arena keeps the memory of its blocks, as the native one does, and any alignment is had by beginning at the
first byte that has it.
"""

from __future__ import annotations

from typing import Any

from .blocks import Block, forbid_subclasses
from .memory import ARRAYS, LARGE, address_of, fill, is_exported, take

_NOTHING = take(0)


class Memory:
    """What is behind a block, and outlives it where its allocator keeps it."""

    __slots__ = ("_align", "_bytes", "_given", "_kept", "_outgrown", "_place", "_size", "_start")

    def __init__(self, size: int, align: int) -> None:
        self._align, self._size = align, size
        self._kept = False
        self._given: list[memoryview] = []  # on PyPy, which does not call __release_buffer__
        self._outgrown: list[Any] = []  # where it was before it grew; kept as long
        self._bytes, self._start = self._new(size)

    def _new(self, size: int) -> tuple[Any, int]:
        if size >= LARGE or not size:  # pages, or nothing
            return take(size), 0
        bytes_ = take(size + self._align - 1)
        return bytes_, -address_of(bytes_) % self._align

    def _block(self) -> Any:
        block = object.__new__(Block)
        block._memory = self
        return block

    def _keep_in(self, store: dict[int, Any], key: int) -> None:
        store[key] = self
        self._kept = True

    def _view(self) -> memoryview:
        with memoryview(self._bytes) as whole:
            return whole[self._start : self._start + self._size]

    def _give_view(self) -> memoryview:
        """For a consumer of the buffer."""
        view = self._view()
        if not ARRAYS:
            self._given.append(view)
        return view

    def _address(self) -> int:
        return address_of(self._bytes) + self._start

    def _exported(self) -> bool:
        """Whether a consumer has a buffer, or had one that PyPy has not collected yet."""
        while self._given:
            self._given.pop().release()  # the consumer has one of its own
        return is_exported(self._bytes)

    def _fill(self, byte: int, start: int = 0) -> None:
        with self._view() as view:
            fill(view, byte, start)

    def _set_size(self, size: int) -> bool:
        if self._start + size > len(self._bytes):
            bytes_, start = self._new(size)
            with memoryview(bytes_) as whole, self._view() as old:
                whole[start : start + len(old)] = old
            if self._kept:
                self._outgrown.append(self._bytes)
            self._bytes, self._start = bytes_, start
        before, self._size = self._size, size
        if size > before:
            try:
                self._fill(0, before)  # of what it was before a resize made it smaller
            except BaseException:
                self._size = before
                raise
        return True

    def _end(self, wipe: bool) -> None:
        """The block is gone."""
        if not self._kept:
            self._discard(wipe)

    def _discard(self, wipe: bool) -> None:
        """Gives the bytes back to Python. A view of them that a thread took meanwhile keeps them."""
        if wipe:
            for each in (self._bytes, *self._outgrown):
                with memoryview(each) as view:
                    fill(view, 0)
        self._bytes, self._start, self._size = _NOTHING, 0, 0
        self._outgrown.clear()


forbid_subclasses()


def storage(size: int, align: int) -> Memory:
    """Memory for a block. Raises :class:`MemoryError`."""
    return Memory(size, align)
