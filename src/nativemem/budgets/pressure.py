"""Budgets under pressure: which callback is told, and when.

A core notes that a budget came to a level from below; that happens inside an allocation, often with locks
held, so no callback runs there. The public calls that may charge a budget tell what was noted as their last
act, when the block is complete and no lock is held. Before such a call raises what a budget refused it asks
the budgets that stood in the way for room, and makes the request again.

Any thread may be told.
"""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .._folder import PACKAGE
from .._frames import frame_at
from .._unraisable import is_of_a_signal, unraisable
from ..errors import Refusal

if TYPE_CHECKING:
    from .budget import Budget

__all__ = ["LEVELS", "MemoryPressure"]

LEVELS = ("normal", "warn", "critical", "full")
#: crossings: to tell of one may cause another, without an end
MOST_AT_ONCE = 64
_IN_CALLBACK = "Exception ignored in a budget's on_pressure"


class MemoryPressure(RuntimeWarning):
    """A budget came to its warn level. ``budget`` is the one, ``level`` its level: warn, critical or full."""

    def __init__(self, message: str, budget: Budget | None = None, level: str = "warn") -> None:
        super().__init__(message)
        self.budget = budget
        self.level = level


def budget_of(core: Any) -> Any:
    """The budget of a core; None where it is gone, and for None."""
    return None if core is None else core.budget()


def tell(crossing: Callable[[], tuple[Any, int, bool] | None]) -> None:
    """Passes on what was noted. An exception of a callback, or of a warning that is an error, goes to
    ``sys.unraisablehook``: the call that was just done has been done. Interrupts, and what the handler of a signal
    raises meanwhile, are raised. Where there is no memory for a call no callback is called."""
    try:
        for _ in range(MOST_AT_ONCE):
            noted = crossing()
            if noted is None:
                break
            core, level, was_normal = noted
            budget = budget_of(core)
            if budget is None or _is_among(budget, _here.called):  # what a callback does is not told to it
                continue
            try:
                if was_normal:
                    _warn(budget, LEVELS[level])
                if budget._on_pressure is not None:
                    _call(budget, LEVELS[level])
            except Exception as error:
                if is_of_a_signal(error.__traceback__):
                    raise
                unraisable(_IN_CALLBACK, budget)
    except MemoryError:
        pass


def _warn(budget: Any, level: str) -> None:
    """Warns of the code that runs now, whatever of this package lies in between.

    The filters that warn once do so once for a budget and level, wherever that is and whatever the figures: each
    has a registry of its own, and once it has an entry the next warning finds itself there. The registry of a
    module would have one for each line and each text, so that a budget that goes up and down would fill a log. A
    registry is void when filters change, as any.
    """
    n = 1
    while (frame := frame_at(n)) is not None and frame.f_code.co_filename.startswith(PACKAGE):
        n += 1
    file, line, module = "sys", 1, "sys"  # as Python says where no code of Python's runs
    if frame is not None:
        # some instructions of the compiler's own have no line
        file, line = frame.f_code.co_filename, frame.f_lineno or frame.f_code.co_firstlineno
        module = frame.f_globals.get("__name__") or "<string>"
    message = MemoryPressure(budget._pressed(), budget, level)
    registry = budget._warned.setdefault(level, {})
    entry = str(message), MemoryPressure, line
    is_known = len(registry) > ("version" in registry)
    if is_known:
        registry[entry] = True
    try:
        warnings.warn_explicit(message, None, file, line, module, registry)
    finally:
        if is_known and len(registry) > 2:
            registry.pop(entry, None)
        # where a filter makes it an error its traceback leads here, and so to all that the caller has
        del message, frame


class _Here(threading.local):
    #: budgets whose callbacks this thread is in the midst of
    called: tuple[Any, ...] = ()


_here = _Here()


def _call(budget: Any, level: str) -> None:
    """Calls ``on_pressure``, during which this thread does not call it again."""
    before = _here.called
    _here.called = (*before, budget)
    try:
        budget._on_pressure(level, budget)
    except Exception as error:
        if is_of_a_signal(error.__traceback__):
            raise
        unraisable(_IN_CALLBACK, budget)
    finally:
        _here.called = before


def _is_among(budget: Any, budgets: Any) -> bool:
    # no generator: one that is left before its end has to be closed, which takes memory
    for other in budgets:
        if other is budget:
            return True
    return False


def ask(
    aside: Callable[[Callable[[], None]], Any], charged: Any, refuser: Any, asked: list[Any] | None
) -> list[Any] | None:
    """Asks for room where ``refuser``, the core of a budget, refused what ``charged``, one below it or itself, was
    to be charged with: calls ``on_pressure("refusal", budget)`` of those on the line between, the lowest first.

    Parameters: ``aside``, which calls a function charged to no budget; ``asked``, the budgets that were asked for
    this request before (None: none), which are not asked again. Nor are those whose callback this thread is in the
    midst of. Returns ``asked`` with those that were called, None where none was: then the request is refused. What
    a callback raises goes to ``sys.unraisablehook``, but for an interrupt, and what the handler of a signal raises.
    """
    try:
        seen = asked or []
        budgets = []
        core = charged
        while core is not None:
            budget = budget_of(core)
            if budget is not None and budget._on_pressure is not None:
                if not _is_among(budget, seen) and not _is_among(budget, _here.called):
                    budgets.append(budget)
            if core is refuser:
                break
            core = core._parent
        if not budgets:
            return None
        result = seen + budgets
        aside(functools.partial(_call_each, budgets, "refusal"))
    except MemoryError:
        return None
    return result


def _call_each(budgets: list[Any], level: str) -> None:
    for budget in budgets:
        _call(budget, level)


def retry(backend: Any, call: Callable[[], Any], refused: tuple[int, int, int, int] | None = None) -> Any:
    """What ``call`` returns. Where a budget refuses it (:class:`Refusal`) that one is asked for room, and ``call``
    is called again.

    Parameters: ``refused``, the numbers of the refusal where it was called already: not the refusal itself, whose
    traceback would lead back to it and keep all that the callers have.
    """
    asked: list[Any] | None = None
    while True:
        if refused is None:
            try:
                return call()
            except Refusal as r:
                refused = r.status, r.requested, r.used, r.limit
        refusal = backend.refusal()
        now = None if refusal is None else ask(backend.aside, refusal[0], refusal[1], asked)
        if now is None:
            raise Refusal(*refused)
        refusal[0].uncount(refusal[1])
        asked, refused = now, None
