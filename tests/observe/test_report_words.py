"""REP: the tables, words and pages of a report, piece by piece."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from nativemem.errors import ConfigError
from nativemem.observe.recording import Moment, Refused, Sized
from nativemem.observe.report import Report, html, markdown, render, text
from nativemem.observe.report.as_csv import cell
from nativemem.observe.report.formats import FORMATS, format_of
from nativemem.observe.report.tables import Column, Table, called_from, headline, leaks, leaks_headline, tables
from nativemem.observe.report.tree import Amount, Place, tree_of
from nativemem.observe.report.wording import at_time, named, number, short, when

from .recordings import at, example, recorded, reported, site

ONE = (Moment(1.0, "a", 5, None, 1), Moment(2.0, "a", 6, None, 1))


# --- tables


def test_what_a_recording_is_of() -> None:
    base = recorded(site(at(1), 1, 2, 3), live=10, peak=2048, peak_at=0.25)
    assert headline(Report(base)) == [
        "each block was noted",
        "peak 2.0 KiB after 0.250 s, 10 B live at the end, 3 B in total",
    ]
    sampled = replace(base, rate=2, samples=1234, lasted=None, dropped=1, about={"command": "run"})
    assert headline(Report(sampled)) == [
        *("run", "a sample in 2 B, 1,234 samples: sites are estimates"),
        *("it has no end: the process was killed, or goes on", "1 items found no room, and are not in it"),
        "peak 2.0 KiB after 0.250 s, 10 B live at the end, 3 B in total",
    ]
    assert headline(Report(base, owner="process")) == [
        *("each block was noted", "of the owner process alone", "peak 2 B, 1 B live at the end, 3 B in total"),
    ]
    taken = replace(base, about={"kind": "a snapshot"}, sites=())
    whole = "a snapshot, of process 7, 1970-01-01 00:00:00 UTC"
    assert headline(Report(taken)) == [f"{whole}; no profile was running, so there are no sites"]
    assert headline(Report(replace(taken, sites=base.sites))) == [whole]


def test_callers() -> None:
    places = tuple(Place("/x/a.py", n, f"f{n}") for n in range(6))
    assert called_from(places[:1], "") == "" and called_from(places[:2], "/x") == "a.py:1 in f1"
    assert called_from(places[:4], "/x") == "a.py:1 in f1 < a.py:2 in f2 < a.py:3 in f3"
    assert called_from(places[:5], "/x") == "a.py:1 in f1 < a.py:2 in f2 < a.py:3 in f3 < ..."
    assert (
        called_from(places, "/x", 1) == "a.py:1 in f1 < ..." and called_from(places[:2], "/x", 1) == "a.py:1 in f1"
    )


def test_leaks() -> None:
    base = recorded(site(at(1), 10, 1, 40), site(at(2), 30, 1, 50))
    report = Report(base, where="x.nm")
    assert leaks_headline(report, 20) == "x.nm: 40 B live at the end; 1 line has 20 B or more"
    assert leaks_headline(report, 1) == "x.nm: 40 B live at the end; 2 lines have 1 B or more"
    assert leaks_headline(report, 99) == "x.nm: 40 B live at the end; 0 lines have 99 B or more"
    going_on = Report(replace(base, lasted=None))
    assert (
        leaks_headline(going_on, 99)
        == "the recording: 40 B live when it was last written; 0 lines have 99 B or more"
    )
    shown = leaks(report, 1)
    assert shown.rows == (("30 B", "75.0", "1", "50 B", "process", "/x/a.py:2 in f", ""),) and shown.more == 1
    assert leaks(report, 9, 30).rows == shown.rows and leaks(report, 9, 31).rows == ()
    assert leaks(reported(site(at(1), total=5)), 9).rows == ()


def test_tables_of_a_report() -> None:
    found = {each.name: each for each in tables(Report(example(), where="x"), top=2)}
    assert list(found) == ["owners", "sources", "sites", "leaks", "refusals", "sizes", "environment"]
    assert [each.more for each in found.values()] == [1, 0, 3, 2, 0, 0, 0]
    assert found["sites"].note == "" and found["environment"].rows[0] == ("recording", "x")
    assert found["sizes"].note == "" and found["sizes"].rows[1][0] == "live at the end"
    estimated = {each.name: each for each in tables(Report(replace(example(), rate=2, sizes=())), top=9)}
    assert estimated["sites"].note == "The first is known to about ±17.9 KiB (two standard deviations)."
    assert estimated["sizes"].note == "Each site's blocks count as of their mean size."
    assert estimated["environment"].rows[0] == ("command", "python main.py")
    ending = {row[0]: row[1] for row in {t.name: t for t in tables(reported(lasted=None))}["environment"].rows}
    assert (ending["lasted"], ending["process"], ending["without room"]) == ("it has no end", "7", "0")
    nothing = tables(reported(rate=2))
    assert [each.name for each in nothing] == ["environment"]
    gone = {each.name: each for each in tables(reported(site(at(1), total=5)), by="total")}
    assert [row[0] for row in gone["sizes"].rows] == ["in total", "live at the end"]
    assert gone["sites"].rows[0][:2] == ("5 B", "100.0")
    (peakless,) = (t for t in tables(reported(site(at(1), 1)), by="live") if t.name == "sites")
    assert [column.name for column in peakless.columns[:5]] == [
        *("live at the end", "%", "blocks", "at the peak", "in total"),
    ]


# --- as text


PEOPLE = Table(
    "people", "People", (Column("name"), Column("called from"), Column("before", True), Column("after", True)),
    (("ann", "x" * 90, "1", "22"), ("bo", "y", "333", "4")),
)  # fmt: skip


def test_a_table_as_text() -> None:
    assert text.plain(PEOPLE, [0, 2, 3]).splitlines() == [
        "People", "  name  before  after", "  ann        1     22", "  bo       333      4"
    ]  # fmt: skip
    assert text.plain(replace(PEOPLE, more=1234, note="Note."), [0]).splitlines() == [
        *("People", "  name", "  ann", "  bo", "  and 1,234 more", "  Note."),
    ]
    assert text.plain(PEOPLE).splitlines()[1] == f"  name  {'called from':90}  before  after"
    assert text.plain(replace(PEOPLE, rows=()), [2]).splitlines() == ["People", "  before"]


def test_columns_that_find_room() -> None:
    """What can be spared goes first; the first column, and what cannot, stay; texts may be broken."""
    # name 4, called from 60 of 90, before 6, after 5; three between two columns
    whole = 4 + 60 + 6 + 5 + 4 * 3
    assert text.fitting(PEOPLE, whole) == [0, 1, 2, 3] and text.fitting(PEOPLE, whole - 1) == [0, 2, 3]
    less = 4 + 6 + 5 + 3 * 3
    assert text.fitting(PEOPLE, less) == [0, 2, 3] and text.fitting(PEOPLE, less - 1) == [0, 3]
    assert text.fitting(PEOPLE, 4 + 5 + 2 * 3 - 1) == [0] == text.fitting(PEOPLE, 1)
    first = replace(PEOPLE, columns=(Column("called from"), *PEOPLE.columns[1:]))
    assert text.fitting(first, 1) == [0], "the first stays, whatever it is"
    for name, most in (("line", 34), ("is", 20), ("owner", 16), ("other", 99)):
        one = Table("t", "T", (Column(name), Column("before", True)), (("x" * 99, "1"),))
        assert text.fitting(one, most + 6 + 6) == [0, 1] and text.fitting(one, most + 6 + 5) == [0]
    head = Table("t", "T", (Column("x"), Column("used before", True)), (("1", "2"),))
    assert text.fitting(head, 1 + 11 + 6) == [0, 1] and text.fitting(head, 1 + 11 + 5) == [0]


def test_what_was_left_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setenv("COLUMNS", "30")
    text.show_tables("Head", [PEOPLE, PEOPLE], out := io.StringIO())
    assert out.getvalue() == (
        "Head\n\nPeople\n  name  before  after\n  ann        1     22\n  bo       333      4\n\n"
        "People\n  name  before  after\n  ann        1     22\n  bo       333      4\n\n"
        "Left out, as the terminal has 30 columns: called from.\n"
    )
    monkeypatch.setenv("COLUMNS", "300")
    text.show_tables("Head", [PEOPLE], out := io.StringIO())
    assert out.getvalue() == f"Head\n\n{text.plain(PEOPLE)}\n"


def test_in_a_terminal_with_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich", reason="rich is not installed")
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "dumb")
    shown = replace(PEOPLE, more=1000, note="Note")
    text.show_tables("[Head]", [shown, replace(PEOPLE, title="Others")], out := io.StringIO())
    lines = [each.rstrip() for each in out.getvalue().splitlines()]
    assert lines[0] == "[Head]" and lines[1] == "" and "People" in lines and "Others" in lines
    assert [each.split() for each in lines if each.startswith(" ann") or each.startswith("ann")] == [
        ["ann", "1", "22"]
    ] * 2
    assert lines.count("and 1,000 more. Note") == 1
    rows = [each for each in lines if "before" in each and "name" in each]
    assert rows[0].index("before") > rows[0].index("name") and rows[0].endswith("after")
    assert " ".join(out.getvalue().split()).endswith(" Left out, as the terminal has 40 columns: called from.")


# --- words


def test_files_and_places() -> None:
    for file, folder, said in (
        ("/srv/app/main.py", "", "/srv/app/main.py"), ("/srv/app/main.py", "/srv", "app/main.py"),
        ("/srv/app/main.py", "/srv/", "app/main.py"), ("/srv/app/main.py", "/", "/srv/app/main.py"),
        ("/srv/app/main.py", "/srv/ap", "/srv/app/main.py"), ("/srv/app", "/srv/app", "/srv/app"),
        ("/v/lib/python3.11/json/x.py", "", "json/x.py"), ("/v/lib64/python3.13t/json/x.py", "", "json/x.py"),
        ("/srv/env/lib/python3.11/site-packages/p/x.py", "/srv", "p/x.py"),
        ("/usr/lib/python3/dist-packages/p.py", "/x", "p.py"), ("a\nb.py", "", "a\\x0ab.py"),
    ):  # fmt: skip
        assert short(file, folder) == said
    assert named(Place("/srv/a.py", 3, "f\x07"), "/srv") == "a.py:3 in f\\x07"
    assert named(Place("", 3, "(other\n)")) == "(other\\x0a)"


def test_numbers_and_times() -> None:
    assert (number(999), number(1000), number(-1234567)) == ("999", "1,000", "-1,234,567")
    for seconds, said in (
        (0, "0.000 s"),
        (9.9994, "9.999 s"),
        (10, "10.0 s"),
        (599.94, "599.9 s"),
        (600, "0:10:00"),
        (3599.9, "0:59:59"),
        (3600, "1:00:00"),
        (7265.5, "2:01:05"),
        (360_000, "100:00:00"),
    ):
        assert at_time(seconds) == said
    assert when(86_399.9) == "1970-01-01 23:59:59 UTC"
    for damaged in (1e30, -1e30, float("nan"), float("inf")):
        assert when(damaged) == "an unknown time"


def test_formats_by_their_files() -> None:
    for name, each in FORMATS.items():
        for ending in each.endings:
            assert format_of(f"a{ending}") == format_of(f"A{ending.upper()}") == name
    assert format_of("json") is None and format_of(".json") == "json" and format_of("a.json.bak") is None


def test_at_most_so_many_rows() -> None:
    recording = example()
    lines = str(render(recording, "csv", top=2)).splitlines()
    assert len(lines) == 3 and len(str(render(recording, "csv", top=0)).splitlines()) == 1
    assert len(str(render(recording, "csv")).splitlines()) == 6
    assert len(json.loads(str(render(recording, "json", top=1)))["sites"]) == 1
    assert str(render(recording, "prometheus", top=1)).count("nativemem_site_bytes{") == 1
    many = recorded(*(site(at(n), n, n, n) for n in range(1, 31)))
    assert str(render(many, "prometheus")).count("nativemem_site_bytes{") == 20
    for form in ("text", "markdown"):
        assert len(re.findall(r"/x/a\S*py:\d+ in f", str(render(many, form)))) == 2 * 20, "sites, and leaks"
        assert "and 10 more" in str(render(many, form)) and "and 29 more" in str(render(many, form, top=1))


def test_cells_of_a_spreadsheet() -> None:
    for given, made in (
        ("", ""),
        ("=1", "'=1"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@a", "'@a"),
        ("a=1", "a=1"),
        ("1", "1"),
        ("\t=1", "\\x09=1"),
    ):
        assert cell(given) == made
    rows = list(
        csv.reader(io.StringIO(str(render(recorded(site(at(7, "-f", "=a.py"), 1, 2, 3, blocks=(4, 5, 6))), "csv"))))
    )
    assert rows[0] == [
        *("owner", "sources", "file", "line", "function", "live_bytes", "live_blocks", "peak_bytes", "peak_blocks"),
        *("total_bytes", "total_blocks", "called_from"),
    ]
    assert rows[1:] == [["process", "objects", "'=a.py", "7", "'-f", "1", "4", "2", "5", "3", "6", ""]]


def test_a_table_as_markdown() -> None:
    assert markdown.table(Table("t", "A|b", (Column("x"), Column("n", True)), (("*", "1"),))).splitlines() == [
        *("### A&#124;b", "", "| x | n |", "| --- | ---: |", "| \\* | 1 |"),
    ]
    noted = markdown.table(Table("t", "T", (Column("x"),), (), "Note.", 1000)).splitlines()
    assert noted == ["### T", "", "| x |", "| --- |", "", "and 1,000 more. Note."]
    for given, made in (
        ("-():+", "-():+"),
        ("`_{}[]~!$\\", "\\`\\_\\{\\}\\[\\]\\~\\!\\$\\\\"),
        ("&#", "&amp;&#35;"),
    ):
        assert markdown.escaped(given) == made


# --- the page


def test_a_page_without_programs_or_data() -> None:
    page = html.document("<t>", "BODY")
    assert (
        "<title>&lt;t&gt;</title>" in page and "script-src &#x27;none&#x27;;" in page and page.endswith("</html>\n")
    )
    assert '<script id="data"' not in page and "<script>" not in page
    page = html.document("t", "BODY", ["go()"], {"a": "</script>"})
    assert '<script id="data" type="application/json">{"a":"\\u003c/script\\u003e"}</script>' in page
    assert "<script>go()</script>" in page and "&#x27;none&#x27;; base-uri" not in page
    assert '{"a":0}' in html.document("t", "BODY", (), {"a": 0}) and ">0</script>" in html.document("t", "b", (), 0)


def test_a_table_of_a_page() -> None:
    """The line stands first, and a row says whose it is where that is asked for."""
    shown = Table(
        "t",
        "T",
        (Column("n", True), Column("owner"), Column("line"), Column("called from"), Column("x")),
        (("1", "a<", "l", "c", "y"),),
        "Note.",
        1000,
    )
    made = html.table(shown, owners=True)
    assert (
        '<thead><tr><th scope="col" class="text">line</th><th scope="col" class="number">n</th>'
        '<th scope="col" class="key">owner</th><th scope="col" class="from">called from</th>'
        '<th scope="col" class="text">x</th></tr></thead>'
    ) in made
    assert (
        '<tr data-owner="a&lt;"><th scope="row" class="text">l</th><td class="number">1</td>'
        '<td class="key">a&lt;</td><td class="from">c</td><td class="text">y</td></tr>'
    ) in made
    assert made.endswith('<p class="quiet">and 1,000 more. Note.</p>')
    plain = html.table(replace(shown, note="", more=0))
    assert "data-owner" not in plain and plain.endswith("</div>")
    keys = Table("t", "T", tuple(Column(name) for name in ("source", "what", "sizes of blocks", "other")), ())
    assert html.table(keys).count('class="key"') == 3


def test_a_row_has_as_many_cells_as_there_are_columns() -> None:
    for row in (("1",), ("1", "2", "3")):
        with pytest.raises(ValueError, match="zip"):
            html.table(Table("t", "T", (Column("a"), Column("b")), (row,)))


def test_small_paths_of_a_page_are_one() -> None:
    """4000 are kept, the largest by any measure; the rest is added up by owner."""
    sites = [site(at(n), 10, 10, 10, owner=("a", "b")[n % 2]) for n in range(4003)]
    sites += [site(at(5000), 1000), site(at(5001), 0, 1000), site(at(5002), 0, 0, 1000)]
    tree = tree_of(sites)
    found = html._tree(tree, {"process": 0, "a": 1, "b": 2})
    assert len(found["leaves"]) == 4000 + 2 and len(found["parents"]) == len(found["frames"]) == 1 + 4000 + 1
    assert [found["places"][frame][1] for frame in found["frames"][1:4]] == [5000, 5001, 5002]
    assert found["places"][-1] == ["", 0, "(6 smaller paths)"]
    sums: dict[int, int] = {}
    for _, owner, *numbers in found["leaves"]:
        sums[owner] = sums.get(owner, 0) + numbers[0]
    assert sums == {0: 1000, 1: 20020, 2: 20010}
    node = found["leaves"][-1][0]
    assert found["parents"][node] == 0 and found["leaves"][-2][0] == node
    few = html._tree(tree_of(sites[:4000]), {"a": 1, "b": 2})
    assert len(few["leaves"]) == 4000 and len(few["parents"]) == 4001
    assert html._leaf(3, 4, Amount(1, 2, 3, 4, 5, 6)) == [3, 4, 1, 2, 3, 4, 5, 6]


def test_parts_of_a_page() -> None:
    assert html._folder(reported()) == "" and html._folder(reported(about={"folder": "/"})) == ""
    assert (
        html._folder(reported(about={"folder": "/a/b"}))
        == html._folder(reported(about={"folder": "/a/b/"}))
        == "/a/b/"
    )
    controls = html._controls(["process", "<a>"], "live")
    assert (
        '<option value="-1">all</option><option value="0">process</option><option value="1">&lt;a&gt;' in controls
    )
    assert controls.count(" checked") == 1 and 'value="live" checked>' in controls
    assert [controls.index(f'value="{each}"') for each in ("peak", "live", "total")] == sorted(
        controls.index(f'value="{each}"') for each in ("peak", "live", "total")
    )
    one = reported(moments=ONE[:1])
    assert html._timeline_section(one) == "" and html._timeline_section(reported()) == ""
    two = reported(moments=ONE)
    assert "Used over time" in html._timeline_section(two) and "Red marks" not in html._timeline_section(two)
    refused = reported(moments=two.recording.moments, refused=(Refused(1.0, "a", 1, 1, 1, at(1)),))
    assert "Dashed lines are limits. Red marks are refused requests. Drag" in html._timeline_section(refused)
    assert html._sizes_section(two.histogram, None) == "" and html._bars(two.histogram) == ""


def test_titles_of_a_page() -> None:
    for about, where, title in (
        ({"command": "/usr/bin/python main.py -v"}, "x.nm", "python main.py -v"),
        ({}, "/d/x.nm", "x.nm"),
        ({}, "", "process 7"),
        ({"command": "prog"}, "", "prog"),
    ):
        page = str(render(recorded(about=about), "html", where=where))
        assert f"<title>Memory of {title}</title>" in page and f"<h1>Memory of {title}</h1>" in page
    page = str(render(recorded(about={"command": "c"}), "html"))
    assert '<p class="quiet">each block was noted</p>' in page and '<p class="quiet">c</p>' not in page
    with pytest.raises(ConfigError, match="measures are"):
        render(recorded(), "html", by="most")
    many = recorded(*(site(at(n), n, n, n) for n in range(1, 121)))
    assert str(render(many, "html")).count("and 20 more.") == 2 and "and 119 more." in str(
        render(many, "html", top=1)
    )


def test_bars_of_sizes() -> None:
    """As tall as they have blocks; ten labels at most; percentiles of one class together, where there is room."""
    rows = (*(Sized(16 * n, 0, 0, 160 * n, n) for n in range(1, 12)), Sized(999, 5, 5, 0, 0))
    made = html._bars(SimpleNamespace(rows=rows, total={50: 16, 90: 96, 99: 176}))  # type: ignore[arg-type]
    step = 1000 / 11
    tall = [float(each) for each in re.findall(r'width="[\d.]+" height="([\d.]+)"', made)]
    assert tall == [round(140 * n / 11, 1) for n in range(1, 12)]
    assert [float(x) for x in re.findall(r'<rect x="([\d.]+)"', made)] == [
        round(i * step + step * 0.08, 1) for i in range(11)
    ]
    assert re.findall(r'y="([\d.]+)" width="([\d.]+)"', made)[-1] == ("30.0", f"{step * 0.84:.1f}")
    assert re.findall(r'y="188" text-anchor="middle">(.*?)<', made) == [
        "16 B",
        "48 B",
        "80 B",
        "112 B",
        "144 B",
        "176 B",
    ]
    assert re.findall(r'text-anchor="(start|middle|end)">p(\d+)<', made) == [
        ("start", "50"),
        ("middle", "90"),
        ("end", "99"),
    ]
    assert 'aria-label="Blocks by size: p50 16 B, p90 96 B, p99 176 B"' in made and 'viewBox="0 0 1000 210"' in made
    assert 'y1="22" y2="170"/><text x="45.5" y="16"' in made
    assert "<title>up to 32 B: 2 blocks, 320 B</title>" in made
    same = html._bars(SimpleNamespace(rows=rows[:3], total={50: 32, 90: 32, 99: 48}))  # type: ignore[arg-type]
    assert ">p50, p90</text>" in same and ">p99</text>" in same
    assert "aria-label" in html._bars(SimpleNamespace(rows=rows, total=None))  # type: ignore[arg-type]
