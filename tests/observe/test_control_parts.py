"""CLI-6: each part of the control socket by itself, in this process: what it answers, refuses and leaves behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nativemem.engine.profiling import ProfileState
from nativemem.errors import ConfigError, NativeMemError, NativeUnavailable
from nativemem.observe import control
from nativemem.observe.snapshot import load
from nativemem.settings import Settings

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no Unix sockets")


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    other.settimeout(60)
    with one, other:
        yield one, other


@pytest.fixture(autouse=True)
def nothing_stays_open(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(control, "_opened", None)
    yield
    if control._opened is not None:
        control._opened.close()


class Connection:
    """What a connection gives part by part, and what of it was asked for."""

    def __init__(self, *parts: bytes | BaseException, takes: int = 3) -> None:
        self.parts, self.takes = list(parts), takes
        self.sent, self.asked, self.timeouts = b"", list[int](), list[float]()

    def settimeout(self, seconds: float) -> None:
        self.timeouts.append(seconds)

    def recv(self, size: int) -> bytes:
        self.asked.append(size)
        part = self.parts.pop(0)
        if isinstance(part, BaseException):
            raise part
        return part

    def send(self, data: memoryview) -> int:
        taken = bytes(data[: self.takes])
        self.sent += taken
        return len(taken)


def given(*parts: bytes | BaseException) -> Any:
    return Connection(*parts)


def soon() -> float:
    return time.monotonic() + 60


# --- places


def test_the_usual_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runtime folder's, where there is one that is a folder; else one of the user's number in /tmp."""
    own = f"/tmp/nativemem-{os.getuid()}"
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    assert control.usual_folder() == own
    for value, folder in (("", own), (str(tmp_path / "none"), own), (str(tmp_path), f"{tmp_path}/nativemem")):
        monkeypatch.setenv("XDG_RUNTIME_DIR", value)
        assert control.usual_folder() == folder
        assert control.usual_path(17) == f"{folder}/17.sock"
    assert control.usual_path(17, "/x") == "/x/17.sock"


def test_the_usual_folder_is_for_its_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    folder = tmp_path / "nativemem"
    old = os.umask(0)
    try:
        control._make_usual_folder()
    finally:
        os.umask(old)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    control._make_usual_folder()  # it is there
    says = f"^control: {folder} is not a folder of this user alone"
    for mode in (0o710, 0o701, 0o720, 0o704):
        folder.chmod(mode)
        with pytest.raises(ConfigError, match=says) as caught:
            control._make_usual_folder()
        assert caught.value.suggestion == "give another path"
    folder.chmod(0o700)
    with monkeypatch.context() as patch:
        mine = os.getuid()
        patch.setattr(os, "getuid", lambda: mine + 1)
        with pytest.raises(ConfigError, match=says):
            control._make_usual_folder()
    folder.rmdir()
    (tmp_path / "other").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "other")
    with pytest.raises(ConfigError, match=says):
        control._make_usual_folder()
    folder.unlink()
    folder.touch(mode=0o600)
    with pytest.raises(ConfigError, match=says):
        control._make_usual_folder()


# --- bytes


def test_who_speaks(pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    if hasattr(socket, "SO_PEERCRED"):
        assert control._peer(pair[0]) == (os.getpid(), os.getuid())
        monkeypatch.delattr(socket, "SO_PEERCRED")
    assert control._peer(pair[0]) == (0, os.getuid())


def test_a_line_is_received() -> None:
    """To its end, or to that of the connection; so many bytes are asked for as may come."""
    for parts, line in (
        ([b"a\n"], b"a\n"),
        ([b"a", b"b\nc", b"d\n", b"more"], b"ab\ncd\n"),
        ([b"ab", b""], b"ab"),
        ([b""], b""),
    ):
        connection = given(*parts)
        assert control._receive(connection, soon(), 9) == line
        assert connection.asked == [9] * len(connection.asked)
        assert all(50 < seconds <= 60 for seconds in connection.timeouts)
    assert control._receive(given(b"x" * 70_000, b"\n"), soon(), None) == b"x" * 70_000 + b"\n"


def test_a_request_has_an_end() -> None:
    assert control._receive(given(b"x" * 5, b"y" * 4 + b"\n"), soon(), 10) == b"xxxxxyyyy\n"
    with pytest.raises(ValueError, match="too long"):
        control._receive(given(b"x" * 5, b"y" * 5 + b"\n"), soon(), 10)


def test_what_comes_too_late_is_not_waited_for() -> None:
    with pytest.raises(TimeoutError):
        control._receive(given(b"a", b"b\n"), time.monotonic() - 1, 10)
    connection = given(b"whole\n")
    assert control._receive(connection, time.monotonic() - 1, 10) == b"whole\n"
    assert connection.timeouts == [0.001], "0 would not wait at all, and less is an error"


def test_an_answer_is_sent_in_parts() -> None:
    connection = given()
    control._send(connection, b"0123456789", soon())
    assert connection.sent == b"0123456789" and len(connection.timeouts) == 4
    assert all(50 < seconds <= 60 for seconds in connection.timeouts)
    late = given()
    control._send(late, b"0123456789", time.monotonic() - 1)
    assert late.sent == b""


# --- what is answered


def answer(**request: Any) -> dict[str, Any]:
    said = control._answer(json.dumps(request).encode())
    assert said.endswith(b"\n") and said.count(b"\n") == 1
    made: dict[str, Any] = json.loads(said)
    return made


def test_numbers_and_files_of_a_request(tmp_path: Path) -> None:
    assert control._number({}, "rate", 7, 1) == 7 and control._number({"rate": 1}, "rate", 7, 1) == 1
    for bad in (0, -1, True, 1.0, "1", None):
        with pytest.raises(ConfigError, match="^rate: takes a whole number of 1 or more, not "):
            control._number({"rate": bad}, "rate", 7, 1)
    assert control._file({}, "a") == "a" and control._file({"path": "b"}, "a") == "b"
    for wrong in ({"path": ""}, {"path": 3}, {"path": "a\0b"}, {"path": None}, {}):
        with pytest.raises(ConfigError, match="^path: takes the name of a file, not "):
            control._file(wrong, None)


class Profiling:
    """The profile of a process that has an engine."""

    def __init__(self) -> None:
        self.now: ProfileState | None = None
        self.ended = 0

    def state(self) -> ProfileState | None:
        return self.now

    def file_of(self, path: str | None) -> str:
        assert path is None
        return "usual.nm"

    def begin(self, path: str, rate: int) -> None:
        self.now = ProfileState(path, rate, 1, 2, 3)

    def stop(self) -> ProfileState | None:
        self.ended += 1
        last, self.now = self.now, None
        return last


def test_a_profile_is_begun_and_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    profiling = Profiling()
    monkeypatch.setattr(control, "_profiling", lambda: profiling)
    assert answer(do="status") == {"pid": os.getpid(), "profile": None}
    begun = {"path": f"{tmp_path}/usual.nm", "rate": Settings.profile_rate, "samples": 1, "dropped": 2, "bound": 3}
    assert answer(do="start") == {"profile": begun} and answer(do="status") == {
        "pid": os.getpid(),
        "profile": begun,
    }
    assert answer(do="start", path="other") == {
        "error": "a profile: one is running in the process",
        "suggestion": "stop it first",
    }
    assert answer(do="stop") == {"profile": begun} and answer(do="stop") == {"profile": None}
    assert profiling.ended == 2
    for bad in ({"rate": 0}, {"rate": True}, {"path": 7}):
        assert "takes" in answer(do="start", **bad)["error"] and profiling.now is None
    begun = answer(do="start", path="run.nm", rate=1)["profile"]
    assert (begun["path"], begun["rate"]) == (f"{tmp_path}/run.nm", 1)


def test_without_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    from nativemem.engine import install

    monkeypatch.setattr(install, "started_core", lambda: None)
    assert answer(do="status") == {"pid": os.getpid(), "profile": None}
    for do in ("start", "stop"):
        assert answer(do=do)["error"].startswith(
            "a profile is of the engine, which is not installed in the process"
        )
    with pytest.raises(NativeUnavailable):
        control._profiling()
    monkeypatch.setattr(install, "started_core", object)
    assert control._profiling().ProfileState is ProfileState


def test_a_snapshot_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is asked for, or beside the program; the answer has the whole path."""
    monkeypatch.chdir(tmp_path)
    assert answer(do="save") == {"path": f"{tmp_path}/nativemem-{os.getpid()}.json"}
    assert answer(do="save", path="now.json") == {"path": f"{tmp_path}/now.json"}
    assert (
        load(tmp_path / "now.json").process.pid
        == load(tmp_path / f"nativemem-{os.getpid()}.json").process.pid
        == os.getpid()
    )
    assert "No such file or directory" in answer(do="save", path="no/such")["error"]


def test_what_is_no_request() -> None:
    wrong = {"error": 'a request is a line of JSON, as {"do": "status"}'}
    for line in (b"", b"\n", b"{", b"3", b"[1]", b"{}", b'{"do": []}', b'{"do": "none"}', b"[" * 100_000, b"\xff"):
        assert json.loads(control._answer(line)) == wrong
    refused = answer(do="snapshot", sites=-1)
    assert refused["error"] == "sites: takes a whole number of 0 or more, not -1" and refused["suggestion"]
    assert answer(do="snapshot")["sites"] == [] and answer(do="snapshot")["snapshot"] == 1


# --- the socket


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_it_opens_and_closes(tmp_path: Path) -> None:
    at = tmp_path / "s"
    old = os.umask(0)
    try:
        made = control.serve(at)
    finally:
        os.umask(old)
    assert (made.path, mode(at), repr(made)) == (str(at), 0o600, f"<Control {at}, open>")
    assert control.serve(tmp_path / "other") is made, "there is one for a process"
    assert control.ask(str(at), do="status")["pid"] == os.getpid()
    made.close()
    assert repr(made) == f"<Control {at}, closed>" and not at.exists()
    again = control.serve(tmp_path / "other")
    assert again is not made and (tmp_path / "other").exists()
    again.close()


def test_places_are_made_of_what_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    for asked, path in (
        (tmp_path, tmp_path / f"{os.getpid()}.sock"),
        ("a-%p-%p", tmp_path / f"a-{os.getpid()}-{os.getpid()}"),
        (None, tmp_path / "nativemem" / f"{os.getpid()}.sock"),
    ):
        made = control.serve(asked)
        assert made.path == str(path) and path.exists()
        made.close()
        assert not path.exists()
    for bad in (3, b"x\0", "a\0b"):
        with pytest.raises((ConfigError, TypeError)):
            control.serve(bad)  # type: ignore[arg-type]
    with monkeypatch.context() as patch:
        patch.delattr(socket, "AF_UNIX")
        with pytest.raises(NativeUnavailable, match="^this system has no Unix sockets"):
            control.serve("a")


def test_what_is_there_already(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a process that is gone it is taken away; of one that may answer, and what is no socket, not."""
    at = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(at))
        left.listen()
        with pytest.raises(ConfigError, match=f"^control: a process answers at {at} already"):
            control.Control(str(at))
        assert at.exists()

        class Busy(socket.socket):
            def connect(self, address: Any) -> None:
                assert self.gettimeout() == 1.0
                raise TimeoutError

        with monkeypatch.context() as patch:
            patch.setattr(socket, "socket", Busy)
            with pytest.raises(ConfigError, match="answers at"):
                control.Control(str(at))
    inode = at.stat().st_ino
    made = control.Control(str(at))
    assert (at.stat().st_ino, mode(at)) != (inode, 0) and made._inode == at.stat().st_ino
    made.close()
    at.write_text("mine")
    with pytest.raises(ConfigError, match=f"^control: {at} is there, and is no socket"):
        control.Control(str(at))
    assert at.read_text() == "mine"


def test_one_that_cannot_be_opened_leaves_no_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[socket.socket] = []

    class Kept(socket.socket):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            kept.append(self)

    monkeypatch.setattr(socket, "socket", Kept)
    with pytest.raises(FileNotFoundError):
        control.Control(str(tmp_path / "no" / "such"))
    assert [each.fileno() for each in kept] == [-1]


def test_it_takes_away_its_own_file_alone(tmp_path: Path) -> None:
    """Not one that stands in its place by now; none in the child of a fork, which closes its descriptor alone; and
    nothing is wrong where the file is gone."""
    at = tmp_path / "s"
    other = control.Control(str(at))
    at.rename(tmp_path / "moved")
    at.write_text("another's")
    other.close()
    assert at.read_text() == "another's"
    at.unlink()
    (tmp_path / "moved").unlink()
    gone = control.Control(str(at))
    at.unlink()
    gone.close()
    child = control.Control(str(at))
    opened = child._socket
    assert opened is not None
    child._pid = os.getpid() + 1
    child.close()
    assert at.exists() and opened.fileno() == -1 and child._socket is None


def test_in_the_child_of_a_fork_there_is_none(tmp_path: Path) -> None:
    made = control.serve(tmp_path / "s")
    control._forget_in_child()  # as it runs in a child
    assert control._opened is None and made._socket is None
    control._forget_in_child()


def test_one_atfork_handler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handlers: list[dict[str, Any]] = []
    ends: list[Any] = []
    monkeypatch.setattr(os, "register_at_fork", lambda **given: handlers.append(given))
    monkeypatch.setattr(control.atexit, "register", ends.append)
    first = control.serve(tmp_path / "s")
    assert handlers == [{"after_in_child": control._forget_in_child}] and ends == [first.close]
    first.close()
    control.serve(tmp_path / "s").close()
    assert len(handlers) == 1 and len(ends) == 2


def answered(data: bytes) -> bytes:
    """What `_talk` says to a client that sends so much."""
    one, other = socket.socketpair()
    other.settimeout(60)
    with one, other:
        other.sendall(data)
        other.shutdown(socket.SHUT_WR)
        try:
            control.Control._talk(one)
        finally:
            one.close()
        said = b""
        with contextlib.suppress(ConnectionResetError):  # of what was not read
            while part := other.recv(1 << 16):
                said += part
        return said


def test_one_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer for its own user and for root, nothing for another, nor for nothing; 4 KiB of a request."""
    asked = b'{"do": "status"}'
    assert (
        json.loads(answered(asked + b"\n")) == json.loads(answered(asked)) == {"pid": os.getpid(), "profile": None}
    )
    assert answered(b"") == b""
    assert json.loads(answered(asked.ljust(4096)))["pid"] == os.getpid()
    one, other = socket.socketpair()
    with one, other:
        other.sendall(asked.ljust(4097))
        with pytest.raises(ValueError, match="too long"):
            control.Control._talk(one)
    mine = os.getuid()
    for uid, is_told in ((0, True), (mine, True), (mine + 1, False), (1 << 30, False)):
        monkeypatch.setattr(control, "_peer", lambda connection, uid=uid: (1, uid))
        assert bool(answered(asked)) is is_told

    def fails(line: bytes) -> bytes:
        raise MemoryError

    monkeypatch.setattr(control, "_peer", lambda connection: (1, mine))
    monkeypatch.setattr(control, "_answer", fails)
    assert json.loads(answered(asked)) == {"error": "the process has no memory left for an answer"}


def test_seconds_that_a_client_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """One for its request, and one for the answer."""
    now = time.monotonic()
    found: list[tuple[str, float]] = []
    monkeypatch.setattr(control, "_peer", lambda connection: (1, os.getuid()))
    monkeypatch.setattr(control, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(control, "_receive", lambda c, until, most: (found.append(("in", until - now)), b"x")[1])
    monkeypatch.setattr(control, "_send", lambda c, data, until: found.append(("out", until - now)))
    control.Control._talk(given())
    assert [(way, round(seconds, 6)) for way, seconds in found] == [("in", 1.0), ("out", 1.0)]


class Listening:
    """A socket that gives, and fails, as it is told; then it is closed."""

    def __init__(self, made: Any, *gives: Any) -> None:
        self.made, self.gives = made, list(gives)

    def accept(self) -> Any:
        if not self.gives:
            self.made._socket = None
            raise OSError("closed")
        each = self.gives.pop(0)
        if isinstance(each, BaseException):
            raise each
        return each, "address"


class Client:
    def __init__(self) -> None:
        self.closed = 0

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed += 1


@pytest.mark.parametrize("fails", [None, OSError("gone"), ValueError("too long"), MemoryError()], ids=repr)
def test_it_goes_on_whatever_a_client_does(fails: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """And where no connection is to be had: it waits a moment where no descriptor is free, and goes on."""
    slept: list[float] = []
    talked: list[Any] = []

    def talk(connection: Any) -> None:
        talked.append(connection)
        if fails is not None:
            raise fails

    clients = Client(), Client()
    made: Any = SimpleNamespace(_talk=talk)
    made._socket = Listening(made, MemoryError(), clients[0], OSError("too many files"), clients[1])
    monkeypatch.setattr(control, "time", SimpleNamespace(sleep=slept.append))
    control.Control._serve(made)
    assert talked == [*clients] and [each.closed for each in clients] == [1, 1] and slept == [0.1]
    made._socket = None
    control.Control._serve(made)


# --- the environment, and signals


@pytest.mark.parametrize(
    ("value", "stays"), [("{tmp}/s", False), ("{tmp}/s-%p", True), ("{tmp}", True)], ids=["file", "%p", "folder"]
)
def test_by_the_environment(value: str, stays: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No child takes the path of this process; one of its own it may."""
    monkeypatch.setenv("NATIVEMEM_CONTROL", value.format(tmp=tmp_path))
    monkeypatch.delenv("NATIVEMEM_CONTROL_SIGNAL", raising=False)
    control.from_environment()
    assert ("NATIVEMEM_CONTROL" in os.environ) is stays
    assert control._opened is not None and control._opened.path.startswith(str(tmp_path))
    assert control.ask(control._opened.path, do="status")["pid"] == os.getpid()


def test_an_environment_that_asks_for_nothing_or_for_what_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NATIVEMEM_CONTROL", raising=False)
    monkeypatch.delenv("NATIVEMEM_CONTROL_SIGNAL", raising=False)
    control.from_environment()
    assert control._opened is None
    monkeypatch.setenv("NATIVEMEM_CONTROL", f"{tmp_path}/no/such")
    with pytest.raises(ConfigError, match=f"^control: {tmp_path}/no/such: No such file or directory"):
        control.from_environment()

    def fails(path: str) -> Any:
        raise OSError("AF_UNIX path too long")

    monkeypatch.setattr(control, "serve", fails)
    monkeypatch.setenv("NATIVEMEM_CONTROL", "x%p")
    with pytest.raises(ConfigError, match="^control: x%p: AF_UNIX path too long"):
        control.from_environment()


@pytest.fixture
def free_signal() -> Iterator[int]:
    before = signal.getsignal(signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    yield signal.SIGUSR1
    signal.signal(signal.SIGUSR1, before)


def test_a_signal_opens_it(
    free_signal: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("NATIVEMEM_CONTROL_SIGNAL", "USR1")
    monkeypatch.delenv("NATIVEMEM_CONTROL", raising=False)
    control.from_environment()
    assert control._opened is None
    signal.raise_signal(free_signal)
    assert control._opened is not None and control._opened.path == f"{tmp_path}/nativemem/{os.getpid()}.sock"
    control._opened.close()
    (tmp_path / "nativemem").chmod(0o755)
    signal.raise_signal(free_signal)
    assert capsys.readouterr().err.startswith(
        f"nativemem: the control socket is not opened: control: {tmp_path}/nativemem is not a folder of this user"
    )
    with pytest.raises(ConfigError, match="^control: NATIVEMEM_CONTROL_SIGNAL: USR1 is no signal, or the program"):
        control.from_environment()  # it is handled now
    for name in ("NOPE", "usr2"):
        with pytest.raises(ConfigError, match=f"^control: NATIVEMEM_CONTROL_SIGNAL: {name} is no signal, or"):
            control._serve_at(name)


# --- asking


class Waiting:
    """A socket that so many others wait for."""

    def __init__(self, refusals: int) -> None:
        self.refusals, self.connected, self.timeouts = refusals, list[str](), list[float]()

    def settimeout(self, seconds: float) -> None:
        self.timeouts.append(seconds)

    def connect(self, path: str) -> None:
        if self.refusals:
            self.refusals -= 1
            raise BlockingIOError
        self.connected.append(path)


def test_a_connection_waits_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=100.0)
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock.now += 1

    monkeypatch.setattr(control, "time", SimpleNamespace(monotonic=lambda: clock.now, sleep=sleep))
    made: Any = Waiting(3)
    control.connect(made, "x", 110.0)
    assert made.connected == ["x"] and slept == [0.02] * 3 and made.timeouts == [10.0, 9.0, 8.0, 7.0]
    clock.now = 100.0
    made = Waiting(99)
    with pytest.raises(TimeoutError, match="^too many wait for an answer$"):
        control.connect(made, "x", 102.0)
    assert made.timeouts == [2.0, 1.0, 0.001] and not made.connected


@pytest.mark.parametrize(
    ("said", "raises", "words"),
    [
        (b'{"a": 1}\n', None, ""),
        (b'{"a": 1}', ConnectionResetError, "^the process gave no whole answer$"),
        (b"", ConnectionResetError, "^the process gave no whole answer$"),
        (b'{"error": "no such thing"}\n', NativeMemError, "^no such thing"),
        (b'{"error": "no such thing", "suggestion": "stop it first"}\n', NativeMemError, "^no such thing"),
    ],
)
def test_what_an_answer_is(
    said: bytes, raises: type[Exception] | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    class Socket(Connection):
        def __init__(self, *kind: Any) -> None:
            super().__init__(said, b"")
            asked.append(kind)

        def __enter__(self) -> Socket:
            return self

        def __exit__(self, *_: object) -> None:
            asked.append("closed")

        def connect(self, path: str) -> None:
            asked.append(path)

        def sendall(self, data: bytes) -> None:
            asked.append(data)

    monkeypatch.setattr(socket, "socket", Socket)
    call: Callable[[], Any] = lambda: control.ask("at", do="status", more=3)  # noqa: E731
    if raises is None:
        assert call() == {"a": 1}
    else:
        with pytest.raises(raises, match=words) as caught:
            call()
        if isinstance(caught.value, NativeMemError):
            advice = "stop it first" if b"suggestion" in said else "the process itself declined"
            assert caught.value.suggestion == advice
    kind = (socket.AF_UNIX, socket.SOCK_STREAM)
    assert asked == [kind, "at", b'{"do": "status", "more": 3}\n', "closed"]
