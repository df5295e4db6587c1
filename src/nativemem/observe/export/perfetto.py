"""The Trace Event Format that Perfetto and chrome://tracing open: what each owner used, as a counter over time,
its limit, and the requests that were refused."""

from __future__ import annotations

import json
from typing import Any

from ..report.model import Report
from ..report.tree import Place
from ..report.wording import clean, named

__all__ = ["render"]


def render(report: Report, **_: Any) -> str:
    """The file. Times are microseconds after the beginning."""
    recording = report.recording
    pid = recording.pid
    name = clean(recording.about.get("command") or report.where or "nativemem")
    events: list[dict[str, Any]] = [
        {"name": "process_name", "ph": "M", "pid": pid, "tid": pid, "args": {"name": name}},
        {"name": "thread_name", "ph": "M", "pid": pid, "tid": pid, "args": {"name": "refused requests"}},
    ]
    for owner, line in report.timelines.items():
        limit = None
        for point in line:
            at = point.seconds * 1e6
            counter = {"ph": "C", "pid": pid, "ts": at, "cat": "memory"}
            events.append({**counter, "name": f"{clean(owner)} used", "args": {"bytes": point.used}})
            if point.limit is not None and point.limit != limit:
                limit = point.limit
                events.append({**counter, "name": f"{clean(owner)} limit", "args": {"bytes": limit}})
    for each in recording.refused:
        events.append(
            {
                "name": f"{clean(each.owner)} refused {each.requested} bytes",
                "cat": "memory",
                "ph": "i",
                "s": "p",
                "pid": pid,
                "tid": pid,
                "ts": each.seconds * 1e6,
                "args": {
                    "owner": each.owner,
                    "requested": each.requested,
                    "used": each.used,
                    "limit": each.limit,
                    "path": [named(Place(at.file, at.line, at.function)) for at in each.path],
                },
            }
        )
    document = {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {**recording.about, "began": recording.began, "rate": recording.rate},
    }
    return json.dumps(document) + "\n"
