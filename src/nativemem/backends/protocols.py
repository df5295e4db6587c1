"""The waist between facade and backends: what a backend supplies.

A backend is a module with the names of :class:`Backend`. Nothing above this room knows which backend it runs on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

__all__ = ["AllocatorCore", "Backend", "BudgetCore", "Pressure"]


class AllocatorCore(Protocol):
    """The control plane of one allocator. Sizes in bytes; statuses as :class:`~.errors.Status`."""

    def stats(self) -> tuple[int, int, int, int, int, int, int, int, int]:
        """used, peak, reserved, limit, total, live, count, frees, failures."""

    def usable(self, size: int, align: int) -> int:
        """Bytes behind a block of this layout."""

    def check(self) -> int:
        """``OK``, or ``WRONG_THREAD`` where the calling thread may not use the allocator."""

    def check_free(self) -> int:
        """As ``check``, for giving a block back."""

    def diagnose(self) -> dict[str, int]:
        """What it tells beside the counters. An arena, a stack: ``largest_free``, the largest block, at alignment
        1, that it would serve now; all others: nothing. In the thread that uses it alone."""

    def clear(self) -> int:
        """Gives back everything that the allocator holds; called once, by close."""

    def hand_over(self, thread: Any) -> int:
        """Makes what only one thread may use another's; ``OK`` without effect where any thread may use it."""


class BudgetCore(Protocol):
    """The control plane of one budget."""

    def introduce(self) -> None:
        """Its events begin: it has a name now, and is in the list of all."""

    def charge(self, n: int) -> bool: ...
    def release(self, n: int) -> int: ...
    def set_limit(self, limit: int) -> None: ...
    def numbers(self) -> tuple[int, int, int, int]:
        """used, peak, limit, denied."""

    def uncount(self, refuser: Any) -> None:
        """A charge here that ``refuser`` refused is tried again: it is denied no longer."""

    def denial(self) -> tuple[int, int, int, Any, int, int] | None:
        """requested, used, allowed, the core that refused, time in ns since the epoch, why: 0 limit, 1 max_single,
        2 locked."""

    def lock(self) -> None:
        """Refuses every charge from now on."""

    def is_locked(self) -> bool: ...
    def shared_used(self) -> int: ...
    def pressure(self) -> int:
        """0 normal to 3 full."""

    def lend(self, to: Any, n: int) -> bool:
        """Moves limit, if so much is unused. Raises Refusal(TIMED_OUT)."""

    def rebalance(self) -> list[tuple[Any, Any, int]]:
        """The moves among its children: from, to, bytes."""

    def take_peak(self) -> int:
        """The most that was used since this was called last, or since it was made."""

    def charges(self) -> tuple[int, int]:
        """Charges so far, here and below, and the bytes of all of them."""

    def account(self) -> tuple[int, int, list[tuple[int, int]]] | None:
        """What the engine has for its scopes: bytes held, arrays so far, blocks so far by size; None: nothing
        yet."""

    def detach(self) -> None:
        """What the calling thread keeps for its scopes goes back, as far as it is empty."""

    def check(self) -> str | None:
        """None, or the invariant that does not hold."""


class Pressure(NamedTuple):
    """What budgets do under pressure; the facade gives it to a backend, which calls it.

    ``tell(crossing)`` passes on each level that a budget came to, as the backend's ``crossing`` gives them.

    ``ask(aside, charged, refuser, asked)`` asks the budgets from ``charged`` up to ``refuser``, cores, for room. It
    returns those that were asked for this request so far; None where there was none left to ask.

    ``retry(backend, call, refused)`` returns what ``call`` does. As long as a budget refuses it asks for room and
    calls it again.
    """

    tell: Callable[..., None]
    ask: Callable[..., list[Any] | None]
    retry: Callable[..., Any]


class Backend(Protocol):
    """What ``native.backend`` and ``pure.backend`` supply."""

    name: str
    features: frozenset[str]
    connect: Any  # once, with a Pressure, before anything is made
    finish: Any  # called with each class that was bound to the backend's Allocator
    packed: Any  # classes of packed items: Ring and its kinds, TableMap, TableSet
    finish_packed: Any  # called with each class that was bound to one of those
    methods: dict[str, Callable[[type], None]]  # by class: what gives it the methods that the backend does itself
    Allocator: Any  # see allocators.block.DataPlane
    Block: Any
    BudgetCore: Any
    SystemCore: Any
    ArenaCore: Any
    StackCore: Any
    PoolCore: Any
    SlabCore: Any
    HeapCore: Any
    LimitedCore: Any
    TracedCore: Any
    FailingCore: Any
    LockedCore: Any
    VerifiedCore: Any
    Intern: Any  # the table of structures.intern: of an allocator, shards and what keeps that open
    MemlibCore: Any  # what nativemem.memlib takes from
    cdata_new: Any  # None, or what makes the callable of hooks.cffi: see csrc/binding/cdata.h
    this_thread: Any  # the calling thread, for hand_over
    Utilities: Any
    histograms: Any  # of sizes and latencies, of all that the process has traced with one
    crossing: Any  # the next level that a budget came to and that no callback was told of
    current: Any  # the core of the budget that is charged for what the calling code allocates, or None
    events: Any  # those after a number, the oldest first: see ownership.Event
    refusal: Any  # of this thread's last charge that a limit refused, once: the core charged, and that in the way
    aside: Any  # calls a function charged to no budget
