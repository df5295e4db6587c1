"""What a configuration requires is required by its type: a checker refuses what would fail."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy", reason="mypy is not installed (it comes with nativemem[test])")

GOOD = """
from nativemem.config import ArenaConfig, HeapConfig, PoolConfig, SlabConfig, StackConfig

ArenaConfig()
ArenaConfig(hint="64 KiB", cap=1 << 20, grow=False, zero_on_free=True, patterns=True)
StackConfig(1000)
StackConfig(capacity="1 MiB", patterns=True)
PoolConfig(64, 100)
PoolConfig(block_size="1 KiB", count=3, grow=True)
SlabConfig(bins=(16, "1 KiB"))
HeapConfig(secure=True)
"""
BAD = {
    "StackConfig()": "capacity",
    "PoolConfig(64)": "count",
    "PoolConfig(count=3)": "block_size",
    "StackConfig(capacty=1000)": "capacty",
    "PoolConfig(blocksize=64, count=3)": "blocksize",
    "ArenaConfig(hnt=1)": "hnt",
    "ArenaConfig(grow='yes')": "grow",
    "HeapConfig(secure=1)": "secure",
    "SlabConfig(bins=64)": "bins",
}


def mypy(code: str, folder: Path) -> list[str]:
    """What it has to say of a program, a line each."""
    program = folder / "program.py"
    program.write_text(code, encoding="utf-8")
    options = ["--no-error-summary", "--config-file=", "--cache-dir", str(folder / "cache")]
    command = [sys.executable, "-m", "mypy", *options, str(program)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return [line for line in done.stdout.splitlines() if line.startswith("program.py")]


def test_complete_configurations_are_taken(tmp_path: Path) -> None:
    """CFG-2"""
    assert mypy(GOOD, tmp_path) == []


def test_incomplete_and_misspelt_ones_are_refused(tmp_path: Path) -> None:
    """CFG-2: each on its own line, by the name of the field."""
    head = "from nativemem.config import ArenaConfig, HeapConfig, PoolConfig, SlabConfig, StackConfig"
    complaints = mypy("\n".join([head, *BAD]), tmp_path)
    for number, (call, field) in enumerate(BAD.items(), start=2):
        assert any(line.startswith(f"program.py:{number}: error") and field in line for line in complaints), call
