"""REP: what a report adds up, and its formats, of recordings whose content is known."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from nativemem.errors import ConfigError
from nativemem.observe.recording import Owner, read
from nativemem.observe.report import FORMATS, Report, render
from nativemem.observe.report.loading import of_snapshot
from nativemem.observe.report.model import error_of
from nativemem.observe.report.tables import tables
from nativemem.observe.snapshot import EngineState, snapshot

from .recordings import HOSTILE, MIB, example, hostile, path, sampled, write

CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]")


def test_the_file_made_by_hand_is_what_it_says(tmp_path: Path) -> None:
    """Or the tests that read one would prove nothing."""
    for recording in (example(), example(lasted=None, rate=1000), hostile()):
        assert read(write(tmp_path / "x.nm", recording)) == recording


def test_what_is_added_up() -> None:
    """REP-2"""
    report = Report(example())
    assert [(row.name, row.used, row.peak, row.limit, row.denials, row.count) for row in report.owners] == [
        ("process", 60 * MIB, 100 * MIB, None, 0, 1),
        ("cache", 21 * MIB, 31 * MIB, 32 * MIB, 2, 1),
        ("request", 2 * MIB, 6 * MIB, None, 0, 2),
    ]
    assert {row.name: row.amount.peak for row in report.owners} == {
        "process": 44 * MIB + 4096,
        "cache": 24 * MIB,
        "request": MIB,
    }
    assert {source: amount.total for source, amount in report.sources} == {
        "objects": 95 * MIB,
        "arrays": 40 * MIB,
        "raw": 4096,
    }
    for whole in (report.owners, report.sites()):
        assert sum((row.amount.total for row in whole), 0) == report.amount.total == 135 * MIB + 4096
    first, *_, last = report.sites("live")
    assert first.place == ("/usr/lib/python3.11/json/decoder.py", 353, "JSONDecoder.raw_decode")
    assert (first.owner, first.amount.live) == ("cache", 20 * MIB)
    assert [place.function for place in first.path] == ["JSONDecoder.raw_decode", "load", "main"]
    assert last.amount.live == 4096, "what has nothing live is left out"
    assert [row.amount.peak for row in report.sites("peak", 2)] == [40 * MIB, 24 * MIB]
    (refusal,) = report.refusals
    assert (refusal.count, refusal.largest, refusal.last, refusal.used) == (2, 3 * MIB, 6.5, 30 * MIB)
    with pytest.raises(ConfigError, match="measures are live, peak, total"):
        report.sites("most")


def test_paths_of_equal_places_are_one() -> None:
    """REP-2: the recording has a path for each instruction of a line."""
    sites = [sampled(path(("a.py", 1, "f"), ("a.py", 2, "g")), "process", 10, 10, 10, 1) for _ in range(3)]
    report = Report(example(sites=tuple(sites)))
    (row,) = report.sites()
    assert row.amount.live == 30 and row.paths == 1 and len(report.tree.parents) == 3


def test_a_timeline_adds_up_those_of_one_name() -> None:
    """REP-2"""
    lines = Report(example()).timelines
    assert list(lines) == ["process", "cache", "request"]
    sums = [(2.0, 5 * MIB), (3.0, 11 * MIB), (3.5, 6 * MIB), (9.0, 2 * MIB)]
    assert lines["request"] == [(seconds, used, None) for seconds, used in sums]
    assert lines["cache"] == [(1.0, 5 * MIB, 32 * MIB), (6.0, 31 * MIB, 32 * MIB)]


def test_sizes() -> None:
    """REP-2"""
    exact = Report(example()).histogram
    assert (
        exact.exact and exact.total == {50: 512, 90: 512, 99: 1024} and exact.live == {50: 512, 90: 512, 99: 1024}
    )
    guessed = Report(example(sizes=())).histogram
    assert not guessed.exact and guessed.total == exact.total
    assert sum(row.total for row in guessed.rows) == 135 * MIB + 4096
    assert Report(example(sizes=(), sites=())).histogram.total is None


def test_one_owner_alone() -> None:
    """REP-2"""
    report = Report(example(), owner="cache")
    assert report.amount.live == report.recording.live == 20 * MIB and report.recording.peak == 24 * MIB
    assert [row.name for row in report.owners] == ["cache"] and list(report.timelines) == ["cache"]
    assert not report.histogram.exact and len(report.refusals) == 1
    with pytest.raises(ConfigError, match="no owner 'other' in the recording; it has process, cache, request"):
        Report(example(), owner="other")


def test_how_long_it_took() -> None:
    assert Report(example()).seconds == 10.0
    assert Report(example(lasted=None)).seconds == 10.0
    assert Report(example(lasted=None, moments=(), refused=())).seconds == 5.0


def test_what_chance_makes_of_an_estimate() -> None:
    """REP-6"""
    assert error_of(100 * MIB, 1) == 0
    assert 0.99 < error_of(100 * MIB, MIB) / (10 * MIB) < 1.01  # 100 samples: a tenth


def test_text() -> None:
    """REP-1"""
    text = str(render(example(), where="run.nm"))
    assert "peak 69.0 MiB after 5.000 s, 23.0 MiB live at the end, 135.0 MiB in total" in text
    assert re.search(r"cache +21\.0 MiB +31\.0 MiB +32\.0 MiB +2 +24\.0 MiB +20\.0 MiB +80\.0 MiB\n", text)
    assert re.search(
        r"40\.0 MiB +58\.0 +10 +0 B +40\.0 MiB +process +load\.py:12 in load +main\.py:40 in main\n", text
    )
    assert "json/decoder.py:353 in JSONDecoder.raw_decode  load.py:12 in load < main.py:40 in main" in text
    assert text.index("Owners") < text.index("Largest sites at the peak") < text.index("Live at the end")
    assert "in total" in text and "p99" in text and "python main.py" in text and "run.nm" in text
    assert "it has no end" not in text and "it has no end" in str(render(example(lasted=None)))
    assert "3 items found no room" in str(render(example(dropped=3)))
    assert "a sample in 64.0 KiB, 250,000 samples: sites are estimates" in str(render(example(rate=65536)))
    few = str(render(example(), top=1))
    assert "and 4 more" in few and "and 3 more" in few and "and 2 more" in few


def test_json() -> None:
    """REP-1"""
    found = json.loads(render(example(), "json", where="run.nm"))
    assert found["recording"] == "run.nm" and found["about"]["command"] == "python main.py"
    assert found["amount"]["peak"] == 69 * MIB + 4096
    assert found["sites"][0]["file"] == "/srv/app/load.py" and found["sites"][0]["amount"]["peak_blocks"] == 10
    assert sum(site["amount"]["total"] for site in found["sites"]) == found["amount"]["total"]
    assert found["timelines"]["cache"] == [[1.0, 5 * MIB, 32 * MIB], [6.0, 31 * MIB, 32 * MIB]]
    assert found["sizes"]["total"] == {"p50": 512, "p90": 512, "p99": 1024}
    assert found["refusals"][0]["count"] == 2 and found["owners"][2]["count"] == 2
    assert len(json.loads(render(example(), "json", top=2))["sites"]) == 2


def test_csv() -> None:
    """REP-1"""
    rows = list(csv.DictReader(io.StringIO(str(render(example(), "csv")))))
    assert len(rows) == 5 and sum(int(row["total_bytes"]) for row in rows) == 135 * MIB + 4096
    assert rows[0]["file"] == "/srv/app/load.py" and rows[0]["line"] == "12" and rows[0]["sources"] == "arrays"
    assert rows[1]["called_from"] == "/srv/app/load.py:12 load < /srv/app/main.py:40 main"


def test_markdown() -> None:
    """REP-1: each table has its head, and each row as many cells."""
    text = str(render(example(), "markdown"))
    heads = 0
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        lines = [line.split("|") for line in block.splitlines()]
        assert len({len(line) for line in lines}) == 1 and all(set(cell) <= set(" -:") for cell in lines[1])
        heads += 1
    assert heads == len(tables(Report(example()))) == 7


def test_prometheus() -> None:
    """REP-1: read by the client's own parser."""
    parser = pytest.importorskip("prometheus_client.parser", reason="prometheus-client is not installed")
    for recording in (example(), hostile()):
        families = {f.name: f for f in parser.text_string_to_metric_families(str(render(recording, "prometheus")))}
        used = {s.labels["owner"]: s.value for s in families["nativemem_owner_used_bytes"].samples}
        assert len(used) == len({owner.name for owner in recording.owners})
        assert "process" not in {s.labels["owner"] for s in families["nativemem_owner_limit_bytes"].samples}
        sites = families["nativemem_site_bytes"].samples
        assert sorted(s.value for s in sites) == sorted(row.amount.peak for row in Report(recording).sites())
    assert used["process"] == MIB


@pytest.mark.parametrize("form", FORMATS)
def test_hostile_names(form: str) -> None:
    """REP-5: no name is markup, an order to a terminal, or the end of a field."""
    made = render(hostile(), form)
    if isinstance(made, bytes):
        return
    assert not CONTROL.search(made.replace("\r\n", "\n"))
    if form == "csv":
        rows = list(csv.DictReader(io.StringIO(made)))
        assert len(rows) == len(HOSTILE) and "'=HYPERLINK(3)" in {row["owner"] for row in rows}
    if form == "json":
        assert {owner["owner"] for owner in json.loads(made)["owners"]} == {"process", *HOSTILE}
    if form == "markdown":
        assert "<" not in made and "@all" not in made
        assert all(line.count("|") >= 3 for line in made.splitlines() if line.startswith("|"))


def test_other_formats_and_measures() -> None:
    with pytest.raises(ConfigError, match="formats are text, html, json, csv"):
        render(example(), "pdf")
    with pytest.raises(ConfigError, match="measures are live, peak, total"):
        render(example(), "csv", by="most")


@pytest.mark.parametrize("form", FORMATS)
def test_an_empty_recording(form: str) -> None:
    """REP-3: of a process that was killed before anything was noted."""
    empty = example(sites=(), moments=(), refused=(), sizes=(), about={}, owners=(), live=0, peak=0, lasted=None)
    for recording in (empty, replace(empty, owners=example().owners)):
        assert render(recording, form) or form == "collapsed"


@pytest.mark.parametrize("with_rich", [True, False])
@pytest.mark.parametrize("width", [80, 120, 300])
def test_in_a_terminal(with_rich: bool, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """REP-1, CLI-4: no figure is broken, and what finds no room is named; with rich and without."""
    from nativemem.observe.report.text import show

    if with_rich:
        pytest.importorskip("rich", reason="rich is not installed")
    else:
        monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setenv("COLUMNS", str(width))
    for recording in (example(), hostile()):
        out = io.StringIO()
        show(Report(recording), out)
        assert not CONTROL.search(out.getvalue()) and "Largest sites at the peak" in out.getvalue()
        assert recording.owners[1].name[:5] in out.getvalue()
    show(Report(example()), out := io.StringIO())
    text, figure = out.getvalue(), re.compile(r"\d+\.\d [KM]iB")
    assert ("called from" in text.partition("Left out")[0]) == (width == 300)
    assert (f"Left out, as the terminal has {width} columns: " in text) == (width < 300)
    figures = figure.findall(str(render(example())))
    assert set(figure.findall(text)) <= set(figures) and len(figure.findall(text)) > 15
    assert not re.search(r"^ *[KM]iB", text, re.M), "a unit stands below its number"


@pytest.mark.parametrize("rate", [None, 1, 4096])
def test_a_snapshot_as_a_recording(rate: int | None) -> None:
    """REP-6: what a snapshot has is there, and nothing over time."""
    sites = example().sites
    taken = replace(snapshot(), when=5.0, sites=sites, rate=rate, engine=None)
    process = replace(taken.process, pid=7, resident=1000, resident_peak=None)
    made = of_snapshot(replace(taken, process=process))
    assert (made.pid, made.began, made.lasted, made.rate) == (7, 5.0, 0.0, rate or 1)
    assert (made.samples, made.dropped, made.peak_at, made.moments, made.refused) == (0, 0, 0.0, (), ())
    assert (made.live, made.peak) == (sum(s.live for s in sites), sum(s.peak for s in sites))
    assert made.sites == sites and len(made.owners) == 1 + len(taken.owners)
    assert made.owners[0] == Owner("process", None, 1000, 0, 0)
    assert made.about["kind"] == "a snapshot without the engine: the process has its resident memory"
    engine = EngineState(True, True, False, 10, 20, 30, 40, 50, 60, None)
    made = of_snapshot(replace(taken, engine=engine))
    assert made.owners[0] == Owner("process", 30, 10, 20, 50) and made.about["kind"] == "a snapshot"
