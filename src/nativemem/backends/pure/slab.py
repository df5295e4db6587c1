"""The core of Slab."""

from __future__ import annotations

import weakref
from typing import Any

from ...errors import Status
from .chunks import SUPERBLOCK, Chunk, give_chunk_back
from .confined import ConfinedCore
from .counted import Make
from .lock import lock, locked
from .threads import ThreadToken, acting


class _Superblock:
    __slots__ = ("chunk", "used")

    def __init__(self, chunk: Chunk) -> None:
        self.chunk, self.used = chunk, 0


class _Bin:
    """The superblocks of one cell size; as in the native slab, those with a free cell stand on a list, the
    latest to get one first, and one empty one is kept."""

    def __init__(self, cell: int) -> None:
        divisor = cell & -cell
        start = divisor if divisor >= 192 else -(-192 // divisor) * divisor
        self.cell, self.capacity = cell, (SUPERBLOCK - start) // cell
        self.free: list[_Superblock] = []
        self.spare: _Superblock | None = None


class SlabCore(ConfinedCore):
    """The native slab's superblocks, counted; each block has memory of its own."""

    def __init__(self, upstream: Any, bins: tuple[int, ...], zero: bool) -> None:
        super().__init__()
        self._upstream, self._wipes = upstream, zero
        self._bins = [_Bin(cell) for cell in bins]
        self._all: set[_Superblock] = set()
        self._passed = 0
        self._ending = False  # keep no spares
        #: cells freed by other threads, until this one runs out
        self._remote: list[tuple[_Bin, _Superblock]] = []
        me = weakref.ref(self)

        def thread_ended(unused: object) -> None:
            slab = me()
            if slab is not None and lock is not None:  # as above
                lock.finalise(slab._return_empty)

        self._ended = thread_ended
        self._belongs_to(acting.thread)

    def _belongs_to(self, thread: ThreadToken) -> None:
        self._thread = weakref.ref(thread, self._ended)

    def check_free(self) -> int:
        """Any thread."""
        return Status.OK

    def _bin(self, size: int, align: int) -> _Bin | None:
        return next((b for b in self._bins if b.cell >= size and b.cell % align == 0), None)

    def usable(self, size: int, align: int) -> int:
        """Bytes behind a block of this layout."""
        b = self._bin(size, align)
        return self._upstream.usable(size, align) if b is None else b.cell

    def _reserved(self) -> int:
        return len(self._all) * SUPERBLOCK + self._passed

    def _alloc(self, size: int, align: int, make: Make) -> Any:
        self._must_be_here()
        b = self._bin(size, align)
        if b is None:
            memory = self._from_upstream(self._upstream, size, align, make)
            self._passed += size
        else:
            if not b.free:
                self._collect()
            if not b.free:
                self._take_superblock(b)
            memory = self._memory(size, make)
            superblock = b.free[-1]
            if b.spare is superblock:
                b.spare = None
            superblock.used += 1
            if superblock.used == b.capacity:
                b.free.pop()
            memory._place = b, superblock
        self._count_alloc(size)
        return memory

    def _take_superblock(self, b: _Bin) -> None:
        size = align = SUPERBLOCK
        chunk = self._from_upstream(self._upstream, size, align, lambda: Chunk(size, align))
        superblock = _Superblock(chunk)
        self._all.add(superblock)
        b.free.append(superblock)

    def _return_superblock(self, b: _Bin, superblock: _Superblock) -> None:
        if superblock in b.free:
            b.free.remove(superblock)
        if b.spare is superblock:
            b.spare = None
        self._all.remove(superblock)
        give_chunk_back(self._upstream, superblock.chunk)

    def _give(self, b: _Bin, superblock: _Superblock) -> None:
        if superblock.used == b.capacity:
            b.free.append(superblock)
        superblock.used -= 1
        if superblock.used == 0:
            if b.spare is None and not self._ending:
                b.spare = superblock
            else:
                self._return_superblock(b, superblock)

    def _collect(self) -> None:
        while self._remote:
            self._give(*self._remote.pop())

    def _free(self, size: int, align: int, memory: Any) -> None:
        if self._bin(size, align) is None:
            self._upstream._free(size, align, memory)
            self._passed -= size
        elif self.check():
            self._remote.append(memory._place)
            if self._thread() is None:  # no call of that thread's will collect it
                self._return_empty()
        else:
            self._give(*memory._place)
        self._count_free(size)

    def _resize(self, old: int, size: int, memory: Any, apply: Make) -> bool:
        self._must_be_here()
        b = self._bin(old, memory._align)
        if self._bin(size, memory._align) is not b:
            return False
        if b is None:
            if not self._upstream._resize(old, size, memory, apply):
                return False
            self._passed += size - old
        else:
            if not apply():
                return False
        self._count_resize(old, size)
        return True

    @locked
    def trim(self) -> int:
        """Gives every empty superblock back."""
        if self.check():
            return Status.WRONG_THREAD
        self._return_empty()
        return Status.OK

    def _return_empty(self) -> None:
        self._collect()
        for b in self._bins:
            for superblock in [s for s in b.free if s.used == 0]:
                self._return_superblock(b, superblock)

    clear = trim

    def _destroy(self) -> None:
        self._ending = True  # in a collected cycle blocks may still come
        self._return_empty()
