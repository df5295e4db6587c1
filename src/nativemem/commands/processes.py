"""How the commands find the socket of a running process, and have one opened that is not."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse

__all__ = ["Unreachable", "add_process", "ask", "find", "pid"]

#: seconds for a process to open a socket that it was asked for
PATIENCE = 10.0
# a start by the core alone has none of the package's modules
_REMOTE = """\
import sys
if "nativemem" in sys.modules or "nativemem._dataplane" in sys.modules:
    try:
        from nativemem.observe.control import serve
        serve({path!r})
    except Exception as error:
        print("nativemem: the control socket is not opened:", error, file=sys.stderr)
"""


class Unreachable(Exception):
    """The process does not answer; the message says what to do."""


def pid(text: str) -> int:
    """An argument that is a process's number."""
    import argparse

    if not (text.isascii() and text.isdecimal() and 0 < int(text) < 1 << 31):
        raise argparse.ArgumentTypeError(f"{text!r}: takes a process's number")
    return int(text)


def add_process(parser: argparse.ArgumentParser) -> None:
    """Gives a parser the option that says where the process answers."""
    parser.add_argument("--socket", metavar="PATH", help="where the process answers, if not in the usual place")


def _environment(number: int) -> dict[str, str]:
    """What the process was started with, where the system shows it."""
    try:
        with open(f"/proc/{number}/environ", "rb") as file:
            pairs = [each.partition(b"=") for each in file.read().split(b"\0")]
    except OSError:
        return {}
    return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}


def _folder(number: int) -> str:
    try:
        return os.readlink(f"/proc/{number}/cwd")
    except OSError:
        return ""


def _places(number: int, env: dict[str, str]) -> list[str]:
    from ..observe.control import VARIABLE, usual_path

    places = []
    if VARIABLE in env:
        named = os.path.join(_folder(number), env[VARIABLE].replace("%p", str(number)))
        places += [usual_path(number, named), named]
    runtime = env.get("XDG_RUNTIME_DIR")
    if runtime:
        places.append(usual_path(number, os.path.join(runtime, "nativemem")))
    try:
        places.append(usual_path(number, f"/tmp/nativemem-{os.stat(f'/proc/{number}').st_uid}"))
    except OSError:
        pass
    return [*places, usual_path(number)]


def _is_open(path: str, number: int) -> bool:
    """Whether that process listens there, rather than another."""
    import socket
    import stat

    from ..observe.control import _peer, connect

    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as tried:
            connect(tried, path, time.monotonic() + PATIENCE)
            return _peer(tried)[0] in (0, number)
    except OSError:
        return False


def _first_open(places: list[str], number: int) -> str | None:
    return next((path for path in places if _is_open(path, number)), None)


def _wait(places: list[str], number: int) -> str | None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        found = _first_open(places, number)
        if found is not None:
            return found
        time.sleep(0.05)
    return None


def _remotely(number: int, path: str) -> str | None:
    """Has the interpreter there run a script (3.14 on). Returns why it cannot; None: it was asked."""
    execute: Any = getattr(sys, "remote_exec", None)
    if execute is None:
        return "this Python cannot ask for it (3.14 and later can, of a process of the same version)"
    file = tempfile.NamedTemporaryFile("w", suffix=".py", prefix="nativemem-", delete=False)
    with file:
        file.write(_REMOTE.format(path=path))
    os.chmod(file.name, 0o644)
    try:
        execute(number, file.name)
    except (OSError, RuntimeError, ValueError) as error:
        os.unlink(file.name)
        return f"it could not be asked to: {error}"
    return None


def find(number: int, given: str | None) -> str:
    """The path at which the process answers. Raises `Unreachable`."""
    from ..observe.control import SIGNAL, usual_path

    if given is not None:
        if not _is_open(given, number):
            raise Unreachable(f"process {number} does not answer at {given}")
        return given
    if not os.path.isdir(f"/proc/{number}") and os.path.isdir("/proc/self"):
        raise Unreachable(f"there is no process {number}")
    env = _environment(number)
    places = _places(number, env)
    found = _first_open(places, number)
    if found is not None:
        return found
    if SIGNAL in env:
        os.kill(number, getattr(signal, f"SIG{env[SIGNAL]}"))
        found = _wait(places, number)
        if found is not None:
            return found
    path = usual_path(number)
    reason = _remotely(number, _prepared(path))
    if reason is None:
        found = _wait([path], number)
        reason = "it was asked to by its interpreter, and did not: it may not have nativemem, or be busy in C"
    if found is None:
        raise Unreachable(
            f"process {number} does not answer: {reason}; start it with NATIVEMEM_CONTROL=FOLDER, or have it call "
            "nativemem.observe.control.serve()"
        )
    return found


def _prepared(path: str) -> str:
    from ..observe.control import _make_usual_folder

    _make_usual_folder()
    return path


def ask(number: int, given: str | None, /, **request: Any) -> dict[str, Any]:
    """The process's answer. Raises `Unreachable`."""
    from ..errors import NativeMemError
    from ..observe import control

    try:
        return control.ask(find(number, given), **request)
    except NativeMemError as error:
        raise Unreachable(f"process {number}: {error}") from None
    except (OSError, ValueError) as error:
        raise Unreachable(f"process {number} does not answer: {error}") from None
