"""The sites of a report as comma-separated values (RFC 4180), a line for each line of the program and owner."""

from __future__ import annotations

import csv
import io
from typing import Any

from .model import Report
from .tree import MEASURES
from .wording import clean

__all__ = ["COLUMNS", "cell", "render"]

COLUMNS = (
    *("owner", "sources", "file", "line", "function"),
    *(name for measure in MEASURES for name in (f"{measure}_bytes", f"{measure}_blocks")),
    "called_from",
)


def cell(text: str) -> str:
    """``text`` on one line. A spreadsheet would run what begins as a formula does: that gets an apostrophe.

    >>> cell("=HYPERLINK(1)"), cell("a.py")
    ("'=HYPERLINK(1)", 'a.py')
    """
    text = clean(text)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text


def render(report: Report, *, top: int | None = None, by: str = "peak", **_: Any) -> str:
    """All sites, or the ``top`` largest by ``by``."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for row in report.sites(by, top, at_least=0):
        callers = " < ".join(f"{place.file}:{place.line} {place.function}" for place in row.path[1:])
        amounts = (n for measure in MEASURES for n in (row.amount.bytes(measure), row.amount.blocks(measure)))
        place = (cell(row.place.file), row.place.line, cell(row.place.function))
        writer.writerow((cell(row.owner), "+".join(row.sources), *place, *amounts, cell(callers)))
    return out.getvalue()
