"""Telemetry: the last events of budgets and the engine, and a way for them into :mod:`logging`.

Any thread may call what is here.
"""

from __future__ import annotations

import atexit
import functools
import heapq
import logging
import math
import threading
from dataclasses import dataclass
from typing import Any

from ..config import parse_number
from ..errors import ConfigError, shown
from ..facades import configured, loaded
from ..sizes import SIZE_MAX, format_size

__all__ = ["Bridge", "Event", "Reader", "events", "to_logging"]

_KINDS = ("", "denied", "pressure", "limit", "lent", "made", "closed", "locked", "engine")
_REASONS = ("limit", "max_single", "locked")
_LEVELS = ("normal", "warn", "critical", "full")
_SERVES = ("objects", "arrays", "raw")


@dataclass(frozen=True)
class Event:
    """Something that a budget or the engine did ``when``, in seconds since the epoch. ``kind``:

    * ``denied``: ``owner`` refused ``requested`` bytes; ``other``, one below it, was to be charged (None: it
      itself); ``detail`` is why: limit, max_single or locked;
    * ``pressure``: it came to the level ``detail`` from below: warn, critical or full;
    * ``limit``: its limit was set, and was ``requested`` before;
    * ``lent``: ``requested`` bytes of its limit went to ``other``, by a loan, its end, or rebalancing;
    * ``made``, ``closed``, ``locked``: it was;
    * ``engine``: what it serves has changed; ``detail`` names what is on.

    ``used`` and ``limit`` (None: there is none) are those of ``owner`` then, in bytes; names are cut at 39 bytes of
    UTF-8. ``thread`` is the :func:`threading.get_ident` of the thread that caused it. ``number`` counts the
    events of one backend.
    """

    when: float
    kind: str
    owner: str
    other: str | None
    requested: int
    used: int
    limit: int | None
    detail: str
    thread: int
    backend: str
    number: int

    def __str__(self) -> str:
        used, limit = format_size(self.used), "none" if self.limit is None else format_size(self.limit)
        use = f"{used} in use, no limit" if self.limit is None else f"{used} of {limit} in use"
        asked, more = format_size(self.requested), f" for {self.other}" if self.other else ""
        if self.kind == "denied":
            why = "" if self.detail == "limit" else f" ({self.detail})"
            return f"{self.owner} refused {asked}{more}: {use}{why}"
        if self.kind == "pressure":
            return f"{self.owner} is at {self.detail}: {use}"
        if self.kind == "limit":
            before = "none" if self.requested >= SIZE_MAX else asked
            return f"{self.owner}: its limit is {limit} and was {before}; {used} in use"
        if self.kind == "lent":
            return f"{self.owner} lent {asked} of limit to {self.other} and has {limit}"
        if self.kind == "engine":
            return f"the engine serves {self.detail or 'nothing new'}; {used} held, its limit is {limit}"
        return f"{self.owner} was {self.kind}: {use}"


def _event(backend: str, raw: Any) -> Event:
    number, time_ns, thread, kind, detail, requested, used, limit, name, other = raw
    what = _KINDS[kind]
    if what == "denied":
        said = _REASONS[detail]
    elif what == "pressure":
        said = _LEVELS[detail]
    elif what == "engine":
        said = ", ".join(each for i, each in enumerate(_SERVES) if detail >> i & 1)
    else:
        said = ""
    most = None if limit >= SIZE_MAX else limit
    return Event(
        time_ns / 1e9, what, name or "process", other, requested, used, most, said, thread, backend, number
    )


def _bindings() -> list[Any]:
    """All that there are, and the one that the engine's events are with."""
    configured()
    return loaded()


class Reader:
    """Reads each event once. A reader starts with those that are still kept, or, with ``new``, with the next one.
    ``lost`` counts those that came and went between two reads. Any thread; each event goes to one of them.

    >>> import nativemem
    >>> reader = Reader(new=True)
    >>> nativemem.Budget(100, "small").try_reserve(200)
    False
    >>> [(event.kind, event.owner, event.requested) for event in reader.read()][:2]
    [('made', 'small', 0), ('denied', 'small', 200)]
    """

    def __init__(self, *, new: bool = False) -> None:
        self._lock = threading.RLock()
        self._seen: dict[str, int] = {}
        self.lost = 0
        if new:
            self.read()
            self.lost = 0

    def read(self) -> list[Event]:
        """Those that came since, the oldest first; of a backend in the order of their numbers, also where a thread
        was put aside between number and time, or the clock was set back."""
        with self._lock:
            found: list[list[Event]] = []
            for binding in _bindings():
                seen = self._seen.get(binding.name, 0)
                raw = binding.backend.events(seen)
                if raw:
                    found.append([_event(binding.name, each) for each in raw])
                    self._seen[binding.name] = raw[-1].number
                    self.lost += raw[-1].number - seen - len(raw)
        return [*heapq.merge(*found, key=lambda event: event.when)]


def events() -> list[Event]:
    """The last events, the oldest first: 1024 of each backend. Reading takes no memory from the core. Any thread.

    >>> import nativemem
    >>> budget = nativemem.Budget("1 KiB", "of events")
    >>> budget.limit = "2 KiB"
    >>> [str(event) for event in events() if event.owner == "of events"]  # doctest: +NORMALIZE_WHITESPACE
    ['of events was made: 0 B of 1.0 KiB in use', 'of events: its limit is 2.0 KiB and was 1.0 KiB; 0 B in use']
    """
    return Reader().read()


#: what a person is to look at
_GRAVE = ("denied", "pressure")


class Bridge:
    """What :func:`to_logging` returns; parameters as of :func:`to_logging`. ``dropped`` counts events that were not
    logged: for want of memory, or because they came and went between two looks."""

    def __init__(self, logger: logging.Logger, level: int | None, interval: float | None) -> None:
        self._logger, self._level, self._interval = logger, level, interval
        self._reader = Reader(new=True)
        self._waiting: list[Event] = []
        self._dropped = 0
        #: not reentrant: a handler that flushes finds it taken
        self._busy = threading.Lock()
        self._end = threading.Event()
        self._thread: threading.Thread | None = None
        if interval is not None:
            self._thread = threading.Thread(target=self._run, name="nativemem telemetry", daemon=True)
            self._thread.start()
            atexit.register(self.close)

    @property
    def dropped(self) -> int:
        """Events that were not logged."""
        return self._dropped + self._reader.lost

    def _run(self) -> None:
        while not self._end.wait(self._interval):
            self.flush()

    def flush(self) -> int:
        """Logs what has happened since the last time, charged to no budget, and returns how many events that
        were: none where another flush is under way. What logging itself causes is not logged. Any thread.

        >>> import logging, nativemem
        >>> logger = logging.getLogger("memory")
        >>> logger.propagate = False
        >>> with to_logging(logger) as bridge:
        ...     _ = nativemem.Budget("1 KiB", "cache").try_reserve("2 KiB")
        ...     bridge.flush() >= 1, bridge.flush()
        (True, 0)
        """
        if not self._busy.acquire(blocking=False):
            return 0
        try:
            call = functools.partial(self._pass_on)
            for binding in _bindings():
                call = functools.partial(binding.backend.aside, call)
            return call()
        except MemoryError:  # those that were not read yet stay where they are
            return 0
        finally:
            self._busy.release()

    def _pass_on(self) -> int:
        found, logged = self._waiting + self._reader.read(), 0
        self._waiting = []
        for event in found:
            level = self._level
            if level is None:
                level = logging.WARNING if event.kind in _GRAVE else logging.INFO
            try:
                self._logger.log(level, "nativemem: %s", event, extra={"nativemem": event})
                logged += 1
            except MemoryError:
                self._dropped += 1
        me = threading.get_ident()
        self._waiting = [event for event in self._reader.read() if event.thread != me]
        return logged

    def close(self) -> None:
        """Logs what is left, and ends. Idempotent."""
        if self._thread is not None:
            self._end.set()
            if self._thread is not threading.current_thread():
                self._thread.join()
            self._thread = None
            atexit.unregister(self.close)
        self.flush()

    def __enter__(self) -> Bridge:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def to_logging(
    logger: logging.Logger | str = "nativemem", level: int | None = None, interval: float | None = None
) -> Bridge:
    """Passes events on to a logger, from now on.

    Parameters: ``logger``, or its name; ``level`` of all of them (None: WARNING for refusals and pressure, INFO
    for the others); ``interval``, seconds: a thread looks for events that often (None: there is no thread, and
    they are logged by :meth:`Bridge.flush`). No event is logged where it happens, which may be in the midst of an
    allocation within a budget that is full. Each record has the :class:`Event` as its attribute ``nativemem``.

    Returns a :class:`Bridge`, to be closed. Raises :class:`ConfigError` for arguments that will not do. Any thread.

    >>> import logging, nativemem, sys
    >>> logging.getLogger("nativemem").addHandler(logging.StreamHandler(sys.stdout))
    >>> with to_logging():
    ...     nativemem.Budget("1 KiB", "cache").try_reserve("2 KiB")
    False
    nativemem: cache refused 2.0 KiB: 0 B of 1.0 KiB in use
    """
    if isinstance(logger, str):
        logger = logging.getLogger(logger)
    if not isinstance(logger, (logging.Logger, logging.LoggerAdapter)):
        raise ConfigError(f"telemetry.logger: takes a logger or its name, not {shown(logger)}")
    if level is not None and (not isinstance(level, int) or isinstance(level, bool)):
        raise ConfigError(f"telemetry.level: takes a level of logging or None, not {shown(level)}")
    seconds = None if interval is None else parse_number(interval, "telemetry.interval")
    if seconds is not None and not 0 < seconds < math.inf:
        raise ConfigError(f"telemetry.interval: takes seconds above 0, or None, not {shown(interval)}")
    return Bridge(logger, level, seconds)
