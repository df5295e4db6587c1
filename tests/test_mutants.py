"""The table of planted mistakes fits the sources, and planting works."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import mutants  # noqa: E402


def test_the_table_reaches_every_part_of_the_core() -> None:
    names = [mutant.name for mutant in mutants.MUTANTS]
    assert len(set(names)) == len(names) >= 12
    changed = {mutant.file for mutant in mutants.MUTANTS}
    assert {f"csrc/{folder}" for folder in ("alloc", "base", "wrap", "python", "include/nativemem")} == {
        file.rpartition("/")[0] for file in changed
    }
    allocators = {f"csrc/alloc/{noun}.c" for noun in ("system", "arena", "stack", "pool", "slab", "heap", "region")}
    assert allocators <= changed


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda mutant: mutant.name)
def test_its_line_stands_just_once(mutant: mutants.Mutant) -> None:
    """Or it would plant nothing, or not what its name says."""
    assert (ROOT / mutant.file).read_text(encoding="utf-8").count(mutant.old) == 1
    assert mutant.old != mutant.new


@pytest.mark.slow
def test_one_is_caught_and_an_equal_program_survives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake is found, and what changes nothing is reported as a survivor."""
    if shutil.which("gcc") is None:
        pytest.skip("there is no gcc to build mutants with")
    monkeypatch.setattr(mutants, "TREE", tmp_path)
    monkeypatch.setattr(mutants, "MODES", {"plain": ["-O0"]})
    mutants.prepare()
    for test in (tmp_path / "tests" / "c").glob("test_*.c"):
        if test.name != "test_base.c":
            test.unlink()
    real = next(mutant for mutant in mutants.MUTANTS if mutant.name == "budget: one byte above the limit")
    caught, _ = mutants.catch(real)
    assert caught is not None and caught.startswith("test_base.c (test_")
    same = mutants.Mutant("equal", real.file, real.old, real.old.replace("after >", "(after) >"))
    assert mutants.catch(same)[0] is None


def test_the_list() -> None:
    listed = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "mutants.py"), "--list"], capture_output=True, text=True, check=True
    )
    assert listed.stdout.split("\n")[:-1] == [mutant.name for mutant in mutants.MUTANTS]
