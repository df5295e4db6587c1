"""Generated programs, run on native, on pure and on a plain model at the same time.

After each step all three have to agree on the result or the error (class, code and numbers), on every
exact counter of every allocator and budget of the chain, on which blocks are alive, and on their bytes.
Reserved bytes are bounded only, addresses are not compared.

``NATIVEMEM_TEST_EXAMPLES`` sets how many programs are run, ``NATIVEMEM_TEST_STEPS`` how long the longest are; with
either, other programs in each run, for which pytest takes ``--hypothesis-seed``. ``make differential`` does so.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from nativemem._api import load
from nativemem.errors import LeakError, NativeMemError
from nativemem.sizes import SIZE_MAX

EXAMPLES = int(os.environ.get("NATIVEMEM_TEST_EXAMPLES", "1000"))
STEPS = int(os.environ.get("NATIVEMEM_TEST_STEPS", "70"))
#: the same programs in every run, unless one asks for more of them
FIXED = not {"NATIVEMEM_TEST_EXAMPLES", "NATIVEMEM_TEST_STEPS"} & set(os.environ)
SUPERBLOCK = 65536

Op: TypeAlias = tuple[Any, ...]
Outcome: TypeAlias = tuple[Any, ...]


class Refused(Exception):
    """The model's error: name of the class, and the numbers that the real one carries."""

    def __init__(self, name: str, **state: object) -> None:
        super().__init__(name)
        self.name, self.state = name, state
        #: misuse is no failure
        self.is_want = name not in ("InvalidLayout", "LifoViolation")


def hand_back(upstream: Any, place: object, size: int, align: int) -> None:
    """Of backing memory; where upstream does not take it, it stays in use there."""
    with contextlib.suppress(Refused):
        upstream.free(place, size, align)


# --- the model: what each allocator counts and refuses, without any memory ---


class Counted:
    """The counters that every allocator has."""

    def __init__(self) -> None:
        self.used = self.peak = self.total = self.live = self.count = self.frees = self.failures = 0

    def add(self, size: int) -> None:
        self.used += size
        self.peak = max(self.peak, self.used)
        self.total += size
        self.live += 1
        self.count += 1

    def remove(self, size: int) -> None:
        self.used -= size
        self.live -= 1
        self.frees += 1

    def change(self, old: int, new: int) -> None:
        self.used += new - old
        self.peak = max(self.peak, self.used)
        self.total += max(new - old, 0)

    def numbers(self) -> tuple[int, ...]:
        return self.used, self.peak, self.total, self.live, self.count, self.frees, self.failures

    def asked(self, upstream: Any, size: int, align: int) -> object:
        """Memory of upstream, whose want of it is this one's failure."""
        try:
            return upstream.alloc(size, align)
        except Refused as refusal:
            self.failures += refusal.is_want
            raise

    def clear(self) -> None:
        """Gives back what there is, at the end."""

    def unwind(self) -> None:
        """Blocks are about to be dropped together."""


class ModelSystem(Counted):
    """Serves everything; shrinks in place."""

    def usable(self, size: int, align: int) -> int:
        return size

    def alloc(self, size: int, align: int) -> object:
        self.add(size)
        return None

    def free(self, place: object, size: int, align: int) -> None:
        self.remove(size)

    def resize(self, place: object, old: int, new: int, align: int) -> bool:
        if new > old:
            return False
        self.change(old, new)
        return True


class ModelHeap(ModelSystem):
    """Bins of 16-byte steps to 1 KiB, 64-byte steps to 2 KiB, parts of a superblock to 32 KiB; whole pages
    above. A secure one keeps 16 bytes behind each block and a page behind each span, which belong to no block."""

    def __init__(self, secure: bool) -> None:
        super().__init__()
        self.secure = secure

    BINS = (
        *range(16, 1025, 16),
        *range(1088, 2049, 64),
        *(65536 // n // 64 * 64 for n in (30, 28, 26, *range(24, 7, -1))),
        *(262144 // n // 64 * 64 for n in (30, 28, 26, 24, 22, *range(20, 7, -1))),
    )

    def usable(self, size: int, align: int) -> int:
        return size if self.secure else self.held(size, align)

    def held(self, size: int, align: int) -> int:
        size += 16 * self.secure
        cells = (cell for cell in self.BINS if cell >= size and cell % align == 0)
        return next(cells, -(-(size + 4096 * self.secure) // 4096) * 4096)

    def resize(self, place: object, old: int, new: int, align: int) -> bool:
        if self.held(old, align) != self.held(new, align):
            return False
        self.change(old, new)
        return True


@dataclass(eq=False)
class Chunk:
    """Backing of an arena; ``place`` is the upstream's."""

    capacity: int
    place: object


class ModelArena(Counted):
    """Chunks that double; a position is (chunk, offset)."""

    def __init__(self, upstream: Any, hint: int, cap: int, grow: bool) -> None:
        super().__init__()
        self.upstream, self.cap, self.grow = upstream, cap, grow
        self.hint = min(hint, cap) if cap and not grow else hint
        self.heads: list[Chunk] = []
        self.large: list[Chunk] = []
        self.pos = self.floor = 0

    def usable(self, size: int, align: int) -> int:
        return size

    @property
    def reserved(self) -> int:
        return sum(chunk.capacity for chunk in self.heads + self.large)

    def take(self, capacity: int, align: int = 4096) -> Chunk:
        return Chunk(capacity, self.asked(self.upstream, capacity, align))

    def give(self, chunk: Chunk) -> None:
        hand_back(self.upstream, chunk.place, chunk.capacity, 4096)

    def exhausted(self, size: int, limit: int) -> Refused:
        self.failures += 1
        left = max(limit - self.reserved, 0) if self.grow or not self.heads else 0
        rest = self.heads[-1].capacity - self.pos if self.heads else 0
        return Refused(
            "ArenaExhausted",
            requested=size,
            used=self.used,
            reserved=self.reserved,
            limit=limit,
            largest_free=max(left, rest),
        )

    def alloc(self, size: int, align: int) -> object:
        own = align > 4096  # a superblock: where it lies in a chunk would depend on the chunk's address
        if self.heads and not own:
            offset = -(-self.pos // align) * align
            if offset + size <= self.heads[-1].capacity:
                self.pos = offset + size
                self.add(size)
                return self.heads[-1], offset
        left = self.cap - self.reserved if self.cap else SIZE_MAX
        if not self.grow:
            if self.heads or size > self.hint or own:
                raise self.exhausted(size, self.hint)
            want = self.hint
        else:
            want = min(2 * self.heads[-1].capacity if self.heads else self.hint, left)
            if size > want or own:
                if size > left:
                    raise self.exhausted(size, self.cap)
                self.large.append(self.take(size, max(align, 4096)))
                self.add(size)
                return self.large[-1], 0
        self.heads.append(self.take(want))
        self.pos, self.floor = size, 0
        self.add(size)
        return self.heads[-1], 0

    def free(self, place: object, size: int, align: int) -> None:
        self.frees += 1

    def resize(self, place: Any, old: int, new: int, align: int) -> bool:
        """Only the newest block, and that only if no mark is newer."""
        chunk, offset = place
        if new == old:
            return True
        top = bool(self.heads) and chunk is self.heads[-1] and offset + old == self.pos
        if not top or offset < self.floor or offset + new > chunk.capacity:
            return False
        self.change(old, new)
        self.pos = offset + new
        return True

    def is_good(self, mark: tuple[int, ...]) -> bool:
        return True

    def release(self, mark: tuple[int, ...]) -> None:
        heads, large, floor, pos, used, live = mark
        while len(self.large) > large:
            self.give(self.large.pop())
        while len(self.heads) > max(heads, 1):
            self.give(self.heads.pop())
            self.pos = self.heads[-1].capacity
        self.pos, self.floor = (pos, floor) if heads else (0, 0)
        self.used, self.live = used, live

    def reset(self) -> None:
        for chunk in self.large[::-1] + self.heads[-2::-1]:
            self.give(chunk)
        self.heads, self.large = self.heads[-1:], []
        self.pos = self.floor = 0
        self.used = self.live = 0

    def mark(self) -> tuple[int, ...]:
        floor, self.floor = self.floor, self.pos
        return len(self.heads), len(self.large), floor, self.pos, self.used, self.live

    def clear(self) -> None:
        self.reset()
        for chunk in self.heads:
            self.give(chunk)


class ModelStack(Counted):
    """A place is an entry: where the block starts and ends, and where the one below ended."""

    def __init__(self, upstream: Any, capacity: int) -> None:
        super().__init__()
        self.upstream, self.capacity = upstream, capacity
        self.place = upstream.alloc(capacity, 4096)
        self.entries: list[list[int]] = []
        self.pos = 0
        self.unwinds = False

    def usable(self, size: int, align: int) -> int:
        return size

    def alloc(self, size: int, align: int) -> object:
        start = -(-self.pos // align) * align
        if start + size > self.capacity or align > 4096:
            self.failures += 1
            raise Refused(
                "CapacityExceeded",
                requested=size,
                used=self.pos,
                limit=self.capacity,
                largest_free=self.capacity - self.pos,
            )
        self.entries.append([start, start + size, self.pos])
        self.pos = start + size
        self.add(size)
        return self.entries[-1]

    def is_top(self, place: object) -> bool:
        return bool(self.entries) and self.entries[-1] is place

    def pop(self) -> None:
        start, end, self.pos = self.entries.pop()
        self.used -= end - start
        self.live -= 1

    def free(self, place: object, size: int, align: int) -> None:
        if self.is_top(place):
            self.pop()
        elif not self.unwinds:
            raise Refused("LifoViolation", requested=size)
        self.frees += 1

    def resize(self, place: Any, old: int, new: int, align: int) -> bool:
        if new == old:
            return True
        if not self.is_top(place) or place[0] + new > self.capacity:
            return False
        self.change(old, new)
        self.pos = place[1] = place[0] + new
        return True

    def unwind(self) -> None:
        self.unwinds = True

    def mark(self) -> tuple[Any, ...]:
        return len(self.entries), self.entries[-1] if self.entries else None

    def is_good(self, mark: tuple[Any, ...]) -> bool:
        depth, top = mark
        return depth <= len(self.entries) and (depth == 0 or self.entries[depth - 1] is top)

    def release(self, mark: tuple[Any, ...]) -> None:
        while len(self.entries) > mark[0]:
            self.pop()
        self.unwinds = False

    def reset(self) -> None:
        self.release((0, None))

    def clear(self) -> None:
        hand_back(self.upstream, self.place, self.capacity, 4096)


class ModelPool(Counted):
    """Cells, as many again when it grows."""

    def __init__(self, upstream: Any, block_size: int, count: int, grow: bool) -> None:
        super().__init__()
        self.upstream, self.grow = upstream, grow
        self.cell = -(-block_size // 16) * 16
        self.align = min(self.cell & -self.cell, 4096)
        self.chunks = [(count * self.cell, upstream.alloc(count * self.cell, self.align))]

    def usable(self, size: int, align: int) -> int:
        return self.cell

    def alloc(self, size: int, align: int) -> object:
        if size > self.cell or align > self.align:
            raise Refused("InvalidLayout", requested=size, used=self.used, limit=self.cell)
        reserved = sum(size for size, _ in self.chunks)
        if self.live * self.cell == reserved:
            if not self.grow:
                self.failures += 1
                raise Refused("PoolExhausted", requested=size, used=self.used, limit=reserved, largest_free=0)
            self.chunks.append((reserved, self.asked(self.upstream, reserved, self.align)))
        self.add(size)
        return None

    def free(self, place: object, size: int, align: int) -> None:
        self.remove(size)

    def resize(self, place: object, old: int, new: int, align: int) -> bool:
        if new > self.cell:
            return False
        self.change(old, new)
        return True

    def clear(self) -> None:
        for size, place in self.chunks[::-1]:
            hand_back(self.upstream, place, size, self.align)


@dataclass(eq=False)
class Superblock:
    """Cells of one bin; ``place`` is the upstream's."""

    cell: int
    cells: int
    place: object
    used: int = 0


class ModelSlab(Counted):
    """Which superblock a cell comes from decides what upstream sees, so that is modelled."""

    def __init__(self, upstream: Any, bins: tuple[int, ...]) -> None:
        super().__init__()
        self.upstream = upstream
        self.free_ones: dict[int, list[Superblock]] = {cell: [] for cell in bins}

    def bin_of(self, size: int, align: int) -> int | None:
        return next((c for c in self.free_ones if c >= size and c % align == 0), None)

    def usable(self, size: int, align: int) -> int:
        return self.bin_of(size, align) or self.upstream.usable(size, align)

    def alloc(self, size: int, align: int) -> object:
        cell = self.bin_of(size, align)
        place = self.asked(self.upstream, size, align) if cell is None else self.take(cell)
        self.add(size)
        return place

    def take(self, cell: int) -> Superblock:
        ones = self.free_ones[cell]
        if not ones:
            step = cell & -cell
            start = -(-192 // step) * step
            place = self.asked(self.upstream, SUPERBLOCK, SUPERBLOCK)
            ones.append(Superblock(cell, (SUPERBLOCK - start) // cell, place))
        one = ones[-1]
        one.used += 1
        if one.used == one.cells:
            ones.remove(one)
        return one

    def free(self, place: Any, size: int, align: int) -> None:
        cell = self.bin_of(size, align)
        if cell is None:
            self.upstream.free(place, size, align)
        else:
            ones = self.free_ones[cell]
            place.used -= 1
            if place not in ones:
                ones.append(place)
            if place.used == 0 and any(one.used == 0 for one in ones if one is not place):
                ones.remove(place)
                hand_back(self.upstream, place.place, SUPERBLOCK, SUPERBLOCK)
        self.remove(size)

    def resize(self, place: object, old: int, new: int, align: int) -> bool:
        cell = self.bin_of(old, align)
        if self.bin_of(new, align) != cell:
            return False
        if cell is None and not self.upstream.resize(place, old, new, align):
            return False
        self.change(old, new)
        return True

    def trim(self) -> None:
        for cell, ones in self.free_ones.items():
            for one in ones:
                if one.used == 0:
                    hand_back(self.upstream, one.place, SUPERBLOCK, SUPERBLOCK)
            self.free_ones[cell] = [one for one in ones if one.used]

    clear = trim


class ModelBudget:
    """A limit, with a parent."""

    def __init__(self, name: str, limit: int, parent: ModelBudget | None) -> None:
        self.name, self.limit, self.parent = name, limit, parent
        self.used = self.peak = self.denied = 0
        self.last: tuple[Any, ...] | None = None

    def chain(self) -> list[ModelBudget]:
        return [self, *(self.parent.chain() if self.parent else [])]

    def charge(self, n: int) -> None:
        self.hold(n)
        self.settle()

    def settle(self) -> None:
        for budget in self.chain():
            budget.peak = max(budget.peak, budget.used)

    def hold(self, n: int) -> None:
        """A charge that shows in the peak once it is settled: when the memory was there as well."""
        for budget in self.chain():
            if budget.used + n > budget.limit:
                denial = (n, budget.used, budget.limit, budget.name)
                for witness in {self, budget}:
                    witness.denied += 1
                    witness.last = denial
                raise Refused(
                    "BudgetExceeded",
                    requested=n,
                    used=budget.used,
                    limit=budget.limit,
                    owner=budget.name,
                )
        for budget in self.chain():
            budget.used += n

    def release(self, n: int) -> None:
        for budget in self.chain():
            budget.used -= n

    def numbers(self) -> tuple[Any, ...]:
        return self.used, self.peak, self.limit, self.denied, self.last


class ModelLimited(Counted):
    """Charges first, and takes it back where upstream refuses."""

    def __init__(self, upstream: Any, budget: ModelBudget) -> None:
        super().__init__()
        self.upstream, self.budget = upstream, budget

    def usable(self, size: int, align: int) -> int:
        return self.upstream.usable(size, align)

    def charge(self, n: int) -> None:
        try:
            self.budget.hold(n)
        except Refused:
            self.failures += 1
            raise

    def alloc(self, size: int, align: int) -> object:
        self.charge(size)
        try:
            place = self.asked(self.upstream, size, align)
        except Refused:
            self.budget.release(size)
            raise
        self.budget.settle()
        self.add(size)
        return place

    def free(self, place: object, size: int, align: int) -> None:
        self.upstream.free(place, size, align)
        self.budget.release(size)
        self.remove(size)

    def resize(self, place: object, old: int, new: int, align: int) -> bool:
        if new > old:
            self.charge(new - old)
        try:
            done = self.upstream.resize(place, old, new, align)
        except Refused:
            # the growth was charged here but a budget below refused it
            self.budget.release(max(new - old, 0))
            raise
        if not done:
            self.budget.release(max(new - old, 0))
            return False
        self.budget.release(max(old - new, 0))
        self.budget.settle()
        self.change(old, new)
        return True

    def clear(self) -> None:
        self.budget.release(self.used)
        self.used = 0


class ModelTraced(Counted):
    """Counts, and sorts sizes into buckets."""

    def __init__(self, upstream: Any) -> None:
        super().__init__()
        self.upstream = upstream
        self.sizes: list[int] = []

    def usable(self, size: int, align: int) -> int:
        return self.upstream.usable(size, align)

    def alloc(self, size: int, align: int) -> object:
        place = self.asked(self.upstream, size, align)
        self.add(size)
        self.sizes.append(self.bucket(size))
        return place

    @staticmethod
    def bucket(size: int) -> int:
        """The largest size of the bucket: four buckets per doubling."""
        if size <= 4:
            return size
        quarter = (1 << ((size - 1).bit_length() - 1)) // 4
        return -(-size // quarter) * quarter

    def percentiles(self) -> dict[int, int] | None:
        ordered = sorted(self.sizes)
        if not ordered:
            return None
        return {p: ordered[-(-p * len(ordered) // 100) - 1] for p in (50, 90, 99)}

    def free(self, place: object, size: int, align: int) -> None:
        self.upstream.free(place, size, align)
        self.remove(size)

    def resize(self, place: object, old: int, new: int, align: int) -> bool:
        done: bool = self.upstream.resize(place, old, new, align)
        if done:
            self.change(old, new)
        return done


@dataclass(eq=False)
class ModelBlock:
    """A block of the model; ``data`` is what its bytes should be."""

    level: int
    size: int
    align: int
    serial: int
    place: object
    #: number among all blocks of the program
    number: int
    data: bytes = b""
    state: str = "live"
    exports: int = 0
    #: whether the program still refers to it
    held: bool = True


@dataclass(eq=False)
class ModelLevel:
    """One allocator of a chain of the model. Levels with the same ``life`` share their blocks."""

    core: Any
    wraps: bool
    autofree: bool
    life: int
    closed: bool = False
    generation: int = 0
    marks: list[Any] = field(default_factory=list)
    #: blocks of the program when the latest mark of this generation was taken
    marked: int = -1
    #: what new bytes read, where that is promised
    pattern: int | None = None
    #: what alloc takes without a size
    natural: int = 0


class Model:
    """The chain, its blocks and its lifetimes, in the plainest way."""

    def __init__(self, spec: list[Op]) -> None:
        self.levels: list[ModelLevel] = []
        self.budgets: list[ModelBudget] = []
        self.blocks: list[ModelBlock] = []
        self.serial = 0
        for kind, *arguments in spec:
            self.push(kind, *arguments)

    def push(self, kind: str, *arguments: Any) -> None:
        """One more allocator on the top of the chain."""
        below = self.levels[-1].core if self.levels else None
        life = self.levels[-1].life if self.levels else 0
        if kind == "System":
            level = ModelLevel(ModelSystem(), False, True, 0)
        elif kind == "Heap":
            level = ModelLevel(ModelHeap(*arguments), False, True, 0)
        elif kind == "Arena":
            hint, cap, grow, patterns = arguments
            level = ModelLevel(ModelArena(below, hint, cap or 0, grow), False, False, life + 1)
            level.pattern = 0xAA if patterns else None
        elif kind == "Stack":
            capacity, patterns = arguments
            level = ModelLevel(ModelStack(below, capacity), False, False, life + 1)
            level.pattern = 0xCC if patterns else None
        elif kind == "Pool":
            level = ModelLevel(ModelPool(below, *arguments), False, True, life + 1, natural=arguments[0])
        elif kind == "Slab":
            level = ModelLevel(ModelSlab(below, arguments[0]), False, True, life + 1)
        elif kind == "Limited":
            limit, nested = arguments
            parent = self.budgets[-1] if nested and self.budgets else None
            self.budgets.append(ModelBudget(f"b{len(self.budgets)}", limit, parent))
            level = ModelLevel(ModelLimited(below, self.budgets[-1]), True, True, life)
        else:
            level = ModelLevel(ModelTraced(below), True, True, life)
        if level.wraps:
            level.pattern, level.natural = self.levels[-1].pattern, self.levels[-1].natural
        self.levels.append(level)

    # helpers

    def opened(self, level: int) -> ModelLevel:
        if self.levels[level].closed:
            raise Refused("StaleHandle")
        return self.levels[level]

    def release_block(self, block: ModelBlock, state: str) -> None:
        if block.size and (state == "freed" or self.levels[block.level].autofree):
            core = self.levels[block.level].core
            core.free(block.place, block.size, block.align)
        block.state = state

    def alive(self, level: int) -> list[ModelBlock]:
        return [b for b in reversed(self.blocks) if b.level == level and b.state == "live"]

    def retire(self, block: ModelBlock) -> None:
        """Makes it stale, whether its allocator takes it back or not."""
        with contextlib.suppress(Refused):
            self.release_block(block, "stale")
        block.state = "stale"

    def sweep(self, life: int) -> bool:
        """Gives back the orphans that can be by now: collected, and not taken back then."""
        any_ = False
        for block in reversed(self.blocks):
            if block.state == "orphan" and self.levels[block.level].life == life:
                with contextlib.suppress(Refused):
                    self.release_block(block, "freed")
                    any_ = True
        return any_

    def let_go(self, block: ModelBlock) -> None:
        """Nothing refers to the block any more."""
        if block.held or block.exports or block.state != "live":
            return
        if not self.levels[block.level].autofree:
            block.state = "gone"
            return
        try:
            self.release_block(block, "freed")
        except Refused:
            block.state = "orphan"
        else:
            self.sweep(self.levels[block.level].life)

    # operations

    def alloc(self, level: int, size: int, align: int) -> ModelBlock:
        self.opened(level)
        place = self.take(level, size, align) if size else None
        self.serial += 1
        block = ModelBlock(level, size, align, self.serial, place, len(self.blocks))
        self.blocks.append(block)
        return block

    def take(self, level: int, size: int, align: int) -> object:
        core = self.levels[level].core
        try:
            return core.alloc(size, align)
        except Refused as refusal:
            if self.sweep(self.levels[level].life):
                with contextlib.suppress(Refused):
                    return core.alloc(size, align)
            raise refusal from None

    def alloc_many(self, level: int, sizes: list[int], align: int) -> list[ModelBlock]:
        base = next(k for k in range(level, -1, -1) if not self.levels[k].wraps)
        in_arena = bool(sizes) and isinstance(self.levels[base].core, ModelArena)
        mark = self.mark(base) if in_arena else None
        before = len(self.blocks)
        try:
            for size in sizes:
                self.alloc(level, size, align)
        except Refused:
            if mark is not None:
                try:
                    self.release(base, mark)
                except Refused:  # another allocator stands on the arena
                    mark = None
            if mark is None:
                for block in self.blocks[: before - 1 : -1] if before else self.blocks[::-1]:
                    self.free(block, level)
            del self.blocks[before:]
            raise
        finally:
            if in_arena:
                self.levels[base].marks[:] = [m for m in self.levels[base].marks if m is not mark]
        return self.blocks[before:]

    def check(self, block: ModelBlock, level: int, when_freed: str) -> None:
        if block.level != level:
            raise Refused("ForeignBlock")
        if block.state == "freed":
            raise Refused(when_freed)
        if block.state == "stale":
            raise Refused("StaleBlock")
        if block.exports:
            raise Refused("BufferError")

    def free(self, block: ModelBlock, level: int) -> None:
        self.check(block, level, "DoubleFree")
        self.release_block(block, "freed")
        self.sweep(self.levels[level].life)

    def resize(self, block: ModelBlock, level: int, size: int) -> bool:
        self.check(block, level, "StaleBlock")
        if not block.size or not size:
            return block.size == size
        core = self.levels[level].core
        done: bool = core.resize(block.place, block.size, size, block.align)
        if done:
            block.size = size
        return done

    def drop_newer(self, level: int, serial: int) -> None:
        life = self.levels[level].life
        sharing = [k for k, one in enumerate(self.levels) if one.life == life]
        affected = [
            b
            for b in reversed(self.blocks)
            if b.level in sharing and b.serial > serial and b.state in ("live", "orphan")
        ]
        on_top = sharing[-1] + 1
        stands = on_top < len(self.levels) and not self.levels[on_top].closed
        if stands or any(b.exports for b in affected):
            raise Refused("BufferError")
        self.levels[level].core.unwind()
        for block in affected:
            self.retire(block)

    def reset(self, level: int) -> None:
        arena = self.opened(level)
        self.drop_newer(level, 0)
        for one in self.levels:
            if one.life == arena.life and not one.closed:
                one.generation += 1
        arena.core.reset()
        arena.marks.clear()
        arena.marked = -1

    def mark(self, level: int) -> object:
        arena = self.opened(level)
        mark = (self.serial, arena.core.mark())
        arena.marks.append(mark)
        if isinstance(arena.core, ModelArena):
            arena.marked = len(self.blocks)
        return mark

    def release(self, level: int, mark: Any) -> None:
        arena = self.opened(level)
        if not any(mark is one for one in arena.marks) or not arena.core.is_good(mark[1]):
            raise Refused("InvalidMark")
        self.drop_newer(level, mark[0])
        arena.core.release(mark[1])
        while arena.marks.pop() is not mark:
            pass

    def trim(self, level: int) -> None:
        core = self.opened(level).core
        if isinstance(core, ModelSlab):
            core.trim()

    def percentiles(self, level: int) -> dict[int, int] | None:
        result: dict[int, int] | None = self.opened(level).core.percentiles()
        return result

    def close(self, level: int) -> None:
        this = self.levels[level]
        if this.closed:
            return
        if isinstance(this.core, ModelTraced) and this.core.live:
            raise Refused("LeakError", blocks=this.core.live, used=this.core.used)
        stands = level + 1 < len(self.levels) and not self.levels[level + 1].closed
        mine = [b for b in reversed(self.blocks) if b.level == level and b.state in ("live", "orphan")]
        if stands or any(block.exports for block in mine):
            raise Refused("BufferError")
        for block in mine:
            self.retire(block)
        this.core.clear()
        this.closed = True

    def set_limit(self, index: int, limit: int) -> None:
        self.budgets[index].limit = limit

    def observe(self) -> list[Any]:
        seen: list[Any] = []
        for number, level in enumerate(self.levels):
            sizes = [block.size for block in self.alive(number)]
            core = level.core
            seen.append((level.closed, level.generation, sizes))
            seen.append(None if level.closed else core.numbers())
        seen += [budget.numbers() for budget in self.budgets]
        return seen


# --- the real thing, in the same shape ---


class Real:
    """The same operations on one backend."""

    def __init__(self, name: str, spec: list[Op]) -> None:
        self.nm = load(name)
        self.levels: list[Any] = []
        self.budgets: list[Any] = []
        for kind, *arguments in spec:
            self.push(kind, *arguments)

    def push(self, kind: str, *arguments: Any) -> None:
        """One more allocator on the top of the chain."""
        nm, upstream = self.nm, self.levels[-1] if self.levels else None
        level: Any
        if kind == "System":
            level = nm.System()
        elif kind == "Heap":
            level = nm.Heap(secure=arguments[0])
        elif kind == "Arena":
            *arguments, patterns = arguments
            level = nm.Arena(*arguments, upstream=upstream, patterns=patterns)
        elif kind == "Stack":
            level = nm.Stack(arguments[0], upstream=upstream, patterns=arguments[1])
        elif kind in ("Pool", "Slab"):
            level = getattr(nm, kind)(*arguments, upstream=upstream)
        elif kind == "Limited":
            limit, nested = arguments
            parent = self.budgets[-1] if nested and self.budgets else None
            self.budgets.append(nm.Budget(limit, f"b{len(self.budgets)}", parent))
            level = nm.Limited(upstream, self.budgets[-1])
        else:
            level = nm.Traced(upstream, histogram=True)
        self.levels.append(level)

    def observe(self) -> list[Any]:
        seen: list[Any] = []
        for level in self.levels:
            sizes = [] if level.closed else [block.size for block in level.blocks()]
            seen.append((level.closed, level.generation, sizes))
            if level.closed:
                seen.append(None)
                continue
            s = level.stats
            assert s.current <= s.reserved
            seen.append((s.current, s.peak, s.total, s.live, s.count, s.frees, s.failures))
        for budget in self.budgets:
            last = budget.last_denial
            denial = last and (last.requested, last.used, last.limit, last.owner)
            seen.append((budget.used, budget.peak, budget.limit, budget.denied, denial))
        return seen


#: numbers of a refusal that follow from others
FOLLOWS = ("capacity", "available", "utilization")


#: numbers that no two allocators share
IDS = ("allocator", "given_by")


def outcome(call: Callable[[], object]) -> tuple[Outcome, object]:
    """What came out, comparable; and the value itself."""
    try:
        value = call()
    except Refused as refusal:
        return ("error", refusal.name, refusal.state), None
    except AssertionError:
        raise
    except NativeMemError as error:
        state = {key: value for key, value in error.state.items() if key not in IDS}
        told = (str(error), state, error.layout, error.suggestion)
        if error.state != state:  # each allocator of the process has its own
            told = (re.sub(r"(?<=[a-z] )\d+", "id", told[0]), *told[1:])
        state = {key: value for key, value in state.items() if key not in FOLLOWS}
        return ("error", type(error).__name__, state, repr(told)), None
    except Exception as error:
        return ("error", type(error).__name__, {}, str(error)), None
    return ("value", value if value is None or isinstance(value, (bool, dict)) else "object"), value


class Program:
    """Runs one generated program on every participant and compares after each step."""

    def __init__(self, spec: list[Op]) -> None:
        names = ["pure"]
        if importlib.util.find_spec("nativemem._core") is not None:
            names.append("native")
        elif os.environ.get("CI"):
            pytest.fail("CI is set, but the C core nativemem._core is not built")
        self.spec: list[Op] = []
        self.model = Model([])
        self.reals = [Real(name, []) for name in names]
        #: per block: the model's, then that of each backend; None where the program let go of it
        self.blocks: list[list[Any]] = []
        self.views: list[tuple[int, list[Any]]] = []
        self.marks: list[tuple[int, list[Any]]] = []
        self.stamp = 0
        for one in spec:
            self.push(one)
            self.compare(repr(one))

    #: operations that were compared, in all programs
    operations = 0

    # running

    def push(self, one: Op) -> None:
        """The next allocator of the chain; a stack or a pool may be refused its memory, and is left out then."""
        made = self.agree(
            f"making {one}",
            [
                lambda: self.model.push(*one),
                *(lambda r=r: r.push(*one) for r in self.reals),
            ],
        )
        if made is not None:
            self.spec.append(one)

    def agree(self, what: str, calls: list[Callable[[], object]]) -> list[object] | None:
        """Compares the outcomes; their values where there is no error."""
        results = [outcome(call) for call in calls]
        (expected, _), *others = results
        for (got, _), real in zip(others, self.reals, strict=True):
            assert got[:3] == expected[:3], f"{what}: {real.nm.name} differs from the model"
        messages = {got[3] for got, _ in others if got[0] == "error"}
        assert len(messages) <= 1, f"{what}: the backends word the error differently"
        return None if expected[0] == "error" else [value for _, value in results]

    def compare(self, what: str) -> None:
        expected = self.model.observe()
        for real in self.reals:
            assert real.observe() == expected, f"after {what}: {real.nm.name} differs"

    def run(self, ops: list[Op]) -> None:
        for op in ops:
            self.step(op)
        self.finish()

    def step(self, op: Op) -> None:
        kind, *arguments = op
        getattr(self, kind)(*arguments)
        self.compare(repr(op))
        Program.operations += 1

    def finish(self) -> None:
        for number in range(len(self.blocks)):
            self.intact(self.blocks[number])
        self.end()

    def end(self) -> None:
        """Lets go of everything but the bottom: nothing may stay behind in it."""
        for _, views in self.views:
            for view in views:
                view.release()
        bottoms = [real.levels[0] for real in self.reals if not real.levels[0].closed]
        chains = [real.levels[1:] for real in self.reals]
        marked = bool(self.marks)
        for rows in (self.views, self.blocks, self.marks, self.reals):
            rows.clear()
        while chains:
            levels = chains.pop()
            while levels:
                level = levels.pop()
                if marked:  # an arena and its marks are a cycle, which only the collector frees
                    with contextlib.suppress(LeakError):  # of an orphan: it goes with its wrapper
                        level.close()
                del level
        for bottom in bottoms:
            stats = bottom.stats
            assert (stats.current, stats.live) == (0, 0), "memory stayed behind"
            assert stats.frees == stats.count

    def pick(self, index: int) -> list[Any] | None:
        held = [row for row in self.blocks if row[0] is not None and row[0].held]
        return held[index % len(held)] if held else None

    def level(self, index: int, *kinds: str) -> int | None:
        fitting = [k for k, (kind, *_) in enumerate(self.spec) if not kinds or kind in kinds]
        return fitting[index % len(fitting)] if fitting else None

    # operations of a program

    def alloc(self, index: int, size: int, align: int) -> None:
        level = self.level(index)
        row = self.agree(
            f"alloc({size}, {align})",
            [
                lambda: self.model.alloc(level, size, align),
                *(lambda r=r: r.levels[level].alloc(size, align) for r in self.reals),
            ],
        )
        if row is not None:
            self.admit(row)

    def alloc_natural(self, index: int) -> None:
        """Of the size that a pool's cells are for."""
        level = self.level(index)
        size = self.model.levels[level].natural
        row = size and self.agree(
            "alloc()",
            [
                lambda: self.model.alloc(level, size, 16),
                *(lambda r=r: r.levels[level].alloc() for r in self.reals),
            ],
        )
        if row:
            self.admit(row)

    def alloc_many(self, index: int, sizes: list[int], align: int) -> None:
        level = self.level(index)
        lists = self.agree(
            f"alloc_many({sizes}, {align})",
            [
                lambda: self.model.alloc_many(level, sizes, align),
                *(lambda r=r: r.levels[level].alloc_many(sizes, align) for r in self.reals),
            ],
        )
        if lists is not None:
            for row in zip(*lists, strict=True):
                self.admit(list(row))

    def admit(self, row: list[Any]) -> None:
        """A new block: what is promised of it, and bytes of its own."""
        self.blocks.append(row)
        model, *reals = row
        level = self.model.levels[model.level]
        usable = level.core.usable(model.size, model.align) if model.size else 0
        for block in reals:
            assert block.usable == usable
            assert block.size == model.size
            assert block.address % model.align == 0
            if level.pattern is not None:
                with memoryview(block) as view:
                    assert bytes(view) == bytes([level.pattern]) * model.size
        self.fill(row)

    def write(self, index: int) -> None:
        row = self.pick(index)
        if row is not None and row[0].state == "live":
            self.fill(row)

    def fill(self, row: list[Any]) -> None:
        """Writes bytes that no other block has."""
        self.stamp += 1
        model, *reals = row
        unit = self.stamp.to_bytes(3, "little")
        model.data = (unit * (model.size // 3 + 1))[: model.size]
        for block in reals:
            with memoryview(block) as view:
                view[:] = model.data

    def read(self, index: int) -> None:
        row = self.pick(index)
        if row is not None:
            self.intact(row)

    def intact(self, row: list[Any]) -> None:
        model, *reals = row
        for block in reals:
            assert block.alive == (model.state == "live")
            assert block.size == len(block) == model.size
            if block.alive:
                with memoryview(block) as view:
                    assert bytes(view) == model.data

    def free(self, index: int) -> None:
        row = self.pick(index)
        if row is not None:
            model, *reals = row
            self.agree(
                "block.free()",
                [lambda: self.model.free(model, model.level), *(b.free for b in reals)],
            )

    def free_newest(self, index: int) -> None:
        """As a stack wants it."""
        level = self.level(index)
        rows = [k for k, row in enumerate(self.blocks) if row[0].held and row[0].level == level]
        live = [k for k in rows if self.blocks[k][0].state == "live"]
        if live:
            model, *reals = self.blocks[live[-1]]
            self.agree(
                "block.free() of the newest",
                [lambda: self.model.free(model, level), *(b.free for b in reals)],
            )

    def free_through(self, index: int, number: int) -> None:
        row, level = self.pick(index), self.level(number)
        if row is not None:
            model, *reals = row
            self.agree(
                "free(block)",
                [
                    lambda: self.model.free(model, level),
                    *(lambda r=r, b=b: r.levels[level].free(b) for r, b in zip(self.reals, reals, strict=True)),
                ],
            )

    def resize(self, index: int, size: int) -> None:
        row = self.pick(index)
        if row is None:
            return
        model, *reals = row
        if any(model.number < level.marked for level in self.model.levels[: model.level + 1]):
            return  # how far a block below a mark may grow is not promised
        done = self.agree(
            f"resize to {size}",
            [
                lambda: self.model.resize(model, model.level, size),
                *(
                    lambda r=r, b=b: r.levels[model.level].resize(b, size)
                    for r, b in zip(self.reals, reals, strict=True)
                ),
            ],
        )
        assert [block.size for block in reals] == [model.size] * len(reals)
        if done is not None and done[0] is True:
            old = model.data
            keep = min(len(old), model.size)
            pattern = self.model.levels[model.level].pattern
            for block in reals:
                with memoryview(block) as view:
                    assert bytes(view[:keep]) == old[:keep]
                    assert pattern is None or bytes(view[keep:]) == bytes([pattern]) * (model.size - keep)
                    view[keep:] = bytes(model.size - keep)
            model.data = old[:keep] + bytes(model.size - keep)

    def view(self, index: int) -> None:
        row = self.pick(index)
        if row is None or row[0].state != "live":
            return
        row[0].exports += 1
        self.views.append((self.blocks.index(row), [memoryview(block) for block in row[1:]]))

    def unview(self, index: int) -> None:
        if not self.views:
            return
        number, views = self.views.pop(index % len(self.views))
        for view in views:
            view.release()
        views.clear()
        model = self.blocks[number][0]
        model.exports -= 1
        self.model.let_go(model)

    def let_go(self, index: int) -> None:
        """The program forgets a block; a view may still hold it."""
        row = self.pick(index)
        if row is not None:
            model = row[0]
            model.held = False
            row[1:] = []
            self.model.let_go(model)

    def reset(self, index: int) -> None:
        level = self.level(index, "Arena", "Stack")
        if level is not None:
            self.agree(
                "reset()",
                [
                    lambda: self.model.reset(level),
                    *(lambda r=r: r.levels[level].reset() for r in self.reals),
                ],
            )

    def mark(self, index: int) -> None:
        level = self.level(index, "Arena", "Stack")
        if level is None:
            return
        row = self.agree(
            "mark()",
            [
                lambda: self.model.mark(level),
                *(lambda r=r: r.levels[level].mark() for r in self.reals),
            ],
        )
        if row is not None:
            self.marks.append((level, row))

    def release(self, index: int) -> None:
        if not self.marks:
            return
        level, (mark, *reals) = self.marks[index % len(self.marks)]
        self.agree(
            "release(mark)",
            [
                lambda: self.model.release(level, mark),
                *(lambda r=r, m=m: r.levels[level].release(m) for r, m in zip(self.reals, reals, strict=True)),
            ],
        )

    def trim(self, index: int) -> None:
        level = self.level(index, "Slab", "Heap")
        if level is not None:
            self.agree(
                "trim()",
                [
                    lambda: self.model.trim(level),
                    *(lambda r=r: r.levels[level].trim() for r in self.reals),
                ],
            )

    def percentiles(self, index: int) -> None:
        level = self.level(index, "Traced")
        if level is not None:
            self.agree(
                "percentiles()",
                [
                    lambda: self.model.percentiles(level),
                    *(lambda r=r: r.levels[level].percentiles() for r in self.reals),
                ],
            )

    def close(self, index: int) -> None:
        level = self.level(index)
        self.agree(
            "close()",
            [
                lambda: self.model.close(level),
                *(lambda r=r: r.levels[level].close() for r in self.reals),
            ],
        )

    def budgets(self) -> list[Any]:
        return self.model.budgets

    def set_limit(self, index: int, limit: int) -> None:
        if self.model.budgets:
            index %= len(self.model.budgets)
            self.model.set_limit(index, limit)
            for real in self.reals:
                real.budgets[index].limit = limit


# --- generation ---

INDEX = st.integers(0, 15)
SIZES = st.one_of(
    st.integers(0, 80),
    st.integers(0, 600),
    st.integers(0, 6000),
    st.sampled_from((63, 64, 65, 4096, 32768, 32769, 65535, 65536, 65537, 70000)),
)
ALIGNS = st.sampled_from((16, 16, 16, 1, 2, 4, 8, 32, 64, 256, 1024, 4096))

OPS = st.one_of(
    st.tuples(st.just("alloc"), INDEX, SIZES, ALIGNS),
    st.tuples(st.just("alloc"), INDEX, SIZES, ALIGNS),
    st.tuples(st.just("alloc"), INDEX, SIZES, ALIGNS),
    st.tuples(st.just("alloc_many"), INDEX, st.lists(SIZES, max_size=5), ALIGNS),
    st.tuples(st.sampled_from(("alloc_natural", "free_newest")), INDEX),
    st.tuples(st.just("free"), INDEX),
    st.tuples(st.just("free_through"), INDEX, INDEX),
    st.tuples(st.just("resize"), INDEX, SIZES),
    st.tuples(st.sampled_from(("write", "read", "view", "unview", "let_go")), INDEX),
    st.tuples(st.sampled_from(("mark", "release")), INDEX),
    st.tuples(st.sampled_from(("reset", "trim", "percentiles", "close")), INDEX),
    st.tuples(st.just("set_limit"), INDEX, st.integers(1, 200_000)),
)
BOTTOM = st.sampled_from((("System",), ("System",), ("Heap", False), ("Heap", True)))
HINTS = st.sampled_from((1, 64, 100, 256, 1000, 4096, 65536))
LAYERS = st.one_of(
    st.tuples(st.just("Arena"), HINTS, st.none() | st.integers(1, 20_000), st.booleans(), st.booleans()),
    st.tuples(st.just("Arena"), HINTS, st.none(), st.just(True), st.just(False)),
    st.tuples(st.just("Stack"), st.sampled_from((100, 4096, 20_000, 300_000)), st.booleans()),
    st.tuples(
        st.just("Pool"),
        st.sampled_from((16, 100, 600, 4096, 65536)),
        st.integers(1, 12),
        st.booleans(),
    ),
    st.tuples(
        st.just("Slab"),
        st.sampled_from(((32, 64, 128, 256), (4096,), (16, 48, 1008), (2048, 4096), (64,))),
    ),
    st.tuples(st.just("Limited"), st.sampled_from((100, 5000, 70_000, 400_000)), st.booleans()),
    st.tuples(st.just("Traced")),
)
SPECS = st.builds(
    lambda bottom, layers: [bottom, *layers],
    BOTTOM,
    st.lists(LAYERS, max_size=1) | st.lists(LAYERS, min_size=2, max_size=4),
)
# left alone, lists are short; a program needs blocks to work on before it gets interesting
PROGRAMS = st.lists(OPS, min_size=1, max_size=10) | st.lists(OPS, min_size=25, max_size=max(STEPS, 25))


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=FIXED,
    database=None,
    print_blob=True,
)
@given(spec=SPECS, ops=PROGRAMS)
@example(
    spec=[("System",), ("Limited", 70_000, False), ("Slab", (4096,)), ("Traced",)],
    ops=[*[("alloc", 2, 100, 16)] * 20, *[("free", 0)] * 20, ("trim", 0), ("percentiles", 0)],
)
@example(
    spec=[("Heap", False), ("Arena", 256, 5000, True, False), ("Limited", 5000, False)],
    ops=[
        *[("alloc", 2, 200, 16)] * 8,
        ("mark", 0),
        *[("alloc", 2, 900, 64)] * 4,
        ("release", 0),
        ("reset", 0),
        ("close", 2),
        ("close", 1),
    ],
)
@example(  # orphans under blocks of others; what a reset gives back below them
    spec=[("System",), ("Stack", 4096, True), ("Limited", 5000, False), ("Traced",)],
    ops=[
        *[("alloc", k, 100, 64) for k in (2, 3, 1, 2, 3, 1)],
        ("mark", 0),
        *[("let_go", 1), ("let_go", 2), ("free_newest", 1), ("free_newest", 1)],
        ("alloc_many", 2, [10, 20, 9000], 16),
        ("release", 0),
        ("reset", 0),
    ],
)
@example(  # what was closed stays as it was
    spec=[("System",), ("Arena", 1, None, True, False), ("Traced",)],
    ops=[("alloc", 0, 0, 16), ("close", 2), ("reset", 0)],
)
@example(  # an orphan is there to the end
    spec=[("System",), ("Stack", 100, False), ("Traced",)],
    ops=[("mark", 0), ("alloc", 2, 1, 16), ("alloc", 1, 1, 16), ("let_go", 0)],
)
@example(  # a wrapper ends with an orphan above one of its live blocks
    spec=[("System",), ("Stack", 4096, False), ("Limited", 5000, False), ("Limited", 5000, False)],
    ops=[
        *[("alloc", k, 100, 16) for k in (2, 2, 3)],
        *[("let_go", 1), ("close", 3), ("close", 2)],
    ],
)
def test_programs(spec: list[Op], ops: list[Op]) -> None:
    Program(spec).run(ops)


class Machine(RuleBasedStateMachine):
    """The same operations, chosen one by one as the state is: what has nothing to work on is not tried."""

    program: Program

    @initialize(spec=SPECS)
    def build(self, spec: list[Op]) -> None:
        self.program = Program(spec)

    def has(self, *kinds: str) -> bool:
        return any(kind in kinds for kind, *_ in self.program.spec)

    @rule(index=INDEX, size=SIZES, align=ALIGNS)
    def alloc(self, index: int, size: int, align: int) -> None:
        self.program.step(("alloc", index, size, align))

    @rule(index=INDEX, sizes=st.lists(SIZES, max_size=5), align=ALIGNS)
    def alloc_many(self, index: int, sizes: list[int], align: int) -> None:
        self.program.step(("alloc_many", index, sizes, align))

    @precondition(lambda self: self.has("Pool"))
    @rule(index=INDEX)
    def alloc_natural(self, index: int) -> None:
        self.program.step(("alloc_natural", index))

    @precondition(lambda self: self.program.blocks)
    @rule(index=INDEX, verb=st.sampled_from(("free", "free_newest", "write", "read", "view", "let_go")))
    def on_a_block(self, index: int, verb: str) -> None:
        self.program.step((verb, index))

    @precondition(lambda self: self.program.blocks)
    @rule(index=INDEX, level=INDEX)
    def free_through(self, index: int, level: int) -> None:
        self.program.step(("free_through", index, level))

    @precondition(lambda self: self.program.blocks)
    @rule(index=INDEX, size=SIZES)
    def resize(self, index: int, size: int) -> None:
        self.program.step(("resize", index, size))

    @precondition(lambda self: self.program.views)
    @rule(index=INDEX)
    def unview(self, index: int) -> None:
        self.program.step(("unview", index))

    @precondition(lambda self: self.has("Arena", "Stack"))
    @rule(index=INDEX, verb=st.sampled_from(("mark", "mark", "reset")))
    def on_a_place(self, index: int, verb: str) -> None:
        self.program.step((verb, index))

    @precondition(lambda self: self.program.marks)
    @rule(index=INDEX)
    def release(self, index: int) -> None:
        self.program.step(("release", index))

    @rule(index=INDEX, verb=st.sampled_from(("trim", "percentiles", "close")))
    def on_a_level(self, index: int, verb: str) -> None:
        self.program.step((verb, index))

    @precondition(lambda self: self.program.budgets())
    @rule(index=INDEX, limit=st.integers(1, 200_000))
    def set_limit(self, index: int, limit: int) -> None:
        self.program.step(("set_limit", index, limit))

    def teardown(self) -> None:
        if hasattr(self, "program"):
            self.program.finish()


TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=max(1, EXAMPLES // 10),
    stateful_step_count=STEPS,
    deadline=None,
    derandomize=FIXED,
    database=None,
    print_blob=True,
)


def test_operations_were_counted(capsys: pytest.CaptureFixture[str]) -> None:
    """Last in this file: how many there were, for a run that lasts long."""
    with capsys.disabled():
        if not FIXED:
            print(f"\n{Program.operations} operations")
    assert Program.operations >= 10 * EXAMPLES
