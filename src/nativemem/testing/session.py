"""What the pytest plugin does in a run that asked for it: charges tests, repeats them, tells what they used.

A test is charged with what it allocates while it runs, and its function-scoped fixtures while they are set up. What
fixtures of wider scope allocate is charged to none of the tests that share them, in whichever test they are set
up; nor is what tearing down takes.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import warnings
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from ..engine.install import install, installed, uninstall
from ..errors import ConfigError, NativeMemError, NativeUnavailable
from ..sizes import SIZE_MAX
from .asked import Asked, is_marked, size_of
from .charge import Charge, Scope, new_budget
from .results import Results, checked_path
from .trace import Trace, lines_of, places_of, refused_at

if TYPE_CHECKING:
    from .repetitions import Repetitions

__all__ = ["Session"]

#: the sampling of a run's own trace, which has the places of a test that went over its budget
_RATE = 64 << 10
#: how many places a failure shows
_PLACES = 5
_CHARGE = pytest.StashKey[Charge]()
#: the attribute of a report that brings what was measured, and that of a worker's output
_ATTRIBUTE = "nativemem"


def _engine() -> str | None:
    """Switches the engine on. Why it cannot be, or None."""
    try:
        if not install():
            return "NATIVEMEM_DISABLE=1 is set"
        return None
    except (NativeUnavailable, MemoryError) as error:
        return str(error)


class Session:
    """A plugin of its own, which :mod:`nativemem_pytest` registers when a test or an option asks for it.

    Raises :class:`pytest.UsageError` for options with values that will not do.
    """

    def __init__(self, config: pytest.Config) -> None:
        option = config.getoption
        try:
            self.limit = size_of(
                option("--nativemem-budget") or config.getini("nativemem_budget") or None, "the budget"
            )
            self.report = checked_path(option("--nativemem-report"))
        except ConfigError as error:
            raise pytest.UsageError(f"nativemem: {error}") from None
        self.no_leaks: bool = option("--nativemem-no-leaks") or config.getini("nativemem_no_leaks")
        self.all = bool(option("--nativemem") or config.getini("nativemem") or self.report)
        self.all = self.all or self.limit is not None or self.no_leaks
        self.top: int = option("--nativemem-top")
        self._asked = Asked(self.limit, self.no_leaks)
        self.results, self._config = Results(), config
        self._engine_on: bool | None = None  # None: not tried yet
        self._was_on = True
        self._trace: Trace | None = None
        self._shared: Any = None  # the scope of fixtures of wider scope, where the engine is on
        self._current: Charge | None = None
        self._spare: Charge | None = None  # of the last test without a marker, for the next one

    # ---- the engine, and the trace of the run

    def on(self) -> bool:
        """Whether the engine is on; the first call switches it on, and notes why where it cannot."""
        if self._engine_on is None:
            self._was_on = bool(installed())
            reason = _engine()
            self._engine_on = reason is None
            if reason is not None:
                self.results.note(f"nothing is measured, bounded or repeated here: {reason}")
            else:
                self._shared = Scope(new_budget(SIZE_MAX, "fixtures of wider scope"), True)
                self._start_trace()
        return self._engine_on

    def _start_trace(self) -> None:
        trace = Trace(_RATE)
        try:
            self._trace = trace.start()
        except NativeMemError as error:
            self.results.note(f"places in the code are not known: {error}")

    def _stop_trace(self) -> None:
        if self._trace is not None:
            self._trace.stop()
            self._trace = None

    @contextlib.contextmanager
    def traced(self) -> Iterator[Trace]:
        """Another trace in place of the run's, which notes each block."""
        trace = Trace()
        if not self.on():
            yield trace
            return
        self._stop_trace()
        try:
            self._trace = trace.start()
        except NativeMemError as error:
            self.results.note(f"nothing is traced: {error}")
        try:
            yield trace
        finally:
            self._stop_trace()
            self._start_trace()

    def refused(self, function: Callable[[], object], **options: Any) -> Any:
        """Sweeps ``function``; what that finds fails the test. Returns what it tells; None without a core."""
        from .injection import sweep

        self._stop_trace()  # its allocations would be those of the function
        try:
            found = sweep(function, **options)
        except NativeUnavailable as error:
            self.results.note(f"no allocation is refused: {error}")
            return None
        finally:
            if self._engine_on:
                self._start_trace()
        if found:
            pytest.fail(f"nativemem: {found}", pytrace=False)
        return found

    # ---- a test

    def charge_of(self, item: pytest.Item) -> Charge:
        """The charge of the attempt at ``item`` that is under way, for the test's own use."""
        charge = item.stash.get(_CHARGE, None)
        if charge is None:
            charge = item.stash[_CHARGE] = self._new_charge(item, is_marked(item))
        charge.lent = True
        return charge

    def _new_charge(self, item: pytest.Item, marked: bool) -> Charge:
        spare = self._spare
        if not marked and spare is not None:
            self._spare = None
            if spare.renew(item.nodeid):
                return spare
        try:
            asked = Asked.of(item, self.limit, self.no_leaks) if marked else self._asked
        except ConfigError as error:
            pytest.fail(f"nativemem: {error}", pytrace=False)
        return Charge(item.nodeid, asked, self.on())

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        self._current = None
        if _CHARGE in item.stash:  # of an earlier attempt
            del item.stash[_CHARGE]
        marked = is_marked(item)
        if marked or self.all:
            self._current = item.stash[_CHARGE] = self._new_charge(item, marked)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Generator[None, Any, Any]:
        charge = self._current
        if charge is None or not charge.on:
            return (yield)
        scope = charge if fixturedef.scope == "function" else self._shared
        scope.enter()
        try:
            result = yield
        except BaseException as error:
            scope.leave(error)
            raise
        scope.leave(None)
        return result

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        charge: Charge | None = item.stash.get(_CHARGE, None)
        if charge is None:
            return (yield)
        self._current, asked = charge, charge.asked
        steps = None
        try:
            if asked.owners:
                charge.bind_owners()
            if charge.on and inspect.iscoroutinefunction(getattr(item, "obj", None)):
                steps = _Steps(item, charge)
            if asked.repetitions is not None and charge.on:
                result = yield from self._repeated(item, charge, asked.repetitions)
            else:
                result = yield from _charged(charge)
            if asked.oom is not None and not _failed(item):
                self.refused(_body(item), **asked.oom)
        finally:
            if steps is not None:
                steps.end()
            self._judge(charge)  # here, where the frames of the test still hold what it took
        if charge.problems and not _failed(item):
            pytest.fail(charge.text(), pytrace=False)
        return result

    def _repeated(self, item: pytest.Item, charge: Charge, counts: tuple[int, int]) -> Generator[None, Any, Any]:
        repetitions = self._begin_repetitions(*counts)
        if repetitions is None:
            return (yield from _charged(charge))
        try:
            repetitions.before(0)
            result = yield from _charged(charge)
            for done in range(1, repetitions.total):
                if _failed(item):
                    return result
                self._forget_output()
                repetitions.before(done)
                self._again(item, charge, done, repetitions.total)
            if not _failed(item):
                charge.grew(repetitions.end())
            return result
        finally:
            self._end_repetitions(repetitions)

    def _again(self, item: pytest.Item, charge: Charge, done: int, total: int) -> None:
        if getattr(getattr(item, "instance", None), "_asyncioRunner", None) is not None:
            item.instance._asyncioRunner = None  # type: ignore[attr-defined]  # of unittest: closed, and for one run
        charge.enter()
        try:
            # the run keeps each warning that it sees
            with _without_subtests(item), warnings.catch_warnings(record=True):
                item.runtest()
        except BaseException as error:
            charge.leave(error)
            charge.remark = f"nativemem: this was repetition {done + 1} of {total}; the first one passed"
            raise
        charge.leave(None)

    def _begin_repetitions(self, warmup: int, repeat: int) -> Repetitions | None:
        """Measures with the trace that the test has, or with another in place of the run's."""
        from .repetitions import Repetitions

        exact = self._trace if self._trace is not None and self._trace.exact else None
        repetitions = Repetitions(warmup, repeat, exact)
        if exact is None:
            self._stop_trace()
            try:
                self._trace = repetitions.trace.start()
            except NativeMemError as error:
                self.results.note(f"no test is repeated: {error}")
                return None
        return repetitions

    def _end_repetitions(self, repetitions: Repetitions) -> None:
        if repetitions.own:
            self._stop_trace()
            self._start_trace()

    def _forget_output(self) -> None:
        """What pytest keeps of a test's logs and output grows with each repetition; that of the last one is
        shown."""
        plugins = self._config.pluginmanager
        logs = plugins.get_plugin("logging-plugin")
        for name in ("caplog_handler", "report_handler"):
            handler = getattr(logs, name, None)
            if handler is not None:
                handler.clear()
        capture: Any = plugins.get_plugin("capturemanager")
        if capture is not None and capture.is_globally_capturing():
            capture.read_global_capture()

    def _judge(self, charge: Charge) -> None:
        owner = charge.judge()
        if owner is None or self._trace is None:
            return
        recording = self._trace.recording
        if recording is None:
            return
        places = places_of(recording, "live", _PLACES, owner)
        if not places:  # what it took is gone already
            places = places_of(recording, "total", _PLACES, owner)
        at = refused_at(recording, owner)
        charge.places = tuple(places)
        charge.details = (*([f"  refused at {at}"] if at else []), *lines_of(places))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, Any, Any]:
        report = yield
        charge = item.stash.get(_CHARGE, None)
        if charge is None:
            return report
        if call.when == "teardown":
            del item.stash[_CHARGE]
            if charge.asked is self._asked:
                self._spare = charge
            return report
        if call.when == "setup":
            if report.passed:
                return report
            self._judge(charge)
        if report.failed:
            _explain(report, charge)
        setattr(report, _ATTRIBUTE, charge.row(report.duration))
        return report

    # ---- the run

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        row = getattr(report, _ATTRIBUTE, None)
        if row is not None:
            self.results.add(row, report.outcome)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """A worker of xdist has ended."""
        for note in getattr(node, "workeroutput", {}).get(_ATTRIBUTE, ()):
            self.results.note(note)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput[_ATTRIBUTE] = list(self.results.notes)
        elif self.report is not None:
            try:
                self.results.write(self.report)
            except OSError as error:
                self.results.note(f"the report was not written: {error}")

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        lines = self.results.lines(self.top)
        if lines:
            terminalreporter.section("memory (nativemem)")
            for line in lines:
                terminalreporter.write_line(line)

    def pytest_unconfigure(self) -> None:
        self._stop_trace()
        if self._engine_on and not self._was_on:
            uninstall()


def _charged(charge: Charge) -> Generator[None, Any, Any]:
    charge.enter()
    try:
        result = yield
    except BaseException as error:
        charge.leave(error)
        raise
    charge.leave(None)
    return result


def _body(item: pytest.Item) -> Callable[[], object]:
    """The test as a function of its own."""
    function, names = getattr(item, "obj", None), getattr(getattr(item, "_fixtureinfo", None), "argnames", None)
    if callable(function) and names is not None and not hasattr(item, "addError"):
        if not inspect.iscoroutinefunction(function):
            return functools.partial(function, **{name: item.funcargs[name] for name in names})  # type: ignore[attr-defined]

    def run() -> None:
        item.runtest()
        for error in getattr(item, "_excinfo", None) or ():
            raise error.value

    return run


def _failed(item: pytest.Item) -> bool:
    """Whether a test of unittest has failed: it keeps its exceptions until they are reported."""
    return bool(getattr(item, "_excinfo", None))


class _Steps:
    """A test that is a coroutine function may run in a context that was made before; so each of its steps is
    charged, until :meth:`end`."""

    def __init__(self, item: Any, charge: Charge) -> None:
        self.item, self.function = item, item.obj
        # unittest takes the method from its instance
        self.case = getattr(item, "instance", None) if hasattr(item, "addError") else None
        charged = charge.budget(self.function)
        if self.case is not None:
            setattr(self.case, item.name, charged)
        else:
            item.obj = charged

    def end(self) -> None:
        """It is the test's own again."""
        if self.case is not None:
            delattr(self.case, self.item.name)
        else:
            self.item.obj = self.function


@contextlib.contextmanager
def _without_subtests(item: Any) -> Iterator[None]:
    """The run keeps a report of each subtest; those of a repetition count where they fail."""
    add = getattr(item, "addSubTest", None)
    if add is None or not hasattr(item, "addError"):
        yield
        return
    item.addSubTest = lambda case, test, error: None if error is None else add(case, test, error)
    try:
        yield
    finally:
        del item.addSubTest


def _explain(report: Any, charge: Charge) -> None:
    """Puts the budget line and the places into a report that the test's own error made."""
    text = charge.text()
    if not text:
        return
    if text not in report.longreprtext:
        report.sections.append(("memory (nativemem)", text))
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is not None and charge.problems and crash.message.startswith("MemoryError"):
        crash.message = f"MemoryError: {charge.problems[0]}"
