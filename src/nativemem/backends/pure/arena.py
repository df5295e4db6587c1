"""The core of Arena."""

from __future__ import annotations

from typing import Any

from ...errors import Refusal, Status
from ...sizes import SIZE_MAX
from .chunks import CHUNK_ALIGN, Chunk, KeptMemory, give_chunk_back
from .confined import ResettableCore
from .counted import Make


class ArenaCore(ResettableCore):
    """The native arena's arithmetic. Chunks are taken from upstream and stay empty: each block has memory
    of its own, which the arena keeps until it drops it."""

    def __init__(self, upstream: Any, hint: int, cap: int, grow: bool, zero: bool, patterns: bool) -> None:
        super().__init__()
        first = hint if grow or not cap else min(hint, cap)
        self._upstream, self._hint, self._cap, self._grow = upstream, first, cap, grow
        self._wipes, self._patterns = zero, patterns
        self._chunks: list[Chunk] = []  # the doubling sequence; the last is the current one
        self._large: list[Chunk] = []
        self._pos = 0
        self._floor = 0  # of the newest mark in the current chunk; what lies below it keeps its place and size
        self._held = 0
        self._generation = 1
        self._kept = KeptMemory()

    def usable(self, size: int, align: int) -> int:
        """Bytes behind a block of this layout."""
        return size

    def _reserved(self) -> int:
        return self._held

    def _limit(self) -> int:
        return self._cap if self._grow else self._hint

    def diagnose(self) -> dict[str, int]:
        """The largest block, at alignment 1, that would be served now, if upstream gives what that takes."""
        rest = self._chunks[-1].capacity - self._pos if self._chunks else 0
        if not self._grow:
            largest = rest if self._chunks else self._hint
        else:
            largest = max(rest, self._cap - self._held) if self._cap else SIZE_MAX
        return {"largest_free": largest}

    def _take_chunk(self, capacity: int, align: int = CHUNK_ALIGN) -> Chunk:
        chunk: Chunk = self._from_upstream(self._upstream, capacity, align, lambda: Chunk(capacity, align))
        self._held += capacity
        return chunk

    def _drop_chunk(self, chunk: Chunk) -> None:
        self._held -= chunk.capacity
        give_chunk_back(self._upstream, chunk)

    def _alloc(self, size: int, align: int, make: Make) -> Any:
        self._must_be_here()
        start = (self._pos + align - 1) & -align
        head = self._chunks[-1] if self._chunks else None
        if head is None or start + size > head.capacity or align > CHUNK_ALIGN:
            head, start = self._room_for(size, align)
        memory = self._memory(size, make)
        if self._patterns:
            memory._fill(0xAA)
        memory._place = head, start
        self._kept.add(memory)
        if head is not None:
            self._pos = start + size
        self._count_alloc(size)
        return memory

    def _room_for(self, size: int, align: int) -> tuple[Chunk | None, int]:
        """The chunk, None for one of the block's own, and where in it."""
        head = self._chunks[-1] if self._chunks else None
        left = self._cap - self._held
        own = align > CHUNK_ALIGN
        if not self._grow:
            if head is not None or size > self._hint or own:
                self._exhausted(size, self._hint)
            want = self._hint
        else:
            want = self._hint if head is None else min(2 * head.capacity, SIZE_MAX)
            if self._cap:
                want = min(want, left)
            if size > want or own:
                if self._cap and size > left:
                    self._exhausted(size, self._cap)
                self._large.append(self._take_chunk(size, max(align, CHUNK_ALIGN)))
                return None, 0
        self._chunks.append(self._take_chunk(want))
        self._pos = self._floor = 0
        return self._chunks[-1], 0

    def _exhausted(self, size: int, limit: int) -> None:
        self._failures += 1
        raise Refusal(Status.EXHAUSTED, size, self._held, limit)

    def _free(self, size: int, align: int, memory: Any) -> None:
        self._must_be_here()
        self._frees += 1
        if self._patterns:
            memory._fill(0xDD)

    def _resize(self, old: int, size: int, memory: Any, apply: Make) -> bool:
        self._must_be_here()
        if size == old:
            return True
        chunk, start = memory._place
        top = bool(self._chunks) and chunk is self._chunks[-1] and start + old == self._pos
        if not top or start < self._floor or start + size > chunk.capacity:
            return False
        if not apply():
            return False
        if self._patterns and size > old:
            memory._fill(0xAA, old)
        self._count_resize(old, size)
        self._pos = start + size
        return True

    def _forget(self, used: int, live: int) -> None:
        self._used, self._live = used, live

    def _empty(self) -> None:  # but the newest chunk stays
        self._forget(0, 0)
        self._kept.drop(0, self._wipes)
        while self._large:
            self._drop_chunk(self._large.pop())
        while len(self._chunks) > 1:
            self._drop_chunk(self._chunks.pop(-2))
        self._pos = self._floor = 0
        self._generation += 1

    def _destroy(self) -> None:
        self._empty()
        if self._chunks:
            self._drop_chunk(self._chunks.pop())

    def _mark(self) -> tuple[Any, ...]:
        place = self._generation, len(self._chunks), len(self._large), self._floor, self._pos
        self._floor = self._pos
        return self, *place, self._used, self._live, self._kept.mark()

    def check_mark(self, mark: Any) -> int:
        """INVALID_MARK: foreign, of an older generation, or ahead of the arena."""
        arena, generation, chunks, large, _, pos, used, live, _ = mark
        if (
            arena is not self
            or generation != self._generation
            or chunks > len(self._chunks)
            or large > len(self._large)
            or (chunks == len(self._chunks) and pos > self._pos)
            or used > self._used
            or live > self._live
        ):
            return Status.INVALID_MARK
        return Status.OK

    def _return_to(self, mark: Any) -> None:
        _, _, chunks, large, floor, pos, used, live, kept = mark
        self._forget(used, live)
        self._kept.drop(kept, self._wipes)
        while len(self._large) > large:
            self._drop_chunk(self._large.pop())
        # a mark from before the first chunk keeps that chunk
        while len(self._chunks) > max(chunks, 1):
            self._drop_chunk(self._chunks.pop())
        self._pos = pos
        self._floor = floor if chunks else 0
