"""JUP: cells with a budget, in a real kernel."""

from __future__ import annotations

import re

import pytest

import nativemem
from kernel import needs_a_kernel, outputs

pytestmark = needs_a_kernel
native = pytest.mark.skipif(
    nativemem.backend != "native", reason="cells are charged by the engine, which is native"
)


@native
def test_cells_with_a_budget() -> None:
    """JUP-1, JUP-2"""
    _, kept, over, alive, small, again, plain, syntax, usage = outputs(
        "%load_ext nativemem\nx = [1, 2]",
        "%%nativemem\nrows = [bytes(1000) for _ in range(20_000)]\nlen(rows)",
        "%%nativemem --budget 16MiB\nmore = []\nwhile True: more.append(bytes(1000))",
        "x, len(rows), 5000 < len(more) < 20_000",
        "%%nativemem --budget=16MiB\nbytearray(200 << 20)",
        "%%nativemem --budget 16MiB\nb = bytearray(4 << 20)",
        "len(b) >> 20",
        "%%nativemem\n1/0",
        "%%nativemem --budget much\n1",
    )
    assert kept.startswith("20000\n") and "nativemem: peak 2" in kept and " MiB in " in kept, kept
    assert "the cell:1 in " in kept, kept
    assert "MemoryError" in over and "over the cell's budget of 16.0 MiB: " in over, over
    assert alive == "([1, 2], 20000, True)\n"
    assert "MemoryError" in small and "200.0 MiB were asked for" in small, small
    assert re.search(r"nativemem: peak [456]\.", again) and " of 16.0 MiB, about " in again, again
    assert plain == "4\n"
    assert "ZeroDivisionError" in syntax
    assert "the budget takes bytes as an int" in usage, usage


def test_a_kernel_without_the_engine() -> None:
    """JUP-1: cells run, and it is said once that they are not measured."""
    _, first, second = outputs(
        "%load_ext nativemem", "%%nativemem --budget 1MiB\nx = 3\nx", "%%nativemem\nx + 1", NATIVEMEM_BACKEND="pure"
    )
    assert "neither measured nor bounded here: " in first and first.endswith("\n3\n"), first
    assert second == "4\n"
