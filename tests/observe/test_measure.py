"""OBS-2: what a block of code took."""

from __future__ import annotations

from nativemem.backends.binding import Binding


def test_the_peak_inside(nm: Binding) -> None:
    """OBS-2: a peak can be taken, and is counted anew from then on; the budget's own stays."""
    budget = nm.Budget(1000)
    budget.try_reserve(700)
    budget.release(500)
    core = budget._core
    assert (core.take_peak(), core.take_peak()) == (700, 200)
    budget.try_reserve(100)
    budget.release(300)
    assert (core.take_peak(), core.take_peak(), budget.peak) == (300, 0, 700)
