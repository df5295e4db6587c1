"""Leaks by repetition: what grows each time that a function is called, once it is warm.

Growth is judged by slope. The repetitions after the warm-up are three windows; what a place grows by is the least
growth of any window, so a cache that fills once, in whichever window, is none. Places that shrink in each window
count against those that grow: memory that moves from one place to another is no growth. Before each measurement
the collector runs, which also empties the interpreter's free lists.

Cannot: see the growth of a container's own storage in fewer repetitions than it takes to grow, see what replaces
memory from before the first repetition as such (a full cache that is filled anew looks like growth; a longer
warm-up ends that), or see what C libraries take from ``malloc``.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError, shown
from ..sizes import format_size
from .trace import Place, Trace, by_path, lines_of, made_place

__all__ = ["Growth", "Repetitions", "growth", "settle"]

#: windows of repetitions, each of which has to grow
_WINDOWS = 3
#: the collector runs until nothing is found, at most so often: finalizers may make new garbage
_COLLECTIONS = 4


@dataclass(frozen=True)
class Growth:
    """What a function grows by at each call, bytes: 0 where it does not leak.

    ``windows`` has the growth of all places in each window, in bytes per repetition; ``places`` those that grow in
    each, most first; ``warmup`` and ``repeat`` how often it was called. True where it leaks. Immutable; any thread.
    """

    bytes: float
    windows: tuple[float, ...]
    places: tuple[Place, ...]
    warmup: int
    repeat: int

    def __bool__(self) -> bool:
        return self.bytes > 0

    def __str__(self) -> str:
        if not self:
            return f"no growth in {self.repeat} repetitions after {self.warmup} to warm up"
        found = ", ".join(f"{'+' if n >= 0 else ''}{format_size(round(n))}" for n in self.windows)
        lines = [
            f"grows by {format_size(round(self.bytes))} a repetition "
            f"({self.repeat} repetitions after {self.warmup} to warm up: {found})",
            *lines_of(self.places[:5]),
        ]
        more = len(self.places) - 5
        return "\n".join(lines + ([f"  and {more} more places"] if more > 0 else []))


def _count(value: Any, name: str, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= 1_000_000:
        raise ConfigError(f"growth.{name}: takes a whole number, {least} to 1000000, not {shown(value)}")
    return value


def judge(marks: Sequence[tuple[int, dict[Any, tuple[int, int]]]], warmup: int) -> Growth:
    """Growth from measurements: each how many repetitions it came after, and bytes and blocks by call path."""
    windows = [(now[0] - before[0], before[1], now[1]) for before, now in zip(marks, marks[1:], strict=False)]
    totals = [
        (sum(size for size, _ in now.values()) - sum(size for size, _ in before.values())) / times
        for times, before, now in windows
    ]
    steady, grown = 0.0, []
    for path in {path for _, found in marks for path in found}:
        slopes = [
            tuple((now.get(path, (0, 0))[i] - before.get(path, (0, 0))[i]) / times for i in (0, 1))
            for times, before, now in windows
        ]
        least, most = min(slopes), max(slopes)
        if least[0] > 0:
            steady += least[0]
            grown.append((least[0], max(least[1], 0), path))
        elif most[0] < 0:
            steady += most[0]
    grown.sort(key=lambda each: (-each[0], each[2]))
    places = tuple(made_place(path, round(size), round(blocks)) for size, blocks, path in grown)
    leaks = steady > 0
    repeat = marks[-1][0] - marks[0][0]
    return Growth(steady if leaks else 0.0, tuple(totals), places if leaks else (), warmup, repeat)


def settle() -> None:
    """Empties what the interpreter keeps for reuse: garbage, free lists, and its cache of attributes."""
    for _ in range(_COLLECTIONS):
        if not gc.collect():
            break
    # since 3.13, and before; the cache has names that were made to look something up once
    clear = getattr(sys, "_clear_internal_caches", None) or getattr(sys, "_clear_type_cache", None)
    if clear is not None:
        clear()


class Repetitions:
    """Measures while its user repeats something: :meth:`before` each time, and :meth:`end` after the last.
    ``total`` is how often. Counts: 0 or more for ``warmup``, 1 or more for ``repeat``; ConfigError else.
    ``trace`` is one that runs and notes each block; without it another is begun. One at a time."""

    def __init__(self, warmup: int = 1, repeat: int = 3, trace: Trace | None = None) -> None:
        self.warmup, self.repeat = _count(warmup, "warmup", 0), _count(repeat, "repeat", 1)
        self.total = self.warmup + self.repeat
        windows = min(_WINDOWS, self.repeat)
        self._at = {self.warmup + self.repeat * i // windows for i in range(windows + 1)}
        self._marks: list[tuple[int, dict[Any, tuple[int, int]]]] = []
        self.own = trace is None
        self.trace = Trace() if trace is None else trace

    def __enter__(self) -> Repetitions:
        if self.own:
            self.trace.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.own:
            self.trace.stop()

    def before(self, done: int) -> None:
        """Measures where a window begins or ends. ``done``: how many repetitions are over."""
        if done in self._at:
            settle()
            recording = self.trace.recording
            assert recording is not None
            self._marks.append((done, by_path(recording, "live")))

    def end(self) -> Growth:
        """What grew."""
        self.before(self.total)
        return judge(self._marks, self.warmup)


def growth(function: Callable[[], object], warmup: int = 1, repeat: int = 3) -> Growth:
    """Calls ``function`` ``warmup + repeat`` times and returns what it grows by at each call, a :class:`Growth`.

    The thread waits for it. Needs the engine, whose profile it takes. Raises :class:`NativeUnavailable` where the
    engine is off, :class:`NativeMemError` while another profile runs, :class:`ConfigError` for counts that will
    not do, and what ``function`` raises. Any thread, one at a time.

    >>> import nativemem
    >>> from nativemem.testing import growth
    >>> installed = nativemem.install()  # doctest: +SKIP
    >>> kept = []
    >>> found = growth(lambda: kept.append(bytes(100)))  # doctest: +SKIP
    >>> bool(found), found.bytes >= 100  # doctest: +SKIP
    (True, True)
    """
    if not callable(function):
        raise ConfigError(f"growth.function: takes a callable, not {shown(function)}")
    with Repetitions(warmup, repeat) as repetitions:
        for done in range(repetitions.total):
            repetitions.before(done)
            function()
        return repetitions.end()
