"""RPT-3: each format whole, to the character, of recordings made by hand.

``python -m tests.observe.test_rendered`` writes the files of ``rendered/`` anew: what changes is for its author to
read.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from nativemem.observe.recording import Owner, Recording
from nativemem.observe.report import changes
from nativemem.observe.report.comparison import Comparison
from nativemem.observe.report.formats import FORMATS, render
from nativemem.observe.report.model import Report

from .recordings import MIB, example

HERE = Path(__file__).parent / "rendered"
#: the page's own programs and their digests: the page's tests have those
PROGRAMS = re.compile(r"<(style|script)>.*?</\1>|&#x27;sha256-[^&]*", re.DOTALL)


def sampled() -> Recording:
    """Of one sample in 64 KiB, some lost, of a process that was killed, with less about it."""
    made = example()
    return replace(
        made, rate=65536, samples=900, dropped=7, sizes=(), about={"command": "python main.py"},
        refused=made.refused[:1], sites=made.sites[:4],
    )  # fmt: skip


def later() -> Recording:
    """The example, later: an owner and two lines have grown, one is new, one is gone, one has shrunk."""
    made = example()
    cached, decoded, loaded, main, other = made.sites
    grown = replace(cached, live=cached.live + 8 * MIB, live_blocks=cached.live_blocks + 16_384)
    sites = (
        grown, replace(decoded, live=MIB // 2, live_blocks=8192), replace(main, owner="new", live=3 * MIB),
        replace(loaded, live=2 * MIB, live_blocks=1),
    )  # fmt: skip
    owners = (
        replace(made.owners[0], used=70 * MIB), replace(made.owners[1], used=29 * MIB),
        Owner("new", None, 3 * MIB, 3 * MIB, 0),
    )  # fmt: skip
    return replace(made, sites=sites, owners=owners, live=sum(each.live for each in sites))


def text_of(made: str | bytes) -> str:
    if isinstance(made, bytes):
        made = re.sub(r"(.{64})", r"\1\n", gzip.decompress(made).hex())
    return PROGRAMS.sub(r"<\1>", made).replace("\r", "\\r")


def compared(form: str, measure: str, least: int, **options: bool | int) -> str:
    both = Comparison(Report(example(), where="a.nm"), Report(later(), where="b.nm"), measure=measure)
    return changes.FORMATS[form](both, at_least=least, **{"top": 20, "every": False, **options})


CASES: dict[str, Callable[[], str | bytes]] = {
    **{f"{form}.whole": lambda form=form: render(example(), form, where="run.nm") for form in FORMATS},
    **{
        f"{form}.sampled": lambda form=form: render(sampled(), form, top=2, by="total", where="run.nm")
        for form in FORMATS
    },
    **{
        f"{form}.cache": lambda form=form: render(example(), form, owner="cache", by="live")
        for form in ("text", "json", "html")
    },
    **{f"diff-{form}": lambda form=form: compared(form, "live", MIB) for form in changes.FORMATS},
    **{
        f"diff-{form}.all": lambda form=form: compared(form, "total", 1, every=True, top=2)
        for form in changes.FORMATS
    },
}  # type: ignore[misc]


def is_as_written(name: str) -> None:
    with open(HERE / f"{name}.txt", encoding="utf-8", newline="") as file:
        assert text_of(CASES[name]()) == file.read()


@pytest.mark.parametrize("form", FORMATS)
def test_a_report_whole(form: str) -> None:
    is_as_written(f"{form}.whole")


@pytest.mark.parametrize("form", FORMATS)
def test_a_report_of_samples(form: str) -> None:
    is_as_written(f"{form}.sampled")


@pytest.mark.parametrize("form", ("text", "json", "html"))
def test_a_report_of_one_owner(form: str) -> None:
    is_as_written(f"{form}.cache")


@pytest.mark.parametrize("every", ("", ".all"), ids=("grown", "changed"))
@pytest.mark.parametrize("form", changes.FORMATS)
def test_a_comparison_whole(form: str, every: str) -> None:
    is_as_written(f"diff-{form}{every}")


def test_each_file_is_asked_for() -> None:
    assert {path.name for path in HERE.iterdir()} == {f"{name}.txt" for name in CASES}


if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    for each, make in CASES.items():
        with open(HERE / f"{each}.txt", "w", encoding="utf-8", newline="") as written:
            written.write(text_of(make()))
