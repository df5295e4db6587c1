"""A socket on which a running process answers: a snapshot, a profile's beginning and end.

It is opened when it is asked for: by :func:`serve`, by ``NATIVEMEM_CONTROL`` or, when the signal comes, by
``NATIVEMEM_CONTROL_SIGNAL``. One thread, which :mod:`threading` does not list, answers one connection after the
other; a client that says nothing, or does not read, is dropped after a second, so all that it holds up is other
clients. A connection is one request, a line of JSON of at most 4 KiB, and its answer, which is JSON, too.

The file is for its user alone (mode 0600), and each peer's user is asked of the system (``SO_PEERCRED``): the
process's own and root may speak.
"""

from __future__ import annotations

import _thread
import atexit
import json
import os
import socket
import stat
import struct
import sys
import time
from typing import Any

from ..errors import ConfigError, NativeMemError, NativeUnavailable, shown
from ..settings import Settings

__all__ = ["Control", "ask", "serve", "usual_path"]

VARIABLE, SIGNAL = "NATIVEMEM_CONTROL", "NATIVEMEM_CONTROL_SIGNAL"
#: seconds that one client may take for its request, and for reading its answer
PATIENCE = 1.0
#: bytes of a request
MOST = 4096
#: connections that wait
BACKLOG = 64
_CREDENTIALS = struct.Struct("3i")
#: made beforehand: said where there is no memory for another answer
_NO_MEMORY = b'{"error": "the process has no memory left for an answer"}\n'


def usual_folder() -> str:
    """Where sockets of this user are, where nothing else is said."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.path.isdir(runtime):
        return os.path.join(runtime, "nativemem")
    return f"/tmp/nativemem-{os.getuid()}"


def usual_path(pid: int, folder: str | None = None) -> str:
    """The socket of process ``pid`` in ``folder``; None: the usual one, ``$XDG_RUNTIME_DIR/nativemem`` or
    ``/tmp/nativemem-UID``. Any thread.

    >>> usual_path(17, "/run/app")
    '/run/app/17.sock'
    """
    return os.path.join(usual_folder() if folder is None else folder, f"{pid}.sock")


def _make_usual_folder() -> None:
    """For its user alone, or it is refused: in /tmp another user could have made it."""
    folder = usual_folder()
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        pass
    status = os.lstat(folder)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise ConfigError(f"control: {folder} is not a folder of this user alone", suggestion="give another path")


def _peer(connection: socket.socket) -> tuple[int, int]:
    """(pid, uid)"""
    if not hasattr(socket, "SO_PEERCRED"):
        return 0, os.getuid()
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(data)
    return pid, uid


def _receive(connection: socket.socket, until: float, most: int | None) -> bytes:
    """A line, or what there was before the end. Raises TimeoutError, and ValueError beyond ``most`` bytes."""
    parts, size = [], 0
    while True:
        connection.settimeout(max(until - time.monotonic(), 0.001))
        part = connection.recv(65536 if most is None else most)
        size += len(part)
        if most is not None and size > most:
            raise ValueError("too long")
        parts.append(part)
        if not part or part.endswith(b"\n"):
            return b"".join(parts)
        if time.monotonic() >= until:
            raise TimeoutError


def _send(connection: socket.socket, data: bytes, until: float) -> None:
    rest = memoryview(data)
    while rest and time.monotonic() < until:
        connection.settimeout(max(until - time.monotonic(), 0.001))
        rest = rest[connection.send(rest) :]


# --- what is answered


def _number(request: dict[str, Any], name: str, default: int, least: int) -> int:
    value = request.get(name, default)
    if type(value) is not int or value < least:
        raise ConfigError(f"{name}: takes a whole number of {least} or more, not {shown(value)}")
    return value


def _file(request: dict[str, Any], default: str | None) -> str:
    path = request.get("path", default)
    if not isinstance(path, str) or not path or "\0" in path:
        raise ConfigError(f"path: takes the name of a file, not {shown(path)}")
    return path


def _profiling() -> Any:
    from ..engine import profiling
    from ..engine.install import started_core

    if started_core() is None:
        raise NativeUnavailable("a profile is of the engine, which is not installed in the process")
    return profiling


def _state(state: Any) -> dict[str, Any] | None:
    return None if state is None else {name: getattr(state, name) for name in state.__slots__}


def _take_snapshot(request: dict[str, Any]) -> dict[str, Any]:
    from dataclasses import replace

    from .snapshot import by_line, snapshot

    most, by = _number(request, "sites", 0, 0), request.get("by", "path")
    if by not in ("path", "line"):
        raise ConfigError(f"by: takes 'path' or 'line', not {shown(by)}")
    taken = snapshot(sites=most > 0)
    if by == "line":
        taken = replace(taken, sites=by_line(taken.sites))
    if len(taken.sites) > most:
        taken = replace(taken, sites=tuple(sorted(taken.sites, key=lambda site: -site.live)[:most]))
    return taken.to_dict()


def _save(request: dict[str, Any]) -> dict[str, Any]:
    from .snapshot import snapshot

    path = os.path.abspath(_file(request, f"nativemem-{os.getpid()}.json"))
    snapshot().save(path)
    return {"path": path}


def _status(_request: dict[str, Any]) -> dict[str, Any]:
    try:
        profile = _state(_profiling().state())
    except NativeUnavailable:
        profile = None
    return {"pid": os.getpid(), "profile": profile}


def _start(request: dict[str, Any]) -> dict[str, Any]:
    profiling = _profiling()
    if profiling.state() is not None:
        raise NativeMemError("a profile: one is running in the process", suggestion="stop it first")
    path = os.path.abspath(_file(request, profiling.file_of(None)))
    profiling.begin(path, _number(request, "rate", Settings.profile_rate, 1))
    return {"profile": _state(profiling.state())}


def _stop(_request: dict[str, Any]) -> dict[str, Any]:
    return {"profile": _state(_profiling().stop())}


_ANSWERS = {"status": _status, "snapshot": _take_snapshot, "save": _save, "start": _start, "stop": _stop}


def _answer(line: bytes) -> bytes:
    try:
        request = json.loads(line)
        answer = _ANSWERS[request["do"]](request)
    except (NativeMemError, OSError) as error:
        answer = {"error": str(error), "suggestion": getattr(error, "suggestion", "")}
    except (ValueError, TypeError, KeyError, RecursionError):
        answer = {"error": f"a request is a line of JSON, as {json.dumps({'do': 'status'})}"}
    return json.dumps(answer).encode() + b"\n"


class Control:
    """An open socket; see :func:`serve`. ``path`` is its file.

    >>> import os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     control = serve(folder)
    ...     isinstance(control, Control), os.path.exists(control.path)
    ...     control.close()
    (True, True)
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._pid = os.getpid()
        self._socket: socket.socket | None = self._open()
        self._inode = os.stat(path).st_ino

    def __repr__(self) -> str:
        return f"<Control {self.path}, {'open' if self._socket is not None else 'closed'}>"

    def _open(self) -> socket.socket:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._clear()
            made.bind(self.path)
            os.chmod(self.path, 0o600)
            made.listen(BACKLOG)  # only now: until here a connection is refused
        except BaseException:
            made.close()
            raise
        return made

    def _clear(self) -> None:
        """Takes away what a process left that is gone; nothing else."""
        try:
            if not stat.S_ISSOCK(os.lstat(self.path).st_mode):
                raise ConfigError(f"control: {self.path} is there, and is no socket")
        except FileNotFoundError:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as tried:
            tried.settimeout(PATIENCE)
            try:
                tried.connect(self.path)
            except ConnectionRefusedError:
                os.unlink(self.path)
                return
            except OSError:  # it is there, and busy
                pass
        raise ConfigError(f"control: a process answers at {self.path} already")

    def close(self) -> None:
        """Closes it, and takes its file away. No effect on a closed one, nor in a child of a fork."""
        opened, self._socket = self._socket, None
        if opened is None:
            return
        if os.getpid() == self._pid:
            try:
                if os.stat(self.path).st_ino == self._inode:
                    os.unlink(self.path)
            except OSError:
                pass
            try:
                opened.shutdown(socket.SHUT_RDWR)  # wakes the thread
            except OSError:
                pass
        opened.close()

    def _serve(self) -> None:
        while (opened := self._socket) is not None:
            try:
                connection, _ = opened.accept()
            except MemoryError:
                continue
            except OSError:
                if self._socket is None:
                    return
                time.sleep(0.1)  # no descriptor is free
                continue
            try:
                with connection:
                    self._talk(connection)
            except (OSError, ValueError, MemoryError):
                pass  # the client's loss

    @staticmethod
    def _talk(connection: socket.socket) -> None:
        if _peer(connection)[1] not in (0, os.getuid()):
            return
        line = _receive(connection, time.monotonic() + PATIENCE, MOST)
        if not line:
            return
        try:
            answer = _answer(line)
        except MemoryError:
            answer = _NO_MEMORY
        _send(connection, answer, time.monotonic() + PATIENCE)


_opened: Control | None = None


def _forget_in_child() -> None:
    global _opened
    if _opened is not None:
        _opened.close()
        _opened = None


def serve(path: str | os.PathLike[str] | None = None) -> Control:
    """Opens the socket, once in a process. Returns the :class:`Control`, or the one that is open.

    Parameters: ``path``, where; in a folder it is ``PID.sock``, and None is the usual folder,
    ``$XDG_RUNTIME_DIR/nativemem`` or ``/tmp/nativemem-UID``. It is closed at the end of the process, and in a child
    of a fork, which has none. Raises OSError where it cannot be made, :class:`ConfigError` where something else is
    there, :class:`NativeUnavailable` on a system without such sockets. Any thread.

    >>> import os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     control = serve(folder)
    ...     asked = ask(os.path.join(folder, f"{os.getpid()}.sock"), do="status")
    ...     control.close()
    >>> asked["pid"] == os.getpid()
    True
    """
    global _opened
    if _opened is not None and _opened._socket is not None:
        return _opened
    if not hasattr(socket, "AF_UNIX"):
        raise NativeUnavailable("this system has no Unix sockets")
    if path is None:
        _make_usual_folder()
        path = usual_path(os.getpid())
    elif not isinstance(path, (str, os.PathLike)) or "\0" in os.fspath(path):
        raise ConfigError(f"control: takes a path or None, not {shown(path)}")
    name = os.fspath(path).replace("%p", str(os.getpid()))
    if os.path.isdir(name):
        name = usual_path(os.getpid(), name)
    made = Control(os.path.abspath(name))
    if _opened is None and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_forget_in_child)
    _opened = made
    atexit.register(made.close)
    _thread.start_new_thread(made._serve, ())
    return made


def from_environment() -> None:
    """Opens the socket, or arranges that a signal does, as the environment asks for it. Raises what :func:`serve`
    raises."""
    settings = Settings.from_env()
    if settings.control is not None:
        if "%p" not in settings.control and not os.path.isdir(settings.control):
            os.environ.pop(VARIABLE, None)  # no child takes the path of this process
        try:
            serve(settings.control)
        except OSError as error:
            raise ConfigError(f"control: {settings.control}: {error.strerror or error}") from None
    if settings.control_signal is not None:
        _serve_at(settings.control_signal)


def _serve_at(name: str) -> None:
    import signal

    def opens(*_: object) -> None:
        try:
            serve()
        except (OSError, NativeMemError) as error:
            print(f"nativemem: the control socket is not opened: {error}", file=sys.stderr)

    number = getattr(signal, f"SIG{name}", None)
    if number is None or signal.getsignal(number) is not signal.SIG_DFL:
        raise ConfigError(f"control: {SIGNAL}: {name} is no signal, or the program handles it")
    signal.signal(number, opens)


def connect(connection: socket.socket, path: str, until: float) -> None:
    """Connects, and waits where too many wait already: a socket with a timeout is refused at once then."""
    while True:
        connection.settimeout(max(until - time.monotonic(), 0.001))
        try:
            connection.connect(path)
            return
        except BlockingIOError:
            if time.monotonic() >= until:
                raise TimeoutError("too many wait for an answer") from None
            time.sleep(0.02)


def ask(path: str, /, *, patience: float = 10.0, **request: Any) -> dict[str, Any]:
    """Asks the process that answers at ``path`` (``do="status"``, ``snapshot``, ``save``, ``start``, ``stop``).

    Returns its answer. Raises OSError where none comes within ``patience`` seconds, :class:`NativeMemError` with
    the process's own text where it declines. Any thread.
    """
    until = time.monotonic() + patience
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connect(connection, path, until)
        connection.sendall(json.dumps(request).encode() + b"\n")
        line = _receive(connection, until, None)
    if not line.endswith(b"\n"):
        raise ConnectionResetError("the process gave no whole answer")
    answer = json.loads(line)
    if "error" in answer:
        raise NativeMemError(answer["error"], suggestion=answer.get("suggestion") or "the process itself declined")
    return answer
