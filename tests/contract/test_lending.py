"""LEND: limits that move between budgets."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from nativemem.backends.binding import Binding
from nativemem.budgets.budget import Budget
from nativemem.budgets.lending import Loan, Move, SharingPolicy
from nativemem.errors import BudgetExceeded, ConfigError, InvalidLayout, LendTimeout, LoanOutstanding
from nativemem.sizes import SIZE_MAX

from .helpers import figures


def limits(*budgets: Budget) -> list[int]:
    return [budget.limit for budget in budgets]


@pytest.fixture
def pair(nm: Binding) -> tuple[Budget, Budget]:
    return nm.Budget(1000, "lender"), nm.Budget(100, "borrower")


def test_a_loan(pair: tuple[Budget, Budget]) -> None:
    """LEND-1"""
    lender, borrower = pair
    with lender.lend(borrower, 400) as loan:
        assert limits(lender, borrower) == [600, 500]
        assert (loan.lender, loan.borrower, loan.outstanding, lender.lent) == (lender, borrower, 400, 400)
        assert borrower.try_reserve(500) and not borrower.try_reserve(1)
        assert lender.try_reserve(600) and not lender.try_reserve(1)
        borrower.release(450)
    assert limits(lender, borrower) == [1000, 100]
    assert (loan.outstanding, lender.lent, lender.used) == (0, 0, 600)
    loan.settle()  # has been
    assert limits(lender, borrower) == [1000, 100]


def test_only_what_is_unused(pair: tuple[Budget, Budget]) -> None:
    """LEND-1"""
    lender, borrower = pair
    lender.reserve(700)
    with pytest.raises(BudgetExceeded, match=r"^budget 'lender' has not 301 bytes to lend") as caught:
        lender.lend(borrower, 301)
    assert figures(caught.value) == {"requested": 301, "used": 700, "limit": 1000, "owner": "lender"}
    assert (limits(lender, borrower), lender.lent) == ([1000, 100], 0)
    lender.lend(borrower, 300).settle()
    with pytest.raises(BudgetExceeded):
        borrower.lend(lender, 100)  # a limit of nothing is none


def test_the_loan_stays_while_it_is_used(pair: tuple[Budget, Budget]) -> None:
    """LEND-1"""
    lender, borrower = pair
    with pytest.raises(LoanOutstanding) as caught:
        with lender.lend(borrower, 400) as loan:
            borrower.reserve(101)
    assert figures(caught.value) == {"requested": 400, "used": 101, "limit": 500}
    assert limits(lender, borrower) == [600, 500] and loan.outstanding == lender.lent == 400
    borrower.release(1)
    loan.settle()
    assert limits(lender, borrower) == [1000, 100] and lender.lent == 0


def test_an_error_in_the_block_is_not_hidden(pair: tuple[Budget, Budget]) -> None:
    """LEND-1"""
    lender, borrower = pair
    with pytest.raises(KeyError) as caught:
        with lender.lend(borrower, 400) as loan:
            borrower.reserve(500)
            raise KeyError("first")
    assert loan.outstanding == 400
    if hasattr(caught.value, "add_note"):
        assert "without the loan" in caught.value.__notes__[0]


def test_minimum(nm: Binding) -> None:
    """LEND-4"""
    lender, borrower = nm.Budget(1000, minimum="300 B"), nm.Budget(100)
    assert lender.minimum == 300
    with pytest.raises(BudgetExceeded):
        lender.lend(borrower, 701)
    lender.lend(borrower, 700)
    assert limits(lender, borrower) == [300, 800]


def test_a_policy_keeps_names_of_its_own(nm: Binding) -> None:
    """LEND-2"""
    names = ["cache"]
    policy = SharingPolicy(borrowers=names)
    names.append("any")
    assert policy.borrowers == frozenset({"cache"}) and hash(policy) == hash(SharingPolicy(borrowers={"cache"}))
    assert not policy.allows(nm.Budget(1000), nm.Budget(100, "any"), 1)


@pytest.mark.parametrize(
    ("policy", "name", "n", "allowed"),
    [
        (SharingPolicy(), "any", 900, True),
        (SharingPolicy(max_share=0.5), "any", 500, True),
        (SharingPolicy(max_share=0.5), "any", 501, False),
        (SharingPolicy(borrowers=["cache"]), "cache", 1, True),
        (SharingPolicy(borrowers=["cache"]), "any", 1, False),
        (SharingPolicy(siblings_only=True), "any", 1, False),
        (SharingPolicy(siblings_only=True), "sibling", 1, True),
        (SharingPolicy(rule=lambda lender, borrower, n: n < 10), "any", 9, True),
        (SharingPolicy(rule=lambda lender, borrower, n: n < 10), "any", 10, False),
    ],
)
def test_policies(nm: Binding, policy: SharingPolicy, name: str, n: int, allowed: bool) -> None:
    """LEND-2"""
    root = nm.Budget("1 MiB")
    lender = nm.Budget(1000, "lender", root, sharing=policy)
    borrower = nm.Budget(100, name, root if name == "sibling" else None)
    assert policy.allows(lender, borrower, n) is allowed
    if allowed:
        lender.lend(borrower, n)
        assert limits(lender, borrower) == [1000 - n, 100 + n]
    else:
        with pytest.raises(BudgetExceeded, match="may not lend"):
            lender.lend(borrower, n)
        assert (limits(lender, borrower), lender.lent) == ([1000, 100], 0)


def test_the_share_counts_all_loans(nm: Binding) -> None:
    """LEND-2"""
    lender, borrower = nm.Budget(1000, sharing=SharingPolicy(max_share=0.5)), nm.Budget(1)
    loan = lender.lend(borrower, 300)
    lender.lend(borrower, 200)
    with pytest.raises(BudgetExceeded):
        lender.lend(borrower, 1)
    loan.settle()
    lender.lend(borrower, 300)
    assert lender.limit == 500


def test_what_a_rule_raises(nm: Binding) -> None:
    """LEND-2: refusal changes nothing."""

    def fail(*_: Any) -> bool:
        raise LookupError

    lender, borrower = nm.Budget(1000, sharing=SharingPolicy(rule=fail)), nm.Budget(1)
    with pytest.raises(LookupError):
        lender.lend(borrower, 1)
    assert (limits(lender, borrower), lender.lent) == ([1000, 1], 0)


def test_timeout(pair: tuple[Budget, Budget]) -> None:
    """LEND-3"""
    lender, borrower = pair
    lender.reserve(1000)
    start = time.monotonic()
    with pytest.raises(LendTimeout) as caught:
        lender.lend(borrower, 10, timeout=0.02)
    assert time.monotonic() - start >= 0.02
    assert caught.value.retryable and limits(lender, borrower) == [1000, 100]


def test_waiting_for_headroom(pair: tuple[Budget, Budget]) -> None:
    """LEND-3"""
    lender, borrower = pair
    lender.reserve(1000)
    loans: list[Loan] = []
    thread = threading.Thread(target=lambda: loans.append(lender.lend(borrower, 10, timeout=300)))
    thread.start()
    lender.release(500)
    thread.join()
    assert limits(lender, borrower) == [990, 110] and loans[0].outstanding == 10


def test_both_ways_at_once(nm: Binding) -> None:
    """LEND-3: no order of locks can be wrong."""
    a, b = nm.Budget(10_000), nm.Budget(10_000)

    def lend(lender: Budget, borrower: Budget) -> None:
        for n in range(300):
            with lender.lend(borrower, 1 + n % 50, timeout=30):
                pass

    threads = [threading.Thread(target=lend, args=ends) for ends in [(a, b), (b, a)] * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (limits(a, b), a.lent, b.lent) == ([10_000, 10_000], 0, 0)


def test_rebalance(nm: Binding) -> None:
    """LEND-4"""
    root = nm.Budget(10_000)
    pressed = nm.Budget(1000, "pressed", root)
    idle = nm.Budget(1000, "idle", root, minimum=900)
    spare = nm.Budget(1000, "spare", root)
    assert root.rebalance() == []
    pressed.reserve(950)
    moves = root.rebalance()
    assert all(isinstance(move, Move) and move.borrower is pressed for move in moves)
    assert pressed.pressure == "normal"
    assert pressed.limit == 1188  # 950 / 0.8, and one
    assert sum(move.bytes for move in moves) == 188
    assert sum(limits(pressed, idle, spare)) == 3000 and idle.limit >= 900
    assert root.rebalance() == []


def test_rebalance_leaves_lenders_at_ease(nm: Binding) -> None:
    """LEND-4"""
    root = nm.Budget(10_000)
    pressed, busy = nm.Budget(1000, parent=root), nm.Budget(1000, parent=root)
    pressed.reserve(1000)
    busy.reserve(700)
    (move,) = root.rebalance()
    assert (move.lender, move.bytes) == (busy, 124)  # 700 / 0.8, and one, are kept
    assert busy.pressure == "normal"


def test_before_a_denial(nm: Binding) -> None:
    """LEND-4"""
    root = nm.Budget(10_000, auto_rebalance=True)
    needy, idle = nm.Budget(100, parent=root), nm.Budget(1000, parent=root, minimum=600)
    limited = nm.Limited(None, needy)
    block = limited.alloc(400)
    assert (limits(needy, idle), needy.denied) == ([400, 700], 0)
    with pytest.raises(BudgetExceeded):
        limited.alloc(101)
    assert limits(needy, idle) == [400, 700]  # all that is missing, or nothing
    limited.alloc(100).free()
    assert limits(needy, idle) == [500, 600]
    block.free()
    plain = nm.Budget(10_000)
    leaf, other = nm.Budget(100, parent=plain), nm.Budget(1000, parent=plain)
    assert not leaf.try_reserve(101) and other.limit == 1000


def test_a_shared_budget(nm: Binding) -> None:
    """LEND-5"""
    shared = nm.Budget(1000, "small requests")
    owners = [nm.Budget(500, str(i), shared=shared, shared_max=100) for i in range(2)]
    small, large = nm.Limited(None, owners[0]), nm.Limited(None, owners[1])
    blocks = [small.alloc(100) for _ in range(10)]
    assert (owners[0].used, owners[0].shared_used, shared.used) == (0, 1000, 1000)
    blocks += [small.alloc(100) for _ in range(5)]  # it has no more: the owner's own
    assert (owners[0].used, owners[0].shared_used, shared.denied, owners[0].denied) == (500, 1000, 0, 0)
    with pytest.raises(BudgetExceeded) as caught:
        small.alloc(1)
    assert caught.value.state["owner"] == "0"
    kept = large.alloc(101)
    assert (owners[1].used, owners[1].shared_used) == (101, 0)
    for block in blocks:
        block.free()
    kept.free()
    assert [owners[0].used, owners[0].shared_used, owners[1].used, shared.used] == [0, 0, 0, 0]


@pytest.mark.parametrize("what", ["type", "itself", "negative", "huge", "timeout", "nan"])
def test_bad_loans(nm: Binding, what: str) -> None:
    """LEND-1, ERR-4"""
    lender, borrower = nm.Budget(1000), nm.Budget(100)
    arguments: dict[str, tuple[Any, ...]] = {
        "type": (3, 1),
        "itself": (lender, 1),
        "negative": (borrower, -1),
        "huge": (borrower, SIZE_MAX + 1),
        "timeout": (borrower, 1, -1),
        "nan": (borrower, 1, float("nan")),
    }
    expected = InvalidLayout if what in ("negative", "huge") else ConfigError
    with pytest.raises(expected):
        lender.lend(*arguments[what])
    assert (limits(lender, borrower), lender.lent) == ([1000, 100], 0)


def test_a_loan_to_the_other_backend(both: tuple[Binding, Binding]) -> None:
    """LEND-1"""
    for mine, theirs in (both, both[::-1]):
        lender, borrower = mine.Budget(1000), theirs.Budget(100)
        with pytest.raises(ConfigError):
            lender.lend(borrower, 1)
        assert (limits(lender, borrower), lender.lent) == ([1000, 100], 0)


@pytest.mark.parametrize(
    "arguments",
    [
        *({"max_share": v} for v in (0, 2)),
        *({"borrowers": v} for v in ("cache", 3)),
        *({"siblings_only": 1}, {"rule": 3}),
    ],
    ids=repr,
)
def test_bad_policies(arguments: dict[str, Any]) -> None:
    """CFG-1"""
    with pytest.raises(ConfigError, match=r"^sharing\."):
        SharingPolicy(**arguments)


class Lending(RuleBasedStateMachine):
    """Loans in any order: those that would break conservation are refused, and refusals change nothing."""

    nm: Binding

    @initialize(minimum=st.integers(0, 100))
    def start(self, minimum: int) -> None:
        nm = self.nm
        self.root = nm.Budget(100_000)
        self.budgets = [nm.Budget(1000, str(i), self.root, minimum=minimum) for i in range(4)]
        self.minimum = max(minimum, 1)
        self.limits, self.used = [1000] * 4, [0] * 4
        self.loans: list[tuple[Loan, int, int, int]] = []

    index = st.integers(0, 3)
    size = st.integers(0, 1200)

    @rule(i=index, n=size)
    def reserve(self, i: int, n: int) -> None:
        fits = self.used[i] + n <= self.limits[i]
        assert self.budgets[i].try_reserve(n) is fits
        self.used[i] += n * fits

    @rule(i=index, n=size)
    def release(self, i: int, n: int) -> None:
        n = min(n, self.used[i])
        self.budgets[i].release(n)
        self.used[i] -= n

    @rule(i=index, j=index, n=size)
    def lend(self, i: int, j: int, n: int) -> None:
        if i == j:
            return
        if n <= self.limits[i] - max(self.used[i], self.minimum):
            self.loans.append((self.budgets[i].lend(self.budgets[j], n), i, j, n))
            self.limits[i] -= n
            self.limits[j] += n
        else:
            with pytest.raises(BudgetExceeded):
                self.budgets[i].lend(self.budgets[j], n)

    @precondition(lambda self: self.loans)
    @rule(k=st.integers(0, 1000))
    def settle(self, k: int) -> None:
        loan, i, j, n = self.loans.pop(k % len(self.loans))
        if n <= self.limits[j] - max(self.used[j], self.minimum) or n == 0:
            loan.settle()
            self.limits[i] += n
            self.limits[j] -= n
        else:
            with pytest.raises(LoanOutstanding):
                loan.settle()
            self.loans.append((loan, i, j, n))

    @invariant()
    def conserved(self) -> None:
        if not hasattr(self, "budgets"):
            return
        assert [b.limit for b in self.budgets] == self.limits and sum(self.limits) == 4000
        assert [b.used for b in self.budgets] == self.used and self.root.used == sum(self.used)
        for b in self.budgets:
            assert b._core.check() is None


def test_conservation(nm: Binding) -> None:
    """LEND-1"""
    machine = type("LendingHere", (Lending,), {"nm": nm})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
