"""The pytest plugin's front: what pytest loads at its start. The rest comes when a test or an option asks for it.

A module of its own: pytest imports each module of a plugin in a slow way, and the package has a dozen at its start.
Options, ini settings, markers and fixtures are those of docs/testing_memory.md. PYTEST_DONT_REWRITE: it asserts
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from nativemem.budgets.budget import Budget
    from nativemem.testing.session import Session
    from nativemem.testing.trace import Trace

__all__ = ["memory_budget", "memory_trace", "oom"]

_MARKERS = {
    "nativemem_budget": "nativemem_budget(limit, owner=None): the most memory that the test may use, as '64 MiB'; "
    "with an owner, the most that the budget of that name may. A callable gets the test's parameters by name",
    "nativemem_no_leaks": "nativemem_no_leaks(warmup=1, repeat=3): repeats the test, which fails if it uses more "
    "memory each time; repeat=0: not this one",
    "nativemem_oom": "nativemem_oom(nth=None, sweep=True, **options): runs the test again with each of its "
    "allocations refused, or the nth, in processes of their own; options are those of nativemem.testing.sweep",
}
#: markers and fixtures of which each brings the rest of the plugin
_ASK = frozenset(_MARKERS)
_FIXTURES = frozenset(("memory_budget", "memory_trace", "oom"))
_NAME = "nativemem-session"


def _leave_asserts(pluginmanager: pytest.PytestPluginManager) -> None:
    """pytest compiles each module of a plugin's distribution anew, for the texts of its asserts. This package's
    tests are not in it, and to compile all of it would slow down each suite that imports it."""
    marked: Any = getattr(getattr(pluginmanager, "rewrite_hook", None), "_must_rewrite", None)
    if isinstance(marked, set):
        marked.difference_update(("nativemem", "nativemem_autoinstall", "nativemem_pytest"))


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    _leave_asserts(pluginmanager)
    group = parser.getgroup("nativemem", "memory (nativemem)")
    group.addoption("--nativemem", action="store_true", help="measure each test's memory, and show the heaviest")
    group.addoption("--nativemem-budget", metavar="SIZE", help="the most memory that a test may use, as 64MiB")
    group.addoption("--nativemem-no-leaks", action="store_true", help="repeat each test, and fail those that leak")
    group.addoption("--nativemem-report", metavar="FILE", help="write what was measured: FILE.json or FILE.html")
    group.addoption(
        "--nativemem-top", metavar="N", type=int, default=5, help="how many of the heaviest tests to show (5)"
    )
    parser.addini("nativemem", "measure each test's memory, and show the heaviest", type="bool", default=False)
    parser.addini("nativemem_budget", "the most memory that a test may use")
    parser.addini("nativemem_no_leaks", "repeat each test, and fail those that leak", type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    for line in _MARKERS.values():
        config.addinivalue_line("markers", line)
    asked = config.getoption("--nativemem") or config.getoption("--nativemem-budget")
    asked = asked or config.getoption("--nativemem-no-leaks") or config.getoption("--nativemem-report")
    asked = asked or config.getini("nativemem") or config.getini("nativemem_budget")
    # xdist's controller runs no test: what its workers measured comes with their reports
    controls = config.getoption("dist", "no") != "no" and not hasattr(config, "workerinput")
    if asked or config.getini("nativemem_no_leaks") or controls:
        session_of(config)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.pluginmanager.has_plugin(_NAME):
        return
    last: Any = None  # tests of one parent come one after another
    for item in items:
        found = _has_marker(item) or not _FIXTURES.isdisjoint(getattr(item, "fixturenames", ()))
        if item.parent is not last:
            node: Any = item.parent
            last = node
            while node is not None:
                found = found or _has_marker(node)
                node = node.parent
        if found:
            session_of(config)
            return


def _has_marker(node: Any) -> bool:
    for marker in node.own_markers:
        if marker.name in _ASK:
            return True
    return False


def session_of(config: pytest.Config) -> Session:
    """What measures, made when it is first asked for."""
    session: Any = config.pluginmanager.get_plugin(_NAME)
    if session is None:
        from nativemem.testing.session import Session

        session = Session(config)
        config.pluginmanager.register(session, _NAME)
    return session  # type: ignore[no-any-return]


@pytest.fixture
def memory_budget(request: pytest.FixtureRequest) -> Budget:
    """The budget that this test is charged to, a :class:`nativemem.Budget`: ``used``, ``peak``, and ``limit``,
    which may be set. Without a marker or an option it has no limit that a test would meet."""
    return session_of(request.config).charge_of(request.node).budget


@pytest.fixture
def memory_trace(request: pytest.FixtureRequest) -> Iterator[Trace]:
    """A :class:`nativemem.testing.Trace` of this test, which notes each block: ``live``, ``peak``, ``places()``."""
    with session_of(request.config).traced() as trace:
        yield trace


@pytest.fixture
def oom(request: pytest.FixtureRequest) -> Callable[..., object]:
    """``oom(function, **options)``: :func:`nativemem.testing.sweep`, which fails the test by what it finds."""
    return session_of(request.config).refused
