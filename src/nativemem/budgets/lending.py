"""Lending: limit that moves between budgets, by a loan or by rebalancing, and the policy for it.

The values that it returns do not change: any thread may read them.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from ..backends import forks as _forks
from ..config import parse_bool, parse_fraction, parse_number
from ..errors import BudgetExceeded, ConfigError, LendTimeout, LoanOutstanding, Refusal, shown
from ..refusals import raise_status, space
from ..sizes import format_size, parse_size
from . import pressure as _pressure

if TYPE_CHECKING:
    from .budget import Budget

__all__ = ["Loan", "Move", "SharingPolicy"]

#: what is lent or reserved, and that it is given back once
lending = threading.RLock()
_forks.hold(lending)


@dataclass(frozen=True)
class Move:
    """``bytes`` of limit that :meth:`Budget.rebalance` took from one budget, the ``lender``, and gave to another,
    the ``borrower``."""

    lender: Budget
    borrower: Budget
    bytes: int


@dataclass(frozen=True)
class SharingPolicy:
    """Which budgets one lends to, and how much.

    Parameters: ``max_share``, the fraction of its own limit that may be lent out at a time; ``borrowers``, names of
    those that may borrow (None: all); ``siblings_only``, whether they must have the same parent; ``rule``, asked
    last with the lender, the borrower and the bytes, and answering whether they may. Immutable.

    >>> import nativemem
    >>> policy = nativemem.SharingPolicy(max_share=0.5, borrowers=["cache"])
    >>> lender = nativemem.Budget(1000, sharing=policy)
    >>> policy.allows(lender, nativemem.Budget(10, name="cache"), 500)
    True
    >>> policy.allows(lender, nativemem.Budget(10, name="other"), 1)
    False
    """

    max_share: float = 1.0
    borrowers: Collection[str] | None = None
    siblings_only: bool = False
    rule: Callable[[Budget, Budget, int], bool] | None = None

    def __post_init__(self) -> None:
        parse_fraction(self.max_share, "sharing.max_share")
        parse_bool(self.siblings_only, "sharing.siblings_only")
        if self.borrowers is not None:
            if isinstance(self.borrowers, str) or not isinstance(self.borrowers, Collection):
                raise ConfigError(f"sharing.borrowers: takes names or None, not {shown(self.borrowers)}")
            object.__setattr__(self, "borrowers", frozenset(self.borrowers))
        if self.rule is not None and not callable(self.rule):
            raise ConfigError(f"sharing.rule: takes a callable or None, not {shown(self.rule)}")

    def allows(self, lender: Budget, borrower: Budget, n: int) -> bool:
        """Whether ``lender`` may lend ``n`` more bytes to ``borrower``. Whatever ``rule`` raises goes through.
        Raises :class:`ConfigError` for what is no budget."""
        for label, budget in (("lender", lender), ("borrower", borrower)):
            if not isinstance(budget, Lending):
                raise ConfigError(f"sharing.allows: {label} takes a Budget, not {type(budget).__name__}")
        if self.borrowers is not None and borrower.name not in self.borrowers:
            return False
        if self.siblings_only and (lender.parent is None or lender.parent is not borrower.parent):
            return False
        return self._has_share(lender, n) and (self.rule is None or bool(self.rule(lender, borrower, n)))

    def _has_share(self, lender: Any, n: int) -> bool:
        return lender.lent + n <= self.max_share * (lender.limit + lender.lent)


class Lending:
    """What a :class:`Budget` can do with its limit beside other budgets."""

    __slots__ = ()
    _backend: ClassVar[Any]
    _binding: ClassVar[Any]
    _core: Any
    _name: str | None
    _sharing: SharingPolicy | None
    _lent: int

    @property
    def used(self) -> int:
        """Bytes charged now."""
        raise NotImplementedError

    @property
    def limit(self) -> int:
        """Most bytes allowed."""
        raise NotImplementedError

    @property
    def lent(self) -> int:
        """Bytes of its limit that are lent out now."""
        return self._lent

    def lend(self, borrower: Budget, n: int | str, timeout: float = 0.0) -> Loan:
        """Lends ``n`` bytes of unused limit to another budget; the sum of the two limits stays what it was.

        Parameters: ``borrower``, another budget; ``n``, bytes or a string; ``timeout``, seconds to wait for so much
        to be unused. Returns a :class:`Loan`, whose block it ends with. Raises, with nothing changed,
        :class:`BudgetExceeded` where less is unused, the minimum would not be left or the policy does not allow it;
        :class:`LendTimeout` where that lasted for the whole timeout; :class:`ConfigError` and
        :class:`InvalidLayout` for arguments that are none. Any thread.

        >>> import nativemem
        >>> lender, borrower = nativemem.Budget(1000), nativemem.Budget(100)
        >>> with lender.lend(borrower, 400):
        ...     lender.limit, borrower.limit
        (600, 500)
        >>> lender.limit, borrower.limit
        (1000, 100)
        """
        if not isinstance(borrower, self._binding.Budget):
            raise ConfigError(
                f"budget.lend: takes a Budget of the {self._backend.name} backend, not {type(borrower).__name__}"
            )
        if borrower is self:
            raise ConfigError("budget.lend: a budget does not lend to itself")
        n = parse_size(n, "budget.lend: size")
        seconds = parse_number(timeout, "budget.lend: timeout")
        if not 0 <= seconds < math.inf:
            raise ConfigError(f"budget.lend: timeout takes seconds from 0 on, not {shown(timeout)}")
        until, pause = time.monotonic() + seconds, 0.0005
        while True:
            # the rule is the caller's code: no lock is held while it runs
            allowed = self._sharing is None or self._sharing.allows(self, borrower, n)  # type: ignore[arg-type]
            with lending:
                if not (allowed and (self._sharing is None or self._sharing._has_share(self, n))):
                    raise BudgetExceeded(
                        f"{self._label()} may not lend {n} bytes to {borrower._label()}",
                        suggestion="its SharingPolicy says to which budgets it lends, and how much",
                        **space(n, self.used, self.limit),
                        owner=self._name,
                    )
                # what needs memory first: what is lent must not be lost for want of it
                loan, lent = Loan(self, borrower, n), self._lent + n  # type: ignore[arg-type]
                if self._transfer(borrower, n):
                    self._lent = lent  # type: ignore[misc]  # a slot of Budget
                    break
            rest = until - time.monotonic()
            if rest <= 0:
                used, limit = self.used, self.limit
                kind = LendTimeout if seconds else BudgetExceeded
                raise kind(
                    f"{self._label()} has not {n} bytes to lend; {used} of {limit} bytes are in use",
                    suggestion="ask for less, wait for longer, or borrow from another budget",
                    **space(n, used, limit),
                    owner=self._name,
                )
            time.sleep(min(pause, rest))
            pause = min(2 * pause, 0.05)
        _pressure.tell(self._backend.crossing)
        return loan

    def _transfer(self, other: Any, n: int) -> bool:
        try:
            return self._core.lend(other._core, n)
        except Refusal as r:
            raise_status(self, r.status, r.requested)

    def rebalance(self) -> list[Move]:
        """Moves unused limit from this budget's children without pressure to those with it, so much that both end
        below their warn level; none goes below its ``minimum``. Returns the moves. Any thread.

        >>> import nativemem
        >>> parent = nativemem.Budget("1 MiB")
        >>> idle = nativemem.Budget(1000, "idle", parent)
        >>> busy = nativemem.Budget(1000, "busy", parent, warn=0.9)
        >>> with busy.reserve(899):
        ...     parent.rebalance(), busy.try_reserve(101)
        ([], True)
        """
        moves = [
            Move(_pressure.budget_of(lender), _pressure.budget_of(borrower), n)
            for lender, borrower, n in self._core.rebalance()
        ]
        _pressure.tell(self._backend.crossing)
        return moves

    def _label(self) -> str:
        return f"budget {self._name!r}" if self._name else "budget"


class Loan:
    """Limit that one budget has lent to another, ``n`` bytes of the ``lender`` to the ``borrower``: what
    :meth:`Budget.lend` returns.

    Leaving its ``with`` block gives it back. Any thread may do so.

    >>> import nativemem
    >>> lender, borrower = nativemem.Budget(1000), nativemem.Budget(100)
    >>> loan = lender.lend(borrower, 400)
    >>> loan.outstanding; loan.settle(); loan.outstanding
    400
    0
    """

    __slots__ = ("_borrower", "_bytes", "_lender")

    def __init__(self, lender: Budget, borrower: Budget, n: int) -> None:
        self._lender, self._borrower, self._bytes = lender, borrower, n

    @property
    def lender(self) -> Budget:
        """The budget that lent it."""
        return self._lender

    @property
    def borrower(self) -> Budget:
        """The budget that has it."""
        return self._borrower

    @property
    def outstanding(self) -> int:
        """Bytes that were not given back yet."""
        return self._bytes

    def settle(self) -> None:
        """Gives the limit back. Once that is done it does nothing more.

        Raises :class:`LoanOutstanding`, and the loan stays, while the borrower uses more than it would have left.
        """
        with lending:
            n = self._bytes
            if not n:
                return
            lent = self._lender._lent - n
            if not self._borrower._transfer(self._lender, n):
                used, limit = self._borrower.used, self._borrower.limit
                raise LoanOutstanding(
                    f"{self._borrower._label()} uses {used} bytes; without the loan its limit is {limit - n}",
                    suggestion="release what it uses, then call settle()",
                    **space(n, used, limit),
                )
            self._bytes, self._lender._lent = 0, lent
        _pressure.tell(self._borrower._backend.crossing)

    def __enter__(self) -> Loan:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            self.settle()
        except LoanOutstanding as outstanding:
            if error is None:
                raise
            if hasattr(error, "add_note"):  # what went wrong first is not hidden; the loan stays either way
                error.add_note(str(outstanding))

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("cannot copy or pickle 'Loan': it is given back once")

    def __repr__(self) -> str:
        return f"<Loan of {format_size(self._bytes)} from {self._lender._label()} to {self._borrower._label()}>"
