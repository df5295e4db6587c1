"""The table of planted faults fits the sources, and a fault that nothing notices is reported."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import mutants  # noqa: E402
from mutant_table import MUTANTS, Mutant  # noqa: E402

BY_NAME = {mutant.name: mutant for mutant in MUTANTS}
#: nothing but tables, declarations and what the compiler is told
WITHOUT = {"csrc/base/base.h", "csrc/base/poison.h", "csrc/alloc/region.h", "csrc/python/python.h"}


def test_the_table_reaches_every_source() -> None:
    assert len(BY_NAME) == len(MUTANTS)
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "csrc").rglob("*.c")}
    assert sources <= {mutant.file for mutant in MUTANTS}
    assert not WITHOUT & {mutant.file for mutant in MUTANTS}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_its_text_stands_just_once(mutant: Mutant) -> None:
    """Or it would plant nothing, or not what its name says."""
    assert (ROOT / mutant.file).read_text(encoding="utf-8").count(mutant.old) == 1
    assert mutant.old != mutant.new


def test_the_tests_that_a_mutant_names_are_there() -> None:
    for test in {test for mutant in MUTANTS for test in mutant.tests}:
        file, *names = test.split("::")
        text = "" if (ROOT / file).is_dir() else (ROOT / file).read_text(encoding="utf-8")
        assert (ROOT / file).exists() and all(name in text for name in names)


def test_the_page_shows_the_table() -> None:
    page = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8").partition("| mutant | file |")[2]
    rows = [line.split(" | ") for line in page.splitlines()[2:]]
    assert [(row[0].removeprefix("| "), row[1]) for row in rows] == [
        (mutant.name, f"`{mutant.file.removeprefix('csrc/')}`") for mutant in MUTANTS
    ]
    assert not any(row[2] == "nothing |" for row in rows)


def test_a_mutant_whose_text_is_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.c").write_text("twice twice", encoding="utf-8")
    for old in ("twice", "never"):
        with pytest.raises(mutants.Unfit, match="not once"):
            mutants.mutate(Mutant("wrong", "a.c", old, ""), tmp_path)


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert mutants.main(["--list", "--only", "add-overflow", "--only", "pool-bit-not-set"]) == 0
    listed = capsys.readouterr().out
    assert listed.startswith("add-overflow  csrc/include/nativemem/base.h\n")
    assert "pool-bit-not-set  csrc/alloc/pool.c\n  - c->taken[i / 64] |=" in listed
    with pytest.raises(SystemExit):
        mutants.main(["--only", "no-such"])
    assert "no such mutant: no-such" in capsys.readouterr().err


@pytest.mark.slow
def test_faults_are_caught_and_what_changes_nothing_survives(tmp_path: Path) -> None:
    """With one test program only, plain: each fault below is one that it notices."""
    if shutil.which("gcc") is None:
        pytest.skip("there is no gcc to build mutants with")
    c_tests = mutants.CTests(tmp_path, ["test_base"])
    for name in ("add-overflow", "budget-limit-off-by-one", "traced-bucket-of-a-power"):
        assert c_tests.catch(BY_NAME[name], "plain").startswith("test_base, test_")
    fault = BY_NAME["budget-limit-off-by-one"]
    same = replace(fault, name="same", new=fault.old + " /* the same */")
    assert c_tests.catch(same, "plain") == ""
    broken = replace(fault, name="broken", new=fault.old + " }")
    with pytest.raises(mutants.Unfit, match="does not compile"):
        c_tests.catch(broken, "plain")


def test_how_it_was_caught(tmp_path: Path) -> None:
    def describe(code: int | None, output: str) -> str:
        return mutants.CTests.describe("tests/c/test_x", code, output, tmp_path)

    source = tmp_path / "tests" / "c" / "test_x.c"
    source.parent.mkdir(parents=True)
    source.write_text("static void test_of_it(void) {\n    CHECK(0);\n}\n", encoding="utf-8")
    assert describe(1, "tests/c/test_x.c:2: 0\nFAILED test_of_it()\n") == "test_x, test_of_it"
    assert describe(-11, "tests/c/test_x.c:2: 0\n") == "test_x, test_of_it, SIGSEGV"
    assert describe(-6, "") == "test_x, SIGABRT"
    assert describe(None, "") == "test_x, timeout"
    report = "==1==ERROR: AddressSanitizer: use-after-poison on\n    #0 0x5 in test_of_it tests/c/test_x.c:2\n"
    assert describe(1, report) == "test_x, test_of_it, AddressSanitizer: use-after-poison"
