"""PROF-1: a profile of each block says what memray says, by line; bench/beside_memray.py compares samples."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

import nativemem

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(nativemem.backend != "native", reason="a profile is of the engine, which is native"),
]


def test_the_largest_lines_are_memrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("memray", reason="memray is not installed (extra: bench)")
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    spec = importlib.util.spec_from_file_location("beside_memray", ROOT / "bench" / "beside_memray.py")
    assert spec is not None and spec.loader is not None
    beside: Any = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "beside_memray", beside)
    spec.loader.exec_module(beside)
    program = [str(ROOT / "examples" / "index_stdlib.py"), "--limit", "20"]
    theirs = beside.of_memray(program, tmp_path)
    ours, samples = beside.of_profile(program, "1", tmp_path)
    assert samples > 100_000
    large = {line: exact for line, exact in theirs.items() if exact >= 256 << 10}  # of the start there is less
    assert len(large) >= 5
    for line, exact in large.items():
        assert abs(ours[line] - exact) < exact / 100, (line, exact, ours[line])
    assert {line for line, size in ours.items() if size >= 260 << 10} <= set(large)
