"""The error classes, and the one place where a status of the core becomes one of them.

Every class derives from :class:`NativeMemError` and from the builtin that a caller would catch:
exhaustion is a :class:`MemoryError`, misuse a :class:`ValueError`, a wrong state a :class:`RuntimeError`.
Live exports are the builtin :class:`BufferError`, as for :class:`bytearray`.
"""

from __future__ import annotations

import operator
from enum import IntEnum
from typing import Any, ClassVar, NoReturn

__all__ = [
    "ArenaExhausted",
    "BudgetExceeded",
    "BudgetUnderflow",
    "CapacityExceeded",
    "ConfigError",
    "CorruptionDetected",
    "DoubleFree",
    "ForeignBlock",
    "InvalidLayout",
    "InvalidMark",
    "LeakError",
    "LendTimeout",
    "LifoViolation",
    "LoanOutstanding",
    "NativeMemError",
    "NativeUnavailable",
    "OutOfMemory",
    "PoolExhausted",
    "Refusal",
    "StaleBlock",
    "StaleHandle",
    "Status",
    "WrongThread",
]

#: Largest size of a block, in bytes: ``PTRDIFF_MAX`` of a 64-bit machine, on both backends.
SIZE_MAX = (1 << 63) - 1
#: Default and largest alignment of a block, in bytes.
ALIGN_DEFAULT = 16
ALIGN_MAX = 4096


class Status(IntEnum):
    """Status codes of the core; the C enum ``nm_status`` has the same values."""

    OK = 0
    OUT_OF_MEMORY = 1
    EXHAUSTED = 2
    OVER_BUDGET = 3
    INVALID_LAYOUT = 4
    FOREIGN_BLOCK = 5
    WRONG_THREAD = 6
    INVALID_MARK = 7
    CLOSED = 8
    UNDERFLOW = 9
    LIFO_VIOLATION = 10
    DOUBLE_FREE = 11
    CORRUPTED = 12
    POOL_EXHAUSTED = 13
    CAPACITY_EXCEEDED = 14
    TIMED_OUT = 15


class Refusal(Exception):
    """A status other than OK on its way to :func:`raise_status`, and the numbers that go with it (bytes)."""

    def __init__(self, status: int, requested: int = 0, used: int = 0, limit: int = 0) -> None:
        self.status, self.requested, self.used, self.limit = status, requested, used, limit


class NativeMemError(Exception):
    """Base of every error of this package.

    ``code`` is stable and meant for programs, ``suggestion`` says what to do, ``state`` holds the numbers
    at the time (bytes), ``retryable`` tells whether the same call may pass later.
    """

    code: ClassVar[str] = "NM-ERROR"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, suggestion: str = "", **state: Any) -> None:
        super().__init__(message)
        self.suggestion = suggestion
        self.state: dict[str, Any] = state
        if suggestion and hasattr(self, "add_note"):
            self.add_note(suggestion)


class OutOfMemory(NativeMemError, MemoryError):
    """The system, or the upstream allocator, has no more memory."""

    code = "NM-OUT-OF-MEMORY"
    retryable = True


class BudgetExceeded(NativeMemError, MemoryError):
    """The limit of a budget would be exceeded. ``state``: requested, used, limit, owner."""

    code = "NM-BUDGET-EXCEEDED"
    retryable = True


class ArenaExhausted(NativeMemError, MemoryError):
    """The arena's cap, or the one chunk of a fixed arena, has no room for the block."""

    code = "NM-ARENA-EXHAUSTED"
    retryable = True


class PoolExhausted(NativeMemError, MemoryError):
    """Every cell of the pool is in use, and it does not grow."""

    code = "NM-POOL-EXHAUSTED"
    retryable = True


class CapacityExceeded(NativeMemError, MemoryError):
    """A structure of fixed capacity has no room for what was asked."""

    code = "NM-CAPACITY-EXCEEDED"
    retryable = True


class InvalidLayout(NativeMemError, ValueError):
    """A size or an alignment that no allocator takes."""

    code = "NM-INVALID-LAYOUT"


class DoubleFree(NativeMemError, ValueError):
    """The block was freed before."""

    code = "NM-DOUBLE-FREE"


class ForeignBlock(NativeMemError, ValueError):
    """The block belongs to another allocator."""

    code = "NM-FOREIGN-BLOCK"


class StaleBlock(NativeMemError, ValueError):
    """The block is gone: freed, or dropped by a reset, a release or a close."""

    code = "NM-STALE-BLOCK"


class StaleHandle(NativeMemError, ValueError):
    """The allocator or budget behind the handle was closed."""

    code = "NM-STALE-HANDLE"


class InvalidMark(NativeMemError, ValueError):
    """The mark is of another allocator or an earlier generation, was released already, or lies ahead."""

    code = "NM-INVALID-MARK"


class LifoViolation(NativeMemError, ValueError):
    """The block is not the newest of its stack, so it cannot be freed yet."""

    code = "NM-LIFO-VIOLATION"


class BudgetUnderflow(NativeMemError, ValueError):
    """More was to be released than the budget has in use."""

    code = "NM-BUDGET-UNDERFLOW"


class ConfigError(NativeMemError, ValueError):
    """A setting with a value that it does not take."""

    code = "NM-CONFIG"


class WrongThread(NativeMemError, RuntimeError):
    """A thread-confined allocator was called from a thread that is not its own."""

    code = "NM-WRONG-THREAD"


class CorruptionDetected(NativeMemError, RuntimeError):
    """An allocator's own data were overwritten, or bytes behind a block that belong to no block."""

    code = "NM-CORRUPTION-DETECTED"


class LeakError(NativeMemError, RuntimeError):
    """Blocks were live when there should be none. ``state``: blocks, used."""

    code = "NM-LEAK"


class LendTimeout(NativeMemError, RuntimeError):
    """The lender had not so much unused limit within the time that the caller would wait."""

    code = "NM-LEND-TIMEOUT"
    retryable = True


class LoanOutstanding(NativeMemError, RuntimeError):
    """The borrower uses what it was lent, so that the loan cannot end yet. ``state``: requested, used, limit."""

    code = "NM-LOAN-OUTSTANDING"
    retryable = True


class NativeUnavailable(NativeMemError, RuntimeError):
    """The feature needs the native core, or an interpreter that allows it."""

    code = "NM-NATIVE-UNAVAILABLE"


def shown(value: Any) -> str:
    """``value`` for a message: short, on one line, and whatever its ``__repr__`` does."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # an int of more digits than the interpreter prints, or a broken __repr__
        text = f"that {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."


def name_of(allocator: Any) -> str:
    """``Arena``, ``Limited`` …: how messages call the allocator."""
    return type(allocator).__name__


def _refuser(allocator: Any, requested: int, used: int, limit: int) -> str | None:
    """The name of the budget that refused: of those along the chain the one with just this denial."""
    while allocator is not None:
        budget = allocator.owner
        denial = budget.last_denial if budget is not None else None
        if denial and (denial.requested, denial.used, denial.limit) == (requested, used, limit):
            name: str | None = denial.owner
            return name
        allocator = getattr(allocator, "upstream", None)
    return None


def raise_status(allocator: Any, status: int, requested: int = 0, used: int = 0, limit: int = 0) -> NoReturn:
    """Raises the error that ``status`` stands for. Both backends call this for every refusal."""
    name = name_of(allocator)
    numbers = {"requested": requested, "used": used, "limit": limit}
    if status == Status.OUT_OF_MEMORY:
        raise OutOfMemory(
            f"{name}: the system has no {requested} bytes to give",
            suggestion="ask for less, or free memory first",
            requested=requested,
        )
    if status == Status.EXHAUSTED:
        raise ArenaExhausted(
            f"{name}: no room for {requested} bytes; {used} of {limit} bytes are reserved",
            suggestion="reset the arena, raise its cap, or let it grow",
            **numbers,
        )
    if status == Status.POOL_EXHAUSTED:
        raise PoolExhausted(
            f"{name}: every cell is in use",
            suggestion="free a block, make the pool with more cells, or let it grow",
            **numbers,
        )
    if status == Status.CAPACITY_EXCEEDED:
        raise CapacityExceeded(
            f"{name}: no room for {requested} bytes; {used} of {limit} bytes are in use",
            suggestion="free the newest blocks, or make it with more capacity",
            **numbers,
        )
    if status == Status.OVER_BUDGET:
        owner = _refuser(allocator, requested, used, limit)
        label = f"budget {owner!r}" if owner else "budget"
        raise BudgetExceeded(
            f"{name}: {requested} bytes asked for; {label} has {used} of {limit} bytes in use",
            suggestion="free blocks of this owner, or raise its limit",
            owner=owner,
            **numbers,
        )
    if status == Status.INVALID_LAYOUT and limit:
        raise InvalidLayout(
            f"{name}: a block of {requested} bytes, so aligned, does not fit a cell of {limit} bytes",
            suggestion="ask for no more than the pool's block size; an alignment must divide the cell",
            **numbers,
        )
    if status == Status.INVALID_LAYOUT:
        raise InvalidLayout(f"{name}: {requested} bytes is not a size that a block can have")
    if status == Status.FOREIGN_BLOCK:
        raise ForeignBlock(f"{name}: the block is not one of its own")
    if status == Status.WRONG_THREAD:
        raise WrongThread(
            f"{name}: belongs to the thread that made it; this is another",
            suggestion="make one for each thread, or use Heap, which any thread may call",
        )
    if status == Status.INVALID_MARK:
        raise InvalidMark(
            f"{name}: the mark is of another allocator, of an earlier generation, or already released",
            suggestion="take marks and release them in last-in, first-out order",
        )
    if status == Status.LIFO_VIOLATION:
        raise LifoViolation(
            f"{name}: the block of {requested} bytes is not the newest; blocks above it are live",
            suggestion="free in the reverse order of allocation, or end the frame that they belong to",
            requested=requested,
        )
    if status == Status.DOUBLE_FREE:
        raise DoubleFree(f"{name}: the block of {requested} bytes was freed before")
    if status == Status.CORRUPTED:
        raise CorruptionDetected(
            f"{name}: its memory was overwritten by something that had no right to it",
            suggestion="look for a write behind the end of a block, or into a freed one",
        )
    if status == Status.CLOSED:
        raise StaleHandle(f"{name}: is closed", suggestion="make a new one")
    if status == Status.UNDERFLOW:
        raise BudgetUnderflow(
            f"{name}: {requested} bytes to release, but only {used} are in use",
            requested=requested,
            used=used,
        )
    if status == Status.TIMED_OUT:
        raise LendTimeout(f"{name}: other loans kept it waiting", requested=requested)
    raise NativeMemError(f"{name}: the core answered with the unknown status {status}")


def raise_block(allocator: Any, block: Any, what: str) -> NoReturn:
    """Raises the error for a block that cannot be used here.

    ``what`` is ``"type"``, ``"double"``, ``"stale"``, ``"foreign"`` or ``"freed"`` (used after free).
    """
    name = name_of(allocator)
    if what == "type":
        raise TypeError(f"{name}: takes a Block, not {type(block).__name__}")
    if what == "foreign":
        raise ForeignBlock(
            f"{name}: the block belongs to another allocator ({name_of(block.allocator)})",
            suggestion="free a block through the allocator that gave it, or call block.free()",
        )
    if what == "double":
        raise DoubleFree(f"{name}: the block of {block.size} bytes was freed before")
    how = "freed" if what == "freed" else "dropped by a reset, release or close"
    raise StaleBlock(f"{name}: the block of {block.size} bytes was {how}")


def raise_exports(allocator: Any, action: str) -> NoReturn:
    """Raises :class:`BufferError`: views, or allocators on top, still use the memory."""
    raise BufferError(
        f"{name_of(allocator)}: {action} refused, the memory is in use by a memoryview, an array, or an "
        "allocator on top of it; release that first"
    )


def coerce_layout(allocator: Any, size: Any, align: Any = ALIGN_DEFAULT) -> tuple[int, int]:
    """Checks and converts what a caller gave for size and alignment.

    Both backends call it whenever the size is not a plain int in range or the alignment is not plain.
    """
    from .config import parse_size  # not at the top: config raises the errors of this module

    label = f"{name_of(allocator)}.alloc"
    if size is ... and allocator._natural:
        size = allocator._natural
    size = parse_size(size, f"{label}: size")
    if isinstance(align, int) and not isinstance(align, bool):
        align = operator.index(align)  # a plain int, whatever a subclass says of itself
    else:
        raise InvalidLayout(f"{label}: align takes a power of two from 1 to {ALIGN_MAX}, not {shown(align)}")
    if not 1 <= align <= ALIGN_MAX or align & (align - 1):
        raise InvalidLayout(f"{label}: align takes a power of two from 1 to {ALIGN_MAX}, not {shown(align)}")
    return size, align
