"""Generated programs, run on native, on pure and on a plain model at the same time.

After each step all three have to agree on the result or the error (class, code and numbers), on every
exact counter of every allocator and budget of the chain, on which blocks are alive, and on their bytes.
Reserved bytes are bounded only, addresses are not compared.

``NATIVEMEM_TEST_EXAMPLES`` sets how many programs are run.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nativemem._backend import load
from nativemem.errors import SIZE_MAX

EXAMPLES = int(os.environ.get("NATIVEMEM_TEST_EXAMPLES", "1000"))
SUPERBLOCK = 65536

Op: TypeAlias = tuple[Any, ...]
Outcome: TypeAlias = tuple[Any, ...]


class Refused(Exception):
    """The model's error: name of the class, and the numbers that the real one carries."""

    def __init__(self, name: str, **state: object) -> None:
        super().__init__(name)
        self.name, self.state = name, state


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

    def clear(self) -> None:
        pass


class ModelHeap(ModelSystem):
    """Bins of 16-byte steps to 512, then four per doubling to 32 KiB; whole 64 KiB above."""

    BINS = (
        *range(16, 513, 16),
        *(base + k * base // 4 for base in (512 << e for e in range(6)) for k in (1, 2, 3, 4)),
    )

    def usable(self, size: int, align: int) -> int:
        cells = (cell for cell in self.BINS if cell >= size and cell % align == 0)
        return next(cells, -(-size // SUPERBLOCK) * SUPERBLOCK)

    def resize(self, place: object, old: int, new: int, align: int) -> bool:
        if self.usable(old, align) != self.usable(new, align):
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
        try:
            return Chunk(capacity, self.upstream.alloc(capacity, align))
        except Refused:
            self.failures += 1
            raise

    def give(self, chunk: Chunk) -> None:
        self.upstream.free(chunk.place, chunk.capacity, 4096)

    def exhausted(self, size: int, limit: int) -> Refused:
        self.failures += 1
        return Refused("ArenaExhausted", requested=size, used=self.reserved, limit=limit)

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

    def keep(self, heads: int, large: int, floor: int, pos: int, used: int, live: int) -> None:
        while len(self.large) > large:
            self.give(self.large.pop())
        while len(self.heads) > max(heads, 1):
            self.give(self.heads.pop())
            self.pos = self.heads[-1].capacity
        self.pos, self.floor = (pos, floor) if heads else (0, 0)
        self.used, self.live = used, live

    def reset(self) -> None:
        for chunk in self.heads[:-1] + self.large:
            self.give(chunk)
        self.heads, self.large = self.heads[-1:], []
        self.pos = self.floor = 0
        self.used = self.live = 0

    def mark(self) -> tuple[int, ...]:
        floor, self.floor = self.floor, self.pos
        return len(self.heads), len(self.large), floor, self.pos, self.used, self.live

    def clear(self) -> None:
        for chunk in self.heads + self.large:
            self.give(chunk)


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
        try:
            if cell is None:
                place = self.upstream.alloc(size, align)
            else:
                place = self.take(cell)
        except Refused:
            self.failures += 1
            raise
        self.add(size)
        return place

    def take(self, cell: int) -> Superblock:
        ones = self.free_ones[cell]
        if not ones:
            step = cell & -cell
            start = -(-192 // step) * step
            place = self.upstream.alloc(SUPERBLOCK, SUPERBLOCK)
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
                self.upstream.free(place.place, SUPERBLOCK, SUPERBLOCK)
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
                    self.upstream.free(one.place, SUPERBLOCK, SUPERBLOCK)
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
            place = self.upstream.alloc(size, align)
        except Refused:
            self.budget.release(size)
            self.failures += 1
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
        pass


class ModelTraced(Counted):
    """Counts, and sorts sizes into buckets."""

    def __init__(self, upstream: Any) -> None:
        super().__init__()
        self.upstream = upstream
        self.sizes: list[int] = []

    def usable(self, size: int, align: int) -> int:
        return self.upstream.usable(size, align)

    def alloc(self, size: int, align: int) -> object:
        try:
            place = self.upstream.alloc(size, align)
        except Refused:
            self.failures += 1
            raise
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

    def clear(self) -> None:
        pass


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


class Model:
    """The chain, its blocks and its lifetimes, in the plainest way."""

    def __init__(self, spec: list[Op]) -> None:
        self.levels: list[ModelLevel] = []
        self.budgets: list[ModelBudget] = []
        self.blocks: list[ModelBlock] = []
        self.serial = 0
        for kind, *arguments in spec:
            self.push(kind, arguments)

    def push(self, kind: str, arguments: list[Any]) -> None:
        below = self.levels[-1].core if self.levels else None
        life = self.levels[-1].life if self.levels else 0
        if kind == "System":
            level = ModelLevel(ModelSystem(), False, True, 0)
        elif kind == "Heap":
            level = ModelLevel(ModelHeap(), False, True, 0)
        elif kind == "Arena":
            hint, cap, grow = arguments
            level = ModelLevel(ModelArena(below, hint, cap or 0, grow), False, False, life + 1)
        elif kind == "Slab":
            level = ModelLevel(ModelSlab(below, arguments[0]), False, True, life + 1)
        elif kind == "Limited":
            limit, nested = arguments
            parent = self.budgets[-1] if nested and self.budgets else None
            self.budgets.append(ModelBudget(f"b{len(self.budgets)}", limit, parent))
            level = ModelLevel(ModelLimited(below, self.budgets[-1]), True, True, life)
        else:
            level = ModelLevel(ModelTraced(below), True, True, life)
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

    def let_go(self, block: ModelBlock) -> None:
        """Nothing refers to the block any more."""
        if block.held or block.exports or block.state != "live":
            return
        if self.levels[block.level].autofree:
            self.release_block(block, "freed")
        else:
            block.state = "gone"

    # operations

    def alloc(self, level: int, size: int, align: int) -> ModelBlock:
        self.opened(level)
        place = self.levels[level].core.alloc(size, align) if size else None
        self.serial += 1
        block = ModelBlock(level, size, align, self.serial, place, len(self.blocks))
        self.blocks.append(block)
        return block

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
            b for b in reversed(self.blocks) if b.level in sharing and b.serial > serial and b.state == "live"
        ]
        on_top = sharing[-1] + 1
        stands = on_top < len(self.levels) and not self.levels[on_top].closed
        if stands or any(b.exports for b in affected):
            raise Refused("BufferError")
        for block in affected:
            self.release_block(block, "stale")

    def reset(self, level: int) -> None:
        arena = self.opened(level)
        self.drop_newer(level, 0)
        for one in self.levels:
            if one.life == arena.life:
                one.generation += 1
        arena.core.reset()
        arena.marks.clear()
        arena.marked = -1

    def mark(self, level: int) -> object:
        arena = self.opened(level)
        mark = (self.serial, arena.core.mark())
        arena.marks.append(mark)
        arena.marked = len(self.blocks)
        return mark

    def release(self, level: int, mark: Any) -> None:
        arena = self.opened(level)
        if not any(mark is one for one in arena.marks):
            raise Refused("InvalidMark")
        self.drop_newer(level, mark[0])
        arena.core.keep(*mark[1])
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
        mine = self.alive(level)
        if stands or any(block.exports for block in mine):
            raise Refused("BufferError")
        for block in mine:
            self.release_block(block, "stale")
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
        self.nm = nm = load(name)
        self.levels: list[Any] = []
        self.budgets: list[Any] = []
        for kind, *arguments in spec:
            upstream = self.levels[-1] if self.levels else None
            if kind in ("System", "Heap"):
                level = getattr(nm, kind)()
            elif kind == "Arena":
                level = nm.Arena(*arguments, upstream=upstream)
            elif kind == "Slab":
                level = nm.Slab(*arguments, upstream=upstream)
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


def outcome(call: Callable[[], object]) -> tuple[Outcome, object]:
    """What came out, comparable; and the value itself."""
    try:
        value = call()
    except Refused as refusal:
        return ("error", refusal.name, refusal.state), None
    except AssertionError:
        raise
    except Exception as error:
        # only numbers of the state are compared; they are what a program would act on
        return ("error", type(error).__name__, getattr(error, "state", {}), str(error)), None
    return ("value", value if value is None or isinstance(value, (bool, dict)) else "object"), value


class Program:
    """Runs one generated program on every participant and compares after each step."""

    def __init__(self, spec: list[Op]) -> None:
        names = ["pure"]
        if importlib.util.find_spec("nativemem._core") is not None:
            names.append("native")
        elif os.environ.get("CI"):
            pytest.fail("CI is set, but the C core nativemem._core is not built")
        self.spec = spec
        self.model = Model(spec)
        self.reals = [Real(name, spec) for name in names]
        #: per block: the model's, then that of each backend; None where the program let go of it
        self.blocks: list[list[Any]] = []
        self.views: list[tuple[int, list[Any]]] = []
        self.marks: list[tuple[int, list[Any]]] = []
        self.stamp = 0

    # running

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
            kind, *arguments = op
            getattr(self, kind)(*arguments)
            self.compare(repr(op))
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
        if row is None:
            return
        self.blocks.append(row)
        usable = self.model.levels[level].core.usable(size, align) if size else 0
        for block in row[1:]:
            assert block.usable == usable
            assert block.address % align == 0
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

    def free_through(self, index: int, number: int) -> None:
        row, level = self.pick(index), self.level(number)
        if row is not None:
            model, *reals = row
            self.agree(
                "free(block)",
                [
                    lambda: self.model.free(model, level),
                    *(
                        lambda r=r, b=b: r.levels[level].free(b)
                        for r, b in zip(self.reals, reals, strict=True)
                    ),
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
            for block in reals:
                with memoryview(block) as view:
                    assert bytes(view[:keep]) == old[:keep]
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
        level = self.level(index, "Arena")
        if level is not None:
            self.agree(
                "reset()",
                [
                    lambda: self.model.reset(level),
                    *(lambda r=r: r.levels[level].reset() for r in self.reals),
                ],
            )

    def mark(self, index: int) -> None:
        level = self.level(index, "Arena")
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
                *(
                    lambda r=r, m=m: r.levels[level].release(m)
                    for r, m in zip(self.reals, reals, strict=True)
                ),
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
    st.tuples(st.just("free"), INDEX),
    st.tuples(st.just("free_through"), INDEX, INDEX),
    st.tuples(st.just("resize"), INDEX, SIZES),
    st.tuples(st.sampled_from(("write", "read", "view", "unview", "let_go")), INDEX),
    st.tuples(st.sampled_from(("mark", "release")), INDEX),
    st.tuples(st.sampled_from(("reset", "trim", "percentiles", "close")), INDEX),
    st.tuples(st.just("set_limit"), INDEX, st.integers(1, 200_000)),
)
BOTTOM = st.sampled_from((("System",), ("System",), ("Heap",)))
HINTS = st.sampled_from((1, 64, 100, 256, 1000, 4096, 65536))
LAYERS = st.one_of(
    st.tuples(st.just("Arena"), HINTS, st.none() | st.integers(1, 20_000), st.booleans()),
    st.tuples(st.just("Arena"), HINTS, st.none(), st.just(True)),
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
PROGRAMS = st.lists(OPS, min_size=1, max_size=10) | st.lists(OPS, min_size=25, max_size=70)


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    print_blob=True,
)
@given(spec=SPECS, ops=PROGRAMS)
@example(
    spec=[("System",), ("Limited", 70_000, False), ("Slab", (4096,)), ("Traced",)],
    ops=[*[("alloc", 2, 100, 16)] * 20, *[("free", 0)] * 20, ("trim", 0), ("percentiles", 0)],
)
@example(
    spec=[("Heap",), ("Arena", 256, 5000, True), ("Limited", 5000, False)],
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
def test_programs(spec: list[Op], ops: list[Op]) -> None:
    Program(spec).run(ops)
