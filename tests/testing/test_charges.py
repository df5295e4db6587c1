"""What markers ask of a test and what an attempt is charged with, part by part: no test is run here."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import pytest

import nativemem
from nativemem.errors import ConfigError
from nativemem.sizes import SIZE_MAX
from nativemem.testing import charge, session
from nativemem.testing.asked import Asked, is_marked, size_of
from nativemem.testing.charge import Charge, Scope
from nativemem.testing.repetitions import Growth
from nativemem.testing.trace import Place

MIB = 1 << 20


class Item:
    """A test as far as its markers are asked for: the nearest first."""

    def __init__(self, *marks: pytest.Mark, params: Any = None, parent: Item | None = None) -> None:
        self.own_markers, self.parent = list(marks), parent
        if params is not None:
            self.callspec = SimpleNamespace(params=params)

    def iter_markers(self, name: str) -> Any:
        return (mark for mark in self.own_markers if mark.name == name)

    def get_closest_marker(self, name: str) -> Any:
        return next(self.iter_markers(name), None)


def budget(*args: Any, **more: Any) -> pytest.Mark:
    return pytest.mark.nativemem_budget(*args, **more).mark


def no_leaks(*args: Any, **more: Any) -> pytest.Mark:
    return pytest.mark.nativemem_no_leaks(*args, **more).mark


def oom(*args: Any, **more: Any) -> pytest.Mark:
    return pytest.mark.nativemem_oom(*args, **more).mark


def asked(*marks: pytest.Mark, limit: int | None = None, all_leaks: bool = False, **more: Any) -> Asked:
    item: Any = Item(*marks, **more)
    return Asked.of(item, limit, all_leaks)


def test_whether_it_is_marked() -> None:
    other = pytest.mark.slow.mark
    for marks, parents, marked in (
        ((), (), False), ((other,), (other,), False), ((other, budget(1)), (), True), ((), (no_leaks(),), True),
        ((oom(),), (), True),
    ):  # fmt: skip
        item: Any = Item(*marks, parent=Item(*parents, parent=Item()))
        assert is_marked(item) is marked


def test_what_markers_ask_for() -> None:
    """PYT-1, PYT-2: the nearest of each kind, else what the run asks for."""
    plain = asked(limit=5, all_leaks=True)
    assert (plain.limit, plain.marked, plain.owners, plain.repetitions, plain.oom) == (5, False, {}, (1, 3), None)
    assert asked().limit is asked().repetitions is None
    near = asked(budget("1 MiB"), budget("2 MiB"), budget(7, "a"), budget(8, owner="a"), budget(None, "b"), limit=5)
    assert (near.limit, near.marked, near.owners) == (MIB, True, {"a": 7, "b": None})
    assert asked(budget(None), limit=5).limit is None and asked(budget(7, "a"), limit=5).marked is False
    assert asked(budget(lambda n: n * 2), params={"n": 21, "m": 1}).limit == 42
    assert asked(no_leaks()).repetitions == (1, 3) and asked(no_leaks(0, 9), no_leaks(5)).repetitions == (0, 9)
    assert asked(no_leaks(repeat=0), all_leaks=True).repetitions is None
    assert asked(oom()).oom == {"nth": None} and asked(oom(4)).oom == {"nth": 4}
    assert asked(oom(nth=4, sweep=False, leaks=True)).oom == {"nth": 4, "leaks": True}


@pytest.mark.parametrize(
    ("mark", "says"),
    [
        (budget(), "nativemem_budget: missing a required argument: 'limit'"),
        (budget(0), "nativemem_budget: the limit"),
        (budget(1, 3), "nativemem_budget: the owner is the name of a budget, not 3"),
        (budget(lambda n: n), "nativemem_budget: the limit takes 'n', and the test has no parameter of that name"),
        (no_leaks(1, 2, 3), "nativemem_no_leaks: too many positional arguments"),
        (no_leaks(repeat=False), "growth.repeat: takes a whole number, 1 to 1000000, not False"),
        (no_leaks(-1), "growth.warmup: takes a whole number, 0 to 1000000, not -1"),
        (oom(sweep=False), "nativemem_oom: takes nth=..., the allocation to refuse, or sweep=True, each of them"),
        (oom(sweep=1), "nativemem_oom: takes nth=..."),
    ],
)
def test_markers_with_values_that_will_not_do(mark: pytest.Mark, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        asked(mark)
    assert str(caught.value).startswith(says)


def test_sizes_of_limits() -> None:
    assert size_of(None, "x") is None and size_of("1 KiB", "x") == 1024 and size_of(1, "x") == 1
    with pytest.raises(ConfigError, match=r"^x\b"):
        size_of(0, "x")


class Met:
    """A budget as far as it is charged here."""

    def __init__(self, name: str, limit: int = 100, **more: Any) -> None:
        self.name, self.limit, self.denied, self.peak = name, limit, 0, 0
        self.last_denial: Any = None
        self.entered: list[Any] = []
        self._core = SimpleNamespace(numbers=lambda: (0, 70, self.limit, self.denied), renew=lambda *_: True)
        self.__dict__.update(more)

    def __enter__(self) -> None:
        self.entered.append("in")

    def __exit__(self, *error: object) -> None:
        self.entered.append(error)


@pytest.fixture
def met(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Met]]:
    """Budgets by name; those of attempts are as simple."""
    found: dict[str, list[Met]] = {}
    monkeypatch.setattr(charge, "new_budget", lambda limit, name: Met(name, limit))
    monkeypatch.setattr(charge, "_named", lambda name: found.get(name, []))
    return found


def test_a_scope() -> None:
    error = KeyError()
    for on, entered in ((False, []), (True, ["in", (None, None, None), (KeyError, error, None)])):
        made: Any = Met("a")
        scope = Scope(made, on)
        if on:
            scope.enter()
        scope.leave(None)
        scope.leave(error)
        assert made.entered == entered


def test_an_attempt(met: dict[str, list[Met]]) -> None:
    """PYT-3: figures, its row, and anew with the next test."""
    made = Charge("t", asked(budget(100)), True)
    it: Any = made.budget
    assert (it.name, it.limit, made.lent) == ("t", 100, False) and made.judge() is None
    assert made.row(0.12345678) == ("t", 0.123457, 70, 100, 0, None, (), ()) and made.text() == ""
    it.denied = 2
    it.last_denial = SimpleNamespace(requested=2048, used=1024)
    assert made.judge() == "t" and made.denied == 2
    line = "nativemem: over the test's budget of 100 B: 2.0 KiB were asked for with 1.0 KiB in use"
    assert made.problems == (line,) and made.text() == line
    made.remark, made.details = "why", ("  at",)
    assert made.text() == f"why\n{line}\n  at"
    asked_for: list[Any] = []
    it._core.renew = lambda *given: asked_for.append(given) or answer
    for answer, on, lent, renewed in (  # noqa: B007 (renew reads it)
        (True, True, False, True), (False, True, False, False), (True, False, False, False),
        (True, True, True, False),
    ):  # fmt: skip
        made.on, made.lent = on, lent
        made.problems = ("x",)
        assert made.renew("next") is renewed and (made.problems == ()) is renewed
    assert asked_for == [("next", 256 << 10)] * 2 and (made.test, it._name, made.peak) == ("next", "next", None)
    free = Charge("t", asked(), True)
    assert free.budget.limit == SIZE_MAX and free.judge() is None and free.limit is None and free.peak == 70
    off = Charge("t", asked(), False)
    assert off.judge() is None and off.row(2) == ("t", 2, None, None, 0, None, (), ())


def test_growth_of_an_attempt(met: dict[str, list[Met]]) -> None:
    made = Charge("t", asked(), True)
    made.grew(Growth(0.0, (), (), 1, 3))
    assert (made.growth, made.problems) == (0.0, ())
    place = Place(100, 1, ("a.py:1 in f", "b"))
    made.grew(Growth(100.0, (100.0,), (place,), 1, 3))
    assert made.growth == 100.0 and made.places == (place,)
    (line,) = made.problems
    assert line == "nativemem: the test grows by 100 B a repetition (3 repetitions after 1 to warm up: +100 B)"
    assert made.details[0] == "  100 B in 1 block: a.py:1 in f"
    assert made.row(1)[-1] == ((100, 1, ("a.py:1 in f", "b")),)


def test_owners_that_a_marker_bounds(met: dict[str, list[Met]]) -> None:
    """PYT-2: while the test runs, by the lower of two limits; those made since by what they used."""
    low, high = Met("a", 50, denied=1), Met("a", 500)
    met["a"], met["c"] = [low, high], [Met("c")]
    made = Charge("t", asked(budget(60, "a"), budget(None, "c"), budget(9, "b")), True)
    made.bind_owners()
    assert (low.limit, high.limit, met["c"][0].limit) == (50, 60, 100)
    it: Any = made.budget
    assert it.limit == 9  # nothing has the name b, so the test is charged under it
    low.denied += 1
    it.denied = 1
    since = Met("b", peak=10)
    met["b"] = [since, Met("b", peak=9)]
    met["a"].append(Met("a", peak=60))
    assert made.judge() == "t"
    assert made.problems == (
        "nativemem: over the budget 'b' of 9 B: 0 B were in use at the peak",
        "nativemem: over the budget 'a' of 50 B: 0 B were in use at the peak",
        "nativemem: over the budget 'b' of 9 B: 10 B were in use at the peak",
    )
    assert (low.limit, high.limit) == (50, 500)
    assert made.judge() == "t" and made.problems[0].startswith("nativemem: over the budget 'b'")
    assert "'a'" not in made.problems[0] + made.problems[1]  # which is bounded no more
    before = Met("d", 500, peak=400)  # it was above the limit before the test
    met["d"] = [before]
    late = Charge("t", asked(budget(60, "d")), True)
    late.bind_owners()
    assert before.limit == 60 and late.judge() is None and before.limit == 500
    also = Charge("t", asked(budget(70), budget(60, "gone")), True)
    also.bind_owners()
    assert also.budget.limit == 70


@pytest.mark.parametrize("made", [charge.new_budget, nativemem.Budget])
def test_a_budget_without_warnings(made: Any) -> None:
    """PYT-2: what a test may use it may use, to the last byte."""
    it = made(1000, "a budget of a test")
    assert isinstance(it, nativemem.Budget) and (it.limit, it.name) == (1000, "a budget of a test")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with it.reserve(1000):
            assert it.used == 1000
    assert len(seen) == (made is nativemem.Budget)


def test_budgets_by_name() -> None:
    one = nativemem.Budget(10, name="some name of its own")
    assert charge._named("some name of its own") == [one] and charge._named("none of this name") == []


# ---- what a run does with it --------------------------------------------------------------------------------


def test_why_there_is_no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(error: Exception) -> Any:
        def install() -> bool:
            raise error

        return install

    for install, why in (
        (lambda: True, None), (lambda: False, "NATIVEMEM_DISABLE=1 is set"),
        (raises(MemoryError("no room")), "no room"),
        (raises(session.NativeUnavailable("declined")), "declined"),
    ):  # fmt: skip
        monkeypatch.setattr(session, "install", install)
        assert session._engine() == why


def test_a_test_as_a_function() -> None:
    """PYT-5: with its fixtures; a method of unittest's and a coroutine function as pytest runs them."""
    calls: list[Any] = []

    async def coroutine() -> None: ...

    def item(**more: Any) -> Any:
        return SimpleNamespace(**{"runtest": lambda: calls.append("run"), "_excinfo": None, **more})

    info = SimpleNamespace(argnames=("a",))
    plain = item(obj=lambda a: calls.append(a), _fixtureinfo=info, funcargs={"a": 1, "b": 2})
    session._body(plain)()
    assert calls == [1]
    others = ({"obj": coroutine, "_fixtureinfo": info}, {"obj": print, "_fixtureinfo": info, "addError": 1})
    for other in (item(**more) for more in (*others, {"obj": None}, {"obj": print})):
        session._body(other)()
    assert calls == [1, "run", "run", "run", "run"]
    failed = item(_excinfo=[SimpleNamespace(value=KeyError("x"))])
    assert (
        session._failed(failed) is True and session._failed(item()) is session._failed(SimpleNamespace()) is False
    )
    with pytest.raises(KeyError):
        session._body(failed)()


def test_subtests_of_a_repetition() -> None:
    """Those count that fail."""
    added: list[Any] = []
    for item in (SimpleNamespace(), SimpleNamespace(addSubTest=1)):
        with session._without_subtests(item):
            assert getattr(item, "addSubTest", 1) == 1

    class Case:
        def addError(self) -> None: ...

        def addSubTest(self, *given: Any) -> None:
            added.append(given)

    case = Case()
    with session._without_subtests(case):
        case.addSubTest(1, 2, None)
        case.addSubTest(1, 2, "error")
    case.addSubTest(4)
    assert added == [(1, 2, "error"), (4,)]


def test_steps_of_a_coroutine() -> None:
    made: Any = SimpleNamespace(budget=lambda function: ("charged", function))
    item = SimpleNamespace(obj="f", name="test_x")
    steps = session._Steps(item, made)
    assert item.obj == ("charged", "f")
    steps.end()
    assert item.obj == "f"
    case = SimpleNamespace(obj="f", name="test_x", instance=SimpleNamespace(), addError=1)
    steps = session._Steps(case, made)
    assert case.instance.test_x == ("charged", "f") and case.obj == "f"
    steps.end()
    assert vars(case.instance) == {}


def test_what_explains_a_failure() -> None:
    """PYT-4: the budget line once, in place of a MemoryError's own words."""

    def explained(text: str, problems: tuple[str, ...], said: str, message: str) -> tuple[list[Any], str]:
        crash = SimpleNamespace(message=message)
        report = SimpleNamespace(longreprtext=said, sections=[], longrepr=SimpleNamespace(reprcrash=crash))
        made: Any = SimpleNamespace(text=lambda: text, problems=problems)
        session._explain(report, made)
        return report.sections, crash.message

    section = [("memory (nativemem)", "over")]
    assert explained("over", ("line",), "other", "MemoryError: x") == (section, "MemoryError: line")
    assert explained("over", ("line",), "is over it", "MemoryError") == ([], "MemoryError: line")
    assert explained("over", (), "other", "MemoryError: x") == (section, "MemoryError: x")
    assert explained("over", ("line",), "other", "KeyError: x") == (section, "KeyError: x")
    assert explained("", ("line",), "other", "MemoryError: x") == ([], "MemoryError: x")
    bare: Any = SimpleNamespace(longreprtext="", sections=[], longrepr="text")
    with_text: Any = SimpleNamespace(text=lambda: "over", problems=("line",))
    session._explain(bare, with_text)
    assert bare.sections == section


def test_a_generator_that_is_charged() -> None:
    seen: list[Any] = []
    made: Any = SimpleNamespace(enter=lambda: seen.append("in"), leave=seen.append)
    steps = session._charged(made)
    next(steps)
    with pytest.raises(StopIteration) as ended:
        steps.send(7)
    assert ended.value.value == 7 and seen == ["in", None]
    steps, error = session._charged(made), KeyError()
    next(steps)
    with pytest.raises(KeyError):
        steps.throw(error)
    assert seen == ["in", None, "in", error]


def test_where_a_problem_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """PYT-4: five places that are live, else of all; the line that was refused first."""
    made: Any = session.Session.__new__(session.Session)
    asked_for: list[Any] = []
    place = Place(1, 1, ("a.py:1 in f",))

    def places(recording: Any, part: str, count: int, owner: str) -> list[Place]:
        asked_for.append((recording, part, count, owner))
        return [place] if part in live else []

    monkeypatch.setattr(session, "places_of", places)
    for live, at, parts, details in (  # noqa: B007 (places reads it)
        (("live", "total"), "b.py:2", ["live"], ("  refused at b.py:2", "  1 B in 1 block: a.py:1 in f")),
        (("total",), None, ["live", "total"], ("  1 B in 1 block: a.py:1 in f",)),
    ):
        monkeypatch.setattr(session, "refused_at", lambda recording, owner, at=at: at)
        made._trace = SimpleNamespace(recording="recording")
        it: Any = SimpleNamespace(judge=lambda: "owner", places=(), details=())
        made._judge(it)
        assert it.places == (place,) and it.details == details
        assert asked_for == [("recording", part, 5, "owner") for part in parts]
        asked_for.clear()
    nothing, something = SimpleNamespace(recording=None), SimpleNamespace(recording=1)
    for trace, owner in ((None, "owner"), (nothing, "owner"), (something, None)):
        made._trace = trace
        it = SimpleNamespace(judge=lambda owner=owner: owner, places=())
        made._judge(it)
        assert it.places == () and asked_for == []


# ---- the trace of a run, and what stands in its place meanwhile ---------------------------------------------


class Run:
    """A session as far as its traces go; ``log`` has what they did, by name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails: bool = False, on: bool = True) -> None:
        self.log: list[str] = []
        run = self

        class Trace:
            def __init__(self, rate: int = 1) -> None:
                self.rate, self.exact, self.recording = rate, rate == 1, None

            def start(self) -> Any:
                run.log.append(f"start {self.rate}")
                if fails:
                    raise session.NativeMemError("another runs")
                return self

            def stop(self) -> None:
                run.log.append(f"stop {self.rate}")

        monkeypatch.setattr(session, "Trace", Trace)
        monkeypatch.setattr("nativemem.testing.repetitions.Trace", Trace)
        self.session: Any = session.Session.__new__(session.Session)
        self.session._trace, self.session._engine_on, self.session.results = Trace(65536), on, session.Results()
        self.session.on = lambda: on
        self.class_ = Trace

    def did(self) -> list[str]:
        log, self.log[:] = list(self.log), []
        return log


def test_repetitions_have_a_trace_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """PYT-3: in place of the run's, which begins anew after them; that of the test, where it has one."""
    run = Run(monkeypatch)
    made = run.session._begin_repetitions(2, 3)
    assert run.did() == ["stop 65536", "start 1"] and run.session._trace is made.trace and made.own
    assert (made.warmup, made.repeat) == (2, 3)
    run.session._end_repetitions(made)
    assert run.did() == ["stop 1", "start 65536"] and run.session._trace.rate == 65536
    exact = run.session._trace = run.class_()
    made = run.session._begin_repetitions(1, 3)
    run.session._end_repetitions(made)
    assert run.did() == [] and made.trace is exact is run.session._trace and not made.own
    run = Run(monkeypatch, fails=True)
    assert run.session._begin_repetitions(1, 3) is None and run.did() == ["stop 65536", "start 1"]
    assert [*run.session.results.notes] == ["no test is repeated: another runs"]


def test_a_trace_for_a_test(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch)
    with run.session.traced() as trace:
        assert run.did() == ["stop 65536", "start 1"] and run.session._trace is trace
    assert run.did() == ["stop 1", "start 65536"]
    run = Run(monkeypatch, on=False)
    with run.session.traced() as trace:
        assert trace.rate == 1 and run.did() == []
    run = Run(monkeypatch, fails=True)
    with run.session.traced():
        assert [*run.session.results.notes] == ["nothing is traced: another runs"]
    assert [*run.session.results.notes][1:] == ["places in the code are not known: another runs"]


@pytest.mark.parametrize("on", [True, False])
def test_a_sweep_in_a_test(monkeypatch: pytest.MonkeyPatch, on: bool) -> None:
    """PYT-5: without the run's trace, whose allocations would be those of the function."""
    from nativemem.testing import injection

    run, findings = Run(monkeypatch, on=on), list[Any]()
    found: Any = []

    def sweep(function: Any, **options: Any) -> Any:
        findings.append((function, options, run.did()))
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(injection, "sweep", sweep)
    assert run.session.refused(int, nth=3) is found
    assert findings == [(int, {"nth": 3}, ["stop 65536"])] and run.did() == ["start 65536"] * on
    found = session.NativeUnavailable("no core")
    assert run.session.refused(int) is None
    assert [*run.session.results.notes] == ["no allocation is refused: no core"]
    found = ["a finding"]
    with pytest.raises(pytest.fail.Exception, match=r"nativemem: \['a finding'\]") as failed:
        run.session.refused(int)
    assert failed.value.pytrace is False


def test_the_end_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine is switched off where the run has switched it on."""
    off: list[int] = []
    monkeypatch.setattr(session, "uninstall", lambda: off.append(1))
    for on, was_on, times in ((True, False, 1), (True, True, 0), (False, False, 0), (None, True, 0)):
        run = Run(monkeypatch)
        run.session._engine_on, run.session._was_on = on, was_on
        run.session.pytest_unconfigure()
        assert run.did() == ["stop 65536"] and len(off) == times and run.session._trace is None
        off.clear()


def test_a_repetition_that_fails() -> None:
    """PYT-3: its error comes out, once the charge has ended, with a line about which it was."""
    made: Any = session.Session.__new__(session.Session)
    log: list[Any] = []
    it: Any = SimpleNamespace(enter=lambda: log.append("in"), leave=log.append, remark="")
    error = KeyError("x")

    def runtest() -> None:
        if fails:
            raise error

    item: Any = SimpleNamespace(runtest=runtest, instance=SimpleNamespace(_asyncioRunner="closed"))
    fails = False
    made._again(item, it, 1, 4)
    assert log == ["in", None] and it.remark == "" and item.instance._asyncioRunner is None
    fails = True
    with pytest.raises(KeyError):
        made._again(item, it, 2, 4)
    assert log[2:] == ["in", error]
    assert it.remark == "nativemem: this was repetition 3 of 4; the first one passed"
