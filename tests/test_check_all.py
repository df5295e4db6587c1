"""`make check-all`: the table of variants is that of docs/ci.md, of the Makefile and of .ci/run."""

from __future__ import annotations

import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

from loading import load

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "scripts" / "check_all.py"


@pytest.fixture
def check_all() -> types.ModuleType:
    return load(SCRIPT)


def test_the_page_has_the_table(check_all: types.ModuleType) -> None:
    assert check_all.markdown() in (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")


def test_each_variant_is_a_target(check_all: types.ModuleType) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", makefile, re.MULTILINE))
    assert {each.make.split()[0] for each in check_all.VARIANTS} <= targets
    names = [each.name for each in check_all.VARIANTS]
    assert len(set(names)) == len(names) > 20


def test_ci_runs_those_that_say_so_and_no_others(check_all: types.ModuleType) -> None:
    stages = re.findall(
        r"^stage (.+?)(?: \|\| .*)?$", (ROOT / ".ci" / "run").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert set(stages) == {each.in_ci for each in check_all.VARIANTS} - {""}


PLANTED = """
good:
\t@echo all is well$(ARGS)
bad:
\t@echo it is not; exit 3
elsewhere:
\t@exit 75
"""


def test_one_that_fails_stops_nothing(
    check_all: types.ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "Makefile").write_text(PLANTED, encoding="utf-8")
    variant = check_all.Variant
    monkeypatch.setattr(check_all, "ROOT", tmp_path)
    monkeypatch.setattr(check_all, "LOGS", tmp_path / "logs")
    for variable in ("MAKELEVEL", "MFLAGS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("MAKEFLAGS", " -- ARGS=--only\\ good")  # as make hands them on; they are not the targets'
    everything = (
        variant("bad", "bad", ""),
        variant("good", "good", ""),
        variant("elsewhere", "elsewhere", ""),
        variant("tool", "good", "", needs=("nativemem-has-no-such-tool",)),
    )
    for only, code, verdict in (
        (everything, 1, "1 passed, 1 failed, 2 not here, 0 not run"),
        (everything[1:], 75, "1 passed, 0 failed, 2 not here, 0 not run"),
        (everything[1:2], 0, "1 passed, 0 failed, 0 not here, 0 not run"),
    ):
        monkeypatch.setattr(check_all, "VARIANTS", only)
        monkeypatch.setattr(sys, "argv", ["check_all.py"])
        assert check_all.main() == code
        shown = capsys.readouterr().out.splitlines()
        kept = (tmp_path / "logs" / "summary.txt").read_text(encoding="utf-8").splitlines()
        assert kept[1:] == shown and shown[-1] == verdict
    assert (tmp_path / "logs" / "good.log").read_text(encoding="utf-8") == "all is well\n"


def test_a_part_at_a_time_makes_the_table(
    check_all: types.ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was run before stays, with its commit; the exit code is of what was asked."""
    (tmp_path / "Makefile").write_text(PLANTED, encoding="utf-8")
    monkeypatch.setattr(check_all, "ROOT", tmp_path)
    monkeypatch.setattr(check_all, "LOGS", tmp_path / "logs")
    monkeypatch.setattr(
        check_all, "VARIANTS", tuple(check_all.Variant(name, name, "") for name in ("bad", "good", "elsewhere"))
    )
    table: list[list[str]] = []
    for name, commit, code in (("bad", "c0", 1), ("good", "c1", 0)):
        monkeypatch.setattr(check_all, "commit", lambda at=commit: at)
        monkeypatch.setattr(sys, "argv", ["check_all.py", "--only", name])
        assert check_all.main() == code
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["check_all.py", "--summary"])
        assert check_all.main() == 0
        table.append(capsys.readouterr().out.splitlines()[1:])
    assert [line.split()[:3] for line in table[0][:3]] == [
        ["bad", "failed", "c0"],
        ["good", "not", "run"],
        ["elsewhere", "not", "run"],
    ]
    assert table[0][3] == "0 passed, 1 failed, 0 not here, 2 not run"
    assert [line.split()[:3] for line in table[1][:2]] == [["bad", "failed", "c0"], ["good", "passed", "c1"]]
    assert table[1][1].endswith(" s  all is well") and table[1][3] == "1 passed, 1 failed, 0 not here, 1 not run"


def test_an_unknown_variant(check_all: types.ModuleType) -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "--only", "lint,nothing"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "no variant is called nothing" in done.stderr


# --- scripts/audit.py: what it makes of pip-audit's answers ---


@pytest.mark.parametrize(
    ("answers", "code", "said"),
    [
        ([{"dependencies": [{"name": "a", "version": "1", "vulns": []}]}, None], 0, "nothing is known against a 1"),
        ([{"dependencies": [{"name": "a", "skip_reason": "not found"}]}, None], 75, "not asked about a"),
        ([None, None], 75, "not asked about a"),
        (
            [
                None,
                {"dependencies": [{"name": "a", "version": "1", "vulns": [{"id": "X-1", "fix_versions": ["2"]}]}]},
            ],
            1,
            "a 1: X-1, repaired in 2",
        ),
    ],
)
def test_what_was_not_asked_is_not_sound(answers: list[dict[str, object] | None], code: int, said: str) -> None:
    """pip-audit alone says that nothing is known where it could not ask."""
    audit = load(ROOT / "scripts" / "audit.py")
    outcome, text = audit.verdict(answers, {"a": "1"})
    assert (outcome, said in text) == (code, True), text
