"""Values that are no dataclasses: equal by each of their fields, hashable, printed, pickled, and never changed."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import itertools
import pickle
import pkgutil
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import nativemem
from nativemem.backends import forks
from nativemem.config import Settings
from nativemem.engine.install import Installed
from nativemem.errors import ConfigError


def test_what_is_installed() -> None:
    """ENG-1"""
    every = [
        Installed(*values) for values in itertools.product((False, True), (False, True), (False, True), (None, 7))
    ]
    for one, other in itertools.product(every, every):
        assert (one == other) == (one is other) == (not one != other)
    assert len({*every, *every}) == 16
    for one in every:
        assert hash(one) == hash(pickle.loads(pickle.dumps(one))) and pickle.loads(pickle.dumps(one)) == one
        assert bool(one) is (one.objects or one.arrays or one.raw)
        assert repr(one) == (
            f"Installed(objects={one.objects}, arrays={one.arrays}, raw={one.raw}, limit={one.limit})"
        )
        assert one != (one.objects, one.arrays, one.raw, one.limit)
        assert one.__eq__(3) is NotImplemented
    with pytest.raises(AttributeError, match="what was on when it was asked"):
        every[0].objects = True
    with pytest.raises(AttributeError):
        every[0].more = 1


DEFAULTS_OF_ALL = Path(__file__).parent / "defaults.txt"

#: without any variable
DEFAULTS: dict[str, Any] = {
    "backend": "auto", "disable": False, "test_oom_n": 0, "alloc_histo": False, "autoinstall": False, "limit": None,
    "arena_hint": None, "arena_cap": None, "profile": None, "profile_rate": 524288, "secure": False,
    "idle_decay": False, "provider": None, "manager": None, "region": 0, "retain": 268435456, "decay": 1.0,
}  # fmt: skip
#: variable, text, and what it changes
VARIABLES: list[tuple[str, str, dict[str, Any]]] = [
    ("NATIVEMEM_BACKEND", "pure", {"backend": "pure"}),
    ("NATIVEMEM_DISABLE", "1", {"disable": True}),
    ("NATIVEMEM_TEST_OOM_N", "7", {"test_oom_n": 7}),
    ("NATIVEMEM_ALLOC_HISTO", "1", {"alloc_histo": True}),
    ("NATIVEMEM_AUTOINSTALL", "1", {"autoinstall": True}),
    ("NATIVEMEM_LIMIT", "64 MiB", {"limit": 64 << 20}),
    ("NATIVEMEM_ARENA_HINT", "8 KiB", {"arena_hint": 8192}),
    ("NATIVEMEM_ARENA_CAP", "9000", {"arena_cap": 9000}),
    ("NATIVEMEM_PROFILE", "x.nm", {"profile": "x.nm"}),
    ("NATIVEMEM_PROFILE_RATE", "1 KiB", {"profile_rate": 1024}),
    ("NATIVEMEM_TEST_OOM_N", "9" * 18, {"test_oom_n": 10**18 - 1}),
    ("NATIVEMEM_SECURE", "1", {"secure": True}),
    ("NATIVEMEM_IDLE_DECAY", "1", {"idle_decay": True}),
    ("NATIVEMEM_PROVIDER", "alloc", {"provider": "alloc"}),
    ("NATIVEMEM_MANAGER", "server", {"manager": "server"}),
]


def test_settings() -> None:
    """CFG-1: each variable in its place, and none in another's."""
    plain = Settings.from_env({})
    assert {name: getattr(plain, name) for name in DEFAULTS} == DEFAULTS
    assert plain == Settings() and repr(Settings(limit=7, backend="pure")) == "Settings(limit=7, backend='pure')"
    found = [plain]
    for variable, text, changed in VARIABLES:
        settings = Settings.from_env({variable: text})
        names = [name for name in Settings.__annotations__ if getattr(settings, name) != getattr(plain, name)]
        assert {name: getattr(settings, name) for name in names} == changed
        found.append(settings)
    for one, two in itertools.product(found, found):
        assert (one == two) == (one is two)
    assert plain != DEFAULTS and plain.__eq__(DEFAULTS) is NotImplemented
    with pytest.raises(AttributeError, match="settings do not change"):
        plain.limit = 3
    with pytest.raises(ConfigError, match="there is no 'speed'"):
        Settings(speed=3)


@pytest.mark.parametrize("text", ["", "9" * 19, "-1", "1.5", "\u0663", " 1", "x"])
def test_numbers_and_switches_that_are_none(text: str) -> None:
    """CFG-1: the message has the variable, what it takes, and the value."""
    for variable, takes in (("NATIVEMEM_TEST_OOM_N", "a whole number"), ("NATIVEMEM_DISABLE", "1 (on) or 0 (off)")):
        with pytest.raises(ConfigError) as caught:
            Settings.from_env({variable: text})
        assert str(caught.value) == f"{variable}: takes {takes}, not {text!r}"
    with pytest.raises(ConfigError, match="env: takes a mapping or None, not 3"):
        Settings.from_env(3)  # type: ignore[arg-type]


def modules() -> Iterator[ModuleType]:
    """Each module of the package but those of one version of Python; what stands on a package that is not here, or
    on the core where there is none, is left out."""
    for module in pkgutil.walk_packages(nativemem.__path__, "nativemem."):
        if module.name.rpartition(".")[2] in ("__main__", "auto", "ffi_build", "_core", "inherited", "windows"):
            continue
        try:
            loaded = importlib.import_module(module.name)
        except ImportError:
            continue
        yield loaded


def test_records_do_not_change() -> None:
    """Each public dataclass is frozen: what was measured stays what it was, and can be a key."""
    found = []
    for module in modules():
        if module.__name__.startswith("nativemem.testing"):  # what an attempt is, is found out step by step
            continue
        for name in getattr(module, "__all__", ()):
            thing = getattr(module, name, None)
            if dataclasses.is_dataclass(thing) and isinstance(thing, type) and thing.__module__ == module.__name__:
                found.append(f"{module.__name__}.{name}")
                assert thing.__dataclass_params__.frozen, found[-1]  # type: ignore[attr-defined]
    assert len(found) > 20


def defaults() -> list[str]:
    """A line for each function and method of a public name of any module that has defaults: its parameters."""
    lines = set()
    for module in modules():
        for name in getattr(module, "__all__", ()):
            thing = getattr(module, name, None)
            members = vars(thing) if isinstance(thing, type) else {"": thing}
            for member, function in members.items():
                function = inspect.unwrap(getattr(function, "__func__", function))
                if not inspect.isfunction(function) or not function.__module__.startswith("nativemem"):
                    continue
                given = [each for each in inspect.signature(function).parameters.values()
                         if each.default is not each.empty]  # fmt: skip
                said = ", ".join(f"{each.name}={_shown(each.default)}" for each in given)
                if said:
                    where = function.__module__.removeprefix("nativemem.")
                    lines.add(f"{where}: {name}{'.' * bool(member)}{member}({said})")
    return sorted(lines)


def _shown(value: Any) -> str:
    return value.__name__ if callable(value) else "object()" if type(value) is object else repr(value)


def test_what_a_parameter_is_where_it_is_not_given() -> None:
    """Of each public function and method. ``python tests/test_values.py`` writes the file anew."""
    written = DEFAULTS_OF_ALL.read_text(encoding="utf-8").splitlines()
    found = defaults()
    wrong = [line for line in found if line not in written]
    assert not wrong, "not in tests/defaults.txt: " + "; ".join(wrong)
    assert len(found) > 0.8 * len(written)


#: these are made anew in the child
MADE_ANEW = {"nativemem.engine.install._lock", "nativemem.interop.memlib._lock"}


def test_every_lock_is_free_in_a_child_of_fork() -> None:
    """BLOCK-9: also where another thread has it just then: it is held across each fork."""
    loaded = [(module.__name__, vars(module)) for module in modules()
              if not module.__name__.startswith("nativemem.testing")]  # fmt: skip
    held = {id(lock) for lock in (*forks._outer, *forks._inner)}
    kinds = (type(threading.Lock()), type(threading.RLock()))
    locks = {f"{module}.{name}": thing for module, names in loaded for name, thing in names.items()
             if isinstance(thing, kinds)}  # fmt: skip
    assert {name for name, lock in locks.items() if id(lock) not in held} == MADE_ANEW
    assert len(locks) > 8


if __name__ == "__main__":
    DEFAULTS_OF_ALL.write_text("".join(f"{line}\n" for line in defaults()), encoding="utf-8")
