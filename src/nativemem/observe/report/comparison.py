"""What grew between two recordings: by owner and by line of the program.

The values that it returns do not change: any thread may read them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ...errors import ConfigError, shown
from .model import Report, SiteRow, error_of
from .tree import MEASURES, Place

__all__ = ["Comparison", "OwnerGrowth", "SiteGrowth"]

#: standard deviations that a change of an estimate has to be beyond
_DEVIATIONS = 3


@dataclass(frozen=True)
class OwnerGrowth:
    """An owner's bytes, ``before`` and ``after``: used last, or its peak. None: it is in one of the two alone."""

    owner: str
    before: int | None
    after: int | None

    @property
    def grew(self) -> int:
        """Bytes more; less than 0 for an owner that shrank."""
        return (self.after or 0) - (self.before or 0)


@dataclass(frozen=True)
class SiteGrowth:
    """A line's bytes ``before`` and ``after``, and ``blocks``, for one ``owner``. ``place`` is the line, ``path``
    the largest of its call paths. ``doubt`` is what chance alone may make of the difference, as estimates are from
    samples. ``was`` is where the line was, if the code has moved."""

    place: Place
    owner: str
    before: int
    after: int
    blocks: int
    doubt: int
    path: tuple[Place, ...]
    was: Place | None = None

    @property
    def grew(self) -> int:
        """Bytes more; less than 0 for a line that shrank."""
        return self.after - self.before

    @property
    def is_certain(self) -> bool:
        """Whether the change is larger than chance makes it."""
        return abs(self.grew) > self.doubt


class Comparison:
    """What grew from ``a`` to ``b``, two reports, by ``measure``: ``live``, ``peak`` or ``total``. Owners are
    compared by what their budgets counted, which is exact: by their peak where the measure is that, else by what
    they used last.

    A line whose number differs, because code was added above it, is found again by its file, its function and its
    order there. Raises :class:`ConfigError` for another measure. Any thread.

    >>> import nativemem
    >>> from nativemem.observe.profile import Profile
    >>> from nativemem.observe.report.comparison import Comparison
    >>> from nativemem.observe.report.model import Report
    >>> installed = nativemem.install()  # doctest: +SKIP
    >>> rows = nativemem.Budget("8 MiB", name="rows")
    >>> def run(n):
    ...     with Profile(rate=1) as profile, rows:
    ...         kept = [bytes(1000) for _ in range(n)]
    ...     return Report(profile.read())
    >>> compared = Comparison(run(100), run(1000))  # doctest: +SKIP
    >>> "rows" in {each.owner for each in compared.grown_owners(500_000)}  # doctest: +SKIP
    True
    >>> line = compared.grown_sites(500_000)[0]  # doctest: +SKIP
    >>> line.owner, line.is_certain, line.grew > 800_000  # doctest: +SKIP
    ('rows', True, True)
    """

    def __init__(self, a: Report, b: Report, *, measure: str = "live") -> None:
        if measure not in MEASURES:
            raise ConfigError(f"diff: measures are {', '.join(MEASURES)}, not {shown(measure)}")
        self.a, self.b, self.measure = a, b, measure
        self.owners = self._owners()
        self.sites = self._sites()

    def grown_owners(self, at_least: int) -> list[OwnerGrowth]:
        """The owners that grew by ``at_least`` bytes or more; the largest growth first."""
        return [each for each in self.owners if each.grew >= at_least]

    def grown_sites(self, at_least: int) -> list[SiteGrowth]:
        """The lines that grew by ``at_least`` bytes or more, beyond what chance makes; the largest growth first."""
        return [each for each in self.sites if each.grew >= at_least and each.is_certain]

    def _owners(self) -> tuple[OwnerGrowth, ...]:
        of = "peak" if self.measure == "peak" else "used"
        before, after = ({row.name: int(getattr(row, of)) for row in report.owners} for report in (self.a, self.b))
        found = [OwnerGrowth(name, before.get(name), after.get(name)) for name in {**before, **after}]
        return tuple(sorted(found, key=lambda each: (-each.grew, each.owner)))

    def _sites(self) -> tuple[SiteGrowth, ...]:
        before, after = (
            {(row.place, row.owner): row for row in report.sites(self.measure, at_least=0)}
            for report in (self.a, self.b)
        )
        moved = _moved(
            [before[key] for key in before.keys() - after], [after[key] for key in after.keys() - before]
        )
        found = []
        for key, row in after.items():
            old = before.pop(key, None)
            was = None
            if old is None and key in moved:
                was = moved[key]
                old = before.pop((was, row.owner))
            found.append(self._growth(old, row, was))
        found += [self._growth(old, None, None) for old in before.values()]
        return tuple(sorted(found, key=lambda each: (-each.grew, each.place, each.owner)))

    def _growth(self, old: SiteRow | None, new: SiteRow | None, was: Place | None) -> SiteGrowth:
        row = new or old
        assert row is not None
        rates = (self.a.recording.rate, self.b.recording.rate)
        before, after = (each.amount.bytes(self.measure) if each else 0 for each in (old, new))
        blocks = [each.amount.blocks(self.measure) if each else 0 for each in (old, new)]
        errors = [error_of(number, rate) for number, rate in zip((before, after), rates, strict=True)]
        # of a site with no sample there may have been some bytes all the same
        least = max((rate for rate in rates if rate > 1), default=0)
        doubt = max(round(_DEVIATIONS * (errors[0] ** 2 + errors[1] ** 2) ** 0.5), least)
        return SiteGrowth(row.place, row.owner, before, after, blocks[1] - blocks[0], doubt, row.path, was)


def _moved(gone: Iterable[SiteRow], come: Iterable[SiteRow]) -> dict[tuple[Place, str], Place]:
    """By place and owner of what came, the place that went and is the same line: where of a function as many lines
    came as went, in their order."""

    def by_function(rows: Iterable[SiteRow]) -> dict[tuple[str, str, str], list[Place]]:
        found: dict[tuple[str, str, str], list[Place]] = {}
        for row in rows:
            if row.place.file:
                found.setdefault((row.place.file, row.place.function, row.owner), []).append(row.place)
        return found

    went, pairs = by_function(gone), {}
    for key, places in by_function(come).items():
        olds = went.get(key, [])
        if len(olds) == len(places):
            pairs.update({(new, key[2]): old for old, new in zip(sorted(olds), sorted(places), strict=True)})
    return pairs
