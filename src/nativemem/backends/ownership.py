"""Which budget a core of one belongs to."""

from __future__ import annotations

import itertools
import weakref
from typing import Any, NamedTuple

__all__ = ["MOST_EVENTS", "Event", "OwnedCore", "budget_cores", "short"]

#: that are kept: NM_EVENTS of csrc/tuning.h
MOST_EVENTS = 1024


class Event(NamedTuple):
    """Something that a budget or the engine did, as csrc/base/events.h has it."""

    number: int
    time_ns: int
    thread: int
    kind: int
    detail: int
    requested: int
    used: int
    limit: int
    name: str
    other: str | None


def short(name: str) -> str:
    """As much of a name as an event has room for."""
    return name.encode("utf-8", "replace")[:39].decode("utf-8", "ignore")


_serials = itertools.count(1)
#: of both backends, by serial number
_cores: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()


def budget_cores() -> list[Any]:
    """The cores of the budgets that there are, the oldest first. Any thread."""
    found = [core for ref in _cores.valuerefs() if (core := ref()) is not None]
    return sorted(found, key=lambda core: core.serial)


class OwnedCore:
    """A core that knows the budget in front of it. It does not keep it: the budget keeps the core."""

    __slots__ = ()
    #: the budget's name, though the budget be gone
    name: str | None
    #: of the process's budgets, in the order in which they were made
    serial: int
    _budget: weakref.ref[Any] | None

    def belongs_to(self, name: str | None, budget: Any, *, listed: bool = True) -> None:
        """Tells which budget it is the core of. Once. ``listed``: whether it is one of those that a program
        sees."""
        self.name = name  # type: ignore[misc]  # slots of each backend's core
        self._budget = weakref.ref(budget)  # type: ignore[misc]
        self.serial = next(_serials)  # type: ignore[misc]
        if listed:
            _cores[self.serial] = self
            self.introduce()

    def introduce(self) -> None:
        """Its events begin."""
        raise NotImplementedError

    @property
    def label(self) -> str:
        """Its name, or what it is called without one."""
        return self.name or f"budget {self.serial}"

    def budget(self) -> Any:
        """Its budget; None where that is gone, or was never told."""
        return None if self._budget is None else self._budget()
