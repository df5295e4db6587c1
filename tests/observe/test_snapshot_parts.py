"""OBS-2: each figure of a snapshot from where it comes, and through a file, of sources whose figures are known."""

from __future__ import annotations

import builtins
import dataclasses
import io
import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import nativemem
from nativemem.backends.binding import Binding
from nativemem.engine import process
from nativemem.errors import ConfigError
from nativemem.observe import snapshot as observe
from nativemem.observe.changes import Change, Difference, Part, compare, table
from nativemem.observe.recording import Owner, Recording, Sampled
from nativemem.observe.recording import Path as CallPath
from nativemem.observe.snapshot import (
    AllocatorState,
    EngineState,
    OwnerState,
    ProcessState,
    Snapshot,
    by_line,
    diff,
    from_recording,
    snapshot,
)
from nativemem.stats import Stats

FIGURES = Stats(1, 2, 3, 4, 5, 6, 7, 8, 9, 10)


def whole(**changed: Any) -> Snapshot:
    """Of figures that are all different."""
    outer = CallPath("main.py", 9, "main")
    values: dict[str, Any] = {
        "when": 12.5,
        "process": ProcessState(4711, "3.11.7", "0.1", "native", 100, 200, FIGURES),
        "engine": EngineState(True, False, True, 10, 20, None, 30, 40, 50, {50: 16, 99: 4096}),
        "owners": (
            OwnerState("a/b", FIGURES, "warn", 11, 12, True),
            OwnerState("a", FIGURES, "normal", None, 0, False),
        ),
        "allocators": (AllocatorState("Arena > System", 5, "a/b", FIGURES),),
        "sites": (
            Sampled(CallPath("load.py", 3, "load", outer), "a", "objects", 1, 2, 3, 4, 5, 6),
            Sampled(outer, "b", "raw", 7, 8, 9, 10, 11, 12),
        ),
        "rate": 64,
    }  # fmt: skip
    return Snapshot(**{**values, **changed})


# --- through a file


@pytest.mark.parametrize(
    "taken",
    [
        whole(),
        whole(engine=None),
        whole(engine=dataclasses.replace(whole().engine, sizes=None, limit=7)),  # type: ignore[type-var]
        whole(process=dataclasses.replace(whole().process, stats=None, resident=None, resident_peak=None)),
        whole(sites=(), rate=None, allocators=(), owners=()),
    ],
    ids=["all", "no engine", "no sizes", "no figures", "nothing"],
)
def test_a_snapshot_comes_back(taken: Snapshot, tmp_path: Path) -> None:
    taken.save(tmp_path / "x.json")
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert text.endswith("}\n") and text.count("\n") == 1
    back = observe.load(tmp_path / "x.json")
    assert back == taken and [s.path.frames() for s in back.sites] == [s.path.frames() for s in taken.sites]


def test_as_a_dictionary() -> None:
    """Each path stands once, behind its caller's."""
    given = whole().to_dict()
    assert list(given) == [
        *("snapshot", "when", "process", "engine", "owners", "allocators", "sites", "rate", "paths"),
    ]
    assert given["snapshot"] == 1 and given["engine"]["sizes"] == {"50": 16, "99": 4096}
    assert given["paths"] == [[-1, "main.py", 9, "main"], [0, "load.py", 3, "load"]]
    assert given["sites"] == [[1, "a", "objects", 1, 2, 3, 4, 5, 6], [0, "b", "raw", 7, 8, 9, 10, 11, 12]]
    json.dumps(given)


def test_what_is_none_says_why(tmp_path: Path) -> None:
    given = whole().to_dict()
    with pytest.raises(ConfigError, match="^snapshot: has format 2, and this nativemem reads 1"):
        Snapshot.from_dict({**given, "snapshot": 2})
    with pytest.raises(ConfigError, match=r"^snapshot: is none \(KeyError: 'snapshot'\)") as caught:
        Snapshot.from_dict({})
    assert caught.value.suggestion == "write one with Snapshot.save()" and caught.value.__cause__ is None
    for caller in (1, 2, -2):
        paths = [[-1, "main.py", 9, "main"], [caller, "load.py", 3, "load"]]
        with pytest.raises(ConfigError, match="ValueError: a path comes before its caller"):
            Snapshot.from_dict({**given, "paths": paths})
    file = tmp_path / "none.json"
    file.write_text("{]", encoding="utf-8")
    with pytest.raises(ConfigError, match=f"^snapshot: {file} is no JSON \\("):
        observe.load(file)
    with pytest.raises(FileNotFoundError):
        observe.load(tmp_path / "other.json")


# --- where figures come from


def test_of_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    core = SimpleNamespace(engine_kept=lambda: 44, profile_read=lambda: None)
    use = SimpleNamespace(held=11, peak=22, limit=33, denials=55, allocations=66, sizes={50: 77})
    monkeypatch.setattr(observe, "started_core", lambda: core)
    monkeypatch.setattr(process, "usage", lambda: use)
    monkeypatch.setattr(process, "installed", lambda: SimpleNamespace(objects=True, arrays=False, raw=True))
    monkeypatch.setattr(process, "stats", lambda: FIGURES)
    taken = snapshot()
    assert taken.engine == EngineState(True, False, True, 11, 22, 33, 44, 55, 66, {50: 77})
    assert taken.process.stats is FIGURES and (taken.sites, taken.rate) == ((), None)


def test_without_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observe, "started_core", lambda: None)
    before = time.time()
    taken = snapshot()
    assert before <= taken.when <= time.time()
    assert taken.engine is None and taken.process.stats is None and (taken.sites, taken.rate) == ((), None)
    assert (taken.process.pid, taken.process.backend) == (os.getpid(), nativemem.backend)
    assert (taken.process.python, taken.process.nativemem) == (sys.version.split()[0], nativemem.__version__)


@pytest.mark.parametrize("wanted", [True, False])
def test_sites_are_those_of_the_profile(monkeypatch: pytest.MonkeyPatch, wanted: bool) -> None:
    from nativemem.observe import recording

    made = SimpleNamespace(sites=whole().sites, rate=9)
    asked: list[Any] = []
    core = SimpleNamespace(profile_read=lambda: [b"parts"])
    monkeypatch.setattr(observe, "started_core", lambda: core)
    monkeypatch.setattr(observe, "_engine", lambda: None)
    monkeypatch.setattr(recording, "read_bytes", lambda parts: (asked.append(parts), made)[1])
    taken = snapshot(sites=wanted)
    assert (taken.sites, taken.rate) == ((made.sites, 9) if wanted else ((), None))
    assert asked == [[b"parts"]] * wanted


STATUS = "Name:\tpython\nVmHWM:\t   40 kB\nVmRSS:\t   30 kB\nThreads:\t1\n"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (STATUS, (30 * 1024, 40 * 1024)),
        ("VmRSS:\t7 kB\n", (7 * 1024, None)),
        ("VmHWM:\t7 kB\n", (None, 7 * 1024)),
        ("Name:\tx\n", (None, None)),
        ("VmHWM:\t7 kB\nVmRSS:\tmany kB\n", (None, None)),
        ("VmHWM:\t7 kB\nVmRSS:\n", (None, None)),
        (None, (None, None)),
    ],
)
def test_what_the_system_counts(monkeypatch: pytest.MonkeyPatch, text: str | None, found: tuple[Any, Any]) -> None:
    """Resident bytes of /proc; None where it does not say, or in words of its own."""

    def opened(name: Any, *_: Any, **__: Any) -> Any:
        assert name == "/proc/self/status"
        if text is None:
            raise FileNotFoundError(name)
        return io.StringIO(text)

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", opened)
        resident = observe._resident()
    assert resident == found


def test_of_owners(nm: Binding) -> None:
    """The path, the level, what is lent and locked; nothing is held for one that was never entered."""
    top = nm.Budget(1000, "of parts", warn=0.5)
    below = nm.Budget(400, "below", top)
    top.try_reserve(600)
    below.lock()
    found = {owner.path: owner for owner in snapshot().owners if owner.path.startswith("of parts")}
    one, other = found["of parts"], found["of parts/below"]
    assert (one.name, one.used, one.peak, one.limit, one.denials) == ("of parts", 600, 600, 1000, 0)
    assert (one.pressure, one.held, one.lent, one.locked) == ("warn", None, 0, False)
    assert (other.name, other.used, other.limit, other.locked) == ("below", 0, 400, True)
    with pytest.raises(MemoryError):
        below.reserve(1)
    assert snapshot().owner("below").denials == 1
    assert dataclasses.replace(one, stats=Stats(0, 0, 0, None, 0, 0, 0, 0, 0)).limit == 0


def test_of_a_budget_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is below it keeps its core, which has the figures; what it lent is not known any more."""
    top = SimpleNamespace(label="top", _parent=None)
    core = SimpleNamespace(
        budget=lambda: None,
        numbers=lambda: (100, 150, 1000, 3),
        charges=lambda: (2, 170),
        account=lambda: (77, 1, []),
        pressure=lambda: 2,
        is_locked=lambda: True,
        label="gone",
        _parent=top,
    )
    monkeypatch.setattr(observe, "budget_cores", lambda: [core])
    figures = Stats(100, 150, 100, 1000, 170, 0, 2, 0, 3)
    assert snapshot(sites=False).owners == (OwnerState("top/gone", figures, "critical", 77, 0, True),)


def test_of_allocators(nm: Binding) -> None:
    """What is closed, or not made yet, is passed over, and what has no owner has none."""
    heap = nm.Heap()
    closed = nm.Heap()
    number = closed.id
    closed.close()
    unmade = nm.Arena.__new__(nm.Arena)
    found = {each.id: each for each in snapshot(allocators=True).allocators}
    assert (found[heap.id].owner, found[heap.id].chain, found[heap.id].stats) == (None, heap.describe(), heap.stats)
    assert number not in found or found[number].chain != "Heap"
    del unmade


def test_of_a_recording() -> None:
    recording = Recording(
        *(7, 1000.0, 2.5, 64, 1, 0, 0, 0, 0.0, whole().sites),
        owners=(Owner("process", None, 10, 20, 0), Owner("cache", 400, 30, 40, 5)),
        moments=(),
        refused=(),
    )
    taken = from_recording(recording)
    assert taken.when == 1002.5 and from_recording(dataclasses.replace(recording, lasted=None)).when == 1000.0
    assert taken.process == ProcessState(7, "", "", "native", None, None, None)
    assert (taken.engine, taken.allocators, taken.sites, taken.rate) == (None, (), recording.sites, 64)
    assert taken.owners == (
        OwnerState("process", Stats(10, 20, 10, None, 0, 0, 0, 0, 0), "normal", None, 0, False),
        OwnerState("cache", Stats(30, 40, 30, 400, 0, 0, 0, 0, 5), "normal", None, 0, False),
    )
    assert (taken.owners[0].limit, taken.owners[1].limit, taken.owners[1].denials) == (0, 400, 5)


# --- sites together, and differences


def site(line: int, live: int, *, owner: str = "a", source: str = "raw", caller: int = 0, **more: int) -> Sampled:
    numbers = (live, live + 1, live + 2, live + 3, live + 4, live + 5)
    return Sampled(CallPath("x.py", line, "f", CallPath("m.py", caller, "m")), owner, source, *numbers, **more)


def test_lines_of_a_program() -> None:
    """Whatever called them and wherever from; by owner; the largest first."""
    small, one, other = site(1, 5), site(2, 10), site(2, 20, caller=7, source="objects")
    apart, same = site(2, 1000, owner="b"), site(1, 7, caller=9)
    found = by_line([small, one, other, apart, same])
    place = [CallPath("x.py", line, "f") for line in (1, 2)]
    assert found == (
        Sampled(place[1], "b", "raw", 1000, 1001, 1002, 1003, 1004, 1005),
        Sampled(place[1], "a", "several", 30, 32, 34, 36, 38, 40),
        Sampled(place[0], "a", "raw", 12, 14, 16, 18, 20, 22),
    )
    assert by_line([]) == () and by_line([one, other, other])[0].source == "several"
    assert all(each.path.caller is None for each in found)


def test_by_path_and_by_line() -> None:
    """A path is another where its callers are; a line is not. What has nothing live is as if it had not come."""
    a = whole(sites=(site(1, 10), dataclasses.replace(site(3, 0), live=0)))
    b = whole(sites=(site(1, 10), site(1, 30, caller=5), dataclasses.replace(site(4, 0), live=0)), when=13.0)
    (line,) = diff(a, b).sites
    assert (line.before, line.after, line.grew, line.blocks, line.how) == (10, 40, 30, 31, "grew")
    assert line.of == b.sites[1] and line.name == "x.py:1 in f (a)"
    (path,) = diff(a, b, "path").sites
    assert (path.before, path.after, path.blocks, path.how) == (0, 30, 31, "came")
    (back,) = diff(b, a, "path").sites
    assert (back.before, back.after, back.blocks, back.how, back.of) == (30, 0, -31, "went", b.sites[1])
    assert (diff(a, b).seconds, diff(b, a).seconds) == (0.5, -0.5)


def test_changes_in_their_order() -> None:
    """The largest change first, of two as large by name; what stays is none, what comes with nothing is."""
    before = {
        ("b",): Part(10, 1, "b"),
        ("a",): Part(20, 2, "a"),
        ("same",): Part(5, 9, "same"),
        ("z",): Part(0, 1, "z"),
    }
    after = {
        ("b",): Part(15, 4, "b"),
        ("a",): Part(15, 2, "a"),
        ("same",): Part(5, 1, "same"),
        ("n",): Part(0, 3, "n"),
    }
    assert compare(before, after) == (
        Change("a", 20, 15, 0, "shrank"),
        Change("b", 10, 15, 3, "grew"),
        Change("n", 0, 0, 3, "came"),
        Change("z", 0, 0, -1, "went"),
    )  # fmt: skip
    assert compare({}, {}) == ()


def test_a_table_of_changes() -> None:
    assert table(("a", "bc"), [("long", "1"), ("x", "222")], left=(0,)) == ["a      bc", "long    1", "x     222"]
    assert table(("a", "b"), [("1", ""), ("22", "y")], left=(1,)) == [" a  b", " 1", "22  y"]
    with pytest.raises(ValueError, match="zip"):
        table(("a",), [("1", "2")])
    changes = tuple(Change(f"o{n}", 0, 100 - n, 0, "came") for n in range(21))
    shown = str(Difference(1.26, changes[:20], ()))
    assert shown.startswith("1.3 s\n\n") and "more" not in shown and shown.endswith("\n\nno site changed")
    lines = str(Difference(0.0, changes, ())).splitlines()
    assert lines[0] == "0.0 s" and len([line for line in lines if " came " in line]) == 20
    assert lines[-3:] == ["+80 B in 1 more", "", "no site changed"]
