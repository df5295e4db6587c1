"""CLI-5: the command line of ``nativemem run`` taken apart, and what it becomes, in this process."""

from __future__ import annotations

import argparse
import os
import site
import sys
from typing import Any

import pytest

from nativemem.commands import run
from nativemem.engine import startup
from nativemem.errors import ConfigError
from nativemem.units import LEAST_OVER_HELD

#: a line; the own words, the interpreter's options, the kind, the program, what stands before its letter
LINES: list[tuple[str, list[str], list[str], str | None, list[str], list[str]]] = [
    ("a.py", [], [], "file", ["a.py"], []),
    ("a.py -x --budget 3", [], [], "file", ["a.py", "-x", "--budget", "3"], []),
    ("- x", [], [], "file", ["-", "x"], []),
    ("-- a.py", [], [], "file", ["--", "a.py"], []),
    ("--", [], [], None, [], []),
    ("", [], [], None, [], []),
    ("-c pass -x", [], [], "c", ["-c", "pass", "-x"], []),
    ("-cpass x", [], [], "c", ["-cpass", "x"], []),
    ("-m mod x", [], [], "m", ["-m", "mod", "x"], []),
    ("-Bm mod", [], [], "m", ["-Bm", "mod"], ["-B"]),
    ("-BEcpass", [], [], "c", ["-BEcpass"], ["-BE"]),
    ("-B -E a.py", [], ["-B", "-E"], "file", ["a.py"], []),
    ("-W ignore a.py", [], ["-W", "ignore"], "file", ["a.py"], []),
    ("-Wignore -Xdev a.py", [], ["-Wignore", "-Xdev"], "file", ["a.py"], []),
    ("-BW ignore a.py", [], ["-BW", "ignore"], "file", ["a.py"], []),
    ("--budget 3 a.py", ["--budget", "3"], [], "file", ["a.py"], []),
    ("--budget=3 a.py", ["--budget=3"], [], "file", ["a.py"], []),
    ("--profile a.py", ["--profile"], [], "file", ["a.py"], []),
    ("-o out --summary s -B a.py", ["-o", "out", "--summary", "s"], ["-B"], "file", ["a.py"], []),
    ("-h a.py", ["-h"], [], "file", ["a.py"], []),
    ("--help-all", [], ["--help-all"], None, [], []),
    ("--version", ["--version"], [], None, [], []),
    ("--check-hash-based-pycs never a.py", [], ["--check-hash-based-pycs", "never"], "file", ["a.py"], []),
    ("--other a.py", ["--other"], [], "file", ["a.py"], []),
    ("--budget", ["--budget"], [], None, [], []),
    ("-cp", [], [], "c", ["-cp"], []),
    ("-Bmp", [], [], "m", ["-Bmp"], ["-B"]),
    ("--help-all a.py x", [], ["--help-all"], "file", ["a.py", "x"], []),
    ("--check-hash-based-pycs", [], ["--check-hash-based-pycs"], None, [], []),
    ("-W ignore -X dev -m mod", [], ["-W", "ignore", "-X", "dev"], "m", ["-m", "mod"], []),
]


@pytest.mark.parametrize(("line", "own", "options", "kind", "program", "last"), LINES)
def test_a_line(
    line: str, own: list[str], options: list[str], kind: str | None, program: list[str], last: list[str]
) -> None:
    words = run.split(line.split())
    assert (words.own, words.options, words.kind, words.program, words.last) == (own, options, kind, program, last)


def test_words_that_python_has_not() -> None:
    for line, says in (
        ("-c", "-c: give a command, as to python"),
        ("-Bm", "-m: give a module, as to python"),
        ("-W", "-W: give a value, as to python"),
        ("-BX", "-X: give a value, as to python"),
        ("-Bk a.py", "there is no option -k, here or of python's"),
    ):
        with pytest.raises(run._Mistake) as caught:
            run.split(line.split())
        assert str(caught.value) == says


def test_the_letters_and_the_program_apart() -> None:
    assert run.letters_of(["-BE", "-Wignore", "-X", "dev", "--help", "-", "x", "-sXm"]) == set("BEWXs")
    for line, apart in (
        ("-c pass x", ["-c", "pass", "x"]),
        ("-cpass x", ["-c", "pass", "x"]),
        ("-Bm mod", ["-m", "mod"]),
        ("-Bmmod x", ["-m", "mod", "x"]),
        ("a.py -c x", ["a.py", "-c", "x"]),
    ):
        assert run.split(line.split()).apart() == apart
    assert run.split(["-B", "-Wx", "-sm", "mod"]).letters() == set("BWs")


def test_the_options_of_this_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    for line, options in (
        ("-B -m nativemem run a.py", ["-B"]),
        ("-Wignore -Em nativemem run", ["-Wignore", "-E"]),
        ("-B -m other run", []),
        ("-B nativemem run", []),
        ("-B -c nativemem", []),
        ("-k -m nativemem", []),
        ("-m nativemem", []),
    ):
        monkeypatch.setattr(sys, "orig_argv", ["python", *line.split()])
        assert run.options_of_this() == options, line


class Became(Exception):
    """With the command and the environment."""


def become(monkeypatch: pytest.MonkeyPatch, line: str, files: bool = True) -> tuple[list[str], dict[str, str]]:
    def taken(command: list[str], env: dict[str, str]) -> int:
        raise Became(command, env)

    monkeypatch.setattr(run, "_become", taken)
    monkeypatch.setattr(run, "start_up_files", lambda letters: ["file"] * files)
    monkeypatch.setattr(run, "options_of_this", lambda: ["-q"])
    parser = argparse.ArgumentParser("run")
    run.configure(parser)
    with pytest.raises(Became) as caught:
        run.execute(parser, line.split())
    command, env = caught.value.args
    return command, env


def test_what_it_becomes(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NATIVEMEM_AUTOINSTALL", raising=False)
    command, env = become(monkeypatch, "--budget 8MiB --summary s.json -B a.py x")
    assert command == [sys.executable, "-q", "-B", "a.py", "x"]
    assert env[run.AUTOINSTALL] == "1"
    assert env[run.RUN] == run.pack(8 << 20, str(tmp_path / "s.json"), None, None, None)
    monkeypatch.setenv("NATIVEMEM_AUTOINSTALL", "0")
    _, env = become(monkeypatch, "-o s.json -Bc pass")
    assert env[run.RUN] == run.pack(None, str(tmp_path / "s.json"), "0", None, None)
    _, env = become(monkeypatch, "--profile=1KiB -o p.nm --summary s.json -c pass")
    assert env[run.RUN] == run.pack(None, str(tmp_path / "s.json"), "0", 1024, str(tmp_path / "p.nm"))
    _, env = become(monkeypatch, "--profile -c pass")
    assert env[run.RUN] == run.pack(None, None, "0", 512 << 10, None)
    command, _ = become(monkeypatch, "-Bc pass x", files=False)
    assert command[:4] == [sys.executable, "-q", "-B", "-c"] and command[5:] == ["c", "-c", "pass", "x"]
    assert repr(os.path.dirname(os.path.dirname(run.PACKAGE)))[1:-1] in command[4]
    command, _ = become(monkeypatch, "-V", files=False)
    assert command[:3] == [sys.executable, "-q", "-V"] and command[5:] == [""]
    _, env = become(monkeypatch, f"--budget {LEAST_OVER_HELD} --profile=1 a.py")
    assert env[run.RUN] == run.pack(LEAST_OVER_HELD, None, "0", 1, None)


def test_mistakes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Any) -> None:
    def says(line: str) -> str:
        parser = argparse.ArgumentParser("run")
        run.configure(parser)
        with pytest.raises(SystemExit) as caught:
            run.execute(parser, line.split())
        assert caught.value.code == 2
        return capsys.readouterr().err.strip().splitlines()[-1].removeprefix("run: error: ")

    def refused(command: list[str], env: dict[str, str]) -> int:
        raise OSError(13, "not allowed")

    monkeypatch.setattr(run, "_become", refused)
    monkeypatch.setattr(run, "_stdin_is_program", lambda: False)
    needs = f"an interpreter needs more than {LEAST_OVER_HELD}; a number and its unit are one word, as 64MiB"
    assert says("--budget 1048575 a.py") == f"--budget: 1048575 bytes is too little; {needs}"
    assert says("--budget 64 MiB a.py") == f"--budget: 64 bytes is too little; {needs}"
    assert says("--budget 64XB a.py").count("64XB") == 1
    assert says("-c") == "-c: give a command, as to python"
    assert says("") == "name a program: a script, -m MODULE, -c COMMAND, or - for standard input"
    assert says("-B") == says("")
    assert says("-o a --summary b x.py") == "-o: the summary has a file already, and there is no --profile"
    assert says("a.py") == f"{sys.executable} does not start: not allowed"
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert says("-o s.json a.py").startswith("-o: the folder that 's.json' is in is not there: ")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", "")
    assert says("a.py").startswith("this interpreter does not know its own file (sys.executable)")


@pytest.mark.parametrize(
    ("version", "kinds"),
    [
        ((3, 10), ["pth"]),
        ((3, 14, 99), ["pth"]),
        ((3, 15), ["start", "pth"]),
        ((3, 17), ["start", "pth"]),
        ((3, 18), ["start"]),
        ((4, 0), ["start"]),
    ],
)
def test_the_files_by_which_it_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, version: tuple[int, ...], kinds: list[str]
) -> None:
    """CLI-5: those that each version reads, of the folders that it looks in with these options."""
    all_users, own = tmp_path / "all", tmp_path / "own"
    for folder in (all_users, own):
        folder.mkdir()
        for kind in ("pth", "start", "other"):
            (folder / f"nativemem_autoinstall.{kind}").touch()
    monkeypatch.setattr(sys, "version_info", version)
    monkeypatch.setattr(site, "getsitepackages", lambda: [str(all_users), str(tmp_path / "none")])
    monkeypatch.setattr(site, "getusersitepackages", lambda: str(own))
    for enabled, letters, folders in (
        (True, set(), [all_users, own]),
        (True, {"B"}, [all_users, own]),
        (True, {"s"}, [all_users]),
        (True, {"I", "B"}, [all_users]),
        (False, set(), [all_users]),
        (True, {"S"}, []),
    ):
        monkeypatch.setattr(site, "ENABLE_USER_SITE", enabled)
        found = [str(folder / f"nativemem_autoinstall.{kind}") for folder in folders for kind in kinds]
        assert run.start_up_files(letters) == found


@pytest.mark.parametrize(
    ("error", "says", "code"),
    [
        (startup._Refused("what"), b"nativemem run: what\n", 2),
        (ConfigError("what"), b"nativemem: what\n", 1),
    ],
)
def test_a_program_that_is_not_started(
    monkeypatch: pytest.MonkeyPatch, error: Exception, says: bytes, code: int
) -> None:
    """CLI-5: the interpreter ends at once, with the reason; also where nothing can be written."""

    class Ended(Exception):
        pass

    def ended(code: int) -> None:
        raise Ended(code)

    def start(*words: Any) -> None:
        started.append(words)
        raise error

    started: list[Any] = []
    written: list[Any] = []
    monkeypatch.setattr(startup, "_start", start)
    monkeypatch.setattr(startup.os, "_exit", ended)
    monkeypatch.setattr(startup, "_write", lambda *words: written.append(words))
    monkeypatch.setenv("NATIVEMEM_AUTOINSTALL", "1")
    with pytest.raises(Ended) as caught:
        startup.begin(startup.pack(1 << 20, "/s.json", "0", None, None))
    assert (caught.value.args, written, os.environ["NATIVEMEM_AUTOINSTALL"]) == ((code,), [(2, says)], "0")
    assert started == [(1 << 20, "/s.json", None)]

    def closed(*words: Any) -> None:
        raise OSError

    monkeypatch.setattr(startup, "_write", closed)
    with pytest.raises(Ended) as caught:
        startup.begin(startup.pack(None, None, None, 1024, "/p.nm"))
    assert (caught.value.args, "NATIVEMEM_AUTOINSTALL" in os.environ) == ((code,), False)
    assert started[1:] == [(None, None, ("/p.nm", 1024))]
