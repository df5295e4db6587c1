"""Runs one side after the other, again and again: programs in processes of their own.

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

from peers import clean

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Side:
    """A way to run a worker: ``engine`` says whether it installs the engine."""

    name: str
    engine: bool = False
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Command:
    """A program that prints one JSON object, its arguments, and what it finds in the environment."""

    words: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)

    def run(self) -> dict[str, Any]:
        """What it reports. The environment is the caller's with a fixed hash seed, without what would change an
        allocator. Raises :class:`RuntimeError` if it fails."""
        env = {**clean(os.environ), "PYTHONHASHSEED": "0", **self.env}
        done = subprocess.run(self.words, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(self.words)}: exit {done.returncode}\n{done.stderr}")
        report: dict[str, Any] = json.loads(done.stdout)
        return report


def turns(commands: Mapping[str, Command], count: int) -> dict[str, list[dict[str, Any]]]:
    """The reports of ``count`` rounds over all commands, by their names."""
    reports: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    names = list(commands)
    for number in range(count):
        for name in names if number % 2 == 0 else reversed(names):
            reports[name].append(commands[name].run())
    return reports


def rounds(
    worker: str, sides: Sequence[Side], arguments: Sequence[str], count: int
) -> dict[str, list[dict[str, Any]]]:
    """As :func:`turns`, of a worker written in Python."""
    python = [sys.executable, str(HERE / worker)]
    return turns(
        {
            side.name: Command([*python, "--engine" if side.engine else "--default", *arguments], side.env)
            for side in sides
        },
        count,
    )
