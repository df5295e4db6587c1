"""Fixtures that more than one folder of tests uses."""

from __future__ import annotations

import gc
import importlib.util
import os
import signal
import sys
from collections.abc import Iterator

import pytest

import planted
from builds import required as required
from nativemem._api import load
from nativemem.backends.binding import Binding
from nativemem.backends.machine import is_free_threaded
from nativemem.config import Settings

NATIVE_IS_BUILT = importlib.util.find_spec("nativemem._core") is not None
DISABLED = Settings.from_env().disable
#: under the kill switch both names are the pure backend
BACKENDS = ("pure",) if DISABLED else ("native", "pure")


def require_native() -> None:
    """Skips where the C core is not built or the kill switch is on; on a CI machine its absence is a failure."""
    if DISABLED:
        pytest.skip("NATIVEMEM_DISABLE is set: there is no native backend")
    if not NATIVE_IS_BUILT:
        if os.environ.get("CI"):
            pytest.fail("CI is set, but the C core nativemem._core is not built")
        pytest.skip("the C core nativemem._core is not built (pip install -e . builds it)")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        planted.OPTION,
        type=int,
        default=0,
        metavar="N",
        help=f"with {planted.VARIABLE}: fewer than N tests that met the failure are a failure",
    )


def pytest_configure(config: pytest.Config) -> None:
    # A shell starts what it puts in the background with these ignored, and nohup with SIGHUP, and so they stay
    # in all programs below. A hangup is still not to end this process.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in ("SIGQUIT", "SIGTSTP"):
        if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) is signal.SIG_IGN:
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)
    # programs that tests start are not to fail: no test looks at what becomes of their memory
    config.addinivalue_line("markers", planted.MARKER)
    n = Settings.from_env().test_oom_n
    if n:
        names = [name for name in BACKENDS if name == "pure" or NATIVE_IS_BUILT]
        plugin = planted.Planted([load(name) for name in names], n, config.getoption(planted.OPTION))
        del os.environ[planted.VARIABLE]
        config.pluginmanager.register(plugin)


@pytest.fixture(scope="module")
def old_objects_apart() -> Iterator[None]:
    """The collector passes over what earlier tests left: for modules whose tests collect again and again, each time
    all that a long run of tests has imported."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def needs_native() -> None:
    """For tests of the native backend alone."""
    require_native()


def require_objects() -> None:
    """Skips the test where the native backend does not serve the interpreter's objects."""
    if is_free_threaded():
        pytest.skip("objects are the interpreter's own without its lock (tests/test_free_threaded_engine.py)")


@pytest.fixture
def needs_objects() -> None:
    """For tests of the engine with objects in it."""
    require_native()
    require_objects()


@pytest.fixture
def needs_counts() -> None:
    """For tests that look whether the interpreter's blocks grow in number."""
    if not hasattr(sys, "getallocatedblocks") or not sys.getallocatedblocks():
        pytest.skip("this interpreter does not count its blocks")
    if is_free_threaded():
        pytest.skip("a free-threaded interpreter counts its blocks roughly: threads free each other's later")


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
