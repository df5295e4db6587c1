"""What a run of tests used: collected from the reports of its tests, shown at its end, written to a file."""

from __future__ import annotations

import html
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from .._version import __version__
from ..errors import ConfigError, shown
from ..sizes import format_size

__all__ = ["Measured", "Results"]

_FORMATS = (".json", ".html")


@dataclass
class Measured:
    """One attempt at one test; sizes in bytes. ``places`` and ``problems`` are there where it failed by its memory;
    ``growth`` is what it grew by at each repetition, None where that was not asked."""

    test: str
    outcome: str = ""
    seconds: float = 0.0
    peak: int | None = None
    limit: int | None = None
    denied: int = 0
    growth: float | None = None
    problems: list[str] = field(default_factory=list)
    places: list[dict[str, Any]] = field(default_factory=list)


def checked_path(path: str | None) -> str | None:
    """The report's path. Raises ConfigError for a format that is not written."""
    if path is not None and not path.endswith(_FORMATS):
        raise ConfigError(f"--nativemem-report: takes a .json or .html file, not {shown(path)}")
    return path


class Results:
    """The attempts of a run. ``notes``: what could not be done and why, each once."""

    def __init__(self) -> None:
        self.attempts: list[Measured] = []
        self.notes: dict[str, None] = {}

    def add(self, data: dict[str, Any]) -> None:
        """An attempt, as a report brings it."""
        self.attempts.append(Measured(**data))

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
            "tests": [asdict(each) for each in self.attempts],
        }

    def write(self, path: str) -> None:
        """Writes the report. Raises OSError where the file cannot be written."""
        text = json.dumps(self.as_dict(), indent=1) + "\n" if path.endswith(".json") else self._html()
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)

    def _html(self) -> str:
        found = self.heaviest(len(self.attempts))
        most = max((each.peak or 0 for each in found), default=0) or 1
        rows = []
        for each in found:
            peak = each.peak or 0
            bar = f'<meter max="{most}" value="{peak}" aria-label="share of the largest peak"></meter>'
            details = "".join(f"<p>{html.escape(line)}</p>" for line in each.problems)
            details += "".join(
                f"<p>{format_size(place['bytes'])} in {place['blocks']} blocks<br>"
                f"{'<br>'.join(map(html.escape, place['path']))}</p>"
                for place in each.places
            )
            name = html.escape(each.test)
            shown_name = f"<details><summary>{name}</summary>{details}</details>" if details else name
            limit = "" if each.limit is None else format_size(each.limit)
            grows = "" if not each.growth else f"{format_size(round(each.growth))} a repetition"
            rows.append(
                f"<tr><td>{shown_name}</td><td>{each.outcome}</td><td>{format_size(peak)}</td><td>{bar}</td>"
                f"<td>{limit}</td><td>{grows}</td><td>{each.seconds:.3f} s</td></tr>"
            )
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self.notes)
        return _PAGE.format(notes=notes, rows="\n".join(rows), count=len(found))


#: one file, which opens nothing from anywhere
_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Memory of tests</title>
<style>
:root {{ color-scheme: light dark; font: 1rem/1.4 system-ui, sans-serif }}
table {{ border-collapse: collapse }} th, td {{ text-align: left; padding: .2rem .8rem; vertical-align: top }}
td:nth-child(n+3) {{ white-space: nowrap; text-align: right }}
summary {{ cursor: pointer }} p {{ margin: .3rem
1rem }} </style>
<h1>Memory of {count} tests</h1>
{notes}
<table>
<caption>Each test with its highest peak, the heaviest first</caption>
<thead><tr><th scope="col">test<th scope="col">outcome<th scope="col">peak<th scope="col">
<th scope="col">limit<th scope="col">grows by<th scope="col">time</tr></thead>
<tbody>
{rows}
</tbody>
</table>
</html>
"""
