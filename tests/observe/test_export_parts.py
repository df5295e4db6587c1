"""PROF-2, REP: files that a report is made of, and those for other tools, piece by piece."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path as File
from typing import Any

import pytest

from nativemem.errors import ConfigError
from nativemem.observe.export import pprof
from nativemem.observe.recording import Moment, Owner, Refused
from nativemem.observe.report import render
from nativemem.observe.report.loading import load, of_snapshot
from nativemem.observe.snapshot import snapshot

from .recordings import at, example, recorded, site, write


def line(*points: tuple[float, int, int | None], owner: str = "a", number: int = 1) -> tuple[Moment, ...]:
    return tuple(Moment(seconds, owner, used, limit, number) for seconds, used, limit in points)


def test_what_a_file_is(tmp_path: File) -> None:
    """A recording, a saved snapshot by its first character, or neither."""
    taken = replace(snapshot(), sites=example().sites, rate=7)
    taken.save(tmp_path / "now.json")
    loaded = load(tmp_path / "now.json")
    assert (loaded.sites, loaded.rate, loaded.about["kind"][:10]) == (taken.sites, 7, "a snapshot")
    assert load(write(tmp_path / "x.nm", example())) == example()
    for data, says in (
        (b"", "is no recording"),
        (b"x", "is no recording"),
        (b"{", "is no JSON"),
        (b"{\xff", "is no JSON"),
        (b"{}", "is none"),
        (b'{"a": ' * 100_000, "is no JSON"),
    ):
        (tmp_path / "other").write_bytes(data)
        with pytest.raises(ConfigError, match=says):
            load(tmp_path / "other")


def test_owners_of_a_speedscope_file() -> None:
    """One owner has no profile of its own; of many the 20 that have most by the measure have."""
    one = json.loads(str(render(recorded(site(at(1), 1, 2, 3)), "speedscope")))
    assert [(each["name"], each["weights"]) for each in one["profiles"]] == [
        ("live at the end", [1]), ("at the peak", [2]), ("in total", [3])
    ]  # fmt: skip
    two = json.loads(str(render(recorded(site(at(1), 1, 2, 3, owner="o")), "speedscope", by="live")))
    assert [each["name"] for each in two["profiles"][3:]] == ["o, live at the end", "process, live at the end"]
    many = recorded(*(site(at(1), 30 - n, n, 0, owner=f"o{n}") for n in range(1, 25)))
    names = [each["name"] for each in json.loads(str(render(many, "speedscope")))["profiles"][3:]]
    assert names == [f"o{n}, at the peak" for n in range(24, 4, -1)]
    assert one["shared"]["frames"] == [{"name": "f", "file": "/x/a.py", "line": 1}]
    callers = at(1, caller=at(2, "g", caller=at(3, "h", "")))
    deep = json.loads(str(render(recorded(site(callers, 1, 1, 1)), "speedscope")))
    frames = [each["name"] for each in deep["shared"]["frames"]]
    assert [frames[i] for i in deep["profiles"][0]["samples"][0]] == ["h", "g", "f"]
    assert deep["shared"]["frames"][frames.index("h")] == {"name": "h"}


def test_all_sites_of_a_spreadsheet() -> None:
    """Also those that have nothing of what it is sorted by."""
    made = str(render(recorded(site(at(1), 0, 5, 9), site(at(2), 1, 0, 3)), "csv", by="live"))
    assert [line.split(",")[3] for line in made.splitlines()[1:]] == ["2", "1"]


@pytest.mark.parametrize(
    ("about", "where", "said"),
    [
        ({"command": "run it\n"}, "x.nm", "run it"),
        ({"command": "run it"}, "", "run it"),
        ({}, "x.nm", "x.nm"),
        ({"command": ""}, "x.nm", "x.nm"),
        ({}, "", None),
    ],
)
def test_what_a_file_is_called(about: dict[str, str], where: str, said: str | None) -> None:
    """After the command, the recording, or this package."""
    recording = recorded(site(at(1), 1, 1, 1), about=about)
    command = about.get("command", "").replace("\n", "\\x0a")
    scope = json.loads(str(render(recording, "speedscope", where=where)))
    trace = json.loads(str(render(recording, "perfetto", where=where)))
    assert scope["name"] == trace["traceEvents"][0]["args"]["name"] == (command or said or "nativemem")
    assert scope["exporter"] == "nativemem"
    assert (
        json.loads(str(render(replace(recording, about={"nativemem": "1.2"}), "speedscope")))["exporter"]
        == "nativemem 1.2"
    )


def test_a_trace() -> None:
    """What each owner used, a limit where it is another than before, and what was refused where."""
    moments = (
        *line((0.5, 1, 9), (1.0, 2, 9), (1.5, 3, None), (2.0, 4, 8)),
        *line((0.25, 7, None), owner="b", number=2),
    )
    refused = (Refused(0.125, "a", 100, 50, None, at(1, caller=at(2, "g"))),)
    found = json.loads(
        str(render(recorded(moments=moments, refused=refused, about={"k": "v"}, rate=3, began=4.0), "perfetto"))
    )
    counter = {"ph": "C", "pid": 7, "cat": "memory"}
    who = {"pid": 7, "tid": 7}

    def used(owner: str, ts: float, n: int, what: str = "used") -> dict[str, Any]:
        return {**counter, "ts": ts, "name": f"{owner} {what}", "args": {"bytes": n}}

    assert found["traceEvents"] == [
        {"name": "process_name", "ph": "M", **who, "args": {"name": "nativemem"}},
        {"name": "thread_name", "ph": "M", **who, "args": {"name": "refused requests"}},
        used("b", 250_000.0, 7),
        *(used("a", 500_000.0, 1), used("a", 500_000.0, 9, "limit"), used("a", 1_000_000.0, 2)),
        *(used("a", 1_500_000.0, 3), used("a", 2_000_000.0, 4), used("a", 2_000_000.0, 8, "limit")),
        {
            "name": "a refused 100 bytes", "cat": "memory", "ph": "i", "s": "p", **who, "ts": 125_000.0,
            "args": {
                "owner": "a", "requested": 100, "used": 50, "limit": None,
                "path": ["/x/a.py:1 in f", "/x/a.py:2 in g"],
            },
        },
    ]  # fmt: skip
    assert found["otherData"] == {"k": "v", "began": 4.0, "rate": 3} and found["displayTimeUnit"] == "ms"


def test_stacks_on_a_line() -> None:
    """The outermost first, with the owner before it; equal ones are one; those of nothing are left out."""
    deep = at(1, "f;g", "a;b.py", caller=at(2, "m", ""))
    made = recorded(
        site(deep, 5, 7, 9, owner="o;p"),
        site(deep, 1, 2, 3, owner="o;p", source="raw"),
        site(at(4), 0, 1, 1),
        site(at(3), 8),
    )
    assert str(render(made, "collapsed", by="live")) == "[o:p];m;f:g (a:b.py:1) 6\n[process];f (/x/a.py:3) 8\n"
    assert str(render(made, "collapsed")) == "[o:p];m;f:g (a:b.py:1) 9\n[process];f (/x/a.py:4) 1\n"


def test_numbers_of_protocol_buffers() -> None:
    for n, packed in (
        (0, "00"),
        (1, "01"),
        (127, "7f"),
        (128, "8001"),
        (300, "ac02"),
        (1 << 63, "80808080808080808001"),
        (-1, "ff" * 9 + "01"),
        (1 << 64, "00"),
    ):
        assert pprof._varint(n).hex() == packed
    assert (
        pprof._number(1, 0) == b""
        and pprof._number(1, 5).hex() == "0805"
        and pprof._number(16, 1).hex() == "800101"
    )
    assert pprof._part(2, b"ab").hex() == "12026162" and pprof._packed(1, [1, 128]).hex() == "0a03018001"
    assert pprof._packed(1, []).hex() == "0a00"


@pytest.mark.parametrize(("resident", "peak"), [(None, None), (5, None), (None, 9), (5, 9)])
def test_what_is_resident_of_a_snapshot(resident: int | None, peak: int | None) -> None:
    """It stands for the process where there is no engine; nothing where the system does not say."""
    taken = snapshot(sites=False)
    process = replace(taken.process, resident=resident, resident_peak=peak)
    first = of_snapshot(replace(taken, engine=None, process=process)).owners[0]
    assert first == Owner("process", None, resident or 0, peak or 0, 0)
