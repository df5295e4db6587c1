"""What a release says of itself: one version, quoted figures that were measured, pages that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import nativemem

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
NOTES = sorted((DOCS / "releases").glob("*.md"))
MEASURED = re.compile(r"\[measured/([\w.]+)\]\([^)]*\)[^`]*?```text\n(.*?)```", re.DOTALL)


def test_the_version_stands_in_one_place_and_is_cited() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (\S+)$", citation, re.MULTILINE) == [nativemem.__version__]
    assert citation.startswith("cff-version: 1.2.0\n")
    for key in ("message", "type", "title", "authors", "license"):
        assert re.search(rf"^{key}:", citation, re.MULTILINE), key


@pytest.mark.parametrize("page", [DOCS / "case_studies.md", *NOTES], ids=lambda path: path.stem)
def test_quoted_figures_were_measured(page: Path) -> None:
    """Each line of a quoted block stands in the file that the page names before it."""
    text = page.read_text(encoding="utf-8")
    blocks = MEASURED.findall(text)
    assert len(blocks) == text.count("```text") > 0
    for name, block in blocks:
        known = (DOCS / "measured" / name).read_text(encoding="utf-8").splitlines()
        assert [line for line in block.splitlines() if line and line not in known] == [], name


def test_the_first_version_is_one_and_the_same() -> None:
    """The notes of the tree's version are there, and the pages name the first that is published."""
    assert nativemem.__version__ in {notes.stem for notes in NOTES}
    first = NOTES[0].stem
    for page in ("CHANGELOG.md", "docs/how-to/rolling_back.md", "docs/how-to/migrating.md"):
        assert first in (ROOT / page).read_text(encoding="utf-8"), page


def test_the_notes_have_what_a_release_needs() -> None:
    assert NOTES
    for notes in NOTES:
        text = notes.read_text(encoding="utf-8")
        for part in ("bench.txt", "cpu ", "python ", "CHANGELOG", "rolling_back.md", "metrics.md", "ci.md"):
            assert part in text, (notes.name, part)


def test_changes_are_written_for_the_next_release() -> None:
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## \[Unreleased\]$", changes, re.MULTILINE)
    assert not re.search(r"^(<<<<<<<|=======|>>>>>>>)", changes, re.MULTILINE)
