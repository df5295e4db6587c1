"""Which backend a process has, and what it says where that is not the one that was asked for: each answer, in this
process, as an interpreter, a build or an environment of another kind has it."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nativemem.backends import forks, selection
from nativemem.errors import ConfigError, NativeUnavailable, OutOfMemory

INSTALL = "from its sources: USE_NATIVE_MEM=1 pip install --no-cache-dir --force-reinstall ."


@pytest.fixture
def has_core(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Has a process have a core, or none, under no setting."""
    monkeypatch.delenv("NATIVEMEM_DISABLE", raising=False)
    monkeypatch.delenv("NATIVEMEM_BACKEND", raising=False)
    return lambda has: monkeypatch.setattr(selection, "_has_core", lambda: has)


def test_the_backend_of_a_name(has_core: Callable[[bool], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """With a core and without, and under the kill switch."""
    monkeypatch.setattr(selection, "missing_core", lambda: ("reason", "cure"))
    has_core(True)
    assert [selection.select(name) for name in ("auto", "native", "pure")] == ["native", "native", "pure"]
    has_core(False)
    assert [selection.select(name) for name in ("auto", "pure")] == ["pure", "pure"]
    with pytest.raises(NativeUnavailable, match="^the native backend was asked for: reason") as caught:
        selection.select("native")
    assert caught.value.suggestion == "cure"
    for switch in ("0", "1"):
        monkeypatch.setenv("NATIVEMEM_DISABLE", switch)
        for bad in ("", "other"):
            with pytest.raises(ConfigError, match=f"^backend: takes auto, native or pure, not {bad!r}"):
                selection.select(bad)
    has_core(True)
    assert [selection.select(name) for name in ("auto", "native", "pure")] == ["pure"] * 3


def test_what_the_build_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing where there is no such file, or another."""
    monkeypatch.setattr(selection, "PACKAGE", str(tmp_path))
    assert selection.build() == {}
    for text, found in (("{", {}), ("[1]", {}), ('{"native": true}', {"native": True}), ("\xff", {})):
        (tmp_path / "_build.json").write_text(text, encoding="latin-1")
        assert selection.build() == found


def test_why_there_is_no_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first that holds, of each kind of interpreter, process and build."""
    built: dict[str, Any] = {}
    monkeypatch.setattr(selection, "build", lambda: built)
    monkeypatch.setattr(selection, "in_main_interpreter", lambda: True)
    monkeypatch.setattr(selection, "is_free_threaded", lambda: False)
    answers = [
        ({}, "these are sources that were never built", "install them: USE_NATIVE_MEM=1 pip install ."),
        (
            {"native": True},
            f"its core was built for another Python than {sys.version.split()[0]}",
            f"install it for this one, {INSTALL}",
        ),
        (
            {"native": False, "reason": "no compiler"},
            "the core was not built: no compiler",
            f"put that right, then install it {INSTALL}",
        ),
        (
            {"native": False, "reason": None},
            "it was built without the core (USE_NATIVE_MEM=0)",
            f"install it, with a C compiler at hand, {INSTALL}",
        ),
    ]
    if sys.implementation.name == "cpython" and sys.maxsize >> 32:
        for record, reason, cure in answers:
            built.clear()
            built.update(record)
            assert selection.missing_core() == (reason, cure)
    monkeypatch.setattr(selection, "is_free_threaded", lambda: True)
    fake = SimpleNamespace(**{name: getattr(sys, name) for name in ("implementation", "maxsize", "version")})
    monkeypatch.setattr(selection, "sys", fake)
    fake.implementation = SimpleNamespace(name="cpython")
    fake.maxsize = 1 << 62
    lock = "take the interpreter of that version that has the lock (no t in its name)"
    for version in ((3, 13, 9), (3, 12, 0)):
        fake.version_info = version
        assert selection.missing_core() == (
            "the core does not run on a free-threaded interpreter before 3.14",
            lock,
        )
    for version in ((3, 14, 0), (3, 15, 1)):
        fake.version_info = version
        assert selection.missing_core() == answers[-1][1:]
        assert selection.without_lock() == (
            "the core is built for a free-threaded interpreter where it is asked for, by USE_NATIVE_MEM=1"
        )
    fake.maxsize = (1 << 31) - 1
    assert selection.missing_core() == (
        "the core needs a 64-bit interpreter, and this one has 32 bits",
        "run the program on one of 64 bits",
    )
    fake.maxsize = 1 << 32
    assert selection.missing_core() == answers[-1][1:]
    fake.implementation.name = "pypy"
    assert selection.missing_core() == ("the core needs CPython, and this is pypy", "run the program on CPython")
    monkeypatch.setattr(selection, "in_main_interpreter", lambda: False)
    assert selection.missing_core() == (
        "an isolated subinterpreter does not load the core",
        "ask for it in the main interpreter",
    )


def test_why_a_process_is_pure(has_core: Callable[[bool], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """The switch, the setting, the build, in that order; and what is refused for that."""
    monkeypatch.setattr(selection, "missing_core", lambda: ("no core", "build it"))
    has_core(True)
    assert selection.why_pure() is None
    assert str(selection.unavailable("a port")) == "a port needs the native core, and this is of the pure backend"
    assert selection.need_native("a port") is None  # type: ignore[func-returns-value]
    has_core(False)
    reasons = [("no core", "build it")]
    assert selection.why_pure() == reasons[0]
    monkeypatch.setenv("NATIVEMEM_BACKEND", "pure")
    reasons.append(
        (
            "NATIVEMEM_BACKEND=pure is set",
            "leave NATIVEMEM_BACKEND unset (a package with the core is installed by USE_NATIVE_MEM=1)",
        )
    )
    assert selection.why_pure() == reasons[1]
    monkeypatch.setenv("NATIVEMEM_DISABLE", "1")
    reasons.append(("NATIVEMEM_DISABLE=1 is set", "leave NATIVEMEM_DISABLE unset"))
    assert selection.why_pure() == reasons[2]
    for reason, cure in reversed(reasons):
        for call in (selection.need_native, selection.native_core):
            with pytest.raises(NativeUnavailable) as caught:
                call("a port")
            text = f"a port needs the native core, and this process runs on the pure backend: {reason}"
            assert (str(caught.value).splitlines()[0], caught.value.suggestion) == (text, cure)
        monkeypatch.delenv("NATIVEMEM_DISABLE", raising=False)
        if reason != reasons[2][0]:
            monkeypatch.delenv("NATIVEMEM_BACKEND", raising=False)


def test_what_needs_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "is_free_threaded", lambda: False)
    assert selection.need_lock("a thing") is None  # type: ignore[func-returns-value]
    monkeypatch.setattr(selection, "is_free_threaded", lambda: True)
    with pytest.raises(NativeUnavailable, match="^a thing: not on a free-threaded interpreter, whose threads"):
        selection.need_lock("a thing")


@pytest.mark.parametrize(("version", "name"), [((3, 12), "_xxsubinterpreters"), ((3, 13), "_interpreters")])
def test_in_which_interpreter(version: tuple[int, int], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The main interpreter's main thread may set handlers of signals, so nothing is loaded there to tell. Elsewhere
    a module does; where there is no such module there is but one."""
    monkeypatch.setattr(selection, "sys", SimpleNamespace(version_info=version))
    asked: list[str] = []

    def imported(module: str) -> Any:
        asked.append(module)
        return SimpleNamespace(get_current=lambda: numbers[0], get_main=lambda: numbers[1])

    def elsewhere(number: int, handler: object) -> None:
        raise ValueError("signal only works in main thread of the main interpreter")

    monkeypatch.setattr(selection, "import_module", imported)
    numbers = [1, 0]
    assert selection.in_main_interpreter() is True and asked == []
    monkeypatch.setattr(selection, "_signal", SimpleNamespace(SIGINT=2, signal=elsewhere))
    numbers = [0, 0]
    assert selection.in_main_interpreter() is True
    numbers = [1, 0]
    assert selection.in_main_interpreter() is False
    assert asked == [name, name]

    def missing(module: str) -> Any:
        raise ImportError(module)

    monkeypatch.setattr(selection, "import_module", missing)
    assert selection.in_main_interpreter() is True


@pytest.mark.parametrize(
    ("error", "main", "raised"),
    [
        (ModuleNotFoundError("x", name="nativemem._core"), True, False),
        (ModuleNotFoundError("x", name="other"), True, True),
        (ModuleNotFoundError("x", name="other"), False, False),
        (ImportError("x", name="nativemem._core"), True, True),
        (ImportError("x"), False, False),
    ],
)
def test_an_extension_that_does_not_load(
    error: ImportError, main: bool, raised: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is broken is an error, but in another interpreter."""

    class Finder:
        @staticmethod
        def find_spec(name: str, path: Any, target: Any = None) -> None:
            if name == "nativemem.backends.native.loader":
                raise error

    native = sys.modules.get("nativemem.backends.native") or types.ModuleType("nativemem.backends.native")
    monkeypatch.setitem(sys.modules, "nativemem.backends.native", native)
    monkeypatch.delattr(native, "loader", raising=False)
    monkeypatch.delitem(sys.modules, "nativemem.backends.native.loader", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    monkeypatch.setattr(selection, "in_main_interpreter", lambda: main)
    if raised:
        with pytest.raises(type(error)) as caught:
            selection._has_core()
        assert caught.value is error
    else:
        assert selection._has_core() is False


# --- the shared object ---


def test_where_the_shared_object_is(needs_native: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the first finder that knows; finders without a method are passed over."""
    from nativemem.backends.native import loader

    def finder(origin: str | None, knows: bool = True) -> Any:
        spec = SimpleNamespace(origin=origin) if knows else None
        return SimpleNamespace(find_spec=lambda name, path: asked.append((name, path)) or spec)

    asked: list[Any] = []
    finders = [SimpleNamespace(), finder(None, False), finder(None), finder("first"), finder("second")]
    monkeypatch.setattr(loader, "sys", SimpleNamespace(meta_path=finders, modules=sys.modules))
    assert loader._shared_object() == "first"
    assert asked == [("nativemem._core", sys.modules["nativemem"].__path__)] * 3
    del finders[3:]
    with pytest.raises(ModuleNotFoundError, match="^No module named 'nativemem._core'") as caught:
        loader._shared_object()
    assert caught.value.name == "nativemem._core"
    assert loader._load_dataplane() is loader.dataplane


def test_a_region_that_is_refused(needs_native: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """And one that is there is left alone."""
    from nativemem.backends.native import loader

    asked: list[Any] = []
    plane = SimpleNamespace(
        region_size=lambda: 0, region_init=lambda *bounds: asked.append(bounds) or len(asked) > 1
    )
    monkeypatch.setattr(loader, "dataplane", plane)
    with pytest.raises(OutOfMemory, match="^the system refused the first memory for the heap") as caught:
        loader.start_region()
    assert caught.value.suggestion == "raise the limit on address space (ulimit -v)"
    loader.start_region()
    assert len(asked) == 2 and len(asked[0]) == 3
    plane.region_size = lambda: 1
    loader.start_region()
    assert len(asked) == 2


# --- forks ---


def test_locks_are_held_across_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the calls, the outer ones first, and given back in the other; what was not taken is
    not given back."""
    noted: list[str] = []

    def lock(name: str) -> Any:
        return SimpleNamespace(acquire=lambda: noted.append(f"+{name}"), release=lambda: noted.append(f"-{name}"))

    for name in ("_outer", "_inner"):
        monkeypatch.setattr(forks, name, [])
    monkeypatch.setattr(forks, "_held", ())
    forks.hold(lock("a"), inner=True)
    forks.hold(lock("b"))
    forks.hold(lock("c"), inner=True)
    forks.hold(lock("d"))
    forks._after()
    assert noted == []
    forks._before()
    assert noted == ["+b", "+d", "+a", "+c"]
    noted.clear()
    forks._after()
    forks._after()
    assert noted == ["-c", "-a", "-d", "-b"]
