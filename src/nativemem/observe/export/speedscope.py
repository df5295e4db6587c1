"""speedscope's own format (https://www.speedscope.app/file-format-schema.json): a profile for each measure, and for
each of the largest owners."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from ..report.model import Report
from ..report.tree import MEASURES, Leaf, Place
from ..report.wording import clean

__all__ = ["render"]

_NAMES = {"live": "live at the end", "peak": "at the peak", "total": "in total"}
_OWNERS = 20


def render(report: Report, *, by: str = "peak", **_: Any) -> str:
    """The file, opened at ``by``."""
    tree = report.tree
    frames: dict[Place, int] = {}

    def number(place: Place) -> int:
        return frames.setdefault(place, len(frames))

    def profile(name: str, measure: str, leaves: Iterable[Leaf]) -> dict[str, Any]:
        taken = [(leaf, leaf.amount.bytes(measure)) for leaf in leaves if leaf.amount.bytes(measure)]
        return {
            "type": "sampled",
            "name": name,
            "unit": "bytes",
            "startValue": 0,
            "endValue": sum(amount for _, amount in taken),
            "samples": [[number(place) for place in tree.path(leaf.node)][::-1] for leaf, _ in taken],
            "weights": [amount for _, amount in taken],
        }

    profiles = [profile(_NAMES[measure], measure, tree.leaves) for measure in MEASURES]
    owners = [row.name for row in sorted(report.owners, key=lambda row: -row.amount.bytes(by))]
    for owner in owners[:_OWNERS] if len(owners) > 1 else []:
        leaves = [leaf for leaf in tree.leaves if leaf.owner == owner]
        profiles.append(profile(f"{clean(owner)}, {_NAMES[by]}", by, leaves))
    document = {
        "$schema": "https://www.speedscope.app/file-format-schema.json",
        "name": clean(report.recording.about.get("command") or report.where or "nativemem"),
        "exporter": f"nativemem {report.recording.about.get('nativemem', '')}".strip(),
        "activeProfileIndex": MEASURES.index(by),
        "shared": {"frames": [_frame(place) for place in frames]},
        "profiles": profiles,
    }
    return json.dumps(document) + "\n"


def _frame(place: Place) -> dict[str, Any]:
    if not place.file:
        return {"name": clean(place.function)}
    return {"name": clean(place.function), "file": clean(place.file), "line": place.line}
