"""Figures and words that tests, cells and sweeps show, of measurements made by hand."""

from __future__ import annotations

import json
import os
import re
import signal
from dataclasses import replace
from pathlib import Path as File
from types import SimpleNamespace
from typing import Any

import pytest

from nativemem.errors import ConfigError
from nativemem.observe.recording import Path, Recording, Refused, Sampled
from nativemem.testing import injection, judgement, trace
from nativemem.testing.findings import Finding, Findings
from nativemem.testing.notebook import CellMemory
from nativemem.testing.results import Results, checked_path
from nativemem.testing.stacks import CFrame, PythonFrame
from nativemem.testing.trace import Place

KIB = 1 << 10


# --- cells ---


def cell(
    used: list[int], limit: int | None = None, refused: str = "", places: tuple[Place, ...] = ()
) -> CellMemory:
    return CellMemory(max(used, default=0), limit, 1234, places, used, refused)


def test_a_cell_in_words() -> None:
    """JUP-2"""
    place = Place(2048, 2, ("the cell:1 in f",))
    assert str(cell([])) == "nativemem: peak 0 B, about 1,234 blocks allocated"
    assert repr(cell([0, 700, 350], 700, "it was over", (place,))) == (
        "it was over\nnativemem: peak 700 B of 700 B, about 1,234 blocks allocated  ▁█▄\n"
        "  2.0 KiB in 2 blocks: the cell:1 in f"
    )


def test_a_cells_plot() -> None:
    """JUP-2: points and the line of the limit, within the picture."""
    line = re.compile(r'<line x1="0" x2="480" y1="([\d.]+)" y2="([\d.]+)"')

    def points(memory: CellMemory) -> list[list[float]]:
        (found,) = re.findall(r'points="([^"]*)"', memory._repr_html_())
        return [[float(part) for part in point.split(",")] for point in found.split()]

    free = cell([0, 50, 100])
    assert points(free) == [[0, 60], [240, 30], [480, 0]] and line.search(free._repr_html_()) is None
    bounded = cell([0, 50, 100], 200)
    assert points(bounded) == [[0, 60], [240, 45], [480, 30]]
    assert line.findall(bounded._repr_html_()) == [("0.0", "0.0")]
    over = cell([0, 100, 200], 50)
    assert points(over)[-1] == [480, 0] and line.findall(over._repr_html_()) == [("45.0", "45.0")]
    assert points(cell([])) == [] and points(cell([0])) == [[0, 60]]
    thin = cell([i % 7 for i in range(480)], 0)
    assert len(thin.used) == 48 and set(thin.used) == {6} and len(cell(list(range(49))).used) == 48
    assert cell([1, 2]).used == [1, 2]
    page = cell([1], None, "a<b", (Place(1, 1, ("x<y",)),))._repr_html_()
    assert "<p><b>a&lt;b</b></p><p>peak" in page and "<td>1 B</td><td>1</td>" in page and "x&lt;y" in page
    assert "<b>" not in cell([1])._repr_html_()


# --- tests ---


def results(*rows: Any) -> Results:
    made = Results()
    for test, outcome, peak, *more in rows:
        limit, growth, problems, places = more or (None, None, (), ())
        made.add((test, 0.25, peak, limit, 0, growth, problems, places), outcome)
    return made


def test_the_heaviest() -> None:
    """Of each test the attempt with the highest peak; the name decides between equal ones."""
    made = results(
        *(("b", "passed", 5), ("a", "failed", 9), ("a", "passed", 7), ("c", "passed", 5), ("d", "passed", None)),
        *(("z", "passed", 1), ("e", "passed", 0), ("e", "failed", 0), ("y", "failed", 0), ("y", "passed", 1)),
    )
    assert [(each.test, each.outcome, each.peak) for each in made.heaviest(99)] == [
        ("a", "failed", 9), ("b", "passed", 5), ("c", "passed", 5), ("y", "passed", 1), ("z", "passed", 1),
        ("e", "passed", 0),
    ]  # fmt: skip
    assert [each.test for each in made.heaviest(2)] == ["a", "b"] and made.heaviest(0) == []
    assert [each.test for each in made.attempts] == ["b", "a", "a", "c", "d", "z", "e", "e", "y", "y"]


def test_a_summary_of_tests(tmp_path: File) -> None:
    """In lines and in files."""
    place = (2048, 2, ("a.py:1 in f", "b.py:2 in g"))
    made = results(
        ("one", "failed", 2 * KIB, 4 * KIB, 100.4, ("too <much>",), (place, (1, 1, ()))),
        ("two", "passed", 512, None, None, (), ()),
        ("three", "passed", 100, 200, 0.0, (), ()),
    )
    for _ in range(2):
        made.note("no engine")
    assert made.lines(2) == [
        "nativemem: no engine", "2.0 KiB of 4.0 KiB  one, grows by 100 B a repetition", "  512 B  two"
    ]  # fmt: skip
    assert made.lines(9)[3] == "  100 B of 200 B  three"
    made.write(str(tmp_path / "r.json"))
    text = (tmp_path / "r.json").read_text()
    assert text.startswith('{\n "format": "nativemem tests 1",\n "nativemem": ') and text.endswith("\n}\n")
    found = json.loads(text)
    assert (found["format"], found["notes"]) == ("nativemem tests 1", ["no engine"])
    assert [each["test"] for each in found["tests"]] == ["one", "two", "three"]
    assert found["tests"][0]["places"][0] == {"bytes": 2048, "blocks": 2, "path": ["a.py:1 in f", "b.py:2 in g"]}
    made.write(str(tmp_path / "r.html"))
    page = (tmp_path / "r.html").read_text()
    assert "<h1>Memory of 3 tests</h1>\n<p>1 failed, 2 passed</p>\n<p>no engine</p>" in page
    assert 'max="2048" value="2048"' in page and 'max="2048" value="512"' in page
    assert (
        page.count("<pre>") == 1
        and "<pre>too &lt;much&gt;\n2.0 KiB in 2 blocks: a.py:1 in f\n    called from" in page
    )
    assert "    called from b.py:2 in g\n1 B in 1 block: other code</pre>" in page
    assert page.count("a repetition</td>") == 1 and "<td>100 B a repetition</td><td>0.250 s</td>" in page
    assert "<h1>Memory of 0 tests</h1>" in results()._html()
    assert 'max="1" value="0"' in results(("none", "passed", 0))._html()
    assert "<pre>x</pre>" in results(("one", "failed", 1, None, None, ("x",), ()))._html()
    assert "<pre>1 B in 1 block: a" in results(("one", "failed", 1, None, None, (), ((1, 1, ("a",)),)))._html()
    for name in ("a.json", "b.html", None):
        assert checked_path(name) == name
    with pytest.raises(ConfigError, match="takes a .json or .html file, not 'a.txt'"):
        checked_path("a.txt")


# --- traces ---

RUNNER = f"{os.sep}x{os.sep}_pytest{os.sep}python.py"


def call(*places: tuple[str, str]) -> Path:
    """The innermost last, as a program calls."""
    made: Path | None = None
    for i, (file, function) in enumerate(places):
        made = Path(file, i, function, made)
    assert made is not None
    return made


def recording(*sites: tuple[Path, str, int], refused: tuple[tuple[str, Path], ...] = ()) -> Recording:
    of = [Sampled(where, owner, "objects", n, 1, 3 * n, 3, 2 * n, 2) for where, owner, n in sites]
    return Recording(
        pid=1, began=0.0, lasted=1.0, rate=1, samples=1, dropped=0, live=0, peak=0, peak_at=0.0, sites=tuple(of),
        owners=(), moments=(), refused=tuple(Refused(1.0, owner, 1, 2, 3, where) for owner, where in refused),
        about={},
    )  # fmt: skip


def test_what_a_trace_has_by_place() -> None:
    """Of the code under test alone, summed by path, the largest first."""
    f, g = call((RUNNER, "runtest"), ("t.py", "test"), ("m.py", "f")), call((RUNNER, "x"), ("m.py", "g"))
    report = call((f"{os.sep}_pytest{os.sep}reports.py", "make"), ("m.py", "h"))
    room = os.path.dirname(os.path.abspath(trace.__file__)) + os.sep
    measures, calls = (
        call((room + "a.py", "measure"), ("m.py", "h")),
        call((room + "a.py", "A.growth"), ("m.py", "k")),
    )
    own = call(("m.py", "own"))
    found = recording(
        *((f, "a", 10), (g, "b", 30), (f, "b", 15), (report, "a", 99), (measures, "a", 98), (calls, "a", 1)),
        *((own, "a", 2), (f, "a", 0)),
    )
    for part, times, blocks in (("live", 1, 1), ("peak", 2, 2), ("total", 3, 3)):
        sums = {path[0][2]: value for path, value in trace.by_path(found, part).items()}
        assert sums == {
            "f": (25 * times, 2 * blocks), "g": (30 * times, blocks), "k": (times, blocks),
            "own": (2 * times, blocks),
        }  # fmt: skip
    assert {path[0][2]: n for path, (n, _) in trace.by_path(found, "live", "b").items()} == {"g": 30, "f": 15}
    assert trace.places_of(found, "live", 2) == [
        Place(30, 1, ("m.py:1 in g",)), Place(25, 2, ("m.py:2 in f", "t.py:1 in test"))
    ]  # fmt: skip
    assert [str(place) for place in trace.places_of(found, "live", 1, "a")] == ["10 B in 1 block: m.py:2 in f"]
    assert str(Place(2000, 1000, ())) == "2.0 KiB in 1,000 blocks: other code"
    path = tuple("abcdefg")
    assert trace.lines_of([Place(1, 1, path)]) == [
        "  1 B in 1 block: a", *(f"      called from {c}" for c in "bcde")
    ]  # fmt: skip
    assert trace.lines_of([Place(1, 1, path)], 1)[1:] == ["      called from b"]


def test_places_that_took_as_much() -> None:
    """In the order of their paths, however many blocks."""
    few, many = call(("m.py", "b")), call(("m.py", "a"))
    found = recording((few, "a", 10), (many, "a", 5), (many, "a", 5))
    assert [(place.path[0], place.blocks) for place in trace.places_of(found, "live", 9)] == [
        ("m.py:0 in a", 2), ("m.py:0 in b", 1)
    ]  # fmt: skip


class Profile:
    """One that is begun, ended and read."""

    def __init__(self, rate: int) -> None:
        self.rate, self._parts, self.log = rate, None, list[str]()
        self.sites: Any = ()

    def start(self) -> None:
        self.log.append("start")
        self._parts = ()  # type: ignore[assignment]

    def stop(self) -> None:
        self.log.append("stop")

    def read(self) -> Any:
        self.log.append("read")
        return replace(recording(*self.sites), live=7, peak=9)


def test_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read anew while it runs, and once after that; nothing is known before it."""
    monkeypatch.setattr(trace, "Profile", Profile)
    made: Any = trace.Trace()
    assert (made.running, made.exact, made.recording, made.places()) == (False, True, None, [])
    assert (made.live, made.peak, made.total, made.blocks) == (0, 0, 0, 0)
    assert repr(made) == "<Trace not running, a sample in 1 B>"
    profile = made._profile
    made.stop()
    assert profile.log == []  # it does not run
    assert made.start() is made and made.running and repr(made) == "<Trace running, a sample in 1 B>"
    f, g = call(("m.py", "f")), call(("m.py", "g"))
    profile.sites = ((f, "a", 10), (g, "b", 5))
    assert (made.live, made.peak, made.total, made.blocks) == (7, 9, 45, 6)
    assert profile.log == ["start", "read", "read", "read", "read"]
    profile.sites = tuple((call(("m.py", f"f{n:02}")), "a", 10 * n) for n in range(1, 13))
    assert [place.bytes for place in made.places()] == [20 * n for n in range(12, 2, -1)]
    assert [place.bytes for place in made.places(2, "live")] == [120, 110]
    assert [place.bytes for place in made.places(most=1, of="total")] == [360]
    for word in ("", "most", "Peak"):
        with pytest.raises(ConfigError, match=f"^trace.of: takes live, peak or total, not {word!r}"):
            made.places(of=word)
    profile.log.clear()
    made.stop()
    made.stop()
    assert profile.log == ["stop"] and not made.running
    kept = made.recording
    assert made.recording is kept and (made.live, made.total) == (7, 3 * 780) and profile.log == ["stop", "read"]
    with made as again:
        assert again is made and made.running and made.recording is not kept
        profile.sites = ()
    assert not made.running and made.total == 0
    assert profile.log == ["stop", "read", "start", "read", "stop", "read"]
    rough = trace.Trace(65536)
    assert rough.exact is False and repr(rough) == "<Trace not running, a sample in 65536 B>"
    assert trace.Trace(2).exact is False


def test_where_it_was_refused() -> None:
    """The last of that owner."""
    f, g, report = call(("m.py", "f")), call(("m.py", "g")), call((f"{os.sep}pluggy{os.sep}x.py", "p"))
    found = recording(refused=(("a", f), ("a", g), ("b", f), ("c", report)))
    assert [trace.refused_at(found, owner) for owner in "abcd"] == ["m.py:0 in g", "m.py:0 in f", None, None]
    here = os.path.abspath("m.py")
    assert trace.made_place([(here, 1, "f"), ("/m.py", 2, "g"), ("", 0, "h")], 1, 2).path == (
        "m.py:1 in f", "/m.py:2 in g", "h"
    )  # fmt: skip


# --- sweeps ---


def test_findings_in_words() -> None:
    """INJ-1: each figure in its place, and what is not there not said."""
    plain = Findings((), (), ("obj", "mem"), 10, 4, 8, 0, "", 1.26)
    assert str(plain) == ("no findings: 8 of 10 allocations refused, one in each run (obj, mem; 4 sites), in 1.3 s")
    python, c = (PythonFrame("a.py", 3, "f"),), (CFrame("x", 16, "g"),)
    numbers = tuple(range(3, 11))
    one = Finding("crash", "SIGSEGV", numbers, "obj", 64, python, c, python, (), "1\n2\n3\n4", "again", "known")
    other = Finding("leak", "much", (2,), "allocators", 9, (), ())
    text = str(Findings((one, other), (), ("obj",), 10, 4, 8, 2, "time"))
    assert text.splitlines()[:4] == [
        "2 findings: 8 of 10 allocations refused, one in each run (obj; 4 sites), in 0.0 s",
        "not all was tried: time", "2 allocations were not made again: the function varies", "",
    ]  # fmt: skip
    assert len(Findings((one, other))) == 2 and str(Findings((one,))).startswith("1 finding: ")
    lines = str(one).splitlines()
    assert lines[:2] == [
        "crash: SIGSEGV",
        "  after the refusal of allocation 3, 64 bytes of obj (and of 7 more: 4, 5, 6, 7, 8, …), asked for at",
    ]
    assert [line for line in lines if "it wrote" in line] == [f"  it wrote: {i}" for i in "123"]
    assert lines[-2:] == ["  the interpreter's own: known", "  again: again"] and "  and it ended at" in lines
    assert str(other) == "leak: much\n  after the refusal of allocation 2, of an allocator, asked for at"
    six = Finding("leak", "much", (1, 2, 3, 4, 5, 6), "obj", 1, (), ())
    assert "(and of 5 more: 2, 3, 4, 5, 6), asked" in str(six)
    seven = Finding("leak", "much", (1, 2, 3, 4, 5, 6, 7), "obj", 1, (), ())
    assert "(and of 6 more: 2, 3, 4, 5, 6, …), asked" in str(seven)
    assert str(one) == (
        f"{lines[0]}\n{lines[1]}\n    C g+0x0 (x+0x10)\n    Python a.py:3 in f\n  and it ended at\n"
        "    Python a.py:3 in f\n  it wrote: 1\n  it wrote: 2\n  it wrote: 3\n  the interpreter's own: known\n"
        "  again: again"
    )
    ended = Finding("crash", "SIGSEGV", (3,), "obj", 64, (), (), (), c)
    assert str(ended).endswith("asked for at\n  and it ended at\n    C g+0x0 (x+0x10)")
    deep = tuple(PythonFrame("a.py", line, "f") for line in range(9))
    rows = str(Finding("leak", "much", (1,), "obj", 1, deep, ())).splitlines()
    assert len(rows) == 2 + 8 and rows[-1] == "    Python a.py:7 in f"
    deep_c = tuple(CFrame("x", at, "g") for at in range(9))
    assert len(str(Finding("leak", "much", (1,), "obj", 1, (), deep_c)).splitlines()) == 2 + 8
    own = Findings((other,), (one, one), ("obj",), 10, 4, 8)
    assert str(own).splitlines()[1:] == [
        "", "1. leak: much", "  after the refusal of allocation 2, of an allocator, asked for at", "",
        "the interpreter's own, 2:", *["  crash at allocation 3: known"] * 2,
    ]  # fmt: skip
    assert [own[0], own[-1], *own] == [other] * 3 and own[:1] == (other,)


def test_kinds_of_ends() -> None:
    """INJ-1: what the status of an attempt's process says."""
    judge = judgement.Judge.__new__(judgement.Judge)

    def kind(status: int, words: dict[str, Any] | None = None, **more: Any) -> tuple[str, str]:
        attempt = SimpleNamespace(**{"status": status, "signal": 0, "address": 0x10, "said": None, **more})
        return judge.kind(attempt, words or {})  # type: ignore[arg-type]

    told = {"kind": "leak", "detail": "two"}
    segv, kill, alarm, abort = signal.SIGSEGV, signal.SIGKILL, signal.SIGALRM, signal.SIGABRT
    assert kind(0, told) == ("leak", "two")
    assert kind(segv, told) == ("crash", "SIGSEGV at address 0x10")
    assert kind(signal.SIGBUS, said={}) == ("crash", "SIGBUS at address 0x10 after the function")
    assert kind(abort) == ("crash", "SIGABRT")
    assert kind(kill) == ("hang", "it was killed: its own alarm did not end it")
    assert kind(kill, signal=9) == ("crash", "SIGKILL")
    assert kind(alarm) == ("hang", "it did not end in time")
    assert kind(3 << 8) == ("exit", "the process ended with status 3")
    assert kind(0, {"broken": "a\nb\n"}) == ("exit", "it could not be judged: b")


def test_the_stack_that_faulthandler_tells() -> None:
    """INJ-1: the first thread that has one."""
    text = (
        "Fatal Python error: Segmentation fault\n\nThread 0x1 (most recent call first):\n  <no Python frame>\n\n"
        'Current thread 0x2 (most recent call first):\n  File "/a/b.py", line 12 in f\n'
        '  File "/a/c.py", line ??? in g\n'
        'Thread 0x3 (most recent call first):\n  File "/a/d.py", line 3 in h\n'
    )
    found = judgement._faults(text)
    assert [(frame.file, frame.line) for frame in found] == [("/a/b.py", 12), ("/a/c.py", 0)]
    assert judgement._faults("nothing") == ()


def test_bounds_of_a_sweep() -> None:
    """INJ-1"""
    assert injection._at_most(injection._MOST, "sweep.most") == injection._MOST
    with pytest.raises(
        ConfigError, match=f"^sweep.most: takes at most {injection._MOST}, not {injection._MOST + 1}"
    ):
        injection._at_most(injection._MOST + 1, "sweep.most")
    for seconds in (injection._LEAST, injection._LONGEST):
        assert injection._time(seconds, "x") == seconds
    for seconds in (injection._LEAST / 2, injection._LONGEST + 1, True, "1", float("nan")):
        with pytest.raises(ConfigError, match="^x: "):
            injection._time(seconds, "x")
