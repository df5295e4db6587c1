"""A comparison as text, JSON, Markdown and a page."""

from __future__ import annotations

import json
from html import escape
from typing import Any

from ...sizes import format_size
from . import html, markdown, text
from .comparison import Comparison, OwnerGrowth, SiteGrowth
from .tables import Column, Table, called_from
from .wording import clean, named, number

__all__ = [
    "FORMATS",
    "document",
    "headline",
    "render_html",
    "render_json",
    "render_markdown",
    "render_text",
    "tables",
]

#: of the layout of the JSON
VERSION = 1
_MEASURED = {"live": "live at the end", "peak": "at the peak", "total": "in total"}


def _signed(n: int) -> str:
    return f"+{format_size(n)}" if n > 0 else format_size(n)


def headline(comparison: Comparison, at_least: int) -> list[str]:
    """What was compared, and what came of it."""
    a, b = comparison.a, comparison.b
    owners, sites = comparison.grown_owners(at_least), comparison.grown_sites(at_least)
    nouns = [
        f"{len(rows)} {noun}{'' if len(rows) == 1 else 's'}" for rows, noun in ((owners, "owner"), (sites, "line"))
    ]
    names = [report.where or name for report, name in ((a, "before"), (b, "after"))]
    what = _MEASURED[comparison.measure]
    verdict = f"{nouns[0]} and {nouns[1]} grew by {format_size(at_least)} or more"
    amounts = [format_size(report.amount.bytes(comparison.measure)) for report in (a, b)]
    return [f"{clean(names[0])} to {clean(names[1])}: {what} {amounts[0]} to {amounts[1]}", verdict]


def tables(comparison: Comparison, *, at_least: int, top: int, every: bool) -> list[Table]:
    """The owners and the lines that grew by ``at_least`` bytes or more; with ``every`` each that changed at all."""
    owners: list[OwnerGrowth] = comparison.grown_owners(at_least)
    sites: list[SiteGrowth] = comparison.grown_sites(at_least)
    if every:
        owners = [each for each in comparison.owners if each.grew]
        sites = [each for each in comparison.sites if each.grew]
    made = [_owners(comparison, owners, top), _sites(comparison, sites, top)]
    return [table for table in made if table.rows]


def _owners(comparison: Comparison, rows: list[OwnerGrowth], top: int) -> Table:
    what = "peak" if comparison.measure == "peak" else "used"
    columns = (
        *(Column("growth", True), Column(f"{what} before", True), Column(f"{what} after", True)),
        Column("owner"),
    )
    shown = tuple(
        (
            _signed(each.grew),
            "none" if each.before is None else format_size(each.before),
            "none" if each.after is None else format_size(each.after),
            clean(each.owner),
        )
        for each in rows[:top]
    )
    return Table("owners", "Owners that grew", columns, shown, "", len(rows) - len(shown))


def _sites(comparison: Comparison, rows: list[SiteGrowth], top: int) -> Table:
    columns = (
        *(Column("growth", True), Column("doubt", True), Column("blocks", True), Column("before", True)),
        *(Column("after", True), Column("owner"), Column("line"), Column("called from")),
    )
    folder = comparison.b.recording.about.get("folder", "")
    shown = tuple(
        (
            _signed(each.grew),
            f"±{format_size(each.doubt)}" if each.doubt else "none",
            f"{each.blocks:+,}" if each.blocks else "0",
            format_size(each.before),
            format_size(each.after),
            clean(each.owner),
            named(each.place, folder) + (f" (was line {number(each.was.line)})" if each.was else ""),
            called_from(each.path, folder),
        )
        for each in rows[:top]
    )
    note = ""
    if max(comparison.a.recording.rate, comparison.b.recording.rate) > 1:
        note = "Figures are estimates from samples; a change within its doubt does not count as growth."
    title = f"Lines that grew, {_MEASURED[comparison.measure]}"
    return Table("sites", title, columns, shown, note, len(rows) - len(shown))


def render_text(comparison: Comparison, *, at_least: int, top: int, every: bool) -> str:
    """As plain text."""
    shown = tables(comparison, at_least=at_least, top=top, every=every)
    return "\n\n".join(["\n".join(headline(comparison, at_least)), *map(text.plain, shown)]) + "\n"


def render_markdown(comparison: Comparison, *, at_least: int, top: int, every: bool) -> str:
    """As Markdown, for a comment on a pull request."""
    shown = tables(comparison, at_least=at_least, top=top, every=every)
    lines = [f"- {markdown.escaped(line)}" for line in headline(comparison, at_least)]
    return "\n\n".join(["## Memory: what grew", "\n".join(lines), *map(markdown.table, shown)]) + "\n"


def document(comparison: Comparison, *, at_least: int, top: int | None, every: bool) -> dict[str, Any]:
    """As what :mod:`json` takes. Sizes are bytes."""
    owners, sites = comparison.grown_owners(at_least), comparison.grown_sites(at_least)
    if every:
        owners = [each for each in comparison.owners if each.grew]
        sites = [each for each in comparison.sites if each.grew]
    return {
        "nativemem_diff": VERSION,
        "a": comparison.a.where,
        "b": comparison.b.where,
        "measure": comparison.measure,
        "at_least": at_least,
        "grew": bool(comparison.grown_owners(at_least) or comparison.grown_sites(at_least)),
        "owners": [
            {"owner": each.owner, "before": each.before, "after": each.after, "grew": each.grew}
            for each in owners[:top]
        ],
        "sites": [
            {
                **each.place._asdict(),
                "owner": each.owner,
                "before": each.before,
                "after": each.after,
                "grew": each.grew,
                "blocks": each.blocks,
                "doubt": each.doubt,
                "was_line": each.was.line if each.was else None,
                "path": [place._asdict() for place in each.path],
            }
            for each in sites[:top]
        ],
    }


def render_json(comparison: Comparison, *, at_least: int, top: int | None, every: bool) -> str:
    """As JSON, of ASCII alone."""
    return json.dumps(document(comparison, at_least=at_least, top=top, every=every), indent=1) + "\n"


def render_html(comparison: Comparison, *, at_least: int, top: int, every: bool) -> str:
    """As one page, with nothing to load and nothing that runs."""
    lines = headline(comparison, at_least)
    shown = tables(comparison, at_least=at_least, top=top, every=every)
    body = [
        "<header><h1>Memory: what grew</h1>",
        *(f'<p class="quiet">{escape(line)}</p>' for line in lines),
        '</header><main id="main">',
        *(f'<section id="{each.name}">{html.table(each)}</section>' for each in shown),
        *([] if shown else ["<section><p>Nothing did.</p></section>"]),
        '</main><footer class="quiet">Made by nativemem. This page loads nothing.</footer>',
    ]
    return html.document("Memory: what grew", "\n".join(body))


#: by name what makes it
FORMATS = {"text": render_text, "json": render_json, "markdown": render_markdown, "html": render_html}
