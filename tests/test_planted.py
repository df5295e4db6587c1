"""The plugin of ``make test-oom`` sees what it is for: each kind of test that it has to accept or to refuse."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from nativemem.backends.binding import Binding

TESTS = Path(__file__).resolve().parent

BEGIN = """
import pytest, nativemem
from nativemem._api import load
nm = load(NAME)
kept = []
class Cycle:
    def __init__(self, block): self.block, self.me = block, self
"""
#: the body of a test, and what is said of it with the first allocation failing
CASES = {
    "dies_of_it": ("nm.Traced().alloc(10)", ["MEMORY"]),
    "another_error_was_wanted": (
        "with pytest.raises(nativemem.BudgetExceeded): nm.Traced().alloc(10)",
        ["MEMORY"],
    ),
    "another_message_was_wanted": (
        "with pytest.raises(MemoryError, match='no such text'): nm.Traced().alloc(10)",
        ["MEMORY"],
    ),
    "does_not_meet_it": ("assert nm.Heap().alloc(10).size == 10", ["PASSED"]),
    "deals_with_it": ("with pytest.raises(MemoryError): nm.Traced().alloc(10)", ["PASSED"]),
    "leaves_a_cycle": (
        "with pytest.raises(MemoryError): nm.Traced().alloc(10)\n    Cycle(nm.Traced().alloc(10))",
        ["PASSED"],
    ),
    "gets_a_wrong_result": (
        "try: nm.Traced().alloc(10)\n    except MemoryError: pass\n    assert False",
        ["FAILED"],
    ),
    "another_error_comes_after_it": (
        "try: nm.Traced().alloc(10)\n    except MemoryError: pass\n    raise SystemError",
        ["FAILED"],
    ),
    "is_not_explained_by_it": ("raise nativemem.OutOfMemory('for another reason')", ["FAILED"]),
    "leaks": (
        "with pytest.raises(MemoryError): nm.Traced().alloc(10)\n    kept.append(nm.Traced().alloc(10))",
        ["PASSED", "ERROR"],
    ),
    "leaks_and_dies": (
        "nm.default_system.reset(2)\n    kept.append(nm.Traced().alloc(10))\n    nm.Traced().alloc(10)",
        ["MEMORY", "ERROR"],
    ),
}
FIXTURES = """
@pytest.fixture
def block(): return nm.Traced().alloc(10)
def test_whose_fixture_dies(block): assert False
@pytest.mark.unplanted("why")
def test_marked(block): assert nm.Traced().describe() == "Traced > System"
"""


def test_each_kind(nm: Binding, tmp_path: Path) -> None:
    """FAIL-2"""
    text = "".join(f"def test_{name}():\n    {body}\n" for name, (body, _) in CASES.items())
    printed, code = under_failures(nm, tmp_path, text + FIXTURES, "-v")
    said: dict[str, list[str]] = {}
    for name, word in re.findall(r"^\S+::test_(\w+) ([A-Z]+)", printed, re.MULTILINE):
        said.setdefault(name, []).append(word)
    expected = {name: words for name, (_, words) in CASES.items()}
    # of a fixture that fails the test is not called; a marked test meets nothing
    assert said == expected | {"whose_fixture_dies": ["MEMORY"], "marked": ["PASSED"]}, printed
    assert len(re.findall(r"^not all is given back", printed, re.MULTILINE)) == 2
    assert "allocation 1 from the system failed in 10 tests, 5 of them ended by it" in printed
    assert code == 1


def test_a_run_that_meets_too_little_fails(nm: Binding, tmp_path: Path) -> None:
    """FAIL-2"""
    text = "def test_it(): nm.Traced().alloc(10)\n"
    for least, code in ((1, 0), (2, 1)):
        printed, got = under_failures(nm, tmp_path, text, f"--planted-at-least={least}")
        assert (got, "too few" in printed) == (code, bool(code)), printed


def under_failures(nm: Binding, folder: Path, text: str, *arguments: str) -> tuple[str, int]:
    """Runs a file of tests with the first allocation failing; what it prints, and its code."""
    path = folder / "test_generated.py"
    path.write_text(BEGIN.replace("NAME", repr(nm.name)) + text, encoding="utf-8")
    options = ("-p", "conftest", "-p", "no:cacheprovider", "--rootdir", str(folder), "--color=no", *arguments)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(path)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=folder,
        env={**os.environ, "NATIVEMEM_TEST_OOM_N": "1", "PYTHONPATH": str(TESTS)},
    )
    return done.stdout, done.returncode
