"""Fixtures of the manager's tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from nativemem.backends.binding import Binding
from nativemem.manager import CappedProvider, Level, Provider, StaticProvider, StdProvider

#: bytes that a provider of the suite can have
MOST = 4096
TIERS: dict[str, Callable[..., Provider]] = {
    "std": lambda **rest: StdProvider(**rest),
    "alloc": lambda **rest: CappedProvider(MOST, **rest),
    "static": lambda **rest: StaticProvider(MOST, **rest),
}


@pytest.fixture(params=TIERS)
def tier(request: pytest.FixtureRequest) -> str:
    """Each tier by its name."""
    name: str = request.param
    return name


#: those whose code differs; the generated programs run at each
LEVELS = (Level.OFF, Level.BASIC, Level.SAMPLING, Level.REDUNDANT)


@pytest.fixture(params=LEVELS, ids=lambda level: level.value)
def level(request: pytest.FixtureRequest) -> Level:
    """A verification level."""
    found: Level = request.param
    return found


@pytest.fixture
def make(nm: Binding, tier: str) -> Callable[..., Any]:
    """Makes a provider of the tier, on the backend, with these arguments."""
    return lambda **rest: TIERS[tier](**{"upstream": nm.System(), **rest})
