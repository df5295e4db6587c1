"""One attempt at a test: the budget that it is charged to, and the budgets that a marker names."""

from __future__ import annotations

import functools
import gc
from typing import TYPE_CHECKING, Any

from ..facades import configured
from ..sizes import SIZE_MAX, format_size

if TYPE_CHECKING:
    from ..budgets.budget import Budget
    from .asked import Asked
    from .repetitions import Growth
    from .trace import Place

__all__ = ["Charge", "Scope", "new_budget"]

#: bytes that tests may leave in use in a budget that the next one has, too
_LEFT = 256 << 10


@functools.cache
def _class() -> type[Budget]:
    return configured().Budget


def new_budget(limit: int, name: str) -> Budget:
    """A budget of this process's backend. No pressure is told of: what it bounds may use all of it without a
    warning."""
    made = _class()(limit, name)
    made._core._budget = None  # as if it were gone
    return made


def _named(name: str) -> list[Budget]:
    """Every budget of that name, of either backend."""
    from ..budgets.budget import Budget

    return [each for each in gc.get_objects() if issubclass(type(each), Budget) and each.name == name]


def line_of(budget: Budget, limit: int, what: str) -> str:
    """The budget line: which limit, what was refused, what was in use."""
    denial = budget.last_denial
    text = f"nativemem: over the {what} of {format_size(limit)}"
    if denial is None:
        return f"{text}: {format_size(budget.peak)} were in use at the peak"
    return f"{text}: {format_size(denial.requested)} were asked for with {format_size(denial.used)} in use"


class Scope:
    """Charges ``budget`` between :meth:`enter` and :meth:`leave`, where there is an engine (``on``)."""

    def __init__(self, budget: Budget, on: bool) -> None:
        self.budget, self.on = budget, on

    def enter(self) -> None:
        """Opens the scope. A plain function: so it is the context's, not that of a generator that calls it."""
        if self.on:
            self.budget.__enter__()

    def leave(self, error: BaseException | None) -> None:
        """Closes it. Raises MemoryError where a refusal was due, and ScopeError where another scope is still
        open."""
        if self.on:
            self.budget.__exit__(None if error is None else type(error), error, None)


class Charge(Scope):
    """What an attempt at a test is charged to, and what became of it: sizes in bytes. ``problems`` are the budget
    lines and the like, ``details`` lines of text about those, ``remark`` a line about how it came to them.
    ``lent``: the budget was given to the test."""

    test: str
    peak: int | None
    limit: int | None
    denied: int
    growth: float | None
    problems: tuple[str, ...]
    places: tuple[Place, ...]
    details: tuple[str, ...]
    remark: str

    def __init__(self, test: str, asked: Asked, on: bool) -> None:
        super().__init__(new_budget(SIZE_MAX if asked.limit is None else asked.limit, test), on)
        self.asked, self.lent = asked, False
        self._label = "test's budget"
        self._bound: list[tuple[Budget, int, int]] = []
        self._begin(test)

    def _begin(self, test: str) -> None:
        self.test, self.peak, self.limit, self.denied, self.growth = test, None, None, 0, None
        self.problems, self.places, self.details, self.remark = (), (), (), ""

    def renew(self, test: str) -> bool:
        """Begins anew with another test, of which the same is asked: that costs much less than a new budget. False,
        and it is as it was, where that test's budget would not be as a new one: it was met or lent, or more than a
        little is in use."""
        budget: Any = self.budget
        if self.lent or not self.on or not budget._core.renew(test, _LEFT):
            return False
        budget._name = test
        self._begin(test)
        return True

    def bind_owners(self) -> None:
        """Bounds the budgets that markers name, as they are when the test begins to run. Where there is none of
        that name, and no other marker has a limit, the test is charged under it."""
        for name, most in self.asked.owners.items():
            if most is None:
                continue
            found = _named(name)
            for budget in found:
                self._bound.append((budget, budget.limit, budget.denied))
                budget.limit = min(budget.limit, most)
            if not found and not self.asked.marked:
                self.budget.limit, self._label = most, f"budget {name!r}"

    def _free_owners(self) -> list[tuple[str, str]]:
        """Gives them their limits back. Returns name and budget line of each whose limit was met."""
        found, seen = [], set()
        for budget, limit, denied in self._bound:
            seen.add(id(budget))
            if budget.denied > denied:
                found.append((str(budget.name), line_of(budget, budget.limit, f"budget {budget.name!r}")))
            budget.limit = limit
        self._bound = []
        for name, most in self.asked.owners.items():  # those that were made since
            for budget in _named(name):
                if most is not None and id(budget) not in seen and budget.peak > most:
                    found.append((name, line_of(budget, most, f"budget {name!r}")))
        return found

    def judge(self) -> str | None:
        """Takes the numbers, and a budget line for each limit that was met. Returns the owner of the first, or
        None."""
        found = self._free_owners() if self.asked.owners else []
        if self.on:
            budget: Any = self.budget
            _, self.peak, limit, self.denied = budget._core.numbers()
            self.limit = None if limit == SIZE_MAX else limit
            if self.denied:
                found.insert(0, (str(self.budget.name), line_of(self.budget, limit, self._label)))
        if not found:
            return None
        self.problems = (*(line for _, line in found), *self.problems)
        return found[0][0]

    def grew(self, found: Growth) -> None:
        """Takes what the test grew by at each repetition."""
        self.growth = found.bytes
        if found:
            first, *more = str(found).splitlines()
            self.problems += (f"nativemem: the test {first}",)
            self.places = found.places
            self.details += tuple(more)

    def text(self) -> str:
        """All that is to be said where it fails."""
        return "\n".join([*([self.remark] if self.remark else []), *self.problems, *self.details])

    def row(self, seconds: float) -> tuple[Any, ...]:
        """What a report brings, of which another process can make :class:`~.results.Measured`."""
        places = tuple((place.bytes, place.blocks, place.path) for place in self.places)
        sizes = self.peak, self.limit, self.denied, self.growth
        return (self.test, round(seconds, 6), *sizes, self.problems, places)
