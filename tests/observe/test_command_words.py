"""What the commands that ask a process say and ask for: of answers and clocks made by hand, in this process."""

from __future__ import annotations

import argparse
import importlib
import io
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nativemem.commands import bench, cli, files, live, output, processes, top, view, workloads
from nativemem.commands.processes import Unreachable
from nativemem.errors import NativeMemError
from nativemem.observe import control
from nativemem.observe.snapshot import EngineState, Snapshot, from_recording

from .recordings import MIB, example, hostile, write

Shown = Callable[..., tuple[int, str, str]]


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Shown:
    """Runs a command line here: its exit code, and what it said."""

    def run(*words: str) -> tuple[int, str, str]:
        try:
            code = cli.main(list(words))
        except SystemExit as error:
            code = error.code  # type: ignore[assignment]
        said = capsys.readouterr()
        return code, said.out, said.err  # type: ignore[return-value]

    return run


def taken(**changed: Any) -> Snapshot:
    made = from_recording(example())
    engine = EngineState(True, True, False, 60 * MIB, 100 * MIB, None, 0, 1, 250_000, None)
    process = replace(made.process, pid=4711, resident=3 * MIB, python="3.11")
    return replace(made, when=0.0, engine=engine, process=process, **changed)


# ---- command lines ------------------------------------------------------------------------------------------

#: by command, what each option is where it is not given
DEFAULTS = {
    "run": {"budget": None, "profile": None, "output": None, "summary": None, "live": None},
    "report": {"file": None, "format": None, "output": None, "by": "peak", "owner": None, "top": None},
    "leaks": {"file": None, "at_least": MIB, "owner": None, "format": "text", "top": 20},
    "diff": {"a": None, "b": None, "by": "live", "at_least": MIB, "all": False, "format": None, "output": None,
             "top": 20},
    "stats": {"of": None, "json": False, "socket": None},
    "top": {"pid": None, "interval": 1.0, "count": None, "socket": None},
    "attach": {"pid": None, "action": "status", "file": None, "output": None, "rate": None, "socket": None},
    "bench": {"quick": False, "json": False},
    "doctor": {"json": False},
}  # fmt: skip


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_options_where_they_are_not_given(name: str) -> None:
    """And the help has the module's texts as they are, line by line."""
    module = importlib.import_module(f"nativemem.commands.{cli.COMMANDS[name]}")
    parser = argparse.ArgumentParser(prog=f"nativemem {name}")
    module.configure(parser)
    found = {action.dest: action.default for action in parser._actions if action.dest != "help"}
    assert found == DEFAULTS[name] and [*map(type, found.values())] == [*map(type, DEFAULTS[name].values())]
    text = parser.format_help()
    assert module._DESCRIPTION in text and module._EXAMPLES in text


def test_values_that_options_take() -> None:
    for text, value in (("0.05", 0.05), ("86400", 86400.0), ("1", 1.0)):
        assert files.seconds(text) == value
    for text in ("0.049", "86400.1", "nan", "x", ""):
        with pytest.raises(argparse.ArgumentTypeError, match="takes 0.05 to 86400 seconds"):
            files.seconds(text)
    for text, number in (("1", 1), ("2147483647", (1 << 31) - 1)):
        assert processes.pid(text) == number
    for text in ("0", "2147483648", "-1", "x", "\u0661", ""):
        with pytest.raises(argparse.ArgumentTypeError, match="takes a process's number"):
            processes.pid(text)
    assert top._count("1") == 1
    for text in ("0", "x"):
        with pytest.raises(ValueError):
            top._count(text)
    assert files.size("64KiB") == 65536
    with pytest.raises(argparse.ArgumentTypeError, match="^it takes bytes as an int"):
        files.size("x")


# ---- standard output ----------------------------------------------------------------------------------------


def test_which_output_is_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for out, term, is_terminal in (
        (SimpleNamespace(isatty=lambda: True), "xterm", True),
        (SimpleNamespace(isatty=lambda: True), "dumb", False),
        (SimpleNamespace(isatty=lambda: False), "xterm", False), (None, "xterm", False),
    ):  # fmt: skip
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setenv("TERM", term)
        assert output.is_terminal() is is_terminal
    assert output.say("x") is False
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "ascii"))
    assert output.say("é\n") is output.say(b"\xff") is True and raw.getvalue() == b"\\xe9\n\xff"


def test_output_that_goes_to_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in (None, "-"):
        output.write("a\n", file)
    assert capsys.readouterr().out == "a\na\n"
    for said, kept in (("é\udcff", b"\xc3\xa9\\udcff"), (b"\x00", b"\x00")):
        output.write(said, str(tmp_path / "f"))
        assert (tmp_path / "f").read_bytes() == kept


# ---- a snapshot in words ------------------------------------------------------------------------------------


def test_a_snapshot_as_text() -> None:
    """CLI-4: the whole of it, and each part that may be missing."""
    assert view.text_of(taken(), sites=2) == (
        "process 4711, resident 3.0 MiB, engine 60.0 MiB (peak 100.0 MiB, no limit), "
        "250,000 allocations, 1 denial\n"
        "\n"
        "owner        used     limit       peak  denials  pressure\n"
        "process  60.0 MiB      none  100.0 MiB        0  normal\n"
        "cache    21.0 MiB  32.0 MiB   31.0 MiB        2  normal\n"
        "request   2.0 MiB  16.0 MiB    6.0 MiB        0  normal\n"
        "request       0 B  16.0 MiB    5.0 MiB        0  normal\n"
        "\n"
        "    live  blocks  owner    line\n"
        "20.0 MiB  40,960  cache    json/decoder.py:353 in JSONDecoder.raw_decode\n"
        " 2.0 MiB  32,768  process  json/decoder.py:353 in JSONDecoder.raw_decode\n"
    )
    plain = taken()
    assert plain.engine is not None
    limited = replace(plain, engine=replace(plain.engine, limit=2 * MIB, denials=1234))
    assert view.title_of(limited).endswith("limit 2.0 MiB), 250,000 allocations, 1,234 denials")
    none = replace(plain, engine=None, process=replace(plain.process, resident=None), owners=(), sites=())
    assert view.text_of(none) == "process 4711, no engine\n"
    assert view.title_of(replace(none, process=replace(none.process, python=""))) == "process 4711"
    owner = replace(plain.owners[0], path="a\x1bb", locked=True)
    (row,) = view.owner_rows(replace(plain, owners=(owner,)))
    assert row[0] == "a\N{REPLACEMENT CHARACTER}b" and row[-1] == "locked"
    assert len(view.site_rows(plain, 1)) == 1


def test_a_snapshot_as_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = taken(sites=())
    line = view.line_of(plain)
    when = time.strftime("%H:%M:%S", time.localtime(0.0))
    assert line == (
        f"{when} {view.title_of(plain)}, process 60.0 MiB, cache 21.0 MiB/32.0 MiB, request 2.0 MiB/16.0 MiB, "
        "request 0 B/16.0 MiB"
    )
    many = replace(plain, owners=plain.owners * 3)
    assert view.line_of(many).count("MiB/") + view.line_of(many).count(", process 60") == 8


def test_rows_that_are_cut() -> None:
    """CLI-4: their end says more; a line keeps twenty columns at least."""
    assert top._short("abcdef", 6) == "abcdef" and top._short("abcdef", 5) == "…cdef"
    rows = [("20.0 MiB", "1", "an owner of length", "x" * 100)]
    (row,) = top._shortened(rows, 80)
    assert row[:3] == rows[0][:3] and len(row[3]) == 80 - (8 + 6 + 18 + 3 * 2)
    (row,) = top._shortened(rows, 40)
    assert len(row[2]) == 10 and len(row[3]) == 20


def test_a_table_in_a_terminal() -> None:
    """CLI-4: a line each, coloured by its pressure; the end of an owner's name, in twelve columns at least."""
    pytest.importorskip("rich", reason="rich is not installed")
    owners = [replace(taken().owners[0], path="o" * 80, pressure=level) for level in ("normal", "warn", "critical")]
    plain = replace(taken(), owners=tuple(owners))
    for width, most in ((100, 40), (73, 13), (72, 12), (60, 12)):
        head, _, table, _, sites = top._rich(plain, width, 40).renderables
        assert str(head) == view.title_of(plain) and head.style == "bold"
        assert [str(cell) for cell in table.columns[0].cells] == ["…" + "o" * (most - 1)] * 3
        assert [row.style for row in table.rows] == [None, "yellow", "red"]
        assert all(column.no_wrap for shown in (table, sites) for column in shown.columns)
        assert [column.header for column in table.columns] == [*view.OWNERS]
        rows = view.owner_rows(plain)
        for i, column in enumerate(table.columns):
            assert column.min_width == max(len(row[i]) for row in rows)
    full = replace(plain, owners=(replace(owners[0], pressure="full"),), sites=())
    (_, _, table) = top._rich(full, 100, 40).renderables
    assert [row.style for row in table.rows] == ["bold red"]


def test_a_watch_in_a_terminal(asked: list[Any], shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    """CLI-4: over the whole of it where it goes on without an end; a line each time without rich."""
    log: list[Any] = []

    class Live:
        def __init__(self, **how: Any) -> None:
            log.append(how)
            self.console = SimpleNamespace(size=(90, 30))

        def __enter__(self) -> Live:
            return self

        def __exit__(self, *_: object) -> None:
            log.append("left")

        def update(self, what: Any, refresh: bool) -> None:
            log.append((what, refresh))

    monkeypatch.setattr(output, "is_terminal", lambda: True)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(top, "_rich", lambda taken, *size: size)
    monkeypatch.setitem(sys.modules, "rich.live", SimpleNamespace(Live=Live))  # type: ignore[misc]
    assert shown("top", "4711", "--count", "2") == (0, "", "")
    assert log == [{"screen": False, "auto_refresh": False}, ((90, 30), True), ((90, 30), True), "left"]
    log.clear()
    answers = iter([taken().to_dict(), FileNotFoundError()])

    def ask(path: str, /, **request: Any) -> Any:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with monkeypatch.context() as patched:
        patched.setattr(control, "ask", ask)
        assert shown("top", "4711") == (0, "", "")
    assert log == [{"screen": True, "auto_refresh": False}, ((90, 30), True), "left"]
    monkeypatch.setitem(sys.modules, "rich.live", None)  # type: ignore[arg-type]
    code, out, said = shown("top", "4711", "--count", "1")
    assert (code, out) == (0, view.line_of(taken()) + "\n")
    assert said == "nativemem top: rich is not installed (nativemem[rich]): a line each time\n"


@pytest.mark.parametrize(("height", "owners", "sites"), [(40, 4, 5), (15, 4, 2), (14, 4, 0), (4, 2, 0)])
def test_rows_that_a_terminal_has_room_for(height: int, owners: int, sites: int) -> None:
    """CLI-4: owners have half of it at most, where there are sites."""
    pytest.importorskip("rich", reason="rich is not installed")
    tables = [part for part in top._rich(taken(), 100, height).renderables if part and hasattr(part, "rows")]
    counts = [len(table.rows) for table in tables]
    assert counts[:1] == [owners] and (counts[1:] or [0]) == [sites]
    assert [column.justify for column in tables[0].columns] == ["left", *["right"] * 4, "left"]
    assert all([column.justify for column in table.columns] == ["right"] * 2 + ["left"] * 2 for table in tables[1:])


# ---- asking -------------------------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the commands ask process 4711, which answers."""
    requests: list[Any] = []
    state = {"path": "/x/a.nm", "samples": 1234, "rate": 65536}
    answers: dict[str, Any] = {
        "status": {"profile": state}, "start": {"profile": {**state, "path": None}}, "stop": {"profile": state},
        "save": {"path": "/x/now.json"}, "snapshot": taken().to_dict(),
    }  # fmt: skip

    def ask(path: str, /, **request: Any) -> Any:
        requests.append((path, request))
        return answers[request["do"]]

    monkeypatch.setattr(processes, "find", lambda number, given: given or f"/at/{number}.sock")
    monkeypatch.setattr(control, "ask", ask)
    requests.append(answers)
    return requests


def test_attach(asked: list[Any], shown: Shown) -> None:
    """CLI-6: what each action asks for, and says."""
    here = os.getcwd()
    profile = "a profile goes to /x/a.nm: 1,234 samples, one in 65,536 bytes\n"
    assert shown("attach", "4711") == (0, view.text_of(taken()) + profile, "")
    assert shown("attach", "4711", "status", "--socket", "/s")[0] == 0
    assert shown("attach", "4711", "start") == (0, profile.replace("/x/a.nm", "memory"), "")
    assert shown("attach", "4711", "start", "-o", "b.nm", "--rate", "64KiB")[0] == 0
    assert shown("attach", "4711", "stop") == (0, "/x/a.nm: 1,234 samples\n", "")
    assert shown("attach", "4711", "snapshot", "now.json") == (0, "/x/now.json\n", "")
    answers, *requests = asked
    at = "/at/4711.sock"
    assert requests == [
        (at, {"do": "status"}), (at, {"do": "snapshot"}), ("/s", {"do": "status"}), ("/s", {"do": "snapshot"}),
        (at, {"do": "start", "path": f"{here}/nativemem-4711.nm"}),
        (at, {"do": "start", "path": f"{here}/b.nm", "rate": 65536}),
        (at, {"do": "stop"}), (at, {"do": "save", "path": f"{here}/now.json"}),
    ]  # fmt: skip
    answers["stop"]["profile"]["path"] = None
    assert shown("attach", "4711", "stop")[1] == "memory: 1,234 samples\n"
    answers["stop"] = answers["status"] = {"profile": None}
    assert shown("attach", "4711", "stop") == (1, "", "nativemem attach: process 4711: no profile runs\n")
    assert shown("attach", "4711")[1].endswith("no profile runs\n")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["stop", "-o", "x"], "-o and --rate are for start"),
        (["--rate", "1"], "-o and --rate are for start"),
        (["snapshot"], "name a file after snapshot, and after nothing else"),
        (["start", "file"], "name a file after snapshot, and after nothing else"),
    ],
)
def test_mistakes_in_attach(words: list[str], says: str, asked: list[Any], shown: Shown) -> None:
    assert shown("attach", "4711", *words) == (2, "", f"nativemem attach: {says} (see nativemem attach --help)\n")
    assert len(asked) == 1


def test_stats(asked: list[Any], shown: Shown) -> None:
    """CLI-4: fifty sites, by line where a person reads it."""
    assert shown("stats", "4711") == (0, view.text_of(taken()), "")
    code, text, _ = shown("stats", "4711", "--json", "--socket", "/s")
    assert code == 0 and json.loads(text) == json.loads(json.dumps(taken().to_dict())) and text.startswith('{\n "')
    request = {"do": "snapshot", "sites": 50}
    assert asked[1:] == [("/at/4711.sock", {**request, "by": "line"}), ("/s", {**request, "by": "path"})]
    assert shown("stats", "x", "--socket", "/s")[::2] == (
        2, "nativemem stats: --socket is of a process, and a file was named (see nativemem stats --help)\n"
    )  # fmt: skip


def test_stats_of_files(shown: Shown, tmp_path: Path) -> None:
    """CLI-4: a snapshot by its first byte, else a recording; what is neither is a mistake."""
    file = tmp_path / "a.json"
    file.write_text(json.dumps(taken().to_dict()))
    assert shown("stats", str(file)) == (0, view.text_of(taken()), "")
    write(tmp_path / "a.nm", example())
    assert shown("stats", str(tmp_path / "a.nm")) == (0, view.text_of(from_recording(example())), "")
    (tmp_path / "b.json").write_text("{}")
    for name, says in (("none", "No such file or directory"), ("b.json", ""), ("a\0b", "")):
        code, out, said = shown("stats", str(tmp_path / name))
        assert (code, out, said.count("\n")) == (2, "", 1) and says in said


def test_top(asked: list[Any], shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    """CLI-4: so many looks, with a pause between two; it ends with the process, and with its reader."""
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    monkeypatch.setattr(top, "find", lambda *_: "", raising=False)
    line = view.line_of(taken()) + "\n"
    assert shown("top", "4711", "--count", "3", "--interval", "5") == (0, line * 3, "") and pauses == [5.0, 5.0]
    assert asked[1:] == [("/at/4711.sock", {"do": "snapshot", "sites": 20, "by": "line"})] * 3
    errors: dict[str, tuple[Any, ...]] = {
        "": (taken().to_dict(), FileNotFoundError()), " 2": (taken().to_dict(), ConnectionResetError()),
    }  # fmt: skip

    def turns(*answers: Any) -> None:
        rest = iter(answers)

        def ask(path: str, /, **request: Any) -> Any:
            answer = next(rest)
            if isinstance(answer, BaseException):
                raise answer
            return answer

        monkeypatch.setattr(control, "ask", ask)

    for answers in errors.values():
        turns(*answers)
        assert shown("top", "4711") == (0, line, "")
    for answers in ((FileNotFoundError("x"),), (taken().to_dict(), TimeoutError("x")), (ValueError("x"),)):
        turns(*answers)
        code, _, said = shown("top", "4711")
        assert (code, said) == (1, "nativemem top: process 4711 does not answer: x\n")
    turns(taken().to_dict(), KeyboardInterrupt())
    assert shown("top", "4711")[0] == 0
    turns(taken().to_dict())
    monkeypatch.setattr(output, "say", lambda text: False)
    assert shown("top", "4711")[0] == 0


def test_what_a_process_declines(asked: list[Any], shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    for error, says in (
        (NativeMemError("declined"), "process 4711: declined"),
        (TimeoutError("late"), "process 4711 does not answer: late"),
        (ValueError("odd"), "process 4711 does not answer: odd"),
    ):

        def ask(path: str, /, error: Exception = error, **request: Any) -> Any:
            raise error

        monkeypatch.setattr(control, "ask", ask)
        for name in ("stats", "attach"):
            assert shown(name, "4711") == (1, "", f"nativemem {name}: {says}\n")


# ---- where a process answers --------------------------------------------------------------------------------


def test_places_of_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """CTL-1: what it was started with decides, then the usual places."""
    monkeypatch.setattr(processes, "_folder", lambda number: "/its")
    usual = control.usual_path(7)
    by_user = f"/tmp/nativemem-{os.stat('/proc/self').st_uid}/7.sock"
    monkeypatch.setattr(
        os, "stat", lambda path, stat=os.stat: stat("/proc/self") if path == "/proc/7" else stat(path)
    )
    assert processes._places(7, {}) == [by_user, usual]
    env = {control.VARIABLE: "at-%p", "XDG_RUNTIME_DIR": "/run/me"}
    assert processes._places(7, env) == [
        "/its/at-7/7.sock", "/its/at-7", "/run/me/nativemem/7.sock", by_user, usual
    ]  # fmt: skip

    def gone(path: Any) -> Any:
        raise OSError

    monkeypatch.setattr(os, "stat", gone)
    assert processes._places(7, {"XDG_RUNTIME_DIR": ""}) == [usual]


def test_what_a_process_was_started_with() -> None:
    child = subprocess.Popen(["sleep", "60"], env={"A": "b=c", "E": ""}, cwd="/")
    try:
        until = time.monotonic() + 60
        while processes._environment(child.pid) != {"A": "b=c", "E": "", "": ""}:  # until it has become sleep
            assert time.monotonic() < until
        assert processes._folder(child.pid) == "/"
    finally:
        child.kill()
        child.wait()
    assert processes._environment(child.pid) == {} and processes._folder(child.pid) == ""


def test_which_socket_is_the_processs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CTL-1: a socket, at which that process listens."""
    at = str(tmp_path / "s")
    assert not processes._is_open(at, os.getpid())
    (tmp_path / "file").write_text("")
    assert not processes._is_open(str(tmp_path / "file"), os.getpid())
    with socket.socket(socket.AF_UNIX) as listens:
        listens.bind(at)
        listens.listen()
        assert processes._is_open(at, os.getpid()) and processes._is_open(at, os.getpid() + 1) is False
        deadlines: list[float] = []
        with monkeypatch.context() as patched:
            patched.setattr(control, "connect", lambda tried, path, until: deadlines.append(until))
            patched.setattr(control, "_peer", lambda _: (os.getpid(), 0))
            assert processes._is_open(at, os.getpid()) is True
        assert 0 < deadlines[0] - time.monotonic() <= 10
        monkeypatch.setattr(control, "_peer", lambda _: (0, 0))
        assert processes._is_open(at, 1)
        assert processes._first_open([str(tmp_path / "no"), at], 1) == at
    assert processes._first_open([at], 1) is None and processes._is_open(at, 1) is False


def test_finding_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """CTL-1: given, where it was asked to open it, by its signal, by its interpreter; else what to do."""
    open_at: set[str] = set()
    sent: list[tuple[int, int]] = []
    opens: list[str] = []
    now = [0.0]
    me = os.getpid()
    monkeypatch.setattr(processes, "_is_open", lambda path, number: path in open_at)
    monkeypatch.setattr(processes, "_environment", lambda number: env)
    monkeypatch.setattr(processes, "_places", lambda number, env: ["/usual"])
    monkeypatch.setattr(processes, "_prepared", lambda path: path)
    monkeypatch.setattr(processes, "_remotely", lambda number, path: (opens.append(path), reason)[1])
    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=lambda s: now.__setitem__(0, now[0] + s))
    monkeypatch.setattr(processes, "time", clock)
    env: dict[str, str] = {}
    reason: str | None = "why"

    def kill(number: int, what: int) -> None:
        sent.append((number, what))
        open_at.add("/usual") if what == signal.SIGUSR1 else None

    monkeypatch.setattr(os, "kill", kill)
    with pytest.raises(Unreachable, match=rf"^process {me} does not answer at /given$"):
        processes.find(me, "/given")
    open_at.add("/given")
    assert processes.find(me, "/given") == "/given"
    with pytest.raises(Unreachable, match="^there is no process 2147483647$"):
        processes.find((1 << 31) - 1, None)
    with pytest.raises(Unreachable) as caught:
        processes.find(me, None)
    assert str(caught.value) == (
        f"process {me} does not answer: why; start it with NATIVEMEM_CONTROL=FOLDER, or have it call "
        "nativemem.observe.control.serve()"
    )
    assert opens == [control.usual_path(me)] and now == [0.0] and sent == []
    env = {control.SIGNAL: "USR2"}
    reason = None
    with pytest.raises(Unreachable, match="it was asked to by its interpreter, and did not"):
        processes.find(me, None)
    assert sent == [(me, signal.SIGUSR2)] and 20.0 <= now[0] <= 20.2
    open_at.add(control.usual_path(me))
    assert processes.find(me, None) == control.usual_path(me)
    env = {control.SIGNAL: "USR1"}
    assert processes.find(me, None) == "/usual" and sent[-1] == (me, signal.SIGUSR1)
    sent.clear()
    assert processes.find(me, None) == "/usual" and sent == []


def test_asking_an_interpreter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Any user's may read the script, which is taken away where it is not run."""
    monkeypatch.setattr(processes.tempfile, "tempdir", str(tmp_path))
    monkeypatch.delattr(sys, "remote_exec", raising=False)
    assert processes._remotely(7, "/at") == (
        "this Python cannot ask for it (3.14 and later can, of a process of the same version)"
    )
    scripts: list[tuple[int, int, str]] = []

    def execute(number: int, file: str) -> None:
        scripts.append((number, stat.S_IMODE(os.stat(file).st_mode), Path(file).read_text()))
        if number == 8:
            raise PermissionError("no")

    monkeypatch.setattr(sys, "remote_exec", execute, raising=False)
    assert processes._remotely(8, "/at") == "it could not be asked to: no" and not [*tmp_path.iterdir()]
    assert processes._remotely(7, "/at") is None and len([*tmp_path.iterdir()]) == 1
    assert scripts == [(number, 0o644, processes._REMOTE.format(path="/at")) for number in (8, 7)]


def test_the_usual_folder_is_made_first(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    monkeypatch.setattr(control, "_make_usual_folder", lambda: made.append(1))
    assert processes._prepared("/at") == "/at" and made == [1]


# ---- run --live ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"), (9.94, "9.9 s"), (10, "10 s"), (59.4, "59 s"), (60, "1:00 min"), (61.9, "1:01 min"),
        (3599, "59:59 min"), (3600, "1:00:00 h"), (36_061, "10:01:01 h"),
    ],
)  # fmt: skip
def test_a_clock(seconds: float, text: str) -> None:
    assert live._clock(seconds) == text


def test_a_line_of_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert live.missing() is None and live._line((1 << 31) - 1, 1.0) is None
    line = live._line(os.getpid(), 1.0)
    assert line is not None and line.startswith("nativemem: 1.0 s, resident ") and ", peak " in line
    status = io.BytesIO(b"VmHWM:\t 2048 kB\nVmRSS:\t 1024 kB\n")
    monkeypatch.setattr("builtins.open", lambda *_: status)
    assert live._line(1, 75.0) == "nativemem: 1:15 min, resident 1.0 MiB, peak 2.0 MiB"
    status = io.BytesIO(b"VmHWM:\t 1047551 kB\nVmRSS:\t 1047552 kB\n")
    assert live._line(1, 75.0) == "nativemem: 1:15 min, resident 1023.0 MiB, peak 1023.0 MiB"
    monkeypatch.setattr(live, "format_size", lambda _: "x" * 40)
    monkeypatch.setattr("builtins.open", lambda *_: io.BytesIO(b"VmHWM:\t 2048 kB\nVmRSS:\t 1024 kB\n"))
    assert len(live._line(1, 1.0) or "") == 72
    monkeypatch.setattr(os.path, "exists", lambda _: False)
    assert live.missing() == "/proc"
    monkeypatch.delattr(os, "pidfd_open")
    assert live.missing() == "an interpreter with os.pidfd_open (Linux)"


# ---- bench --------------------------------------------------------------------------------------------------


def test_the_environments_of_the_sides(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bench, "_FOLDERS", ("/nowhere", str(tmp_path)))
    for name in ("libmimalloc.so.2", "libmimalloc.so.1"):
        (tmp_path / name).write_text("")
    monkeypatch.setenv("NATIVEMEM_LIMIT", "1GiB")
    monkeypatch.setenv("LD_PRELOAD", "x")
    monkeypatch.setenv("PYTHONHASHSEED", "random")
    base = {**os.environ, "PYTHONHASHSEED": "0"}
    base = {name: value for name, value in base.items() if not name.startswith(("NATIVEMEM_", "LD_PRELOAD"))}
    assert bench._environment("native") == bench._environment("default") == base
    assert bench._environment("pure") == {**base, "NATIVEMEM_BACKEND": "pure"}
    first = str(tmp_path / "libmimalloc.so.1")
    assert bench._environment("mimalloc") == {**base, "LD_PRELOAD": first, "PYTHONMALLOC": "malloc"}
    assert bench._environment("jemalloc") is None


def test_a_measurement_of_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def run(words: list[str], **options: Any) -> Any:
        assert options == {**options, "capture_output": True, "text": True, "check": False}
        calls.append((words, options["timeout"]))
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(stdout=answer[0], stderr=answer[1])

    monkeypatch.setattr(bench.subprocess, "run", run)
    for answer, found in (  # noqa: B007 (run reads it)
        (("0.5", ""), (0.5, "")), (("", "a\nb\n"), (None, "b")), (("", " "), (None, "it ended without a figure")),
        (subprocess.TimeoutExpired("x", 1), (None, "took more than a minute")),
    ):  # fmt: skip
        assert bench._measure("objects", "native", 0.5) == found
    module = "nativemem.commands.workloads"
    assert calls == [([sys.executable, "-m", module, "objects", "native", "0.5"], 60)] * 4


def test_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sides take turns, forth and back; no round begins once the time is over."""
    made = {"w": ("what", None, ("native", "default", "x"))}
    monkeypatch.setattr(workloads, "WORKLOADS", made)
    asked: list[tuple[str, float]] = []
    now = [0.0]

    def measure(workload: str, side: str, seconds: float) -> tuple[float | None, str]:
        asked.append((side, seconds))
        now[0] += step
        return (None, "no") if side == "x" else (1.0, "")

    told: list[str] = []
    monkeypatch.setattr(bench, "_progress", told.append)
    monkeypatch.setattr(bench, "_measure", measure)
    monkeypatch.setattr(bench.time, "monotonic", lambda: now[0])
    step = 1.0
    assert bench._run(True) == {"w": {"native": [1.0], "default": [1.0], "x": "no"}}
    assert told == [*(f"round 1: w, {side}" for side in ("native", "default", "x")), ""]  # the line is left empty
    assert asked == [("native", 0.1), ("default", 0.1), ("x", 0.1)]
    asked.clear()
    assert bench._run(False)["w"]["native"] == [1.0] * 5
    assert [side for side, _ in asked] == [
        *("native", "default", "x"),
        *("default", "native", "native", "default") * 2,
    ]
    assert {seconds for _, seconds in asked} == {0.5}
    for step, rounds in ((66.6, 2), (66.7, 1)):  # noqa: B007 (measure reads it)
        assert len(bench._run(False)["w"]["native"]) == rounds


def test_the_table_of_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    made = {"w": ("what", None, ()), "v": ("else", None, ())}
    monkeypatch.setattr(workloads, "WORKLOADS", made)
    found: dict[str, dict[str, list[float] | str]] = {
        "w": {"native": [0.003, 0.001, 0.002], "default": [0.004], "x": "not installed", "y": []},
        "v": {"native": "no", "default": [1.0]},
    }
    assert bench._table(found, {"a": "b"}) == (
        "w: what\n  native            2.000 ms\n  default           4.000 ms   native/default   0.50\n"
        "  x            not installed\n  y            not measured\n\n"
        "v: else\n  native       no\n  default        1000.000 ms\n\na: b\n"
    )
    about = bench._about()
    assert [*about] == ["python", "system", "nativemem", "load"] and about["load"].count(", ") == 2


def test_progress_is_for_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for is_terminal, text in ((True, "\r\033[Kx"), (False, "")):
        said = io.StringIO()
        said.isatty = lambda is_terminal=is_terminal: is_terminal  # type: ignore[method-assign, misc]
        monkeypatch.setattr(sys, "stderr", said)
        bench._progress("x")
        assert said.getvalue() == text
    monkeypatch.setattr(sys, "stderr", None)
    bench._progress("x")


def test_blocks_of_a_workload() -> None:
    """The limit makes its ten thousand calls of a C method, too."""
    call, seen = workloads.WORKLOADS["blocks"][1]("limit"), [0]

    def count(frame: Any, event: str, argument: object) -> None:
        seen[0] += event == "c_call" and getattr(argument, "__name__", "") == "conjugate"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        call()
    finally:
        sys.setprofile(before)
    assert seen == [10_000]


def test_seconds_of_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """The median of five calls or more, after one to warm up."""
    clock, calls = [0.0], [0]
    times = [100.0, 5.0, 1.0, 3.0, 2.0, 4.0, 9.0, 9.0]

    def call() -> None:
        clock[0] += times[calls[0]]
        calls[0] += 1

    now = SimpleNamespace(process_time=lambda: clock[0], perf_counter=lambda: clock[0])
    monkeypatch.setattr(workloads, "time", now)
    assert workloads._seconds(call, 0.0) == 3.0 and calls == [6]
    clock[0], calls[0] = 0.0, 0
    assert workloads._seconds(call, 20.0) == 3.5 and calls == [7]
    clock[0], calls[0] = 0.0, 0
    assert workloads._seconds(call, 15.0) == 3.0 and calls == [6]  # until then, and no longer


def test_hostile_names_in_tables() -> None:
    """What an owner or a line is called does not move the cursor."""
    text = view.text_of(from_recording(hostile()))
    assert all(line.isprintable() for line in text.splitlines())
