"""What tests of observation share: programs in processes of their own."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

import nativemem

native = pytest.mark.skipif(nativemem.backend != "native", reason="the engine is native")


def run(program: str) -> str:
    """What a program prints that ends well."""
    code = textwrap.dedent(program)
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
