"""The same steps on a family of budgets of each backend, which have to agree after each of them on
all that shows: every figure, errors with their words, moves, warnings, what callbacks were told, events."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from nativemem.backends.binding import Binding
from nativemem.errors import NativeMemError
from nativemem.sizes import SIZE_MAX

#: of each family: its budgets in the order in which they are made, with the parent's and the shared one's name
FAMILIES: dict[str, list[dict[str, Any]]] = {
    "one": [{"name": "alone", "limit": 50, "warn": 0.5, "critical": 0.75}],
    "levels that meet": [
        {"name": "all one", "limit": 3, "warn": 0.01, "critical": 0.01},
        {"name": "none", "limit": 7, "warn": 1, "critical": 1, "parent": "all one"},
        {"name": "thirds", "limit": 10, "warn": 1 / 3, "critical": 2 / 3, "parent": "all one"},
    ],
    "overcommit": [
        {"name": "root", "limit": 100, "overcommit": 0.25, "max_single": 0.5},
        {"name": "half", "limit": 61, "parent": "root", "overcommit": 0.5, "max_single": 0.25, "warn": 0.6},
        {"name": "other", "limit": 61, "parent": "root", "minimum": 20},
    ],
    "siblings": [
        {"name": "root", "limit": 200, "auto_rebalance": True},
        {"name": "a", "limit": 40, "parent": "root", "minimum": 10, "warn": 0.5},
        {"name": "b", "limit": 40, "parent": "root", "warn": 0.75},
        {"name": "c", "limit": 40, "parent": "root", "overcommit": 0.1},
        {"name": "d", "limit": 40, "parent": "b", "minimum": 40},
    ],
    "shared": [
        {"name": "common", "limit": 30, "warn": 0.5},
        {"name": "x", "limit": 60, "shared": "common", "shared_max": 8},
        {"name": "y", "limit": 60, "shared": "common", "shared_max": 0, "parent": "x"},
        {"name": "z", "limit": 25, "parent": "x"},
    ],
    "large": [
        {"name": "root", "limit": SIZE_MAX, "overcommit": 1.0},
        {"name": "near", "limit": SIZE_MAX - 5, "parent": "root"},
        {"name": "small", "limit": 9, "parent": "root", "minimum": 9},
    ],
}
ROUND = (0, 1, 2, 3, 5, 8, 9, 10, 13, 20, 25, 30, 31, 40, 60, 61)


class Family:
    """The budgets of one backend, and what has been seen of them."""

    def __init__(self, nm: Binding, kind: str, number: int) -> None:
        self.nm, self.told = nm, list[Any]()
        self.budgets: dict[str, Any] = {}
        self.loans: list[Any] = []
        self.after = max((event.number for event in nm.backend.events(0)), default=0)
        for member in FAMILIES[kind]:
            options: dict[str, Any] = {
                **member,
                "name": f"{member['name']} {kind} {number}",
                "on_pressure": self.tell,
            }
            for key in ("parent", "shared"):
                if key in options:
                    options[key] = self.budgets[options[key]]
            self.budgets[member["name"]] = nm.Budget(**options)
        self.names = {budget.name for budget in self.budgets.values()}

    def tell(self, level: str, budget: Any) -> None:
        self.told.append((level, budget.name, budget.used))

    def of(self, budget: Any) -> tuple[Any, ...]:
        denial = budget.last_denial
        total = budget.stats.total % (1 << 64)  # C counts no further
        return (
            *(
                budget.used,
                budget.peak,
                budget.limit,
                budget.available,
                budget.pressure,
                budget.denied,
                budget.lent,
            ),
            *(
                budget.shared_used,
                budget.locked,
                repr(budget),
                replace(budget.stats, total=total),
                budget._core.check(),
            ),
            denial and (denial.requested, denial.used, denial.limit, denial.owner, denial.reason),
        )

    def shown(self) -> tuple[Any, ...]:
        events = [
            (event.kind, event.detail, event.requested, event.used, event.limit, event.name, event.other)
            for event in self.nm.backend.events(self.after)
            if event.name in self.names
        ]
        told, self.told = sorted(self.told), []  # which is told first is the backend's business
        loans = [(repr(loan), loan.outstanding) for loan in self.loans]
        return (
            {name: self.of(budget) for name, budget in self.budgets.items()},
            sorted(events, key=repr),
            told,
            loans,
        )

    # what may be done, with a budget, another one and a number

    def charge(self, budget: Any, other: Any, n: int) -> Any:
        return budget.try_reserve(n)

    def reserve(self, budget: Any, other: Any, n: int) -> Any:
        return budget.reserve(n) is not None

    def hold(self, budget: Any, other: Any, n: int) -> Any:
        with budget.reserve(n):
            return budget.used

    def release(self, budget: Any, other: Any, n: int) -> Any:
        return budget.release(n)

    def release_all(self, budget: Any, other: Any, n: int) -> Any:
        return budget.release(budget.used)

    def resize(self, budget: Any, other: Any, n: int) -> Any:
        budget.limit = n
        return budget.limit

    def lend(self, budget: Any, other: Any, n: int) -> Any:
        self.loans.append(budget.lend(other, n))
        return len(self.loans)

    def settle(self, budget: Any, other: Any, n: int) -> Any:
        return self.loans[n % len(self.loans)].settle() if self.loans else None

    def rebalance(self, budget: Any, other: Any, n: int) -> Any:
        return [(move.lender.name, move.borrower.name, move.bytes) for move in budget.rebalance()]

    def take_peak(self, budget: Any, other: Any, n: int) -> Any:
        return budget._core.take_peak()

    def block(self, budget: Any, other: Any, n: int) -> Any:
        if n > 1 << 40:  # is not to be had
            return None
        limited = self.nm.Limited(self.nm.System(), budget)
        with limited.alloc(n) as block:
            return block.size, block.owner.name, limited.stats, limited.resize(block, n // 2)

    def lock(self, budget: Any, other: Any, n: int) -> Any:
        return budget.lock()

    def drop(self, budget: Any, other: Any, n: int) -> Any:
        """The newest budget goes; what is charged to it goes back."""
        if self.loans or len(self.budgets) < 2:
            return False
        name, last = self.budgets.popitem()
        del budget, other, last
        return name


STEPS = (
    *("charge", "charge", "charge", "reserve", "hold", "release", "release", "release_all", "block"),
    *("lend", "lend", "settle", "rebalance", "rebalance", "resize", "take_peak"),
)


def outcome(call: Callable[..., Any], *args: Any) -> Any:
    """What a call returns, or what it raises, with its words and figures."""
    try:
        return call(*args)
    except NativeMemError as error:
        return type(error), str(error), error.suggestion, error.state


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", FAMILIES)
def test_the_same_steps(both: tuple[Binding, Binding], kind: str, seed: int) -> None:
    """And at the end one budget after the other is locked, or goes."""
    r = random.Random(f"{kind} {seed}")
    families = [Family(nm, kind, seed) for nm in both]
    # the parts of limits of that size are no exact numbers
    possible = [step for step in STEPS if step != "rebalance" or kind != "large"]
    steps = [(r.choice(possible), r.random(), r.random(), number(r)) for _ in range(120)]
    steps += [(name, r.random(), r.random(), number(r)) for name in ("lock", "charge", "charge", "release_all") * 2]
    steps += [("drop", 0.0, 0.0, 0)] * len(FAMILIES[kind])
    past = []
    for name, one, another, of_step in steps:
        n = of_step
        if kind == "large" and n % 3:
            n = SIZE_MAX - n
        if name == "resize":
            n = max(n, 1)
        past.append((name, n))
        seen = []
        for family in families:
            names = list(family.budgets)
            two = [family.budgets[names[int(part * len(names))]] for part in (one, another)]
            with warnings.catch_warnings(record=True) as given:
                warnings.simplefilter("always")
                result = outcome(getattr(family, name), *two, n)
            if name == "drop":
                family.loans.clear()
            del two
            seen.append((result, sorted(str(each.message) for each in given), family.shown()))
        assert seen[0] == seen[1], past[-5:]


def number(r: random.Random) -> int:
    """Bytes: a round number, or any."""
    return r.choice(ROUND) if r.random() < 0.7 else r.randrange(70)
