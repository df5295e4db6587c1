"""Runs one side after the other, again and again: worker programs in processes of their own.

A hook under the interpreter stays once it is installed, and a malloc can only be preloaded at
start, so each side needs its own process. The sides take turns, and every second round goes
through them backwards, so that none has the better place.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
_SOURCES = ("LD_PRELOAD", "MALLOC_", "MIMALLOC_", "NATIVEMEM_", "PYTHONMALLOC", "PYTHONTRACEMALLOC")


@dataclass(frozen=True)
class Side:
    """A way to run a worker: ``engine`` says whether it installs the engine."""

    name: str
    engine: bool = False
    env: Mapping[str, str] = field(default_factory=dict)


def environment(side: Side) -> dict[str, str]:
    """The caller's environment, a fixed hash seed, and nothing that would change an allocator."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(_SOURCES)}
    return {**env, "PYTHONHASHSEED": "0", **side.env}


def once(worker: str, side: Side, arguments: Sequence[str]) -> dict[str, Any]:
    """What one run of ``worker`` reports. Raises :class:`RuntimeError` if it fails."""
    command = [sys.executable, str(HERE / worker), "--engine" if side.engine else "--default"]
    done = subprocess.run(
        [*command, *arguments], env=environment(side), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{worker} on {side.name}: exit {done.returncode}\n{done.stderr}")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def rounds(
    worker: str, sides: Sequence[Side], arguments: Sequence[str], count: int
) -> dict[str, list[dict[str, Any]]]:
    """The reports of ``count`` rounds over all sides, by the side's name."""
    reports: dict[str, list[dict[str, Any]]] = {side.name: [] for side in sides}
    for number in range(count):
        for side in sides if number % 2 == 0 else reversed(sides):
            reports[side.name].append(once(worker, side, arguments))
    return reports
