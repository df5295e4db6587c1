"""BUDGET-3, 5, 6, 7: pressure and which callbacks are told, and what a budget can be made with."""

from __future__ import annotations

import _thread
import contextvars
import math
import os
import subprocess
import sys
import threading
import types
import warnings
from typing import Any

import pytest

import nativemem
from nativemem.backends.binding import Binding
from nativemem.budgets.budget import Budget
from nativemem.errors import BudgetExceeded, ConfigError

from .helpers import collect


class Told(list[Any]):
    """Collects what ``on_pressure`` is called with."""

    def __call__(self, level: str, budget: Budget) -> None:
        self.append((level, budget.used))


def test_levels(nm: Binding) -> None:
    """BUDGET-3"""
    budget = nm.Budget(1000)
    seen = []
    for n in (799, 1, 149, 1, 49, 1):
        budget.reserve(n)
        seen.append(budget.pressure)
    assert seen == ["normal", "warn", "warn", "critical", "critical", "full"]
    budget.release(51)
    assert budget.pressure == "warn"
    budget.limit = 10_000
    assert budget.pressure == "normal"


def test_told_once_per_crossing(nm: Binding) -> None:
    """BUDGET-3"""
    told = Told()
    budget = nm.Budget(1000, "cache", on_pressure=told)
    with pytest.warns(nativemem.MemoryPressure, match=r"budget 'cache': 800 B of 1000 B are in use") as caught:
        budget.reserve(800)
        budget.reserve(100)  # still above
        budget.release(50)
        budget.reserve(50)
        budget.reserve(50)
    assert told == [("warn", 800), ("critical", 950)]
    assert len(caught) == 1
    warning = caught[0].message
    assert isinstance(warning, nativemem.MemoryPressure)
    assert (warning.budget, warning.level) == (budget, "warn")
    budget.release(151)
    with pytest.warns(nativemem.MemoryPressure):
        budget.reserve(201)
    assert told[2:] == [("full", 1000)]
    assert not budget.try_reserve(1)
    assert len(told) == 3


@pytest.mark.parametrize("how", ["reserve", "try_reserve", "alloc", "resize", "limit", "lend"])
def test_whatever_caused_it(nm: Binding, how: str) -> None:
    """BUDGET-3"""
    told = Told()
    budget = nm.Budget(1000, on_pressure=told)
    limited = nm.Limited(nm.Heap(), budget)
    other = nm.Budget(1000)
    kept: list[Any] = []
    if how == "reserve":
        budget.reserve(900)
    elif how == "try_reserve":
        budget.try_reserve(900)
    elif how == "alloc":
        kept.append(limited.alloc(900))
    elif how == "resize":
        kept.append(limited.alloc(500))
        assert not told
        if not limited.resize(kept[0], 505):
            pytest.fail("the same cell holds it")
        kept.append(limited.alloc(395))
    elif how == "limit":
        budget.reserve(900)
        budget.release(0)
        told.clear()
        budget.limit = 10_000
        budget.limit = 1000
    else:
        budget.reserve(400)
        kept.append(budget.lend(other, 500))
    assert [level for level, _ in told] == ["warn"]


def test_ancestors_are_told(nm: Binding) -> None:
    """BUDGET-3"""
    told: list[tuple[str, str | None]] = []
    root = nm.Budget(100, "root", on_pressure=lambda level, b: told.append((level, b.name)))
    leaf = nm.Budget(90, "leaf", root, on_pressure=lambda level, b: told.append((level, b.name)))
    other = nm.Budget(50, "other", root)
    leaf.reserve(75)
    assert told == [("warn", "leaf")]
    other.reserve(5)
    assert told[1:] == [("warn", "root")]
    assert not other.try_reserve(40)  # refused by the root: no budget crossed a level
    assert len(told) == 2 and other.pressure == "normal"


def test_many_at_once(nm: Binding) -> None:
    """BUDGET-3: a call tells of 64 crossings, the next of those that are left; each is told once."""
    told: list[str | None] = []
    budget = None
    for i in range(100):
        budget = nm.Budget(1000, str(i), budget, on_pressure=lambda level, b: told.append(b.name))
    budget.reserve(800)
    assert len(set(told)) == len(told) == 64
    nm.Budget(1000).reserve(1)
    assert sorted(told, key=int) == [str(i) for i in range(100)]


def test_a_callback_may_do_anything(nm: Binding) -> None:
    """BUDGET-3: it runs when the call has done its work."""
    limited: Any = None

    def relieve(level: str, budget: Budget) -> None:
        kept.clear()
        limited.alloc(100).free()
        budget.limit = 2000

    budget = nm.Budget(1000, on_pressure=relieve)
    limited = nm.Limited(None, budget)
    kept = [limited.alloc(100) for _ in range(7)]
    block = limited.alloc(150)
    memoryview(block)[:] = bytes(150)
    assert (kept, budget.used, budget.limit, budget.pressure) == ([], 150, 2000, "normal")
    block.free()
    limited.close()
    assert budget.used == 0


def test_what_a_callback_raises(nm: Binding, monkeypatch: pytest.MonkeyPatch) -> None:
    """BUDGET-3: the block is there all the same."""
    seen: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda u: seen.append((u.exc_type, u.object)))

    def fail(level: str, budget: Budget) -> None:
        raise LookupError(level)

    budget = nm.Budget(1000, on_pressure=fail)
    limited = nm.Limited(None, budget)
    block = limited.alloc(900)
    assert block.size == 900 and budget.used == 900
    assert seen == [(LookupError, budget)]
    seen.clear()
    block.free()
    with warnings.catch_warnings():
        warnings.simplefilter("error", nativemem.MemoryPressure)
        block = limited.alloc(900)
    assert block.alive and [kind for kind, _ in seen] == [nativemem.MemoryPressure]


@pytest.mark.parametrize("hook", ["sys.__unraisablehook__", "lambda u: sys.__unraisablehook__(u)"])
def test_what_a_callback_raises_is_shown(nm: Binding, hook: str) -> None:
    """BUDGET-3: by the interpreter's own hook as well, which takes an argument of its own kind only."""
    code = f"""
import sys, warnings, nativemem
sys.unraisablehook = {hook}
warnings.simplefilter("ignore")
def fail(level, budget): raise LookupError(level)
budget = nativemem.Budget(1000, "name", on_pressure=fail)
budget.reserve(900)
print(budget.used)
"""
    env = os.environ | {"NATIVEMEM_BACKEND": nm.name}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "900\n"), done.stderr
    lines = done.stderr.splitlines()
    assert lines[0].startswith("Exception ignored in a budget's on_pressure: <Budget 'name' 900 B of 1000 B")
    assert lines[-1] == "LookupError: warn"


@pytest.mark.parametrize("where", ["callback", "warning", "refusal"])
@pytest.mark.parametrize("kind", ["function", "method", "callable", "partial"])
def test_what_the_handler_of_a_signal_raises(nm: Binding, where: str, kind: str) -> None:
    """BUDGET-3: a time limit that is raised while a callback runs is for the code that was interrupted."""
    code = """
import functools, signal, sys, warnings, nativemem
class TimeIsUp(Exception): pass
def late(*args): raise TimeIsUp
class Watch:
    def late(self, *args): raise TimeIsUp
    def __call__(self, *args): self.late()
kind, where = sys.argv[1:]
handlers = {"function": late, "method": Watch().late, "callable": Watch(), "partial": functools.partial(late, 1)}
signal.signal(signal.SIGINT, handlers[kind])
interrupt = functools.partial(signal.raise_signal, signal.SIGINT)
at = {"callback": "full", "refusal": "refusal"}.get(where)
def note(level, budget):
    if level == at: interrupt()
warnings.simplefilter("always" if where == "warning" else "ignore")
warnings.showwarning = lambda *args: interrupt()
budget = nativemem.Budget(1000, on_pressure=note)
limited = nativemem.Limited(None, budget)
try: limited.alloc(1001 if where == "refusal" else 1000)
except TimeIsUp: print("raised", budget.used <= 1000)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, kind, where],
        env=os.environ | {"NATIVEMEM_BACKEND": nm.name},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "raised True\n", "")


def test_a_budget_that_is_gone_is_not_told(nm: Binding) -> None:
    """BUDGET-3"""
    told = Told()
    budget = nm.Budget(100, on_pressure=told)
    budget.reserve(100)
    del budget
    collect()
    other = nm.Budget(100)
    other.reserve(1)
    assert told == [("full", 100)]


def test_each_crossing_is_told_once_under_threads(nm: Binding) -> None:
    """BUDGET-3"""
    told: list[str] = []
    budget = nm.Budget(1000, on_pressure=lambda level, b: told.append(level))
    together = threading.Barrier(4)

    def climb() -> None:
        together.wait()
        for _ in range(200):
            budget.reserve(1)

    threads = [threading.Thread(target=climb) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told == ["warn"]
    assert budget.used == 800


def test_the_largest_request(nm: Binding) -> None:
    """BUDGET-5"""
    budget = nm.Budget(1000, max_single=0.25)
    limited = nm.Limited(None, budget)
    blocks = [limited.alloc(250) for _ in range(3)]
    with pytest.raises(BudgetExceeded):
        limited.alloc(251)
    denial = budget.last_denial
    assert (denial.reason, denial.requested, denial.used, denial.limit) == ("max_single", 251, 750, 1000)
    budget.limit = 4000
    blocks.append(limited.alloc(1000))
    leaf = nm.Budget(4000, parent=budget)
    assert not leaf.try_reserve(1001) and leaf.last_denial.reason == "max_single"


def test_lock(nm: Binding) -> None:
    """BUDGET-5"""
    budget = nm.Budget(1000)
    leaf = nm.Budget(1000, parent=budget)
    limited = nm.Limited(None, leaf)
    block = limited.alloc(100)
    assert not budget.locked
    budget.lock()
    assert budget.locked and not leaf.locked
    with pytest.raises(BudgetExceeded):
        limited.alloc(1)
    assert (leaf.last_denial.reason, leaf.used) == ("locked", 100)
    budget.limit = 5000  # for good
    assert not budget.try_reserve(1) and budget.try_reserve(0)
    block.free()
    assert budget.used == 0


def test_overcommit(nm: Binding) -> None:
    """BUDGET-6"""
    assert nm.Budget(1000).overcommit == 0 and "overcommit" not in repr(nm.Budget(1000))
    budget = nm.Budget(1000, overcommit=0.1)
    assert "overcommit 0.1" in repr(budget)
    budget.reserve(1100)
    assert (budget.limit, budget.used, budget.available, budget.pressure) == (1000, 1100, 0, "full")
    assert not budget.try_reserve(1)
    assert (budget.last_denial.limit, budget.last_denial.used) == (1100, 1100)


def test_many_owners(nm: Binding) -> None:
    """BUDGET-7"""
    root = nm.Budget("1 GiB")
    owners = [nm.Budget(100, str(i), root) for i in range(65_000)]
    for i in range(65_000):
        owners[i].reserve(7)
    assert root.used == 7 * 65_000
    while owners:
        owners.pop()
    collect()
    assert root.used == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("warn", v) for v in (0, -1, 1.1, math.nan, "x", None, True)),
        *(("critical", v) for v in (0, 2, math.inf, "x")),
        *(("max_single", v) for v in (0, 2, math.nan, "x", False)),
        *(("overcommit", v) for v in (-0.1, math.nan, math.inf, 10**400, "x")),
        *(("minimum", v) for v in (1001,)),
        *(("on_pressure", v) for v in (1, "x")),
        *(("sharing", v) for v in (1, "x", object())),
        *(("auto_rebalance", v) for v in (1, None)),
        *(("shared", v) for v in (1, "x")),
    ],
    ids=lambda value: type(value).__name__ if type(value) is object else repr(value),
)
def test_bad_options(nm: Binding, field: str, value: object) -> None:
    """CFG-1"""
    with pytest.raises(ConfigError, match=rf"^budget\.(warn|{field})") as caught:
        nm.Budget(1000, **{field: value})
    assert "\n" not in str(caught.value)


class Cache:
    """A user of a budget that can do with less: it gives back what it has when it is asked for room."""

    def __init__(self) -> None:
        self.kept: list[Any] = []
        self.asked: list[tuple[str | None, int]] = []

    def __call__(self, level: str, budget: Budget) -> None:
        if level == "refusal":
            self.asked.append((budget.name, budget.last_denial.requested))
            self.kept.clear()


#: ways to ask for 600 bytes of a budget, most of it kept by a cache; each returns what holds them
def _reserved(nm: Binding, budget: Any) -> Any:
    return budget.reserve(600)


def _allocated(nm: Binding, budget: Any) -> Any:
    return nm.Limited(None, budget).alloc(600)


def _resized(nm: Binding, budget: Any) -> Any:
    limited = nm.Limited(nm.Stack(1000), budget)
    block = limited.alloc(10)
    assert limited.resize(block, 610)
    return block


def _in_batch(nm: Binding, budget: Any) -> Any:
    return nm.Limited(nm.Traced(nm.Heap()), budget).alloc_many([300, 300])


def _as_array(nm: Binding, budget: Any) -> Any:
    return nm.Limited(nm.Heap(), budget).array("B", 600)


def _below(nm: Binding, budget: Any) -> Any:
    return nm.Traced(nm.Locked(nm.Limited(nm.Arena(), budget))).alloc(600)


def _of_an_arena(nm: Binding, budget: Any) -> Any:
    arena = nm.Arena(600, upstream=nm.Limited(None, budget))
    return arena, arena.alloc(500)


def _of_a_pool(nm: Binding, budget: Any) -> Any:
    return nm.Pool(100, 6, upstream=nm.Limited(None, budget))


def _of_a_stack(nm: Binding, budget: Any) -> Any:
    return nm.Stack(600, upstream=nm.Limited(None, budget))


ASKING = (
    *(_reserved, _allocated, _resized, _in_batch, _as_array, _below),
    *(_of_an_arena, _of_a_pool, _of_a_stack),
)


@pytest.mark.parametrize("request_memory", ASKING, ids=lambda f: f.__name__)
@pytest.mark.parametrize("whose", ["its own", "an ancestor's"])
def test_asked_before_a_refusal(nm: Binding, request_memory: Any, whose: str) -> None:
    """BUDGET-3: once; with room made the request passes and nothing was denied."""
    cache = Cache()
    root = nm.Budget(1000, "root", on_pressure=cache, warn=1)
    budget = root if whose == "its own" else nm.Budget(5000, "leaf", nm.Budget(5000, parent=root), warn=1)
    cache.kept = [nm.Limited(None, root).alloc(700)]
    held = request_memory(nm, budget)
    assert len(cache.asked) == 1 and cache.asked[0][0] == "root" and cache.asked[0][1] >= 300
    assert (root.denied, budget.denied) == (0, 0)
    assert 600 <= budget.used <= root.used <= 1000
    del held


@pytest.mark.parametrize("request_memory", ASKING, ids=lambda f: f.__name__)
def test_asked_in_vain(nm: Binding, request_memory: Any) -> None:
    """BUDGET-3, 2: each on the line up to the one in the way, the lowest first; counted once."""
    asked: list[str] = []

    def note(level: str, budget: Any) -> None:
        if level == "refusal":
            asked.append(budget.name)

    top = nm.Budget(9000, "top", on_pressure=note)
    root = nm.Budget(1000, "root", top, on_pressure=note)
    leaf = nm.Budget(900, "leaf", nm.Budget(5000, parent=root), on_pressure=note)
    root.reserve(700)
    with pytest.raises(BudgetExceeded, match="budget 'root' has ") as caught:
        request_memory(nm, leaf)
    assert asked == ["leaf", "root"]
    assert (leaf.denied, root.denied, top.denied) == (1, 1, 0)
    assert leaf.last_denial.owner == caught.value.state["owner"] == "root"
    del caught
    collect()
    assert leaf.used == 0 and root.used == 700


def test_a_heap_asks(nm: Binding) -> None:
    """BUDGET-3"""
    cache = Cache()
    budget = nm.Budget("1 MiB", "heap", on_pressure=cache, warn=1)
    heap = nm.Heap(budget)
    cache.kept = [heap.alloc("512 KiB")]
    block = heap.alloc("768 KiB")
    assert block.size == 768 << 10 and len(cache.asked) == 1 and budget.denied == 0
    with pytest.raises(BudgetExceeded):
        heap.alloc("768 KiB")
    assert len(cache.asked) == 2 and budget.denied == 1


def test_each_that_stands_in_the_way_is_asked_once(nm: Binding) -> None:
    """BUDGET-3: two budgets of one chain, and one above another."""
    first, second = Cache(), Cache()
    lower, upper = (nm.Budget(1000, n, on_pressure=c, warn=1) for n, c in (("lower", first), ("upper", second)))
    first.kept, second.kept = [nm.Limited(None, lower).alloc(900)], [nm.Limited(None, upper).alloc(900)]
    both = nm.Limited(nm.Limited(None, lower), upper)
    block = both.alloc(600)
    assert (first.asked, second.asked) == ([("lower", 600)], [("upper", 600)])
    assert (lower.denied, upper.denied, block.size) == (0, 0, 600)
    with pytest.raises(BudgetExceeded):
        both.alloc(600)
    assert (lower.denied, upper.denied) == (0, 1)
    assert (both.stats.failures, both.upstream.stats.failures) == (4, 1)  # each try that was refused


def test_a_callback_that_is_refused_itself(nm: Binding, monkeypatch: pytest.MonkeyPatch) -> None:
    """BUDGET-3: it is not called in the midst of itself, and what it raises goes to the hook."""
    seen: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda u: seen.append((u.exc_type, u.object)))
    levels: list[str] = []
    limited: Any = None

    def take_more(level: str, budget: Budget) -> None:
        levels.append(level)
        limited.alloc(2000)

    budget = nm.Budget(1000, on_pressure=take_more)
    other = nm.Budget(1000, on_pressure=lambda level, b: levels.append("other " + level) or limited.alloc(2000))
    limited = nm.Limited(nm.Limited(None, other), budget)
    with pytest.raises(BudgetExceeded):
        limited.alloc(1001)
    assert levels == ["refusal"]
    assert seen == [(BudgetExceeded, budget)]
    assert budget.denied == 2 and budget.used == 0


@pytest.mark.unplanted("counts what a callback was told")
def test_a_callback_that_crosses_a_level_itself(nm: Binding) -> None:
    """BUDGET-3: what it does is not told to it, or that would have no end."""
    levels: list[str] = []
    limited: Any = None
    kept: list[Any] = []

    def swap(level: str, budget: Budget) -> None:
        levels.append(level)
        kept.clear()
        kept.append(limited.alloc(700))

    budget = nm.Budget(1000, on_pressure=swap)
    limited = nm.Limited(None, budget)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", nativemem.MemoryPressure)
        kept.append(limited.alloc(700))
        block = limited.alloc(150)
        assert kept[0].alive and block.alive and budget.used == 850
        with pytest.raises(BudgetExceeded):
            limited.alloc(500)
    assert levels == ["warn", "refusal"]


@pytest.mark.parametrize("why", ["try", "max_single", "locked", "lend", "no callback"])
def test_where_nobody_is_asked(nm: Binding, why: str) -> None:
    """BUDGET-3: where the caller has another way, or where nothing that is freed would help."""
    asked = Told()
    single = 0.5 if why == "max_single" else None
    budget = nm.Budget(1000, warn=1, max_single=single, on_pressure=None if why == "no callback" else asked)
    if why != "max_single":
        budget.reserve(500)
    if why == "locked":
        budget.lock()
    if why == "try":
        assert not budget.try_reserve(600)
    elif why == "lend":
        with pytest.raises(BudgetExceeded):
            budget.lend(nm.Budget(10), 600)
    else:
        with pytest.raises(BudgetExceeded):
            budget.reserve(600)
    assert asked == [] and budget.denied == (why != "lend")


def test_a_callback_may_raise_the_limit(nm: Binding) -> None:
    """BUDGET-3"""

    def give_more(level: str, budget: Any) -> None:
        if level == "refusal":
            budget.limit = 5000

    budget = nm.Budget(1000, on_pressure=give_more)
    assert nm.Limited(None, budget).alloc(3000).size == 3000 and budget.denied == 0


def test_an_interrupt_in_a_callback(nm: Binding) -> None:
    """BUDGET-3: goes through, and nothing is charged."""

    def interrupt(level: str, budget: Any) -> None:
        raise KeyboardInterrupt

    budget = nm.Budget(1000, on_pressure=interrupt)
    limited = nm.Limited(None, budget)
    for call in (lambda: limited.alloc(2000), lambda: budget.reserve(2000)):
        with pytest.raises(KeyboardInterrupt):
            call()
    assert budget.used == 0 and limited.stats.live == 0


def test_a_callback_that_closes_and_frees(nm: Binding) -> None:
    """BUDGET-3: whatever it does to the allocator or the block, the call ends in an error of its own."""
    todo: Any = None
    budget = nm.Budget(1000, on_pressure=lambda level, budget: level == "refusal" and todo())
    limited = nm.Limited(nm.Stack(5000), budget)
    block = limited.alloc(100)
    todo = block.free
    with pytest.raises(nativemem.errors.StaleBlock):
        limited.resize(block, 2000)
    todo = limited.close
    with pytest.raises(nativemem.errors.StaleHandle):
        limited.alloc(2000)
    assert budget.used == 0


@pytest.mark.unplanted("counts the requests of threads")
def test_threads_that_ask(nm: Binding) -> None:
    """BUDGET-3, 2: what is refused was asked for before, none passes the limit, each denial is counted once."""
    lock, kept = threading.Lock(), []
    asked: list[str] = []

    def make_room(level: str, budget: Any) -> None:
        if level == "refusal":
            asked.append(level)
            with lock:
                mine = kept[:1]
                del kept[:1]
            for block in mine:
                block.free()

    budget = nm.Budget(1000, on_pressure=make_room, warn=1)
    limited = nm.Limited(nm.Heap(), budget)
    together = threading.Barrier(4)
    refused: list[int] = []

    def work() -> None:
        together.wait()
        for _ in range(200):
            try:
                block = limited.alloc(100)
            except BudgetExceeded:
                refused.append(1)
                continue
            with lock:
                kept.append(block)
            del block

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # a request may find the room that another thread's callback made, so not each one asks; each refused one did
    assert len(asked) >= max(1, len(refused)) and budget.denied == len(refused) and budget.peak <= 1000
    kept.clear()
    assert budget.used == 0


#: a program that warms a budget up again and again, from two places and by several calls
FLOOD = """
import sys, warnings, nativemem
budget, other = nativemem.Budget(10_000, "cache", warn=0.5), nativemem.Budget(100, "other", warn=0.5)
limited = nativemem.Limited(nativemem.Heap(), budget)
def up_and_down(i):
    kept = [limited.alloc(1000 + i) for _ in range(5)]  # HERE
    del kept
    with budget.reserve(6000 + i): pass  # AND HERE
    kept = limited.array("B", 5000 + i)
    kept.release()
for i in range(300):
    up_and_down(i)
with budget.reserve(10_000): pass  # FULL
with other.reserve(60): pass  # OTHER
print(budget.pressure)
"""


def _warned(nm: Binding, tmp_path: Any, *flags: str) -> list[str]:
    program = tmp_path / "program.py"
    program.write_text(FLOOD, encoding="utf-8")
    env = os.environ | {"NATIVEMEM_BACKEND": nm.name}
    env.pop("PYTHONWARNINGS", None)
    done = subprocess.run([sys.executable, *flags, str(program)], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "normal\n"), done.stderr
    return done.stderr.splitlines()


def test_one_warning_a_budget_and_level(nm: Binding, tmp_path: Any) -> None:
    """BUDGET-3: by default filters, however often and wherever it is crossed; at the line of the caller."""
    lines = _warned(nm, tmp_path)
    assert len(lines) == 6
    assert ["program.py" in line and "MemoryPressure: budget " in line for line in lines[::2]] == [True] * 3
    assert [line.rpartition("# ")[2] for line in lines[1::2]] == ["HERE", "FULL", "OTHER"]


def test_what_filters_make_of_warnings(nm: Binding, tmp_path: Any) -> None:
    """BUDGET-3: with "always" each crossing is shown, as an error each goes to the hook, and none is silence."""
    always = _warned(nm, tmp_path, "-W", "always")
    assert len(always) == 2 * (900 + 2)
    assert {line.rpartition("# ")[2] for line in always[1::2]} >= {"HERE", "AND HERE", "FULL", "OTHER"}
    assert len(_warned(nm, tmp_path, "-W", "once")) == len(_warned(nm, tmp_path, "-W", "module")) == 6
    assert _warned(nm, tmp_path, "-W", "ignore") == []
    errors = _warned(nm, tmp_path, "-W", "error")
    assert sum("Exception ignored in a budget's on_pressure" in line for line in errors) == 902


def test_a_warning_is_given_again_where_filters_changed(nm: Binding) -> None:
    """BUDGET-3: as any warning is; and what is remembered does not grow."""
    budget = nm.Budget(10_000, warn=0.5)
    for _ in range(3):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            for i in range(50):
                with budget.reserve(6000 + i):
                    pass
        assert [(w.filename, w.category) for w in caught] == [(__file__, nativemem.MemoryPressure)]
    assert sum(map(len, budget._warned.values())) <= 2


def test_a_filter_names_the_module_that_crossed(nm: Binding) -> None:
    """BUDGET-3: it is the caller's, whatever of the package lies in between."""
    for module, n in ((__name__, 1), ("nativemem", 0), ("<string>", 0)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            warnings.filterwarnings("always", module=f"{module}$")
            nm.Budget(1000).reserve(900)
        assert len(caught) == n, module
    nameless: dict[str, Any] = {"budget": nm.Budget(1000)}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", module="<string>$")
        exec("__name__ = None; budget.reserve(900)", nameless)
    assert len(caught) == 1


@pytest.mark.unplanted("a traceback of code without lines is no matter of ours")
def test_a_caller_without_a_line(nm: Binding) -> None:
    """BUDGET-3: some instructions have none, and a frame there no line; the warning names the function's first."""

    def fill(budget: Any) -> None:
        budget.try_reserve(900)

    # entries that say of up to eight instructions (before 3.11: of 254 bytes) that they have no line; not one too
    # many, the interpreter does not look where they end
    size = len(fill.__code__.co_code)
    units = [min(8, size // 2 - i) for i in range(0, size // 2, 8)]
    nothing = bytes(0xF8 | n - 1 for n in units) if sys.version_info >= (3, 11) else bytes([size, 0x80])
    nowhere = types.FunctionType(fill.__code__.replace(co_linetable=nothing), globals())
    with pytest.warns(nativemem.MemoryPressure) as warned:
        nowhere(nm.Budget(1000))
    assert [(w.filename, w.lineno) for w in warned] == [(__file__, fill.__code__.co_firstlineno)]


def test_a_warning_where_no_code_of_the_program_runs(nm: Binding) -> None:
    """BUDGET-3: the frames of a thread that starts in the package are the package's; it is told as Python does."""
    told = threading.Event()
    budget = nm.Budget(1000, "alone", on_pressure=lambda level, b: told.set())
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        # some interpreters record what is warned of in the context alone, which a new thread does not have
        _thread.start_new_thread(contextvars.copy_context().run, (budget.reserve, 900))
        assert told.wait(60)
    assert [(w.filename, w.lineno, w.category) for w in seen] == [("sys", 1, nativemem.MemoryPressure)]
