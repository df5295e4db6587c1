"""What owners used over time, as a chart takes it: all at the same times, and not more of them than it shows."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any

from .model import Point, Report

__all__ = ["chart"]

#: a chart is some 1,200 pixels wide
POINTS = 1200
OWNERS = 24


def chart(report: Report, numbers: dict[str, int]) -> dict[str, Any]:
    """``seconds``, and by owner (the largest ``OWNERS``) ``used`` and ``limit`` at each of them, None where there
    is nothing to say; ``refused`` requests as time, owner's number and bytes. Where there are too many moments
    each stands for the time up to the next, with the most that was used then, so that no peak is lost."""
    lines = dict(list(report.timelines.items())[:OWNERS])
    end = max([report.seconds, *(line[-1].seconds for line in lines.values())])
    times = sorted({point.seconds for line in lines.values() for point in line} | ({end} if lines else set()))
    if len(times) > POINTS:
        times = [end * i / POINTS for i in range(POINTS + 1)]
    seconds = [round(at, 6) for at in times]
    owners = [{"name": name, "number": numbers.get(name, -1), **_at(line, times)} for name, line in lines.items()]
    refused = [[each.seconds, numbers.get(each.owner, -1), each.requested] for each in report.recording.refused]
    return {"seconds": seconds, "owners": owners, "refused": refused[:2000]}


def _at(line: list[Point], times: list[float]) -> dict[str, list[int | None]]:
    """What a line has at each time: the last before, or the most up to the next time."""
    starts = [point.seconds for point in line]
    used: list[int | None] = []
    limit: list[int | None] = []
    for i, at in enumerate(times):
        first = bisect_right(starts, at) - 1
        until = bisect_right(starts, times[i + 1], lo=max(first, 0)) if i + 1 < len(times) else len(line)
        inside = [
            point
            for point in line[max(first + 1, 0) : until]
            if i + 1 == len(times) or point.seconds < times[i + 1]
        ]
        if first < 0 and not inside:
            used.append(None)
            limit.append(None)
            continue
        within = [*([line[first]] if first >= 0 else []), *inside]
        used.append(max(point.used for point in within))
        limit.append(within[-1].limit)
    return {"used": used, "limit": limit}
