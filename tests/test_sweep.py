"""Each allocation of each public operation fails once: docs/testing.md says how, sweep/ does it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import sweep.scenarios as found
from bad_input.world import NO_SUBJECT, NOT_MADE, RECIPES, surface
from nativemem import errors
from nativemem._api import load
from nativemem.backends.binding import Binding
from sweep import port
from sweep.kept import kept
from sweep.planted import PLANTED
from sweep.scenarios import NOT_SWEPT, Scenario, scenarios

pytestmark = pytest.mark.usefixtures("old_objects_apart")

HERE = Path(__file__).resolve().parent
GROUPS = [group for group, rows in scenarios().items() if rows]
#: not in other states, nor in front of each other
NOUNS = {*surface(load("pure")), *NOT_MADE, "functions"}
#: The sweep under the interpreter is done in so many processes.
PARTS = 3


# ---- through the port ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", GROUPS)
def test_allocations_through_the_port(nm: Binding, group: str) -> None:
    """FAIL-3: only MemoryError comes out, nothing is lost, what was there before stays as it was."""
    _, complaints = port.sweep(nm.name, group)
    assert complaints == []


def test_the_port_is_asked(nm: Binding) -> None:
    """That there is something to fail: each that takes an upstream asks it for a block, or for a chunk."""
    for group in ("Arena", "Stack", "Pool", "Slab", "Limited", "Traced", "Failing", "Locked", "TypedArena"):
        made, _ = port.sweep(nm.name, group)
        assert made >= len(scenarios()[group]), group


def planted(nm: Binding, monkeypatch: pytest.MonkeyPatch, run: Any) -> str:
    monkeypatch.setitem(scenarios(), "Arena", [Scenario("planted", run)])
    return "\n".join(port.sweep(nm.name, "Arena")[1])


def test_a_lost_block_is_seen(nm: Binding, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []

    def run(w: Any) -> None:
        kept.append(w.system.alloc(8))
        w.system.alloc(8).free()
        kept.pop()

    assert "LeakError" in planted(nm, monkeypatch, run)
    kept.clear()


def test_another_error_is_seen(nm: Binding, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(w: Any) -> None:
        try:
            w.system.alloc(8)
        except MemoryError:
            raise KeyError("x") from None

    assert "raised KeyError" in planted(nm, monkeypatch, run)


def test_damage_is_seen(nm: Binding, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(w: Any) -> None:
        try:
            w.system.alloc(8)
        except MemoryError:
            with memoryview(w.sentinel) as raw:
                raw[0] = 255
            raise

    assert "lost its content" in planted(nm, monkeypatch, run)


def test_what_is_no_longer_usable_is_seen(nm: Binding, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(w: Any) -> None:
        try:
            w.system.alloc(8)
        except MemoryError:
            w.budget.limit = 1
            w.allocator = w.open(nm.Limited(w.system, w.budget))
            raise

    assert "no block to be had afterwards" in planted(nm, monkeypatch, run)


# ---- what succeeds ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("needs_native", "needs_counts")
@pytest.mark.parametrize("group", [group for group in GROUPS if group in NOUNS])
def test_what_succeeds_leaves_no_reference(group: str) -> None:
    """ERR-4: in C, where each has to be given up by hand."""
    assert kept("native", group) is None


@pytest.mark.usefixtures("needs_native", "needs_counts")
def test_a_reference_that_is_kept_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[object] = []
    monkeypatch.setitem(scenarios(), "Arena", [Scenario("planted", lambda w: left.extend((object(), object())))])
    assert kept("native", "Arena") is not None


# ---- that it is all -----------------------------------------------------------------------------------------


def test_every_public_name_is_swept() -> None:
    scenarios()
    assert found.unknown == []
    rows = [*scenarios()["functions"], *found.left_out["functions"]]
    functions = {row.label.split("(")[0] for row in rows}
    missing = sorted(set(surface(load("pure"))) - {*RECIPES, *NO_SUBJECT, *NOT_SWEPT, *functions, "utilities"})
    assert not missing, f"add a line for each of {missing} to RECIPES in tests/bad_input/world.py: how to make one"


def test_every_member_is_swept() -> None:
    """What is left out cannot be done with good arguments: nothing but what the interpreter itself refuses."""

    def members_of(groups: dict[str, list[Scenario]]) -> set[str]:
        return {f"{group}: {row.label.split(',')[0]}" for group, rows in groups.items() for row in rows}

    left = members_of(found.left_out) - members_of(scenarios())
    members = {key for key in left if key.split(": ")[1] not in found.PROTOCOLS}
    assert members == {
        # the base of the configurations has no fields
        "Config: debug", "Config: from_env", "Config: low_memory", "Config: production", "Config: replace",
        "Block: Block()",  # an allocator makes them
        "functions: typed()",  # takes a label as well, which is the caller's
    }  # fmt: skip
    for subject in RECIPES:
        if subject in surface(load("pure")) and subject not in (*NOT_MADE, "Block", *errors.__all__):
            assert any(row.label.startswith(f"{subject}()") for row in scenarios()[subject]), subject


# ---- what the interpreter allocates -------------------------------------------------------------------------


def needs_nomemory() -> None:
    if importlib.util.find_spec("_testcapi") is None:
        pytest.skip("this Python comes without _testcapi, which makes the interpreter's allocations fail")
    if sys.implementation.name != "cpython" or sys.version_info[:2] != (3, 11):
        # a closure that is called while the allocation of its cell fails ends 3.12 and 3.13 with SIGSEGV
        pytest.skip("only CPython 3.11 is known to stand it by itself")


def swept(tmp_path: Path, module: str, *arguments: str) -> dict[str, Any]:
    """What a sweep in a process of its own says; where it was if that crashes or hangs."""
    where = tmp_path / "where"
    where.write_bytes(bytes(4096))
    command = [sys.executable, "-m", f"sweep.{module}", arguments[0], str(where), *arguments[1:]]
    # a measurement of coverage would allocate in the middle
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    environment["NATIVEMEM_BACKEND"] = arguments[0]
    code: Any
    try:
        done = subprocess.run(command, cwd=HERE, env=environment, capture_output=True, text=True, timeout=300)
        code, trace = done.returncode, done.stderr
    except subprocess.TimeoutExpired:
        code, trace = "a timeout", ""
    place = where.read_bytes().split(b"\0")[0].decode(errors="replace")
    assert code == 0, f"ended with {code} in {place}\n{trace}"
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("part", range(PARTS))
def test_allocations_of_the_interpreter(nm: Binding, part: int, tmp_path: Path) -> None:
    """FAIL-3"""
    needs_nomemory()
    groups = GROUPS[part::PARTS]
    results = swept(tmp_path, "interpreter", nm.name, *groups)
    assert list(results) == groups
    assert [what for _, complaints in results.values() for what in complaints] == []
    assert sum(made for made, _ in results.values()) >= 1000


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_mistake_is_seen(name: str, needs_native: None, tmp_path: Path) -> None:
    needs_nomemory()
    if name == "ends":
        with pytest.raises(AssertionError, match=r"in native, Heap: ends: allocation \d+"):
            swept(tmp_path, "planted", "native", name)
        return
    _, complaints = swept(tmp_path, "planted", "native", name)[name]
    assert any(PLANTED[name][1] in what for what in complaints), complaints
