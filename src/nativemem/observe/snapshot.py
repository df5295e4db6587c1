"""Snapshots: what each owner, the engine and the process have at one moment, and what grew between two of them.

The values that it returns do not change: any thread may read them.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from .._version import __version__
from ..allocators.base import Allocator
from ..backends.ownership import budget_cores
from ..budgets.pressure import LEVELS
from ..engine.install import started_core
from ..errors import ConfigError, NativeMemError, shown
from ..facades import configured
from ..stats import Stats
from .changes import Difference, Key, Part, compare
from .recording import Path, Recording, Sampled

__all__ = [
    "AllocatorState",
    "EngineState",
    "OwnerState",
    "ProcessState",
    "Snapshot",
    "diff",
    "from_recording",
    "load",
    "snapshot",
]

_FORMAT = 1


@dataclass(frozen=True)
class OwnerState:
    """A budget: ``path``, its name after those of its parents, as ``service/cache``; ``held``, bytes that its
    heap in the engine holds, which are part of what is used (None: it was never entered); ``lent``, bytes of its
    limit that others have; ``pressure``, normal, warn, critical or full; ``locked``, whether nothing more may be
    charged; ``stats``, its figures. One without a name is called ``budget``
    and a number."""

    path: str
    stats: Stats
    pressure: str
    held: int | None
    lent: int
    locked: bool

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rpartition("/")[2]

    @property
    def used(self) -> int:
        """Bytes charged."""
        return self.stats.current

    @property
    def peak(self) -> int:
        """The highest ``used`` so far."""
        return self.stats.peak

    @property
    def limit(self) -> int:
        """Most bytes allowed."""
        return self.stats.limit or 0

    @property
    def denials(self) -> int:
        """Requests refused so far."""
        return self.stats.failures


@dataclass(frozen=True)
class EngineState:
    """The engine: what it serves (``objects``, ``arrays``, ``raw``); ``held``, ``peak`` and ``limit`` (None:
    there is none), bytes in whole pages; ``kept``, bytes of free memory that it has not given back;
    ``denials``, requests that the limit refused; ``allocations``, blocks served so far, and the percentiles 50,
    90 and 99 of their ``sizes``."""

    objects: bool
    arrays: bool
    raw: bool
    held: int
    peak: int
    limit: int | None
    kept: int
    denials: int
    allocations: int
    sizes: dict[int, int] | None


@dataclass(frozen=True)
class ProcessState:
    """The process: ``stats`` of what the engine serves (None: there is none), and ``resident`` and
    ``resident_peak``, the memory that the system counts, in bytes (None: it does not say); its number, ``pid``, the
    versions of ``python`` and ``nativemem``, and the ``backend``."""

    pid: int
    python: str
    nativemem: str
    backend: str
    resident: int | None
    resident_peak: int | None
    stats: Stats | None


@dataclass(frozen=True)
class AllocatorState:
    """An open allocator: its ``chain`` down to the bottom, its number, ``id``, the path of its ``owner``, and its
    ``stats``."""

    chain: str
    id: int
    owner: str | None
    stats: Stats


@dataclass(frozen=True)
class Snapshot:
    """What there was at one moment, ``when``, in seconds since the epoch; see :func:`snapshot`. ``sites`` are
    those of the profile that was running, of one sample in ``rate`` bytes (None: there was none); ``owners``,
    ``allocators``, ``process`` and ``engine`` what each had."""

    when: float
    process: ProcessState
    engine: EngineState | None
    owners: tuple[OwnerState, ...]
    allocators: tuple[AllocatorState, ...] = ()
    sites: tuple[Sampled, ...] = ()
    rate: int | None = None

    def owner(self, path: str) -> OwnerState:
        """The owner of that path, or of that name where one alone has it. Raises :class:`KeyError`."""
        found = [owner for owner in self.owners if owner.path == path]
        found = found or [owner for owner in self.owners if owner.name == path]
        if len(found) != 1:
            raise KeyError(path)
        return found[0]

    def to_dict(self) -> dict[str, Any]:
        """As a dictionary that :mod:`json` takes, and :meth:`from_dict` makes a snapshot of.

        >>> now = snapshot()
        >>> Snapshot.from_dict(now.to_dict()).when == now.when
        True
        """
        nodes: dict[Any, int] = {}
        listed: list[list[Any]] = []
        sites = [_site_out(site, nodes, listed) for site in self.sites]
        plain = asdict(_without_sites(self))
        if self.engine is not None and self.engine.sizes is not None:
            plain["engine"]["sizes"] = {str(percent): size for percent, size in self.engine.sizes.items()}
        return {"snapshot": _FORMAT, **plain, "paths": listed, "sites": sites}

    @classmethod
    def from_dict(cls, given: Any) -> Snapshot:
        """The snapshot that ``given`` was made of by :meth:`to_dict`. Raises :class:`ConfigError` for another."""
        try:
            if given["snapshot"] != _FORMAT:
                raise ConfigError(
                    f"snapshot: has format {shown(given['snapshot'])}, and this nativemem reads {_FORMAT}"
                )
            return _read(given)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            if isinstance(error, NativeMemError):
                raise
            raise ConfigError(
                f"snapshot: is none ({type(error).__name__}: {error})", suggestion="write one with Snapshot.save()"
            ) from None

    def save(self, file: str | os.PathLike[str]) -> None:
        """Writes it to ``file``, as JSON. Raises OSError."""
        with open(file, "w", encoding="utf-8") as opened:
            json.dump(self.to_dict(), opened)
            opened.write("\n")


def load(file: str | os.PathLike[str]) -> Snapshot:
    """The :class:`Snapshot` that was saved to ``file``. Raises OSError, and :class:`ConfigError` where it is none.

    >>> import os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     now = snapshot()
    ...     now.save(os.path.join(folder, "now.json"))
    ...     load(os.path.join(folder, "now.json")) == now
    True
    """
    with open(file, encoding="utf-8") as opened:
        try:
            given = json.load(opened)
        except ValueError as error:
            raise ConfigError(f"snapshot: {os.fspath(file)} is no JSON ({error})") from None
    return Snapshot.from_dict(given)


def _without_sites(whole: Snapshot) -> Snapshot:
    return Snapshot(whole.when, whole.process, whole.engine, whole.owners, whole.allocators, (), whole.rate)


def _site_out(site: Sampled, nodes: dict[Any, int], listed: list[list[Any]]) -> list[Any]:
    """Its numbers, with the number of its path: each path stands once, after its caller's."""
    caller = -1
    for at in reversed(site.path.frames()):
        key = (caller, at.file, at.line, at.function)
        if key not in nodes:
            nodes[key] = len(listed)
            listed.append([*key])
        caller = nodes[key]
    return [caller, *(getattr(site, each.name) for each in fields(Sampled)[1:])]


def _stats(given: Any) -> Stats | None:
    return None if given is None else Stats(**given)


def _read(given: Any) -> Snapshot:
    paths: list[Path] = []
    for caller, file, line, function in given["paths"]:
        if not -1 <= caller < len(paths):
            raise ValueError("a path comes before its caller")
        paths.append(Path(str(file), int(line), str(function), paths[caller] if caller >= 0 else None))
    engine = given["engine"]
    if engine is not None:
        sizes = engine["sizes"]
        sizes = None if sizes is None else {int(percent): int(size) for percent, size in sizes.items()}
        engine = EngineState(**{**engine, "sizes": sizes})
    process = given["process"]
    return Snapshot(
        when=float(given["when"]),
        process=ProcessState(**{**process, "stats": _stats(process["stats"])}),
        engine=engine,
        owners=tuple(OwnerState(**{**owner, "stats": Stats(**owner["stats"])}) for owner in given["owners"]),
        allocators=tuple(AllocatorState(**{**one, "stats": Stats(**one["stats"])}) for one in given["allocators"]),
        sites=tuple(Sampled(paths[node], *rest) for node, *rest in given["sites"]),
        rate=given["rate"],
    )


# --- taking one


def snapshot(*, allocators: bool = False, sites: bool = True) -> Snapshot:
    """A :class:`Snapshot` of this process now.

    Parameters: ``allocators``, whether every open allocator is to be in it, which takes as long as a collection
    of all objects; ``sites``, whether those of the profile that is running are. Each figure is read by itself, so
    one that moves meanwhile may not fit another. Any thread.

    >>> import nativemem
    >>> budget = nativemem.Budget("1 MiB", "snapshots")
    >>> before = snapshot()
    >>> with budget.reserve(1000):
    ...     snapshot().owner("snapshots").used, diff(before, snapshot()).owners[0].grew
    (1000, 1000)
    """
    recording = _recording() if sites else None
    engine = _engine()
    return Snapshot(
        when=time.time(),
        process=_process(engine),
        engine=engine,
        owners=tuple(_owners()),
        allocators=tuple(_allocators()) if allocators else (),
        sites=() if recording is None else recording.sites,
        rate=None if recording is None else recording.rate,
    )


def from_recording(recording: Recording) -> Snapshot:
    """What a profile's recording shows last, as a :class:`Snapshot`: owners and sites, of the process its pid
    alone. Any thread.

    >>> import nativemem
    >>> from nativemem.observe.profile import Profile
    >>> installed = nativemem.install()  # doctest: +SKIP
    >>> rows = nativemem.Budget("8 MiB", name="rows")
    >>> with Profile(rate=1) as profile, rows:  # doctest: +SKIP
    ...     kept = [bytes(1000) for _ in range(1000)]
    >>> last = from_recording(profile.read())  # doctest: +SKIP
    >>> "rows" in {owner.path for owner in last.owners if owner.stats.current > 1_000_000}  # doctest: +SKIP
    True
    """
    owners = [
        OwnerState(
            path=owner.name,
            stats=Stats(owner.used, owner.peak, owner.used, owner.limit, 0, 0, 0, 0, owner.denials),
            pressure=LEVELS[0],
            held=None,
            lent=0,
            locked=False,
        )
        for owner in recording.owners
    ]
    process = ProcessState(recording.pid, "", "", "native", None, None, None)
    when = recording.began + (recording.lasted or 0.0)
    return Snapshot(when, process, None, tuple(owners), (), recording.sites, recording.rate)


def _path(core: Any) -> str:
    names = []
    while core is not None:
        names.append(core.label)
        core = core._parent
    return "/".join(reversed(names))


def _owners() -> Iterable[OwnerState]:
    for core in budget_cores():
        budget, account = core.budget(), core.account()
        yield OwnerState(
            path=_path(core),
            stats=_stats_of(core),
            pressure=LEVELS[core.pressure()],
            held=None if account is None else account[0],
            lent=0 if budget is None else budget.lent,
            locked=core.is_locked(),
        )


def _stats_of(core: Any) -> Stats:
    budget = core.budget()
    if budget is not None:
        return budget.stats
    used, peak, limit, denied = core.numbers()  # those below it keep the core of a budget that is gone
    count, total = core.charges()
    return Stats(used, peak, used, limit, total, 0, count, 0, denied)


def _allocators() -> list[AllocatorState]:
    """A list, since a tuple that is being made is among the objects that it looks at, and could not grow then."""
    found = []
    for each in gc.get_objects():
        if issubclass(type(each), Allocator):  # isinstance asks the object, which may run code of the program's
            try:
                owner = each.owner
                path = None if owner is None else _path(owner._core)
                found.append(AllocatorState(each.describe(), each.id, path, each.stats))
            except (NativeMemError, AttributeError):  # closed meanwhile, or not made yet
                continue
    return found


def _engine() -> EngineState | None:
    engine = started_core()
    if engine is None:
        return None
    from ..engine.process import installed, usage

    use, on = usage(), installed()
    return EngineState(
        objects=on.objects,
        arrays=on.arrays,
        raw=on.raw,
        held=use.held,
        peak=use.peak,
        limit=use.limit,
        kept=engine.engine_kept(),
        denials=use.denials,
        allocations=use.allocations,
        sizes=use.sizes,
    )


def _process(engine: EngineState | None) -> ProcessState:
    from ..engine.process import stats

    resident, resident_peak = _resident()
    return ProcessState(
        pid=os.getpid(),
        python=sys.version.split()[0],
        nativemem=__version__,
        backend=configured().name,
        resident=resident,
        resident_peak=resident_peak,
        stats=None if engine is None else stats(),
    )


def _resident() -> tuple[int | None, int | None]:
    """Bytes resident, and the most that were."""
    found: dict[str, int] = {}
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            for line in status:
                name, _, rest = line.partition(":")
                if name in ("VmRSS", "VmHWM"):
                    found[name] = int(rest.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        return None, None
    return found.get("VmRSS"), found.get("VmHWM")


def _recording() -> Recording | None:
    core = started_core()
    parts = None if core is None else core.profile_read()
    if parts is None:
        return None
    from .recording import read_bytes

    return read_bytes(parts)


# --- comparing two


def _by_owner(whole: Snapshot) -> dict[Key, Part]:
    parts: dict[Key, Part] = {}
    for owner in whole.owners:
        before = parts.get((owner.path,), Part())
        parts[owner.path,] = Part(before.bytes + owner.used, before.blocks, owner.path)
    return parts


def _by_site(whole: Snapshot, by: str) -> dict[Key, Part]:
    parts: dict[Key, Part] = {}
    for site in whole.sites:
        if not site.live:  # all that it took is gone: it is as if it had not come
            continue
        places = [site.path] if by == "line" else site.path.frames()
        key = (site.owner, site.source, *((at.file, at.line, at.function) for at in places))
        before = parts.get(key, Part())
        parts[key] = Part(before.bytes + site.live, before.blocks + site.live_blocks, site)
    return parts


def by_line(sites: Iterable[Sampled]) -> tuple[Sampled, ...]:
    """``sites`` added up by line and owner, whatever called it and whichever the source; the largest first."""
    found: dict[tuple[str, str, int, str], Sampled] = {}
    for site in sites:
        at = site.path
        key = (site.owner, at.file, at.line, at.function)
        had = found.get(key)
        if had is None:
            found[key] = replace(site, path=Path(at.file, at.line, at.function))
            continue
        sums = {name: getattr(had, name) + getattr(site, name) for name in _SUMS}
        found[key] = replace(had, source=had.source if had.source == site.source else "several", **sums)
    return tuple(sorted(found.values(), key=lambda site: -site.live))


_SUMS = ("live", "live_blocks", "total", "total_blocks", "peak", "peak_blocks")


def diff(a: Snapshot, b: Snapshot, by: str = "line") -> Difference:
    """What grew, shrank, came and went from ``a`` to ``b``: owners by what they use, sites by what is live; the
    largest change first. ``str()`` of it is a table.

    Parameters: ``by``, ``"line"``: a site is the line that allocated, whatever called it; ``"path"``: it is the
    whole call path. Raises :class:`ConfigError` for what is no snapshot, and another ``by``. Any thread.

    >>> print(diff(snapshot(sites=False), snapshot(sites=False)).owners)
    ()
    """
    for each in (a, b):
        if not isinstance(each, Snapshot):
            raise ConfigError(f"diff: takes two snapshots, not {type(each).__name__}")
    if by not in ("line", "path"):
        raise ConfigError(f"diff.by: takes 'line' or 'path', not {shown(by)}")
    return Difference(
        b.when - a.when, compare(_by_owner(a), _by_owner(b)), compare(_by_site(a, by), _by_site(b, by))
    )
