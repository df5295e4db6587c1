"""The profile of this process, and how it is started: by ``nativemem run --profile``, or by the environment.

Loaded in the program's own process before it starts, so it imports nothing that a program would notice.
"""

from __future__ import annotations

import errno
import os

from .._lazy import errors
from ..backends.selection import need_lock
from ..settings import Settings
from .install import core, started_core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "BOUND",
    "VARIABLE",
    "ProfileState",
    "begin",
    "file_of",
    "from_environment",
    "line_of",
    "start",
    "state",
    "stop",
]

VARIABLE = "NATIVEMEM_PROFILE"
#: most bytes that a recording takes on disk, where nothing else is said
BOUND = 64 << 20

#: where the recording of the last profile goes
_path: str | None = None


class ProfileState:
    """The profile that runs: ``path`` of its recording (None: in memory), ``rate`` and ``bound`` in bytes,
    ``samples`` noted so far, and ``dropped``, what found no room."""

    __slots__ = ("bound", "dropped", "path", "rate", "samples")

    def __init__(self, path: str | None, rate: int, samples: int, dropped: int, bound: int) -> None:
        self.path, self.rate, self.samples, self.dropped, self.bound = path, rate, samples, dropped, bound


def start(path: str | None, bound: int, rate: int) -> None:
    """Begins a profile. Raises OSError where its file cannot be made, RuntimeError where one runs already,
    :class:`NativeUnavailable` on a free-threaded interpreter.

    A file that is there is replaced; a pipe, a terminal or a device is not.
    """
    from .about import about

    global _path
    need_lock("a profile")
    if path is not None and os.path.exists(path) and not os.path.isfile(path):
        raise FileExistsError(errno.EEXIST, "It is no regular file, so it is not replaced", path)
    core().profile_start(None if path is None else os.fsencode(path), bound, rate, about())
    _path = path


def state() -> ProfileState | None:
    """Of the profile that runs in this process; None: there is none."""
    engine = started_core()
    now: Any = None if engine is None else engine.profile_state()
    return None if now is None else ProfileState(_path, *now)


def stop() -> ProfileState | None:
    """Ends the profile. Returns its last state; None where none ran: in the child of a fork, or because the program
    ended it."""
    engine = started_core()
    last: Any = None if engine is None else engine.profile_stop()
    return None if last is None else ProfileState(_path, *last)


def file_of(name: str | None) -> str:
    """The recording's file: ``name`` with each ``%p`` replaced by the process's number; in a folder, and for None
    in the current one, ``nativemem-PID.nm``."""
    usual = f"nativemem-{os.getpid()}.nm"
    if name is None:
        return usual
    name = name.replace("%p", str(os.getpid()))
    return os.path.join(name, usual) if os.path.isdir(name) else name


def begin(path: str, rate: int) -> None:
    """Starts the profile. Raises :class:`ConfigError` where the file cannot be written."""
    try:
        start(path, BOUND, rate)
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise errors.ConfigError(f"profile: {path!r} cannot be written: {reason}") from None


def from_environment() -> tuple[str, int] | None:
    """File and rate as the environment asks for them; None where it does not.

    A name that is the same for each process is for this one alone: the variable is taken out of the environment, so
    that no child writes over the file.
    """
    settings = Settings.from_env()
    if settings.profile is None:
        return None
    if "%p" not in settings.profile and not os.path.isdir(settings.profile):
        os.environ.pop(VARIABLE, None)
    return file_of(settings.profile), settings.profile_rate


def line_of(path: str, last: ProfileState | None) -> str:
    """What the summary says of a profile that has ended."""
    from .about import shell_word

    noted = f", {last.samples:,} samples" if last is not None else ""
    lost = f", {last.dropped:,} without room" if last is not None and last.dropped else ""
    return f"profile {path}{noted}{lost}; nativemem report {shell_word(path)} shows it"
