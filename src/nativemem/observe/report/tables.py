"""The tables of a report: text, Markdown and HTML show the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ...sizes import format_size
from .model import Report, SiteRow, error_of
from .tree import MEASURES, Amount, Place
from .wording import at_time, clean, named, number, when

__all__ = ["MEASURED", "Column", "Table", "called_from", "headline", "leaks", "leaks_headline", "tables"]

#: how each measure is said
MEASURED = {"live": "live at the end", "peak": "at the peak", "total": "in total"}


class Column(NamedTuple):
    """``name`` is its heading; numbers stand to the right."""

    name: str
    is_number: bool = False


@dataclass(frozen=True)
class Table:
    """``title`` says what it shows, ``note`` what a reader has to know of it; ``name`` is for links. ``more``
    counts the rows that were left out."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    more: int = 0


def headline(report: Report) -> list[str]:
    """What the recording is of, in a few lines."""
    recording = report.recording
    rate = "each block was noted"
    if recording.rate > 1:
        rate = (
            f"a sample in {format_size(recording.rate)}, {number(recording.samples)} samples: sites are estimates"
        )
    lines = [clean(recording.about.get("command", "")), rate]
    if "kind" in recording.about:
        without = "" if recording.sites else "; no profile was running, so there are no sites"
        return [f"{clean(recording.about['kind'])}, of process {recording.pid}, {when(recording.began)}{without}"]
    if report.owner is not None:
        lines.append(f"of the owner {clean(report.owner)} alone")
    if recording.lasted is None:
        lines.append("it has no end: the process was killed, or goes on")
    if recording.dropped:
        lines.append(f"{number(recording.dropped)} items found no room, and are not in it")
    peak = f"peak {format_size(recording.peak)}"
    if report.owner is None:
        peak += f" after {at_time(recording.peak_at)}"
    lines.append(
        f"{peak}, {format_size(recording.live)} live at the end, {format_size(report.amount.total)} in total"
    )
    return [line for line in lines if line]


def tables(report: Report, *, top: int = 20, by: str = "peak") -> list[Table]:
    """Those of a report, with at most ``top`` rows where there may be many; sites are the largest by ``by``."""
    made = [
        _owners(report, top),
        _sources(report),
        _sites(report, top, by),
        leaks(report, top),
        _refusals(report, top),
        _sizes(report),
        _environment(report),
    ]
    return [table for table in made if table.rows]


def _amounts(amount: Amount, first: str = "peak") -> tuple[str, ...]:
    order = (first, *(measure for measure in MEASURES if measure != first))
    return tuple(format_size(amount.bytes(measure)) for measure in order)


def _measured(first: str) -> tuple[Column, ...]:
    order = (first, *(measure for measure in MEASURES if measure != first))
    return tuple(Column(MEASURED[measure], True) for measure in order)


def _limit(limit: int | None) -> str:
    return "none" if limit is None else format_size(limit)


def _owners(report: Report, top: int) -> Table:
    columns = (
        Column("owner"),
        *(Column(name, True) for name in ("used", "peak", "limit", "denials")),
        *_measured("peak"),
    )
    shown = [row for row in report.owners if row.peak or row.amount.total]
    rows = tuple(
        (
            clean(row.name) + (f" ({row.count} of the name)" if row.count > 1 else ""),
            format_size(row.used),
            format_size(row.peak),
            "each its own" if row.count > 1 else _limit(row.limit),
            number(row.denials),
            *_amounts(row.amount),
        )
        for row in shown[:top]
    )
    note = "used, peak, limit and denials are the budget's own; the rest is what the profile saw."
    return Table("owners", "Owners", columns, rows, note, len(shown) - len(rows))


def _sources(report: Report) -> Table:
    rows = tuple((source, *_amounts(amount)) for source, amount in report.sources)
    return Table("sources", "Where memory came from", (Column("source"), *_measured("peak")), rows)


def _folder(report: Report) -> str:
    return report.recording.about.get("folder", "")


def called_from(path: tuple[Place, ...], folder: str, most: int = 3) -> str:
    """The callers of the first of ``path``, the nearest first."""
    frames = [named(place, folder) for place in path[1 : most + 1]]
    return " < ".join(frames) + (" < ..." if len(path) > most + 1 else "")


def _site_rows(
    report: Report, rows: tuple[SiteRow, ...], measure: str, rest: tuple[str, ...]
) -> list[tuple[str, ...]]:
    folder, whole = _folder(report), report.amount.bytes(measure)
    return [
        (
            format_size(row.amount.bytes(measure)),
            f"{100 * row.amount.bytes(measure) / whole:.1f}" if whole else "",
            number(row.amount.blocks(measure)),
            *(format_size(row.amount.bytes(other)) for other in rest),
            clean(row.owner),
            named(row.place, folder),
            called_from(row.path, folder),
        )
        for row in rows
    ]


def _sites(report: Report, top: int, by: str) -> Table:
    rest = tuple(measure for measure in MEASURES if measure != by)
    columns = (
        Column(MEASURED[by], True),
        Column("%", True),
        Column("blocks", True),
        *(Column(MEASURED[measure], True) for measure in rest),
        *(Column("owner"), Column("line"), Column("called from")),
    )
    found = report.sites(by)
    rows = _site_rows(report, found[:top], by, rest)
    note = ""
    if report.recording.rate > 1 and found:
        doubt = 2 * error_of(found[0].amount.bytes(by), report.recording.rate)
        note = f"The first is known to about ±{format_size(doubt)} (two standard deviations)."
    return Table("sites", f"Largest sites {MEASURED[by]}", columns, tuple(rows), note, len(found) - len(rows))


def leaks_headline(report: Report, at_least: int) -> str:
    """How many lines of the program have at least so many bytes."""
    found = report.sites("live", at_least=at_least)
    lines = "1 line has" if len(found) == 1 else f"{len(found)} lines have"
    end = "at the end" if report.recording.lasted is not None else "when it was last written"
    return (
        f"{clean(report.where) or 'the recording'}: {format_size(report.amount.live)} live {end}; "
        f"{lines} {format_size(at_least)} or more"
    )


def leaks(report: Report, top: int, at_least: int = 1) -> Table:
    """What was live at the end, of lines with ``at_least`` bytes."""
    columns = (
        *(Column("live at the end", True), Column("%", True), Column("blocks", True), Column("in total", True)),
        *(Column("owner"), Column("line"), Column("called from")),
    )
    found = report.sites("live", at_least=at_least)
    rows = _site_rows(report, found[:top], "live", ("total",))
    note = "What was not freed when the recording ended: leaks, and what the program meant to keep."
    return Table("leaks", "Live at the end", columns, tuple(rows), note, len(found) - len(rows))


def _refusals(report: Report, top: int) -> Table:
    columns = (
        *(Column("refused", True), Column("largest", True), Column("last", True), Column("used", True)),
        *(Column("limit", True), Column("owner"), Column("line"), Column("called from")),
    )
    folder = _folder(report)
    rows = tuple(
        (
            number(row.count),
            format_size(row.largest),
            at_time(row.last),
            format_size(row.used),
            _limit(row.limit),
            clean(row.owner),
            named(row.place, folder),
            called_from(row.path, folder),
        )
        for row in report.refusals[:top]
    )
    return Table("refusals", "Refused requests", columns, rows, "", len(report.refusals) - len(rows))


def _sizes(report: Report) -> Table:
    histogram = report.histogram
    names = ("blocks", *(f"p{percent}" for percent in (50, 90, 99)))
    rows = []
    for what, found, count in (
        ("in total", histogram.total, sum(row.total_blocks for row in histogram.rows)),
        ("live at the end", histogram.live, sum(row.live_blocks for row in histogram.rows)),
    ):
        if found is not None:
            rows.append((what, number(count), *(format_size(found[percent]) for percent in (50, 90, 99))))
    note = "" if histogram.exact else "Each site's blocks count as of their mean size."
    columns = (Column("sizes of blocks"), *(Column(name, True) for name in names))
    return Table("sizes", "Sizes of blocks", columns, tuple(rows), note)


def _environment(report: Report) -> Table:
    recording = report.recording
    lasted = "it has no end" if recording.lasted is None else at_time(recording.lasted)
    rows = [(clean(name), clean(text)) for name, text in recording.about.items()]
    rows += [
        ("process", str(recording.pid)),
        ("began", when(recording.began)),
        ("lasted", lasted),
        ("a sample in", format_size(recording.rate)),
        ("samples", number(recording.samples)),
        ("without room", number(recording.dropped)),
    ]
    if report.where:
        rows.insert(0, ("recording", clean(report.where)))
    return Table("environment", "Environment", (Column("what"), Column("is")), tuple(rows))
