"""Budgets: limits with owners, lending, pressure, and the scopes that charge to them."""

from __future__ import annotations

from .._lazy import room

__getattr__, __all__ = room(
    __name__,
    budget="Budget Denial",
    lending="Loan Move SharingPolicy",
    pressure="MemoryPressure",
    executors="ScopedExecutor",
)
