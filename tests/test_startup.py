"""CLI-5: the program's side of ``nativemem run``, part by part: what it measures, bounds and says."""

from __future__ import annotations

import json
import os
import signal
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from nativemem.engine import install, startup
from nativemem.units import LEAST_OVER_HELD, reserve_of

MIB = 1 << 20


# --- what measures ---


def native(**engine: Any) -> Any:
    meter = startup._NativeMeter.__new__(startup._NativeMeter)
    meter._core = SimpleNamespace(**engine)
    return meter


def test_the_least_budget_counts_from_what_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not from the peak, which is higher."""
    limits: list[tuple[int, int]] = []
    core = SimpleNamespace(
        engine_budget=lambda: (5 * MIB, 7 * MIB, None, 2), engine_set_limit=lambda *both: limits.append(both)
    )
    monkeypatch.setattr(install, "core", lambda: core)
    meter = native()
    meter.bound(5 * MIB + LEAST_OVER_HELD, "--budget")
    assert limits == [(6 * MIB, reserve_of(6 * MIB))]
    with pytest.raises(startup._Refused) as caught:
        meter.bound(6 * MIB - 1, "NATIVEMEM_LIMIT")
    assert str(caught.value) == (
        "NATIVEMEM_LIMIT: 6291455 bytes is too little; the least is 6291456 (see nativemem run --help)"
    )
    assert len(limits) == 1


def test_what_children_get(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NATIVEMEM_LIMIT", "NATIVEMEM_AUTOINSTALL"):
        monkeypatch.setenv(name, "0")  # as they were before it is what they are after the test, not there too
    monkeypatch.delenv("NATIVEMEM_LIMIT")
    native().pass_on(None)
    assert (os.environ["NATIVEMEM_AUTOINSTALL"], "NATIVEMEM_LIMIT" in os.environ) == ("1", False)
    native().pass_on(7)
    assert (os.environ["NATIVEMEM_AUTOINSTALL"], os.environ["NATIVEMEM_LIMIT"]) == ("1", "7")


def test_what_the_engine_tells() -> None:
    sizes = [(64, 9), (16, 50), (1024, 1), (32, 40)]  # bins, and after them spans
    meter = native(engine_account=lambda: (sizes, (5, 6, 7)), engine_budget=lambda: (1, 2, 3, 4))
    assert meter.read() == {
        "allocations": 100, "p50": 16, "p90": 32, "p99": 64, "denials": 4,
        "denial": {"requested": 5, "used": 6, "limit": 7},
    }  # fmt: skip
    meter = native(engine_account=lambda: ([], None), engine_budget=lambda: (1, 2, 3, 0))
    assert meter.read() == {
        "allocations": 0, "p50": None, "p90": None, "p99": None, "denials": 0, "denial": None,
    }  # fmt: skip


class Ended:
    """A lock that is taken after so many waits."""

    def __init__(self, waits: int) -> None:
        self.left, self.waits = waits, []  # type: ignore[var-annotated]

    def acquire(self, timeout: float) -> bool:
        self.waits.append(timeout)
        self.left -= 1
        return self.left < 0


def test_the_watcher_of_the_pure_backend() -> None:
    """It refuses above the budget, not at it; waits longer after that; and takes back what comes too late."""
    meter = startup._PureMeter.__new__(startup._PureMeter)
    used = iter((100, 101, 150, 150, 160))
    runs = iter((True, True, False, True, False, False))
    meter._ended, meter._traced = Ended(5), lambda: (next(used), 0)  # type: ignore[assignment]
    meter._runs_program = lambda: next(runs)  # type: ignore[method-assign]
    meter._denial, meter._denials = None, 0
    called: list[str] = []
    meter._watch(100, lambda: called.append("refuse"), lambda: called.append("take back"))
    assert called == ["refuse", "refuse", "take back"]
    assert meter._ended.waits == [0.005, 0.005, 0.1, 0.005, 0.1, 0.005]
    assert (meter._denials, meter._denial) == (2, (50, 150, 100))
    assert meter.read() == {
        "allocations": None, "p50": None, "p90": None, "p99": None, "denials": 2,
        "denial": {"requested": 50, "used": 150, "limit": 100},
    }  # fmt: skip
    locked: list[str] = []
    meter._ended = SimpleNamespace(locked=lambda: True, release=lambda: locked.append("released"))  # type: ignore[assignment]
    meter._traced = lambda: (3, 9)
    assert (meter.lift(), locked) == (9, ["released"])
    meter._ended = SimpleNamespace(locked=lambda: False)  # type: ignore[assignment]
    assert meter.lift() == 9 and meter.profile("x", 1) is False
    assert meter.note.endswith("; there is no profile, which is of the engine")


@pytest.mark.parametrize(
    ("modules", "runs"),
    [
        ([], False),
        (["__main__"], True),
        (["threading", "__main__"], True),
        (["threading", "json.encoder"], False),
        (["runpy"], True),
        (["nativemem.budgets.scopes", "os"], False),
        (["namedtuple_Point", "collections"], False),
        (["__main__", "nativemem.commands.start", "other"], True),
        (["traceback", "nativemem.commands.start", "__main__"], False),
        (["finder", "importlib._bootstrap"], False),
        (["finder", "_frozen_importlib"], False),
        (["finder", "_frozen_importlib", "__main__"], True),
        (["finder", "_frozen_importlib_external", "os"], False),
        (["helper"], True),
        ([None], True),
        ([7], True),
        (["stdlibrary"], True),
    ],
)
def test_whether_the_program_is_on_the_stack(modules: list[Any], runs: bool) -> None:
    """The innermost first."""
    frame = None
    for name in reversed(modules):
        frame = SimpleNamespace(f_globals={} if name is None else {"__name__": name}, f_back=frame)
    assert startup._runs_program(frame) is runs  # type: ignore[arg-type]


def test_which_meter(monkeypatch: pytest.MonkeyPatch) -> None:
    made = SimpleNamespace
    monkeypatch.setattr(startup, "_PureMeter", lambda why: made(pure=why))
    monkeypatch.setattr(startup, "_NativeMeter", lambda: made(pure=None))
    monkeypatch.setattr(startup, "_ArraysMeter", lambda: made(pure="arrays alone are the engine's"))
    for backend, without_lock, why in (
        ("native", False, None),
        ("native", True, "arrays alone are the engine's"),
        ("pure", False, "pure backend (nativemem doctor says why)"),
        ("pure", True, f"pure backend, as {startup.without_lock()}; what threads take within that time is not "
         "bounded, nor what C code takes by itself"),
    ):  # fmt: skip
        monkeypatch.setattr(startup, "select", lambda asked, backend=backend: backend)
        monkeypatch.setattr(startup, "is_free_threaded", lambda without_lock=without_lock: without_lock)
        assert startup._meter().pure == why

    def declined() -> None:
        raise startup.errors.NativeUnavailable("tracemalloc is on")

    monkeypatch.setattr(startup, "select", lambda asked: "native")
    monkeypatch.setattr(startup, "is_free_threaded", lambda: False)
    monkeypatch.setattr(startup, "_NativeMeter", declined)
    assert startup._meter().pure == "the engine is off (tracemalloc is on)"


def test_arrays_that_are_bounded_without_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said that they are where they are: neither below the least limit nor where the engine is declined."""
    monkeypatch.setattr(startup._PureMeter, "bound", lambda *_: None)
    monkeypatch.setattr(startup, "install", lambda objects: None)
    for error, bounds, note in (
        (None, True, "why; arrays beyond the budget are refused at once"),
        (startup.errors.InvalidLayout("too little"), False, "why"),
        (startup.errors.NativeUnavailable("insides"), False, "why; the engine is off (insides)"),
    ):

        def limit_to(budget: int, said_by: str, error: Exception | None = error) -> None:
            assert (budget, said_by) == (MIB, "--budget")
            if error is not None:
                raise error

        monkeypatch.setattr(startup, "limit_to", limit_to)
        meter = startup._ArraysMeter.__new__(startup._ArraysMeter)
        meter.note, meter._bounds = "why", False
        meter.bound(MIB, "--budget")
        assert (meter._bounds, meter.note) == (bounds, note)


# --- where it is said ---


def test_where_it_is_said(tmp_path: Any) -> None:
    """In the file that was descriptor 2, at whichever number it still is; nowhere else."""

    def descriptor(name: str) -> int:
        return os.open(tmp_path / name, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)

    said = startup._Stderr.__new__(startup._Stderr)
    right, wrong = descriptor("right"), descriptor("wrong")
    kept = os.dup(2)
    try:
        said._file = said._identity(right)
        said._copy = os.dup(right)
        said.say(["one", "two"])
        os.dup2(wrong, said._copy)  # the program has another file there
        said.say(["lost"])
        os.dup2(right, 2)
        said.say(["\N{EURO SIGN} \udc80"])
        said._forget()  # it is not ours
        assert said._copy == -1
        os.fstat(right)
        said.say(["by two"])
        os.close(right)
        said._file = None
        said.say(["never"])
    finally:
        os.dup2(kept, 2)
        os.close(kept)
    assert (tmp_path / "right").read_bytes() == (
        b"nativemem: one\nnativemem: two\nnativemem: \xe2\x82\xac \\udc80\nnativemem: by two\n"
    )
    assert (tmp_path / "wrong").read_bytes() == b""
    os.close(wrong)


def test_the_copy_of_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    """Out of the way of the program's descriptors; ended in a child; none where there is none."""
    said = startup._Stderr()
    try:
        assert said._copy >= 20 and said._is_at(said._copy) and said._is_at(2) and not said._is_at(-1)
        said.say(["hello"])
    finally:
        copy = said._copy
        said._forget()
    with pytest.raises(OSError):
        os.fstat(copy)
    assert (said._copy, capfd.readouterr().err) == (-1, "nativemem: hello\n")


def test_no_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    said = startup._Stderr()
    assert (said._copy, said._file) == (-1, None)
    said.say(["nothing"])


def test_a_pipe_that_nothing_empties(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "_PATIENCE", 0)
    reads, writes = os.pipe()
    try:
        os.set_blocking(writes, False)
        assert startup._takes(writes) is True
        with pytest.raises(BlockingIOError):
            while True:
                os.write(writes, bytes(4096))
        assert startup._takes(writes) is False
    finally:
        os.close(reads)
        os.close(writes)


def test_what_does_not_disturb_the_end() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGPIPE, signal.SIGINT)}
    undisturbed = startup._Undisturbed()
    undisturbed.enter()
    undisturbed.enter()  # an interrupt came in the midst of it
    try:
        assert {signal.getsignal(number) for number in before} == {signal.SIG_IGN}
    finally:
        undisturbed.leave()
    assert {number: signal.getsignal(number) for number in before} == before


# --- what is said ---


class Meter:
    backend = "native"
    note = ""

    def __init__(self, watches: bool, denial: dict[str, int] | None = None) -> None:
        self.watches, self.denial = watches, denial
        self.planned: list[tuple[int, int, int]] = []

    def lift(self) -> int:
        return 3 * MIB

    def read(self) -> dict[str, Any]:
        return {"allocations": 5, "p50": 16, "p90": 32, "p99": 64, "denials": int(self.denial is not None),
                "denial": self.denial}  # fmt: skip

    def plan_end(self, code: int, file: int, at: int) -> None:
        self.planned.append((code, file, at))


DENIAL = {"requested": 100, "used": 200, "limit": 4 * MIB}


@pytest.mark.parametrize("watches", [True, False])
@pytest.mark.parametrize("error", [None, MemoryError(), KeyError()], ids=["", "MemoryError", "KeyError"])
@pytest.mark.parametrize("denial", [None, DENIAL], ids=["none", "denied"])
@pytest.mark.parametrize("inspect", [0, 1])
def test_the_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, watches: bool, error: Any, denial: Any, inspect: int
) -> None:
    """The file, with room for an exit code that comes later; and the code of a budget that has ended it."""
    meter = Meter(watches, denial)
    summary = startup._Summary(meter, 4 * MIB, str(tmp_path / "s.json"))
    said: list[str] = []
    left: list[int] = []
    summary.stderr = SimpleNamespace(say=said.extend)  # type: ignore[assignment]
    monkeypatch.setattr(startup, "_leave", left.append)
    flags = {name: getattr(sys.flags, name) for name in dir(sys.flags) if name[0] != "_"}
    monkeypatch.setattr(startup.sys, "flags", SimpleNamespace(**{**flags, "inspect": inspect}))
    monkeypatch.setattr(startup.sys, "last_value", error, raising=False)
    (tmp_path / "s.json").write_text("x" * 10_000)
    summary()
    over = denial is not None and isinstance(error, MemoryError)
    code = None if error is None else 3 if over else 1
    text = (tmp_path / "s.json").read_text()
    found = json.loads(text)
    assert text.endswith("\n}\n") and found["exit_code"] == code
    assert (found["peak_bytes"], found["headroom_bytes"], found["denial"]) == (3 * MIB, MIB, denial)
    assert (found["backend"], found["pid"], found["budget_bytes"]) == ("native", os.getpid(), 4 * MIB)
    assert list(found)[-1] == "exit_code" and "profile" not in found
    if watches:
        ((planned, file, at),) = meter.planned
        assert planned == (3 if over else 0) and text[at:].partition("\n")[0].split() == [json.dumps(code)]
        os.pwrite(file, b"255 ", at)  # as the end does it
        os.close(file)
        assert json.loads((tmp_path / "s.json").read_text())["exit_code"] == 255
        assert left == []
    else:
        assert meter.planned == [] and left == ([3] if over and not inspect else [])
    assert ("budget exceeded" in said[-1]) is over and len(said) == 2 + (denial is not None)


def test_a_summary_that_cannot_be_written(tmp_path: Any) -> None:
    meter = Meter(True)
    summary = startup._Summary(meter, None, str(tmp_path / "none" / "s.json"))
    said: list[str] = []
    summary.stderr = SimpleNamespace(say=said.extend)  # type: ignore[assignment]
    summary()
    assert said[0].startswith("the summary was not written: ") and len(said) == 2
    assert meter.planned == [(0, -1, 0)]
    summary.output, summary.pid = os.devnull, os.getpid()
    summary()
    assert meter.planned[1:] == [(0, -1, 0)], "no place for a code where nothing can be written over"
    summary.pid += 1
    summary()
    assert len(meter.planned) == 2, "a child made by fork says nothing"


def test_bytes_that_are_written_piece_by_piece(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(startup, "_write", lambda file, data: os.write(file, data[:7]))
    summary = startup._Summary(Meter(False), None, str(tmp_path / "s.json"))
    assert summary._put({"a": 1, "b": "x"}, 7) == (-1, 0)
    assert (tmp_path / "s.json").read_text() == '{\n "a": 1,\n "b": "x",\n "exit_code": 7   \n}\n'
    closed: list[int] = []
    monkeypatch.setattr(startup, "_close", closed.append)

    def full(file: int, data: bytes) -> int:
        raise OSError(28, "no space")

    monkeypatch.setattr(startup, "_write", full)
    with pytest.raises(OSError, match="no space"):
        summary._put({}, None)
    for file in closed:
        os.close(file)
    assert len(closed) == 1


def test_why_it_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopped(KeyboardInterrupt):
        pass

    monkeypatch.delattr(sys, "last_value", raising=False)
    assert startup._code_by_now(True) is startup._code_by_now(False) is None
    for error, denied, code in (
        (KeyboardInterrupt(), False, 130), (KeyboardInterrupt(), True, 130), (Stopped(), True, 1),
        (MemoryError(), True, 3), (MemoryError(), False, 1), (ValueError(), True, 1),
    ):  # fmt: skip
        monkeypatch.setattr(sys, "last_value", error, raising=False)
        assert startup._code_by_now(denied) == code


def test_json() -> None:
    for value in (None, 1, 1.5, "", 'a"b\\c', "\x00\x1f \x7e\x7f\u20ac", {"a": None, "b": {"c": "d"}}, {}):
        text = startup._json(value)
        assert json.loads(text) == value and text.isascii()


def numbers(**changed: Any) -> dict[str, Any]:
    plain = {"wall_s": 1.234, "peak_bytes": 3 * MIB, "peak_rss_bytes": None, "allocations": None, "p50": None,
             "budget_bytes": None, "denial": None, "backend": "native"}  # fmt: skip
    return {**plain, **changed}


def test_lines() -> None:
    assert startup._lines(numbers(), None, "") == ["1.23 s, peak 3.0 MiB"]
    assert startup._lines(numbers(), None, "note") == ["note", "1.23 s, peak 3.0 MiB"]
    many = numbers(peak_rss_bytes=5 * MIB, allocations=12345, p50=1000, p90=2000, p99=3000)
    assert startup._lines(many, 0, "") == [
        "1.23 s, peak 3.0 MiB (resident 5.0 MiB), 12,345 allocations, size p50 1,000 p90 2,000 p99 3,000 B"
    ]
    for denials, words in ((0, "0 denials"), (1, "1 denial"), (2000, "2,000 denials")):
        bounded = numbers(budget_bytes=4 * MIB, headroom_bytes=MIB, denials=denials)
        assert startup._lines(bounded, 0, "")[1:] == [f"budget 4.0 MiB, headroom 1.0 MiB, {words}"]
    cure = "; give it more with --budget, or find what holds them"
    kept = f" ({reserve_of(4 * MIB):,} of them kept for handling the error)"
    for backend, code, what, note in (
        ("native", 3, "budget exceeded", kept), ("native", 0, "the last denial", kept),
        ("native", None, "the last denial", kept), ("pure", 3, "budget exceeded", ""),
    ):  # fmt: skip
        said = startup._lines(numbers(backend=backend, denial={**DENIAL, "requested": 12345}), code, "")
        assert said[1:] == [f"{what}: 12,345 bytes asked for with 200 in use, 4,194,304 allowed{note}{cure}"]


def test_the_peak_of_the_resident_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    usage = SimpleNamespace(ru_maxrss=7000)
    monkeypatch.setattr(resource, "getrusage", lambda which: usage)
    monkeypatch.setattr(startup.os, "read", lambda file, n: b"Name: x\nVmHWM:\t  123 kB\nVmRSS:\t 9 kB\n")
    if os.path.exists("/proc/self/status"):
        assert startup._peak_rss() == 123 * 1024
    monkeypatch.setattr(startup.os, "read", lambda file, n: b"Name: x\n")
    monkeypatch.setattr(startup.sys, "platform", "linux")
    assert startup._peak_rss() == 7000 * 1024
    monkeypatch.setattr(startup.sys, "platform", "darwin")
    assert startup._peak_rss() == 7000
    monkeypatch.setitem(sys.modules, "resource", None)
    assert startup._peak_rss() is None


def test_what_is_flushed_before_it_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Any] = []

    class Broken:
        def flush(self) -> None:
            done.append("out")
            raise ValueError

    monkeypatch.setattr(startup.sys, "stdout", Broken())
    monkeypatch.setattr(startup.sys, "stderr", SimpleNamespace(flush=lambda: done.append("err")))
    monkeypatch.setattr(startup.os, "_exit", done.append)
    startup._leave(3)
    monkeypatch.undo()
    assert done == ["out", "err", 3]


@pytest.mark.parametrize(
    ("budget", "limit", "profile", "variable", "said"),
    [
        (None, None, None, None, [("pass on", None)]),
        (9, 5, None, None, [("bound", 9, "--budget"), ("pass on", 9)]),
        (None, 5, None, None, [("bound", 5, "NATIVEMEM_LIMIT"), ("pass on", 5)]),
        (None, None, ("a.nm", 1), ("b.nm", 2), [("profile", "a.nm", 1), ("pass on", None)]),
        (None, None, None, ("b.nm", 2), [("profile", "b.nm", 2), ("pass on", None)]),
    ],
)
@pytest.mark.parametrize("starts", [True, False])
def test_the_start(
    monkeypatch: pytest.MonkeyPatch, budget: Any, limit: Any, profile: Any, variable: Any, said: Any, starts: bool
) -> None:
    called: list[Any] = []
    meter = SimpleNamespace(
        bound=lambda *words: called.append(("bound", *words)),
        pass_on=lambda *words: called.append(("pass on", *words)),
        profile=lambda *words: (called.append(("profile", *words)), starts)[1],
    )
    kept: list[Any] = []
    monkeypatch.setattr(startup, "_meter", lambda: meter)
    monkeypatch.setattr(startup, "Settings", SimpleNamespace(from_env=lambda: SimpleNamespace(limit=limit)))
    monkeypatch.setattr(startup.profiling, "from_environment", lambda: variable)
    monkeypatch.setattr(startup, "import_what_was_put_off", lambda: called.append("imports"))
    monkeypatch.setattr(startup.atexit, "register", kept.append)
    startup._start(budget, "s.json", profile)
    assert called == [*said, "imports"]
    (summary,) = kept
    summary.stderr._forget()
    named = profile or variable
    assert (summary.meter, summary.budget, summary.output) == (meter, budget or limit, "s.json")
    assert summary.profile == (named[0] if named and starts else None)
