"""The figures of a process as metrics: their names, units and kinds, for whatever system takes them.

A budget's label is its path, ``service/cache``; parts without a name are ``*``, so budgets that are made by the
thousand without a name are one series. Budgets of one label are added up; of pressure the highest counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .snapshot import OwnerState, Snapshot

__all__ = ["DENIALS", "LIMIT", "METRICS", "PEAK", "USED", "Metric", "read"]


@dataclass(frozen=True)
class Metric:
    """``name`` is that of Prometheus; ``dotted`` that of OpenTelemetry, ``unit`` in UCUM's code. ``counts``: it
    never falls while the process lives. ``by_owner``: it has a label ``owner``."""

    name: str
    dotted: str
    unit: str
    help: str
    counts: bool = False
    by_owner: bool = False


def _owner(what: str, unit: str, said: str, counts: bool = False) -> Metric:
    suffix = "_total" if counts else "_bytes" if unit == "By" else ""
    return Metric(f"nativemem_owner_{what}{suffix}", f"nativemem.owner.{what}", unit, said, counts, True)


def _process(what: str, unit: str, said: str, counts: bool = False) -> Metric:
    suffix = "_total" if counts else "_bytes" if unit == "By" else "_ratio" if unit == "1" else ""
    return Metric(f"nativemem_{what}{suffix}", f"nativemem.{what.replace('_', '.')}", unit, said, counts)


USED = _owner("used", "By", "Bytes charged to the budget now.")
PEAK = _owner("peak", "By", "The most bytes that were charged to the budget.")
LIMIT = _owner("limit", "By", "The most bytes that the budget allows.")
DENIALS = _owner("denials", "{request}", "Requests that the budget refused.", True)
_PRESSURE = _owner("pressure", "{level}", "How full the budget is: 0 normal, 1 warn, 2 critical, 3 full.")

#: by metric, what it is of one owner
_OF_OWNER: tuple[tuple[Metric, Callable[[OwnerState], int]], ...] = (
    (USED, lambda owner: owner.used),
    (PEAK, lambda owner: owner.peak),
    (LIMIT, lambda owner: owner.limit),
    (DENIALS, lambda owner: owner.denials),
    (_PRESSURE, lambda owner: ("normal", "warn", "critical", "full").index(owner.pressure)),
)


def _of_engine(figure: str) -> Callable[[Snapshot], float | None]:
    return lambda now: None if now.engine is None else getattr(now.engine, figure)


#: by metric, what it is of the process; None: it has none
_OF_PROCESS: tuple[tuple[Metric, Callable[[Snapshot], float | None]], ...] = (
    (_process("held", "By", "Bytes that the engine holds, in whole pages."), _of_engine("held")),
    (_process("held_peak", "By", "The most bytes that the engine held."), _of_engine("peak")),
    (_process("limit", "By", "The most bytes that the engine may hold."), _of_engine("limit")),
    (_process("kept", "By", "Bytes of free memory that the engine has not given back."), _of_engine("kept")),
    (_process("denials", "{request}", "Requests that the process's limit refused.", True), _of_engine("denials")),
    (_process("allocations", "{block}", "Blocks that the engine has served.", True), _of_engine("allocations")),
    (
        _process("fragmentation", "1", "Of what the engine has from the system, the share that it only keeps."),
        lambda now: None if now.process.stats is None else now.process.stats.fragmentation,
    ),
    (_process("resident", "By", "Memory of the process that the system counts."), lambda now: now.process.resident),
    (_process("resident_peak", "By", "The most that it was."), lambda now: now.process.resident_peak),
)

METRICS: tuple[Metric, ...] = (*(metric for metric, _ in _OF_OWNER), *(metric for metric, _ in _OF_PROCESS))

_NAMELESS = re.compile(r"budget \d+")


def label_of(path: str) -> str:
    """What an owner is called in metrics."""
    return "/".join("*" if _NAMELESS.fullmatch(part) else part for part in path.split("/"))


def read(now: Snapshot) -> Mapping[Metric, Mapping[str, float]]:
    """Of each metric that has a value, the values by owner's label; ``""`` is the process."""
    found: dict[Metric, dict[str, float]] = {}
    for metric, of_owner in _OF_OWNER:
        values = found[metric] = {}
        for owner in now.owners:
            label, value = label_of(owner.path), of_owner(owner)
            if metric is _PRESSURE:
                values[label] = max(values.get(label, 0), value)
            else:
                values[label] = values.get(label, 0) + value
    for metric, of_process in _OF_PROCESS:
        share = of_process(now)
        if share is not None:
            found[metric] = {"": share}
    return found
