"""Why an outcome with the engine on differs from the one without it, for scripts/suites.py."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass


@dataclass(frozen=True)
class Reason:
    """``test``: a pattern of names as the report has them, of ``suite``; none of ``pythons`` means all."""

    suite: str
    test: str
    text: str
    pythons: tuple[str, ...] = ()
    sides: tuple[str, ...] = ("on", "scoped")

    def covers(self, suite: str, python: str, side: str, test: str) -> bool:
        here = suite == self.suite and side in self.sides and python in (self.pythons or (python,))
        return here and fnmatch.fnmatchcase(test, self.test)


REASONS = (
    Reason(
        "interpreter",
        "test.test_cmd_line.CmdLineTest.test_pythonmalloc",
        "The interpreter knows names for its own allocators only.",
    ),
    Reason(
        "interpreter",
        "test.test_cmd_line.CmdLineTest.test_xdev",
        "The interpreter knows names for its own allocators only.",
    ),
    Reason(
        "interpreter",
        "test.test_sys.SysModuleTest.test_debugmallocstats",
        "`sys._debugmallocstats()` has a table of pymalloc only where that is the allocator.",
    ),
    Reason(
        "interpreter",
        "test.test_warnings.*WarningsDisplayTests.test_tracemalloc",
        "Under `-X tracemalloc` the engine stays off and warns of it; the test wants its own warning alone.",
    ),
    Reason(
        "interpreter",
        "test.test_concurrent_futures.test_deadlock (the process)",
        "CPython 3.13.0 itself: a pool's manager joins the feeder thread while it holds the lock that this waits "
        "for. Repaired in 3.13.1.",
        pythons=("3.13",),
    ),
    Reason(
        "interpreter",
        "test.test_faulthandler.FaultHandlerTests.test_dump_ext_modules",
        "faulthandler names extension modules outside the standard library; the package's is one.",
        pythons=("3.15",),
    ),
    Reason(
        "interpreter",
        "test.test_trace.TestCoverage.test_coverage_ignore",
        "The test traces an import; a finder of the package, which waits for NumPy's, is among what runs.",
    ),
    Reason(
        "numpy",
        "numpy.*.tests.test_mem_policy::test_default_policy_singleton",
        "NumPy's default memory handler is the engine's, and is called `nativemem`.",
    ),
    Reason(
        "numpy",
        "numpy.*.tests.test_mem_policy::test_context_locality",
        "NumPy's default memory handler is the engine's, and is called `nativemem`.",
    ),
)
