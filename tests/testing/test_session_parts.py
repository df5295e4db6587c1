"""What the plugin does at each of pytest's hooks, each by itself: no suite is run here."""

from __future__ import annotations

import warnings
from collections.abc import Generator
from types import SimpleNamespace
from typing import Any

import pytest

from nativemem.sizes import SIZE_MAX
from nativemem.testing import charge, session
from nativemem.testing.repetitions import Growth
from nativemem.testing.session import Session

MIB = 1 << 20


class Config:
    """pytest's, as far as the plugin asks it."""

    def __init__(self, plugins: dict[str, Any] | None = None, **more: Any) -> None:
        self.values: dict[str, Any] = {
            **dict.fromkeys(("--nativemem", "--nativemem-no-leaks", "nativemem", "nativemem_no_leaks"), False),
            **dict.fromkeys(("--nativemem-budget", "--nativemem-report", "nativemem_budget"), None),
            **{"--nativemem-top": 5, **more},
        }
        found = plugins or {}
        self.pluginmanager = SimpleNamespace(get_plugin=found.get)

    def getoption(self, name: str) -> Any:
        assert name.startswith("--")
        return self.values[name]

    def getini(self, name: str) -> Any:
        assert not name.startswith("--")
        return self.values[name]


class Item:
    """A test with its markers."""

    def __init__(self, *marks: pytest.Mark, nodeid: str = "t", obj: Any = None, **more: Any) -> None:
        self.own_markers, self.parent, self.nodeid, self.obj = list(marks), None, nodeid, obj
        self.stash = pytest.Stash()
        self.__dict__.update(more)

    def iter_markers(self, name: str) -> Any:
        return (mark for mark in self.own_markers if mark.name == name)

    def get_closest_marker(self, name: str) -> Any:
        return next(self.iter_markers(name), None)


class Budget:
    """One that says when it is entered, and can be used anew where ``renews``."""

    def __init__(self, limit: int, name: str) -> None:
        self.name, self.limit, self.denied, self.peak = name, limit, 0, 7
        self.last_denial: Any = None
        self.renews, self.log = True, list[Any]()
        self._core = SimpleNamespace(
            numbers=lambda: (0, self.peak, self.limit, self.denied), renew=lambda *_: self.renews
        )

    def __enter__(self) -> None:
        self.log.append("in")

    def __exit__(self, *error: object) -> None:
        self.log.append(error[1])


class World:
    """A session with an engine that can be switched; ``log`` has what was done to it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[Any] = []
        self.why: str | None = None
        self.was_on = False
        world = self

        class Trace:
            def __init__(self, rate: int = 1) -> None:
                self.rate, self.exact = rate, rate == 1

            def start(self) -> Any:
                world.log.append(f"start {self.rate}")
                return self

            def stop(self) -> None:
                world.log.append(f"stop {self.rate}")

        def engine() -> str | None:
            world.log.append("engine")
            return self.why

        monkeypatch.setattr(session, "Trace", Trace)
        monkeypatch.setattr(session, "_engine", engine)
        monkeypatch.setattr(session, "installed", lambda: self.was_on)
        monkeypatch.setattr(session, "uninstall", lambda: world.log.append("off"))
        for module in (session, charge):
            monkeypatch.setattr(module, "new_budget", Budget)

    def session(self, plugins: dict[str, Any] | None = None, **more: Any) -> Any:
        config: Any = Config(plugins, **more)
        return Session(config)

    def did(self) -> list[Any]:
        log, self.log[:] = list(self.log), []
        return log


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def drive(steps: Generator[None, Any, Any], result: Any = None, error: BaseException | None = None) -> Any:
    """What a hook's wrapper returns, of a hook that returns or raises that."""
    next(steps)
    with pytest.raises(StopIteration) as ended:
        if error is not None:
            steps.throw(error)
        steps.send(result)
    return ended.value.value


# ---- the run ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "limit", "no_leaks", "all_of_them"),
    [
        ({}, None, False, False),
        ({"--nativemem": True}, None, False, True),
        ({"nativemem": True}, None, False, True),
        ({"--nativemem-report": "r.json"}, None, False, True),
        ({"--nativemem-budget": "1 KiB"}, 1024, False, True),
        ({"nativemem_budget": "2 KiB"}, 2048, False, True),
        ({"--nativemem-budget": "1 KiB", "nativemem_budget": "2 KiB"}, 1024, False, True),
        ({"nativemem_budget": ""}, None, False, False),
        ({"--nativemem-no-leaks": True}, None, True, True),
        ({"nativemem_no_leaks": True}, None, True, True),
        ({"--nativemem-top": 2}, None, False, False),
    ],
)
def test_options(world: World, given: dict[str, Any], limit: int | None, no_leaks: bool, all_of_them: bool) -> None:
    """PYT-5, PYT-6"""
    made = world.session(**given)
    assert (made.limit, bool(made.no_leaks), bool(made.all)) == (limit, no_leaks, all_of_them)
    assert made.report == given.get("--nativemem-report") and made.top == given.get("--nativemem-top", 5)
    assert (made._asked.limit, made._asked.repetitions) == (limit, (1, 3) if no_leaks else None)
    assert world.did() == []  # the engine waits for the first test


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"--nativemem-budget": "much"}, "nativemem: the budget takes bytes as an int"),
        ({"nativemem_budget": "0"}, "nativemem: the budget"),
        ({"--nativemem-report": "r.txt"}, "nativemem: --nativemem-report: takes a .json or .html file"),
    ],
)
def test_options_that_will_not_do(world: World, given: dict[str, Any], says: str) -> None:
    with pytest.raises(pytest.UsageError) as caught:
        world.session(**given)
    assert str(caught.value).startswith(says)


def test_the_engine_is_switched_on_once(world: World) -> None:
    """PYT-4: by the first test that asks; off again at the end where it was off before."""
    for was_on in (True, False):
        world.was_on, world.why = was_on, None
        made = world.session()
        assert made.on() is made.on() is True and world.did() == ["engine", "start 65536"]
        shared = made._shared.budget
        assert (shared.limit, shared.name, made._shared.on) == (SIZE_MAX, "fixtures of wider scope", True)
        made.pytest_unconfigure()
        assert world.did() == ["stop 65536"] + ["off"] * (not was_on)
        assert made.results.notes == {}
    world.why, world.was_on = "no core", False
    made = world.session()
    assert made.on() is made.on() is False and world.did() == ["engine"] and made._shared is None
    assert [*made.results.notes] == ["nothing is measured, bounded or repeated here: no core"]
    made.pytest_unconfigure()
    assert world.did() == []
    made = world.session()
    made._engine_on = True  # it does not know what was before
    made.pytest_unconfigure()
    assert world.did() == []


def test_the_end_of_a_run_of_tests(world: World, tmp_path: Any) -> None:
    """PYT-4: a report; what a worker of xdist could not do is told by its controller."""
    file = tmp_path / "r.json"
    made = world.session(**{"--nativemem-report": str(file)})
    made.pytest_sessionfinish(SimpleNamespace(config=SimpleNamespace()))
    assert file.read_text().startswith("{") and made.results.notes == {}
    file.unlink()
    made.results.note("a")
    worker: Any = SimpleNamespace(config=SimpleNamespace(workeroutput={}))
    made.pytest_sessionfinish(worker)
    assert worker.config.workeroutput == {"nativemem": ["a"]} and not file.exists()
    world.session().pytest_sessionfinish(SimpleNamespace(config=SimpleNamespace()))
    gone = world.session(**{"--nativemem-report": str(tmp_path / "no" / "r.json")})
    gone.pytest_sessionfinish(SimpleNamespace(config=SimpleNamespace()))
    (note,) = gone.results.notes
    assert note.startswith("the report was not written: ") and "No such file" in note
    controller = world.session()
    for node in (SimpleNamespace(), worker.config, SimpleNamespace(workeroutput={})):
        controller.pytest_testnodedown(node)
    assert [*controller.results.notes] == ["a"]


def test_what_stands_at_the_end(world: World) -> None:
    """PYT-4: so many of the heaviest as are asked for; nothing where there is nothing."""
    shown: list[str] = []
    terminal: Any = SimpleNamespace(section=lambda text: shown.append(f"= {text}"), write_line=shown.append)
    made = world.session(**{"--nativemem-top": 1})
    made.pytest_terminal_summary(terminal)
    assert shown == []
    for test, peak in (("a", 3), ("b", 5)):
        row = (test, 0.5, peak, None, 0, None, (), ())
        made.pytest_runtest_logreport(SimpleNamespace(nativemem=row, outcome="passed"))
    made.pytest_runtest_logreport(SimpleNamespace(outcome="passed"))
    made.pytest_terminal_summary(terminal)
    assert shown == ["= memory (nativemem)", "5 B  b"]
    assert [(each.test, each.outcome) for each in made.results.attempts] == [("a", "passed"), ("b", "passed")]


# ---- a test -------------------------------------------------------------------------------------------------


def marked(*args: Any, **more: Any) -> pytest.Mark:
    return pytest.mark.nativemem_budget(*args, **more).mark


def test_which_tests_are_charged(world: World) -> None:
    """PYT-5: those with a marker, or all; each attempt anew."""
    key = session._CHARGE
    made, everything = world.session(), world.session(**{"--nativemem-budget": "1 MiB"})
    plain, own = Item(), Item(marked("2 MiB"), nodeid="own")
    made.pytest_runtest_setup(own)
    first = own.stash[key]
    assert made._current is first and (first.test, first.budget.limit, first.on) == ("own", 2 * MIB, True)
    made.pytest_runtest_setup(own)
    assert made._current is own.stash[key] is not first
    plain.stash[key] = first  # of an attempt that ended early
    made.pytest_runtest_setup(plain)
    assert made._current is None and key not in plain.stash
    for item, limit in ((plain, MIB), (own, 2 * MIB)):
        everything.pytest_runtest_setup(item)
        assert item.stash[key].budget.limit == limit and everything._current is item.stash[key]
    wrong = Item(marked("much"))
    with pytest.raises(pytest.fail.Exception, match="^nativemem: nativemem_budget: the limit") as failed:
        made.pytest_runtest_setup(wrong)
    assert failed.value.pytrace is False and key not in wrong.stash


def test_a_charge_for_the_next_test(world: World) -> None:
    """PYT-5: that of a test without a marker is used again, once, where its budget will do."""
    key = session._CHARGE
    made = world.session(**{"--nativemem": True})

    def report(when: str, **more: Any) -> Any:
        return SimpleNamespace(**{"when": when, "passed": True, "failed": False, "duration": 1.0, **more})

    def teardown(item: Item) -> None:
        found = report("teardown")
        assert drive(made.pytest_runtest_makereport(item, found), found) is found
        assert key not in item.stash and not hasattr(found, "nativemem")

    items = [Item(nodeid=name) for name in "abcd"]
    made.pytest_runtest_setup(items[0])
    first = items[0].stash[key]
    teardown(items[0])
    own = Item(marked("1 MiB"), nodeid="own")
    made.pytest_runtest_setup(own)
    assert own.stash[key] is not first
    teardown(own)  # which is none for others
    made.pytest_runtest_setup(items[1])
    assert items[1].stash[key] is first and first.test == "b"
    made.pytest_runtest_setup(items[2])
    assert items[2].stash[key] is not first  # it is in use
    teardown(items[1])
    first.budget.renews = False
    made.pytest_runtest_setup(items[3])
    assert items[3].stash[key] is not first and made._spare is None


def test_a_charge_that_a_test_is_given(world: World) -> None:
    """PYT-2: that of its attempt, which is then no other's; made for it where it would have none."""
    made = world.session()
    item = Item(nodeid="x")
    lent = made.charge_of(item)
    assert lent.lent is True and made.charge_of(item) is lent and (lent.test, lent.budget.limit) == ("x", SIZE_MAX)
    own = Item(marked("1 MiB"))
    made.pytest_runtest_setup(own)
    assert own.stash[session._CHARGE].lent is False
    assert made.charge_of(own) is own.stash[session._CHARGE] and made.charge_of(own).lent is True
    assert made.charge_of(Item(marked("3 MiB"))).budget.limit == 3 * MIB


@pytest.mark.parametrize("fails", [False, True])
def test_fixtures(world: World, fails: bool) -> None:
    """PYT-1: those of a function are the test's; others are charged to none."""
    made = world.session(**{"--nativemem": True})
    error = KeyError("x") if fails else None

    def set_up(scope: str) -> None:
        steps = made.pytest_fixture_setup(SimpleNamespace(scope=scope))
        if error is None:
            assert drive(steps, 5) == 5
        else:
            next(steps)
            with pytest.raises(KeyError) as raised:
                steps.throw(error)
            assert raised.value is error

    set_up("function")  # before any test
    made.pytest_runtest_setup(Item())
    own, shared = made._current.budget.log, made._shared.budget.log
    set_up("function")
    assert (own, shared) == (["in", error], [])
    for times, scope in enumerate(("class", "module", "package", "session"), 1):
        set_up(scope)
        assert (own, shared) == (["in", error], ["in", error] * times)
    made._current.on = False
    set_up("function")
    assert len(own) == 2


class Judged:
    """A charge that says what is done with it."""

    def __init__(self, log: list[Any], on: bool = True, problems: tuple[str, ...] = (), **asked: Any) -> None:
        self.log, self.on, self.problems = log, on, problems
        self.asked: Any = SimpleNamespace(**{"owners": {}, "repetitions": None, "oom": None, **asked})
        self.details: tuple[str, ...] = ()

    def enter(self) -> None:
        self.log.append("in")

    def leave(self, error: Any) -> None:
        self.log.append(error)

    def bind_owners(self) -> None:
        self.log.append("bound")

    def judge(self) -> None:
        self.log.append("judged")

    def grew(self, found: Growth) -> None:
        self.log.append(found)

    def text(self) -> str:
        return "\n".join(self.problems)

    def budget(self, function: Any) -> Any:
        return ("charged", function)

    def row(self, seconds: float) -> Any:
        return ("row", seconds)


def calls(
    made: Any, charged: Any, *, error: BaseException | None = None, **more: Any
) -> tuple[Any, list[Any], Any]:
    """What a test's call returns, what was done for it, and the test."""
    item = Item(**more)
    if charged is not None:
        item.stash[session._CHARGE] = charged
    return drive(made.pytest_runtest_call(item), "result", error), getattr(charged, "log", []), item


def test_a_call(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """PYT-1: charged, then judged, whatever came of it; a problem fails a test that has passed."""
    made = world.session()
    log: list[Any] = []
    assert calls(made, None)[0] == "result" and made._current is None
    charged = Judged(log)
    assert calls(made, charged)[:2] == ("result", ["in", None, "judged"]) and made._current is charged
    log.clear()
    assert calls(made, Judged(log, owners={"a": 1}))[1] == ["bound", "in", None, "judged"]
    log.clear()
    error = KeyError("x")
    with pytest.raises(KeyError) as raised:
        calls(made, Judged(log, problems=("over",)), error=error)
    assert raised.value is error and log == ["in", error, "judged"]
    with pytest.raises(KeyError):
        calls(made, None, error=KeyError("y"))
    with pytest.raises(pytest.fail.Exception, match="^over$") as failed:
        calls(made, Judged(log, problems=("over",)))
    assert failed.value.pytrace is False
    assert calls(made, Judged(log, problems=("over",)), _excinfo=["error"])[0] == "result"


@pytest.mark.parametrize("fails", [False, True])
def test_a_call_of_a_coroutine(world: World, fails: bool) -> None:
    """PYT-4: each of its steps is charged, and it is the test's own again."""

    async def function() -> None: ...

    def plain() -> None: ...

    for obj, on, seen in (
        (function, True, ("charged", function)), (function, False, function), (plain, True, plain)
    ):  # fmt: skip
        item = Item(obj=obj)
        item.stash[session._CHARGE] = Judged([], on)  # type: ignore[misc]
        steps = world.session().pytest_runtest_call(item)
        next(steps)
        assert item.obj == seen
        with pytest.raises(KeyError if fails else StopIteration):
            steps.throw(KeyError()) if fails else steps.send(None)
        assert item.obj is obj


def test_a_call_that_is_repeated_or_refused_memory(world: World) -> None:
    """PYT-2, PYT-3: after the call, and not of a test that has failed."""
    made = world.session()
    log: list[Any] = []

    def repeated(item: Any, charged: Any, counts: Any) -> Generator[None, Any, Any]:
        log.append(counts)
        yield
        return "repeated"

    def refused(function: Any, **options: Any) -> None:
        log.append((function(), options))

    made._repeated, made.refused = repeated, refused
    assert calls(made, Judged(log, repetitions=(2, 5)))[:2] == ("repeated", [(2, 5), "judged"])
    log.clear()
    assert calls(made, Judged(log, on=False, repetitions=(2, 5)))[1] == ["in", None, "judged"]
    log.clear()
    wanted = {"oom": {"nth": 3, "leaks": True}}
    assert calls(made, Judged(log, **wanted), runtest=lambda: None)[1] == [
        "in", None, (None, {"nth": 3, "leaks": True}), "judged"
    ]  # fmt: skip
    log.clear()
    assert calls(made, Judged(log, **wanted), _excinfo=["error"])[1] == ["in", None, "judged"]


def test_repetitions(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """PYT-3: the first within pytest's call, each other measured before it; one that fails is the last."""
    made = world.session()
    log: list[Any] = []
    grown = Growth(1.0, (1.0,), (), 1, 3)

    class Repetitions:
        total = 4

        def before(self, done: int) -> None:
            log.append(done)

        def end(self) -> Growth:
            log.append("end")
            return grown

    measured: Any = Repetitions()
    made._begin_repetitions = lambda *counts: log.append(counts) or measured
    made._end_repetitions = lambda it: log.append("over" if it is measured else it)
    made._forget_output = lambda: log.append("forget")

    def run(fails_at: int | None = None, error: BaseException | None = None) -> list[Any]:
        log.clear()
        item: Any = Item(_excinfo=None)

        def again(of: Any, charged: Any, done: int, total: int) -> None:
            assert of is item and total == 4 and charged is one
            log.append(f"again {done}")
            if done == fails_at:
                item._excinfo = ["error"]

        made._again = again
        one: Any = Judged(log)
        steps = made._repeated(item, one, (1, 3))
        next(steps)
        if fails_at == 0:
            item._excinfo = ["error"]
        with pytest.raises((StopIteration, KeyError)) as ended:
            steps.throw(error) if error is not None else steps.send("result")
        if error is None:
            assert ended.value.value == "result"  # type: ignore[union-attr]
        return list(log)

    def again(n: int) -> list[Any]:
        return ["forget", n, f"again {n}"]

    start = [(1, 3), 0, "in", None]
    assert run() == [*start, *again(1), *again(2), *again(3), "end", grown, "over"]
    assert run(fails_at=0) == [*start, "over"]
    assert run(fails_at=1) == [*start, *again(1), "over"]
    assert run(fails_at=3) == [*start, *again(1), *again(2), *again(3), "over"]
    error = KeyError("x")
    assert run(error=error) == [(1, 3), 0, "in", error, "over"]
    measured = None
    assert run() == [(1, 3), "in", None]


def test_output_of_a_repetition_is_dropped(world: World) -> None:
    """PYT-3: what pytest keeps of logs and output would grow each time."""
    log: list[str] = []

    def handler(name: str) -> Any:
        return SimpleNamespace(clear=lambda: log.append(name))

    logs = SimpleNamespace(caplog_handler=handler("caplog"), report_handler=handler("report"))
    captures = [True]
    capture = SimpleNamespace(
        is_globally_capturing=lambda: captures[0], read_global_capture=lambda: log.append("capture")
    )
    for plugins, capturing, did in (
        ({"logging-plugin": logs, "capturemanager": capture}, True, ["caplog", "report", "capture"]),
        ({"logging-plugin": logs, "capturemanager": capture}, False, ["caplog", "report"]),
        ({"logging-plugin": SimpleNamespace(report_handler=handler("report"))}, True, ["report"]),
        ({"capturemanager": capture}, True, ["capture"]),
        ({}, True, []),
    ):
        captures[0] = capturing
        world.session(plugins)._forget_output()
        assert log == did
        log.clear()


def test_a_repetition_with_warnings(world: World) -> None:
    """PYT-3: the run keeps no warning of it; it is charged like the first."""
    made = world.session()
    log: list[Any] = []
    item: Any = SimpleNamespace(runtest=lambda: warnings.warn("w", stacklevel=1))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        made._again(item, Judged(log), 1, 4)
    assert seen == [] and log == ["in", None]


def test_reports(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """PYT-4: a row with each report of a call, and of a set-up that failed; the why where one failed."""
    explained: list[Any] = []
    monkeypatch.setattr(session, "_explain", lambda report, charged: explained.append((report, charged)))
    made = world.session()

    def reported(when: str, failed: bool, charged: Any = None) -> tuple[Any, list[Any]]:
        report = SimpleNamespace(passed=not failed, failed=failed, duration=0.5)
        item = Item()
        if charged is not None:
            item.stash[session._CHARGE] = charged
        call: Any = SimpleNamespace(when=when)
        assert drive(made.pytest_runtest_makereport(item, call), report) is report
        found, explained[:] = list(explained), []
        assert all(pair == (report, charged) for pair in found)
        return getattr(report, "nativemem", None), [*found, *getattr(charged, "log", [])]

    row = ("row", 0.5)
    for when in ("setup", "call", "teardown"):
        assert reported(when, True) == (None, [])
    assert reported("setup", False, Judged([])) == (None, [])
    one = Judged([])
    found, did = reported("setup", True, one)
    assert found == row and len(did) == 2 and did[1] == "judged"
    assert reported("call", False, Judged([])) == (row, [])
    found, did = reported("call", True, Judged([]))
    assert found == row and len(did) == 1
