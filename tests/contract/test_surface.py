"""Both backends have the same surface; where they cannot, the difference is pinned here."""

from __future__ import annotations

import dataclasses
import enum
import importlib
import inspect
import re
import sys
from pathlib import Path

import pytest

import nativemem
from nativemem import _api
from nativemem._api import load
from nativemem.backends.binding import Binding
from nativemem.backends.protocols import Backend
from nativemem.errors import ConfigError

BOUND = (
    *("System", "Arena", "TypedArena", "Stack", "Pool", "Slab", "Heap"),
    *("Limited", "Traced", "Failing", "Locked", "Verified", "CPort", "Budget", "Block"),
)

PUBLIC = {
    *BOUND,
    *("Allocator", "Stats", "SharingPolicy", "MemoryPressure", "utilities", "get_include"),
    *("install", "uninstall", "installed", "backend", "__version__"),
    *("NativeMemError", "OutOfMemory", "BudgetExceeded", "LeakError", "NativeUnavailable"),
}


@pytest.fixture
def pure() -> Binding:
    return load("pure")


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


#: modules whose names are compared with surface.txt
STATED = tuple(
    f"nativemem{name}"
    for name in (
        *("", ".budgets.budget", ".budgets.lending", ".budgets.executors", ".config", ".errors"),
        *(".memlib", ".process", ".testing", ".wrappers.sites", ".hooks.cffi", ".hooks.numpy"),
    )
)
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


def parameters(function: object) -> str:
    """Names, kinds and defaults; not what they are annotated with."""
    signature = inspect.signature(function)  # type: ignore[arg-type]
    plain = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    return re.sub(r" at 0x\w+", "", str(signature.replace(parameters=plain, return_annotation=signature.empty)))


def described(name: str, thing: object) -> list[str]:
    """The lines that say what a program may rely on about a name."""
    if not inspect.isclass(thing):
        return [f"{name}{parameters(thing)}" if callable(thing) else f"{name}: {type(thing).__name__}"]
    lines = [f"class {name}({', '.join(base.__name__ for base in thing.__bases__)})"]
    if dataclasses.is_dataclass(thing):
        how = thing.__dataclass_params__  # type: ignore[attr-defined]
        lines.append(f"    frozen={how.frozen} eq={how.eq} order={how.order}")
    for member in sorted(public(thing) | {"__init__"}):
        found = inspect.getattr_static(thing, member)
        value = getattr(thing, member)
        if isinstance(found, (classmethod, staticmethod)):
            lines.append(f"    {type(found).__name__} {member}{parameters(value)}")
        elif inspect.isroutine(found) and "nativemem" in (getattr(found, "__module__", None) or ""):
            lines.append(f"    {member}{parameters(value)}")
        elif isinstance(found, property):
            lines.append(f"    {member}: property{', that can be set' if found.fset else ''}")
        elif isinstance(found, (bool, int, float, str, tuple)) and not isinstance(found, enum.Enum):
            lines.append(f"    {member} = {found!r}")
    if issubclass(thing, enum.Enum):
        lines += [f"    {alias} = {member.value}" for alias, member in thing.__members__.items()]
    return lines


def test_signatures_and_defaults_are_those_that_are_stated(pure: Binding) -> None:
    """A default that changes is a change for each program that relies on it: made here, and in CHANGELOG.md."""
    names: dict[str, object] = {name: getattr(pure, name) for name in BOUND}
    for module in STATED:
        named = importlib.import_module(module)
        for name in sorted(named.__all__):
            if name not in names and name not in ("backend", "__version__"):
                names[f"{module}.{name}".removeprefix("nativemem.")] = getattr(named, name)
    names |= {f"utilities.{name}": getattr(pure.utilities, name) for name in sorted(public(pure.utilities))}
    lines = [line for name, thing in sorted(names.items()) for line in described(name, thing)]
    assert lines == Path(__file__).with_name("surface.txt").read_text(encoding="utf-8").splitlines()


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


def test_the_package_has_at_most_forty_names() -> None:
    assert len(set(nativemem.__all__)) == len(nativemem.__all__) <= 40


def test_a_name_that_moved_works_and_warns() -> None:
    """Until 0.2: it says where the name is now."""
    assert len(_api.MOVED) == 24
    for name, module in _api.MOVED.items():
        assert name in module.__all__ and name not in nativemem.__all__ and name not in dir(nativemem)
        with pytest.warns(DeprecationWarning, match=f"nativemem.{name} is now {module.__name__}.{name}") as caught:
            assert getattr(nativemem, name) is getattr(module, name)
        assert [warning.filename for warning in caught] == [__file__]
    with pytest.warns(DeprecationWarning, match=r"nativemem\.StaleBlock is now nativemem\.errors\.StaleBlock"):
        from nativemem import StaleBlock  # noqa: F401
    with pytest.raises(AttributeError, match="no attribute 'Refusal'"):
        nativemem.Refusal  # noqa: B018


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
