"""CLI-5: what ``nativemem run`` looks at before it becomes the interpreter, and how it becomes it; the commands."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import select
import socket
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from nativemem.commands import cli, files, live, output, run


class Became(BaseException):
    """In place of another program."""


# ---- what it looks at ---------------------------------------------------------------------------------------


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets what standard input is, as far as it is looked at."""
    real = os.fstat
    found: list[int] = []

    def set_to(descriptor: int) -> None:
        found[:] = [descriptor]

    class Poll:
        def __init__(self) -> None:
            self.poller = real_poll()

        def register(self, descriptor: int, events: int) -> None:
            assert descriptor == 0
            self.poller.register(found[0], events)

        def poll(self, milliseconds: float) -> Any:
            assert milliseconds == run._PATIENCE
            return self.poller.poll(0)

    real_poll = select.poll
    monkeypatch.setattr(os, "fstat", lambda descriptor: real(found[0] if descriptor == 0 else descriptor))
    monkeypatch.setattr(select, "poll", Poll)
    return set_to


def test_whether_standard_input_is_a_program(stdin: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is; a pipe or a socket where something comes; what else there is not."""
    ends: list[int] = []
    reads, writes = os.pipe()
    one, other = socket.socketpair()
    null = os.open(os.devnull, os.O_RDONLY)
    file = os.open(tmp_path, os.O_RDONLY)
    (tmp_path / "a").write_text("")
    script = os.open(tmp_path / "a", os.O_RDONLY)
    ends += [reads, writes, null, file, script]
    try:
        for descriptor, is_program in ((script, True), (null, False), (file, False), (reads, False)):
            stdin(descriptor)
            assert run._stdin_is_program() is is_program
        stdin(one.fileno())
        assert run._stdin_is_program() is False
        other.send(b"x")
        assert run._stdin_is_program() is True
        os.write(writes, b"x")
        stdin(reads)
        assert run._stdin_is_program() is True
        os.read(reads, 1)
        os.close(ends.pop(1))
        assert run._stdin_is_program() is False  # closed, with nothing in it
        monkeypatch.delattr(select, "poll")
        assert run._stdin_is_program() is False  # a system on which this cannot be told
        stdin(script)
        assert run._stdin_is_program() is True

        monkeypatch.setattr(os, "fstat", lambda descriptor: os.stat("/no such file"))
        assert run._stdin_is_program() is False  # it is closed
        monkeypatch.undo()
    finally:
        for end in ends:
            os.close(end)
        one.close()
        other.close()


@pytest.mark.parametrize(
    ("value", "given", "stays"),
    [
        (None, b"A=1", True),
        ("de_DE.UTF-8", b"", True),
        ("C.UTF-8", b"A=1\0LC_CTYPE=C.UTF-8\0", True),
        ("C.UTF-8", b"A=1\0XLC_CTYPE=x\0", False),
        ("C.utf8", b"", False),
        ("UTF-8", b"A=LC_CTYPE=x", False),
        ("C.UTF-8", None, True),
    ],
)
def test_the_environment_as_it_was_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, value: str | None, given: bytes | None, stays: bool
) -> None:
    """What the interpreter has put into its own for want of a locale is not for the program."""
    import builtins

    real = builtins.open

    def opened(name: Any, *more: Any, **how: Any) -> Any:
        return real(tmp_path / "environ" if name == "/proc/self/environ" else name, *more, **how)

    monkeypatch.setattr(builtins, "open", opened)
    monkeypatch.delenv("LC_CTYPE", raising=False)
    if value is not None:
        monkeypatch.setenv("LC_CTYPE", value)
    if given is not None:
        (tmp_path / "environ").write_bytes(given)
    found = run._environment()
    assert ("LC_CTYPE" in found) is (stays and value is not None)
    assert {**found, "LC_CTYPE": value} == {**os.environ, "LC_CTYPE": value} and found is not os.environ


def test_the_folder_of_the_package() -> None:
    import nativemem

    assert run._root() == os.path.dirname(os.path.dirname(os.path.abspath(nativemem.__file__)))


# ---- how it becomes the interpreter -------------------------------------------------------------------------


def test_what_is_written_before_it_becomes_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[Any] = []

    def become(*given: Any) -> None:
        log.append(given)
        raise Became

    monkeypatch.setattr(os, "execve", become)
    out = SimpleNamespace(flush=lambda: log.append("out"))
    error = SimpleNamespace(flush=lambda: log.append("error"))
    for streams, flushed in (((out, error), ["out", "error"]), ((None, error), ["error"]), ((out, None), ["out"])):
        log.clear()
        with monkeypatch.context() as patched:
            patched.setattr(sys, "stdout", streams[0])
            patched.setattr(sys, "stderr", streams[1])
            with pytest.raises(Became):
                run._become(["python", "x"], {"A": "b"})
        assert log == [*flushed, ("python", ["python", "x"], {"A": "b"})]
    monkeypatch.setattr(os, "name", "nt")
    monkeypatch.setattr(os, "P_WAIT", 7, raising=False)
    monkeypatch.setattr(os, "spawnve", lambda *given: given, raising=False)
    assert run._become(["python", "x"], {"A": "b"}) == (7, "python", ["python", "x"], {"A": "b"})


def executed(monkeypatch: pytest.MonkeyPatch, line: str, **stdin: Any) -> Any:
    """What the command line runs, or the mistake that it is."""

    def become(command: list[str], env: dict[str, str]) -> int:
        raise Became(command)

    def mistake(text: str) -> None:
        raise Became(text)

    monkeypatch.setattr(run, "_become", become)
    monkeypatch.setattr(run, "start_up_files", lambda letters: ["file"])
    monkeypatch.setattr(run, "options_of_this", list)
    monkeypatch.setattr(run, "_stdin_is_program", lambda: stdin.get("is_program", False))
    parser = argparse.ArgumentParser("run")
    run.configure(parser)
    monkeypatch.setattr(parser, "error", mistake)
    with pytest.raises(Became) as caught:
        run.execute(parser, line.split())
    return caught.value.args[0]


@pytest.mark.parametrize(
    ("line", "begins"),
    [
        ("--live a.py", [None]),
        ("--live=0.5 a.py", [0.5]),
        ("--live=60 -c pass", [60.0]),
        ("a.py", []),
        ("--live -V", []),
        ("--live --help-all", []),
        ("--live -i", []),
    ],
)
def test_what_looks_on_begins_with_a_program(
    monkeypatch: pytest.MonkeyPatch, line: str, begins: list[float | None]
) -> None:
    """CLI-4: and not with what the interpreter answers by itself, or asks for in a terminal."""
    begun: list[Any] = []
    monkeypatch.setattr(live, "missing", lambda: None)
    monkeypatch.setattr(live, "begin", begun.append)
    command = executed(monkeypatch, line)
    assert begun == begins and command[0] == sys.executable
    monkeypatch.setattr(live, "missing", lambda: "/proc")
    told = executed(monkeypatch, line)
    assert told == ("--live: there is no /proc here" if begins else command) and begun == begins


def test_a_program_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    mistake = "name a program: a script, -m MODULE, -c COMMAND, or - for standard input"
    for line in ("", "-B", "--"):
        assert executed(monkeypatch, line) == mistake
        words = line.split() if line != "--" else []
        assert executed(monkeypatch, line, is_program=True) == [sys.executable, *words]
    for line in ("-i", "-V", "--help-env", "-"):
        assert executed(monkeypatch, line) == [sys.executable, line]


# ---- the commands -------------------------------------------------------------------------------------------


class Module:
    """A command that says what it is given."""

    HELP = "what it does"

    def __init__(self, result: Any) -> None:
        self.result, self.given = result, list[Any]()

    def configure(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--own")

    def execute(self, parser: argparse.ArgumentParser, argv: list[str]) -> Any:
        self.given.append((parser.prog, argv))
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> dict[str, Module]:
    made = {"one": Module(3), "two": Module("said")}
    monkeypatch.setattr(cli, "COMMANDS", {name: name for name in made})
    monkeypatch.setattr(importlib, "import_module", lambda name, package: made[name.removeprefix(".")])
    return made


def test_a_command_takes_its_own_words(modules: dict[str, Module], monkeypatch: pytest.MonkeyPatch) -> None:
    """CLI-7: as they are, its help included."""
    assert cli.main(["one", "--help", "--", "x"]) == 3 and cli.main(["two"]) == "said"
    assert modules["one"].given == [("nativemem one", ["--help", "--", "x"])]
    assert modules["two"].given == [("nativemem two", [])]
    monkeypatch.setattr(sys, "argv", ["nativemem", "one", "y"])
    assert cli.main() == 3 and modules["one"].given[1:] == [("nativemem one", ["y"])]


def test_a_full_disk(modules: dict[str, Module], capsys: pytest.CaptureFixture[str]) -> None:
    """CLI-3: exit code 1 and a line; another error of a command is its own."""
    modules["one"].result = output.Unwritten(28, "No space left on device")
    assert cli.main(["one"]) == 1
    assert capsys.readouterr().err == "nativemem one: standard output: No space left on device\n"
    modules["one"].result = FileNotFoundError(2, "no")
    with pytest.raises(FileNotFoundError):
        cli.main(["one"])


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ([], 2, r"nativemem: name a command: one, two \(see nativemem --help\)\n"),
        (["three"], 2, r"nativemem: argument COMMAND: invalid choice: 'three' .*\(see nativemem --help\)\n"),
        (["--vers"], 2, r"nativemem: .* \(see nativemem --help\)\n"),
        (["--version"], 0, r"nativemem \d+\.\d+.*\n"),
        (["--help"], 0, r"(?s)usage: nativemem .*one +what it does.*two +what it does.*"),
    ],
)
def test_words_that_are_no_command(
    modules: dict[str, Module], capsys: pytest.CaptureFixture[str], words: list[str], code: int, says: str
) -> None:
    """CLI-3: a mistake is a line, and exit code 2."""
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    said = capsys.readouterr()
    assert (caught.value.code or 0) == code and re.fullmatch(says, said.err if code else said.out), said
    assert modules["one"].given == []


# ---- files that are no recordings ---------------------------------------------------------------------------


def test_files_that_are_no_recordings(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """CLI-3: one line, with the name of the file once, and without what would move a cursor."""
    from nativemem.errors import ConfigError
    from nativemem.observe.report import loading

    said: list[str] = []

    def error(text: str) -> None:
        said.append(text)
        raise Became

    parser: Any = SimpleNamespace(error=error)
    name = "a\x1b.nm"
    for raised, text in (
        (FileNotFoundError(2, "No such file"), "a\\x1b.nm: No such file"), (OSError("odd"), "a\\x1b.nm: odd"),
        (ConfigError(f"recording: {name} is empty\nmore"), "a\\x1b.nm: is empty"),
        (ConfigError("recording: it is empty"), "a\\x1b.nm: recording: it is empty"),
        (ConfigError(f"recording: {name}"), "a\\x1b.nm: recording: a\\x1b.nm"),
        (ValueError("embedded null byte"), "a\\x1b.nm: is no name of a file"),
    ):  # fmt: skip

        def load(file: str, raised: Exception = raised) -> Any:
            assert file == name
            raise raised

        monkeypatch.setattr(loading, "load", load)
        with pytest.raises(Became):
            files.opened(parser, name)
        assert said.pop() == text and said == []
    monkeypatch.setattr(loading, "load", lambda file: ("recording", file))
    assert files.opened(parser, name) == ("recording", name)


# ---- standard output that cannot be written -----------------------------------------------------------------


@pytest.mark.parametrize("text", ["text", b"bytes"])
def test_output_that_nothing_reads(monkeypatch: pytest.MonkeyPatch, text: Any) -> None:
    """CLI-3: a pipe without a reader is no error; a full disk is. What is left of it goes nowhere."""
    moved: list[Any] = []

    class Out:
        encoding = None

        def __init__(self, error: OSError) -> None:
            self.error, self.buffer = error, self

        def write(self, data: Any) -> None:
            assert data == text
            raise self.error

        def flush(self) -> None: ...

        def fileno(self) -> int:
            return 1

    monkeypatch.setattr(os, "dup2", lambda *given: moved.append(given))
    monkeypatch.setattr(os, "open", lambda *given: given)
    monkeypatch.setattr(sys, "stdout", Out(BrokenPipeError(32, "Broken pipe")))
    assert output.say(text) is False and moved == [((os.devnull, os.O_WRONLY), 1)]
    monkeypatch.setattr(sys, "stdout", Out(OSError(28, "full")))
    with pytest.raises(output.Unwritten) as caught:
        output.say(text)
    assert (caught.value.errno, caught.value.strerror, len(moved)) == (28, "full", 2)
