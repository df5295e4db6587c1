"""CLI-5: how a program is run where the interpreter reads no start-up file, part by part, in this process."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
import textwrap
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ctypes", reason="this interpreter was built without ctypes")

from nativemem.commands import start as starts

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the C library's names are Linux's")

C = ctypes.CDLL(None)


class Called(list[Any]):
    """What was run, in place of running it; ``failed`` is what each of it says."""

    failed = False


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> Called:
    log = Called()

    def keep(name: str) -> Any:
        return lambda *given: log.append((name, *given)) or log.failed

    for name in ("_call", "_run_command"):
        monkeypatch.setattr(starts, name, keep(name))
    return log


def flags_of(pointer: Any) -> tuple[int, int]:
    return pointer._obj.flags, pointer._obj.feature_version


@pytest.mark.parametrize(
    ("text", "dedented"),
    [
        ("", ""),
        ("a\n  b", "a\n  b"),
        ("  a\n  b\n", "a\nb\n"),
        ("  a\n    b\n  c", "a\n  b\nc"),
        ("    a\n  b", "  a\nb"),
        ("\t a\n\t b", "a\nb"),
        (" \ta\n  b", "\ta\n b"),
        ("\ta\n  b", "\ta\n  b"),
        ("  a\n \t \n\n  b", "a\n\n\nb"),
        ("  \n", "\n"),
        ("  a\n\x0cb", "  a\n\x0cb"),
    ],
)
def test_a_command_without_its_margin(text: str, dedented: str) -> None:
    """As python does it since 3.14."""
    assert starts._dedented(text) == dedented == textwrap.dedent(text)


def test_a_command_is_run_in_main(capfd: pytest.CaptureFixture[str]) -> None:
    """By the interpreter, decoded already, whatever it says of its own encoding."""
    seen: list[Any] = []
    sys.__dict__["_seen"] = seen
    try:
        run = "# coding: latin-1\n__import__('sys')._seen.append(('\N{EURO SIGN}', __name__))"
        assert starts._run_command(run) is False
        assert starts._run_command("__import__('sys')._seen.append(1); raise KeyError('told')") is True
    finally:
        del sys.__dict__["_seen"]
    assert seen == [("\N{EURO SIGN}", "__main__"), 1] and "KeyError: 'told'" in capfd.readouterr().err
    assert flags_of(starts._flags()) == (0, sys.version_info.minor) and flags_of(starts._flags(3))[0] == 3


def test_what_a_command_is_given_to(called: Called, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lines are those that a traceback shows, where this interpreter keeps them."""
    kept: list[Any] = []
    lines = SimpleNamespace(_register_code=lambda code, text, name: kept.append((code.co_filename, text, name)))
    for version, module, text, shown in (
        ((3, 13), None, "  a", []), ((3, 13), SimpleNamespace(), "  a", []),
        ((3, 13), lines, "  a", [("<string>", "  a", "<string>")]),
        ((3, 14), lines, "a", [("<string>", "a", "<string>")]), ((4, 0), None, "a", []),
    ):  # fmt: skip
        monkeypatch.setattr(sys, "version_info", version)
        monkeypatch.setitem(sys.modules, "linecache", module)  # type: ignore[arg-type]
        starts._given_command("  a")
        monkeypatch.undo()
        monkeypatch.setattr(starts, "_run_command", lambda text: called.append(("_run_command", text)))
        assert called == [("_run_command", text)] and kept == shown
        called.clear()
        kept.clear()


def test_files_of_c(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    names = [ctypes.c_char_p(os.fsencode(tmp_path / name)) for name in "ab"]
    opened = starts._file_at("fopen", names[0], ctypes.c_char_p(b"rb"))
    assert opened is not None and C.getc(opened) == ord("x") and C.fclose(opened) == 0
    assert starts._file_at("fopen", names[1], ctypes.c_char_p(b"rb")) is None
    assert ctypes.get_errno() == errno.ENOENT
    assert starts._call("Py_IsInitialized") is True and starts._call("PyErr_CheckSignals") is False


def test_the_folder_before_all(monkeypatch: pytest.MonkeyPatch) -> None:
    for before, after in ((["", "b"], ["a", "b"]), (["b", ""], ["b", ""]), ([], [])):
        monkeypatch.setattr(sys, "path", before)
        starts._before_all("a")
        assert sys.path == after


@pytest.mark.parametrize("newline", [False, True])
@pytest.mark.parametrize("skips", [False, True])
def test_a_file(
    called: Called, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, skips: bool, newline: bool
) -> None:
    """Its real folder is the first on the path; without its first line where -x says so, which still counts."""
    folder = tmp_path / "real"
    folder.mkdir()
    (folder / "a.py").write_text("one" + "\ntwo\n" * newline)
    (tmp_path / "link.py").symlink_to(folder / "a.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", "x"])
    assert starts._run_file("link.py", skips) is False
    ((name, function, file, path, closes, flags),) = called
    assert (name, function, path.value) == ("_call", "PyRun_AnyFileExFlags", os.fsencode(tmp_path / "link.py"))
    assert closes == 1 and flags_of(flags)[0] == 0 and sys.path == [str(folder), "x"]
    rest = bytes(iter(lambda: C.getc(file) & 0xFF, 0xFF))
    C.fclose(file)
    assert rest == (b"" if skips else b"one") + b"\ntwo\n" * newline


def test_a_folder_and_a_zip_file(called: Called, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """They are the first on the path, and what is in them is run by runpy."""
    (tmp_path / "folder").mkdir()
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as made:
        made.writestr("__main__.py", "")
    monkeypatch.chdir(tmp_path)
    for name in ("folder", "a.zip"):
        for before, rest in ((["", "x"], ["x"]), (["x"], ["x"]), (["x", ""], ["x", ""])):
            monkeypatch.setattr(sys, "path", before)
            starts._run_file(name, False)
            assert sys.path == [str(tmp_path / name), *rest]
            assert called == [("_run_command", "__import__('runpy')._run_module_as_main('__main__', False)")]
            called.clear()


def test_what_cannot_be_run(
    called: Called, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In python's words, with its exit code."""
    monkeypatch.setattr(sys, "path", ["x"])
    with pytest.raises(SystemExit) as ended:
        starts._run_file(str(tmp_path / "no.py"), False)
    assert ended.value.code == 2
    no = str(tmp_path / "no.py")
    said = f"{sys.executable}: can't open file {no!r}: [Errno 2] No such file or directory\n"
    assert capsys.readouterr().err == said
    monkeypatch.setattr(sys, "path_hooks", [])  # what an isolated interpreter may have made of folders
    monkeypatch.setattr(sys, "path_importer_cache", {})
    with pytest.raises(SystemExit) as ended:
        starts._run_file(str(tmp_path), False)
    assert ended.value.code == 1 and called == []
    assert capsys.readouterr().err == f"{sys.executable}: {str(tmp_path)!r} is a directory, cannot continue\n"


def flags(**more: int) -> Any:
    return SimpleNamespace(**{**dict.fromkeys(("interactive", "inspect", "quiet", "no_site"), 0), **more})


def test_standard_input(
    called: Called, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a file; under -i the command goes on with it by itself, and only the first lines are missing."""
    monkeypatch.setattr(sys, "flags", flags())
    assert starts._run_stdin() is False
    ((_, function, file, name, closes, given),) = called
    assert (function, name.value, closes, flags_of(given)[0]) == ("PyRun_AnyFileExFlags", b"<stdin>", 0, 0)
    assert C.fileno(file) == 0
    called.failed = True
    assert starts._run_stdin() is True
    called.clear()
    first = f"Python {sys.version} on {sys.platform}\n"
    second = 'Type "help", "copyright", "credits" or "license" for more information.\n'
    for more, said in (
        ({}, first + second), ({"no_site": 1}, first), ({"quiet": 1}, ""), ({"quiet": 1, "no_site": 1}, "")
    ):  # fmt: skip
        monkeypatch.setattr(sys, "flags", flags(interactive=1, **more))
        assert starts._run_stdin() is False and called == [] and capsys.readouterr().err == said


class Started:
    """What :func:`start` runs and leaves, of words as ``nativemem run`` makes them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch, self.log = monkeypatch, list[Any]()
        self.failed = False
        for name in ("_before_all", "_run_command", "_given_command", "_run_stdin", "_run_file"):
            monkeypatch.setattr(
                starts, name, lambda *given, name=name: self.log.append((name, *given)) or self.failed
            )
        monkeypatch.setattr(starts, "import_what_was_put_off", lambda: self.log.append("imports"))
        monkeypatch.setattr(sys, "flags", flags())
        monkeypatch.setattr(os, "isatty", lambda file: file == 0 and self.terminal)
        monkeypatch.delattr(sys, "last_value", raising=False)
        self.terminal = False
        self.exits: list[int] = []
        api = SimpleNamespace(Py_Exit=self.exits.append)
        monkeypatch.setattr(starts, "ctypes", SimpleNamespace(pythonapi=api))

    def __call__(self, kind: str, *words: str, options: tuple[str, ...] = ()) -> list[Any]:
        self.monkeypatch.setattr(sys, "argv", ["-c", kind, *words])
        self.monkeypatch.setattr(sys, "orig_argv", ["python", *options, "-c", "instead", kind, *words])
        self.log.clear()
        starts.start()
        assert self.log[0] == "imports"
        return self.log[1:]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    return Started(monkeypatch)


def test_which_program_is_run(started: Started) -> None:
    """Its words are what they would be without the command, in sys.argv and in sys.orig_argv."""
    assert started("c", "-c", "pass", "x", options=("-B",)) == [("_given_command", "pass")]
    assert (sys.argv, sys.orig_argv) == (["-c", "x"], ["python", "-B", "-c", "pass", "x"])
    main = "__import__('runpy')._run_module_as_main({!r})".format
    assert started("m", "-m", "it's", "x", "y") == [("_before_all", os.getcwd()), ("_run_command", main("it's"))]
    assert (sys.argv, sys.orig_argv) == (["-m", "x", "y"], ["python", "-m", "it's", "x", "y"])
    assert started("file", "a.py", "-x") == [("_run_file", "a.py", False)]
    assert (sys.argv, sys.orig_argv) == (["a.py", "-x"], ["python", "a.py", "-x"])
    assert started("file", "--", "a.py", "--", options=("-x",)) == [("_run_file", "a.py", True)]
    assert (sys.argv, sys.orig_argv) == (["a.py", "--"], ["python", "-x", "--", "a.py", "--"])
    for kind, words in (("", ()), ("file", ("-",)), ("file", ("-", "x"))):
        assert started(kind, *words) == [("_run_stdin",)]
        assert (sys.argv, sys.orig_argv) == ([*words] or [""], ["python", *words])
    assert started.exits == []


def test_a_program_that_fails(started: Started) -> None:
    """Exit code 1; but where the interpreter goes on with a terminal, or keeps an interrupt."""

    class Stopped(KeyboardInterrupt):
        pass

    started.failed = True
    for kind, words in (
        ("c", ("-c", "pass")), ("m", ("-m", "mod")), ("file", ("a.py",)), ("file", ("-",)), ("", ())
    ):  # fmt: skip
        started(kind, *words)
        assert started.exits == [1], kind
        started.exits.clear()
    for inspect, interactive, terminal, error, exits in (
        (1, 0, False, None, [1]), (1, 0, True, None, []), (1, 1, False, None, []), (0, 0, True, None, [1]),
        (0, 1, True, None, [1]), (0, 0, False, KeyboardInterrupt(), []), (0, 0, False, Stopped(), [1]),
        (0, 0, False, KeyError(), [1]),
    ):  # fmt: skip
        started.monkeypatch.setattr(sys, "flags", flags(inspect=inspect, interactive=interactive))
        started.monkeypatch.setattr(sys, "last_value", error, raising=False)
        started.terminal = terminal
        started("c", "-c", "pass")
        assert started.exits == exits, (inspect, interactive, terminal, error)
        started.exits.clear()
