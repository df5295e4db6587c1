"""The engine's control plane: its heap, its limit, and what they have to tell."""

from __future__ import annotations

import errno
import os
import sys

from .._lazy import errors
from ..backends.native.loader import dataplane, start_region
from ..settings import Settings
from ..sizes import reserve_of
from .about import about

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Engine", "ProfileState"]


class ProfileState:
    """The profile that runs: ``path`` of its recording (None: in memory), ``rate`` and ``bound`` in bytes,
    ``samples`` noted so far, and ``dropped``, what found no room."""

    __slots__ = ("bound", "dropped", "path", "rate", "samples")

    def __init__(self, path: str | None, rate: int, samples: int, dropped: int, bound: int) -> None:
        self.path, self.rate, self.samples, self.dropped, self.bound = path, rate, samples, dropped, bound


class Engine:
    """Of the process, not of an interpreter."""

    @staticmethod
    def check_insides() -> None:
        """Raises :class:`NativeUnavailable` where this is not quite the interpreter that the core was built for."""
        moved = dataplane.insides_check()
        if moved is not None:
            raise errors.NativeUnavailable(
                f"Python {sys.version.split()[0]} does not keep {moved} where this build expects it",
                suggestion="build nativemem on this machine, or run a version of Python that its page names",
            )

    @staticmethod
    def start(*, idle_decay: bool) -> None:
        """Makes the heap. Raises :class:`OutOfMemory` where the system refuses its first memory, and what
        :meth:`check_insides` raises."""
        try:
            Engine.check_insides()
        except MemoryError:
            raise errors.OutOfMemory("the system refused the first memory for the heap") from None
        start_region()
        settings = Settings.from_env()
        if not dataplane.engine_start(settings.secure):
            raise errors.OutOfMemory("no memory for the engine's control structures")
        if idle_decay or settings.idle_decay:
            dataplane.region_decay_when_idle()

    stranger = staticmethod(dataplane.engine_stranger)
    objects = staticmethod(dataplane.engine_objects)
    raw = staticmethod(dataplane.engine_raw)
    catch_strays = staticmethod(dataplane.engine_catch_strays)
    hook_arrays = staticmethod(dataplane.engine_hook_arrays)
    arrays = staticmethod(dataplane.engine_arrays)
    lift = staticmethod(dataplane.engine_lift)
    state = staticmethod(dataplane.engine_state)
    budget = staticmethod(dataplane.engine_budget)
    kept = staticmethod(dataplane.engine_kept)
    take_peak = staticmethod(dataplane.engine_take_peak)
    owns = staticmethod(dataplane.region_owns)

    @staticmethod
    def set_limit(limit: int) -> None:
        dataplane.engine_set_limit(limit, reserve_of(limit))

    @staticmethod
    def sizes() -> list[tuple[int, int]]:
        """(size, blocks ever served), ascending: cells exactly by bin, spans by power of two."""
        return sorted(dataplane.engine_account()[0])

    @staticmethod
    def denial() -> tuple[int, int, int] | None:
        """(requested, used, limit) of the last one; None where nothing was refused."""
        return dataplane.engine_account()[1]

    #: where the recording of the last profile goes
    _profile_path: str | None = None

    @staticmethod
    def profile_start(path: str | None, bound: int, rate: int) -> None:
        """Begins a profile. Raises OSError where its file cannot be made, RuntimeError where one runs already.

        A file that is there is replaced; a pipe, a terminal or a device is not.
        """
        if path is not None and os.path.exists(path) and not os.path.isfile(path):
            raise FileExistsError(errno.EEXIST, "It is no regular file, so it is not replaced", path)
        dataplane.profile_start(None if path is None else os.fsencode(path), bound, rate, about())
        Engine._profile_path = path

    @staticmethod
    def profile_state() -> ProfileState | None:
        """Of the profile that runs in this process; None: there is none."""
        state: Any = dataplane.profile_state()
        return None if state is None else ProfileState(Engine._profile_path, *state)

    @staticmethod
    def profile_stop() -> ProfileState | None:
        """Ends the profile. Returns its last state; None: there was none."""
        state: Any = dataplane.profile_stop()
        return None if state is None else ProfileState(Engine._profile_path, *state)

    watch_end = staticmethod(dataplane.ending_watch)
    plan_end = staticmethod(dataplane.ending_plan)
