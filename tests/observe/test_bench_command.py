"""CLI-2: ``nativemem bench``. The figures of its table are made up here: timings are not for tests."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import nativemem
from nativemem.commands import bench, cli
from nativemem.commands.workloads import WORKLOADS

PAIRS = [("objects", "default"), ("charged", "tracemalloc"), ("blocks", "native"), ("blocks", "limit")]


@pytest.mark.parametrize(("workload", "side"), PAIRS)
def test_a_workload_runs(workload: str, side: str) -> None:
    words = [sys.executable, "-m", "nativemem.commands.workloads", workload, side, "0"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert 0 < json.loads(done.stdout) < 60


@pytest.mark.skipif(nativemem.backend != "native", reason="the engine is native")
@pytest.mark.parametrize("workload", ["objects", "charged"])
def test_a_workload_runs_on_the_engine(workload: str) -> None:
    seconds, why = bench._measure(workload, "native", 0)
    assert seconds is not None, why


def test_each_workload_and_side_is_in_the_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(workload: str, side: str, seconds: float) -> tuple[float | None, str]:
        assert seconds < 1
        return (None, "not installed") if side == "jemalloc" else (0.002 if side == "native" else 0.004, "")

    monkeypatch.setattr(bench, "_measure", measure)
    assert cli.main(["bench", "--quick"]) == 0
    shown = capsys.readouterr().out
    for workload, (what, _, sides) in WORKLOADS.items():
        assert f"{workload}: {what}" in shown
        assert all(f"  {side} " in shown for side in sides)
    assert "native/default   0.50" in shown and "jemalloc     not installed" in shown
    assert all(f"\n{name}: " in shown for name in ("python", "system", "nativemem", "load"))
    assert cli.main(["bench", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["seconds"]["blocks"]["native"] == [0.002] * 5
    assert figures["seconds"]["objects"]["jemalloc"] == "not installed"
    monkeypatch.setattr(bench, "_measure", lambda *_: (None, "no"))
    assert cli.main(["bench", "--quick"]) == 1


def test_a_side_that_cannot_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    assert bench._measure("no such workload", "native", 0) == (None, "KeyError: 'no such workload'")
    monkeypatch.setattr(bench, "_FOLDERS", ())
    assert bench._measure("objects", "mimalloc", 0) == (None, "not installed")
