"""Other C libraries and processors, as far as this machine stands in for them; docs/platforms.md has the rest."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PT_TLS = 7


def make(goal: str, *tools: str) -> str:
    for tool in ("make", *tools):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}")
    # a make that runs this test must not be taken for the parent of this one
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    passed = ROOT / goal
    passed.unlink(missing_ok=True)
    made = subprocess.run(["make", goal], cwd=ROOT, env=env, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    return made.stdout


@pytest.mark.parametrize("test", ["test_base", "test_ends", "test_threads"])
def test_the_core_opens_late_on_musl(test: str) -> None:
    """PYV-5: musl's loader refuses an object whose thread-locals must lie in the program's own block."""
    assert ", 0 failed" in make(f"build/c-tests/musl/{test}.passed", "musl-gcc")


def test_the_core_asks_glibc_for_little_static_memory() -> None:
    """PYV-5: what the loader of glibc keeps for objects that are opened late, 1664 bytes, is for all of them."""
    core = pytest.importorskip("nativemem._core")
    data = Path(core.__file__).read_bytes()
    assert data[:5] == b"\x7fELF\x02"
    (at,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    headers = [struct.unpack_from("<IIQQQQQQ", data, at + i * size) for i in range(count)]
    (thread_local,) = [header[6] for header in headers if header[0] == PT_TLS]
    assert 0 < thread_local <= 1024


@pytest.mark.parametrize("test", ["test_base", "test_ends"])
def test_aarch64_under_emulation(test: str) -> None:
    """PYV-6: also that pages and counters are right there; weak memory does not show under emulation."""
    assert ", 0 failed" in make(f"build/c-tests/aarch64/{test}.passed", "aarch64-linux-gnu-gcc", "qemu-aarch64")
