"""Budget: a limit on bytes, by owner, with ancestors, lending and pressure.

The values that it returns do not change: any thread may read them.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from ..config import MAX_DEPTH, BudgetOptions, parse_bool, parse_fraction, parse_number
from ..errors import ConfigError, Refusal, Status, shown
from ..refusals import chain, is_full, raise_status, space
from ..sizes import SIZE_MAX, format_size, parse_size
from ..stats import Stats
from . import pressure as _pressure
from .lending import Lending, SharingPolicy, lending
from .scopes import F, scoped

if TYPE_CHECKING:
    from concurrent.futures import Executor
    from contextlib import AbstractContextManager

    from typing_extensions import Self

    from .executors import ScopedExecutor

__all__ = ["Budget", "Denial"]

#: why a budget refused, as the core numbers it
_REASONS = ("limit", "max_single", "locked")


@dataclass(frozen=True)
class Denial:
    """A request that a budget refused: bytes ``requested``, ``used`` and allowed (``limit``) at the time, the name
    of the budget that stood in the way (``owner``), when (``time``, seconds since the epoch), and the ``reason``:
    ``"limit"``, ``"max_single"`` or ``"locked"``."""

    requested: int
    used: int
    limit: int
    owner: str | None
    time: float
    reason: str = "limit"


class Budget(Lending):
    """A limit on bytes. It holds no memory; it says yes or no to those that do.

    A request passes if it fits here and in every ancestor; exactly the limit passes. Any thread may call it; the
    limit is never exceeded at any instant, whatever threads charge, release or lend meanwhile.

    Parameters: ``limit``, bytes or a string, at least 1; ``name``, which makes it an owner; ``parent``, a
    budget that is charged as well. All fractions are of the limit:

    * ``warn`` and ``critical``, no lower than ``warn``: where pressure begins. When ``used`` comes to a level from
      below, ``on_pressure(level, budget)`` is called, level being ``"warn"``, ``"critical"`` or ``"full"``: once,
      when the call that caused it has done its work; in a scope, soon after, from the interpreter's loop. Where
      there was no pressure before, a :class:`MemoryPressure` warning is given too, which names the line of the
      caller, and which Python's default filters show once for each budget and level. What either raises, as a
      warning does that a filter makes an error, goes to ``sys.unraisablehook``: the call has done its work. What a
      callback itself does is not told to it;
    * before a call raises :class:`BudgetExceeded` because a limit stands in the way,
      ``on_pressure("refusal", budget)`` is called: of the budget that was to be charged, and of its parents up to
      the one that refused, once for a request. It may free memory, or raise a limit; then the request is tried
      again, and counts as denied only where it is refused again; until then ``last_denial`` is about it. It runs
      in the thread that asks, charged to no budget, and is not called in the midst of itself. :meth:`try_reserve`
      and :meth:`lend` do not ask: their callers have another way. Nor does C code that takes from a
      :class:`CPort`;
    * ``max_single``: the largest single request;
    * ``overcommit``: what may be used beyond the limit, none by default;
    * ``minimum``, bytes: lending and rebalancing leave the limit no lower;
    * ``sharing``, a :class:`SharingPolicy`: which budgets it lends to (None: every one, whatever is unused);
    * ``auto_rebalance``: a child that would be refused takes unused limit from its siblings first, as
      :meth:`rebalance` does;
    * ``shared``, a budget that is charged instead for requests of at most ``shared_max`` bytes, while it has room.

    With the engine on (:func:`install`) ``with budget:`` charges what the code in it allocates: objects, arrays,
    buffers. docs/scopes.md says what exactly. Raises :class:`NativeUnavailable` where the engine is off.

    Raises :class:`ConfigError` for values that these do not take.

    >>> import nativemem
    >>> budget = nativemem.Budget("1 KiB", name="cache", warn=1)
    >>> with budget.reserve(1000):
    ...     budget.used, budget.try_reserve(100), budget.last_denial.owner
    (1000, False, 'cache')
    >>> budget.used, budget.peak
    (0, 1000)
    """

    __slots__ = (
        "__weakref__",
        "_core",
        "_depth",
        "_lent",
        "_name",
        "_on_pressure",
        "_options",
        "_parent",
        "_sharing",
        "_warned",
    )
    _backend: ClassVar[Any]
    #: whether snapshots and events show it
    _listed: ClassVar[bool] = True
    _depth: int
    _binding: ClassVar[Any]

    def __init__(
        self,
        limit: int | str,
        name: str | None = None,
        parent: Budget | None = None,
        warn: float = 0.8,
        critical: float = 0.95,
        max_single: float | None = None,
        on_pressure: Callable[[str, Budget], object] | None = None,
        *,
        overcommit: float = 0.0,
        minimum: int | str = 0,
        sharing: SharingPolicy | None = None,
        auto_rebalance: bool = False,
        shared: Budget | None = None,
        shared_max: int | str = 512,
    ) -> None:
        limit = parse_size(limit, "budget.limit:", least=1)
        if name is not None and not isinstance(name, str):
            raise ConfigError(f"budget.name: takes a string or None, not {shown(name)}")
        for label, other in (("parent", parent), ("shared", shared)):
            if other is not None and not isinstance(other, self._binding.Budget):
                raise ConfigError(
                    f"budget.{label}: takes a Budget of the {self._backend.name} backend, "
                    f"not {type(other).__name__}"
                )
        if on_pressure is not None and not callable(on_pressure):
            raise ConfigError(f"budget.on_pressure: takes a callable or None, not {shown(on_pressure)}")
        if sharing is not None and not isinstance(sharing, SharingPolicy):
            raise ConfigError(f"budget.sharing: takes a SharingPolicy or None, not {shown(sharing)}")
        beyond = parse_number(overcommit, "budget.overcommit")
        if not 0 <= beyond <= 1000:
            raise ConfigError(f"budget.overcommit: takes a number from 0 to 1000, not {shown(overcommit)}")
        options = BudgetOptions(
            warn=parse_fraction(warn, "budget.warn"),
            critical=max(parse_fraction(critical, "budget.critical"), parse_fraction(warn, "budget.warn")),
            max_single=0.0 if max_single is None else parse_fraction(max_single, "budget.max_single"),
            overcommit=beyond,
            minimum=parse_size(minimum, "budget.minimum:"),
            auto_rebalance=parse_bool(auto_rebalance, "budget.auto_rebalance"),
            shared=None if shared is None else shared._core,
            shared_max=parse_size(shared_max, "budget.shared_max:"),
        )
        if options.minimum > limit:
            raise ConfigError(f"budget.minimum: is {options.minimum} bytes, above the limit of {limit}")
        if hasattr(self, "_core"):
            raise RuntimeError("Budget: was initialised before")
        depth = 1 + max((b._depth for b in (parent, shared) if b is not None), default=0)
        if depth > MAX_DEPTH:
            raise ConfigError(f"budget.parent: at most {MAX_DEPTH} budgets stand below each other")
        self._depth, self._name, self._parent, self._lent = depth, name, parent, 0
        self._options, self._sharing, self._on_pressure = options, sharing, on_pressure
        self._warned: dict[str, dict[Any, Any]] = {}  # by level: what the warnings filters remember
        try:
            self._core = self._backend.BudgetCore(limit, None if parent is None else parent._core, options)
        except Refusal as r:
            raise_status(self, r.status, r.requested, r.used, r.limit)
        self._core.belongs_to(name, self, listed=self._listed)

    def __enter__(self) -> Self:
        self._core.owner()
        return self

    def __exit__(self, *error: object) -> None:
        self._core.misuse(1, 0, None, False, error[1] if len(error) > 1 else None)

    def __call__(self, function: F) -> F:
        """``function`` with its body in ``with self:``; also a generator function or a coroutine function.

        Raises :class:`ConfigError` for what is not callable. Any thread.

        >>> import nativemem
        >>> installed = nativemem.install()  # doctest: +SKIP
        >>> cache = nativemem.Budget("64 MiB", "cache")
        >>> @cache
        ... def fill():
        ...     return [(i, i) for i in range(100_000)]
        >>> entries = fill()  # doctest: +SKIP
        >>> cache.used > 6_000_000  # doctest: +SKIP
        True
        """
        if not callable(function):
            raise ConfigError(f"budget: decorates a function, not {shown(function)}")
        return scoped(self, function)

    def initializer(self) -> None:
        """Has all that the calling thread allocates be charged here until it ends. Raises as ``with budget:``.

        >>> import nativemem
        >>> from concurrent.futures import ThreadPoolExecutor
        >>> installed = nativemem.install()  # doctest: +SKIP
        >>> jobs = nativemem.Budget("64 MiB", "jobs")
        >>> with ThreadPoolExecutor(initializer=jobs.initializer) as pool:  # doctest: +SKIP
        ...     made = pool.submit(bytearray, 10_000_000).result()
        >>> jobs.used >= 10_000_000  # doctest: +SKIP
        True
        """
        self.__enter__()

    def wrap(self, executor: Executor) -> ScopedExecutor:
        """A :class:`concurrent.futures.Executor` that runs everything in ``executor`` within ``with self:``.

        Parameters: ``executor``, one whose threads are this process's. Raises :class:`ConfigError` for what has no
        ``submit``, and for a process pool. Any thread.

        >>> import nativemem
        >>> from concurrent.futures import ThreadPoolExecutor
        >>> installed = nativemem.install()  # doctest: +SKIP
        >>> jobs = nativemem.Budget("64 MiB", "jobs")
        >>> with jobs.wrap(ThreadPoolExecutor()) as pool:  # doctest: +SKIP
        ...     made = pool.submit(bytearray, 10_000_000).result()
        >>> jobs.used >= 10_000_000  # doctest: +SKIP
        True
        """
        if not callable(getattr(executor, "submit", None)):
            raise ConfigError(f"budget.wrap: takes an executor, not {shown(executor)}")
        processes = sys.modules.get("concurrent.futures.process")
        if processes is not None and isinstance(executor, processes.ProcessPoolExecutor):
            raise ConfigError("budget.wrap: other processes cannot take a budget along; each may have its own")
        from .executors import ScopedExecutor

        return ScopedExecutor(self, executor)

    @property
    def name(self) -> str | None:
        """What it was named, which makes it an owner."""
        return self._name

    @property
    def parent(self) -> Budget | None:
        """The budget that is charged as well, or None."""
        return self._parent

    @property
    def used(self) -> int:
        """Bytes charged now."""
        return self._core.numbers()[0]

    @property
    def peak(self) -> int:
        """Highest ``used`` so far."""
        return self._core.numbers()[1]

    @property
    def limit(self) -> int:
        """Most bytes allowed. May be set, to bytes or a string; a limit below ``used`` refuses until enough was
        released. Setting raises :class:`InvalidLayout` for what is no size."""
        return self._core.numbers()[2]

    @limit.setter
    def limit(self, limit: int | str) -> None:
        self._core.set_limit(parse_size(limit, "budget.limit:", least=1))
        _pressure.tell(self._backend.crossing)

    @property
    def available(self) -> int:
        """Bytes left under this budget's own limit."""
        used, _, limit, _ = self._core.numbers()
        return max(limit - used, 0)

    @property
    def pressure(self) -> str:
        """``"normal"``, ``"warn"``, ``"critical"`` or ``"full"``."""
        return _pressure.LEVELS[self._core.pressure()]

    @property
    def overcommit(self) -> float:
        """What may be used beyond the limit, as a fraction of it.

        >>> import nativemem
        >>> budget = nativemem.Budget("1 KiB", overcommit=0.5)
        >>> budget.overcommit, budget.try_reserve(1500), budget.shared_used
        (0.5, True, 0)
        """
        return self._options.overcommit

    @property
    def minimum(self) -> int:
        """Bytes that lending and rebalancing leave of the limit."""
        return self._options.minimum

    @property
    def shared_used(self) -> int:
        """Bytes that were charged to the shared budget instead."""
        return self._core.shared_used()

    @property
    def locked(self) -> bool:
        """Whether :meth:`lock` was called."""
        return self._core.is_locked()

    def lock(self) -> None:
        """From now on nothing more may be charged here or below, for good: what a service does when it has started.
        What is charged may be released. Any thread."""
        self._core.lock()

    @property
    def denied(self) -> int:
        """Requests refused so far, here or for a request that came through here."""
        return self._core.numbers()[3]

    @property
    def last_denial(self) -> Denial | None:
        """The last refused request, a :class:`Denial`, or None. Any thread."""
        denial = self._core.denial()
        if denial is None:
            return None
        requested, used, limit, refuser, when, reason = denial
        owner = None if refuser is None else refuser.name
        return Denial(requested, used, limit, owner, when / 1e9, _REASONS[reason])

    @property
    def stats(self) -> Stats:
        """Its figures, as the :class:`Stats` that allocators have: ``count`` charges, here and below, were of
        ``total`` bytes; ``largest_free`` is the largest charge that would pass now. Any thread.

        >>> import nativemem
        >>> budget = nativemem.Budget("1 KiB")
        >>> with budget.reserve(600):
        ...     budget.stats.current, budget.stats.largest_free
        (600, 424)
        >>> budget.stats.current, budget.stats.peak, budget.stats.total, budget.stats.count
        (0, 600, 600, 1)
        """
        used, peak, limit, denied = self._core.numbers()
        count, total = self._core.charges()
        return Stats(used, peak, used, limit, total, 0, count, 0, denied, self._largest_charge())

    def _largest_charge(self) -> int:
        largest, budget = SIZE_MAX, self
        while budget is not None:
            used, _, limit, _ = budget._core.numbers()
            allowed = min(limit + int(budget.overcommit * limit), SIZE_MAX)
            largest = min(largest, max(allowed - used, 0) if not budget.locked else 0)
            if budget._options.max_single:
                largest = min(largest, int(budget._options.max_single * limit))
            budget = budget._parent  # type: ignore[assignment]
        return largest

    def try_reserve(self, n: int | str) -> bool:
        """Charges ``n`` bytes; returns whether they fit. Nothing changes where they do not. Raises
        :class:`InvalidLayout` for what is no size. Any thread."""
        return self._charge(parse_size(n, "budget.reserve: size"))

    def _charge(self, n: int) -> bool:
        done: bool = self._core.charge(n)
        _pressure.tell(self._backend.crossing)
        return done

    def _charge_or_refuse(self, n: int) -> None:
        if not self._core.charge(n):
            _, used, allowed, *_ = self._core.denial()
            raise Refusal(Status.OVER_BUDGET, n, used, allowed)

    def reserve(self, n: int | str) -> AbstractContextManager[Budget]:
        """Charges ``n`` bytes at once; the result may be used as a context manager that releases them.

        Raises :class:`BudgetExceeded`, charging nothing, where they do not fit, and :class:`InvalidLayout` for what
        is no size. Any thread.

        >>> import nativemem
        >>> budget = nativemem.Budget(1000)
        >>> with budget.reserve(600):
        ...     budget.used
        600
        >>> budget.used
        0
        """
        n = parse_size(n, "budget.reserve: size")
        reserved = _Reserved(self, n)  # first: what is charged must not be lost for want of memory
        try:
            _pressure.retry(self._backend, functools.partial(self._charge_or_refuse, n))
        except Refusal as r:
            refusal = r.status, r.requested, r.used, r.limit
        else:
            _pressure.tell(self._backend.crossing)
            return reserved
        raise_status(self, *refusal)

    @property
    def owner(self) -> Budget:
        """The budget itself, as an allocator's ``owner``."""
        return self

    def release(self, n: int | str) -> None:
        """Gives ``n`` charged bytes back. Raises :class:`BudgetUnderflow`, changing nothing, if more than
        are in use, and :class:`InvalidLayout` for what is no size. Any thread."""
        n = parse_size(n, "budget.release: size")
        status = self._core.release(n)
        if status != Status.OK:
            raise_status(self, status, n, self.used)

    @staticmethod
    def _explain(allocator: Any, refused: Refusal, layout: tuple[int, int] | None) -> tuple[dict[str, Any], str]:
        requested, used, limit = refused.requested, refused.used, refused.limit
        try:
            owner, reason = _refuser(allocator, requested, used, limit)
        except Exception:  # half-made, or a subclass with its own mind
            owner, reason = None, "limit"
        state = {**space(requested, used, limit), "owner": owner}
        if reason == "locked":
            return state, "the budget is locked: charge before lock() what is needed after it"
        if reason == "max_single":
            return state, "one request is larger than the budget's max_single: ask for smaller pieces"
        if layout is not None and layout[0] <= state["available"]:
            return state, (
                f"the block itself would fit; the allocator charges the {requested} bytes of its next chunk: "
                "trim() or reset() gives chunks back, Limited in front of it charges by the block"
            )
        if requested > limit:
            return state, f"no request of this size ever passes: raise the limit to at least {requested} bytes"
        if is_full(state):
            return state, f"it is {state['utilization']:.0%} full: free blocks of this owner, or raise its limit"
        return state, f"ask for at most {state['available']} bytes at once, or raise the limit"

    def _pressed(self) -> str:
        used, peak, limit, _ = self._core.numbers()
        if self.pressure == "normal":  # what came there was given back before it could be told
            return f"{self._label()}: up to {format_size(peak)} of {format_size(limit)} were in use"
        return f"{self._label()}: {format_size(used)} of {format_size(limit)} are in use"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("cannot copy or pickle 'Budget': what is charged to it is charged once")

    def __repr__(self) -> str:
        used, peak, limit, _ = self._core.numbers()
        label = f" {self.name!r}" if self.name else ""
        over = f", overcommit {self.overcommit:g}" if self.overcommit else ""
        return f"<Budget{label} {format_size(used)} of {format_size(limit)}, peak {format_size(peak)}{over}>"


def _refuser(allocator: Any, requested: int, used: int, limit: int) -> tuple[str | None, str]:
    """Name and reason of the budget that refused: of those along the chain the one with just this denial, and of
    several with one like it the latest."""
    latest = None
    for link in chain(allocator):
        budget = link.owner
        denial = budget.last_denial if budget is not None else None
        if denial and (denial.requested, denial.used, denial.limit) == (requested, used, limit):
            if latest is None or denial.time > latest.time:
                latest = denial
    return (None, "limit") if latest is None else (latest.owner, latest.reason)


class _Reserved:
    """What was charged, to be released at the end of a ``with`` block."""

    __slots__ = ("_budget", "_bytes")

    def __init__(self, budget: Budget, n: int) -> None:
        self._budget, self._bytes = budget, n

    def __enter__(self) -> Budget:
        return self._budget

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        with lending:
            self._budget.release(self._bytes)
            self._bytes = 0
