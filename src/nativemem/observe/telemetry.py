"""Telemetry: the last events of budgets and the engine, and a way for them into :mod:`logging`."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

from ..facades import loaded
from ..sizes import SIZE_MAX, format_size

__all__ = ["Event", "Reader", "events"]

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
        used, limit = format_size(self.used), "no limit" if self.limit is None else format_size(self.limit)
        asked, more = format_size(self.requested), f" for {self.other}" if self.other else ""
        if self.kind == "denied":
            why = "" if self.detail == "limit" else f" ({self.detail})"
            return f"{self.owner} refused {asked}{more}: {used} of {limit} in use{why}"
        if self.kind == "pressure":
            return f"{self.owner} is at {self.detail}: {used} of {limit} in use"
        if self.kind == "limit":
            before = "none" if self.requested >= SIZE_MAX else asked
            return f"{self.owner}: its limit is {limit} and was {before}; {used} in use"
        if self.kind == "lent":
            return f"{self.owner} lent {asked} of limit to {self.other} and has {limit}"
        if self.kind == "engine":
            return f"the engine serves {self.detail or 'nothing new'}; {used} held, limit {limit}"
        return f"{self.owner} was {self.kind}: {used} of {limit} in use"


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
        """Those that came since, the oldest first."""
        with self._lock:
            found: list[Event] = []
            for binding in loaded():
                seen = self._seen.get(binding.name, 0)
                raw = binding.backend.events(seen)
                if raw:
                    self._seen[binding.name] = raw[-1].number
                    self.lost += raw[-1].number - seen - len(raw)
                found += (_event(binding.name, each) for each in raw)
        return sorted(found, key=lambda event: event.when)


def events() -> list[Event]:
    """The last events, the oldest first: 1024 of each backend. Reading takes no memory from the core. Any thread.

    >>> import nativemem
    >>> budget = nativemem.Budget("1 KiB", "of events")
    >>> budget.limit = "2 KiB"
    >>> [str(event) for event in events() if event.owner == "of events"]  # doctest: +NORMALIZE_WHITESPACE
    ['of events was made: 0 B of 1.0 KiB in use', 'of events: its limit is 2.0 KiB and was 1.0 KiB; 0 B in use']
    """
    return Reader().read()
