"""Allocations that fail on purpose, one in each test: what a run with ``NATIVEMEM_TEST_OOM_N`` looks for.

With the variable set, the default system allocator of each backend is a ``Failing``, whose n-th allocation fails.
This plugin has it count anew for each test. A test may then pass, or end because of that failure; nothing that it
took may be live once it is over. ``tests/conftest.py`` registers the plugin where the variable is set.

A test that ends without an ``OutOfMemory`` somewhere among the causes has failed, whatever it met. One that cannot
be judged in this way, because it deals with errors itself, has the mark ``unplanted`` with the reason, and meets a
system allocator that does not fail.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from nativemem.backends.binding import Binding
from nativemem.errors import OutOfMemory

VARIABLE = "NATIVEMEM_TEST_OOM_N"
MARKER = f"unplanted(reason): runs without the failure of {VARIABLE}, see tests/planted.py"
OPTION = "--planted-at-least"


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error and all that led to it, members of groups too."""
    seen: set[int] = set()
    rest: list[BaseException | None] = [error]
    while rest:
        each = rest.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            yield each
            rest += [each.__cause__, each.__context__, *getattr(each, "exceptions", ())]


def report_on(item: pytest.Item, outcome: Any, text: Any, when: Any) -> pytest.TestReport:
    return pytest.TestReport(item.nodeid, item.location, dict.fromkeys(item.keywords, 1), outcome, text, when)


class Planted:
    """The plugin. ``met``: tests in which the failure happened; ``ended``: those of them that ended by it."""

    def __init__(self, bindings: list[Binding], n: int, least: int) -> None:
        self.systems = [(binding, binding.default_system) for binding in bindings]
        self.n, self.least = n, least
        self.met = self.ended = 0

    def live(self) -> list[tuple[int, int]]:
        """Blocks and bytes in use of what each backend's ``Failing`` stands on."""
        every = [failing.upstream.stats for _, failing in self.systems]
        return [(stats.live, stats.current) for stats in every]

    def failed(self) -> bool:
        return any(failing.failed for _, failing in self.systems)

    @contextmanager
    def planted(self, item: pytest.Item) -> Iterator[None]:
        """The failure is ahead, unless the test has the mark."""
        for _, failing in self.systems:
            failing.reset(self.n, False)
        unplanted = item.get_closest_marker("unplanted") is not None
        try:
            for binding, failing in self.systems:
                binding.default_system = failing.upstream if unplanted else failing
            yield
        finally:
            for binding, failing in self.systems:
                binding.default_system = failing

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        before = self.live()
        with self.planted(item):
            result = yield
        self.met += self.failed()
        self.forget(before)
        if self.live() != before:
            text = f"not all is given back: of blocks and bytes there were {before}, now there are {self.live()}"
            item.ihook.pytest_runtest_logreport(report=report_on(item, "failed", text, "teardown"))
        return result

    def forget(self, before: list[tuple[int, int]]) -> None:
        """Lets go of what only the frames of a test that is over hold, or a cycle."""
        for name in ("last_type", "last_value", "last_traceback", "last_exc"):
            if hasattr(sys, name):
                delattr(sys, name)
        for generation in range(3):  # most are young; a full collection for each test would take minutes
            if self.live() != before:
                gc.collect(generation)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> pytest.TestReport | None:
        if call.excinfo is None or not self.failed():
            return None
        if not any(type(error) is OutOfMemory for error in causes(call.excinfo.value)):
            return None
        self.ended += 1
        # no traceback: to format it takes longer than the test; skipped: after a fixture the test is not called
        file, line, _ = item.location
        report = report_on(item, "skipped", (file, line or 0, "ended by the planted failure"), call.when)
        report.planted = True  # type: ignore[attr-defined]
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        if getattr(report, "planted", False):
            return "ended by the planted failure", "m", "MEMORY"
        return None

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.write_line(
            f"allocation {self.n} from the system failed in {self.met} tests, {self.ended} of them ended by it"
        )
        if self.met < self.least:
            terminalreporter.write_line(f"{OPTION}={self.least}: too few; the failure was not where the tests are")

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.met < self.least and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
