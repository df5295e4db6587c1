"""Reads a recording: what a heap profile added up, by call path and owner, and what owners used over time.

The layout is that of ``csrc/observe/recording.h``. A recording can be read while it is being written, and when its
process was killed.

The values that it returns do not change: any thread may read them.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigError

__all__ = ["Moment", "Owner", "Path", "Recording", "Refused", "Sampled", "Sized", "read", "read_bytes"]

_MAGIC, _VERSION = b"NMRECORD", 2
_HEAD = struct.Struct("<8s2I11Q2I")
_SECTION = struct.Struct("<4Q")
_NODE = struct.Struct("<4I")
_SITE = struct.Struct("<4I6Q")
_OWNER = struct.Struct("<2I4Q")
_MOMENT = struct.Struct("<Q2I2Q")
_REFUSED = struct.Struct("<4Q2I")
_SIZE = struct.Struct("<5Q")
_ABOUT = struct.Struct("<2I")
_ITEMS = (None, _NODE, _SITE, _OWNER, _MOMENT, _MOMENT, _REFUSED, _SIZE, _ABOUT)
#: by version of the layout, how many sections there are: what was written by an earlier one can be read
_SECTIONS = {1: 7, _VERSION: len(_ITEMS)}
#: no limit: what a budget without one has (NM_SIZE_MAX), and what is written for it
_NONE = (1 << 63) - 1
#: a block in a count, as csrc/observe/recording.h has it
_WHOLE = 1024
SOURCES = ("objects", "raw", "arrays", "blocks")


@dataclass(frozen=True)
class Path:
    """A place in a call path: ``file``, ``line`` and ``function``; and the ``caller``, None for the outermost."""

    file: str
    line: int
    function: str
    caller: Path | None = field(default=None, repr=False)

    def frames(self) -> list[Path]:
        """The call path, innermost first."""
        return list(self)

    def __iter__(self) -> Iterator[Path]:
        at: Path | None = self
        while at is not None:
            yield at
            at = at.caller

    def __str__(self) -> str:
        return f"{self.file}:{self.line} in {self.function}" if self.file else self.function


@dataclass(frozen=True)
class Sampled:
    """What one call ``path`` took for one ``owner`` from one ``source`` (objects, raw or arrays): ``live`` when it
    was read, in ``total``, and its share at the ``peak``, when the process had most; bytes, and blocks in
    ``live_blocks``, ``total_blocks`` and ``peak_blocks``. Estimates, where not each block was noted."""

    path: Path
    owner: str
    source: str
    live: int
    live_blocks: int
    total: int
    total_blocks: int
    peak: int
    peak_blocks: int


@dataclass(frozen=True)
class Owner:
    """A budget's owner by its ``name``, or the process: ``used``, ``peak`` and ``limit`` (None: there is none) in
    bytes, as they were last; ``denials`` counts refusals."""

    name: str
    limit: int | None
    used: int
    peak: int
    denials: int


@dataclass(frozen=True)
class Moment:
    """What ``owner`` used ``seconds`` after the beginning, and its limit then. ``number`` is its place among the
    owners: several may have one name."""

    seconds: float
    owner: str
    used: int
    limit: int | None
    number: int = 0


@dataclass(frozen=True)
class Refused:
    """A request of ``requested`` bytes that the ``limit`` of ``owner``, of which so much was ``used``, refused at a
    ``path``, ``seconds`` after the beginning."""

    seconds: float
    owner: str
    requested: int
    used: int
    limit: int | None
    path: Path


@dataclass(frozen=True)
class Sized:
    """Blocks of up to ``most`` bytes, and of more than those of the class before it: ``live``, ``live_blocks``,
    ``total`` and ``total_blocks`` as in a site."""

    most: int
    live: int
    live_blocks: int
    total: int
    total_blocks: int


@dataclass(frozen=True)
class Recording:
    """A profile as it was when it was read; see :func:`read`. Times are seconds, sizes bytes.

    ``sites`` are what each path took, ``owners`` what budgets have, ``moments`` what they had over time,
    ``refused`` the requests that limits refused. ``live`` and ``peak`` are the sums of all sites, ``peak_at`` is
    when that was, ``pid`` the number of the process, ``samples`` how many there are. ``began`` is since the epoch;
    ``lasted`` is None while it goes on, and for a process that was killed. ``rate`` is the mean of bytes between
    two samples (1: each block was noted). ``dropped`` counts what found no room. ``sizes`` are classes of block
    sizes, ascending, and ``about`` says what the process is (``python``, ``system``, ``nativemem``, ``command``);
    neither is in recordings of the first layout.
    """

    pid: int
    began: float
    lasted: float | None
    rate: int
    samples: int
    dropped: int
    live: int
    peak: int
    peak_at: float
    sites: tuple[Sampled, ...]
    owners: tuple[Owner, ...]
    moments: tuple[Moment, ...]
    refused: tuple[Refused, ...]
    sizes: tuple[Sized, ...] = ()
    about: dict[str, str] = field(default_factory=dict)


#: the process's own owner
PROCESS = "process"


def _bad(where: str, what: str) -> ConfigError:
    return ConfigError(f"recording: {where} {what}", suggestion="write one with nativemem.observe.profile")


def _items(part: memoryview, item: struct.Struct, count: int) -> Iterator[tuple[Any, ...]]:
    whole = min(count, len(part) // item.size)
    return item.iter_unpack(part[: whole * item.size])


class _Names:
    """The strings and call paths of a recording, each made once."""

    def __init__(self, strings: memoryview, nodes: Sequence[tuple[Any, ...]]) -> None:
        self._strings, self._nodes = strings, nodes
        self._paths: dict[int, Path | None] = {0: None}

    def text(self, offset: int) -> str:
        if offset == 0 or offset + 4 > len(self._strings):
            return ""
        (length,) = struct.unpack_from("<I", self._strings, offset)
        return bytes(self._strings[offset + 4 : offset + 4 + length]).decode("utf-8", "replace")

    def path(self, node: int) -> Path:
        made = self._path(node)
        return made if made is not None else Path("", 0, "(other code)")

    def _path(self, node: int) -> Path | None:
        todo = []
        while node not in self._paths:
            todo.append(node)
            caller = self._nodes[node][0] if node < len(self._nodes) else 0
            node = caller if caller < node else 0  # as it is but in a damaged file
        for each in reversed(todo):
            if each >= len(self._nodes):
                self._paths[each] = None
                continue
            caller, file, function, line = self._nodes[each]
            above = self._paths.get(caller) if caller < each else None
            self._paths[each] = Path(self.text(file), line, self.text(function), above)
        return self._paths[todo[0] if todo else node]


def _limit(number: int) -> int | None:
    return None if number >= _NONE else number


def _sections(head: bytes | memoryview, where: str) -> int:
    """How many sections a recording has that begins with ``head``."""
    if len(head) < _HEAD.size or bytes(head[:8]) != _MAGIC:
        raise _bad(where, "is no recording")
    _, version, sections, *_ = _HEAD.unpack_from(head)
    if _SECTIONS.get(version) != sections:
        raise _bad(where, f"has layout {version}, and this nativemem reads 1 to {_VERSION}")
    if len(head) < _HEAD.size + sections * _SECTION.size:
        raise _bad(where, "is damaged")
    return sections


def read_bytes(parts: Sequence[bytes | memoryview], where: str = "memory") -> Recording:
    """The recording whose head and sections are ``parts``; ``where`` names it in errors. Any thread."""
    head = memoryview(parts[0])
    sections = _sections(head, where)
    began, ended, pid, rate, _, dropped, samples, live, peak, peak_at, mark, times = _HEAD.unpack_from(head)[4:]
    if len(parts) <= sections or times not in (4, 5):
        raise _bad(where, "is damaged")
    counts = [_SECTION.unpack_from(head, _HEAD.size + s * _SECTION.size)[3] for s in range(sections)]
    views = [memoryview(part) for part in parts[1:]]

    def items(section: int) -> Iterator[tuple[Any, ...]]:
        item = _ITEMS[section]
        if item is None or section >= sections:
            return iter(())
        return _items(views[section], item, counts[section])

    names = _Names(views[0][: counts[0]], [*items(1)])
    owners = [
        Owner(PROCESS if i == 0 else names.text(name) or f"owner {i}", _limit(limit), used, most, denials)
        for i, (name, _, limit, used, most, denials) in enumerate(items(3))
    ]

    def owner(number: int) -> str:
        return owners[number].name if number < len(owners) else PROCESS

    sites = []
    for node, of, source, its_mark, now, blocks, total, total_blocks, most, most_blocks in items(2):
        if total == 0:
            continue
        if its_mark != mark:  # it has not changed since the peak
            most, most_blocks = now, blocks
        numbers = (round(n / _WHOLE) for n in (blocks, total_blocks, most_blocks))
        live_blocks, all_blocks, peak_blocks = numbers
        source_name = SOURCES[source] if source < len(SOURCES) else str(source)
        path = names.path(node)
        sites.append(Sampled(path, owner(of), source_name, now, live_blocks, total, all_blocks, most, peak_blocks))
    return Recording(
        pid=pid,
        began=began / 1e9,
        lasted=ended / 1e9 if ended else None,
        rate=rate,
        samples=samples,
        dropped=dropped,
        live=live,
        peak=peak,
        peak_at=peak_at / 1e9,
        sites=tuple(sites),
        owners=tuple(owners),
        moments=tuple(
            Moment(ns / 1e9, owner(of), used, _limit(limit), of) for ns, of, _, used, limit in items(times)
        ),
        refused=tuple(
            Refused(ns / 1e9, owner(of), asked, used, _limit(limit), names.path(node))
            for ns, asked, used, limit, of, node in items(6)
        ),
        sizes=tuple(
            Sized(most, now, round(blocks / _WHOLE), total, round(all_blocks / _WHOLE))
            for most, now, blocks, total, all_blocks in items(7)
            if total
        ),
        about={names.text(name): names.text(text) for name, text in items(8)},
    )


def read(file: str | os.PathLike[str]) -> Recording:
    """The :class:`Recording` in ``file``, as far as it was written. Any thread.

    Raises OSError where the file cannot be read, and :class:`ConfigError` where it is no recording.

    >>> import sys
    >>> try:
    ...     read(sys.executable)
    ... except ValueError as error:
    ...     print(str(error).removeprefix(f"recording: {sys.executable} "))
    is no recording
    """
    where = os.fspath(file)
    with open(where, "rb") as opened:
        head = opened.read(_HEAD.size + len(_ITEMS) * _SECTION.size)
        parts = [head]
        size = os.fstat(opened.fileno()).st_size
        for s in range(_sections(head, where)):
            offset, room, item, count = _SECTION.unpack_from(head, _HEAD.size + s * _SECTION.size)
            expected = _ITEMS[s]
            if item != (1 if expected is None else expected.size) or offset + min(count, room) * item > size:
                raise _bad(where, "is damaged")
            opened.seek(offset)
            parts.append(opened.read(min(count, room) * item))
    return read_bytes(parts, where)
