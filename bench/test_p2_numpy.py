"""P2: NumPy expressions with temporaries, by array size, with and without the engine."""

from __future__ import annotations

import statistics
from typing import Any

import interleave
import peers
import pytest
from interleave import Side
from numpy_worker import EXPRESSIONS
from ratios import Row, Table, paired, size_name

pytest.importorskip("numpy")

SIZES = [64 << 2 * i for i in range(11)]
ROUNDS = 5
QUICK = 1 << 20
DEFAULT, ENGINE = Side("default"), Side("native", engine=True)


def _preloads(table: Table) -> list[Side]:
    return [Side(name, env=env) for name, env in peers.preloads(table.skip).items()]


def _targets(size: int, best: str | None) -> dict[str, float]:
    """Targets of native/peer: near the limit where the work outweighs the calls, never slower than
    the default, 4 times as fast where the default maps fresh pages, level with the best preload."""
    targets = {"default": 0.25 if 1 << 20 <= size <= 4 << 20 else 1.02}
    if size >= 16 << 10:
        targets["limit"] = 1.10
    if best is not None:
        targets[best] = 1.0
    return targets


def _rows(name: str, size: int, reports: dict[str, list[dict[str, Any]]], preloads: list[str]) -> list[Row]:
    times = {side: [report["expression"] for report in each] for side, each in reports.items()}
    both = zip(reports["native"], reports["default"], strict=True)
    times["limit"] = [min(n["in_place"], d["in_place"]) for n, d in both]
    medians = {peer: statistics.median(each) for peer, each in times.items()}
    best = min(preloads, key=lambda peer: medians[peer], default=None)
    targets = _targets(size, best)
    workload = f"{name} {size_name(size)}"
    rows = [Row(workload, "native", medians["native"], 1.0)]
    for peer in ("limit", "default", *preloads):
        ratio = paired(times["native"], times[peer])
        rows.append(Row(workload, peer, medians[peer], *ratio, targets.get(peer)))
    return rows


@pytest.mark.parametrize("size", SIZES, ids=size_name)
@pytest.mark.parametrize("name", EXPRESSIONS)
def test_expression(name: str, size: int, tables: dict[str, Table], quick: bool) -> None:
    """All sides give the same sum; the table says at what speed."""
    if quick and size not in (SIZES[0], QUICK):
        pytest.skip("one small and one large array are enough to see that it runs")
    table = tables["P2"]
    preloads = _preloads(table)
    sides = [ENGINE, DEFAULT, *preloads]
    arguments = ["--expression", name, "--size", str(size), *(["--quick"] if quick else [])]
    reports = interleave.rounds("numpy_worker.py", sides, arguments, 1 if quick else ROUNDS)
    assert len({total for each in reports.values() for report in each for total in report["sums"]}) == 1
    for side in preloads:
        assert any(side.name in path for path in reports[side.name][0]["loaded"])
    for row in _rows(name, size, reports, [side.name for side in preloads]):
        table.add(row)
