"""Lending and pressure, part by part: words, figures and pauses, what is asked in which order, and how often."""

from __future__ import annotations

import math
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from nativemem.backends.binding import Binding
from nativemem.budgets import lending, pressure
from nativemem.budgets.lending import SharingPolicy
from nativemem.errors import (
    BudgetExceeded,
    ConfigError,
    InvalidLayout,
    LendTimeout,
    LoanOutstanding,
    Refusal,
    Status,
)


def refused(kind: type[Exception], call: Any, *args: Any) -> tuple[str, Any, Any]:
    """First line, suggestion and state of what a call raises."""
    with pytest.raises(kind) as caught:
        call(*args)
    assert type(caught.value) is kind
    error: Any = caught.value
    return str(error).splitlines()[0], error.suggestion, error.state


def space(requested: int, used: int, limit: int, **more: Any) -> dict[str, Any]:
    """The state of a want of room."""
    left = {"available": limit - used, "utilization": used / limit, "capacity": limit}
    return {"requested": requested, "used": used, "limit": limit, **left, **more}


def test_the_words_of_a_loan_that_is_refused(nm: Binding) -> None:
    lender, borrower = nm.Budget(100, "rich"), nm.Budget(50)
    lender.reserve(40)
    assert refused(BudgetExceeded, lender.lend, borrower, 61) == (
        "budget 'rich' has not 61 bytes to lend; 40 of 100 bytes are in use",
        "ask for less, wait for longer, or borrow from another budget",
        space(61, 40, 100, owner="rich"),
    )
    assert refused(BudgetExceeded, borrower.lend, lender, "1 KiB") == (
        "budget has not 1024 bytes to lend; 0 of 50 bytes are in use",
        "ask for less, wait for longer, or borrow from another budget",
        space(1024, 0, 50, owner=None),
    )
    strict = nm.Budget(100, "strict", sharing=SharingPolicy(borrowers=["rich"]))
    assert refused(BudgetExceeded, strict.lend, borrower, 5) == (
        "budget 'strict' may not lend 5 bytes to budget",
        "its SharingPolicy says to which budgets it lends, and how much",
        space(5, 0, 100, owner="strict"),
    )
    assert (lender.limit, borrower.limit, strict.limit, lender.lent) == (100, 50, 100, 0)
    with pytest.raises(ConfigError, match="^budget.lend: a budget does not lend to itself"):
        lender.lend(lender, 1)
    with pytest.raises(ConfigError, match=f"^budget.lend: takes a Budget of the {nm.name} backend, not int"):
        lender.lend(5, 1)
    for bad in (-1, math.inf, math.nan, -0.001):
        with pytest.raises(ConfigError, match="^budget.lend: timeout"):
            lender.lend(borrower, 1, bad)
    with pytest.raises(InvalidLayout, match="^budget.lend: size"):
        lender.lend(borrower, -1)
    with lender.lend(borrower, 60) as all_of_it:
        assert (lender.limit, borrower.limit, all_of_it.outstanding) == (40, 110, 60)


def test_the_words_of_a_loan_that_is_not_given_back(nm: Binding) -> None:
    lender, borrower = nm.Budget(100, "rich"), nm.Budget(50, "poor")
    loan, other = lender.lend(borrower, 30), lender.lend(borrower, "20 B")
    assert (repr(loan), loan.lender, loan.borrower) == (
        *("<Loan of 30 B from budget 'rich' to budget 'poor'>", lender, borrower),
    )
    assert (lender.lent, lender.limit, borrower.limit) == (50, 50, 100)
    borrower.reserve(71)
    words = "budget 'poor' uses 71 bytes; without the loan its limit is 70"
    assert refused(LoanOutstanding, loan.settle) == (
        *(words, "release what it uses, then call settle()", space(30, 71, 100)),
    )
    assert (loan.outstanding, lender.lent) == (30, 50)
    with pytest.raises(LookupError) as caught, loan:
        raise LookupError
    if sys.version_info >= (3, 11):
        assert [note.splitlines()[0] for note in caught.value.__notes__] == [words]
    with pytest.raises(LoanOutstanding), loan:
        pass
    borrower.release(1)
    with loan as itself:
        assert itself is loan
    assert (loan.outstanding, lender.lent, lender.limit, borrower.limit) == (0, 20, 80, 70)
    loan.settle()
    assert (lender.lent, lender.limit) == (20, 80)
    borrower.release(70)
    other.settle()
    assert (lender.lent, lender.limit, borrower.limit) == (0, 100, 50)


@pytest.mark.parametrize(
    ("timeout", "pauses"),
    [
        (0, []),
        (0.0005, [0.0005]),
        (0.001, [0.0005, 0.0005]),
        (0.2, [0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.05, 0.05, 0.0365]),
    ],
)
def test_pauses_of_a_lender(
    nm: Binding, timeout: float, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is twice the one before, of 50 ms at most, and the last as long as is left."""
    now, slept = [1000.0], list[float]()

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(lending, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    lender, borrower = nm.Budget(10, "lender"), nm.Budget(10)
    text, _, state = refused(LendTimeout if timeout else BudgetExceeded, lender.lend, borrower, 11, timeout)
    assert (text, state["owner"]) == (
        "budget 'lender' has not 11 bytes to lend; 0 of 10 bytes are in use",
        "lender",
    )
    assert slept[: len(pauses)] == pytest.approx(pauses)
    assert sum(slept) == pytest.approx(timeout)
    assert sum(slept[len(pauses) :]) < 1e-9


def test_what_a_policy_takes() -> None:
    for bad in (
        {"max_share": 1.1},
        {"max_share": -0.1},
        {"siblings_only": 1},
        {"borrowers": "ab"},
        {"borrowers": 3},
    ):
        with pytest.raises(ConfigError, match=f"^sharing.{next(iter(bad))}: "):
            SharingPolicy(**bad)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="^sharing.rule: takes a callable or None, not 5"):
        SharingPolicy(rule=5)  # type: ignore[arg-type]
    policy = SharingPolicy(0.5, ["b", "a", "b"])
    assert (policy.borrowers, policy.siblings_only, policy.rule) == (frozenset("ab"), False, None)
    with pytest.raises(AttributeError):
        policy.max_share = 1.0  # type: ignore[misc]
    for lender, borrower, label in ((1, 2, "lender"), (None, 2, "lender")):
        with pytest.raises(ConfigError, match=f"^sharing.allows: {label} takes a Budget, not "):
            policy.allows(lender, borrower, 1)  # type: ignore[arg-type]


# --- pressure ---


class Core:
    """Stands for the core of a budget with a callback, or without."""

    def __init__(self, parent: Core | None = None, told: list[Any] | None = None, gone: bool = False) -> None:
        self._parent, self.uncounted = parent, list[Any]()
        call = None if told is None else lambda level, budget: told.append((level, budget))
        self._budget: Any = None if gone else SimpleNamespace(_on_pressure=call)

    def budget(self) -> Any:
        return self._budget

    def uncount(self, refuser: Any) -> None:
        self.uncounted.append(refuser)


def aside(call: Any) -> None:
    call()


def test_who_is_asked_for_room() -> None:
    """The lowest first, up to the one that refused, each once."""
    told: list[Any] = []
    above = Core(None, told)
    top = Core(above, told)
    silent = Core(top)
    gone = Core(silent, told, gone=True)
    low = Core(gone, told)
    asked = pressure.ask(aside, low, top, None)
    assert asked == [low.budget(), top.budget()]
    assert told == [("refusal", low.budget()), ("refusal", top.budget())]
    told.clear()
    assert pressure.ask(aside, low, top, asked) is None and told == []
    assert pressure.ask(aside, low, top, [low.budget()]) == [low.budget(), top.budget()]
    assert told == [("refusal", top.budget())]
    told.clear()
    assert pressure.ask(aside, low, None, asked) == [low.budget(), top.budget(), above.budget()]
    assert pressure.ask(aside, silent, silent, None) is None
    assert pressure.ask(aside, gone, gone, None) is None

    def no_memory(call: Any) -> None:
        raise MemoryError

    assert pressure.ask(no_memory, low, top, None) is None
    inside: list[Any] = []
    low.budget()._on_pressure = lambda level, budget: inside.append(pressure.ask(aside, low, top, None))
    assert pressure.ask(aside, low, low, None) == [low.budget()]
    assert inside == [[top.budget()]]
    assert pressure.budget_of(None) is None and pressure.budget_of(gone) is None


def test_a_call_that_is_made_again() -> None:
    """As long as a budget that refuses has someone to ask; then it is refused as the last time."""
    told: list[Any] = []
    core = Core(None, told)
    results: list[Any] = [Refusal(Status.OVER_BUDGET, 1, 2, 3), "done"]

    def call() -> Any:
        result = results.pop(0)
        if isinstance(result, Refusal):
            raise result
        return result

    refusals: list[Any] = []
    backend = SimpleNamespace(refusal=lambda: refusals.pop(0) if refusals else None, aside=aside)
    refusals.append((core, core))
    assert pressure.retry(backend, call) == "done"
    assert (told, core.uncounted) == ([("refusal", core.budget())], [core])
    results[:] = ["at once"]
    assert pressure.retry(backend, call) == "at once"
    refusals[:] = [(core, core)]
    results[:] = ["after it was called already"]
    assert pressure.retry(backend, call, (Status.OVER_BUDGET, 7, 8, 9)) == "after it was called already"
    for given, numbers in ((None, (5, 6, 7)), ((Status.OVER_BUDGET, 7, 8, 9), (5, 6, 7))):
        refusals[:] = [(core, core), (core, core)]
        results[:] = [Refusal(Status.OVER_BUDGET, 1, 2, 3), Refusal(Status.OVER_BUDGET, 5, 6, 7)][
            given is not None :
        ]
        core.uncounted.clear()
        with pytest.raises(Refusal) as caught:
            pressure.retry(backend, call, given)
        assert (caught.value.requested, caught.value.used, caught.value.limit) == numbers
        assert core.uncounted == [core]
    results[:] = [Refusal(Status.OUT_OF_MEMORY, 4, 0, 0)]
    with pytest.raises(Refusal) as caught:
        pressure.retry(backend, call)
    assert (caught.value.status, caught.value.requested) == (Status.OUT_OF_MEMORY, 4)


def test_so_many_levels_are_told_at_once(nm: Binding) -> None:
    """To tell of one may cause another, without an end."""
    told: list[Any] = []
    budget = nm.Budget(100, on_pressure=lambda level, budget: told.append(level))
    calls = iter(range(1000))

    def crossing() -> Any:
        return budget._core, next(calls) % 3 + 1, False

    pressure.tell(crossing)
    assert (len(told), told[:4], next(calls)) == (64, ["warn", "critical", "full", "warn"], 64)
    left = [None, (None, 1, True), (budget._core, 2, False)]
    pressure.tell(left.pop)
    assert (told[64:], left) == (["critical"], [])

    def no_memory() -> Any:
        raise MemoryError

    pressure.tell(no_memory)


def test_a_callback_in_a_callback_is_not_told_of_itself(nm: Binding, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", shown.append)
    told: list[Any] = []

    def crossing(noted: list[Any]) -> Any:
        return lambda: noted.pop(0) if noted else None

    def first(level: str, budget: Any) -> None:
        told.append(("one", level))
        pressure.tell(crossing([(one._core, 2, False), (two._core, 3, False)]))
        raise LookupError(level)

    one = nm.Budget(100, "one", on_pressure=first)
    two = nm.Budget(100, "two", on_pressure=lambda level, budget: told.append(("two", level)))
    pressure.tell(crossing([(one._core, 1, False), (one._core, 2, False)]))
    assert told == [("one", "warn"), ("two", "full"), ("one", "critical"), ("two", "full")]
    assert [(each.exc_type, str(each.exc_value), each.err_msg, each.object is one) for each in shown] == [
        (LookupError, word, "Exception ignored in a budget's on_pressure", True) for word in ("warn", "critical")
    ]


def test_the_warning_itself(nm: Binding) -> None:
    plain = pressure.MemoryPressure("text")
    assert (str(plain), plain.budget, plain.level) == ("text", None, "warn")
    budget = nm.Budget(1000, "b", warn=0.5)
    with pytest.warns(pressure.MemoryPressure) as given:
        budget.reserve(500)
    (each,) = given
    assert str(each.message) == "budget 'b': 500 B of 1000 B are in use"
    assert (each.message.budget, each.message.level, each.filename) == (budget, "warn", __file__)
    budget.release(500)
    assert budget._pressed() == "budget 'b': up to 500 B of 1000 B were in use"
