"""CLI-6: a running process answers at a socket, and the commands that ask it."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pytest

import nativemem
from nativemem.errors import ConfigError, NativeMemError
from nativemem.observe import control
from nativemem.observe.recording import read
from nativemem.observe.snapshot import Snapshot, by_line, load

from .recordings import example, hostile

native = pytest.mark.skipif(
    nativemem.backend != "native", reason="what is asked for is the engine's, which is native"
)
pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no Unix sockets")

PROGRAM = """
import sys, threading
import nativemem
from nativemem.observe import control
if nativemem.backend == "native": nativemem.install(limit="100 MiB")
budget = nativemem.Budget("1 MiB", name="cache")
charge = budget.reserve(1000)
charge.__enter__()
if len(sys.argv) > 1: control.serve(sys.argv[1])
def make(): return list(map(bytes, [1000] * 1000))
"""
LOOP = "print('ready', flush=True)\nfor line in sys.stdin: kept = make(); print(line.strip(), flush=True)\n"


class Running:
    """A program that answers, by its standard input and output, so long as it runs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process, self.pid = process, process.pid

    def goes_on(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("again\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "again\n"


@contextmanager
def running(
    *arguments: str, program: str = PROGRAM + LOOP, words: tuple[str, ...] = (), **env: str
) -> Iterator[Running]:
    command = [sys.executable, *words, "-c", program, *arguments]
    kept = {name: value for name, value in os.environ.items() if name not in ("XDG_RUNTIME_DIR",)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**kept, **env}
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield Running(process)
        finally:
            process.kill()


def command(*words: object, code: int = 0, **env: str) -> str:
    kept = {name: value for name, value in os.environ.items() if name != "XDG_RUNTIME_DIR"}
    done = subprocess.run(
        [sys.executable, "-m", "nativemem", *map(str, words)], capture_output=True, text=True, env={**kept, **env}
    )
    assert done.returncode == code, done.stderr
    assert code == 0 or done.stderr.count("\n") == 1, done.stderr
    return done.stdout + done.stderr


def unread(*words: object) -> tuple[int, str]:
    """Exit code and messages of a command whose output nothing reads any more."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as file:
        return into(file, *words)


def unwritten(*words: object) -> tuple[int, str]:
    with open("/dev/full", "wb") as file:
        return into(file, *words)


def into(file: BinaryIO, *words: object) -> tuple[int, str]:
    line = [sys.executable, "-m", "nativemem", *map(str, words)]
    done = subprocess.run(line, stdout=file, stderr=subprocess.PIPE, text=True, timeout=300)
    return done.returncode, done.stderr


@native
def test_the_commands(tmp_path: Path) -> None:
    with running(str(tmp_path)) as program:
        at = tmp_path / f"{program.pid}.sock"
        assert stat.S_IMODE(at.stat().st_mode) == 0o600
        where = ("--socket", at)
        shown = command("attach", program.pid, *where)
        assert f"process {program.pid}" in shown and "cache" in shown and "no profile runs" in shown
        file, now = tmp_path / "run.nm", tmp_path / "now.json"
        command("attach", program.pid, "start", "-o", file, "--rate", 1, *where)
        assert "one is running" in command("attach", program.pid, "start", *where, code=1)
        program.goes_on()
        assert str(file) in command("attach", program.pid, *where)
        taken = Snapshot.from_dict(json.loads(command("stats", program.pid, "--json", *where)))
        assert taken.process.pid == program.pid and taken.owner("cache").used == 1000
        assert any("make" in site.path.function for site in taken.sites)
        in_lines = [line for line in command("stats", program.pid, *where).splitlines() if " in make" in line]
        assert len(in_lines) == 1, "a line of the program is one line, however it was called"
        command("attach", program.pid, "snapshot", now, *where)
        assert load(now).owner("cache").limit == 1 << 20
        assert command("attach", program.pid, "stop", *where).startswith(str(file))
        assert "no profile runs" in command("attach", program.pid, "stop", *where, code=1)
        assert sum(s.live for s in read(file).sites if "make" in s.path.function.split(".")[0]) > 900_000
        lines = command("top", program.pid, "--count", 2, "--interval", 0.05, *where).splitlines()
        assert len(lines) == 2 and all("cache 1000 B/1.0 MiB" in line for line in lines)
        for name in ("top", "stats", "attach"):
            words = (name, program.pid, *where)
            assert unread(*words) == (0, "")  # `top` would go on for ever
            assert unwritten(*words) == (1, f"nativemem {name}: standard output: No space left on device\n")
        program.goes_on()
    for made, owner in ((now, "cache"), (file, "process")):
        assert owner in command("stats", made)
        assert json.loads(command("stats", made, "--json"))["process"]["pid"] == program.pid


def test_mistakes_of_the_commands(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("what")
    for words in (
        ["attach", "x"],
        ["attach", "1", "walk"],
        ["attach", "1", "stop", "file"],
        ["attach", "1", "snapshot"],
        ["attach", "1", "stop", "-o", "x"],
        ["top", "1", "--interval", "0"],
        ["top", "1", "--count", "0"],
        ["stats", tmp_path / "none"],
        ["stats", tmp_path / "other"],
        ["stats", tmp_path],
    ):
        command(*words, code=2)
    for name in ("attach", "top", "stats"):
        assert "there is no process" in command(name, (1 << 31) - 1, code=1)
        assert "examples:" in command(name, "--help")


@pytest.mark.parametrize("by", ["run", "auto"])
@native
def test_by_the_environment(by: str, tmp_path: Path) -> None:
    """A process that was asked to at its start is found by its number."""
    first = "import nativemem.auto\n" if by == "auto" else ""
    words = ("-m", "nativemem", "run") if by == "run" else ()
    with running(program=first + PROGRAM + LOOP, words=words, NATIVEMEM_CONTROL=str(tmp_path)) as program:
        assert "cache" in command("stats", program.pid)
        program.goes_on()


@native
def test_by_a_signal(tmp_path: Path) -> None:
    program = "import nativemem.auto\n" + PROGRAM + LOOP
    env = {"NATIVEMEM_CONTROL_SIGNAL": "USR2", "XDG_RUNTIME_DIR": str(tmp_path)}
    with running(program=program, **env) as found:
        assert not [*tmp_path.rglob("*.sock")]
        assert "cache" in command("stats", found.pid, XDG_RUNTIME_DIR=str(tmp_path))
        (at,) = tmp_path.rglob("*.sock")
        assert stat.S_IMODE(at.parent.stat().st_mode) == 0o700
        found.goes_on()


def test_hostile_clients(tmp_path: Path) -> None:
    """Garbage, silence, too much, and those that do not read: each is dropped, and the program notices nothing."""
    with running(str(tmp_path)) as program:
        at = str(tmp_path / f"{program.pid}.sock")
        kept = []
        for said in (b"\n", b"\xff\x00\n", b"[1]\n", b'{"do": 3}\n', b'{"do": "no"}\n', b"[" * 4000 + b"\n"):
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(30)
                client.connect(at)
                client.sendall(said)
                assert b"a request is a line of JSON" in client.recv(4096)
        for request in (
            {"do": "snapshot", "sites": -1},
            {"do": "snapshot", "by": "x"},
            {"do": "save", "file": "x", "path": 3},
        ):
            with pytest.raises(NativeMemError):
                control.ask(at, **request)
        with pytest.raises(NativeMemError):
            control.ask(at, do="save", path=str(tmp_path / "no" / "such"))
        for said in (b"", b"x" * 10_000, b'{"do": "status"}\n' * 300):
            client = socket.socket(socket.AF_UNIX)
            client.settimeout(30)
            client.connect(at)
            try:
                client.sendall(said)
            except OSError:
                pass
            kept.append(client)  # never read from
        crowd = []
        for _ in range(300):
            client = socket.socket(socket.AF_UNIX)
            client.setblocking(False)
            client.connect_ex(at)
            crowd.append(client)
        program.goes_on()
        for client in crowd + kept:
            client.close()
        assert control.ask(at, patience=60, do="status")["pid"] == program.pid
        program.goes_on()


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40)])
def test_top_in_a_terminal(width: int, height: int) -> None:
    """CLI-4: what has no room is cut at its beginning, and never wraps."""
    pytest.importorskip("rich", reason="rich is not installed")
    from rich.console import Console

    from nativemem.commands.top import _rich
    from nativemem.observe.snapshot import from_recording

    for recording in (example(), hostile()):
        taken = from_recording(recording)
        console = Console(width=width, height=height, file=io.StringIO())
        console.print(_rich(taken, width, height))
        lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
        assert max(map(len, lines)) <= width and len(lines) <= height
        assert "".join(lines).isprintable()
        shown = [line for line in lines if " in " in line]
        assert len(shown) >= min(len(by_line(taken.sites)), 3)
        assert "denials" in "".join(lines) and "blocks" in "".join(lines)


def test_several_clients_at_once(tmp_path: Path) -> None:
    """Commands of every kind, two of each, beside a client that says nothing: each gets its own answer."""
    with running(str(tmp_path)) as program:
        at = str(tmp_path / f"{program.pid}.sock")
        silent = socket.socket(socket.AF_UNIX)
        silent.connect(at)
        words = [
            *(["attach", str(program.pid)], ["stats", str(program.pid), "--json"]),
            ["top", str(program.pid), "--count", "3", "--interval", "0.05"],
            ["attach", str(program.pid), "snapshot", str(tmp_path / "now.json")],
        ]
        base = [sys.executable, "-m", "nativemem"]
        started = [
            subprocess.Popen([*base, *each, "--socket", at], stdout=subprocess.PIPE, text=True)
            for each in words * 2
        ]
        program.goes_on()
        for each, process in zip(words * 2, started, strict=True):
            shown, _ = process.communicate(timeout=300)
            assert process.returncode == 0, (each, shown)
            assert "cache" in shown or each[2:3] == ["snapshot"]
        assert load(tmp_path / "now.json").owner("cache").used == 1000
        silent.close()
        program.goes_on()


@native
def test_in_a_full_process(tmp_path: Path) -> None:
    program = PROGRAM + textwrap.dedent("""
        import itertools
        control.ask(control._opened.path, do="snapshot", sites=1)  # what it imports is there before
        kept = []
        for size in (1 << 20, 10_000, 1000):
            try:
                for _ in itertools.count(): kept.append(bytes(size))
            except MemoryError: pass
        print("ready", flush=True)
        sys.stdin.readline()
    """)
    with running(str(tmp_path), program=program) as full:
        at = str(tmp_path / f"{full.pid}.sock")
        for _ in range(20):
            try:
                taken = Snapshot.from_dict(control.ask(at, do="snapshot"))
            except NativeMemError as error:
                assert "no memory left" in str(error)
                continue
            assert taken.engine is not None and taken.engine.held > 90 << 20
        assert full.process.poll() is None


def test_threads_forks_and_the_end(tmp_path: Path) -> None:
    program = PROGRAM + textwrap.dedent("""
        import os
        at = control._opened.path
        assert control.serve() is control._opened and threading.enumerate() == [threading.main_thread()]
        child = os.fork()
        if child == 0:
            assert control._opened is None and os.path.exists(at)
            own = control.serve(at + ".child")
            assert control.ask(own.path, do="status")["pid"] == os.getpid()
            sys.exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert not os.path.exists(at + ".child")
        assert control.ask(at, do="status")["pid"] == os.getpid()
        print("ready", flush=True)
    """)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "ready\n", "")
    assert not [*tmp_path.iterdir()]


def test_places(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(ConfigError, match="is no socket"):
        control.serve(file)
    assert file.read_text() == "mine"
    with pytest.raises(ConfigError):
        control.serve(3)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        control.serve(tmp_path / "no" / "such")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "one"))
        other.listen()
        with pytest.raises(ConfigError, match="answers"):
            control.serve(tmp_path / "one")
    made = control.serve(tmp_path / "one")  # what is left of the other
    assert control.ask(made.path, do="status")["pid"] == os.getpid()
    made.close()
    made.close()
    assert "closed" in repr(made) and not (tmp_path / "one").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_gets_no_answer(tmp_path: Path) -> None:
    folder = Path("/tmp") / f"nativemem-test-{os.getpid()}"
    folder.mkdir(mode=0o755)
    client = (
        "import os, socket, sys\nos.setgid(65534); os.setuid(65534)\ns = socket.socket(socket.AF_UNIX)\n"
        "s.settimeout(30)\ntry: s.connect(sys.argv[1])\nexcept PermissionError: sys.exit(3)\n"
        'try:\n    s.sendall(b\'{"do": "status"}\\n\')\n    print(s.recv(100))\n'
        "except ConnectionError: print(b'')\n"
    )
    try:
        with running(str(folder)) as program:
            at = folder / f"{program.pid}.sock"
            words = [sys.executable, "-I", "-c", client, str(at)]
            assert subprocess.run(words, check=False).returncode == 3
            at.chmod(0o666)
            assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "b''\n"
    finally:
        for left in folder.iterdir():
            left.unlink()
        folder.rmdir()


@native
@pytest.mark.skipif(not hasattr(sys, "remote_exec"), reason="interpreters run each other's scripts from 3.14 on")
@pytest.mark.parametrize("start", ["by the program", "by the variable alone"])
def test_a_process_that_was_not_asked_at_its_start(tmp_path: Path, start: str) -> None:
    """The engine may be all that there is of the package: a start by the core alone imports no module of it."""
    variables = {"XDG_RUNTIME_DIR": str(tmp_path)}
    program, shows = PROGRAM, "cache"
    if start == "by the variable alone":
        program = "import sys\nassert 'nativemem' not in sys.modules and 'nativemem._dataplane' in sys.modules\n"
        variables["NATIVEMEM_AUTOINSTALL"], shows = "1", "engine "
    loop = "print('ready', flush=True)\nimport time\nwhile True: time.sleep(0.01)\n"
    with running(program=program + loop, **variables) as process:
        try:
            shown = command("stats", process.pid, XDG_RUNTIME_DIR=str(tmp_path))
        except AssertionError as error:
            if "could not be asked to" in str(error):
                pytest.skip(f"the system does not permit it: {error}")
            raise
        assert shows in shown


def test_waits_for_no_client_at_the_end() -> None:
    """A process ends, whatever is connected."""
    program = PROGRAM + "import tempfile, socket\nfolder = tempfile.mkdtemp()\nmade = control.serve(folder)\n"
    program += "s = socket.socket(socket.AF_UNIX); s.connect(made.path)\n"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)
    assert signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL


def test_sites_of_a_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    """CTL-2: by path or by line, so many of the largest; none are asked for where none are wanted."""
    from nativemem.observe import snapshot as module

    made = replace(module.snapshot(), sites=tuple(reversed(example().sites)) * 2, rate=1)
    asked: list[bool] = []
    monkeypatch.setattr(module, "snapshot", lambda sites: (asked.append(sites), made)[1])

    def lives(**request: Any) -> list[int]:
        return [site.live for site in Snapshot.from_dict(control._take_snapshot(request)).sites]

    every = [site.live for site in made.sites]
    lines = [site.live for site in by_line(made.sites)]
    assert len(lines) == 5 and sorted(lines)[-1] == 2 * max(every)
    assert lives(sites=99) == lives(sites=99, by="path") == lives(sites=len(every)) == every
    assert lives(sites=2) == [max(every)] * 2
    assert lives(sites=99, by="line") == lines and lives(sites=1, by="line") == [max(lines)]
    assert lives() == [] and asked == [True] * 6 + [False]
    with pytest.raises(ConfigError, match="^by: takes 'path' or 'line', not 'lines'"):
        lives(by="lines")
