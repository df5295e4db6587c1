"""What is swept: every public operation with good arguments, found as the bad-input suite finds its cases.

A new public name is swept by itself once bad_input/world.py knows how to make it (``RECIPES``) and its arguments
(``GOOD``).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from bad_input import cases
from bad_input.values import Hostile
from bad_input.world import NOT_MADE, RECIPES, World, class_of, good, surface
from nativemem import errors
from nativemem._api import load


@dataclass(frozen=True)
class Scenario:
    """``run`` calls ``w.ready()`` when its arguments are there, and then does the operation."""

    label: str
    run: Callable[[World], Any]
    prepare: Callable[[World], None] = lambda w: None  # before it, in a world that is complete
    dry: bool = False  # with no Block object kept for later, so that it makes a new one
    changes: bool = False  # it is prepared so that no more blocks are to be had
    steps: bool = False  # it takes several, and may end between two


def _got(get: Callable[[Any], Any]) -> Callable[[World], Any]:
    def run(w: World) -> Any:
        subject = w.subject
        w.ready()
        return get(subject)

    return run


def _entered(run: Callable[[World], Any]) -> Callable[[World], Any]:
    """What a call gives, as a context manager."""

    def inside(w: World) -> Any:
        given = run(w)
        if type(given).__name__ == "CPort":  # should there be no memory to close it, its holder tries again
            w.stays = given
        with given:
            w.inside()

    return inside


def _given_back(w: World) -> None:
    for block in (w.block, w.sentinel):
        block.free()


def _ended(w: World) -> None:
    with contextlib.suppress(errors.NativeMemError, BufferError):
        cases._end(w)


def _full(w: World) -> None:
    """No budget has room for anything."""
    for budget in w.budgets:
        budget.limit = 1


def _pressed(w: World) -> None:
    """The next charge brings the budget to a level of which a callback is told."""
    for budget in w.budgets:
        budget.limit = budget.used + 70


def _call_scenarios(get: Callable[[World], Any], parameters: list[Any] | None) -> Iterator[Scenario]:
    if parameters is None:
        return
    quiet = {p.name: p.make for p in parameters if p.name == "file"}
    plain = cases._call(get, parameters, quiet)
    yield Scenario("", plain)
    yield Scenario("entered", _entered(plain))
    if "size" in (p.name for p in parameters):
        yield Scenario("large", cases._call(get, parameters, {"size": lambda w: 100_000}))
    optional = {p.name: p.make for p in parameters if not p.required}
    if optional:
        yield Scenario("all arguments", cases._call(get, parameters, optional))


#: what is done beside calling: how an object answers the interpreter
PROTOCOLS: dict[str, Callable[[Any], Any]] = {
    "len": len,
    "iter": lambda x: list(x),
    "repr": repr,
    "str": str,
    "hash": hash,
    "bool": bool,
    "x == x": lambda x: x == x,
    "bytes": bytes,
    "memoryview": lambda x: memoryview(x).nbytes,
    "memoryview writes": cases._buffer_writes,
    "x[0]": lambda x: x[0],
    "x[-1:]": lambda x: x[-1:],
    "x[0] = 1.5": lambda x: x.__setitem__(0, 1.5),
    "with": lambda x: cases.PROTOCOLS["exit with an error"](x),
    "weak reference": lambda x: cases.PROTOCOLS["weak reference"](x),
}

#: verbs that take several steps, of which each may have been taken
STEPS = ("with", "extend", "close", "trim", "reset")
#: of these, which can be had in several ways
DRY = ("alloc", "alloc_many", "alloc_value", "alloc_array", "array", "append", "extend")
#: what charges a budget
CHARGES = ("alloc", "resize", "reserve", "try_reserve", "limit", "alloc_many")

#: functions of the process that replace the interpreter's allocator, which is what the sweep does as well
NOT_SWEPT = {"install": "swaps the allocators that the sweep has swapped", "uninstall": "the same"}


def _plain(cls: Any) -> bool:
    """A record or an exception: only what it adds of its own is worth a look."""
    return "Exception" in [base.__name__ for base in cls.__mro__] or dataclasses.is_dataclass(cls)


#: what was found, but cannot be done, by group
left_out: dict[str, list[Scenario]] = {}


def _fits(nm: Any, subject: str, scenario: Scenario) -> bool:
    """Whether it can be done at all: an error of ours is as good as a result, one of a wrong type is not."""
    w = World(nm, subject)
    w.watched = False
    try:
        scenario.prepare(w)
        scenario.run(w)
    except (errors.NativeMemError, BufferError, Hostile):
        return True
    except (TypeError, AttributeError, LookupError, ValueError):
        return False
    finally:
        w.finish()
    return True


#: what could not be made, and what to add
unknown: list[str] = []


def _parameters(subject: str, cls: Any, member: str, function: Any) -> list[Any] | None:
    try:
        return cases._parameters(subject, cls, member, function)
    except LookupError as error:
        unknown.append(str(error))
        return None


@functools.cache
def scenarios() -> dict[str, list[Scenario]]:
    """By subject; functions under "functions"."""
    nm = load("pure")
    found: dict[str, list[Scenario]] = {}
    unknown.clear()
    seen: set[tuple[Any, str]] = set()
    left_out.clear()
    for subject in RECIPES:
        w = World(nm, subject)
        cls = class_of(nm, subject)
        rows = found[subject] = []

        def add(member: str, scenario: Scenario, rows: list[Scenario] = rows, subject: str = subject) -> None:
            label = f"{member}, {scenario.label}" if scenario.label else member
            scenario = dataclasses.replace(scenario, label=label, steps=member in STEPS)
            (rows if _fits(nm, subject, scenario) else left_out.setdefault(subject, [])).append(scenario)

        for member, called in cases._members(nm, cls, w.subject):
            get = functools.partial(lambda member, w: getattr(w.subject, member), member)
            function = getattr(w.subject, member)
            if _plain(cls):
                origin = (getattr(function, "__qualname__", None), member)
                if (not called and member not in vars(cls)) or origin in seen:
                    continue
                seen.add(origin)
            if called and not isinstance(function, type) and cases._signature(function) is not None:
                parameters = _parameters(subject, cls, member, function)
                for scenario in _call_scenarios(get, parameters):
                    add(member, scenario)
                    if not scenario.label and not _plain(cls):
                        add(member, Scenario("after its end", scenario.run, _ended, changes=True))
                        add(member, Scenario("exported", scenario.run, cases._export))
                        if member in ("close", "trim"):
                            add(member, Scenario("of nothing", scenario.run, _given_back))
                        if member in DRY:
                            add(member, Scenario("dry", scenario.run, dry=True))
                        if member in CHARGES and w.budgets:
                            add(member, Scenario("budgets full", scenario.run, _full, changes=True))
                            add(member, Scenario("pressed", scenario.run, _pressed, changes=True))
            else:
                add(member, Scenario("", _got(lambda x, member=member: getattr(x, member))))
                if cases._writable(cls, member):
                    make = good(cls.__name__, "=", member)

                    def assign(w: World, member: str = member, make: Any = make) -> None:
                        value, subject = make(w), w.subject
                        w.ready()
                        setattr(subject, member, value)

                    add(member, Scenario("=", assign))
        if not _plain(cls):
            for label, function in PROTOCOLS.items():
                add(label, Scenario("", _got(function)))
        elif (cls.__repr__, "repr") not in seen:
            seen.add((cls.__repr__, "repr"))
            for label in ("repr", "str", "hash", "x == x"):
                add(label, Scenario("", _got(PROTOCOLS[label])))
        if subject in surface(nm) and subject not in NOT_MADE and cases._signature(cls) is not None:
            if not issubclass(cls, errors.NativeMemError) or cls is errors.NativeMemError:
                target = functools.partial(lambda name, w: class_of(w.nm, name), subject)
                parameters = _parameters(subject, cls, "__init__", cases._maker(cls))
                for scenario in _call_scenarios(target, parameters):
                    add(f"{subject}()", scenario)
    rows = found["functions"] = []
    for name, thing in surface(nm).items():
        if inspect.isfunction(thing) and name not in NOT_SWEPT:
            target = functools.partial(lambda thing, w: thing, thing)
            for scenario in _call_scenarios(target, _parameters(name, thing, "", thing)):
                scenario = dataclasses.replace(scenario, label=f"{name}(), {scenario.label}")
                (rows if _fits(nm, "System", scenario) else left_out.setdefault("functions", [])).append(scenario)
    return found


def subject_of(group: str) -> str:
    """The recipe that a group's scenarios take place in."""
    return group if group in RECIPES else "System"
