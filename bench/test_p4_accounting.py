"""P4: full accounting by owner, beside no accounting, tracemalloc and memray."""

from __future__ import annotations

import importlib.util
import statistics
import sys
from typing import Any

import pytest
from accounting_worker import ARRAYS, WORKLOADS
from interleave import HERE, Command, turns
from ratios import Row, Table, paired

#: of the sides whose difference is small, and of those with peers whose difference is not
ROUNDS, PEER_ROUNDS = 11, 5
#: native/peer
LIMIT = 1.02

TRACERS = ("tracemalloc", "memray")


def _command(workload: str, quick: bool, engine: bool, account: str) -> Command:
    words = [sys.executable, str(HERE / "accounting_worker.py"), "--engine" if engine else "--default"]
    # a tracer's difference shows in one sample
    samples = "1" if account in TRACERS else "5"
    words += ["--workload", workload, "--account", account, "--samples", samples]
    return Command([*words, *(["--quick"] if quick else [])])


def _peers(table: Table) -> dict[str, str]:
    """By the peer's name, the account that the worker keeps."""
    found = {"default": "no_account", "tracemalloc": "tracemalloc"}
    if importlib.util.find_spec("memray") is None:
        table.skip("memray: not installed")
    else:
        found["memray"] = "memray"
    return found


def _times(reports: list[dict[str, Any]]) -> list[float]:
    return [report["time"] for report in reports]


@pytest.fixture(scope="module")
def ratios(tables: dict[str, Table]) -> Any:
    """Collects the ratios by side and workload; at the end they make the rows of their geometric means."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    yield found
    for (side, peer), each in found.items():
        loops = [ratio for name, ratio in each.items() if name not in ARRAYS]
        if loops:
            target = LIMIT if peer == "limit" else None
            name = "geometric mean of the loops" + (", outside" if side == "outside" else "")
            tables["P4"].add(Row(name, peer, None, statistics.geometric_mean(loops), target=target))


@pytest.mark.parametrize("name", WORKLOADS)
def test_accounts(
    name: str, tables: dict[str, Table], quick: bool, ratios: dict[tuple[str, str], dict[str, float]]
) -> None:
    """All sides compute the same, and each account speaks of some bytes; the table says at what cost."""
    table = tables["P4"]
    native = _command(name, quick, True, "owner")
    close = {
        "native": native,
        "outside": _command(name, quick, True, "outside"),
        "limit": _command(name, quick, True, "no_account"),
    }
    far = {"native": native, **{peer: _command(name, quick, False, kind) for peer, kind in _peers(table).items()}}
    near = turns(close, 1 if quick else ROUNDS)
    peers = turns(far, 1 if quick else PEER_ROUNDS)
    every = [*near.values(), *peers.values()]
    assert len({report["check"] for each in every for report in each}) == 1
    accounts = [near["native"], near["outside"], *(peers[peer] for peer in far if peer != "default")]
    assert all(report["accounted"] > 0 for each in accounts for report in each)
    limit = _times(near["limit"])
    table.add(Row(name, "native", statistics.median(_times(near["native"])), 1.0))
    rows = {
        ("native", "limit"): Row(
            name, "limit", statistics.median(limit), *paired(_times(near["native"]), limit), LIMIT
        ),
        ("outside", "limit"): Row(
            f"{name}, outside", "limit", statistics.median(limit), *paired(_times(near["outside"]), limit), LIMIT
        ),
    }
    for peer in far:
        if peer != "native":
            times = _times(peers[peer])
            ratio = paired(_times(peers["native"]), times)
            rows["native", peer] = Row(name, peer, statistics.median(times), *ratio)
    for key, row in rows.items():
        table.add(row)
        ratios.setdefault(key, {})[name] = row.ratio
