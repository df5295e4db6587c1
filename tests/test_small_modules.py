"""The package's smallest modules, in this process: what runs at an import, and what is put off."""

from __future__ import annotations

import atexit
import os
import runpy
import sys
import types
import warnings
from types import SimpleNamespace
from typing import Any

import pytest

import nativemem
from nativemem import _frames, _lazy
from nativemem._unraisable import unraisable
from nativemem.backends import selection
from nativemem.commands import cli
from nativemem.engine import install, profiling, startup
from nativemem.errors import ConfigError, NativeUnavailable
from nativemem.observe import control

# ---- exceptions that no caller can be given -----------------------------------------------------------------


def reported(monkeypatch: pytest.MonkeyPatch, hook: Any = None) -> Any:
    """What the hook is told of an error that is being handled."""
    told: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", hook or told.append)
    try:
        raise KeyError("x")
    except KeyError as error:
        unraisable("ignored in", 5)
        return told, error


def test_what_a_hook_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (argument,), error = reported(monkeypatch)
    assert (argument.exc_type, argument.exc_value, argument.exc_traceback) == (KeyError, error, error.__traceback__)
    assert (argument.err_msg, argument.object) == ("ignored in", 5)
    assert capsys.readouterr().err == ""


def test_what_is_printed_of_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the hook is the interpreter's own, or passes on to that, which takes nothing but its own argument."""

    def passes_on(argument: Any) -> None:
        raise TypeError

    for hook in (sys.__unraisablehook__, passes_on):
        reported(monkeypatch, hook)
        lines = capsys.readouterr().err.splitlines()
        assert lines[0] == "ignored in: 5" and lines[1].startswith("Traceback") and lines[-1] == "KeyError: 'x'"
    monkeypatch.setattr(sys, "stderr", None)
    reported(monkeypatch, sys.__unraisablehook__)


# ---- what is put off ----------------------------------------------------------------------------------------


def test_a_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first use of a name loads its module, and no other."""
    loaded: list[str] = []

    def load(name: str) -> Any:
        loaded.append(name)
        return SimpleNamespace(A=name + ".A", C=name + ".C")

    monkeypatch.setattr(_lazy, "import_module", load)
    get, names = _lazy.room("package", second="C", first="B A")
    assert names == ["A", "B", "C"] and loaded == []
    assert (get("A"), get("C")) == ("package.first.A", "package.second.C")
    assert loaded == ["package.first", "package.second"]
    with pytest.raises(AttributeError, match="^module 'package' has no attribute 'D'$"):
        get("D")
    stands: Any = _lazy._Lazy("first")
    assert stands.A == "nativemem.first.A"


def test_imports_that_the_interpreter_has_put_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the package's modules, also of those that this brings; nothing where nothing is put off."""

    class Lazy:
        """In place of types.LazyImportType."""

    class Module(types.ModuleType):
        def __getattribute__(self, name: str) -> Any:
            found = super().__getattribute__(name)
            if type(found) is Lazy:
                done.append(f"{super().__getattribute__('__name__')}.{name}")
                new = Module("nativemem.brought")
                new.__dict__["inner"] = Lazy()
                sys.modules.setdefault("nativemem.brought", new)
                self.__dict__[name] = None
            return found

    done: list[str] = []
    modules = {name: Module(name) for name in ("nativemem.one", "nativememother", "other")}
    for module in modules.values():
        module.__dict__.update(a=Lazy(), b=5)
    none: Any = None
    monkeypatch.setattr(sys, "modules", {**modules, "types": types, "nativemem.gone": none})
    monkeypatch.setattr(types, "LazyImportType", Lazy, raising=False)
    for lazy in (None, set()):
        monkeypatch.setattr(sys, "lazy_modules", lazy, raising=False)
        _lazy.import_what_was_put_off()
        assert done == []
    monkeypatch.setattr(sys, "lazy_modules", {"x"}, raising=False)
    _lazy.import_what_was_put_off()
    assert done == ["nativemem.one.a", "nativemem.brought.inner"]


# ---- frames -------------------------------------------------------------------------------------------------


def test_frames_of_this_thread() -> None:
    """0 is the caller; None where there are no more."""

    def inner(depth: int) -> Any:
        return _frames.frame_at(depth)

    assert inner(0).f_code is inner.__code__ and inner(1).f_code is sys._getframe().f_code
    assert _frames.frame_at(1_000_000) is None
    here = _frames.places(1)
    line = sys._getframe().f_lineno - 1
    ((file, number, function),) = here
    assert (file, number) == (__file__, line) and function.endswith("test_frames_of_this_thread")
    assert len(_frames.places(3)) == 3 and _frames.places(3)[0] != _frames.places(3)[1] and _frames.places(0) == ()
    assert 2 < len(_frames.places(10_000)) < 10_000


def test_sites_that_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """By their place in the code, a thousand of them; the first frames are taken for the package's."""
    kept: dict[Any, str] = {}
    monkeypatch.setattr(_frames, "_sites", kept)
    found = [_frames.site(0) for _ in range(2)]
    assert found == [f"{__file__}:{sys._getframe().f_lineno - 1}"] * 2 and len(kept) == 1
    ((key, _),) = kept.items()
    kept[key] = "remembered"
    assert {_frames.site(0) for _ in range(1)} == {f"{__file__}:{sys._getframe().f_lineno}"} and len(kept) == 2

    def one_more() -> str:
        return _frames.site(1)

    assert one_more() == f"{__file__}:{sys._getframe().f_lineno}"
    kept.clear()
    kept.update({(i, i): "x" for i in range(999)})
    _frames.site(0)
    assert len(kept) == 1000
    _frames.site(0)
    assert len(kept) == 1
    assert _frames.site(1_000_000) == "an unknown place:0"


# ---- what runs at an import ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "orig", "asks"),
    [
        (["/bin/nativemem", "doctor"], [], True),
        (["C:\\bin\\nativemem.exe", "doctor", "--json"], [], True),
        (["nativemem", "run", "doctor"], [], False),
        (["nativemem"], [], False),
        (["other", "doctor"], [], False),
        (["-m", "doctor"], ["python", "-m", "nativemem", "doctor"], True),
        (["-m", "doctor"], ["python", "-m", "other", "doctor"], False),
        (["-c", "doctor"], ["python", "-c", "nativemem", "doctor"], False),
        ([], [], False),
        ([""], [], False),
    ],
)
def test_whether_doctor_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, argv: list[str], orig: list[str], asks: bool
) -> None:
    """It shows a variable with a bad value as one finding among others; elsewhere that shows at once."""
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "orig_argv", orig)
    assert nativemem._asks_doctor() is asks
    monkeypatch.delattr(sys, "argv")
    assert nativemem._asks_doctor() is False


def test_the_command_of_a_module(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """CLI-5: nothing is imported from the folder that it is given in."""
    here = os.getcwd()
    monkeypatch.setattr(cli, "main", lambda: seen.append(sys.path[:]) or 7)
    seen: list[list[str]] = []
    for before, after in (([here, "x"], ["x"]), (["x", here], ["x", here]), ([here, here], [here])):
        monkeypatch.setattr(sys, "path", [*before, *[path for path in sys.path if path not in (here, "x")]])
        with pytest.raises(SystemExit) as ended:
            runpy.run_module("nativemem.__main__", run_name="__main__")
        assert ended.value.code == 7 and seen.pop()[: len(after)] == after
        monkeypatch.undo()
        monkeypatch.setattr(cli, "main", lambda: seen.append(sys.path[:]) or 7)
    monkeypatch.setattr(os, "getcwd", lambda: os.readlink("/no such file"))
    with pytest.raises(SystemExit):
        runpy.run_module("nativemem.__main__", run_name="__main__")


class Auto:
    """What ``nativemem.auto`` does, of parts that say so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[Any] = []
        self.monkeypatch = monkeypatch
        self.installs: Any = True
        self.profile: Any = None
        self.main = True

        def installed(limit: int | None) -> Any:
            self.log.append(("install", limit))
            if isinstance(self.installs, Exception):
                raise self.installs
            return self.installs

        monkeypatch.setattr(selection, "in_main_interpreter", lambda: self.main)
        monkeypatch.setattr(install, "install", installed)
        monkeypatch.setattr(
            startup, "begin", lambda packed: self.log.append(("run", packed, "_NATIVEMEM_RUN" in os.environ))
        )
        monkeypatch.setattr(profiling, "from_environment", lambda: self.profile)
        monkeypatch.setattr(profiling, "begin", lambda *given: self.log.append(("profile", *given)))
        monkeypatch.setattr(atexit, "register", lambda function: self.log.append(function))
        monkeypatch.setattr(control, "from_environment", lambda: self.log.append("control"))

    def __call__(self, **env: str) -> list[Any]:
        for name in [name for name in os.environ if name.startswith(("NATIVEMEM_", "_NATIVEMEM"))]:
            self.monkeypatch.delenv(name)
        for name, value in env.items():
            self.monkeypatch.setenv(name, value)
        self.log.clear()
        runpy.run_module("nativemem.auto")
        return list(self.log)


def test_the_engine_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """ENG-6: with the settings of the environment; a program of `nativemem run` is begun instead."""
    auto = Auto(monkeypatch)
    assert auto() == [("install", None)]
    assert auto(NATIVEMEM_LIMIT="1 MiB") == [("install", 1 << 20)]
    auto.profile = ("a.nm", 7)
    assert auto() == [("install", None), ("profile", "a.nm", 7), profiling.stop]
    auto.installs = False
    assert auto() == [("install", None)]
    auto.installs, auto.profile = True, None
    assert auto(NATIVEMEM_CONTROL="/x") == [("install", None), "control"]
    assert auto(NATIVEMEM_CONTROL_SIGNAL="USR2") == [("install", None), "control"]
    packed = startup.pack(None, None, None)
    assert auto(_NATIVEMEM_RUN=packed) == [("run", packed, False)] and "_NATIVEMEM_RUN" not in os.environ
    assert auto(_NATIVEMEM_RUN=packed, NATIVEMEM_CONTROL="/x") == [("run", packed, False), "control"]
    auto.main = False
    assert auto(_NATIVEMEM_RUN=packed, NATIVEMEM_CONTROL="/x") == [] and "_NATIVEMEM_RUN" in os.environ


def test_an_engine_that_cannot_run_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """ENG-6: the program is started all the same, with one warning; a bad value is its author's to see."""
    auto = Auto(monkeypatch)
    for error, says in (
        (NativeUnavailable("no core"), "the engine is off: no core"),
        (ConfigError("profile: no"), "there is no profile: profile: no"),
        (ConfigError("control: no"), "there is no control socket: control: no"),
    ):
        auto.installs = error
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            assert auto() == [("install", None)]
        (warning,) = seen
        assert warning.category is RuntimeWarning
        assert str(warning.message).splitlines()[0] == f"nativemem.auto: {says}"
    with pytest.raises(ConfigError, match="^NATIVEMEM_LIMIT"):
        auto(NATIVEMEM_LIMIT="much")
    assert auto.log == []
