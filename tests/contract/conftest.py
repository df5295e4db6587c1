"""Fixtures of the contract suite."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Iterator

import pytest

from nativemem.allocators.base import Allocator
from nativemem.backends.binding import Binding

from .helpers import CHAINS, make

_tests = itertools.count(1)


@pytest.fixture(scope="module", autouse=True)
def _quick_collections() -> Iterator[None]:
    """A test that collects garbage need not go through pytest's own objects each time."""
    if not hasattr(gc, "freeze"):  # PyPy
        yield
        return
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _still_quick_collections() -> None:
    """What pytest keeps of each test adds up: on every order of wrappers a module has ten thousand."""
    if next(_tests) % 200 == 0 and hasattr(gc, "freeze"):
        gc.collect()
        gc.freeze()


@pytest.fixture(params=CHAINS)
def allocator(nm: Binding, request: pytest.FixtureRequest) -> Allocator:
    """A new allocator of each kind, bare and wrapped."""
    return make(nm, request.param)
