"""Wheels of this tree, built in the environment that runs the tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = shutil.ignore_patterns("*.so", "*.egg-info", "__pycache__")


def run(*command: object, **changes: str | None) -> subprocess.CompletedProcess[str]:
    """Runs a command with the environment changed; None takes a variable out."""
    ours = ("USE_NATIVE_MEM", "NATIVEMEM_", "PYTHONPATH", "CFLAGS", "CPPFLAGS", "LDFLAGS")
    env = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    env.update({name: value for name, value in changes.items() if value is not None})
    return subprocess.run([str(part) for part in command], env=env, capture_output=True, text=True, check=False)


def source_tree(target: Path) -> Path:
    """A copy of what a build reads: nothing built before can leak in, nor out into the checkout."""
    target.mkdir(parents=True)
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, target)
    for name in ("csrc", "scripts/backend", "src"):
        shutil.copytree(ROOT / name, target / name, ignore=LEFT_OUT)
    return target


class Build:
    """One `pip wheel` of a fresh copy of the sources, in the environment that runs the tests."""

    def __init__(self, place: Path, **changes: str | None) -> None:
        self.tree = source_tree(place / "tree")
        self.place = place
        pip = (sys.executable, "-m", "pip", "wheel", "--verbose", "--no-deps")
        self.result = run(*pip, "--no-build-isolation", "--wheel-dir", place, self.tree, **changes)
        self.output = self.result.stdout + self.result.stderr

    @property
    def wheel(self) -> Path:
        assert self.result.returncode == 0, self.output
        (wheel,) = self.place.glob("*.whl")
        return wheel


@pytest.fixture(scope="session")
def required(tmp_path_factory: pytest.TempPathFactory) -> Build:
    return Build(tmp_path_factory.mktemp("required"), USE_NATIVE_MEM="1")
