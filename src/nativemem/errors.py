"""The error classes, and the one place where a status of the core becomes one of them.

Every class derives from :class:`NativeMemError` and from the builtin that a caller would catch:
exhaustion is a :class:`MemoryError`, misuse a :class:`ValueError`, a wrong state a :class:`RuntimeError`.
Live exports are the builtin :class:`BufferError`, as for :class:`bytearray`.
"""

from __future__ import annotations

import os
import sys
from _operator import index

from .settings import SIZE_MAX as SIZE_MAX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, ClassVar, NoReturn, TextIO

__all__ = [
    "ArenaExhausted",
    "BudgetExceeded",
    "BudgetUnderflow",
    "CapacityExceeded",
    "CircuitOpenError",
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
    "OperationRefused",
    "OutOfBounds",
    "OutOfMemory",
    "PoolExhausted",
    "RateLimitExceeded",
    "Refusal",
    "ScopeError",
    "StaleBlock",
    "StaleHandle",
    "Status",
    "UninitializedRead",
    "WrongThread",
]

#: Default and largest alignment of a block, in bytes.
ALIGN_DEFAULT = 16
ALIGN_MAX = 4096


class Status:
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
    """Base of every error of this package. ``str()`` of one says in one line what happened.

    ``code`` is stable and meant for programs. ``severity``: ``"warning"``, a limit that somebody set was reached,
    the program is sound and may go on with less; ``"error"``, the program or its set-up is wrong, the call
    changed nothing; ``"critical"``, the process is in danger: the system has no memory, or what is in it can no
    longer be trusted. ``retryable`` tells whether the same call may pass later. ``state`` holds the numbers at
    the time, sizes in bytes; docs/errors.md lists them. ``layout`` is the size and alignment that the call was
    about, or None. ``suggestion`` says what to do, and is a note as well. ``link`` leads into docs/errors.md.
    """

    code: ClassVar[str] = "NM-ERROR"
    severity: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False
    #: the suggestion where the state gives no better one
    _advice: ClassVar[str] = "this is a mistake in nativemem itself: report it with this message"

    def __init__(
        self, message: str, *, suggestion: str = "", layout: tuple[int, int] | None = None, **state: Any
    ) -> None:
        super().__init__(message)
        self.suggestion = suggestion or self._advice
        self.layout = layout
        self.state: dict[str, Any] = state
        if hasattr(self, "add_note"):
            self.add_note(self.suggestion)

    @property
    def link(self) -> str:
        """Where the error is explained, relative to the project's folder."""
        return f"docs/errors.md#{self.code.lower()}"

    def _details(self) -> list[str]:
        """More lines of :meth:`explain`."""
        return []

    def explain(self, file: TextIO | None = None) -> None:
        """Prints what happened, the numbers, what to do and where to read on, to ``file`` (None: stderr); in
        colour on a terminal, unless the environment has ``NO_COLOR``."""
        file = sys.stderr if file is None else file
        bold, colour, plain = _styles(file, self.severity)
        lines = [f"{colour}{self.severity} {self.code}{plain}  {bold}{self}{plain}"]
        if self.layout is not None:
            lines.append("  layout  {} bytes at a multiple of {}".format(*map(shown, self.layout)))
        if self.state:
            numbers = ", ".join(f"{key} {_short(value)}" for key, value in self.state.items())
            lines.append(f"  state   {numbers}")
        lines += self._details()
        lines += [f"  try     {self.suggestion}", f"  see     {self.link}"]
        print(*lines, sep="\n", file=file)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else shown(value)


def _styles(file: TextIO, severity: str) -> tuple[str, str, str]:
    """Bold, the colour of the severity, and back to plain; nothing where no terminal shows them."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not file.isatty():
        return "", "", ""
    return "\x1b[1m", "\x1b[33m" if severity == "warning" else "\x1b[31m", "\x1b[0m"


class OutOfMemory(NativeMemError, MemoryError):
    """The system, or the upstream allocator, has no more memory."""

    code = "NM-OUT-OF-MEMORY"
    severity = "critical"
    retryable = True
    _advice = "ask for less, or free memory first"


class BudgetExceeded(NativeMemError, MemoryError):
    """The limit of a budget would be exceeded; ``state`` has its owner as well."""

    code = "NM-BUDGET-EXCEEDED"
    severity = "warning"
    retryable = True
    _advice = "free blocks of this owner, or raise its limit"


class ArenaExhausted(NativeMemError, MemoryError):
    """The arena's cap, or the one chunk of a fixed arena, has no room for the block."""

    code = "NM-ARENA-EXHAUSTED"
    severity = "warning"
    retryable = True
    _advice = "reset the arena, raise its cap, or let it grow"


class PoolExhausted(NativeMemError, MemoryError):
    """Every cell of the pool is in use, and it does not grow."""

    code = "NM-POOL-EXHAUSTED"
    severity = "warning"
    retryable = True
    _advice = "free a block, make the pool with more cells, or let it grow"


class CapacityExceeded(NativeMemError, MemoryError):
    """A structure of fixed capacity has no room for what was asked."""

    code = "NM-CAPACITY-EXCEEDED"
    severity = "warning"
    retryable = True
    _advice = "free the newest blocks, or make it with more capacity"


class InvalidLayout(NativeMemError, ValueError):
    """A size or an alignment that no allocator takes, or not this one."""

    code = "NM-INVALID-LAYOUT"
    _advice = f"sizes are 0 to 2**63 - 1 bytes, alignments powers of two from 1 to {ALIGN_MAX}"


class DoubleFree(NativeMemError, ValueError):
    """The block was freed before."""

    code = "NM-DOUBLE-FREE"
    _advice = "let one place own the block and free it: a with statement, or its collection"


class ForeignBlock(NativeMemError, ValueError):
    """The block belongs to another allocator."""

    code = "NM-FOREIGN-BLOCK"
    _advice = "free a block through the allocator that gave it, or call block.free()"


class StaleBlock(NativeMemError, ValueError):
    """The block is gone: freed, or dropped by a reset, a release or a close."""

    code = "NM-STALE-BLOCK"
    _advice = "take a new block; block.alive tells whether one is still there"


class StaleHandle(NativeMemError, ValueError):
    """The allocator or budget behind the handle was closed, or the value that a handle stood for was reclaimed."""

    code = "NM-STALE-HANDLE"
    _advice = "make a new one, or close it after its last use"


class InvalidMark(NativeMemError, ValueError):
    """The mark is of another allocator or an earlier generation, was released already, or lies ahead."""

    code = "NM-INVALID-MARK"
    _advice = "take marks and release them in last-in, first-out order"


class LifoViolation(NativeMemError, ValueError):
    """The block is not the newest of its stack, so it cannot be freed yet."""

    code = "NM-LIFO-VIOLATION"
    _advice = "free in the reverse order of allocation, or end the frame that the blocks belong to"


class BudgetUnderflow(NativeMemError, ValueError):
    """More was to be released than the budget has in use."""

    code = "NM-BUDGET-UNDERFLOW"
    _advice = "release once, and no more than was reserved; the with statement of reserve() does"


class OutOfBounds(NativeMemError, ValueError):
    """An offset or a length that is not within what a provider or a linear memory holds."""

    code = "NM-OUT-OF-BOUNDS"
    _advice = "ask for bytes between 0 and len(); a resize makes more"


class UninitializedRead(NativeMemError, ValueError):
    """Bytes were to be read that were never written."""

    code = "NM-UNINITIALIZED-READ"
    _advice = "write before reading, or resize(), which makes zeros"


class ConfigError(NativeMemError, ValueError):
    """A setting with a value that it does not take."""

    code = "NM-CONFIG"
    _advice = "give the setting that the message begins with a value that it takes"


class WrongThread(NativeMemError, RuntimeError):
    """A thread-confined allocator was called from a thread that is not its own."""

    code = "NM-WRONG-THREAD"
    _advice = "make one for each thread, or use Heap, which any thread may call"


class CorruptionDetected(NativeMemError, RuntimeError):
    """An allocator's own data were overwritten, or bytes behind a block that belong to no block; or what a manager
    or provider verifies is not as it was written."""

    code = "NM-CORRUPTION-DETECTED"
    severity = "critical"
    _advice = "look for a write behind the end of a block, or into a freed one"


class LeakError(NativeMemError, RuntimeError):
    """Blocks were live when there should be none; ``state`` has how many, and their bytes. ``sites`` says where
    they were asked for, as a :class:`Traced` with ``stacks`` knows it, most bytes first; the first ten are a note
    as well."""

    code = "NM-LEAK"
    _advice = "free the blocks first; leaks() lists them"
    _MOST = 10
    sites: tuple[Any, ...] = ()

    def _at(self, sites: list[Any]) -> LeakError:
        self.sites = tuple(sites)
        if sites and hasattr(self, "add_note"):
            self.add_note("\n".join(self._details()))
        return self

    def _details(self) -> list[str]:
        lines = [f"  {site}" for site in self.sites[: self._MOST]]
        more = len(self.sites) - len(lines)
        return lines + ([f"  and {more} more"] if more else [])


class LendTimeout(NativeMemError, RuntimeError):
    """The lender had not so much unused limit within the time that the caller would wait."""

    code = "NM-LEND-TIMEOUT"
    severity = "warning"
    retryable = True
    _advice = "ask for less, wait for longer, or let somebody else lend"


class LoanOutstanding(NativeMemError, RuntimeError):
    """The borrower uses what it was lent, so that the loan cannot end yet."""

    code = "NM-LOAN-OUTSTANDING"
    retryable = True
    _advice = "free what the borrower has in use first"


class OperationRefused(NativeMemError, RuntimeError):
    """A hook of a manager's verification refused an allocation or a free; ``state`` has the hook and its reason."""

    code = "NM-OPERATION-REFUSED"
    _advice = "see what the hook wants; the message has its name and its reason"


class ScopeError(NativeMemError, RuntimeError):
    """A budget's scope was left that is not open, or in another context than it was entered in, or before one that
    was entered inside it. Where it is plain which scope is meant, that has ended all the same."""

    code = "NM-SCOPE"
    _advice = "leave each scope once, the inner ones first, in the context (of a task or thread) that entered it"


class CircuitOpenError(NativeMemError, RuntimeError):
    """A cache's circuit breaker lets nothing through, as what it computes from failed too often."""

    code = "NM-CIRCUIT-OPEN"
    severity = "warning"
    retryable = True
    _advice = "try again when retry_after is over, or serve what is stale"

    @property
    def retry_after(self) -> float:
        """Seconds until a compute may pass again; 0 while one is tried."""
        return float(self.state.get("retry_after", 0.0))


class RateLimitExceeded(NativeMemError, RuntimeError):
    """More computes of a cache than its limit on the rate allows."""

    code = "NM-RATE-LIMIT-EXCEEDED"
    severity = "warning"
    retryable = True
    _advice = "try again when retry_after is over, or allow a higher rate"

    @property
    def retry_after(self) -> float:
        """Seconds until the next compute may pass."""
        return float(self.state.get("retry_after", 0.0))


class NativeUnavailable(NativeMemError, RuntimeError):
    """The feature needs the native core, or an interpreter that allows it."""

    code = "NM-NATIVE-UNAVAILABLE"
    _advice = "ask nativemem.backend and nativemem.installed() before, and go on without"


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


def _links(allocator: Any) -> Iterator[Any]:
    """The chain from here to the bottom; a budget has none below."""
    while allocator is not None:
        yield allocator
        allocator = getattr(allocator, "upstream", None)


def _refuser(allocator: Any, requested: int, used: int, limit: int) -> tuple[str | None, str]:
    """Name and reason of the budget that refused: of those along the chain the one with just this denial, and of
    several with one like it the latest."""
    latest = None
    for link in _links(allocator):
        budget = link.owner
        denial = budget.last_denial if budget is not None else None
        if denial and (denial.requested, denial.used, denial.limit) == (requested, used, limit):
            if latest is None or denial.time > latest.time:
                latest = denial
    return (None, "limit") if latest is None else (latest.owner, latest.reason)


def space(requested: int, used: int, limit: int) -> dict[str, Any]:
    """The state that every want of room has."""
    return {
        "requested": requested,
        "used": used,
        "limit": limit,
        "capacity": limit,
        "available": max(limit - used, 0),
        "utilization": used / limit if limit else 1.0,
    }


def _is_full(state: dict[str, Any]) -> bool:
    share: float = state["utilization"]
    return share > 0.9


def _of_arena(allocator: Any, requested: int, reserved: int, limit: int) -> tuple[dict[str, Any], str]:
    """State and suggestion where an arena refused: of those along the chain the one with just these numbers."""
    shared = False
    for link in _links(allocator):
        shared = shared or hasattr(link._core, "enter")  # other threads go on below a Locked: only counters hold
        largest_free = getattr(link._core, "largest_free", None)
        if largest_free is None:
            continue
        used, _, held, most, _, _, count, frees, _ = link._core.stats()
        if (held, most) != (reserved, limit):
            continue
        state = {**space(requested, used, limit), "reserved": reserved}
        if shared:
            return state, ""
        largest = state["largest_free"] = largest_free()
        if 2 * frees > count:
            advice = (
                f"{frees} of {count} blocks were freed one by one, which gives an arena no room back: use Heap or "
                "Slab for such blocks, or reset the arena"
            )
        elif requested > limit:
            advice = f"raise its cap to at least {requested} bytes, or the hint of one that does not grow"
        elif requested <= largest:
            advice = "the bytes are there, but not at that alignment: align less, or let the arena grow"
        elif requested <= state["available"]:
            advice = (
                f"{state['available']} bytes are in no block, but the largest piece has {largest}: a reset joins "
                "them, a larger hint makes fewer and larger chunks"
            )
        elif _is_full(state):
            advice = f"it is {state['utilization']:.0%} full: reset it, or raise its cap"
        else:
            advice = ""
        return state, advice
    return {"requested": requested, "reserved": reserved, "limit": limit, "capacity": limit}, ""


def _of_stack(requested: int, used: int, limit: int) -> tuple[dict[str, Any], str]:
    state = space(requested, used, limit)
    state["largest_free"] = state["available"]
    if requested > limit:
        return state, f"no block of this size ever fits: make it with a capacity of at least {requested} bytes"
    if requested <= state["available"]:
        return state, "the bytes are there, but not at that alignment: align less, or free the newest blocks"
    if _is_full(state):
        return state, f"it is {state['utilization']:.0%} full: free the newest blocks, or end a frame"
    return state, ""


def _of_pool(requested: int, used: int, limit: int) -> tuple[dict[str, Any], str]:
    state = {**space(requested, used, limit), "largest_free": 0}
    if 2 * used < limit:
        return state, (
            f"its blocks use {state['utilization']:.0%} of their cells: make the pool for smaller blocks, or use "
            "Slab or Heap, which fit the cell to the block"
        )
    return state, ""


def _of_budget(
    requested: int, used: int, limit: int, owner: str | None, reason: str, layout: tuple[int, int] | None
) -> tuple[dict[str, Any], str]:
    state = {**space(requested, used, limit), "owner": owner}
    if reason == "locked":
        return state, "the budget is locked: charge before lock() what is needed after it"
    if reason == "max_single":
        return state, "one request is larger than the budget's max_single: ask for smaller pieces"
    if layout is not None and layout[0] <= state["available"]:
        return state, (
            f"the block itself would fit; the allocator charges the {requested} bytes of its next chunk: trim() or "
            "reset() gives chunks back, Limited in front of it charges by the block"
        )
    if requested > limit:
        return state, f"no request of this size ever passes: raise the limit to at least {requested} bytes"
    if _is_full(state):
        return state, f"it is {state['utilization']:.0%} full: free blocks of this owner, or raise its limit"
    return state, f"ask for at most {state['available']} bytes at once, or raise the limit"


def raise_scope(
    name: str | None, kind: int, inner: str | None, contexts: tuple[Any, Any] | None, ended: bool, error: Any
) -> NoReturn:
    """Raises :class:`ScopeError`, with ``error``, the exception in flight, as its context. Both backends call this.

    ``kind``: 1, the scope of the budget of that name is not open; 2, the one named ``inner`` is open inside; 3, it
    was entered in the first of ``contexts`` and left in the second. ``ended``: whether it ended all the same.
    """
    if kind == 1:
        message = "was left, but is not open: it was not entered, or was left before"
    elif kind == 2:
        message = (
            f"was left before the scope of {_budget(inner)}, which was entered inside it: the first has ended, the "
            "second is open still"
        )
    else:
        entered, left = contexts or (None, None)
        where = "a thread without a context" if left is None else f"another context, {left!r}"
        message = f"was entered in {entered!r} and left in {where}: it {'has ended' if ended else 'goes on'} there"
    raised = ScopeError(f"the scope of {_budget(name)} {message}")
    raised.__context__ = error
    raise raised


def _budget(name: str | None) -> str:
    return "a budget without a name" if name is None else f"budget {shown(name)}"


def raise_status(
    allocator: Any,
    status: int,
    requested: int = 0,
    used: int = 0,
    limit: int = 0,
    layout: tuple[int, int] | None = None,
) -> NoReturn:
    """Raises the error that ``status`` stands for. Both backends call this for every refusal.

    ``layout``: size and alignment that the caller asked for, where the call has one. What it looks up beside
    (which budget, what an arena has left) it leaves out where that cannot be had.
    """
    name = name_of(allocator)
    state: dict[str, Any]
    if status == Status.OUT_OF_MEMORY:
        raise OutOfMemory(
            f"{name}: the system has no {requested} bytes to give",
            suggestion="no machine has so much: look at how the size came about" if requested >> 47 else "",
            layout=layout,
            requested=requested,
        )
    if status == Status.EXHAUSTED:
        try:
            state, advice = _of_arena(allocator, requested, used, limit)
        except Exception:  # half-made, or a subclass with its own mind
            state, advice = {"requested": requested, "reserved": used, "limit": limit, "capacity": limit}, ""
        raise ArenaExhausted(
            f"{name}: no room for {requested} bytes; {used} of {limit} bytes are reserved",
            suggestion=advice,
            layout=layout,
            **state,
        )
    if status == Status.POOL_EXHAUSTED:
        state, advice = _of_pool(requested, used, limit)
        raise PoolExhausted(f"{name}: every cell is in use", suggestion=advice, layout=layout, **state)
    if status == Status.CAPACITY_EXCEEDED:
        state, advice = _of_stack(requested, used, limit)
        raise CapacityExceeded(
            f"{name}: no room for {requested} bytes; {used} of {limit} bytes are in use",
            suggestion=advice,
            layout=layout,
            **state,
        )
    if status == Status.OVER_BUDGET:
        try:
            owner, reason = _refuser(allocator, requested, used, limit)
        except Exception:
            owner, reason = None, "limit"
        label = f"budget {owner!r}" if owner else "budget"
        state, advice = _of_budget(requested, used, limit, owner, reason, layout)
        raise BudgetExceeded(
            f"{name}: {requested} bytes asked for; {label} has {used} of {limit} bytes in use",
            suggestion=advice,
            layout=layout,
            **state,
        )
    if status == Status.INVALID_LAYOUT and limit:
        raise InvalidLayout(
            f"{name}: a block of {requested} bytes, so aligned, does not fit a cell of {limit} bytes",
            suggestion=(
                f"make the pool for blocks of {requested} bytes, or use Slab or Heap for blocks of many sizes"
                if requested > limit
                else "the alignment must divide the cell: make the pool for blocks of a multiple of it"
            ),
            layout=layout,
            requested=requested,
            used=used,
            limit=limit,
        )
    if status == Status.INVALID_LAYOUT:
        raise InvalidLayout(f"{name}: {requested} bytes is not a size that a block can have", layout=layout)
    if status == Status.FOREIGN_BLOCK:
        raise ForeignBlock(f"{name}: the block is not one of its own", layout=layout)
    if status == Status.WRONG_THREAD:
        raise WrongThread(f"{name}: belongs to the thread that made it; this is another", layout=layout)
    if status == Status.INVALID_MARK:
        raise InvalidMark(
            f"{name}: the mark is of another allocator, of an earlier generation, or already released"
        )
    if status == Status.LIFO_VIOLATION:
        raise LifoViolation(
            f"{name}: the block of {requested} bytes is not the newest; blocks above it are live",
            layout=layout,
            requested=requested,
        )
    if status == Status.DOUBLE_FREE:
        raise DoubleFree(f"{name}: the block of {requested} bytes was freed before", layout=layout)
    if status == Status.CORRUPTED:
        raise CorruptionDetected(
            f"{name}: its memory was overwritten by something that had no right to it", layout=layout
        )
    if status == Status.CLOSED:
        raise StaleHandle(f"{name}: is closed")
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
    layout = block.size, block.align
    if what == "foreign":
        given_by = block.allocator
        raise ForeignBlock(
            f"{name} {allocator.id}: the block belongs to another allocator, {name_of(given_by)} {given_by.id}",
            layout=layout,
            allocator=allocator.id,
            given_by=given_by.id,
        )
    if what == "double":
        raise DoubleFree(f"{name}: the block of {block.size} bytes was freed before", layout=layout)
    how, advice = "freed", ""
    if what != "freed":
        how = "dropped by a reset, release or close"
        advice = "take it from an allocator that lives as long as the block is used, or copy its bytes before"
    raise StaleBlock(f"{name}: the block of {block.size} bytes was {how}", suggestion=advice, layout=layout)


def _sites_of(blocks: list[Any]) -> list[Any]:
    """Where they were asked for, as far as a :class:`Traced` with stacks knows it, most bytes first."""
    from .wrappers.sites import gather  # only where something goes wrong

    found: dict[Any, list[Any]] = {}
    for block in blocks:
        for link in _links(block.allocator):
            if getattr(link, "_stacks", 0):
                site = link._core.site_of(block)
                if site:
                    found.setdefault(link._core.frames, []).append((site, block.size))
                break
    sites = [
        site
        for frames, known in found.items()
        for site in gather([place for place, _ in known], [size for _, size in known], frames, 0)
    ]
    return sorted(sites, key=lambda site: (-site.bytes, -site.blocks, site.frames))


def _sizes_of(blocks: list[Any]) -> str:
    """``1 of 80000 bytes, 3 of 64 bytes``, the largest first, a few of them."""
    counts: dict[int, int] = {}
    for size in sorted((block.size for block in blocks), reverse=True):
        counts[size] = counts.get(size, 0) + 1
    largest = list(counts.items())[:5]
    more = len(blocks) - sum(count for _, count in largest)
    return ", ".join(f"{count} of {size} bytes" for size, count in largest) + (f", {more} smaller" if more else "")


def raise_exports(allocator: Any, action: str, blocks: list[Any] | None = None, tops: int = 0) -> NoReturn:
    """Raises :class:`BufferError`: views, or allocators on top, still use the memory.

    ``blocks``: those with a view or an array, as far as there is memory to list them; ``tops``: allocators on top.
    Its ``sites`` say where the blocks were asked for, as those of a :class:`LeakError`, and so do its notes.
    """
    users = []
    if blocks:
        noun = "1 block" if len(blocks) == 1 else f"{len(blocks)} blocks"
        users.append(f"{noun} with a memoryview or an array: {_sizes_of(blocks)}")
    if tops:
        users.append("1 allocator on top of it" if tops == 1 else f"{tops} allocators on top of it")
    what = " and ".join(users) or "a memoryview, an array, or an allocator on top of it"
    try:
        found = _sites_of(blocks or [])
    except Exception:  # half-made, or no memory
        found = []
    blocks = None  # an error that is kept must not keep them
    sites = LeakError("")._at(found)
    text = f"{name_of(allocator)}: {action} refused, the memory is in use by {what}; release that first"
    details = "\n".join(sites._details())
    noted = hasattr(sites, "add_note")
    error = BufferError(text if noted or not details else f"{text}\n{details}")
    error.sites = sites.sites  # type: ignore[attr-defined]
    if details and noted:
        error.add_note(details)  # type: ignore[attr-defined]
    try:
        raise error
    finally:
        del error  # its traceback has this frame: a cycle would keep the allocator


def coerce_layout(allocator: Any, size: Any, align: Any = ALIGN_DEFAULT, label: str = "") -> tuple[int, int]:
    """Checks and converts what a caller gave for size and alignment; ``label``: what messages begin with.

    Both backends call it whenever the size is not a plain int in range or the alignment is not plain.
    """
    from .config import parse_size  # not at the top: config raises the errors of this module

    label = label or f"{name_of(allocator)}.alloc"
    if size is ... and allocator._natural:
        size = allocator._natural
    try:
        size = parse_size(size, f"{label}: size")
        if not isinstance(align, int) or isinstance(align, bool):
            raise InvalidLayout(f"{label}: align {_ALIGNMENTS}, not {shown(align)}")
        align = index(align)  # a plain int, whatever a subclass says of itself
        if not 1 <= align <= ALIGN_MAX or align & (align - 1):
            raise InvalidLayout(f"{label}: align {_ALIGNMENTS}, not {shown(align)}")
    except InvalidLayout as error:
        if type(size) is int and type(align) is int:
            error.layout = size, align
        raise
    return size, align


_ALIGNMENTS = f"takes a power of two from 1 to {ALIGN_MAX}"
