"""A report as one page, with all that it needs in it: it asks for nothing, of a network or else.

The timeline is drawn by uPlot (page/uPlot-LICENSE.txt); the frames and the switches are page/page.js. Tables are
plain HTML: a screen reader finds them, and they are there without scripts.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import replace
from html import escape
from typing import Any

from ...sizes import format_size
from .model import Histogram, Report
from .tables import MEASURED, Column, Table, headline, tables
from .timeline import chart
from .tree import MEASURES, Amount, Leaf, Place, Tree
from .wording import clean, number

__all__ = ["document", "render", "table"]

_PAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "page")
#: call paths that a page has at the most; the smaller ones are added up by owner
PATHS = 4000
#: rows of its tables
ROWS = 100


def _asset(name: str) -> str:
    with open(os.path.join(_PAGE, name), encoding="utf-8") as file:
        return file.read()


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def document(title: str, body: str, scripts: Iterable[str] = (), data: Any = None) -> str:
    """A page of ``body``, HTML, whose policy lets it load nothing and run the ``scripts`` alone. ``data``, for
    them, is JSON without a character that would end it."""
    style = _asset("uPlot.min.css") + _asset("page.css")
    scripts = list(scripts)
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; "
        f"script-src {' '.join(map(_hash, scripts)) or _NONE}; base-uri 'none'; form-action 'none'"
    )
    parts = [
        "<!doctype html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="referrer" content="no-referrer">',
        '<link rel="icon" href="data:,">',
        f"<title>{escape(title)}</title>",
        f"<style>{style}</style>",
        "</head>",
        "<body>",
        body,
    ]
    if data is not None:
        text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c").replace(">", "\\u003e")
        parts.append(f'<script id="data" type="application/json">{text}</script>')
    parts += [f"<script>{script}</script>" for script in scripts]
    return "\n".join([*parts, "</body>", "</html>"]) + "\n"


_NONE = "'none'"
_CLASSES = (
    *(Column("up to", True), Column("blocks in total", True), Column("bytes in total", True)),
    *(Column("blocks live", True), Column("bytes live", True)),
)
_KEYS = ("owner", "source", "what", "sizes of blocks")


def table(shown: Table, *, owners: bool = False) -> str:
    """One table, with its caption and heads. ``owners``: rows say whose they are, for the switch. What a row is of
    stands first in it: the line, where there is one."""
    names = [column.name for column in shown.columns]
    if "line" in names:
        first = names.index("line")
        order = [first, *(i for i in range(len(names)) if i != first)]
        rows = tuple(tuple(row[i] for i in order) for row in shown.rows)
        shown = replace(shown, columns=tuple(shown.columns[i] for i in order), rows=rows)
    owner = [column.name for column in shown.columns].index("owner") if owners else -1
    heads = "".join(
        f'<th scope="col"{_class(column.is_number, column.name)}>{escape(column.name)}</th>'
        for column in shown.columns
    )
    lines = [
        f'<div class="scroll" role="region" tabindex="0" aria-labelledby="t-{shown.name}">',
        f'<table><caption id="t-{shown.name}">{escape(shown.title)}</caption>',
        f"<thead><tr>{heads}</tr></thead>",
        "<tbody>",
    ]
    for row in shown.rows:
        of = f' data-owner="{escape(row[owner])}"' if owners else ""
        cells = [
            f'<th scope="row"{_class(column.is_number, column.name)}>{escape(cell)}</th>'
            if i == 0
            else f"<td{_class(column.is_number, column.name)}>{escape(cell)}</td>"
            for i, (cell, column) in enumerate(zip(row, shown.columns, strict=True))
        ]
        lines.append(f"<tr{of}>{''.join(cells)}</tr>")
    lines += ["</tbody>", "</table>", "</div>"]
    rest = [f"and {number(shown.more)} more."] * bool(shown.more) + [shown.note] * bool(shown.note)
    if rest:
        lines.append(f'<p class="quiet">{escape(" ".join(rest))}</p>')
    return "\n".join(lines)


def _class(is_number: bool, name: str) -> str:
    if is_number:
        return ' class="number"'
    return ' class="key"' if name in _KEYS else ' class="from"' if name == "called from" else ' class="text"'


def render(report: Report, *, top: int = ROWS, by: str = "peak", **_: Any) -> str:
    """The page; its graph opens at ``by``."""
    report.sites(by, 0)  # another measure is an error here
    recording = report.recording
    about = clean(recording.about.get("command") or report.where or f"process {recording.pid}")
    about = about.partition(" ")[0].rpartition("/")[2] + "".join(about.partition(" ")[1:])
    names = list(dict.fromkeys([row.name for row in report.owners] + [leaf.owner for leaf in report.tree.leaves]))
    numbers = {name: i for i, name in enumerate(names)}
    made = {each.name: each for each in tables(report, top=top, by=by)}
    sections = [
        _timeline_section(report),
        _graph_section(),
        *(_section(made[name], True) for name in ("sites", "leaks", "refusals") if name in made),
        _sizes_section(report.histogram, made.get("sizes")),
        *(_section(made[name], False) for name in ("owners", "sources", "environment") if name in made),
    ]
    body = [
        '<a class="skip" href="#main">to the report</a>',
        f"<header><h1>Memory of {escape(about)}</h1>",
        *(
            f'<p class="quiet">{escape(line)}</p>'
            for line in headline(report)[bool(recording.about.get("command")) :]
        ),
        _figures(report),
        "</header>",
        '<main id="main">',
        _controls(names, by),
        *filter(None, sections),
        "</main>",
        '<footer class="quiet">Made by nativemem. This page loads nothing.</footer>',
    ]
    timeline = chart(report, numbers)
    for owner in timeline["owners"]:
        owner["name"] = clean(owner["name"])
    data = {
        "by": by,
        "measures": MEASURED,
        "folder": _folder(report),
        "owners": [clean(name) for name in names],
        "tree": _tree(report.tree, numbers),
        "timeline": timeline,
    }
    return document(f"Memory of {about}", "\n".join(body), (_asset("uPlot.min.js"), _asset("page.js")), data)


def _folder(report: Report) -> str:
    folder = report.recording.about.get("folder", "").rstrip("/")
    return f"{folder}/" if folder else ""


def _section(shown: Table, owned: bool) -> str:
    return f'<section id="{shown.name}">\n{table(shown, owners=owned)}\n</section>'


def _figures(report: Report) -> str:
    recording = report.recording
    figures = [
        ("peak", format_size(recording.peak)),
        ("live at the end", format_size(recording.live)),
        ("in total", format_size(report.amount.total)),
        ("blocks in total", number(report.amount.total_blocks)),
        ("refused requests", number(sum(row.denials for row in report.owners))),
    ]
    items = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in figures)
    return f'<dl class="figures">{items}</dl>'


def _controls(names: list[str], by: str) -> str:
    options = "".join(f'<option value="{i}">{escape(clean(name))}</option>' for i, name in enumerate(names))
    radios = "".join(
        f'<label><input type="radio" name="measure" value="{measure}"{" checked" * (measure == by)}> '
        f"{escape(MEASURED[measure])}</label>"
        for measure in ("peak", "live", "total")
    )
    return (
        '<div class="controls"><label>owner <select id="owner" autocomplete="off">'
        f'<option value="-1">all</option>{options}</select></label>'
        f"<fieldset><legend>graph</legend>{radios}</fieldset></div>"
    )


def _timeline_section(report: Report) -> str:
    if sum(map(len, report.timelines.values())) < 2:
        return ""
    refused = " Red marks are refused requests." if report.recording.refused else ""
    return f"""<section id="time">
<h2 id="h-time">Used over time, by owner</h2>
<p class="quiet">Dashed lines are limits.{refused} Drag to look closer, double click to see all;
with the keyboard left and right say what there was.</p>
<div id="timeline" tabindex="0" role="group" aria-labelledby="h-time" aria-describedby="moment"></div>
<div id="lines" class="lines"></div>
<p id="moment" class="quiet" aria-live="polite"></p>
</section>"""


def _graph_section() -> str:
    return """<section id="paths">
<h2 id="h-paths">Call paths</h2>
<p class="quiet">Below each frame lie those that it called, as wide as they have bytes. Click, or press Enter, to
look closer; arrows go from frame to frame, Escape goes back to the whole.</p> <div class="tools"><label
for="search">search</label> <input type="search" id="search" autocomplete="off" spellcheck="false"> <button
type="button" id="whole" disabled>whole</button> <span id="found" class="quiet" aria-live="polite"></span></div>
<div id="graph" role="tree" aria-labelledby="h-paths"></div> <p id="detail" class="quiet" aria-live="polite"></p>
</section>"""


def _sizes_section(histogram: Histogram, shown: Table | None) -> str:
    if shown is None:
        return ""
    rows = Table(
        "classes",
        "Blocks by size",
        _CLASSES,
        tuple(
            (
                format_size(row.most),
                number(row.total_blocks),
                format_size(row.total),
                number(row.live_blocks),
                format_size(row.live),
            )
            for row in histogram.rows
        ),
    )
    return (
        f'<section id="sizes">\n{table(shown)}\n{_bars(histogram)}\n'
        f"<details><summary>as a table</summary>{table(rows)}</details>\n</section>"
    )


def _bars(histogram: Histogram) -> str:
    """A bar for each class of sizes, by blocks in total; lines are p50, p90, p99. Attributes alone: the page's
    policy has no styles in elements."""
    rows = [row for row in histogram.rows if row.total_blocks]
    if not rows:
        return ""
    most = max(row.total_blocks for row in rows)
    width, height, base, top = 1000.0, 210, 170, 30
    step = width / len(rows)
    parts = []
    for i, row in enumerate(rows):
        tall = (base - top) * row.total_blocks / most
        title = f"up to {format_size(row.most)}: {number(row.total_blocks)} blocks, {format_size(row.total)}"
        parts.append(
            f'<rect x="{i * step + step * 0.08:.1f}" y="{base - tall:.1f}" width="{step * 0.84:.1f}" '
            f'height="{tall:.1f}"><title>{escape(title)}</title></rect>'
        )
    every = -(-len(rows) // 10)
    for i in range(0, len(rows), every):
        x, label = (i + 0.5) * step, format_size(rows[i].most)
        parts.append(f'<text x="{x:.1f}" y="{base + 18}" text-anchor="middle">{label}</text>')
    taken: dict[int, list[str]] = {}
    for percent, size in (histogram.total or {}).items():
        taken.setdefault(next(i for i, row in enumerate(rows) if row.most == size), []).append(f"p{percent}")
    for i, percents in taken.items():
        x = (i + 0.5) * step
        anchor = "end" if x > width * 0.9 else "start" if x < width * 0.1 else "middle"
        parts.append(
            f'<g class="p"><line x1="{x:.1f}" x2="{x:.1f}" y1="{top - 8}" y2="{base}"/>'
            f'<text x="{x:.1f}" y="{top - 14}" text-anchor="{anchor}">{", ".join(percents)}</text></g>'
        )
    label = ", ".join(f"p{percent} {format_size(size)}" for percent, size in (histogram.total or {}).items())
    head = f'<svg class="sizes" viewBox="0 0 {width:.0f} {height}" role="img" aria-label="Blocks by size: {label}">'
    return f'<div class="scroll" role="region" tabindex="0" aria-label="chart">{head}{"".join(parts)}</svg></div>'


def _tree(tree: Tree, numbers: dict[str, int]) -> dict[str, Any]:
    """The nodes of the largest call paths, and what they took; the rest is added up by owner."""
    whole = _largest(tree.leaves)
    kept, rest = whole[:PATHS], whole[PATHS:]
    small: dict[str, Amount] = {}
    for leaf in rest:
        small[leaf.owner] = small.get(leaf.owner, Amount()) + leaf.amount
    made = Tree()
    leaves: list[list[int]] = []
    known = {0: 0}
    for leaf in kept:
        todo, node = [], leaf.node
        while node not in known:
            todo.append(node)
            node = tree.parents[node]
        for each in reversed(todo):
            known[each] = made.node(known[tree.parents[each]], tree.places[each])
        leaves.append(_leaf(known[leaf.node], numbers[leaf.owner], leaf.amount))
    other = Place("", 0, f"({number(len(rest))} smaller paths)")
    leaves += [_leaf(made.node(0, other), numbers[owner], amount) for owner, amount in small.items()]
    places: dict[Place, int] = {}
    frames = [places.setdefault(place, len(places)) for place in made.places]
    return {
        "parents": made.parents,
        "frames": frames,
        "places": [[clean(place.file), place.line, clean(place.function)] for place in places],
        "leaves": leaves,
    }


def _largest(leaves: list[Leaf]) -> list[Leaf]:
    """By the larger of their shares of each measure."""
    whole = {measure: max(sum(leaf.amount.bytes(measure) for leaf in leaves), 1) for measure in MEASURES}
    return sorted(leaves, key=lambda leaf: -max(leaf.amount.bytes(each) / whole[each] for each in MEASURES))


def _leaf(node: int, owner: int, amount: Amount) -> list[int]:
    return [node, owner, *(n for measure in MEASURES for n in (amount.bytes(measure), amount.blocks(measure)))]
