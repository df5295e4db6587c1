"""The native backend's budgets: the core of each, and what they tell of refusals and pressure."""

from __future__ import annotations

import weakref
from typing import Any, NoReturn

from ..._lazy import errors
from ...config import BudgetOptions
from ...refusals import raise_scope
from ...units import reserve_of
from ..ownership import MOST_EVENTS, Event, OwnedCore, short
from .control import address, ffi, lib
from .handles import own
from .loader import dataplane

#: by address, to name the budget that refused
_budgets: weakref.WeakValueDictionary[int, BudgetCore] = weakref.WeakValueDictionary()

#: by the identity of its owner object, to tell which budget is charged now
_entered: weakref.WeakValueDictionary[int, BudgetCore] = weakref.WeakValueDictionary()


class BudgetCore(OwnedCore):
    """Control plane of one budget."""

    __slots__ = (
        "__weakref__",
        "_budget",
        "_keeps_reserve",
        "_made",
        "_owner",
        "_parent",
        "_ptr",
        "handle",
        "name",
        "serial",
    )
    _ptr: Any
    handle: Any

    def __init__(self, limit: int, parent: BudgetCore | None, options: BudgetOptions) -> None:
        up, needs = (ffi.NULL, ()) if parent is None else (parent._ptr, (parent.handle,))
        fields = options._asdict()
        if options.shared is None:
            fields["shared"] = ffi.NULL
        else:
            fields["shared"], needs = options.shared._ptr, (*needs, options.shared.handle)
        self._ptr, self.handle = own("budget", needs, limit, up, ffi.new("nm_budget_options *", fields))
        self._owner: Any = None
        self._made: dict[str, Any] = {}
        self.name, self._budget = None, None
        self._keeps_reserve = False
        self._parent = parent
        _budgets[address(self._ptr)] = self

    def introduce(self) -> None:
        """Its events begin."""
        lib.nm__budget_introduce(self._ptr, short(self.label).encode())

    def renew(self, name: str, most: int) -> bool:
        """Begins anew, by another name, as if it had just been made; what is in use stays charged. False, and
        nothing is changed, where it refused something, or more than ``most`` bytes are in use, or it was never
        entered. Pre: only scopes charge it, and none is open; there are neither children nor loans."""
        if self._owner is None or not dataplane.scope_renew(self._owner, name, most):
            return False
        self.name = name
        return True

    def owner(self) -> Any:
        """What a scope is of. Raises :class:`NativeUnavailable` where the engine is not on."""
        if not any(dataplane.engine_state()[:2]):
            raise errors.NativeUnavailable(
                "the engine is not on, so nothing that the code allocates would be charged",
                suggestion="call nativemem.install() first",
            )
        if self._owner is None:
            core: BudgetCore | None = self
            while core is not None:  # each of them may refuse
                core._keeps_reserve = True
                core._set_reserve()
                core = core._parent
            try:
                name, asks = self.name or "", self._has_callback()
                made = dataplane.scope_owner(self.handle, address(self._ptr), asks, name)
            except MemoryError:
                raise errors.OutOfMemory("no memory for the control structures of a scope") from None
            # another thread may have come first, or a signal handler between any two lines: one step decides
            made = self._made.setdefault("owner", made)
            _entered[id(made)] = self
            self._owner = made
        return self._owner

    def misuse(self, kind: int, another: int, contexts: Any, ended: bool, error: Any) -> NoReturn:
        """Raises the :class:`ScopeError` that :func:`raise_scope` makes of what the data plane found;
        ``another`` is the address of the budget that is open inside, or 0."""
        other = _budgets.get(another)
        inner = None if other is None else other.name
        raise_scope(self.name, kind, inner, contexts, ended, error)

    def charge(self, n: int) -> bool:
        return lib.nm_budget_charge(self._ptr, n)

    def release(self, n: int) -> int:
        return lib.nm_budget_release(self._ptr, n)

    def set_limit(self, limit: int) -> None:
        lib.nm_budget_set_limit(self._ptr, limit)
        if self._keeps_reserve:
            self._set_reserve()

    def _has_callback(self) -> bool:
        core: BudgetCore | None = self
        while core is not None:
            budget = core.budget()
            if budget is not None and budget._on_pressure is not None:
                return True
            core = core._parent
        return False

    def _set_reserve(self) -> None:
        lib.nm__budget_hold_back(self._ptr, reserve_of(lib.nm_budget_limit(self._ptr)))

    def lock(self) -> None:
        lib.nm_budget_lock(self._ptr)

    def is_locked(self) -> bool:
        return lib.nm_budget_is_locked(self._ptr)

    def shared_used(self) -> int:
        return lib.nm_budget_shared_used(self._ptr)

    def pressure(self) -> int:
        return lib.nm_budget_pressure(self._ptr)

    def lend(self, to: BudgetCore, n: int) -> bool:
        # what else moves limits is done within microseconds, unless a debugger stands on it
        status = lib.nm_budget_lend(self._ptr, to._ptr, n, 10**9)
        if status == lib.NM_TIMED_OUT:
            raise errors.Refusal(status, n)
        return not status

    def rebalance(self) -> list[tuple[Any, Any, int]]:
        out: list[tuple[Any, Any, int]] = []
        moves = ffi.new("nm_move[256]")
        while count := lib.nm_budget_rebalance(self._ptr, moves, 256):
            for move in moves[0:count]:
                cores = _budgets.get(address(getattr(move, "from"))), _budgets.get(address(move.to))
                out.append((*cores, move.bytes))
        return out

    def take_peak(self) -> int:
        return lib.nm_budget_take_peak(self._ptr)

    def charges(self) -> tuple[int, int]:
        sum_of = lib.nm_budget_charges(self._ptr)
        return sum_of.count, sum_of.bytes

    def account(self) -> tuple[int, int, list[tuple[int, int]]] | None:
        return None if self._owner is None else dataplane.scope_account(self._owner)

    def detach(self) -> None:
        """What the calling thread keeps for its scopes goes back, as far as it is empty."""
        if self._owner is not None:
            dataplane.scope_detach(self._owner)

    def check(self) -> str | None:
        broken = lib.nm_budget_check(self._ptr)
        return None if broken == ffi.NULL else ffi.string(broken).decode()

    def numbers(self) -> tuple[int, int, int, int]:
        b = self._ptr
        used = lib.nm_budget_used(b)
        return used, lib.nm_budget_peak(b), lib.nm_budget_limit(b), lib.nm_budget_denied(b)

    def denial(self) -> tuple[int, int, int, Any, int, int] | None:
        return denial_of(self._ptr)

    def uncount(self, refuser: BudgetCore) -> None:
        lib.nm__budget_uncount(self._ptr, refuser._ptr)


def denial_of(budget: Any) -> tuple[int, int, int, Any, int, int] | None:
    out = ffi.new("nm_denial *")
    if not lib.nm_budget_last_denial(budget, out):
        return None
    refuser = _budgets.get(address(out.refuser))
    return out.requested, out.used, out.limit, refuser, out.time_ns, out.kind


def denial_of_engine() -> tuple[int, int, int, Any, int, int] | None:
    """As :func:`denial_of`, of the process limit."""
    return denial_of(lib.nm_engine_budget())


def events(after: int) -> list[Event]:
    """The events of budgets and of the engine that are kept and have a higher number than ``after``."""
    found, out = [], ffi.new("nm__event[]", MOST_EVENTS)
    for i in range(lib.nm__events_read(after, out, MOST_EVENTS)):
        each = out[i]
        name, other = (ffi.string(text).decode("utf-8", "replace") for text in (each.name, each.other))
        numbers = each.requested, each.used, each.limit
        found.append(
            Event(each.number, each.time_ns, each.thread, each.kind, each.detail, *numbers, name, other or None)
        )
    return found


def crossing() -> tuple[Any, int, bool] | None:
    """The next level that a budget came to from below and that no callback was told of.

    Returns its core (None where the budget is gone), the level, and whether there was no pressure before."""
    budget, level, was_normal = ffi.new("const nm_budget **"), ffi.new("int *"), ffi.new("bool *")
    if not lib.nm_budget_crossed(budget, level, was_normal):
        return None
    return _budgets.get(address(budget[0])), level[0], was_normal[0]


def refusal() -> tuple[BudgetCore, BudgetCore] | None:
    """Of this thread's last charge, once, if a limit refused it: the budget that was to be charged, and the one
    that stood in the way."""
    out = ffi.new("nm__refusal *")
    if not lib.nm__budget_take_refusal(out):
        return None
    charged, refuser = _budgets.get(address(out.charged)), _budgets.get(address(out.refuser))
    return None if charged is None or refuser is None else (charged, refuser)


def current() -> BudgetCore | None:
    """The core of the budget that is charged for what the calling code allocates."""
    owner = dataplane.scope_current()
    core = None if owner is None else _entered.get(id(owner))
    return core if core is not None and core._owner is owner else None


#: calls a function charged to no budget
aside = dataplane.scope_aside


def asker(ask: Any) -> Any:
    """What the data plane calls where a budget refused, with the addresses of the budget that was to be charged and
    of the one that stood in the way, and the budgets that were asked before: see ``ask`` of :class:`Pressure`."""

    def ask_for_room(charged: int, refuser: int, asked: list[Any] | None) -> list[Any] | None:
        core = _budgets.get(charged)
        return None if core is None else ask(aside, core, _budgets.get(refuser), asked)

    return ask_for_room


def array_budget(address: int) -> BudgetCore | None:
    """The core of the budget that an array is charged to."""
    return _budgets.get(dataplane.scope_array_budget(address))
