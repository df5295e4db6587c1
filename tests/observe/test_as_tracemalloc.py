"""PROF-2: a profile as tracemalloc's objects."""

from __future__ import annotations

import dataclasses
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from nativemem.errors import ConfigError
from nativemem.observe import as_tracemalloc
from nativemem.observe.as_tracemalloc import to_tracemalloc
from nativemem.observe.recording import Path as CallPath
from nativemem.observe.recording import Sampled
from nativemem.observe.snapshot import Snapshot, snapshot

from .helpers import native, run

MAIN = CallPath("main.py", 9, "<module>")


def of(*sites: Sampled) -> Snapshot:
    return dataclasses.replace(snapshot(sites=False), sites=sites, rate=1)


def site(file: str, line: int, live: int, blocks: int, owner: str = "process", source: str = "objects") -> Sampled:
    figures = live, blocks, 2 * live, 2 * blocks, 3 * live, 3 * blocks
    return Sampled(CallPath(file, line, "f", MAIN), owner, source, *figures)


A = of(
    site("a.py", 1, 1001, 10),
    site("a.py", 2, 500, 1),
    site("b.py", 3, 7, 0, "cache", "arrays"),
    site("c.py", 1, 0, 0),
)


def shown(statistics: Any) -> list[tuple[str, int, int]]:
    return [(str(found.traceback).replace("\n", " "), found.size, found.count) for found in statistics]


def test_statistics() -> None:
    """PROF-2: sizes are those of the profile, to the byte, and blocks are counted."""
    made = to_tracemalloc(A)
    assert shown(made.statistics("lineno")) == [("a.py:1", 1001, 10), ("a.py:2", 500, 1), ("b.py:3", 7, 1)]
    assert shown(made.statistics("filename")) == [("a.py:0", 1501, 11), ("b.py:0", 7, 1)]
    assert shown(made.statistics("lineno", cumulative=True))[0] == ("main.py:9", 1508, 12)
    top = made.statistics("traceback")[0]
    assert [(frame.filename, frame.lineno) for frame in top.traceback] == [("main.py", 9), ("a.py", 1)]
    assert (made.traceback_limit, len(made.traces), made.traces[0].traceback.total_nframe) == (2, 12, 2)
    assert {trace.size for trace in made.traces} == {100, 101, 500, 7}
    assert shown(to_tracemalloc(A, "total").statistics("lineno"))[0] == ("a.py:1", 2002, 20)
    assert shown(to_tracemalloc(A, "peak").statistics("lineno"))[0] == ("a.py:1", 3003, 30)
    assert shown(to_tracemalloc(A, owner="cache").statistics("lineno")) == [("b.py:3", 7, 1)]
    assert to_tracemalloc(A, owner="none").statistics("lineno") == []


def test_traces_one_by_one() -> None:
    """PROF-2: the last of a site has what is left over; they are counted from the end as well, and cut."""
    traces: Any = to_tracemalloc(A).traces._traces
    sizes = [trace[1] for trace in traces]
    assert sizes == [100] * 9 + [101, 500, 7] and len(traces) == 12
    assert [traces[i][1] for i in (9, -3, -12, -1)] == [101, 101, 100, 7]
    assert [trace[1] for trace in traces[8:11]] == [100, 101, 500] and traces[::-4] == [
        traces[11],
        traces[7],
        traces[3],
    ]
    assert [trace[0] for trace in traces[10:]] == [0, 389047] and as_tracemalloc.DOMAINS["blocks"] == 389048
    assert as_tracemalloc.DOMAINS["objects"] == as_tracemalloc.DOMAINS["raw"] == 0 and traces[0][3] == 2
    for outside in (12, -13):
        with pytest.raises(IndexError):
            traces[outside]
    assert len(to_tracemalloc(of()).traces) == 0 and to_tracemalloc(of()).traceback_limit == 1
    code = Sampled(CallPath("", 0, "(other code)"), "process", "objects", 5, 1, 5, 1, 5, 1)
    assert to_tracemalloc(of(code)).traces._traces[0] == (0, 5, (("(other code)", 0),), 1)


def test_comparisons_and_filters() -> None:
    """PROF-2"""
    grown = of(site("a.py", 1, 2000, 19), site("b.py", 3, 7, 0, "cache", "arrays"))
    changes = to_tracemalloc(grown).compare_to(to_tracemalloc(A), "lineno")
    assert [(str(change.traceback), change.size_diff, change.count_diff) for change in changes] == [
        ("a.py:1", 999, 9),
        ("a.py:2", -500, -1),
        ("b.py:3", 0, 0),
    ]
    made = to_tracemalloc(A)
    only = made.filter_traces([tracemalloc.Filter(True, "a.py", 1), tracemalloc.Filter(False, "b.py")])
    assert shown(only.statistics("lineno")) == [("a.py:1", 1001, 10)]
    arrays = made.filter_traces([tracemalloc.DomainFilter(True, as_tracemalloc.DOMAINS["arrays"])])
    assert shown(arrays.statistics("filename")) == [("b.py:0", 7, 1)]


def test_it_is_dumped_as_others_are(tmp_path: Path) -> None:
    """PROF-2"""
    to_tracemalloc(A).dump(str(tmp_path / "dump"))
    assert shown(tracemalloc.Snapshot.load(str(tmp_path / "dump")).statistics("lineno"))[0] == ("a.py:1", 1001, 10)


def test_more_blocks_than_can_be_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """PROF-2: a trace stands for several; no byte is lost."""
    monkeypatch.setattr(as_tracemalloc, "_MOST", 100)
    made = to_tracemalloc(of(site("a.py", 1, 10_001, 1000), site("b.py", 1, 10, 1)))
    assert shown(made.statistics("lineno")) == [("a.py:1", 10_001, 91), ("b.py:1", 10, 1)]
    assert sum(trace.size for trace in made.traces) == 10_011
    assert made.traces[-1].size == 10


def test_domains_are_numpys() -> None:
    """PROF-2"""
    numpy = pytest.importorskip("numpy")
    assert numpy.lib.tracemalloc_domain == as_tracemalloc.DOMAINS["arrays"]


def test_what_it_does_not_take() -> None:
    """PROF-2"""
    wrong: list[tuple[Any, ...]] = [(3,), (A, "most"), (A, "live", 3)]
    for arguments in wrong:
        with pytest.raises(ConfigError, match="to_tracemalloc"):
            to_tracemalloc(*arguments)


@native
def test_of_a_profile() -> None:
    """PROF-2: as tracemalloc itself finds the line that allocates most."""
    run("""
        import nativemem
        from nativemem.observe.as_tracemalloc import to_tracemalloc
        from nativemem.observe.profile import Profile
        nativemem.install()
        with Profile(rate=1) as profile:
            kept = [bytes(2000) for _ in range(500)]
            before = profile.read()
            kept += [bytes(2000) for _ in range(700)]
            after = profile.read()
        top = to_tracemalloc(before).statistics("lineno")[0]
        assert (top.traceback[0].filename, top.traceback[0].lineno) == ("<string>", 7), top
        assert 500 * 2000 < top.size < 500 * 2100 and 500 <= top.count < 510, top
        change = to_tracemalloc(after).compare_to(to_tracemalloc(before), "lineno")[0]
        assert change.traceback[0].lineno == 9 and 700 <= change.count_diff < 710, change
    """)
