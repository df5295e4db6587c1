"""A room above the facades has all of them, whatever a program has imported before it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

FIRST = {
    "a provider": "from nativemem.manager import StdProvider; StdProvider().resize(4)",
    "a collection": "from nativemem.manager.collections import BoundedList; BoundedList(4, 'q')",
}


@pytest.mark.parametrize("backend", ["auto", "pure"])
@pytest.mark.parametrize("first", FIRST.values(), ids=FIRST.keys())
def test_the_first_import_of_a_program_may_be_of_a_room(first: str, backend: str) -> None:
    """COLL-1e: the package is whole afterwards."""
    program = f"{first}; import nativemem; print([getattr(nativemem, name) is None for name in nativemem.__all__])"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "NATIVEMEM_BACKEND": backend},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "True" not in done.stdout
