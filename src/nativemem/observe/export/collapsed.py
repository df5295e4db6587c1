"""Collapsed stacks, the input of Brendan Gregg's flamegraph.pl and of many viewers: a call path and its bytes a
line."""

from __future__ import annotations

from typing import Any

from ..report.model import Report
from ..report.tree import Place
from ..report.wording import clean

__all__ = ["frame", "render"]


def frame(place: Place) -> str:
    """A frame's name: ``load (main.py:12)``. What the format separates by is not in it.

    >>> frame(Place("a;b.py", 3, "f"))
    'f (a:b.py:3)'
    """
    name = place.function if not place.file else f"{place.function} ({place.file}:{place.line})"
    return clean(name).replace(";", ":")


def render(report: Report, *, by: str = "peak", **_: Any) -> str:
    """The call paths by one of ``live``, ``peak`` and ``total``, outermost first; the owner is the outermost
    frame."""
    tree = report.tree
    sums: dict[str, int] = {}
    for leaf in tree.leaves:
        frames = [frame(place) for place in tree.path(leaf.node)]
        line = ";".join([*frames, f"[{clean(leaf.owner).replace(';', ':')}]"][::-1])
        sums[line] = sums.get(line, 0) + leaf.amount.bytes(by)
    return "".join(f"{line} {number}\n" for line, number in sorted(sums.items()) if number)
