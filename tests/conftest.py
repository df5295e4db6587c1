"""Fixtures that more than one folder of tests uses."""

from __future__ import annotations

import importlib.util
import os

import pytest

from nativemem._backend import Binding, load

BACKENDS = ("native", "pure")


def require_native() -> None:
    """Skips where the C core is not built; on a CI machine its absence is a failure."""
    if importlib.util.find_spec("nativemem._core") is None:
        if os.environ.get("CI"):
            pytest.fail("CI is set, but the C core nativemem._core is not built")
        pytest.skip("the C core nativemem._core is not built (pip install -e . builds it)")


@pytest.fixture
def needs_native() -> None:
    """For tests of the native backend alone."""
    require_native()


@pytest.fixture(params=BACKENDS)
def nm(request: pytest.FixtureRequest) -> Binding:
    """The facade bound to one backend; each test that takes it runs on both."""
    name: str = request.param
    if name == "native":
        require_native()
    return load(name)


@pytest.fixture
def both() -> tuple[Binding, Binding]:
    """The facade bound to native and to pure, for tests that compare them."""
    require_native()
    return load("native"), load("pure")
