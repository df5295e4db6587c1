"""Whose code a stack is, which findings are one fault, and what grows: of stacks and figures made by hand."""

from __future__ import annotations

import array
import os
import struct
import sys
import sysconfig
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nativemem.errors import ConfigError
from nativemem.testing import judgement, repetitions, stacks
from nativemem.testing.findings import Finding, Findings
from nativemem.testing.injection_report import Attempt
from nativemem.testing.interpreter_faults import FAULTS, known_fault
from nativemem.testing.stacks import CFrame, Modules, PythonFrame
from nativemem.testing.trace import Place

# ---- stacks, and whose code they are ------------------------------------------------------------------------


def elf(symbols: list[tuple[bytes, int, int, int, int]], address: int = 0x400000, bits: int = 2) -> bytes:
    """A file with one loaded segment and these symbols: name, info, section, value, size."""
    names = b"\0" + b"".join(name + b"\0" for name, *_ in symbols)
    table = b"".join(
        struct.pack("=IBBHQQ", names.index(name + b"\0"), info, 0, section, value, size)
        for name, info, section, value, size in symbols
    )
    programs, sections = 64, 64 + 2 * 56
    at = sections + 3 * 64
    head = (
        b"\x7fELF"
        + bytes([bits])
        + bytes(11)
        + struct.pack("=HHIQQQIHHHHHH", 3, 62, 1, 0, programs, sections, 0, 64, 56, 2, 64, 3, 0)
    )
    loaded = struct.pack("=IIQQQQQQ", 6, 0, 0, 0x123, 0, 0, 0, 0) + struct.pack(
        "=IIQQQQQQ", 1, 5, 0, address, 0, 0, 0, 0
    )
    made = (
        struct.pack("=IIQQQQIIQQ", 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
        struct.pack("=IIQQQQIIQQ", 0, 2, 0, 0, at, len(table), 2, 0, 0, 24),
        struct.pack("=IIQQQQIIQQ", 0, 3, 0, 0, at + len(table), len(names), 0, 0, 0, 0),
    )
    return head + loaded + b"".join(made) + table + names


def test_functions_that_the_loader_does_not_name(tmp_path: Path) -> None:
    """INJ-1: static ones, from the file's own table."""
    data = elf(
        [
            (b"f", 2, 1, 0x400100, 16),
            (b"object", 1, 1, 0x400200, 16),
            (b"undefined", 2, 0, 0x400300, 16),
            (b"empty", 2, 1, 0x400400, 0),
            (b"local", 0x12, 1, 0x400120, 8),
        ],
        0x400010,
    )
    file = tmp_path / "a.so"
    file.write_bytes(data)
    assert stacks._functions(str(file)) == ([0x100, 0x120], [(0x100, 16, "f"), (0x120, 8, "local")])
    text = "".join(f"{file}\t{at:x}\t\t0\n" for at in (0xFF, 0x100, 0x10F, 0x110, 0x127, 0x128))
    assert [(frame.function, frame.at) for frame in stacks.c_frames(text)] == [
        ("", 0), ("f", 0), ("f", 15), ("", 0), ("local", 7), ("", 0)
    ]  # fmt: skip
    other = tmp_path / "b.so"
    other.write_bytes(elf([(b"f", 2, 1, 0x400100, 16)], bits=1))
    assert stacks._functions(str(other)) == stacks._functions(str(tmp_path / "no")) == ([], [])


def test_whose_code_it_is() -> None:
    """INJ-3"""
    dynload = os.path.join(str(sysconfig.get_path("platstdlib")), "lib-dynload")
    modules = Modules("/usr/bin/python3")
    frames = [
        CFrame(module, 1)
        for module in (
            "/usr/bin/python3",
            f"{dynload}/_json.so",
            f"{dynload}/_ctypes.so",
            "/lib/libc.so.6",
            "?",
            "/a/b.so",
        )
    ]
    assert [modules.is_interpreters(frame) for frame in frames] == [True, True, False, False, False, False]
    assert [modules.is_passed(frame) for frame in frames] == [False, False, False, True, False, False]
    assert modules.others([*frames[:2], *frames[3:]]) is frames[5] and modules.others(frames) is frames[2]
    assert modules.others(frames[:2]) is modules.others(frames[3:5]) is None
    for name in (
        "libc-2.31.so",
        "libpthread.so.0",
        "libm.so.6",
        "libm-2.so",
        "ld-linux-x.so",
        "ld-musl.so",
        "libdl.so",
        "linux-vdso.so.1",
    ):
        assert modules.is_passed(CFrame(f"/x/{name}", 0)), name
    assert not modules.is_passed(CFrame("/x/libz.so", 0))


def test_up_to_what_called_it() -> None:
    own = os.path.join(os.path.dirname(os.path.abspath(stacks.__file__)), "injection_server.py")
    text = f"a.py\t3\tf\nshort\t3\nb.py\t4\tg\n{own}\t5\tcall\nc.py\t6\th\n"
    assert stacks.python_frames(text) == (PythonFrame("a.py", 3, "f"), PythonFrame("b.py", 4, "g"))
    frames = [CFrame("p", 1, "a"), CFrame("p", 2, stacks.EVAL + ".cold"), CFrame("p", 3, "b")]
    assert list(stacks.inner(frames)) == frames[:1] and stacks.inner(frames[2:]) == frames[2:]
    assert stacks.c_frames("p\t1f\tf\t10") == (CFrame("p", 31, "f", 16),)


def test_faults_that_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """INJ-3: by functions in their order, kind, end and version."""

    def known(version: tuple[int, int], kind: str, functions: str, end: str = "") -> str:
        monkeypatch.setattr(sys, "version_info", (*version, 0))
        c, end_c = ([CFrame("p", 0, name) for name in names.split()] for names in (functions, end))
        return known_fault(Finding(kind, "", (1,), "obj", 1, (), tuple(c), (), tuple(end_c)))

    lost, pair, twice = (fault.name for fault in FAULTS)
    frame = "x _PyFrame_MakeAndSetFrameObject y _PyFrame_Clear.part.0"
    for version, name in (((3, 10), ""), ((3, 11), lost), ((3, 12), "")):
        assert known(version, "crash", frame) == name
    assert (
        known((3, 11), "leak", frame)
        == known((3, 11), "crash", "_PyFrame_Clear _PyFrame_MakeAndSetFrameObject")
        == ""
    )
    rows = "PyTuple_Pack PyObject_GetIter"
    assert known((3, 11), "crash", rows, "dictiter_dealloc x") == pair
    assert known((3, 11), "crash", rows, "x dictiter_dealloc") == known((3, 11), "crash", rows) == ""
    made = "PyFunction_NewWithQualName"
    for version, name in (((3, 11), ""), ((3, 12), twice), ((3, 13), twice), ((3, 14), "")):
        assert known(version, "leak", f"{made} PyFunction_New {stacks.EVAL} f") == name
    assert known((3, 12), "leak", f"{made} {stacks.EVAL}") == twice
    assert known((3, 12), "leak", f"{made} func_new {stacks.EVAL}") == ""


# ---- one fault or two ---------------------------------------------------------------------------------------


def judge(names: tuple[str, ...] = ("obj",)) -> judgement.Judge:
    return judgement.Judge(names, lambda nth: f"again {nth}")


EXTENSION = "/x/ext.so\t1f\text_f\t10\n"
LINE = "a.py\t3\tf\n"


def test_which_are_one_fault(needs_native: None) -> None:
    """INJ-2: by the extension's call; else by what dealt with the refusal; else by the line that was refused."""
    made = judge()

    def key(**more: Any) -> Any:
        attempt = Attempt(
            **{"nth": 4, "c": "", "python": LINE, "status": 0, "said": {"kind": "leak", "detail": "d"}, **more}
        )
        return made.judged(attempt)[1]

    line = PythonFrame("a.py", 3, "f")
    told = {
        "kind": "wrong exception",
        "detail": "KeyError: x",
        "raised": True,
        "traceback": [("b.py", 9, "g"), ("c.py", 1, "h")],
    }
    assert key() == ("leak", (line,))
    assert key(c=EXTENSION) == ("leak", ("/x/ext.so", 31))
    assert key(said={"kind": "wrong result", "detail": "1: 2"}) == ("wrong result", ("1",))
    assert key(said=told) == ("wrong exception", (PythonFrame("b.py", 9, "g"), "KeyError"))
    assert key(said=None, status=9) == ("hang", (line,))
    crash = key(said=None, status=11, signal=11, end_c="/x/ext.so\t2f\tg\t1\n", c=EXTENSION)
    assert crash == ("crash", ("/x/ext.so", 31, CFrame("/x/ext.so", 47, "g", 1)))
    assert key(said=None, status=3 << 8) == ("exit", ("the process ended with status 3",))


def test_findings_in_their_order(needs_native: None) -> None:
    made = judge()
    said = {"kind": "leak", "detail": "d"}
    for nth, python in ((7, LINE), (9, "b.py\t1\tg\n"), (3, LINE), (5, LINE)):
        made.add(Attempt(nth, 0, said, size=64, domain=1, python=python, output=" out \n"))
    found = made.findings(attempts=4)
    assert [(each.numbers, each.output, each.command) for each in found] == [
        ((3, 5, 7), "out", "again 7"), ((9,), "out", "again 9")
    ]  # fmt: skip
    assert found.attempts == 4 and found.interpreter == () and (found[0].size, found[0].domain) == (64, "mem")
    alone = judge(("allocators",)).judged(
        Attempt(1, 0, {"kind": "not usable afterwards", "detail": "x", "traceback": [("c.py", 2, "h")]})
    )[0]
    python = Attempt(1, 0, {**said, "traceback": [("c.py", 2, "h")]}, python=LINE)
    assert judge(("allocators",)).judged(python)[0].python == (PythonFrame("a.py", 3, "f"),)
    assert judge().judged(replace(python, python=""))[0].python == ()
    assert alone.domain == "allocators" and alone.python == alone.end_python == (PythonFrame("c.py", 2, "h"),)


def test_what_is_the_interpreters(needs_native: None) -> None:
    """INJ-3: no extension on the stacks, and a reason."""
    made = judge()
    own, library = (CFrame("p", 1, "f"),), made.library[0] + "json.py"

    def why(kind: str, *, c: Any = own, end_c: Any = (), file: str = "", **said: Any) -> str:
        python = (PythonFrame(file, 1, "g"),) if file else ()
        return made.interpreters(Finding(kind, "d", (1,), "obj", 1, (), c, python, end_c), said)

    assert why("crash", end_c=own) == "d, in f, and no extension on the stacks"
    assert why("crash", end_c=(CFrame("/a/p", 1),)) == "d, in p+0x1, and no extension on the stacks"
    assert why("crash") == why("crash", c=(), end_c=own) == why("leak", end_c=own) == ""
    for kind in ("no exception", "stray exception", "wrong exception"):
        assert why(kind) == "d, and no extension on the stack" and why(kind, c=()) == ""
    assert why("wrong exception", raised=True) == why("wrong exception", raised=True, file="/me/a.py") == ""
    assert why("wrong exception", raised=True, file=library) == "d, and no extension on the stack"
    assert why("wrong exception", raised=True, file=made.packages[0] + "x.py") == ""


def test_when_the_interpreter_is_asked_for(needs_native: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """INJ-3: where no extension is on the stacks, no fault is known, and the signal is none that was sent."""
    made = judge()
    python = f"{made.modules.python}\t1\tf\t0\n"

    def known(**more: Any) -> str:
        crashed = {"status": 11, "signal": 11, "code": 1, "c": python, "end_c": python, "python": LINE}
        return made.judged(Attempt(**{"nth": 1, **crashed, **more}))[0].known

    crash = "SIGSEGV at address 0x0, in f, and no extension on the stacks"
    assert known() == crash
    assert known(code=0) == ""
    assert known(c=EXTENSION) == known(end_c=EXTENSION) == ""
    said = {"kind": "no exception", "detail": "d"}
    ended = {"status": 0, "signal": 0, "code": 0, "end_c": "", "said": said}
    assert known(**ended) == "d, and no extension on the stack"
    assert known(**ended, c=EXTENSION) == ""
    monkeypatch.setattr(judgement, "known_fault", lambda finding: "its fault")
    assert known() == known(c=EXTENSION) == known(code=0) == known(**ended) == "its fault"


def test_whose_call_a_finding_is(needs_native: None) -> None:
    """INJ-2: what the innermost Python code called comes before what called that, the refusal before the end."""
    made = judge()

    def frames(inside: int, outside: int) -> str:
        rows = [f"/x/e.so\t{n:x}\te{n}\t0\n" if n else "" for n in (inside, outside)]
        return f"?\t1\tf\t0\n{rows[0]}?\t1\t{stacks.EVAL}\t0\n{rows[1]}"

    for c, end_c, offset in (
        ((1, 2), (3, 4), 1), ((0, 2), (3, 4), 3), ((0, 2), (0, 4), 2), ((0, 0), (0, 4), 4), ((0, 0), (3, 4), 3),
        ((0, 2), (0, 0), 2), ((1, 2), (0, 0), 1),
    ):  # fmt: skip
        crash = Attempt(1, 11, signal=11, c=frames(*c), end_c=frames(*end_c), python=LINE)
        kind, place = made.judged(crash)[1]
        assert (kind, place[:2]) == ("crash", ("/x/e.so", offset))
    two = LINE + "b.py\t4\tg\n"
    said = {"kind": "leak", "detail": "d"}
    assert made.judged(Attempt(1, 0, said, python=two))[1] == ("leak", (PythonFrame("a.py", 3, "f"),))
    both = made.judged(Attempt(1, 11, signal=11, end_c="?\t1\tf\t0\n?\t2\tg\t0\n", python=two))[1]
    assert both == ("crash", (PythonFrame("a.py", 3, "f"), CFrame("?", 1, "f", 0)))


def test_which_end_an_attempt_had(needs_native: None) -> None:
    """INJ-1: that of the signal, also where the process went on to exit; else that of the exception."""
    made = judge()
    said = {"kind": "wrong exception", "detail": "d", "traceback": [("c.py", 2, "h")]}
    fault = '  File "/a/b.py", line 12 in f\n'
    own, caught = (PythonFrame("/a/b.py", 12, "f"),), (PythonFrame("c.py", 2, "h"),)
    for status, number, ends, end_c in ((11, 11, own, 1), (11, 0, own, 1), (0, 11, own, 1), (0, 0, caught, 0)):
        attempt = Attempt(1, status, said, signal=number, end_c="?\t1\tf\t0\n", end_python=fault, python=LINE)
        found = made.judged(attempt)[0]
        assert (found.end_python, len(found.end_c)) == (ends, end_c)


def test_the_interpreters_own_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """INJ-3: its library, where it has one; a sweep of allocators needs neither."""
    found: list[Any] = ["/lib/libpython.so"]
    dataplane = SimpleNamespace(injection_python=lambda: found[0])
    module: Any = SimpleNamespace(dataplane=dataplane)
    monkeypatch.setitem(sys.modules, "nativemem.backends.native.loader", module)
    assert judgement._python() == judge().modules.python == "/lib/libpython.so"
    found[0] = None
    assert judgement._python() == judge(("raw",)).modules.python == sys.executable
    assert judge(("allocators",)).modules.python is None


# ---- repetitions --------------------------------------------------------------------------------------------


def test_growth_by_slope() -> None:
    """What grows in each window, less what shrinks in each."""
    a, b, c = ((("a.py", 1, "f"),), (("b.py", 2, "g"),), (("c.py", 3, "h"),))
    marks = [
        (2, {a: (100, 1), b: (500, 5), c: (10, 1)}), (4, {a: (300, 5), b: (400, 4), c: (90, 1)}),
        (5, {a: (350, 5), b: (300, 3), c: (90, 1)}), (7, {a: (550, 6), b: (100, 1), c: (90, 1)}),
    ]  # fmt: skip
    alone = repetitions.judge([(n, {a: found[a]}) for n, found in marks], 2)
    assert alone.bytes == 50 and alone.windows == (100.0, 50.0, 100.0) and (alone.warmup, alone.repeat) == (2, 5)
    assert [(place.bytes, place.blocks, place.path) for place in alone.places] == [(50, 0, ("a.py:1 in f",))]
    both = repetitions.judge(marks, 2)
    assert both.bytes == 0.0 and both.places == () and not both and both.windows == (90.0, -50.0, 0.0)
    still = repetitions.judge([(n, {c: found[c]}) for n, found in marks], 0)
    assert still.bytes == 0.0 and not still
    order = repetitions.judge(
        [(0, {}), (1, {a: (5, 1), b: (9, 2), c: (9, 3)}), (2, {a: (10, 2), b: (18, 4), c: (18, 6)})], 0
    )
    assert [(place.bytes, place.blocks) for place in order.places] == [(9, 2), (9, 3), (5, 1)]


def test_growth_that_is_small_or_none() -> None:
    """By repetition, whatever the windows have of them; less than a byte each time is growth, too."""
    p, q = ((("p.py", 1, "f"),), (("q.py", 1, "f"),))

    def grown(*marks: dict[Any, tuple[int, int]], each: int = 2) -> repetitions.Growth:
        return repetitions.judge([(each * i, mark) for i, mark in enumerate(marks)], 0)

    slow = grown({p: (0, 0)}, {p: (1, 1)}, {p: (2, 2)})
    assert slow.bytes == 0.5 and slow and slow.windows == (0.5, 0.5) and len(slow.places) == 1
    twice = grown({p: (0, 0)}, {p: (100, 4)}, {p: (200, 8)})
    assert (twice.bytes, [(place.bytes, place.blocks) for place in twice.places]) == (50.0, [(50, 2)])
    gone = grown({p: (100, 5), q: (0, 0)}, {q: (120, 1)}, each=2)
    assert gone.bytes == 10.0 and len(gone.places) == 1  # what is no more there counts as nothing
    still = grown({p: (10, 1), q: (0, 0)}, {p: (10, 1), q: (8, 1)}, {p: (10, 1), q: (16, 2)})
    assert (still.bytes, [place.path for place in still.places]) == (4.0, [("q.py:1 in f",)])
    assert not grown({p: (10, 3)}, {p: (20, 2)}, {p: (15, 1)})  # the blocks are fewer, and that is all
    assert not grown({p: (10, 1)}, {p: (11, 1)}, {p: (11, 1)})
    assert not grown({p: (10, 1)}, {p: (10, 1)}) and grown({p: (10, 1)}, {p: (8, 1)}).windows == (-1.0,)


def test_growth_in_words() -> None:
    places = tuple(Place(1, 1, (name,)) for name in "abcdefg")
    grown = repetitions.Growth(2047.6, (2048.0, -1.0, 0.0), places, 1, 3)
    lines = str(grown).splitlines()
    assert lines[0] == "grows by 2.0 KiB a repetition (3 repetitions after 1 to warm up: +2.0 KiB, -1 B, +0 B)"
    assert lines[1:] == [*(f"  1 B in 1 block: {name}" for name in "abcde"), "  and 2 more places"]
    assert len(str(repetitions.Growth(1.0, (), places[:5], 1, 3)).splitlines()) == 6
    assert str(repetitions.Growth(1.0, (), places[:6], 1, 3)).splitlines()[6:] == ["  and 1 more places"]
    assert str(repetitions.Growth(0.0, (), (), 1, 3)) == "no growth in 3 repetitions after 1 to warm up"


@pytest.mark.parametrize(
    ("warmup", "repeat", "measured"),
    [(0, 1, {0, 1}), (1, 2, {1, 2, 3}), (1, 3, {1, 2, 3, 4}), (2, 7, {2, 4, 6, 9}), (10**6, 10**6, None)],
)
def test_when_it_is_measured(warmup: int, repeat: int, measured: set[int] | None) -> None:
    made = repetitions.Repetitions(warmup, repeat)
    assert made.total == warmup + repeat and made.own and made._at == (measured or made._at)
    for bad in ((-1, 1), (0, 0), (10**6 + 1, 1), (0, 10**6 + 1), (True, 1), (0, 1.0)):
        with pytest.raises(
            ConfigError, match=r"^growth\.(warmup|repeat): takes a whole number, [01] to 1000000, not"
        ):
            repetitions.Repetitions(*bad)  # type: ignore[arg-type]


def test_settling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until nothing is found, four times at most."""
    for found, times in (([0], 1), ([3, 0], 2), ([1] * 9, 4)):
        asked = array.array("q")
        turns = iter(found)
        monkeypatch.setattr(
            repetitions.gc, "collect", lambda asked=asked, turns=turns: asked.append(1) or next(turns)
        )  # type: ignore[misc]
        repetitions.settle()
        assert len(asked) == times
    cleared: list[str] = []
    monkeypatch.setattr(repetitions.gc, "collect", int)
    for names, clears in (
        (("_clear_internal_caches", "_clear_type_cache"), ["_clear_internal_caches"]),
        (("_clear_type_cache",), ["_clear_type_cache"]),
        ((), []),
    ):
        for name in ("_clear_internal_caches", "_clear_type_cache"):
            monkeypatch.delattr(sys, name, raising=False)
        for name in names:
            monkeypatch.setattr(sys, name, lambda name=name: cleared.append(name), raising=False)
        repetitions.settle()
        assert cleared == clears
        cleared.clear()


def test_a_function_that_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """PYT-3: measured where a window begins or ends, and between a trace's beginning and its end."""
    log: list[Any] = []
    blocks: list[int] = []

    class Trace:
        def __init__(self) -> None:
            self.recording = "recording"

        def start(self) -> None:
            log.append("start")

        def stop(self) -> None:
            log.append("stop")

    def by_path(recording: str, part: str) -> Any:
        log.append((recording, part))
        return {(("a.py", 1, "f"),): (10 * len(blocks), len(blocks))}

    def function() -> None:
        log.append("call")
        blocks.append(1)
        if len(blocks) == fails_at:
            raise KeyError

    fails_at = 0
    measure = ["settle", ("recording", "live")]
    monkeypatch.setattr(repetitions, "Trace", Trace)
    monkeypatch.setattr(repetitions, "by_path", by_path)
    monkeypatch.setattr(repetitions, "settle", lambda: log.append("settle"))
    found = repetitions.growth(function)
    assert log == ["start", "call", *measure, "call", *measure, "call", *measure, "call", *measure, "stop"]
    assert (found.bytes, found.windows, found.warmup, found.repeat) == (10.0, (10.0, 10.0, 10.0), 1, 3)
    log.clear()
    found = repetitions.growth(function, 0, 2)
    assert log == ["start", *measure, "call", *measure, "call", *measure, "stop"] and found.repeat == 2
    log.clear()
    fails_at = len(blocks) + 1
    with pytest.raises(KeyError):
        repetitions.growth(function, warmup=1)
    assert log == ["start", "call", "stop"]
    log.clear()
    its: Any = Trace()
    with repetitions.Repetitions(trace=its) as made:
        assert made.trace is its and not made.own and (made.warmup, made.repeat, made.total) == (1, 3, 4)
    assert log == []  # another begins and ends it
    with pytest.raises(ConfigError, match=r"^growth.function: takes a callable, not 5"):
        repetitions.growth(5)  # type: ignore[arg-type]
    assert log == []


def test_what_is_found_does_not_change() -> None:
    place = Place(1, 1, ("a",))
    finding = Finding("leak", "d", (1,), "obj", 1, (), ())
    for thing, name in (
        (place, "bytes"), (finding, "kind"), (Findings(), "attempts"), (CFrame("a", 1), "offset"),
        (repetitions.Growth(1.0, (), (), 1, 3), "bytes"), (FAULTS[0], "name"),
    ):  # fmt: skip
        with pytest.raises(FrozenInstanceError):
            setattr(thing, name, 5)
