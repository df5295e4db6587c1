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
from dataclasses import asdict
from typing import Any

import pytest

from ..engine.install import install, installed, uninstall
from ..errors import ConfigError, NativeMemError, NativeUnavailable
from ..sizes import SIZE_MAX
from .asked import Asked, size_of
from .charge import Charge, Scope, new_budget
from .repetitions import Repetitions
from .results import Results, checked_path
from .trace import Trace, lines_of, places_of, refused_at

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
    """A plugin of its own, which :mod:`.pytest_plugin` registers when a test or an option asks for it.

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
        self.results, self._config = Results(), config
        self._engine_on: bool | None = None  # None: not tried yet
        self._was_on = True
        self._trace: Trace | None = None
        self._shared: Any = None  # the scope of fixtures of wider scope, where the engine is on
        self._current: Charge | None = None

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
        """The charge of the attempt at ``item`` that is under way."""
        charge = item.stash.get(_CHARGE, None)
        if charge is None:
            charge = item.stash[_CHARGE] = self._new_charge(item)
        return charge

    def _new_charge(self, item: pytest.Item) -> Charge:
        try:
            asked = Asked(item, self.limit, self.no_leaks)
        except ConfigError as error:
            pytest.fail(f"nativemem: {error}", pytrace=False)
        return Charge(item.nodeid, asked, self.on())

    def _wanted(self, item: pytest.Item) -> bool:
        if self.all:
            return True
        names = ("nativemem_budget", "nativemem_no_leaks", "nativemem_oom")
        return any(marker.name in names for marker in item.iter_markers())

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, Any, Any]:
        self._current = None
        if _CHARGE in item.stash:  # of an earlier attempt
            del item.stash[_CHARGE]
        if self._wanted(item):
            self._current = self.charge_of(item)
        return (yield)

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
        self._current = charge
        charge.bind_owners()
        try:
            with _steps_charged(item, charge):
                result = yield from self._run(item, charge)
            if charge.asked.oom is not None and not _failed(item):
                self.refused(_body(item), **charge.asked.oom)
        except BaseException:
            self._judge(charge)  # here, where the frames of the test still hold what it took
            raise
        self._judge(charge)
        if charge.measured.problems and not _failed(item):
            pytest.fail(charge.text(), pytrace=False)
        return result

    def _run(self, item: pytest.Item, charge: Charge) -> Generator[None, Any, Any]:
        counts = charge.asked.repetitions
        repetitions = None if counts is None or not charge.on else self._begin_repetitions(*counts)
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
        charge.measured.places = [asdict(place) for place in places]
        at = refused_at(recording, owner)
        charge.details = ([f"  refused at {at}"] if at else []) + lines_of(places)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, Any, Any]:
        report = yield
        charge = item.stash.get(_CHARGE, None)
        if charge is None or call.when == "teardown":
            return report
        if call.when == "setup":
            if report.passed:
                return report
            self._judge(charge)
        if report.failed:
            _explain(report, charge)
        charge.measured.seconds = round(report.duration, 6)
        setattr(report, _ATTRIBUTE, dict(vars(charge.measured)))
        return report

    # ---- the run

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = getattr(report, _ATTRIBUTE, None)
        if data is not None:
            self.results.add({**data, "outcome": report.outcome})

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


@contextlib.contextmanager
def _steps_charged(item: pytest.Item, charge: Charge) -> Iterator[None]:
    """A test that is a coroutine function may run in a context that was made before; so each of its steps is
    charged."""
    function = getattr(item, "obj", None)
    if not charge.on or not inspect.iscoroutinefunction(function):
        yield
        return

    @functools.wraps(function)
    async def steps(*args: Any, **kwargs: Any) -> Any:
        with charge.budget:
            return await function(*args, **kwargs)

    case = getattr(item, "instance", None)
    if case is not None and hasattr(item, "addError"):  # unittest takes the method from its instance
        setattr(case, item.name, steps)
        try:
            yield
        finally:
            delattr(case, item.name)
        return
    item.obj = steps  # type: ignore[attr-defined]
    try:
        yield
    finally:
        item.obj = function  # type: ignore[attr-defined]


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
    if crash is not None and charge.measured.problems and crash.message.startswith("MemoryError"):
        crash.message = f"MemoryError: {charge.measured.problems[0]}"
