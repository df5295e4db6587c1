"""A report as JSON: all of it, for programs. The layout is stated in docs/report.md."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from .model import Report, SiteRow
from .tree import Amount, Place

__all__ = ["document", "render", "site"]

#: of the layout; a change that would break a reader raises it
VERSION = 1


def document(report: Report, *, top: int | None = None, by: str = "peak") -> dict[str, Any]:
    """The report as what :mod:`json` takes; at most ``top`` sites (None: all). Sizes are bytes, times seconds."""
    recording, histogram = report.recording, report.histogram
    return {
        "nativemem_report": VERSION,
        "recording": report.where,
        "owner": report.owner,
        "about": dict(recording.about),
        "pid": recording.pid,
        "began": recording.began,
        "lasted": recording.lasted,
        "rate": recording.rate,
        "samples": recording.samples,
        "dropped": recording.dropped,
        "peak_at": recording.peak_at,
        "amount": _amount(report.amount),
        "owners": [
            {
                "owner": row.name,
                "used": row.used,
                "peak": row.peak,
                "limit": row.limit,
                "denials": row.denials,
                "count": row.count,
                "amount": _amount(row.amount),
            }
            for row in report.owners
        ],
        "sources": [{"source": source, "amount": _amount(amount)} for source, amount in report.sources],
        "sites": [site(row) for row in report.sites(by, top, at_least=0)],
        "refusals": [
            {
                **_place(row.place),
                "owner": row.owner,
                "count": row.count,
                "largest": row.largest,
                "last": row.last,
                "used": row.used,
                "limit": row.limit,
                "path": [_place(place) for place in row.path],
            }
            for row in report.refusals
        ],
        "sizes": {
            "exact": histogram.exact,
            "total": _percentiles(histogram.total),
            "live": _percentiles(histogram.live),
            "classes": [asdict(row) for row in histogram.rows],
        },
        "timelines": {name: [list(point) for point in line] for name, line in report.timelines.items()},
    }


def render(report: Report, *, top: int | None = None, by: str = "peak", **_: Any) -> str:
    """The report as JSON, of ASCII alone."""
    return json.dumps(document(report, top=top, by=by), indent=1) + "\n"


def site(row: SiteRow) -> dict[str, Any]:
    """A line of the program, as what :mod:`json` takes."""
    return {
        **_place(row.place),
        "owner": row.owner,
        "sources": list(row.sources),
        "amount": _amount(row.amount),
        "paths": row.paths,
        "path": [_place(place) for place in row.path],
    }


def _amount(amount: Amount) -> dict[str, int]:
    return dict(vars(amount))


def _place(place: Place) -> dict[str, Any]:
    return place._asdict()


def _percentiles(found: dict[int, int] | None) -> dict[str, int] | None:
    return None if found is None else {f"p{percent}": size for percent, size in found.items()}
