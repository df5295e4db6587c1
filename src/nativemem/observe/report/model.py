"""What a report says, added up from a recording; each format shows this.

The values that it returns do not change: any thread may read them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from ...errors import ConfigError, shown
from ...wrappers.histogram import percentiles
from ..recording import Moment, Recording, Sampled, Sized
from .tree import MEASURES, Amount, Leaf, Place, Tree, tree_of

__all__ = ["Histogram", "OwnerRow", "Point", "RefusalRow", "Report", "SiteRow", "error_of"]


@dataclass(frozen=True)
class OwnerRow:
    """One owner, or those of one name together: ``used`` and ``peak`` are the budget's own figures, exact and with
    what the engine holds for it; ``amount`` is what the profile saw. ``limit`` is None where there is none, or
    where ``count`` owners of the name have one each. ``denials`` counts refused requests."""

    name: str
    used: int
    peak: int
    limit: int | None
    denials: int
    count: int
    amount: Amount


@dataclass(frozen=True)
class SiteRow:
    """A line of a program, its ``place``, that took an ``amount`` for one ``owner``: ``sources`` are where from,
    ``path`` is the largest of its call paths, innermost first, and ``paths`` counts them."""

    place: Place
    owner: str
    sources: tuple[str, ...]
    amount: Amount
    path: tuple[Place, ...]
    paths: int


@dataclass(frozen=True)
class RefusalRow:
    """Refused requests of one line, ``place``, with the ``path`` of the last, for one ``owner``: how many were
    noted (``count``), the ``largest`` of them in bytes, and for the ``last`` of them, in seconds, what was ``used``
    and the ``limit``."""

    place: Place
    owner: str
    count: int
    largest: int
    last: float
    used: int
    limit: int | None
    path: tuple[Place, ...]


@dataclass(frozen=True)
class Histogram:
    """Blocks by size, ascending (``rows``), and the percentiles 50, 90 and 99 of all blocks (``total``) and of
    those that are ``live`` (None: no blocks). Not ``exact``: each site's blocks count as of their mean size."""

    rows: tuple[Sized, ...]
    total: dict[int, int] | None
    live: dict[int, int] | None
    exact: bool


class Point(NamedTuple):
    """What an owner ``used`` at a time, in ``seconds`` after the beginning, and its ``limit`` then (None: none)."""

    seconds: float
    used: int
    limit: int | None


def error_of(number: int, rate: int) -> int:
    """The standard deviation, in bytes, of an estimate of ``number`` bytes from one sample in ``rate`` bytes:
    samples of a Poisson process, each of which stands for that much.

    >>> error_of(64 << 20, 1 << 20) >> 20, error_of(64 << 20, 1)
    (8, 0)
    """
    return 0 if rate <= 1 else math.isqrt(max(number, 0) * rate)


class Report:
    """What there is to say of ``recording``; ``where`` names it, ``owner`` leaves all others out.

    Raises :class:`ConfigError` for an owner that the recording does not have. Any thread.

    >>> import nativemem
    >>> from nativemem.observe.profile import Profile
    >>> from nativemem.observe.report.model import Report
    >>> installed = nativemem.install()  # doctest: +SKIP
    >>> rows = nativemem.Budget("2 MiB", name="rows")
    >>> with Profile(rate=1) as profile, rows:  # doctest: +SKIP
    ...     kept = [bytes(1000) for _ in range(1000)]
    ...     try:
    ...         bytes(4_000_000)
    ...     except MemoryError:
    ...         pass
    >>> report = Report(profile.read())  # doctest: +SKIP
    >>> report.sources[0][0], "rows" in report.timelines  # doctest: +SKIP
    ('objects', True)
    >>> report.refusals[0].owner, report.refusals[0].largest >= 4_000_000  # doctest: +SKIP
    ('rows', True)
    """

    def __init__(self, recording: Recording, *, where: str = "", owner: str | None = None) -> None:
        if owner is not None:
            recording = _only(recording, owner)
        self.recording = recording
        self.where = where
        self.owner = owner

    @cached_property
    def tree(self) -> Tree:
        """The call paths, and what they took."""
        return tree_of(self.recording.sites)

    @cached_property
    def amount(self) -> Amount:
        """That of all sites."""
        return _sum(leaf.amount for leaf in self.tree.leaves)

    @cached_property
    def owners(self) -> tuple[OwnerRow, ...]:
        """The process first, then the others, the largest peak first."""
        seen: dict[str, Amount] = {}
        for leaf in self.tree.leaves:
            seen[leaf.owner] = seen.get(leaf.owner, Amount()) + leaf.amount
        rows: dict[str, OwnerRow] = {}
        # the last that there was: at its end `nativemem run` lifts the process's
        limits = {each.owner: each.limit for each in self.recording.moments if each.limit is not None}
        for each in self.recording.owners:
            row = rows.get(each.name) or OwnerRow(each.name, 0, 0, None, 0, 0, seen.get(each.name, Amount()))
            rows[each.name] = replace(
                row,
                used=row.used + each.used,
                peak=max(row.peak, each.peak),
                limit=(each.limit or limits.get(each.name)) if row.count == 0 else None,
                denials=row.denials + each.denials,
                count=row.count + 1,
            )
        ordered = list(rows.values())
        return (*ordered[:1], *sorted(ordered[1:], key=lambda row: (-row.peak, row.name)))

    @cached_property
    def sources(self) -> tuple[tuple[str, Amount], ...]:
        """By where memory comes from (``objects``, ``raw``, ``arrays``, ``blocks``)."""
        seen: dict[str, Amount] = {}
        for leaf in self.tree.leaves:
            seen[leaf.source] = seen.get(leaf.source, Amount()) + leaf.amount
        return tuple(sorted(seen.items(), key=lambda item: -item[1].total))

    @cached_property
    def _sites(self) -> tuple[SiteRow, ...]:
        found: dict[tuple[Place, str], list[Leaf]] = {}
        for leaf in self.tree.leaves:
            found.setdefault((self.tree.places[leaf.node], leaf.owner), []).append(leaf)
        rows = []
        for (place, owner), leaves in found.items():
            most = max(leaves, key=lambda leaf: (leaf.amount.live, leaf.amount.peak, leaf.amount.total))
            sources = tuple(sorted({leaf.source for leaf in leaves}))
            amount = _sum(leaf.amount for leaf in leaves)
            path = tuple(self.tree.path(most.node))
            rows.append(SiteRow(place, owner, sources, amount, path, len({leaf.node for leaf in leaves})))
        return tuple(rows)

    def sites(self, measure: str = "peak", most: int | None = None, at_least: int = 1) -> tuple[SiteRow, ...]:
        """The lines of the program by ``measure``, one of ``live``, ``peak`` and ``total``, the largest first: at
        most ``most`` (None: all), and none below ``at_least`` bytes."""
        if measure not in MEASURES:
            raise ConfigError(f"report: measures are {', '.join(MEASURES)}, not {shown(measure)}")
        rows = [row for row in self._sites if row.amount.bytes(measure) >= at_least]
        return tuple(sorted(rows, key=lambda row: (-row.amount.bytes(measure), row.place, row.owner))[:most])

    @cached_property
    def refusals(self) -> tuple[RefusalRow, ...]:
        """The requests that a limit refused, by line and owner; the most first."""
        found: dict[tuple[Place, str], RefusalRow] = {}
        for each in self.recording.refused:
            path = tuple(Place(at.file, at.line, at.function) for at in each.path)
            row = found.get((path[0], each.owner))
            count, largest = (row.count, row.largest) if row else (0, 0)
            found[path[0], each.owner] = RefusalRow(
                path[0],
                each.owner,
                count + 1,
                max(largest, each.requested),
                each.seconds,
                each.used,
                each.limit,
                path,
            )
        return tuple(sorted(found.values(), key=lambda row: (-row.count, -row.largest)))

    @cached_property
    def histogram(self) -> Histogram:
        """Blocks by size; by the mean size of each site where the recording has no sizes, or is of one owner."""
        rows = list(self.recording.sizes)
        exact = bool(rows) or not self.recording.sites
        if not exact:
            rows = _by_mean(self.recording.sites)
        total = percentiles([(row.most, row.total_blocks) for row in rows])
        live = percentiles([(row.most, row.live_blocks) for row in rows])
        return Histogram(tuple(rows), total, live, exact)

    @cached_property
    def timelines(self) -> dict[str, list[Point]]:
        """By owner what it used over time; those of one name are added up. What had most comes first."""
        by_name: dict[str, list[Moment]] = {}
        for moment in self.recording.moments:
            by_name.setdefault(moment.owner, []).append(moment)
        lines = {name: _line(moments) for name, moments in by_name.items()}
        return dict(sorted(lines.items(), key=lambda item: -max(point.used for point in item[1])))

    @property
    def seconds(self) -> float:
        """How long it took; so far, or as far as it is known, where the recording has no end."""
        if self.recording.lasted is not None:
            return self.recording.lasted
        moments, refused = self.recording.moments, self.recording.refused
        return max(
            self.recording.peak_at,
            moments[-1].seconds if moments else 0.0,
            refused[-1].seconds if refused else 0.0,
        )


def _only(recording: Recording, owner: str) -> Recording:
    names = [each.name for each in recording.owners]
    if owner not in names:
        known = ", ".join(dict.fromkeys(names))
        raise ConfigError(f"report: no owner {shown(owner)} in the recording; it has {known[:300]}")
    sites = tuple(site for site in recording.sites if site.owner == owner)
    return replace(
        recording,
        sites=sites,
        owners=tuple(each for each in recording.owners if each.name == owner),
        moments=tuple(each for each in recording.moments if each.owner == owner),
        refused=tuple(each for each in recording.refused if each.owner == owner),
        live=sum(site.live for site in sites),
        peak=sum(site.peak for site in sites),
        sizes=(),
    )


def _sum(amounts: Iterable[Amount]) -> Amount:
    total = Amount()
    for amount in amounts:
        total += amount
    return total


def _by_mean(sites: Iterable[Sampled]) -> list[Sized]:
    found: dict[int, Sized] = {}
    for site in sites:
        size = -(-site.total // max(site.total_blocks, 1))
        step = max(1 << max(size.bit_length() - 3, 0), 1)  # four classes to a doubling
        most = -(-size // step) * step
        row = found.get(most, Sized(most, 0, 0, 0, 0))
        found[most] = Sized(
            most,
            row.live + site.live,
            row.live_blocks + site.live_blocks,
            row.total + site.total,
            row.total_blocks + site.total_blocks,
        )
    return [found[most] for most in sorted(found)]


def _line(moments: list[Moment]) -> list[Point]:
    """The sum over owners of one name; a limit only where one owner has the name."""
    now: dict[int, int] = {}
    one = len({moment.number for moment in moments}) == 1
    points: list[Point] = []
    used = 0
    for moment in moments:
        used += moment.used - now.get(moment.number, 0)
        now[moment.number] = moment.used
        point = Point(moment.seconds, used, moment.limit if one else None)
        if points and points[-1].seconds == moment.seconds:
            points.pop()
        points.append(point)
    return points
