"""Both backends have the same surface; where they cannot, the difference is pinned here."""

from __future__ import annotations

import importlib
import inspect
import sys

import pytest

import nativemem
from nativemem._api import load
from nativemem._backend import Backend, Binding
from nativemem.errors import ConfigError

BOUND = (
    *("System", "Arena", "TypedArena", "Stack", "Pool", "Slab", "Heap"),
    *("Limited", "Traced", "Failing", "Locked", "CPort", "Budget", "Block"),
)

PUBLIC = {
    *BOUND,
    *("Allocator", "Stats", "Site", "Frame", "install", "uninstall", "installed", "backend", "__version__"),
    "get_include",
    *("NativeMemError", "OutOfMemory", "BudgetExceeded", "ArenaExhausted", "InvalidLayout", "ScopeError"),
    *("DoubleFree", "ForeignBlock", "StaleBlock", "StaleHandle", "InvalidMark", "BudgetUnderflow"),
    *("ConfigError", "WrongThread", "LeakError", "NativeUnavailable", "PoolExhausted", "CapacityExceeded"),
    *("LifoViolation", "CorruptionDetected", "utilities"),
    *("LendTimeout", "LoanOutstanding", "MemoryPressure", "SharingPolicy"),
    *("ArenaConfig", "StackConfig", "PoolConfig", "SlabConfig", "HeapConfig"),
}


def public(thing: object) -> set[str]:
    return {name for name in dir(thing) if not name.startswith("_")}


@pytest.mark.parametrize("name", BOUND)
def test_same_public_attributes(both: tuple[Binding, Binding], name: str) -> None:
    native, pure = (getattr(binding, name) for binding in both)
    assert public(native) == public(pure)
    assert native.__name__ == pure.__name__ == name
    assert native.__module__ == pure.__module__ == "nativemem"


@pytest.mark.parametrize("name", BOUND[:-1])
def test_same_signatures(both: tuple[Binding, Binding], name: str) -> None:
    native, pure = (getattr(binding, name) for binding in both)
    methods = {m for m in public(native) if callable(getattr(native, m))} | {"__init__"}
    assert len(methods) > 1
    for method in methods:
        parameters = [
            [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]
            for function in (getattr(native, method), getattr(pure, method))
        ]
        assert parameters[0] == parameters[1], method


MODULES = ("", ".utilities", ".memlib", ".process", ".hooks.numpy", ".hooks.cffi", ".config")


@pytest.mark.parametrize("module", MODULES)
def test_every_parameter_has_a_name_to_call_it_by(nm: Binding, module: str) -> None:
    """PORT-7"""
    things: list[object] = [getattr(nm, name) for name in BOUND] if not module else []
    if module == ".utilities":
        things.append(type(nm.utilities))
    else:
        named = importlib.import_module("nativemem" + module)
        things += [getattr(named, name) for name in named.__all__]
    functions = [thing for thing in things if inspect.isroutine(thing)]
    for cls in filter(inspect.isclass, things):
        functions += [getattr(cls, name) for name in public(cls) if inspect.isroutine(getattr(cls, name))]
    positional = [
        f"{function.__qualname__}: {parameter.name}"
        for function in functions
        if getattr(getattr(function, "__objclass__", None), "__module__", "") != "builtins"  # as those of a tuple
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is parameter.POSITIONAL_ONLY and parameter.name not in ("self", "cls", "$self")
    ]
    assert functions and not positional


def test_every_public_attribute_has_a_docstring(nm: Binding) -> None:
    undocumented = [
        f"{name}.{attribute}"
        for name in BOUND
        for attribute in public(getattr(nm, name))
        if not (getattr(getattr(nm, name), attribute).__doc__ or "").strip()
    ]
    # values without a docstring of their own; their class describes them
    described = {"Budget.core", "Budget.name", "Budget.parent"}
    described |= {f"{noun}.config" for noun in ("Arena", "Stack", "Pool", "Slab", "Heap")}
    assert set(undocumented) <= described


def test_what_a_backend_supplies(nm: Binding) -> None:
    names = [*Backend.__annotations__, "features"]
    assert len(names) > 10
    for name in names:
        assert hasattr(nm.backend, name), name
    assert nm.backend.name == nm.name


def test_features(nm: Binding) -> None:
    """Exactly what a backend can do beyond the contract, so that no gap appears in silence."""
    expected = {"c-port", "engine", "resize-keeps-address", "stale-buffer-raises"}
    if nm.name == "pure":
        # which buffer an object has is Python code's to decide from 3.12 on
        expected = {"stale-buffer-raises"} if sys.version_info >= (3, 12) else set()
    assert nm.backend.features == expected


def test_the_binding(nm: Binding) -> None:
    assert {*BOUND, "name", "backend", "default_system", "utilities"} <= set(vars(nm))
    assert load(nm.name) is nm


def test_the_names_of_the_package() -> None:
    assert set(nativemem.__all__) == PUBLIC
    assert all(hasattr(nativemem, name) for name in nativemem.__all__)
    bound = load(nativemem.backend)
    assert nativemem.backend in ("native", "pure")
    for name in BOUND:
        assert getattr(nativemem, name) is getattr(bound, name)


def test_another_name_is_refused() -> None:
    for name in ("", "Native", "c", "both"):
        with pytest.raises(ConfigError, match="auto, native or pure"):
            load(name)


@pytest.mark.parametrize("name", ["auto", "native", "pure"])
def test_the_kill_switch_leaves_one_backend(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """KILL-1"""
    monkeypatch.setenv("NATIVEMEM_DISABLE", "1")
    assert load(name) is load("pure")
    assert load(name).name == "pure"
