"""``nativemem doctor``, part by part: rows of processes and of files that are made up (PYV-9)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from nativemem.commands import doctor
from nativemem.commands.probes import DECLINED, OFF, WORKS, Row


class Started:
    """In place of :func:`subprocess.run`: answers in turn, and what was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: Any) -> None:
        self.answers, self.asked = iter(answers), list[Any]()
        monkeypatch.setattr(doctor.subprocess, "run", self)

    def __call__(self, command: list[str], **options: Any) -> Any:
        self.asked.append((command, options))
        answer = next(self.answers)
        if isinstance(answer, BaseException):
            raise answer
        out, err, code = answer
        return SimpleNamespace(stdout=out.encode(), stderr=err.encode(), returncode=code)


def begins(name: str) -> str:
    return json.dumps({"begins": name}) + "\n"


def found(name: str) -> str:
    return json.dumps(Row(name, WORKS, "fine")) + "\n"


BUG = "please report it"


@pytest.mark.parametrize(
    ("answers", "rows", "asked"),
    [
        ([(begins("a") + found("a") + begins("b") + found("b"), "", 0)], [("a", "fine"), ("b", "fine")], ["a b"]),
        (
            [("noise\n[1]\n" + begins("a") + found("b") + begins("no") + found("a"), "x\n last \n", -11)],
            [("a", "fine"), ("b", "the process that tried it was ended by SIGSEGV: last")], ["a b"],
        ),
        (
            [(begins("a"), "", 1), (found("b"), "", 0)],
            [("a", "the process that tried it ended with exit code 1"),
             ("b", "the process that tried it ended with exit code 0")], ["a b", "b"],
        ),
        ([("", "", -200), ("", "", 0)],
         [("a", "the process that tried it was ended by signal 200"),
          ("b", "the process that tried it ended with exit code 0")], ["a b", "b"]),
        (
            [subprocess.TimeoutExpired("x", 1, begins("a").encode(), b"late"), (begins("b") + found("b"), "", 0)],
            [("a", "the process that tried it hung for 30 s: late"), ("b", "fine")], ["a b", "b"],
        ),
        (
            [OSError(12, "no memory")],
            [(name, "not tried, for want of a process: no memory") for name in "ab"],
            ["a b"],
        ),
    ],
)  # fmt: skip
def test_what_processes_tell(
    monkeypatch: pytest.MonkeyPatch, answers: list[Any], rows: list[tuple[str, str]], asked: list[str]
) -> None:
    """A probe that was begun and not ended is the one that brought it down; the rest is asked of another."""
    started = Started(monkeypatch, *answers)
    told = list(doctor._ask(["a", "b"], {"A": "1"}))
    assert [(row.name, row.reason) for row in told] == rows
    for row in told:
        tried = row.reason.startswith("the process")
        assert row == Row(row.name, WORKS if row.reason == "fine" else DECLINED, row.reason, BUG if tried else "")
    assert [" ".join(command[command.index("-c") + 2 :]) for command, _ in started.asked] == asked
    _, options = started.asked[0]
    assert (options["env"], options["timeout"], options["check"]) == ({"A": "1"}, 30, False)


def test_the_start_up_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read where the module it names is imported; whether it was asked for; and why it does nothing."""
    files: list[str] = []
    monkeypatch.setattr(doctor, "start_up_files", lambda letters: files)
    none = doctor._start_up({}, "x")
    assert none == Row("x", OFF, "this interpreter reads none, so NATIVEMEM_AUTOINSTALL does nothing")
    files.append("/p/nativemem_autoinstall.pth")
    ends = "asks each Python for the engine"
    for env, out, err, state, reason, cure in (
        ({}, "noise True", "", WORKS, f"is read; NATIVEMEM_AUTOINSTALL=1 {ends}", ""),
        ({"NATIVEMEM_AUTOINSTALL": "0"}, "True", "", WORKS, f"is read; NATIVEMEM_AUTOINSTALL=1 {ends}", ""),
        ({"NATIVEMEM_AUTOINSTALL": "1"}, "True", "", WORKS, f"is read; NATIVEMEM_AUTOINSTALL {ends}", ""),
        ({}, "False", "", DECLINED, "is there, and does nothing", "install the package again"),
        ({}, "", "a\nb \n", DECLINED, "is there, and does nothing: b", "install the package again"),
    ):
        started = Started(monkeypatch, (out, err, 0))
        assert doctor._start_up(env, "x") == Row("x", state, f"nativemem_autoinstall.pth {reason}", cure)
        ((command, options),) = started.asked
        assert command[0] == sys.executable and command[-2:] == ["-c", doctor._STARTED]
        assert options["env"] == {**env, "NATIVEMEM_AUTOINSTALL": "1"} and options["timeout"] == 30


def test_rows_without_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NATIVEMEM_DISABLE", raising=False)
    assert doctor._switch("x") == Row("x", OFF, "NATIVEMEM_DISABLE is not set")
    monkeypatch.setenv("NATIVEMEM_DISABLE", "1")
    assert doctor._switch("x") == Row(
        "x", WORKS, "NATIVEMEM_DISABLE=1: each block comes from the system, nothing is hooked",
        "leave NATIVEMEM_DISABLE unset",
    )  # fmt: skip
    for state in (WORKS, DECLINED, OFF):
        row = doctor._run_bounds(Row("engine", state, ""))
        assert (row.name, row.state) == ("nativemem run", state)
        assert row.reason.startswith("bounds and measures" if state == WORKS else "best effort: it measures with")


def test_variables_that_will_not_do() -> None:
    """Each by itself, and taken out."""
    env = {"NATIVEMEM_DISABLE": "x", "NATIVEMEM_LIMIT": "y", "NATIVEMEM_BACKEND": "pure", "A": "b"}
    wrong = doctor._bad_variables(env)
    assert {*wrong} == {"NATIVEMEM_DISABLE", "NATIVEMEM_LIMIT"}
    assert env == {"NATIVEMEM_BACKEND": "pure", "A": "b"}
    assert all(text.startswith(name) for name, text in wrong.items())


def test_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes do without what an environment asks for at the start; a bad variable is a row before all others."""
    given: list[dict[str, str]] = []

    def ask(names: list[str], env: dict[str, str]) -> Any:
        given.append(env)
        return (Row(name, WORKS, "fine") for name in names)

    monkeypatch.setattr(doctor, "_ask", ask)
    monkeypatch.setattr(doctor, "_start_up", lambda env, name: Row(name, OFF, str("NATIVEMEM_AUTOINSTALL" in env)))
    for name in doctor._NOT_FOR_PROBES:
        monkeypatch.setenv(name, "1 GiB" if name == "NATIVEMEM_LIMIT" else "0" if "TEST" in name else "1")
    monkeypatch.setenv("NATIVEMEM_SECURE", "x")
    rows = doctor._examine()
    assert rows[0].name == "NATIVEMEM_SECURE" and rows[0].state == DECLINED
    assert rows[0].cure == "set it right, or not at all"
    assert [row.name for row in rows[1:]] == [*doctor._SHOWN]
    (env,) = given
    assert not env.keys() & {*doctor._NOT_FOR_PROBES, "NATIVEMEM_SECURE"}
    assert env.keys() == os.environ.keys() - {*doctor._NOT_FOR_PROBES, "NATIVEMEM_SECURE"}
    assert next(row for row in rows if row.name == "start-up file").reason == "True"
