"""`make metrics`: the page is what the script writes, and the script measures."""

from __future__ import annotations

import os
import types
from pathlib import Path

import pytest

from loading import load

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def metrics() -> types.ModuleType:
    return load(ROOT / "scripts" / "metrics.py")


def test_the_page_has_each_metric(metrics: types.ModuleType) -> None:
    """And its target and command; the figures are those of the run that it names."""
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in page.splitlines() if line[:2] == "| "
    ]
    assert [(row[0], row[2], row[4]) for row in rows[2:]] == [
        (each.name, each.target, f"`{each.command}`") for each in metrics.METRICS
    ]
    assert all(row[3] for row in rows)
    for text, _ in metrics.RUBRIC:
        assert f"- it {text};" in page


def test_the_rubric_tells_good_texts_from_bad(metrics: types.ModuleType) -> None:
    page = "## NM-X\n`Full`"
    good = "X | Full | Arena: no room for 70 bytes; 30 of 90 are reserved | requested=70 | None | raise its cap"
    assert metrics.errors(good, page) == "5.00 of 5 points, 1 texts"
    for bad in (
        good.replace("Arena: ", ""),
        good.replace("no room for 70 bytes; 30 of 90 are reserved", "no room"),
        good.replace(" | raise its cap", " | None"),
        good.replace("Full", "Unknown"),
    ):
        assert metrics.errors(bad, page) == "4.00 of 5 points, 1 texts"
    assert metrics.errors(f"{good}\n{good.replace('Full', 'Unknown')}", page).startswith("4.50 of 5")


def test_names_are_counted(metrics: types.ModuleType) -> None:
    assert metrics.public_names('__all__ = ["a", "b"]') == "2"
    assert metrics.public_names('__all__: list[str] = ["a"]') == "1"
    assert metrics.public_names("x = 1") == "-"


def test_what_was_not_run_says_so(
    metrics: types.ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "ROOT", tmp_path)
    (tmp_path / "tests" / "c").mkdir(parents=True)
    for name in ("test_a", "test_b"):
        (tmp_path / "tests" / "c" / f"{name}.c").touch()
    assert metrics.passes("asan")() == metrics.coverage("src.json", metrics.of_python)() == metrics.NOT_RUN
    folder = tmp_path / "build" / "c-tests" / "asan"
    folder.mkdir(parents=True)
    for name in ("test_a", "test_b", "test_a.passed"):
        (folder / name).touch()
    assert metrics.passes("asan")() == "50 % (1 of 2 programs)"
    os.utime(folder / "test_a", (0, 0))
    assert metrics.passes("asan")() == "50 % (1 of 2 programs, before the last change of the sources)"
    summary = tmp_path / "build" / "check-all" / "summary.txt"
    summary.parent.mkdir()
    assert metrics.variants() == metrics.NOT_RUN
    counts = "1 passed, 0 failed, 0 not here, 2 not run"
    summary.write_text(f"make check-all on Linux\nlint passed abc 1 s\n{counts}\n", encoding="utf-8")
    assert metrics.variants() == counts
    found = tmp_path / "build" / "coverage" / "src.json"
    found.parent.mkdir()
    found.write_text('{"totals": {"covered_lines": 1900, "num_statements": 2000}}', encoding="utf-8")
    assert metrics.coverage("src.json", metrics.of_python)() == "95.0 % of 2,000 lines"
    (found.parent / "asked.txt").write_text("-m 'not slow'", encoding="utf-8")
    assert metrics.coverage("src.json", metrics.of_python)() == (
        "95.0 % of 2,000 lines, by a part of the tests: `-m 'not slow'`"
    )


def test_what_coverage_leaves_out_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that has another name now would run, and fail, below the counter of lines."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    for test in load(ROOT / "scripts" / "coverage.py").DISTURBED:
        file, *names = test.split("::")
        text = (ROOT / file).read_text(encoding="utf-8")
        assert all(f"class {name}" in text or f"def {name}(" in text for name in names), test
