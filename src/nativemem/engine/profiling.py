"""The profile that a process is started with: by ``nativemem run --profile``, or by the environment.

Loaded in the program's own process before it starts, so it imports nothing that a program would notice.
"""

from __future__ import annotations

import os

from .._lazy import errors
from ..settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .control import ProfileState

__all__ = ["BOUND", "VARIABLE", "begin", "end", "file_of", "from_environment", "line_of"]

VARIABLE = "NATIVEMEM_PROFILE"
#: most bytes that a recording takes on disk, where nothing else is said
BOUND = 64 << 20


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
    from .control import Engine

    try:
        Engine.profile_start(path, BOUND, rate)
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise errors.ConfigError(f"profile: {path!r} cannot be written: {reason}") from None


def end() -> ProfileState | None:
    """Ends the profile that runs. Returns its last state; None where there is none: in the child
    of a fork, or because the program ended it."""
    from .control import Engine

    return Engine.profile_stop()


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


def line_of(path: str, state: ProfileState | None) -> str:
    """What the summary says of a profile that has ended."""
    from .about import shell_word

    noted = f", {state.samples:,} samples" if state is not None else ""
    lost = f", {state.dropped:,} without room" if state is not None and state.dropped else ""
    return f"profile {path}{noted}{lost}; nativemem report {shell_word(path)} shows it"
