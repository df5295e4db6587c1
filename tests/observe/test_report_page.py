"""REP-2, REP-5: the page of a report, as it is written. test_page_in_browser.py opens it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from nativemem.observe.recording import Moment, Owner, Recording
from nativemem.observe.report import Report, render
from nativemem.observe.report.timeline import OWNERS, POINTS, chart

from .recordings import HOSTILE, MAIN, MIB, example, hostile, path, sampled

#: elements that have no end
VOID = {"meta", "link", "input", "br"}


class Page(HTMLParser):
    """What there is in a page: elements with their attributes, and the text in scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, list[str]] = {"script": [], "style": [], "caption": [], "title": [], "option": []}
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == [], "each element has its end"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag in self.inside:
            self.inside[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in self.inside:
            self.inside[self.open[-1]][-1] += data
        if "script" not in self.open and "style" not in self.open:
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def data(self) -> Any:
        return json.loads(self.inside["script"][0])


@pytest.fixture(params=["example", "hostile"])
def recording(request: pytest.FixtureRequest) -> Recording:
    return example() if request.param == "example" else hostile()


def test_the_page_loads_nothing(recording: Recording) -> None:
    """REP-5: its policy allows no source but its own two scripts and its style."""
    text = str(render(recording, "html"))
    page = Page(text)
    (policy,) = (
        each["content"] for each in page.all("meta") if each.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None

    def is_hash(content: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"

    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["img-src"] == "data:" and rules["style-src"] == is_hash(page.inside["style"][0])
    _, plot, ours = page.inside["script"]
    assert rules["script-src"] == f"{is_hash(plot)} {is_hash(ours)}"
    for tag, attributes in page.elements:
        assert not {"src", "srcset", "style", "onclick", "onerror", "onload", "action"} & attributes.keys(), tag
        assert (attributes.get("href") or "#").startswith(("#", "data:")), tag
    assert "@import" not in page.inside["style"][0] and "url(" not in page.inside["style"][0]
    for call in ("fetch(", "XMLHttpRequest", "import(", "WebSocket", "sendBeacon", "EventSource", "innerHTML"):
        assert call not in ours
    assert {tag for tag, _ in page.elements} <= {
        *(
            "html",
            "head",
            "meta",
            "link",
            "title",
            "style",
            "body",
            "a",
            "header",
            "h1",
            "h2",
            "p",
            "dl",
            "div",
            "dt",
        ),
        *("dd", "main", "label", "select", "option", "fieldset", "legend", "input", "section", "button", "span"),
        *("table", "caption", "thead", "tbody", "tr", "th", "td", "svg", "rect", "text", "g", "line", "details"),
        *("summary", "footer", "script"),
    }


def test_it_is_small() -> None:
    """REP-5: below 1 MiB and its data, and the data is bounded."""
    assert len(str(render(example(), "html")).encode()) < 100_000
    many = [
        sampled(
            path(MAIN, *((f"/srv/{i % 97}.py", j, f"function_{i}_{j}") for j in range(20))), "process", i, i, i, 1
        )
        for i in range(1, 6000)
    ]
    large = Page(str(render(example(sites=tuple(many)), "html")))
    assert len(large.data["tree"]["leaves"]) == 4001 and len(large.inside["script"][0]) < 4 << 20
    leaves = large.data["tree"]["leaves"]
    assert sum(leaf[2] for leaf in leaves) == sum(range(1, 6000)), "the small ones are added up"
    assert len(large.all("tr")) < 400


def test_names_are_no_markup() -> None:
    """REP-5"""
    text = str(render(hostile(), "html", where=HOSTILE[0]))
    page = Page(text)
    assert len(page.inside["script"]) == 3 and not page.all("img")
    assert "</script" not in page.inside["script"][0] and "<" not in page.inside["script"][0]
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text)
    assert HOSTILE[0] in "".join(page.words) and HOSTILE[0] in page.data["owners"]
    assert all(name in page.inside["option"] for name in HOSTILE[:2])
    for attributes in page.all("tr"):
        assert attributes.get("data-owner") in (None, *page.data["owners"])


def test_a_screen_reader_finds_the_tables(recording: Recording) -> None:
    """REP-5"""
    page = Page(str(render(recording, "html")))
    assert page.all("html")[0]["lang"] == "en" and page.inside["title"][0].startswith("Memory of ")
    tables = len(page.all("table"))
    assert tables >= 7 and len(page.inside["caption"]) == tables and all(page.inside["caption"])
    scopes = [each.get("scope") for each in page.all("th")]
    assert set(scopes) == {"col", "row"} and scopes.count("row") >= tables
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    for _, attributes in page.elements:
        for name in ("aria-labelledby", "aria-describedby", "for"):
            assert attributes.get(name) is None or attributes[name] in ids
    regions = [each for each in page.all("div") if each.get("role") == "region"]
    assert all(each.get("tabindex") == "0" for each in regions), "what scrolls can be reached with the keyboard"
    assert "viewport" in [each.get("name") for each in page.all("meta")]
    assert "prefers-color-scheme: dark" in page.inside["style"][0]


def test_what_the_graph_is_made_of(recording: Recording) -> None:
    """REP-2: each path, by owner, with all measures."""
    data, report = Page(str(render(recording, "html", by="live"))).data, Report(recording)
    assert data["by"] == "live"
    tree = data["tree"]
    assert all(parent < node for node, parent in enumerate(tree["parents"]) if node)
    for i, measure in enumerate(("live", "peak", "total")):
        assert sum(leaf[2 + 2 * i] for leaf in tree["leaves"]) == report.amount.bytes(measure)
        assert sum(leaf[3 + 2 * i] for leaf in tree["leaves"]) == report.amount.blocks(measure)
    for number, owner in enumerate(data["owners"]):
        assert (
            sum(leaf[2] for leaf in tree["leaves"] if leaf[1] == number)
            == sum(
                row.amount.live
                for row in report.owners
                if row.name.partition("\n")[0] == owner.partition("\\x0a")[0]
            )
            or "\\" in owner
        )
    assert len(tree["frames"]) == len(tree["parents"]) == len(report.tree.parents)


def test_the_timeline() -> None:
    """REP-2: with limits and refused requests."""
    line = Page(str(render(example(), "html"))).data["timeline"]
    assert line["seconds"] == [0.0, 1.0, 2.0, 3.0, 3.5, 5.0, 6.0, 9.0, 10.0]
    process, cache, request = line["owners"]
    assert (process["name"], cache["name"], request["name"]) == ("process", "cache", "request")
    assert cache["used"] == [None, *[5 * MIB] * 5, *[31 * MIB] * 3] and cache["limit"][-1] == 32 * MIB
    assert request["used"][2:5] == [5 * MIB, 11 * MIB, 6 * MIB]
    assert [each[0] for each in line["refused"]] == [5.5, 6.5] and line["refused"][0][2] == 2 * MIB


def test_what_a_timeline_does_not_name() -> None:
    """REP-2: an owner that the page has no name for has the number -1; so many owners and refusals are shown."""
    refusal = example().refused[0]
    names = [f"o{i}" for i in range(OWNERS + 1)]
    moments = tuple(Moment(1.0, name, 100 - i, None, i) for i, name in enumerate(names))
    refused = (refusal, replace(refusal, owner="o3"), *[replace(refusal, seconds=7.0)] * 1999)
    made = chart(Report(example(moments=moments, refused=refused)), {"o3": 5, "o9": 0})
    numbers = [5 if name == "o3" else 0 if name == "o9" else -1 for name in names]
    found = [(each["name"], each["number"]) for each in made["owners"]]
    assert found == list(zip(names, numbers, strict=True))[:-1]
    assert [each[:2] for each in made["refused"]] == [[5.5, -1], [5.5, 5], *[[7.0, -1]] * 1998]


def test_a_long_timeline_keeps_its_peaks() -> None:
    """REP-2"""
    moments = [Moment(i / 100, "process", 1000 + i % 7, None, 0) for i in range(20_000)]
    moments[12_345] = Moment(123.45, "process", 10**9, None, 0)
    moments[12_346] = Moment(123.46, "process", 0, None, 0)
    report = Report(example(moments=tuple(moments), lasted=200.0))
    made = chart(report, {"process": 0})
    (owner,) = made["owners"]
    assert len(made["seconds"]) == len(owner["used"]) == POINTS + 1
    at = owner["used"].index(10**9)
    assert made["seconds"][at] <= 123.45 < made["seconds"][at + 1] and owner["used"].count(10**9) == 1
    assert made["seconds"][-1] == 200.0 and owner["used"][-1] == moments[-1].used


def test_sizes_with_their_percentiles() -> None:
    """REP-2"""
    page = Page(str(render(example(), "html")))
    (svg,) = page.all("svg")
    assert svg["aria-label"] == "Blocks by size: p50 512 B, p90 512 B, p99 1.0 KiB" and len(page.all("rect")) == 4
    assert "p50, p90" in page.words and "p99" in page.words


def test_a_recording_with_little_in_it() -> None:
    """REP-3: no timeline, no blocks, no owners."""
    one = example(
        sites=(), moments=(), refused=(), sizes=(), owners=(Owner("process", None, 0, 0, 0),), lasted=None
    )
    page = Page(str(render(one, "html")))
    assert page.data["timeline"]["seconds"] == [] and "timeline" not in [each.get("id") for each in page.all("div")]
