"""The pure backend's budgets: charging, lending, levels of pressure."""

from __future__ import annotations

import collections
import itertools
import math
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

from ...config import BudgetOptions, Settings
from ...errors import Refusal, Status
from ...refusals import raise_scope
from ...sizes import SIZE_MAX
from ..ownership import MOST_EVENTS, Event, OwnedCore, short
from ..protocols import Pressure
from ..selection import unavailable
from .lock import lock, locked

_LEVELS = 4


class BudgetCore(OwnedCore):
    """A limit on bytes, with ancestors."""

    def __init__(self, limit: int, parent: BudgetCore | None, options: BudgetOptions) -> None:
        self._o = options._replace(warn=options.warn or 1.0, critical=options.critical or 1.0)
        self._parent = parent
        self.name, self._budget = None, None
        self._used = self._peak = self._recent = self._denied = self._in_shared = self._level = 0
        self._count = self._bytes = 0
        self._locked = False
        self._shown = ""
        # names the refuser unless it is this one: a cycle would keep the charge until a collection
        self._last: tuple[int, int, int, BudgetCore | None, int, int] | None = None
        self._children: dict[int, weakref.ref[BudgetCore]] = {}
        with lock:
            self._limit_is(limit, self._with_overcommit(limit))
            if parent is not None:
                parent._children[id(self)] = weakref.ref(self)

    def __del__(self) -> None:
        # else memory ran out while it was made; or the interpreter is at its end, and has taken modules apart
        if hasattr(self, "_children") and lock is not None:
            lock.finalise(self._end)

    def introduce(self) -> None:
        """Its events begin."""
        self._shown = short(self.label)
        self._note(_MADE)

    def _note(self, kind: int, other: BudgetCore | None = None, requested: int = 0, detail: int = 0) -> None:
        """Notes an event, as budget_note of csrc/base/budget.c."""
        at: BudgetCore = self
        if not at._shown and other is not None:
            at, other = other, None
        if not at._shown:
            return
        name = other._shown if other is not None and other is not at else ""
        try:
            numbers = requested, at._used, at._limit
            when, ident = time.time_ns(), threading.get_ident()
            _events.append(Event(next(_numbers), when, ident, kind, detail, *numbers, at._shown, name or None))
        except (MemoryError, AttributeError, TypeError):  # or the interpreter is at its end, as in __del__
            pass

    def _end(self) -> None:
        self._note(_CLOSED)
        self._discharge(self._parent, self._used)
        self._discharge(self._o.shared, self._in_shared)
        if self._parent is not None:
            self._parent._children.pop(id(self), None)
        # A collection finalises what it finds in any order: what is charged here may be released later, and is then
        # to be released no further.
        self._used = self._in_shared = 0
        self._parent, self._o = None, self._o._replace(shared=None)

    # --- limits and levels

    def _limit_is(self, limit: int, allowed: int) -> None:
        self._limit, self._allowed = limit, allowed
        self._set_level()

    def _with_overcommit(self, limit: int) -> int:
        return min(limit + int(self._o.overcommit * limit), SIZE_MAX)

    def _from(self, level: int) -> int:
        """The bytes in use at which a level begins."""
        if level == 3:
            return self._limit
        part = (self._o.warn if level == 1 else self._o.critical) * self._limit
        return max(min(math.ceil(part), self._limit), 1)

    def pressure(self) -> int:
        level = _LEVELS - 1
        while level and self._used < self._from(level):
            level -= 1
        return level

    def _set_level(self) -> None:
        before, self._level = self._level, self.pressure()
        if self._level > before:
            pressed.append((weakref.ref(self), self._level, before == 0))
            self._note(_PRESSURE, detail=self._level)

    @locked
    def set_limit(self, limit: int) -> None:
        """Sets the limit."""
        before = self._limit
        self._limit_is(limit, self._with_overcommit(limit))
        if limit != before:
            self._note(_LIMIT, requested=before)

    @locked
    def lock(self) -> None:
        self._note(_LOCKED)
        self._locked = True

    def is_locked(self) -> bool:
        return self._locked

    def shared_used(self) -> int:
        return self._in_shared

    # --- lending

    @locked
    def lend(self, to: BudgetCore, n: int) -> bool:
        """Moves ``n`` of the limit to another's, where so much is unused."""
        if to is self:
            return True
        least = max(self._o.minimum, 1)
        if self._limit - n < least or self._allowed - self._used < n or to._allowed + n > SIZE_MAX:
            return False
        self._limit_is(self._limit - n, self._allowed - n)
        to._limit_is(to._limit + n, to._allowed + n)
        self._note(_LENT, to, n)
        return True

    def _siblings(self) -> list[BudgetCore]:
        """Its children, newest first."""
        children = [child() for child in reversed(list(self._children.values()))]
        return [child for child in children if child is not None]

    def _comfortable(self) -> int:
        """The least limit at which what is used is below the warn level."""
        return int(self._used / self._o.warn) + 1

    def _spare(self) -> int:
        """What an idle budget can do without."""
        keep = max(self._comfortable(), self._o.minimum)
        if keep >= self._limit or self.pressure():
            return 0
        return max(min(self._limit - keep, self._allowed - self._used), 0)

    def _gather(self, givers: list[BudgetCore], need: int, moves: list[tuple[Any, Any, int]]) -> int:
        """Takes up to ``need`` bytes of limit from the givers, the last first. One without any leaves the list."""
        total = 0
        while givers and total < need:
            giver = givers[-1]
            n = 0 if giver is self else min(giver._spare(), need - total)
            if n and giver.lend(self, n):
                moves.append((giver, self, n))
                total += n
            if total < need:
                givers.pop()
        return total

    @locked
    def rebalance(self) -> list[tuple[Any, Any, int]]:
        """Among its children, from the idle to the pressed; the moves."""
        moves: list[tuple[Any, Any, int]] = []
        children = self._siblings()
        givers = children[::-1]
        for child in children:
            need = child._comfortable() - child._limit
            if need > 0 and child.pressure():
                child._gather(givers, need, moves)
        return moves

    def _take_from_siblings(self, n: int) -> bool:
        """All that is missing, or nothing."""
        assert self._parent is not None
        moves: list[tuple[Any, Any, int]] = []
        need = n - (self._allowed - self._used)
        if self._gather(self._parent._siblings()[::-1], need, moves) >= need:
            return True
        for giver, _, bytes_ in reversed(moves):
            self.lend(giver, bytes_)
        return False

    # --- charging

    @staticmethod
    def _discharge(budget: BudgetCore | None, n: int) -> None:
        while budget is not None:
            # no lower than zero: what came through here may have been released there as well
            budget._used = max(budget._used - n, 0)
            budget._set_level()
            budget = budget._parent

    def _denies(self, n: int) -> int | None:
        """Why it refuses by itself: 0 the limit, 1 the largest charge, 2 it is locked; None: it does not."""
        if n and self._locked:
            return 2
        if self._o.max_single and n > int(self._o.max_single * self._limit):
            return 1
        if self._used + n <= self._allowed:
            return None
        asks = self._parent is not None and self._parent._o.auto_rebalance
        return None if asks and self._take_from_siblings(n) else 0

    def _charge(self, n: int) -> tuple[BudgetCore, int] | None:
        """Charges the whole line; or nothing, and says which budget refused, and why."""
        budget: BudgetCore | None = self
        while budget is not None:
            kind = budget._denies(n)
            if kind is not None:
                return budget, kind
            budget = budget._parent
        budget = self
        while budget is not None:
            budget._used += n
            budget = budget._parent
        return None

    def owner(self) -> None:
        """None under the kill switch: a scope is nothing then. Else raises :class:`NativeUnavailable`."""
        if not Settings.from_env().disable:
            raise unavailable("a scope")

    def misuse(self, kind: int, another: int, contexts: Any, ended: bool, error: Any) -> None:
        """As :func:`raise_scope`: here no scope is ever open. Nothing under the kill switch."""
        if not Settings.from_env().disable:
            raise_scope(self.name, kind, None, contexts, ended, error)

    @locked
    def charge(self, n: int) -> bool:
        """Charges ``n`` bytes here and in every ancestor, or nowhere."""
        done = self._hold(n)
        if done:
            self._settle()
        return done

    def _settle(self) -> None:
        for start in (self, self._o.shared):
            budget = start
            while budget is not None:
                budget._peak, budget._recent = max(budget._peak, budget._used), max(budget._recent, budget._used)
                budget._set_level()
                budget = budget._parent

    def _hold(self, n: int) -> bool:
        """A charge that shows in peak and pressure only once it is settled."""
        shared = self._o.shared
        if shared is not None and n <= self._o.shared_max and not self._locked and shared._charge(n) is None:
            self._in_shared += n
            shared._count_charge(n)
            return True
        refusal = self._charge(n)
        if refusal is None:
            self._count_charge(n)
            return True
        refuser, kind = refusal
        numbers, now = (n, refuser._used, refuser._allowed), time.time_ns()
        if refuser is not self:
            refuser._last = (*numbers, None, now, kind)
            refuser._denied += 1
        self._last = (*numbers, None if refuser is self else refuser, now, kind)
        self._denied += 1
        refuser._note(_DENIED, self, n, kind)
        _refused.last = None if kind else (weakref.ref(self), weakref.ref(refuser))
        return False

    def _count_charge(self, n: int) -> None:
        budget: BudgetCore | None = self
        while budget is not None:
            budget._count, budget._bytes = budget._count + 1, budget._bytes + n
            budget = budget._parent

    @locked
    def uncount(self, refuser: BudgetCore) -> None:
        """A charge that ``refuser`` refused is tried again: it is denied no longer."""
        self._denied -= 1
        if refuser is not self:
            refuser._denied -= 1

    @locked
    def release(self, n: int) -> int:
        """Gives ``n`` bytes back; UNDERFLOW, nothing changed, if more than are used."""
        back = min(self._in_shared, n)
        if n - back > self._used:
            return Status.UNDERFLOW
        self._in_shared -= back
        self._discharge(self._o.shared, back)
        self._discharge(self, n - back)
        return Status.OK

    @locked
    def numbers(self) -> tuple[int, int, int, int]:
        """used, peak, limit, denied."""
        return self._used, self._peak, self._limit, self._denied

    @locked
    def take_peak(self) -> int:
        """The most that was used since this was called last, or since it was made."""
        was, self._recent = max(self._recent, self._used), min(self._used, self._peak)
        return was

    @locked
    def charges(self) -> tuple[int, int]:
        """Charges so far, here and below, and the bytes of all of them."""
        return self._count, self._bytes

    def account(self) -> None:
        """What the engine has for its scopes: there are none."""
        return None

    def detach(self) -> None:
        """Nothing: there are no scopes."""

    @locked
    def denial(self) -> tuple[int, int, int, Any, int, int] | None:
        """requested, used, allowed, the core that refused, time in ns, why."""
        if self._last is None:
            return None
        requested, used, limit, refuser, when, kind = self._last
        return requested, used, limit, refuser or self, when, kind

    @locked
    def check(self) -> str | None:
        """None, or the invariant that does not hold."""
        budget: BudgetCore | None = self
        while budget is not None:
            if budget._peak < budget._used:
                return "used is above peak"
            if budget._used < sum(child._used for child in budget._siblings()):
                return "a parent uses less than its children"
            if budget._level != budget.pressure():
                return "the level is not that of what is used"
            budget = budget._parent
        return None

    def _hold_or_refuse(self, n: int) -> None:
        if not self._hold(n):
            assert self._last is not None
            raise Refusal(Status.OVER_BUDGET, *self._last[:3])


_DENIED, _PRESSURE, _LIMIT, _LENT, _MADE, _CLOSED, _LOCKED = range(1, 8)
_numbers = itertools.count(1)
_events: collections.deque[Event] = collections.deque(maxlen=MOST_EVENTS)


@locked
def events(after: int) -> list[Event]:
    """The events of budgets that are kept and have a higher number than ``after``."""
    return [event for event in _events if event.number > after]


#: levels that budgets came to and that no callback was told of: the budget, the level, whether there was no
#: pressure before
pressed: collections.deque[tuple[weakref.ref[BudgetCore], int, bool]] = collections.deque()


def crossing() -> tuple[Any, int, bool] | None:
    """The next of them."""
    try:
        budget, level, was_normal = pressed.popleft()
    except IndexError:
        return None
    return budget(), level, was_normal


class _Refused(threading.local):
    #: the budget that was to be charged, and the one whose limit stood in the way
    last: tuple[weakref.ref[BudgetCore], weakref.ref[BudgetCore]] | None = None


_refused = _Refused()


def refusal() -> tuple[BudgetCore, BudgetCore] | None:
    """Of this thread's last charge, once, if a limit refused it: the budget that was to be charged, and the one
    that stood in the way."""
    last, _refused.last = _refused.last, None
    if last is None:
        return None
    charged, refuser = last[0](), last[1]()
    return None if charged is None or refuser is None else (charged, refuser)


def current() -> None:
    """Which budget is charged now: there are no scopes here."""
    return None


def aside(call: Callable[[], Any]) -> Any:
    """Calls a function charged to no budget: there are no scopes here."""
    return call()


_pressure: Pressure


def connect(pressure: Pressure) -> None:
    """Gives the backend what budgets do under pressure."""
    global _pressure
    _pressure = pressure


def tell() -> None:
    """Passes on the levels that budgets came to, once the call that caused them has done its work."""
    _pressure.tell(crossing)


def retry(call: Callable[[], Any], refused: tuple[int, int, int, int]) -> Any:
    """What ``call``, which was refused with these numbers, returns after the budgets were asked for room."""
    return _pressure.retry(sys.modules[__name__], call, refused)
