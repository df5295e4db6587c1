"""Memory that one allocator takes from another, and the memory of blocks that an allocator keeps."""

from __future__ import annotations

import contextlib
import weakref
from typing import Any

from ...errors import Refusal
from .memory import take

#: bytes of a slab's superblock, and what a heap rounds its spans to
SUPERBLOCK = 65536
#: of each chunk; no block in one has a larger alignment
CHUNK_ALIGN = 4096


def give_chunk_back(upstream: Any, chunk: Chunk) -> None:
    """Back to upstream; where that does not take it (from this thread, or below the top of a stack) it stays in
    use there until the upstream is reset or closed."""
    with contextlib.suppress(Refusal):
        upstream._free(chunk.capacity, chunk.align, chunk)


class Chunk:
    """Memory that one allocator takes from another. Nothing lies in it, as each block has memory of its own: it is
    there so that what can be had is what the native backend could have."""

    __slots__ = ("_place", "align", "capacity", "memory")

    def __init__(self, capacity: int, align: int) -> None:
        self.capacity, self.align, self.memory = capacity, align, take(capacity)

    def _keep_in(self, store: dict[int, Any], key: int) -> None:
        """Nothing knows where it is, so nothing is kept."""

    def _fill(self, byte: int, start: int = 0) -> None:
        """Nothing reads it."""


class KeptMemory:
    """The memory of an arena's or a stack's blocks, which is theirs until it is dropped."""

    __slots__ = ("_next", "_store")

    def __init__(self) -> None:
        #: by number, ascending: the memory, or a weak reference to it where it is a block that something refers to
        self._store: dict[int, Any] = {}
        self._next = 0

    def add(self, memory: Any) -> int:
        """Keeps it; returns its number."""
        number = self._next
        memory._keep_in(self._store, number)
        self._next = number + 1
        return number

    def mark(self) -> int:
        """The number that the next has."""
        return self._next

    def let_go(self, number: int, memory: Any) -> None:
        """It is its block's alone from now on."""
        if self._store.pop(number, None) is not None:
            memory._kept = False

    def drop(self, mark: int, wipe: bool) -> None:
        """Gives the memory back that has that number or a higher one, the newest first."""
        store = self._store
        while store and next(reversed(store)) >= mark:
            _, memory = store.popitem()
            if isinstance(memory, weakref.ref):
                memory = memory()
            if memory is not None:
                memory._discard(wipe)
