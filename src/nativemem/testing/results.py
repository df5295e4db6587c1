"""What a run of tests used: collected from the reports of its tests, shown at its end, written to a file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from .._version import __version__
from ..errors import ConfigError, shown
from ..sizes import format_size

__all__ = ["Measured", "Results"]

_FORMATS = (".json", ".html")
#: the keys of a place in a report
_PLACE = ("bytes", "blocks", "path")


class Measured(NamedTuple):
    """One attempt at one test; sizes in bytes. ``places``, each bytes, blocks and a call path, and ``problems`` are
    there where it failed by its memory; ``growth`` is what it grew by at each repetition, None where that was not
    asked."""

    test: str
    outcome: str
    seconds: float
    peak: int | None
    limit: int | None
    denied: int
    growth: float | None
    problems: tuple[str, ...]
    places: tuple[tuple[int, int, tuple[str, ...]], ...]


def checked_path(path: str | None) -> str | None:
    """The report's path. Raises ConfigError for a format that is not written."""
    if path is not None and not path.endswith(_FORMATS):
        raise ConfigError(f"--nativemem-report: takes a .json or .html file, not {shown(path)}")
    return path


class Results:
    """The attempts of a run. ``notes``: what could not be done and why, each once."""

    def __init__(self) -> None:
        # plain tuples of atoms, which the collector passes over
        self._rows: list[tuple[Any, ...]] = []
        self.notes: dict[str, None] = {}

    @property
    def attempts(self) -> list[Measured]:
        """All of them, in the order in which they were reported."""
        return [Measured(*row) for row in self._rows]

    def add(self, row: Iterable[Any], outcome: str) -> None:
        """An attempt, as a report brings it."""
        test, *more = row
        self._rows.append((test, outcome, *more))

    def note(self, text: str) -> None:
        """Something that could not be done; the same text again changes nothing."""
        self.notes[text] = None

    def heaviest(self, most: int) -> list[Measured]:
        """Of each test the attempt with the highest peak, the highest first."""
        by_test: dict[str, Measured] = {}
        for each in self.attempts:
            if each.peak is not None and each.peak > (by_test[each.test].peak or 0 if each.test in by_test else -1):
                by_test[each.test] = each
        return sorted(by_test.values(), key=lambda each: (-(each.peak or 0), each.test))[:most]

    def lines(self, most: int) -> list[str]:
        """The summary."""
        lines = [f"nativemem: {note}" for note in self.notes]
        found = self.heaviest(most)
        width = max((len(format_size(each.peak or 0)) for each in found), default=0)
        for each in found:
            of = f" of {format_size(each.limit)}" if each.limit is not None else ""
            extra = f", grows by {format_size(round(each.growth))} a repetition" if each.growth else ""
            lines.append(f"{format_size(each.peak or 0):>{width}}{of}  {each.test}{extra}")
        return lines

    def as_dict(self) -> dict[str, Any]:
        """What the report file has."""
        return {
            "format": "nativemem tests 1",
            "nativemem": __version__,
            "notes": list(self.notes),
            "tests": [
                {**each._asdict(), "places": [dict(zip(_PLACE, place, strict=True)) for place in each.places]}
                for each in self.attempts
            ],
        }

    def write(self, path: str) -> None:
        """Writes the report. Raises OSError where the file cannot be written."""
        import json

        text = json.dumps(self.as_dict(), indent=1) + "\n" if path.endswith(".json") else self._html()
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)

    def _html(self) -> str:
        import html

        found = self.heaviest(len(self._rows))
        most = max((each.peak or 0 for each in found), default=0) or 1
        rows = []
        for each in found:
            peak = each.peak or 0
            bar = f'<meter max="{most}" value="{peak}" aria-label="share of the largest peak"></meter>'
            limit = "" if each.limit is None else format_size(each.limit)
            grows = "" if not each.growth else f"{format_size(round(each.growth))} a repetition"
            cells = [f"{bar} <b>{format_size(peak)}</b>", limit, grows, f"{each.seconds:.3f} s"]
            rows.append(
                f'<tr><th scope="row">{html.escape(each.test)}</th><td class="{each.outcome}">{each.outcome}</td>'
                f"{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
            )
            if each.problems or each.places:
                rows.append(f'<tr><td colspan="6"><pre>{html.escape(_why(each))}</pre></td></tr>')
        outcomes = [each.outcome for each in found]
        counts = ", ".join(f"{outcomes.count(each)} {each}" for each in dict.fromkeys(sorted(outcomes)))
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self.notes)
        return _PAGE.format(notes=notes, rows="\n".join(rows), count=len(found), counts=counts)


def _why(each: Measured) -> str:
    lines = list(each.problems)
    for size, blocks, path in each.places:
        lines.append(
            f"{format_size(size)} in {blocks:,} block{'s' * (blocks != 1)}: {path[0] if path else 'other code'}"
        )
        lines += [f"    called from {call}" for call in path[1:]]
    return "\n".join(lines)


#: one file, which opens nothing from anywhere; on a narrow screen a row is a card
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Memory of tests</title>
<style>
:root {{ color-scheme: light dark; font: 1rem/1.45 system-ui, sans-serif; --line: #8884; --bad: #b3261e }}
@media (prefers-color-scheme: dark) {{ :root {{ --bad: #ff8a80 }} }}
body {{ max-width: 76rem; margin: 0 auto; padding: 1rem }}
h1 {{ font-size: 1.5rem; margin: 0 }} p {{ margin: .3rem 0 }}
table {{ border-collapse: collapse; width: 100% }} caption {{ text-align: left; padding: 1rem 0 .5rem }}
th, td {{ padding: .35rem .6rem; text-align: left; vertical-align: top; border-top: 1px solid var(--line) }}
thead th {{ border: 0; font-size: .85rem }}
tbody th {{ font-weight: normal; overflow-wrap: anywhere; min-width: 12rem }}
td:nth-child(n+3), thead th:nth-child(n+3) {{ text-align: right; white-space: nowrap }}
td {{ font-variant-numeric: tabular-nums }} .failed {{ color: var(--bad); font-weight: bold }}
meter {{ width: 6rem }} td b {{ display: inline-block; min-width: 5.5em; font-weight: normal }}
td[colspan] {{ border: 0; padding: 0 .6rem .6rem }}
pre {{ margin: 0; padding: .3rem .8rem; border-left: 3px solid var(--bad); font-size: .85rem; white-space: pre-wrap;
overflow-wrap: anywhere }}
@media (max-width: 45rem) {{
thead {{ position: absolute; left: -99rem }}
tr {{ display: flex; flex-wrap: wrap; border-top: 1px solid var(--line) }}
th, td {{ border: 0; padding: .15rem .4rem }} tbody th, td[colspan] {{ flex: 1 0 100%; min-width: 0 }}
td:empty {{ display: none }} td:nth-child(4)::before {{ content: "of " }}
td:nth-child(5)::before {{ content: "grows by " }} }}
</style></head>
<body><h1>Memory of {count} tests</h1>
<p>{counts}</p>
{notes}
<table>
<caption>Each test with its highest peak, the heaviest first</caption>
<thead><tr><th scope="col">test<th scope="col">outcome<th scope="col">peak<th scope="col">limit
<th scope="col">grows by<th scope="col">time</tr></thead>
<tbody>
{rows}
</tbody>
</table></body>
</html>
"""
