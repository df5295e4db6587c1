"""A sampled heap profile of the whole process on the engine, by call path and owner."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..backends.selection import native_core
from ..errors import ConfigError, NativeMemError, NativeUnavailable, shown
from ..sizes import parse_size

if TYPE_CHECKING:
    from .recording import Recording

__all__ = ["Profile"]

#: what a recording may take on disk or in memory at the least, as csrc/observe/recording.h has it
_LEAST = 1 << 20


def _core() -> Any:
    return native_core("a profile")


class Profile:
    """Notes what the engine serves, from the beginning of its ``with`` block, or of :meth:`start`, to the end.

    ``path`` is where the recording goes, written as it is made, so that it is there when the process is killed;
    None keeps it in memory. Of each ``rate`` bytes one is noted in the mean, with the block that it is in; ``1``
    notes each block. ``bound`` is the most that the recording takes. In a child of a fork there is no profile. One
    at a time in a process. Any thread.

    The sampling is that of a Poisson process over bytes, as in gperftools' heap profiler (S. Ghemawat, TCMalloc).

    Raises :class:`ConfigError` for a value that will not do.

    >>> import nativemem
    >>> installed = nativemem.install()  # doctest: +SKIP
    >>> with Profile(rate=1) as profile:  # doctest: +SKIP
    ...     data = [bytes(1000) for _ in range(100)]
    >>> largest = max(profile.read().sites, key=lambda site: site.live)  # doctest: +SKIP
    >>> largest.path.line, largest.live_blocks >= 100  # doctest: +SKIP
    (2, True)
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        rate: int | str = "512 KiB",
        bound: int | str = "64 MiB",
    ) -> None:
        if path is not None and not isinstance(path, (str, os.PathLike)):
            raise ConfigError(f"profile.path: takes a path or None, not {shown(path)}")
        self.path = None if path is None else os.fspath(path)
        self.rate = parse_size(rate, "profile.rate")
        self.bound = parse_size(bound, "profile.bound")
        if self.rate < 1:
            raise ConfigError("profile.rate: takes 1 byte or more")
        if not _LEAST <= self.bound <= 1 << 40:
            raise ConfigError("profile.bound: takes 1 MiB to 1 TiB")
        if self.path is not None and "\0" in self.path:
            raise ConfigError("profile.path: takes a path without a NUL")
        self._parts: Sequence[bytes] | None = None
        self._running = False

    def __repr__(self) -> str:
        state = "running" if self._running else "not running"
        return f"<Profile {self.path or 'in memory'}, a sample in {self.rate} B, {state}>"

    def start(self) -> Profile:
        """Begins. Returns itself. Raises :class:`NativeUnavailable` where there is no engine, NativeMemError where
        there is a profile already, OSError where the file cannot be written, or what is there is no regular file.
        What was there stays then."""
        core = _core()
        from ..engine import profiling

        if core.engine_budget() is None:
            raise NativeUnavailable(
                "a profile: the engine was not installed", suggestion="call nativemem.install()"
            )
        if profiling.state() is not None:
            raise NativeMemError("a profile: one is running in this process", suggestion="stop it first")
        profiling.start(self.path, self.bound, self.rate)
        self._running = True
        return self

    def stop(self) -> None:
        """Ends; no effect where it is not running."""
        if not self._running:
            return
        core = _core()
        if self.path is None:
            self._parts = core.profile_read()
        self._running = False
        core.profile_stop()

    def read(self) -> Recording:
        """What was noted so far, a :class:`~.recording.Recording`. Raises NativeMemError before it was started."""
        from .recording import read, read_bytes

        parts = _core().profile_read() if self._running else self._parts
        if parts is not None:
            return read_bytes(parts, self.path or "memory")
        if self.path is None or not os.path.exists(self.path):
            raise NativeMemError("a profile: it was not started", suggestion="use it as a context manager")
        return read(self.path)

    def __enter__(self) -> Profile:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
