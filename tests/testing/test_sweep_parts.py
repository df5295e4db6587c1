"""The parts of a sweep, each by itself: what its server decides, what its caller hears, whose code a stack is."""

from __future__ import annotations

import io
import os
import pickle
import resource
import select
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable
from dataclasses import astuple
from types import SimpleNamespace
from typing import Any

import pytest

from nativemem.errors import ConfigError, NativeMemError, NativeUnavailable
from nativemem.facades import configured
from nativemem.testing import injection, injection_report, injection_server
from nativemem.testing.injection_report import Attempt, Shared
from nativemem.testing.injection_server import Plan, Server


@pytest.fixture(autouse=True)
def collections(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """There is no garbage here, and a suite has much that would be looked through each time: what was asked for."""
    log: list[str] = []
    steps = {name: lambda name=name: log.append(name) for name in ("collect", "disable", "freeze")}
    monkeypatch.setattr(injection_server, "settle", lambda: log.append("settle"))
    monkeypatch.setattr(injection_server, "gc", SimpleNamespace(**steps))
    return log


class Counted:
    """A source that refuses nothing, and counts calls by number."""

    names: tuple[str, ...] = ("obj",)

    def __init__(self, live: list[int] | None = None, refused: int = 1) -> None:
        self.calls: list[tuple[int, bool]] = []
        self.log: list[str] = []
        self.blocks = iter(live or [])
        self.refused = refused

    def report_size(self) -> int:
        return 0

    def open(self, shared: Shared) -> None:
        self.calls.append((-1, False))

    def call(self, function: Callable[[], Any], nth: int, sticky: bool, sites: Any) -> Any:
        self.calls.append((nth, sticky))
        self.log.append("call")
        return function()

    def counted(self, shared: Shared) -> tuple[int, int]:
        return 9, self.refused

    def live(self, shared: Shared) -> int:
        self.log.append("live")
        return next(self.blocks)


def plan(source: Any = None, function: Callable[[], Any] = int, **more: Any) -> Plan:
    values: dict[str, Any] = {
        **{"nth": None, "sticky": False, "allowed": (), "leaks": False, "per_site": None, "most": 100},
        **{"seconds": 60.0, "timeout": 1.0},
    }
    return Plan(function=function, source=source or Counted(), **{**values, **more})


def server(source: Any = None, function: Callable[[], Any] = int, **more: Any) -> Server:
    nothing: Any = None
    return Server(plan(source, function, **more), Shared(0), io.BytesIO(), nothing, nothing)


def sent(made: Server) -> list[tuple[Any, ...]]:
    data, found = made.channel.getvalue(), []  # type: ignore[attr-defined]
    while data:
        (size,) = struct.unpack_from("=q", data)
        found.append(pickle.loads(data[8 : 8 + size]))
        data = data[8 + size :]
    return found


def raised(function: Callable[[], Any]) -> BaseException:
    try:
        function()
    except BaseException as error:
        return error
    raise AssertionError


# ---- what is asked of blocks and values ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("live", "grows"),
    [
        ([1, 1, 1, 1, 1, 1], False),
        ([0, 1, 1, 2, 2, 2], False),
        ([0, 1, 1, 2, 2, 3], True),
        ([9, 0, 0, 0, 9], False),
        ([0, 1, 1, 2, 2], False),
        ([0, 1, 1, 2, 3], True),
    ],
)
def test_what_grows(live: list[int], grows: bool) -> None:
    """INJ-1: by more than every second run."""
    assert injection_server._grows(live) is grows


def test_by_how_much() -> None:
    assert injection_server._most_often([0, 3, 6, 7, 8]) == 3
    assert injection_server._most_often([0, 1, 2, 3, 9]) == 1


@pytest.mark.parametrize(
    ("count", "chosen"), [(1, [1]), (2, [1, 9]), (3, [1, 9, 5]), (4, [1, 9, 3, 6]), (9, [*range(1, 10)])]
)
def test_of_a_place_so_many(count: int, chosen: list[int]) -> None:
    """INJ-2: the first, the last, and between evenly."""
    assert injection_server._spread(list(range(1, 10)), count) == chosen


def test_values_in_words() -> None:
    class Mute(Exception):
        def __repr__(self) -> str:
            raise ValueError

        __str__ = __repr__

        def __eq__(self, other: object) -> bool:
            raise ValueError

        __hash__ = None  # type: ignore[assignment]

    short, same, named = injection_server._short, injection_server._same, injection_server._named
    assert short("a" * 118) == repr("a" * 118) and short("a" * 119) == f"'{'a' * 116}..."
    assert short(["a\n", 1]) == "['a\\n', 1]" and short(Mute()) == "some Mute"
    assert named(KeyError("x  y")) == "KeyError: 'x y'" and named(ValueError()) == "ValueError"
    assert named(Mute()) == f"{Mute.__qualname__}: (it has no text)"
    assert len(named(ValueError("b" * 400))) == len("ValueError: ") + 300
    assert same(1, 1) and not same(1, True) and not same(1, 2) and same(Mute(), 1) is same(Mute(), Mute()) is False


def test_where_an_exception_comes_from() -> None:
    def deep(n: int) -> None:
        if n:
            deep(n - 1)
        else:
            int("x")

    rows = injection_server._lines(raised(lambda: deep(40)))
    assert len(rows) == 32 and [name for _, _, name in rows[:2]] == ["deep", "deep"]
    line = deep.__code__.co_firstlineno
    assert [number for _, number, _ in rows[:2]] == [line + 4, line + 2] and rows[0][0] == __file__
    broken: Any = SimpleNamespace(__traceback__=3)
    assert injection_server._lines(broken) == []

    def raises() -> None:
        raise KeyError

    assert injection_server._is_raised(raised(raises).__traceback__)
    assert not injection_server._is_raised(raised(lambda: int("x")).__traceback__)
    assert injection_server._is_raised(None) is False


def test_a_want_of_memory() -> None:
    """INJ-1: by itself, as the cause, however far, and of each in a group."""
    is_want = injection_server._is_want
    chain, ring = [OSError(), KeyError(), MemoryError()], [OSError(), KeyError()]
    for error, cause in ((chain[0], chain[1]), (chain[1], chain[2]), (ring[0], ring[1]), (ring[1], ring[0])):
        error.__cause__ = cause
    assert is_want(chain[0]) and is_want(MemoryError()) and not is_want(ring[0]) and not is_want(OSError())

    class Group(Exception):
        exceptions: Any = ()

    group = Group()
    assert not is_want(group)
    for exceptions, wants in (((MemoryError(), chain[1]), True), ((MemoryError(), OSError()), False), ([], False)):
        group.exceptions = exceptions
        assert is_want(group) is wants


# ---- one attempt --------------------------------------------------------------------------------------------


def test_what_an_exception_says() -> None:
    """INJ-1: of which kind it is, and where it was raised."""
    made = server(allowed=(KeyError,))
    assert made.judged(MemoryError()) == made.judged(KeyError()) == {}
    for text, kind in (
        ("f returned NULL without setting an exception", "no exception"),
        ("f returned a result with an exception set", "stray exception"),
        ("without a word", "wrong exception"), ("bad argument, an exception", "wrong exception"),
    ):  # fmt: skip
        assert made.judged(SystemError(text)) == {
            "kind": kind, "detail": f"SystemError: {text}", "traceback": [], "raised": False,
        }  # fmt: skip

    def raises() -> None:
        raise OSError("x")

    said = made.judged(raised(raises))
    assert (said["kind"], said["detail"], said["raised"]) == ("wrong exception", "OSError: x", True)
    assert said["traceback"][0][2] == "raises"


def test_what_a_trial_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """INJ-1: whether the call itself adds a thread; where it does, whether two calls give the same."""
    for before, after, results, said, calls in (
        ({"1"}, {"1"}, [5, 5], {"threads": False, "comparable": False}, 1),
        ({"1", "2"}, {"1"}, [5, 5], {"threads": False, "comparable": False}, 1),
        ({"1"}, {"1", "2"}, [5, 5], {"threads": True, "comparable": True}, 2),
        ({"1"}, {"1", "2"}, [5, 6], {"threads": True, "comparable": False}, 2),
        (set(), {"1"}, [5, 5], {"threads": True, "comparable": True}, 2),
    ):
        threads, turns = iter([before, after]), iter(results)
        monkeypatch.setattr(injection_server, "_threads", lambda threads=threads: next(threads))
        made = server(function=lambda turns=turns: next(turns))
        made.trial()
        assert made.shared.read(0, 0).said == said
        assert made.plan.source.calls == [(0, False)] * calls  # type: ignore[attr-defined]


def test_threads_of_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the system's numbers; by the interpreter's where there is no such folder."""
    asked_for: list[str] = []

    def listed(folder: str) -> list[str]:
        asked_for.append(folder)
        return ["7", "8"]

    monkeypatch.setattr(injection_server.os, "listdir", listed)
    assert injection_server._threads() == {"7", "8"} and asked_for == ["/proc/self/task"]
    monkeypatch.undo()
    monkeypatch.setattr(injection_server.os, "listdir", lambda folder: os.stat("/no such folder"))
    assert injection_server._threads() == set(threading.enumerate())


def test_an_attempt_and_the_run_after_it() -> None:
    """INJ-1: what it said, in each case, and how often the function was called."""

    def asked(results: list[Any], **more: Any) -> tuple[dict[str, Any], list[tuple[int, bool]]]:
        turns = iter(results)

        def function() -> Any:
            result = next(turns)
            if isinstance(result, Exception):
                raise result
            return result

        source = Counted(refused=more.pop("refused", 1))
        made = server(source, function, sticky=more.pop("sticky", False))
        made.result, made.comparable, made.warm_each = 5, more.pop("comparable", True), more.pop("warm", False)
        made.refuse(3)
        said = made.shared.read(3, 0).said
        assert said is not None and (said.pop("allocations"), said.pop("refused")) == (9, source.refused)
        return said, source.calls

    once, then = (3, False), (0, False)
    assert asked([5, 5]) == asked([MemoryError(), 5]) == ({}, [once, then])
    assert asked([5], refused=0) == ({}, [once])
    assert asked([MemoryError(), 5], sticky=True)[1] == [(3, True), then]
    assert asked([7, MemoryError(), 7], warm=True) == ({}, [then, once, then])  # as it was in this process
    assert asked([7, MemoryError(), 5], warm=True)[0]["detail"] == "then gave 5 instead of 7"
    assert asked([6]) == ({"kind": "wrong result", "detail": "6 instead of 5"}, [once])
    assert asked([6, 7], comparable=False) == ({}, [once, then])
    assert asked([5, 6])[0] == {"kind": "not usable afterwards", "detail": "then gave 6 instead of 5"}
    said, calls = asked([MemoryError(), KeyError("x")])
    assert said.pop("traceback")[0][2] == "function" and calls == [once, then]
    assert said == {"kind": "not usable afterwards", "detail": "then raised KeyError: 'x'"}
    said, calls = asked([OSError("x")])
    assert (said["kind"], said["detail"], said["raised"], calls) == ("wrong exception", "OSError: x", True, [once])


def test_blocks_that_each_run_keeps(collections: list[str]) -> None:
    """INJ-1: the first runs are not looked at, and where nothing grows no more are made."""

    def repeated(live: list[int], refused: int = 1) -> tuple[dict[str, Any], int]:
        source, said = Counted(live, refused), dict[str, Any]()
        source.log = collections  # one after another
        server(source, sticky=True).repeat(4, said)
        assert set(source.calls) == {(4, True)}
        each = ["collect", "call", "settle"] + ["live"] * bool(refused)
        assert collections == each * len(source.calls)
        collections.clear()
        return said, len(source.calls)

    assert repeated([7] * 14) == ({}, 14)
    assert repeated([*range(0, 80, 10), 80, 80, 80, 80, 80, 80]) == ({}, 14)
    assert repeated([*range(20)]) == ({"kind": "leak", "detail": "1 block each time"}, 20)
    assert repeated([*range(0, 60, 3)]) == ({"kind": "leak", "detail": "3 blocks each time"}, 20)
    assert repeated([*range(14), *[14] * 6]) == ({}, 20)
    assert repeated([1, 2], refused=0) == ({}, 1)


def test_blocks_are_looked_for_where_that_is_asked(collections: list[str]) -> None:
    """INJ-1: after the attempt and before the run that shows whether the function is usable."""
    for leaks in (False, True):
        made = server(leaks=leaks)
        made.repeat = lambda nth, said: collections.append(f"repeat {nth}")  # type: ignore[method-assign, misc]
        said: dict[str, Any] = {}
        made.after(4, said)
        assert collections == ["collect", *["repeat 4"] * leaks, "collect", "collect"] and said == {}
        collections.clear()


def test_the_first_words_of_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """It opens the source, tells what went wrong, and ends."""
    ends: list[int] = []

    def end(status: int) -> None:
        ends.append(status)
        raise SystemExit

    monkeypatch.setattr(os, "_exit", end)
    made = server()
    log: list[Any] = made.plan.source.calls  # type: ignore[attr-defined]
    monkeypatch.setattr(Server, "detach", lambda self: log.append("detach"))
    monkeypatch.setattr(Server, "sweep", lambda self: log.append("sweep"))
    assert isinstance(raised(made.serve), SystemExit) and ends == [0]
    assert log == ["detach", (-1, False), "sweep"] and sent(made) == []
    monkeypatch.setattr(Server, "sweep", lambda self: 1 // 0)
    assert isinstance(raised(made.serve), SystemExit) and ends == [0, 1]
    ((kind, text),) = sent(made)
    assert kind == "broken" and text.splitlines()[-1].startswith("ZeroDivisionError")
    made.channel.close()  # the caller has gone
    assert isinstance(raised(made.serve), SystemExit) and ends == [0, 1, 1]


def test_what_is_sent_is_there_at_once() -> None:
    reads, writes = os.pipe()
    with open(writes, "wb") as channel, open(reads, "rb", buffering=0) as heard:
        injection_server.send(channel, "a", 1)
        (size,) = struct.unpack("=q", heard.read(8))
        assert pickle.loads(heard.read(size)) == ("a", 1)


def test_a_fork_beside_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter's warning of them is not for the function's author."""

    def fork() -> int:
        warnings.warn("threads", DeprecationWarning, stacklevel=2)
        return 5

    monkeypatch.setattr(os, "fork", fork)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert injection_server.forked() == 5
        with pytest.raises(DeprecationWarning):
            fork()


def test_tools_that_look_on_are_off(needs_native: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """INJ-1: those of sys.monitoring, each of the six that is there."""
    told = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def get_tool(tool: int) -> str | None:
        if tool > 5:
            raise ValueError(tool)
        return "some" if tool in (0, 2, 5) else None

    def set_events(tool: int, events: int) -> None:
        os.write(told, f"{tool} {events}\n".encode())

    monitoring = SimpleNamespace(get_tool=get_tool, set_events=set_events)
    monkeypatch.setattr(sys, "monitoring", monitoring, raising=False)
    binding = configured()
    assert list(injection.sweep(lambda: binding.default_system.alloc(10).free(), domains="allocators")) == []
    os.close(told)
    assert (tmp_path / "log").read_text() == "0 0\n2 0\n5 0\n"


def attempted(run: Callable[[Server], None], **more: Any) -> tuple[Server, Attempt, str]:
    """A real attempt, in a child of this process: what is known of it, and what it wrote."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as faults:
        for file in (output, faults):
            file.write(b"of the one before" * 9)
            file.flush()
        made = Server(plan(**more), Shared(0), io.BytesIO(), output, faults)
        found = made.attempt(3, lambda: run(made))
        made.written(found)
        return made, found, os.pread(output.fileno(), 1 << 16, 0).decode("utf-8", "replace")


def test_a_real_attempt() -> None:
    """INJ-1: in a process and a group of its own; nothing of the attempt before it is left."""

    def run(made: Server) -> None:
        os.write(made.output.fileno(), b"first")
        made.shared.say(process=os.getpid(), group=os.getpgid(0), timer=signal.getitimer(signal.ITIMER_REAL)[0])
        os.write(made.faults.fileno(), b"fault")

    made, found, wrote = attempted(run, timeout=50.0)
    said: dict[str, Any] = found.said or {}
    process, count = made.shared.under_way()
    assert (found.nth, found.status, wrote, found.output, found.end_python) == (3, 0, "first", "first", "fault")
    assert said["process"] == said["group"] == process != os.getpid() and count == 1 and 40 < said["timer"] <= 50


def test_an_attempt_that_breaks() -> None:
    def run(made: Server) -> None:
        raise KeyError("of the run")

    _, found, _ = attempted(run)
    assert found.status == 0 and [*(found.said or ())] == ["broken"]
    assert (found.said or {})["broken"].rstrip().endswith("KeyError: 'of the run'")


def test_what_an_attempt_writes_is_kept_in_part() -> None:
    def run(made: Server) -> None:
        os.write(made.output.fileno(), b"\xff" + b"a" * 5000)
        os.write(made.faults.fileno(), b"b" * 5000)

    _, found, _ = attempted(run)
    assert found.output == "\ufffd" + "a" * 4095 and found.end_python == "b" * 4096


def test_what_an_attempt_leaves_running_is_ended() -> None:
    reads, writes = os.pipe()

    def run(made: Server) -> None:
        if os.fork() == 0:
            os.close(reads)
            signal.pause()

    attempted(run)
    os.close(writes)
    assert select.select([reads], [], [], 60)[0] and os.read(reads, 1) == b""  # its end is closed
    os.close(reads)


def test_a_call_begins_with_a_collection(collections: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """INJ-1; and a child of the function's own that comes back ends there."""
    made = server(function=lambda: collections.append("called") or 5)
    assert made.call(4, True, None) == 5 and collections == ["collect", "called"]
    ends: list[int] = []
    numbers = iter([1, 2])
    monkeypatch.setattr(os, "getpid", lambda: next(numbers))
    monkeypatch.setattr(os, "_exit", ends.append)
    made.call(0)
    assert ends == [0]


def test_frames_of_c_are_named_where_there_is_a_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """INJ-1: of a finding alone, and by the native core alone."""
    named: list[int] = []
    dataplane = SimpleNamespace(injection_named=lambda: named.append(1))
    module: Any = SimpleNamespace(dataplane=dataplane)
    monkeypatch.setitem(sys.modules, "nativemem.backends.native.loader", module)
    results: list[Any] = []

    def function() -> Any:
        result = results.pop(0)
        if isinstance(result, BaseException):
            raise result
        return result

    for core in (0, 1):
        for given, findings in (
            ([5, 5], 0),
            ([6], 1),
            ([5, 6], 1),
            ([KeyError()], 1),
            ([MemoryError(), KeyError()], 1),
        ):
            made = server(function=function)
            made.result, made.comparable = 5, True
            monkeypatch.setattr(made.shared, "native", core)
            made.shared.say = lambda **what: None  # type: ignore[method-assign]
            results[:] = given
            made.refuse(3)
            assert len(named) == findings * core and results == []
            named.clear()


def test_an_attempt_has_nothing_of_the_process_before(needs_native: None) -> None:
    """INJ-1: its own group, streams, handlers and limits; no tool looks on."""

    def state() -> dict[str, Any]:
        return {
            "group": os.getpgid(0) == os.getpid(), "input": os.read(0, 1),
            "output": os.fstat(1).st_ino == os.fstat(2).st_ino,
            "out": sys.stdout.fileno(), "err": sys.stderr.fileno(),
            "tools": (sys.gettrace(), sys.getprofile()), "hook": sys.unraisablehook.__name__,
            "wakeup": signal.set_wakeup_fd(-1), "alarm": signal.getsignal(signal.SIGALRM) is signal.SIG_DFL,
            "cores": resource.getrlimit(resource.RLIMIT_CORE)[0] <= 1, "timer": 0 < signal.getitimer(0)[0] <= 7,
            }  # fmt: skip

    def function() -> None:
        raise ValueError(repr(state()))

    def handler(number: int, frame: Any) -> None: ...

    trace, profile, alarm = sys.gettrace(), sys.getprofile(), signal.signal(signal.SIGALRM, handler)
    end, told = os.pipe()
    os.set_blocking(told, False)
    wakeup = signal.set_wakeup_fd(told)
    sys.settrace(lambda *_: None)
    sys.setprofile(lambda *_: None)
    try:
        with pytest.raises(ConfigError) as caught:
            injection.sweep(function, timeout=7)
    finally:
        sys.settrace(trace)
        sys.setprofile(profile)
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGALRM, alarm)
        os.close(end)
        os.close(told)
    seen = str(caught.value).partition("ValueError: ")[2]
    assert seen == repr(
        {
            "group": True, "input": b"", "output": True, "out": 1, "err": 2, "tools": (None, None),
            "hook": "_ignore", "wakeup": -1, "alarm": True, "cores": True, "timer": True,
        }
    )  # fmt: skip


# ---- which are tried ----------------------------------------------------------------------------------------


def test_numbers() -> None:
    """INJ-2"""

    def numbers(seen: list[int], **more: Any) -> list[tuple[int, bool]]:
        return list(server(**more).numbers_of(seen))

    assert numbers([7, 7], nth=2) == [(2, False)]
    assert numbers([7, 7, 8]) == [(1, False), (2, False), (3, False)]
    assert numbers([7, 8, 7, 7, 7], per_site=1) == [(1, False), (2, False)]
    assert numbers([7, 8, 7, 7, 7], per_site=3) == [(1, False), (2, False), (5, True), (3, True)]
    most = injection_server.EXHAUSTIVE
    assert len(numbers([1] * most)) == most == 2000
    assert numbers([1] * (most + 1)) == [(1, False), (most + 1, True), (most // 2 + 1, True)]


def scripted(attempts: list[Attempt], sites: list[int] | None = None, **more: Any) -> Server:
    """A server whose attempts end as they are given; it keeps what was run."""
    made = server(**more)
    turns = iter(attempts)

    def attempt(nth: int, run: Any) -> Attempt:
        arguments = getattr(run, "args", ())
        if sites is not None and len(arguments) > 1:
            struct.pack_into(f"={len(sites)}Q", arguments[1], 0, *sites)
        made.asked.append(nth)  # type: ignore[attr-defined]
        assert arguments[:1] in ((nth,), ())
        return next(turns)

    wrote: list[Attempt] = []
    for name, value in (
        ("asked", []), ("attempt", attempt), ("warm_up", lambda: True), ("written", wrote.append), ("wrote", wrote)
    ):  # fmt: skip
        setattr(made, name, value)
    return made


def test_a_sweep_of_scripted_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    """INJ-2: each number once; a site that has failed is left out; what was said last."""
    well, counted = Attempt(said={"refused": 1}), Attempt(said={"allocations": 3})
    fault, gone = Attempt(said={"kind": "leak"}, c="x"), Attempt(said={"refused": 0})
    made = scripted([counted, fault, well, gone])
    made.sweep()
    assert sent(made) == [("counted", 3, 3), ("attempt", fault), ("done", 3, 1, "")]
    assert made.wrote == [fault]  # type: ignore[attr-defined]
    assert made.asked == [0, 1, 2, 3]  # type: ignore[attr-defined]
    made = scripted([Attempt(said={"allocations": 4}), well, fault], [5, 6, 6, 5], per_site=2)
    made.numbers_of = lambda seen: iter([(1, False), (2, False), (3, True)])  # type: ignore[method-assign]
    made.sweep()
    assert sent(made) == [("counted", 4, 2), ("attempt", fault), ("done", 2, 0, "")]
    made = scripted([Attempt(said={"allocations": 4}), fault, well, fault], [5, 6, 7, 5], per_site=2)
    turns = [(1, False), (2, False), (3, True), (4, True)]  # the third is of another place than the first
    made.numbers_of = lambda seen: iter(turns)  # type: ignore[method-assign]
    made.sweep()
    assert made.asked == [0, 1, 2, 3]  # type: ignore[attr-defined]
    made = scripted([Attempt(said={"allocations": 3}), fault, fault, fault], [5, 5, 5])
    made.sweep()  # which are all tried, where it is asked for each
    assert made.asked == [0, 1, 2, 3]  # type: ignore[attr-defined]
    made = scripted([Attempt(said={"allocations": 3}), well, well], most=2)
    made.sweep()
    assert sent(made) == [("counted", 3, 2), ("done", 2, 0, "it makes more than most=2")]
    made = scripted([Attempt(said={"allocations": 2}), well, well], most=2)
    made.sweep()
    assert sent(made) == [("counted", 2, 2), ("done", 2, 0, "")]
    made = scripted([Attempt(allocations=2, said={"x": 1}), well], seconds=-1.0)
    made.sweep()
    assert sent(made) == [("counted", 2, 2), ("done", 0, 0, "-1 seconds were over")]
    made = scripted([Attempt(said={"allocations": 2}), well, well], seconds=5.0)
    moments = iter([made.began + 5.0, made.began + 5.1])
    monkeypatch.setattr(injection_server, "time", SimpleNamespace(monotonic=lambda: next(moments)))
    made.sweep()
    assert sent(made) == [("counted", 2, 2), ("done", 1, 0, "5 seconds were over")]
    monkeypatch.undo()
    broken = Attempt(said={"broken": "y"}, c="x")
    made = scripted([Attempt(said={"allocations": 1}), broken, well])
    made.sweep()
    assert sent(made)[1:] == [("done", 1, 0, "")] and made.asked == [0, 1, 1]  # type: ignore[attr-defined]
    made = scripted([broken])
    made.sweep()
    assert sent(made) == [("fails", "y")]
    made.warm_up = lambda: False  # type: ignore[method-assign]
    made.sweep()
    assert made.asked == [0]  # type: ignore[attr-defined]


def test_a_fault_that_could_not_name_its_frames() -> None:
    crash = Attempt(status=signal.SIGSEGV, said=None)
    made = scripted([Attempt(said={"allocations": 1}), crash])
    named: list[str] = []
    made.describe = lambda: named.append("named")  # type: ignore[method-assign]
    read: list[int] = []
    made.shared.read = lambda nth, _: read.append(nth) or Attempt(c="frames")  # type: ignore[method-assign, func-returns-value]
    made.sweep()
    assert named == ["named"] and read == [1] and sent(made)[1][1].c == "frames"


@pytest.mark.parametrize(
    ("attempt", "exits", "well", "fault"),
    [
        (Attempt(said={"refused": 1}), None, True, False),
        (Attempt(said={"kind": "x", "detail": "d"}), None, False, True),
        (Attempt(said={"broken": "b"}), None, False, True),
        (Attempt(status=3 << 8, said={}), None, True, True),
        (Attempt(status=3 << 8, said={}), 3 << 8, True, False),
        (Attempt(status=3 << 8), 3 << 8, True, False),
        (Attempt(status=3 << 8), 4 << 8, False, True),
        (Attempt(status=9), None, False, True),
    ],
)
def test_how_an_attempt_ended(attempt: Attempt, exits: int | None, well: bool, fault: bool) -> None:
    made = scripted([])
    made.exits = exits
    assert made.ended_well(attempt) is well and made.is_fault(attempt) is fault
    said = attempt.said or {}
    words = said.get("broken") or said.get("detail")
    assert made.wrote == ([] if well or words else [attempt])  # type: ignore[attr-defined]
    assert sent(made) == ([] if well else [("fails", words) if words else ("ends", attempt)])


def test_warming_up(monkeypatch: pytest.MonkeyPatch, collections: list[str]) -> None:
    """Three calls at least, twelve at most, and not where it ends the process or leaves threads behind."""

    def warmed(attempt: Attempt, **more: Any) -> tuple[bool, int | None, bool, bool, int]:
        made = server(more.pop("source", None), **more)
        asked: list[Any] = []
        made.attempt = lambda *given: asked.append(given) or attempt  # type: ignore[method-assign, assignment, func-returns-value]
        well = made.warm_up()
        assert asked == [(0, made.trial)]
        calls: list[Any] = made.plan.source.calls  # type: ignore[attr-defined]
        did, collections[:] = list(collections), []
        assert calls == [(0, False)] * len(calls)
        assert did == ["collect"] * len(calls) + (["collect", "disable", "freeze"] if well else [])
        return well, made.exits, made.warm_each, made.comparable, len(calls)

    def tells(moment: Callable[[], float]) -> None:
        monkeypatch.setattr(injection_server, "time", SimpleNamespace(monotonic=moment))

    clock = iter(range(1000, 10**6))
    tells(lambda: next(clock))
    well = Attempt(said={"threads": False, "comparable": False})
    assert warmed(well) == (True, None, False, True, 3)
    tells(lambda: 1000.0)
    assert warmed(well) == (True, None, False, True, 12)
    for third, times in ((0.2, 12), (0.25, 3)):  # so long after it began
        moments = iter([0.0, 0.0, third, *[0.1] * 12])
        tells(lambda moments=moments: next(moments))
        assert warmed(well) == (True, None, False, True, times)
    tells(lambda: 0.0)
    numbers = iter(range(99))
    assert warmed(well, function=lambda: next(numbers)) == (True, None, False, False, 12)
    for comparable in (True, False):
        threads = Attempt(said={"threads": True, "comparable": comparable})
        assert warmed(threads) == (True, None, True, comparable, 0)
    assert warmed(Attempt(status=3 << 8)) == (True, 3 << 8, False, False, 0)
    assert warmed(Attempt(said={"broken": "x"}))[0] is False


# ---- what they share ----------------------------------------------------------------------------------------


def test_what_is_said_outlives_the_attempt() -> None:
    shared = Shared(0)
    assert shared.under_way() == (0, 0) and (shared.live(), shared.counted()) == (0, (0, 0))
    shared.begin()
    shared.runs(77)
    assert shared.under_way() == (77, 1) and shared.read(2, 5) == Attempt(2, 5)
    shared.say(a=1, b="x")
    assert shared.under_way() == (77, 1) and shared.read(2, 5) == Attempt(2, 5, {"a": 1, "b": "x"})
    room = (1 << 16) - len(pickle.dumps({"b": "x" * 60_000})) + 60_000
    shared.say(b="x" * room)
    assert shared.read(0, 0).said == {"b": "x" * room}
    shared.say(a=1, b="x" * room)
    assert shared.read(2, 5).said == {"a": 1}
    shared.say(c=True, b="x" * (room + 1))
    assert shared.read(2, 5).said == {"c": True}
    assert astuple(Attempt()) == (0, 0, None, *[0] * 9, *[""] * 5)
    shared.begin()
    assert shared.under_way() == (0, 2) and shared.read(0, 0).said is None


def test_what_the_core_has_written() -> None:
    head, stack, text = injection_report._HEAD, injection_report._STACK, injection_report._TEXT
    shared = Shared(head.size + 2 * stack + text)
    head.pack_into(shared.memory, 0, *range(1, 10))
    for end, said in ((stack, b"in c\0x"), (2 * stack, b"end \xff"), (2 * stack + text, b"python")):
        start = head.size + end - text
        shared.memory[start : start + len(said)] = said
    attempt = shared.read(1, 2)
    assert (attempt.allocations, attempt.refused, attempt.site, attempt.size, attempt.domain) == (1, 2, 3, 4, 5)
    assert (attempt.live, attempt.signal, attempt.code, attempt.address) == (6, 7, 8, 9)
    assert (attempt.c, attempt.end_c, attempt.python) == ("in c", "end \ufffd", "python")
    assert shared.live() == 6 and shared.counted() == (1, 2)
    shared.begin()
    assert shared.read(1, 2) == Attempt(1, 2)


# ---- the calling process ------------------------------------------------------------------------------------


def caller(*told: tuple[Any, ...], **more: Any) -> tuple[injection._Sweep, list[Any]]:
    """A caller that hears this."""
    made = injection._Sweep(plan(**more))
    channel = io.BytesIO()
    for message in told:
        injection_server.send(channel, *message)
    channel.seek(0)
    made.received = lambda channel, shared, size: channel.read(size)  # type: ignore[method-assign, assignment]
    added: list[Any] = []
    made.judge.add = added.append  # type: ignore[method-assign]
    nothing: Any = None
    made.hear(channel, nothing)
    return made, added


def test_what_the_caller_hears(needs_native: None) -> None:
    made, added = caller(("counted", 5, 2), ("attempt", Attempt(3)), ("done", 4, 1, "why"))
    assert (made.allocations, made.sites, made.attempts, made.unreached, made.stopped) == (5, 2, 4, 1, "why")
    assert added == [Attempt(3)]
    assert caller(("counted", 5, 2), ("done", 1, 0, ""), nth=5)[0].attempts == 1
    for told, says, suggests, more in (
        (
            ("counted", 0, 0),
            "sweep: the function took nothing from obj, so nothing was tried",
            "have it do more",
            {},
        ),
        (("counted", 5, 2), "sweep.nth: the function makes 5 allocations, not 6", "", {"nth": 6}),
        (
            ("fails", "a\nb: c\n"),
            "sweep: the function fails without any refusal: b: c",
            "have it pass by itself first\na\nb: c",
            {},
        ),
        (
            ("ends", Attempt(status=11, end_python="frames\n", output="out")),
            "sweep: the function's process ends with signal 11 without any refusal",
            "have it pass by itself first\nframes\nout",
            {},
        ),
        (
            ("ends", Attempt(status=0)),
            "sweep: the function's process ends with its timeout without any refusal",
            "have",
            {},
        ),
    ):
        with pytest.raises(ConfigError) as caught:
            caller(told, **more)
        assert str(caught.value) == says and (caught.value.suggestion or "").startswith(suggests)
    with pytest.raises(NativeMemError, match=r"(?s)the server of the attempts failed\nall of it") as failed:
        caller(("broken", "all of it"))
    assert not isinstance(failed.value, ConfigError)


def test_an_attempt_that_outlives_its_alarm(needs_native: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """INJ-1: it is killed after twice its time and a second, once; another attempt begins anew."""
    killed: list[int] = []
    now = [100.0]
    monkeypatch.setattr(injection, "_kill", killed.append)
    monkeypatch.setattr(injection.time, "monotonic", lambda: now[0])
    made = injection._Sweep(plan(timeout=4.0))
    turn: Any = SimpleNamespace(under_way=lambda: (7, 1))
    for moment, dead in ((105.0, 0), (114.0, 0), (114.1, 1), (123.0, 1), (123.2, 2)):
        now[0] = moment
        made.watch(turn)
        assert killed == [7] * dead, moment
    turn.under_way = lambda: (0, 1)
    now[0] = 999.0
    made.watch(turn)
    assert killed == [7, 7]


def test_ending_what_has_ended() -> None:
    pid = os.spawnlp(os.P_NOWAIT, "true", "true")
    os.waitpid(pid, 0)
    injection._kill(pid)
    sleeper = os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "60")
    shared: Any = SimpleNamespace(under_way=lambda: (pid, 1))
    injection._end(sleeper, shared)
    with pytest.raises(ChildProcessError):
        os.waitpid(sleeper, 0)


def test_the_attempt_under_way_is_ended_too() -> None:
    """INJ-1: with all of its group; where there is none, nothing is."""
    group = subprocess.Popen(["sh", "-c", "sleep 60 & echo; wait"], stdout=subprocess.PIPE, start_new_session=True)
    assert group.stdout is not None and group.stdout.readline() == b"\n"
    for process, left in ((0, True), (group.pid, False)):
        sleeper = os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "60")
        shared: Any = SimpleNamespace(under_way=lambda process=process: (process, 1))
        injection._end(sleeper, shared)
        assert (group.poll() is None) is left or group.wait(60) == -signal.SIGKILL
    assert group.stdout.read() == b""  # it, too, has ended
    group.stdout.close()


def test_what_the_caller_has_not_written_is_not_written_twice(
    needs_native: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[str] = []

    def stop() -> int:
        assert flushed == ["stdout", "stderr"]
        raise KeyError("enough")

    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, SimpleNamespace(flush=lambda name=name: flushed.append(name)))
    monkeypatch.setattr(injection, "forked", stop)
    with pytest.raises(KeyError, match="enough"):
        injection._Sweep(plan()).run()


def test_a_system_without_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "fork")
    with pytest.raises(NativeUnavailable, match=r"^a sweep needs fork, which this system does not have\n"):
        injection._Sweep(plan())


def module_function() -> None: ...


def test_the_command_that_shows_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """INJ-2"""
    monkeypatch.setenv("PYTHONHASHSEED", "5")

    def command(nth: int, names: tuple[str, ...], **more: Any) -> str:
        source = Counted()
        source.names = names
        return injection.command(plan(source, **more), nth)

    assert command(3, ("raw", "mem", "obj"), function=lambda: 1).endswith(
        "<lambda>, nth=3), under PYTHONHASHSEED=5"
    )
    again = command(3, ("obj",), function=module_function, sticky=True, leaks=True)
    assert again.startswith("PYTHONHASHSEED=5 python -c ")
    assert (
        f"import sweep; from {__name__} import module_function; print(sweep(module_function, nth=3, domains="
        in again
    )
    assert "obj" in again and "sticky=True, leaks=True))" in again and "(" not in again.split("domains=")[1][:3]
    assert "domains=('mem', 'obj')" in command(1, ("mem", "obj"), function=lambda: 1)
    monkeypatch.delenv("PYTHONHASHSEED")
    assert command(1, ("raw", "mem", "obj"), function=lambda: 1).endswith("under PYTHONHASHSEED=0")
    monkeypatch.setattr(module_function, "__module__", "__main__")
    assert command(1, ("raw", "mem", "obj"), function=module_function) == (
        "sweep(module_function, nth=1), under PYTHONHASHSEED=0"
    )
