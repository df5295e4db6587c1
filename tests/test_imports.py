"""When the package's modules come, and what is there of them for type checkers alone."""

from __future__ import annotations

import builtins
import importlib
import pkgutil
import re
import sys
import types
from typing import Any

import pytest

import nativemem
from nativemem import _api, _lazy


def test_what_is_for_type_checkers_alone_is_not_run() -> None:
    """It would load modules that a process has no use for, `typing` first of all."""
    with_flag = []
    for found in pkgutil.walk_packages(nativemem.__path__, "nativemem."):
        if found.name in sys.modules and hasattr(sys.modules[found.name], "TYPE_CHECKING"):
            with_flag.append(found.name)
            assert sys.modules[found.name].TYPE_CHECKING is False, found.name
    assert "nativemem.errors" in with_flag


def test_a_room_tells_its_names_and_loads_each_with_its_module() -> None:
    get, names = _lazy.room("nativemem", sizes="parse_size SIZE_MAX", refusals="raise_block")
    assert names == ["SIZE_MAX", "parse_size", "raise_block"]
    assert get("parse_size") is importlib.import_module("nativemem.sizes").parse_size
    with pytest.raises(AttributeError, match=r"^module 'nativemem' has no attribute 'none'$"):
        get("none")


def test_a_room_needs_no_import_of_the_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that puts modules off, as lazy importers do, leaves nothing where a room looks."""
    usual = builtins.__import__

    def puts_off(name: str, names: Any = None, local: Any = None, wanted: Any = (), level: int = 0) -> Any:
        return usual(name, names, local, wanted, level) if wanted or level else types.ModuleType(name)

    monkeypatch.setattr(builtins, "__import__", puts_off)
    monkeypatch.delitem(sys.modules, "nativemem.sizes")
    get, _ = _lazy.room("nativemem", sizes="parse_size")
    assert get("parse_size")("1 KiB") == 1024


def test_a_name_of_a_room_is_told_where_it_is() -> None:
    """A stranger looks for it in the package first."""
    rooms = ("nativemem.manager", "nativemem.manager.collections", "nativemem.structures")
    names = {name: room for room in rooms for name in importlib.import_module(room).__all__ if name != "bound"}
    assert names == _api.ELSEWHERE
    for name, room in names.items():
        said = f"module 'nativemem' has no attribute '{name}'; it is in {room}"
        with pytest.raises(AttributeError, match=f"^{re.escape(said)}$"):
            getattr(nativemem, name)
    with pytest.raises(AttributeError, match=r"^module 'nativemem' has no attribute 'Bounded'$"):
        _ = nativemem.Bounded  # type: ignore[attr-defined]


class Put:
    """Stands for what CPython 3.15 has in the place of a module that is imported later."""


class Module(types.ModuleType):
    """As there: a name that is asked for is not put off any more."""

    def __getattribute__(self, name: str) -> Any:
        names = types.ModuleType.__getattribute__(self, "__dict__")
        if type(names.get(name)) is Put:
            names[name] = f"{name}, loaded"
        return types.ModuleType.__getattribute__(self, name)


def test_imports_that_the_interpreter_put_off_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the package's modules, also of those that come meanwhile, and of no others."""
    monkeypatch.setattr(types, "LazyImportType", Put, raising=False)
    ours, others, later = Module("nativemem._ours"), Module("nativememories"), Module("nativemem.later.on")
    for module in (ours, others, later):
        vars(module).update(first=Put(), second=7, third=Put())

    class Loads(Module):
        def __getattribute__(self, name: str) -> Any:
            if name == "fourth":
                monkeypatch.setitem(sys.modules, later.__name__, later)
            return super().__getattribute__(name)

    loads = Loads("nativemem._loads")
    vars(loads).update(fourth=Put())
    for module in (ours, others, loads):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    _lazy.import_what_was_put_off()  # no interpreter that puts off
    monkeypatch.setattr(sys, "lazy_modules", set(), raising=False)
    _lazy.import_what_was_put_off()  # none is put off
    assert type(vars(ours)["first"]) is Put
    monkeypatch.setattr(sys, "lazy_modules", {"nativemem._ours"}, raising=False)
    _lazy.import_what_was_put_off()
    for module in (ours, later):
        assert vars(module)["first"] == "first, loaded" and vars(module)["third"] == "third, loaded"
        assert vars(module)["second"] == 7
    assert vars(loads)["fourth"] == "fourth, loaded"
    assert type(vars(others)["first"]) is Put


@pytest.mark.usefixtures("needs_native")
def test_where_the_core_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """PYV-3: every finder is asked, also beside those that have no find_spec; without a file it is not there."""
    from nativemem.backends.native import loader

    def finder(found: object) -> types.SimpleNamespace:
        return types.SimpleNamespace(find_spec=lambda name, path: (asked.append((name, list(path))), found)[1])

    asked: list[Any] = []
    nowhere = [types.SimpleNamespace(), finder(None), finder(types.SimpleNamespace(origin=None))]
    there = [finder(types.SimpleNamespace(origin="/x/_core.so")), finder(types.SimpleNamespace(origin="/later"))]
    changed = types.SimpleNamespace(meta_path=nowhere + there, modules=sys.modules)
    monkeypatch.setattr(loader, "sys", changed)
    assert loader._shared_object() == "/x/_core.so"
    assert asked == [("nativemem._core", list(nativemem.__path__))] * 3
    changed.meta_path = nowhere
    with pytest.raises(ModuleNotFoundError, match="^No module named 'nativemem._core'$") as caught:
        loader._shared_object()
    assert caught.value.name == "nativemem._core"
