"""What docs/structures.md shows is what happens."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

import nativemem.errors

PAGE = Path(__file__).resolve().parents[2] / "docs" / "structures.md"


def test_the_page_is_true() -> None:
    pytest.importorskip("cachetools", reason="cachetools is not installed")
    done = doctest.testfile(str(PAGE), module_relative=False, globs={"nativemem": nativemem})
    assert done.attempted > 10 and done.failed == 0
