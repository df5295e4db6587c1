"""The core of Stack."""

from __future__ import annotations

from typing import Any

from ...errors import Refusal, Status
from .chunks import CHUNK_ALIGN, Chunk, KeptMemory, give_chunk_back
from .confined import ResettableCore
from .counted import Make
from .lock import lock


class StackCore(ResettableCore):
    """The native stack's arithmetic; each block has memory of its own, which the stack keeps until it drops it or
    the block is freed. A block's place is its entry: where it starts and ends, where the one below ended, and the
    number of its memory."""

    def __init__(self, upstream: Any, capacity: int, patterns: bool) -> None:
        super().__init__()
        self._upstream, self._capacity, self._patterns = upstream, capacity, patterns
        self._entries: list[list[int]] = []
        self._unwinds = False
        self._pos = 0
        self._generation = 0
        self._kept = KeptMemory()
        self._chunk: Chunk | None
        with lock:
            self._chunk = upstream._alloc(capacity, CHUNK_ALIGN, lambda: Chunk(capacity, CHUNK_ALIGN))

    def usable(self, size: int, align: int) -> int:
        """Bytes behind a block of this layout."""
        return size

    def _reserved(self) -> int:
        return self._capacity if self._chunk else 0

    def _limit(self) -> int:
        return self._capacity

    def diagnose(self) -> dict[str, int]:
        """The largest block, at alignment 1, that would be served now."""
        return {"largest_free": self._capacity - self._pos if self._chunk else 0}

    def _alloc(self, size: int, align: int, make: Make) -> Any:
        self._must_be_here()
        start = (self._pos + align - 1) & -align
        if self._chunk is None or start + size > self._capacity or align > CHUNK_ALIGN:
            self._failures += 1
            raise Refusal(Status.CAPACITY_EXCEEDED, size, self._pos, self._capacity)
        memory = self._memory(size, make)
        if self._patterns:
            memory._fill(0xCC)
        memory._place = [start, start + size, self._pos, self._kept.add(memory)]
        self._entries.append(memory._place)
        self._pos = start + size
        self._count_alloc(size)
        return memory

    def _is_top(self, memory: Any) -> bool:
        return bool(self._entries) and self._entries[-1] is memory._place

    def _pop(self) -> None:
        start, end, self._pos, _ = self._entries.pop()
        self._used -= end - start
        self._live -= 1

    def _free(self, size: int, align: int, memory: Any) -> None:
        self._must_be_here()
        if self._is_top(memory):
            self._pop()
            self._kept.let_go(memory._place[-1], memory)
        elif not self._unwinds:
            raise Refusal(Status.LIFO_VIOLATION, size)
        self._frees += 1

    def _resize(self, old: int, size: int, memory: Any, apply: Make) -> bool:
        self._must_be_here()
        if size == old:
            return True
        if not self._is_top(memory) or memory._place[0] + size > self._capacity:
            return False
        if not apply():
            return False
        if self._patterns and size > old:
            memory._fill(0xCC, old)
        self._count_resize(old, size)
        self._pos = memory._place[1] = memory._place[0] + size
        return True

    def unwind(self) -> None:
        """Until the next reset, release or clear a free out of order counts, and leaves the bytes to that."""
        self._unwinds = True

    def _pop_to(self, depth: int) -> None:
        self._unwinds = False
        if len(self._entries) > depth:
            self._kept.drop(self._entries[depth][-1], self._wipes)
        while len(self._entries) > depth:
            self._pop()

    def _empty(self) -> None:
        self._pop_to(0)
        self._generation += 1

    def _destroy(self) -> None:
        self._empty()
        if self._chunk is not None:
            give_chunk_back(self._upstream, self._chunk)
            self._chunk = None

    def _mark(self) -> tuple[Any, ...]:
        top = self._entries[-1] if self._entries else None
        return self, self._generation, len(self._entries), top

    def check_mark(self, mark: Any) -> int:
        """INVALID_MARK: foreign, of an older generation, or its top block is gone."""
        stack, generation, depth, top = mark
        if stack is not self or generation != self._generation or depth > len(self._entries):
            return Status.INVALID_MARK
        same = depth == 0 or self._entries[depth - 1] is top
        return Status.OK if same else Status.INVALID_MARK

    def _return_to(self, mark: Any) -> None:
        self._pop_to(mark[2])
