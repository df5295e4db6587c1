"""docs/manager.md: its programs run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from nativemem.backends.binding import Binding

PAGE = Path(__file__).resolve().parents[2] / "docs" / "manager.md"


def test_the_page(nm: Binding) -> None:
    """A process of its own, which has imported nothing else of the package."""
    done = subprocess.run(
        [sys.executable, "-m", "doctest", str(PAGE)],
        env={**os.environ, "NATIVEMEM_BACKEND": nm.name},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
