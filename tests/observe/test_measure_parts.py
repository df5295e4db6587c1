"""OBS-2: what a block took, of sources whose figures are known: the engine, tracemalloc, a scope."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from nativemem.backends.binding import Binding
from nativemem.facades import load
from nativemem.observe import measure as module
from nativemem.observe.measure import Measure, measure
from nativemem.observe.snapshot import snapshot
from nativemem.sizes import SIZE_MAX

MIB = 1 << 20


class Engine:
    """A core of the engine: what it holds, its peak since that was taken, blocks, denials."""

    def __init__(self) -> None:
        self.used, self.top, self.refused = 1000, 5000, 7
        self.sizes = [(16, 3), (32, 4)]
        self.state = (True, False, False)
        self.taken = 0

    def engine_budget(self) -> tuple[int, int, int, int]:
        return self.used, 1 << 40, 1 << 41, self.refused

    def engine_account(self) -> tuple[list[tuple[int, int]], int]:
        return self.sizes, 99

    def engine_take_peak(self) -> int:
        self.taken += 1
        top, self.top = self.top, self.used
        return top

    def engine_state(self) -> tuple[bool, bool, bool]:
        return self.state


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    made = Engine()
    monkeypatch.setattr(module, "started_core", lambda: made)
    return made


def test_the_engine_in_a_block(engine: Engine) -> None:
    with measure("process") as taken:
        assert (taken.sees, taken.delta, taken.peak, taken.count, taken.denials) == ("engine", 0, 0, 0, 0)
        engine.used, engine.top, engine.refused = 1600, 2500, 9
        engine.sizes = [(16, 5), (32, 4), (64, 10)]
        assert (taken.delta, taken.peak, taken.count, taken.denials) == (600, 1500, 12, 2)
        engine.used, engine.top = 900, 1600
    engine.used, engine.top, engine.refused, engine.sizes = 8000, 9000, 50, []
    assert (taken.delta, taken.peak, taken.count, taken.denials) == (-100, 1500, 12, 2)
    assert str(taken).endswith(" s, -100 B more, at most 1.5 KiB, 12 blocks, 2 denials")
    assert repr(taken) == f"<Measure by engine: {taken}>"
    assert module._open == {}, "nothing is kept of a window that is closed"


def test_a_peak_of_the_end_counts(engine: Engine) -> None:
    """What is in use at the end was in use, whatever the peak says that was read before."""
    with measure("process") as taken:
        engine.used, engine.top = 1700, 1200
    assert (taken.delta, taken.peak) == (700, 700)


def test_the_peak_is_of_the_block_alone(engine: Engine) -> None:
    """What was before its beginning is not in it; that of the block around is not lost by one within."""
    with measure("process") as outer:
        assert engine.taken == 1 and outer.peak == 0
        engine.top = 3000
        with measure("process") as inner:
            assert (inner.peak, outer.peak) == (0, 2000)
        engine.top = 2500
        outer.reset_peak()
        assert (outer.delta, outer.peak) == (0, 0)
        engine.top = 1400
    outer.reset_peak()  # it is closed
    assert (inner.peak, outer.peak) == (0, 400)


@pytest.mark.parametrize("state", [(False, False, True), (False, True, False), (True, False, False)])
def test_whatever_the_engine_serves(engine: Engine, state: tuple[bool, bool, bool]) -> None:
    """The process is measured by it; a block by a scope, which objects and arrays alone are charged to."""
    engine.state = state
    with measure("process") as taken:
        pass
    assert taken.sees == "engine"
    assert module._scopes_work() is any(state[:2])


def test_an_engine_that_serves_nothing_is_none(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.state = (False, False, False)
    monkeypatch.delitem(sys.modules, "tracemalloc", raising=False)
    assert module._process() is None and module._scopes_work() is False
    with measure() as blind:
        pass
    assert (blind.sees, blind.delta, blind.peak, blind.count, blind.denials) == ("nothing", *[None] * 4)
    blind.reset_peak()
    assert str(blind) == f"{blind.seconds:.3f} s; nothing counts what the process takes: call nativemem.install()"
    monkeypatch.setattr(module, "started_core", lambda: None)
    assert module._process() is None and module._scopes_work() is False


def test_tracemalloc_in_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it traces: it knows neither blocks nor refusals."""
    traced = SimpleNamespace(is_tracing=lambda: False, reset=0, now=(100, 900))
    traced.get_traced_memory = lambda: traced.now
    traced.reset_peak = lambda: setattr(traced, "reset", traced.reset + 1)
    monkeypatch.setattr(module, "started_core", lambda: None)
    monkeypatch.setitem(sys.modules, "tracemalloc", traced)
    assert module._process() is None
    traced.is_tracing = lambda: True
    with measure() as taken:
        assert traced.reset == 1
        traced.now = (400, 700)
    assert (taken.sees, taken.delta, taken.peak, taken.count, taken.denials) == (
        "tracemalloc",
        300,
        600,
        None,
        None,
    )
    assert str(taken).endswith(" s, 300 B more, at most 600 B") and traced.reset == 2


class Scope:
    """A budget as a block that is charged to one is entered with."""

    def __init__(self, parent: Any = None) -> None:
        self.parent, self.blocks, self.refused = parent, 0, 0
        self.steps: list[str] = []
        self._core = SimpleNamespace(
            numbers=lambda: (self.used, 0, 0, self.denied),
            account=lambda: self.of_heap,
            take_peak=self.take_peak,
            detach=lambda: self.steps.append("detach"),
        )
        self.used, self.top, self.denied = 0, 0, 0
        self.of_heap: Any = None

    def take_peak(self) -> int:
        top, self.top = self.top, self.used
        return top

    def __enter__(self) -> None:
        self.steps.append("enter")

    def __exit__(self, *error: Any) -> None:
        self.steps.append("exit" if error[0] is None else error[0].__name__)


@pytest.fixture
def scopes(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Scope]:
    def comes(parent: Any = None) -> Scope:
        made = Scope(parent)
        monkeypatch.setattr(module, "_scope", lambda: made)
        return made

    monkeypatch.setattr(module, "_scopes_work", lambda: True)
    return comes


def test_a_scope_in_a_block(scopes: Callable[..., Scope]) -> None:
    scope = scopes()
    with pytest.raises(LookupError):
        with measure() as taken:
            assert (taken.sees, taken.delta, taken.peak, taken.count, taken.denials) == ("scope", 0, 0, 0, 0)
            scope.used, scope.top, scope.denied = 300, 800, 2
            scope.of_heap = (1 << 40, 11, [(16, 5), (32, 6)])
            assert (taken.delta, taken.peak, taken.count, taken.denials) == (300, 800, 22, 2)
            assert taken.peak == 800, "it was taken, and is kept"
            taken.reset_peak()
            assert taken.peak == 300
            scope.top, scope.used = 900, 200
            raise LookupError
    assert scope.steps == ["enter", "LookupError", "detach"]
    scope.used = 1 << 40
    assert (taken.delta, taken.peak, taken.count, taken.denials) == (200, 900, 22, 2)
    assert ", 22 blocks, 2 denials" in str(taken)


def test_what_is_taken_before_a_reset_is_not_in_the_peak_after_it(scopes: Callable[..., Scope]) -> None:
    scope = scopes()
    with measure() as taken:
        scope.used, scope.top = 100, 700
        taken.reset_peak()
        scope.used = 0
        assert scope.top == 100, "the core's was taken as well"
    assert taken.peak == 100


def test_a_scope_within_another_counts_in_it(scopes: Callable[..., Scope]) -> None:
    """Its blocks and refusals, which its own budget had; those of a budget of the program's are that budget's."""
    outer = scopes()
    with measure() as around:
        inner = scopes(outer)
        with measure() as within:
            inner.used, inner.denied, inner.of_heap = 10, 3, (0, 4, [(16, 1)])
        assert (outer.blocks, outer.refused) == (5, 3)
        outer.of_heap, outer.denied = (0, 1, []), 1
    assert (within.count, within.denials) == (5, 3)
    assert (around.count, around.denials) == (6, 4)
    program = SimpleNamespace(blocks=0, refused=0)
    last = scopes(program)
    with measure():
        last.denied, last.of_heap = 3, (0, 4, [])
    assert (program.blocks, program.refused) == (0, 0)


def test_a_budget_is_measured_by_itself_with_the_engine_on(scopes: Callable[..., Scope], nm: Binding) -> None:
    scopes()
    budget = nm.Budget(1000)
    with measure(budget) as taken:
        budget.try_reserve(1)
    assert (taken.sees, taken.delta) == ("budget", 1)
    with measure("process") as other:
        pass
    assert other.sees != "scope"


def test_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """So far, and once it has ended of the whole."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    monkeypatch.setattr(module, "_scopes_work", lambda: False)
    monkeypatch.setattr(module, "_process", lambda: None)
    taken = measure()
    assert taken.seconds == 0.0
    with taken:
        clock.now += 2
        assert taken.seconds == 2.0
        clock.now += 3
    clock.now += 9
    assert taken.seconds == 5.0 and str(taken).startswith("5.000 s; ")
    with pytest.raises(RuntimeError, match="^measure: it was used before; each block has one of its own$"):
        taken.__enter__()


def test_how_it_is_said() -> None:
    for n, noun, said in ((0, "block", "0 blocks"), (1, "block", "1 block"), (2, "denial", "2 denials")):
        assert module._several(n, noun) == said
    assert module._several(1_234_567, "charge") == "1,234,567 charges"
    assert type(measure()) is Measure


def test_the_budget_that_a_block_is_charged_to(needs_native: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a limit of its own, below the one that is charged now, and in no list; its class is made once."""
    native = load("native")
    now: list[Any] = [None]
    monkeypatch.setattr(native.backend, "current", lambda: now[0])
    alone = module._scope()
    assert (alone.name, alone.limit, alone.parent, alone.blocks, alone.refused) == ("process", SIZE_MAX, None, 0, 0)
    around = native.Budget(1000, "around")
    now[0] = around._core
    below = module._scope()
    assert (below.name, below.limit, below.parent) == ("around", SIZE_MAX, around)
    assert type(below) is type(alone) and type(below).__name__ == "Measured" and type(below)._listed is False
    assert not [owner for owner in snapshot(sites=False).owners if owner.path == "around/around"]
    below.try_reserve(10)
    assert around.used == 10
    now[0] = SimpleNamespace(budget=lambda: None)
    assert module._scope().name == "process"
