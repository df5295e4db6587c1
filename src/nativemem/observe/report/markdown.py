"""A report as Markdown, for a comment on a pull request."""

from __future__ import annotations

import re
from typing import Any

from .model import Report
from .tables import Table, headline, tables

__all__ = ["escaped", "render", "table"]

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#+!|~&$:@-])")


def escaped(text: str) -> str:
    r"""``text`` as Markdown shows it: nothing in it is markup, a link, or the mention of an account.

    >>> print(escaped("<b>|@all"))
    &lt;b&gt;&#124;&#64;all
    """
    return _SPECIAL.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    names = {"<": "&lt;", ">": "&gt;", "&": "&amp;", "|": "&#124;", "@": "&#64;", "#": "&#35;"}
    return names.get(match[0]) or (match[0] if match[0] in "-():+" else "\\" + match[0])


def table(shown: Table) -> str:
    """One table, with its title as a heading."""
    lines = [f"### {escaped(shown.title)}", ""]
    lines.append("| " + " | ".join(escaped(column.name) for column in shown.columns) + " |")
    lines.append("|" + "|".join(" ---: " if column.is_number else " --- " for column in shown.columns) + "|")
    lines += ["| " + " | ".join(escaped(cell) for cell in row) + " |" for row in shown.rows]
    rest = [f"and {shown.more:,} more."] * bool(shown.more) + [escaped(shown.note)] * bool(shown.note)
    return "\n".join([*lines, *([""] if rest else []), " ".join(rest)]).rstrip()


def render(report: Report, *, top: int = 20, by: str = "peak", **_: Any) -> str:
    """The report's tables, as GitHub's Markdown has them."""
    parts = ["## Memory", "\n".join(f"- {escaped(line)}" for line in headline(report))]
    parts += [table(each) for each in tables(report, top=top, by=by)]
    return "\n\n".join(parts) + "\n"
