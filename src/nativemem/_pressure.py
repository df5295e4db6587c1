"""Budgets under pressure: who is told, and when.

A core notes that a budget came to a level from below; that happens inside an allocation, often with locks
held, so nobody is called there. The public calls that may charge a budget tell what was noted as their last
act, when the block is complete and no lock is held.
"""

from __future__ import annotations

import sys
import traceback
import warnings
import weakref
from collections.abc import Callable
from typing import Any

__all__ = ["LEVELS", "MemoryPressure"]

LEVELS = ("normal", "warn", "critical", "full")


class MemoryPressure(RuntimeWarning):
    """A budget came to its warn level. ``budget`` is the one, ``level`` its level: warn, critical or full."""

    def __init__(self, message: str, budget: Any = None, level: str = "warn") -> None:
        super().__init__(message)
        self.budget = budget
        self.level = level


_known: weakref.WeakKeyDictionary[Any, tuple[str | None, weakref.ref[Any]]] = weakref.WeakKeyDictionary()


def know(core: Any, name: str | None, budget: Any) -> None:
    """Tells which budget a core belongs to."""
    _known[core] = name, weakref.ref(budget)


def known(core: Any) -> Any:
    """The budget of a core; None where it is gone."""
    entry = _known.get(core) if core is not None else None
    return None if entry is None else entry[1]()


def name_of(core: Any) -> str | None:
    """The name of a core's budget, though the budget be gone."""
    entry = _known.get(core) if core is not None else None
    return None if entry is None else entry[0]


def tell(crossing: Callable[[], tuple[Any, int, bool] | None]) -> None:
    """Passes on what was noted. An exception of a callback, or of a warning that is an error, goes to
    ``sys.unraisablehook``: the call that was just done has been done. Where there is no memory to tell anybody
    nobody is told."""
    try:
        while (noted := crossing()) is not None:
            core, level, was_normal = noted
            budget = known(core)
            if budget is None:
                continue
            try:
                if was_normal:
                    warnings.warn(MemoryPressure(budget._pressed(), budget, LEVELS[level]), stacklevel=3)
                if budget._on_pressure is not None:
                    budget._on_pressure(LEVELS[level], budget)
            except Exception:
                _unraisable(budget)
    except MemoryError:
        pass


def _unraisable(budget: Any) -> None:
    kind, value, trace = sys.exc_info()

    class Unraisable:  # the hook's argument has no public constructor
        exc_type, exc_value, exc_traceback = kind, value, trace
        err_msg = "Exception ignored in a budget's on_pressure"
        object = budget

    hook = sys.unraisablehook
    if hook is not sys.__unraisablehook__:
        try:
            hook(Unraisable())  # type: ignore[arg-type]
            return
        except TypeError:
            pass  # it passes on to the default one, which takes nothing but its own
    if sys.stderr is not None:
        print(f"{Unraisable.err_msg}: {budget!r}", file=sys.stderr)
        traceback.print_exception(kind, value, trace)
