"""The error classes; :mod:`nativemem.refusals` makes them of what a core refuses.

Every class derives from :class:`NativeMemError` and from the builtin that a caller would catch:
exhaustion is a :class:`MemoryError`, misuse a :class:`ValueError`, a wrong state a :class:`RuntimeError`.
Live exports are the builtin :class:`BufferError`, as for :class:`bytearray`.

Any thread may raise, catch and read one.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar, TextIO

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
    """Status codes of the core; the C enum ``nm_status`` has the same values.

    >>> Status.OK, Status.OUT_OF_MEMORY
    (0, 1)
    """

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
    """A status other than OK on its way to ``raise_status``, and the numbers that go with it (bytes).

    Cores raise it; no public call lets one out.

    >>> refusal = Refusal(Status.OVER_BUDGET, requested=100, used=950, limit=1000)
    >>> refusal.status, refusal.requested > refusal.limit - refusal.used
    (3, True)
    """

    def __init__(self, status: int, requested: int = 0, used: int = 0, limit: int = 0) -> None:
        self.status, self.requested, self.used, self.limit = status, requested, used, limit


class NativeMemError(Exception):
    """Base of every error of this package. ``str()`` of one says in one line what happened.

    ``code`` is stable and meant for programs. ``severity``: ``"warning"``, a limit that was set was reached,
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
    _advice = "ask for less, wait for longer, or borrow from another budget"


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
