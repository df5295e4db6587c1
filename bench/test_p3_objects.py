"""P3: object-heavy loops, with the engine and on CPython's own allocator."""

from __future__ import annotations

import statistics

import container_worker
import interleave
from interleave import Side
from object_worker import LOOPS
from ratios import Row, Table, paired

ROUNDS = 7
SIDES = [Side("native", engine=True), Side("default")]


#: native/peer: 1.5 times as fast, and 5 % more memory
FASTER, MEMORY = 1 / 1.5, 1.05


def test_loops(tables: dict[str, Table], quick: bool) -> None:
    """Both sides build the same; the table says at what speed and in how much memory."""
    table = tables["P3"]
    speeds, memories = [], []
    for name in LOOPS:
        arguments = ["--loop", name, *(["--quick"] if quick else [])]
        reports = interleave.rounds("object_worker.py", SIDES, arguments, 1 if quick else ROUNDS)
        assert len({report["check"] for each in reports.values() for report in each}) == 1
        native, default = reports["native"], reports["default"]
        times = [report["time"] for report in default]
        speed = paired([report["time"] for report in native], times)
        speeds.append(Row(name, "default", statistics.median(times), *speed))
        peaks = [report["peak_rss"] for report in default]
        if peaks[0] is not None:
            memory = paired([report["peak_rss"] for report in native], peaks)
            peak = statistics.median(peaks)
            memories.append(Row(f"{name}, peak RSS", "default", peak, *memory, MEMORY, "B"))
    for row in speeds:
        table.add(row)
    mean = statistics.geometric_mean(row.ratio for row in speeds)
    table.add(Row("geometric mean", "default", None, mean, target=round(FASTER, 2)))
    for row in memories:
        table.add(row)
    if not memories:
        table.skip("peak RSS: the system does not say")


#: of the default's, for a container that is built again; so many processes of each side
AGAIN, AGAIN_ROUNDS = 1.10, 5


def test_containers_built_again(tables: dict[str, Table], quick: bool) -> None:
    """What was free and what is needed do not fit into each other, in each turn anew."""
    table = tables["P3"]
    rows = []
    for kind in container_worker.KINDS:
        memories = []
        for items in container_worker.SIZES[:1] if quick else container_worker.SIZES:
            arguments = ["--kind", kind, "--items", str(items), *(["--quick"] if quick else [])]
            count = 1 if quick else AGAIN_ROUNDS
            reports = interleave.rounds("container_worker.py", SIDES, arguments, count)
            native, default = reports["native"], reports["default"]
            times = [report["time"] for report in default]
            ratio = paired([report["time"] for report in native], times)
            name = f"{kind} of {items:,} built again"
            rows.append(Row(name, "default", statistics.median(times), *ratio, AGAIN))
            if default[0]["peak_rss"] is not None:
                peaks = [[report["peak_rss"] for report in side] for side in (native, default)]
                memories.append(paired(*peaks)[0])
        if memories:
            mean = statistics.geometric_mean(memories)
            table.add(Row(f"{kind} built again, peak RSS", "default", None, mean, target=MEMORY))
    for row in rows:
        table.add(row)
    mean = statistics.geometric_mean(row.ratio for row in rows)
    table.add(Row("built again, geometric mean", "default", None, mean, target=1.0))
