"""BUDGET: limits, ancestors, denials, threads."""

from __future__ import annotations

import random
import threading
import time
import weakref

import pytest

from nativemem.backends.binding import Binding
from nativemem.budgets.budget import Budget
from nativemem.config import Settings
from nativemem.errors import BudgetExceeded, BudgetUnderflow, ConfigError, InvalidLayout, ScopeError
from nativemem.sizes import SIZE_MAX

from .helpers import collect, figures, is_one_line


def numbers(budget: Budget) -> tuple[int, int, int, int]:
    return budget.used, budget.peak, budget.limit, budget.denied


# --- configuration ---


def test_attributes(nm: Binding) -> None:
    """BUDGET-1"""
    parent = nm.Budget("1 MiB")
    budget = nm.Budget("1 KiB", name="cache", parent=parent)
    assert numbers(budget) == (0, 0, 1024, 0)
    assert (budget.name, budget.parent, budget.available) == ("cache", parent, 1024)
    assert (parent.name, parent.parent, parent.last_denial) == (None, None, None)
    assert budget.owner is budget


@pytest.mark.parametrize(
    ("arguments", "error", "section"),
    [
        ((0,), InvalidLayout, "budget.limit"),
        ((-1,), InvalidLayout, "budget.limit"),
        ((1.5,), InvalidLayout, "budget.limit"),
        ((True,), InvalidLayout, "budget.limit"),
        ((None,), InvalidLayout, "budget.limit"),
        (("1 QiB",), InvalidLayout, "budget.limit"),
        ((SIZE_MAX + 1,), InvalidLayout, "budget.limit"),
        ((1, 3), ConfigError, "budget.name"),
        ((1, "x", 3), ConfigError, "budget.parent"),
    ],
    ids=repr,
)
def test_bad_configuration(
    nm: Binding, arguments: tuple[object, ...], error: type[Exception], section: str
) -> None:
    """CFG-1, LAYOUT-3"""
    with pytest.raises(error) as caught:
        nm.Budget(*arguments)
    assert str(caught.value).startswith(section + ":")
    assert is_one_line(caught.value)


def test_a_budget_of_the_other_backend(both: tuple[Binding, Binding]) -> None:
    for mine, theirs in (both, both[::-1]):
        with pytest.raises(ConfigError, match=r"^budget\.parent: .* backend, not Budget"):
            mine.Budget(1, parent=theirs.Budget(1))
        with pytest.raises(ConfigError, match=r"^limited\.budget: .* backend, not Budget"):
            mine.Limited(None, theirs.Budget(1))


def test_repr(nm: Binding) -> None:
    budget = nm.Budget("2 KiB", name="cache")
    budget.reserve(1024)
    assert repr(budget) == "<Budget 'cache' 1.0 KiB of 2.0 KiB, peak 1.0 KiB>"
    assert repr(nm.Budget(5)) == "<Budget 0 B of 5 B, peak 0 B>"


# --- charging ---


def test_exactly_the_limit_passes(nm: Binding) -> None:
    """BUDGET-1"""
    budget = nm.Budget(100)
    assert budget.try_reserve(100) is True
    assert budget.try_reserve(1) is False
    assert numbers(budget) == (100, 100, 100, 1)
    assert budget.available == 0
    budget.release(1)
    assert budget.try_reserve(1) is True


def test_nothing_fits_in_a_full_budget(nm: Binding) -> None:
    budget = nm.Budget(100)
    budget.reserve(100)
    assert budget.try_reserve(0) is True
    assert budget.denied == 0


def test_a_refusal_changes_nothing(nm: Binding) -> None:
    """BUDGET-1, LAYOUT-5"""
    budget = nm.Budget(100, name="b")
    budget.reserve(60)
    with pytest.raises(BudgetExceeded) as caught:
        budget.reserve("41 B")
    assert isinstance(caught.value, MemoryError)
    assert figures(caught.value) == {"requested": 41, "used": 60, "limit": 100, "owner": "b"}
    assert is_one_line(caught.value)
    assert "'b'" in str(caught.value)
    assert numbers(budget) == (60, 60, 100, 1)


def test_the_largest_sizes(nm: Binding) -> None:
    """LAYOUT-4: sums do not wrap."""
    budget = nm.Budget(SIZE_MAX)
    assert budget.try_reserve(SIZE_MAX)
    assert not budget.try_reserve(SIZE_MAX)
    assert not budget.try_reserve(1)
    budget.release(SIZE_MAX)
    assert numbers(budget) == (0, SIZE_MAX, SIZE_MAX, 2)


@pytest.mark.parametrize("size", [-1, 1.0, True, None, "x", SIZE_MAX + 1, [], b"1"])
def test_bad_sizes(nm: Binding, size: object) -> None:
    """LAYOUT-1, LAYOUT-5"""
    budget = nm.Budget(100)
    budget.reserve(10)
    for call in (budget.reserve, budget.try_reserve, budget.release):
        with pytest.raises(InvalidLayout) as caught:
            call(size)
        assert str(caught.value).startswith("budget.re")
    with pytest.raises(InvalidLayout):
        budget.limit = size
    assert numbers(budget) == (10, 10, 100, 0)


def test_reserve_as_a_context(nm: Binding) -> None:
    """BUDGET-4"""
    budget = nm.Budget(100)
    with budget.reserve(60) as inside:
        assert inside is budget
        assert budget.used == 60
        with pytest.raises(ZeroDivisionError), budget.reserve(40):
            raise ZeroDivisionError
        assert budget.used == 60
    assert numbers(budget) == (0, 100, 100, 0)


def test_reserve_charges_when_called(nm: Binding) -> None:
    """BUDGET-4: the result may be dropped."""
    budget = nm.Budget(100)
    budget.reserve(60)
    assert budget.used == 60
    budget.release(60)


def test_underflow(nm: Binding) -> None:
    """BUDGET-4: unchanged, here and above."""
    parent = nm.Budget(1000)
    budget = nm.Budget(100, parent=parent)
    budget.reserve(60)
    parent.reserve(500)
    with pytest.raises(BudgetUnderflow) as caught:
        budget.release(61)
    assert isinstance(caught.value, ValueError)
    assert caught.value.state["requested"] == 61
    assert caught.value.state["used"] == 60
    assert is_one_line(caught.value)
    assert (budget.used, parent.used) == (60, 560)
    budget.release(0)
    assert budget.used == 60
    for huge in (1 << 62, (1 << 63) - 61, (1 << 63) - 1):
        with pytest.raises(BudgetUnderflow):
            budget.release(huge)
        assert (budget.used, parent.used) == (60, 560)


def test_peak_never_falls(nm: Binding) -> None:
    """BUDGET-2"""
    budget = nm.Budget(100)
    for n in (30, 70, 10):
        with budget.reserve(n):
            pass
    assert (budget.used, budget.peak) == (0, 70)


def test_a_limit_below_what_is_used(nm: Binding) -> None:
    budget = nm.Budget(100)
    budget.reserve(80)
    budget.limit = "50 B"
    assert (budget.limit, budget.available, budget.used) == (50, 0, 80)
    assert not budget.try_reserve(1)
    budget.release(40)
    assert budget.available == 10
    assert budget.try_reserve(10)
    budget.limit = 1000
    assert budget.try_reserve(900)


@pytest.mark.parametrize("attribute", ["used", "peak", "available", "denied", "last_denial", "owner"])
def test_numbers_are_read_only(nm: Binding, attribute: str) -> None:
    with pytest.raises(AttributeError):
        setattr(nm.Budget(1), attribute, 0)


# --- ancestors ---


def test_ancestors_are_charged(nm: Binding) -> None:
    """BUDGET-1"""
    top = nm.Budget(1000)
    middle = nm.Budget(500, parent=top)
    left, right = nm.Budget(300, parent=middle), nm.Budget(300, parent=middle)
    left.reserve(300)
    right.reserve(200)
    assert [b.used for b in (top, middle, left, right)] == [500, 500, 300, 200]
    assert not right.try_reserve(1)
    assert [b.denied for b in (top, middle, left, right)] == [0, 1, 0, 1]
    left.release(100)
    assert right.try_reserve(100)
    assert [b.used for b in (top, middle, left, right)] == [500, 500, 200, 300]
    assert [b.peak for b in (top, middle, left, right)] == [500, 500, 300, 300]


def test_all_or_nothing(nm: Binding) -> None:
    """BUDGET-1: what the lower budgets had charged already is given back."""
    top = nm.Budget(100, name="top")
    middle = nm.Budget(1000, name="middle", parent=top)
    leaf = nm.Budget(10000, name="leaf", parent=middle)
    leaf.reserve(90)
    assert not leaf.try_reserve(11)
    assert [numbers(b) for b in (top, middle, leaf)] == [
        (90, 90, 100, 1),
        (90, 90, 1000, 0),
        (90, 90, 10000, 1),
    ]


def test_the_denial_names_the_budget_in_the_way(nm: Binding) -> None:
    """BUDGET-2"""
    top = nm.Budget(100, name="top")
    leaf = nm.Budget(1000, name="leaf", parent=top)
    top.reserve(50)
    before = time.time()
    with pytest.raises(BudgetExceeded) as caught:
        leaf.reserve(51)
    after = time.time()
    assert figures(caught.value) == {"requested": 51, "used": 50, "limit": 100, "owner": "top"}
    for budget in (leaf, top):
        denial = budget.last_denial
        assert (denial.requested, denial.used, denial.limit) == (51, 50, 100)
        assert denial.owner == "top"
        assert before - 0.1 <= denial.time <= after + 0.1
    leaf.try_reserve(2000)
    assert leaf.last_denial.requested == 2000
    assert leaf.last_denial.owner == "leaf"
    assert top.last_denial.requested == 51


def test_a_denial_outlives_the_budget_that_refused(nm: Binding) -> None:
    limited = nm.Limited(nm.System(), nm.Budget(10, name="gone", parent=nm.Budget(5, name="top")))
    with pytest.raises(BudgetExceeded) as caught:
        limited.alloc(6)
    assert caught.value.state["owner"] == "top"
    budget = limited.owner
    del limited
    collect()
    assert budget.last_denial.owner == "top"


def test_a_collected_budget_gives_back_to_its_parent(nm: Binding) -> None:
    parent = nm.Budget(1000)
    child = nm.Budget(100, parent=parent)
    grandchild = nm.Budget(100, parent=child)
    grandchild.reserve(60)
    child.reserve(40)
    assert parent.used == 100
    del child, grandchild
    collect()
    assert (parent.used, parent.peak) == (0, 100)


def test_a_child_holds_its_parent(nm: Binding) -> None:
    budget = nm.Budget(100, parent=nm.Budget(50, name="held"))
    collect()
    assert not budget.try_reserve(51)
    assert budget.last_denial.owner == "held"


def test_budgets_can_be_referred_to_weakly(nm: Binding) -> None:
    budget = nm.Budget(100)
    reference = weakref.ref(budget)
    assert reference() is budget
    del budget
    collect()
    assert reference() is None


def test_many_owners(nm: Binding) -> None:
    """BUDGET-7"""
    parent = nm.Budget(1 << 40)
    owners = [nm.Budget(100, name=f"owner {n}", parent=parent) for n in range(2000)]
    for owner in owners:
        owner.reserve(10)
    assert parent.used == 20000


# --- threads ---


def test_threads_never_exceed_the_limit(nm: Binding) -> None:
    """BUDGET-2: not at any instant that a thread can see."""
    top = nm.Budget(1000)
    leaves = [nm.Budget(600, parent=top) for _ in range(2)]
    start = threading.Barrier(8)
    exceeded = []

    def work(number: int) -> None:
        chance = random.Random(number)
        budget = leaves[number % 2]
        held = []
        start.wait()
        for _ in range(400):
            n = chance.randrange(1, 200)
            if budget.try_reserve(n):
                held.append(n)
            elif held:
                budget.release(held.pop())
            if top.used > 1000 or budget.used > 600:
                exceeded.append(number)
        for n in held:
            budget.release(n)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert exceeded == []
    assert [b.used for b in (top, *leaves)] == [0, 0, 0]
    assert top.peak <= 1000
    assert all(leaf.peak <= 600 for leaf in leaves)
    assert sum(leaf.denied for leaf in leaves) > 0


def test_threads_through_limited(nm: Binding) -> None:
    """BUDGET-2, LIM-1: live blocks never hold more than the limit."""
    budget = nm.Budget(1000)
    limited = nm.Limited(nm.Heap(), budget)
    start = threading.Barrier(8)
    refused = []

    def work(number: int) -> None:
        chance = random.Random(number)
        blocks = []
        start.wait()
        for _ in range(200):
            try:
                blocks.append(limited.alloc(chance.randrange(1, 200)))
            except BudgetExceeded:
                refused.append(number)
                if blocks:
                    blocks.pop(chance.randrange(len(blocks))).free()

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    collect()
    assert refused
    assert budget.peak <= 1000
    assert budget.denied == limited.stats.failures == len(refused)
    assert (budget.used, limited.stats.current, limited.upstream.stats.current) == (0, 0, 0)


def test_a_parent_that_released_for_its_child_does_not_go_below_zero(nm: Binding) -> None:
    """BUDGET-4"""
    parent = nm.Budget(1000)
    child = nm.Budget(1000, parent=parent)
    child.reserve(100)
    parent.release(100)
    child.release(100)
    assert (parent.used, child.used) == (0, 0)
    parent.reserve(1000)
    assert parent.used == 1000


def test_name_and_parent_stay(nm: Binding) -> None:
    """BUDGET-1: what is charged when it is made is charged for good."""
    budget = nm.Budget(10, name="a")
    for name in ("name", "parent"):
        with pytest.raises(AttributeError):
            setattr(budget, name, budget)
    with pytest.raises(RuntimeError, match="initialised before"):
        budget.__init__(20)  # type: ignore[misc]
    assert (budget.name, budget.parent, budget.limit) == ("a", None, 10)


def test_what_was_shared_goes_back_first(nm: Binding) -> None:
    """Small requests are charged to the shared one, and each byte goes back where it was charged."""
    shared = nm.Budget(1000, "shared")
    budget = nm.Budget(10_000, shared=shared)
    for n in (100, 1000, 200):
        budget.reserve(n)
    assert (budget.used, shared.used) == (1000, 300)
    for n, left in ((200, (1000, 100)), (600, (500, 0)), (500, (0, 0))):
        budget.release(n)
        assert (budget.used, shared.used) == left


@pytest.mark.parametrize(("name", "shown"), [("x", "budget 'x'"), (None, "a budget without a name")])
def test_left_without_being_entered(nm: Binding, name: str | None, shown: str) -> None:
    """OWN-1: also where scopes cannot be entered, but for the kill switch; what was on its way is its context."""
    error = KeyError()
    for arguments, context in (((None, None, None), None), ((KeyError, error, None), error), ((), None)):
        budget = nm.Budget(10, name)
        if Settings.from_env().disable:
            budget.__exit__(*arguments)
            continue
        with pytest.raises(ScopeError, match=f"^the scope of {shown} was left, but is not open: ") as caught:
            budget.__exit__(*arguments)
        assert caught.value.__context__ is context
