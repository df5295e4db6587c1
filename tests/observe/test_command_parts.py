"""CLI: what the commands do that other processes do for them, in this one: what is run, and what is looked at."""

from __future__ import annotations

import os
import select
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nativemem.commands import cli, live, workloads

from .recordings import example, write

# ---- run --live ---------------------------------------------------------------------------------------------


class Ended(BaseException):
    """In place of the process's end."""


class Watched:
    """What looks on, until the poll says that the process has ended; ``log`` has what it did to its descriptors."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, terminals: tuple[int, ...] = ()) -> None:
        self.log: list[Any] = []
        self.shown: list[bytes] = []
        self.waits: list[float] = []
        self.polls: list[list[Any]] = []
        self.lines: list[str | None] = []
        self.clock = iter(range(100, 1000))
        watched = self

        class Poll:
            def register(self, *given: Any) -> None:
                watched.log.append(("register", *given))

            def poll(self, milliseconds: float) -> Any:
                watched.waits.append(milliseconds)
                return watched.polls.pop(0)

        def end(status: int) -> None:
            raise Ended(status)

        monkeypatch.setattr(os, "pidfd_open", lambda process: ("pidfd", process), raising=False)
        monkeypatch.setattr(os, "open", lambda *given: ("opened", *given))
        monkeypatch.setattr(os, "dup2", lambda *given: self.log.append(given))
        monkeypatch.setattr(os, "isatty", terminals.__contains__)
        monkeypatch.setattr(os, "write", lambda file, data: file == 2 and self.shown.append(data))
        monkeypatch.setattr(os, "_exit", end)
        monkeypatch.setattr(select, "poll", Poll)
        monkeypatch.setattr(signal, "signal", lambda *given: self.log.append(given))
        monkeypatch.setattr(live, "time", SimpleNamespace(monotonic=lambda: next(self.clock)))
        monkeypatch.setattr(live, "_line", self.line)

    def line(self, seen: int, seconds: float) -> str | None:
        assert seen == 7
        found = self.lines.pop(0)
        return found and f"{found} {seconds}"

    def __call__(self, every: float | None, polls: list[list[Any]], lines: list[str | None]) -> list[bytes]:
        self.polls, self.lines = polls, lines
        for log in (self.log, self.shown, self.waits):
            log.clear()
        with pytest.raises(Ended) as ended:
            live._watch(7, every)
        assert ended.value.args == (0,)
        return list(self.shown)


@pytest.mark.parametrize(
    ("terminals", "term", "usual", "shape"),
    [
        ((2,), "xterm", 1000.0, b"\r%s\x1b[K\r"),
        ((2,), None, 1000.0, b"\r%s\x1b[K\r"),
        ((2,), "dumb", 10_000.0, b"%s\n"),
        ((0, 1), "xterm", 10_000.0, b"%s\n"),
    ],
)
def test_what_is_shown_meanwhile(
    monkeypatch: pytest.MonkeyPatch, terminals: tuple[int, ...], term: str | None, usual: float, shape: bytes
) -> None:
    """CLI-4: each time until the process ends, in a terminal each second and over the line before."""
    monkeypatch.delenv("TERM", raising=False)
    if term is not None:
        monkeypatch.setenv("TERM", term)
    watched = Watched(monkeypatch, terminals)
    shown = [shape.replace(b"%s", f"look {n}".encode()) for n in (1, 2)]
    assert watched(None, [[], [], ["ended"]], ["look", "look"]) == shown and watched.waits == [usual] * 3
    nothing = ("opened", os.devnull, os.O_RDWR)
    assert watched.log == [
        (signal.SIGINT, signal.SIG_IGN), (signal.SIGQUIT, signal.SIG_IGN), (nothing, 0), (nothing, 1),
        ("register", ("pidfd", 7), select.POLLIN),
    ]  # fmt: skip
    watched.clock = iter(range(100, 1000))
    assert watched(0.25, [[], []], ["look", None]) == shown[:1] and watched.waits == [250.0, 250.0]
    assert watched(2.0, [["ended"]], []) == [] and watched.waits == [2000.0]


def test_what_looks_on_ends_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    """CLI-4: as where nothing takes what it writes."""
    watched = Watched(monkeypatch)

    def gone(process: int) -> None:
        raise ProcessLookupError

    monkeypatch.setattr(os, "pidfd_open", gone)
    assert watched(None, [], []) == []


def test_who_looks_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """CLI-4: a grandchild, so that the program has no child; what made it ends at once."""
    log: list[Any] = []

    def end(status: int) -> None:
        log.append(("exit", status))
        raise Ended

    monkeypatch.setattr(os, "fork", lambda: forks.pop(0))
    monkeypatch.setattr(os, "getpid", lambda: 7)
    monkeypatch.setattr(os, "waitpid", lambda *given: log.append(("wait", *given)))
    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(live, "_watch", lambda *given: log.append(("watch", *given)))
    forks = [5]
    live.begin(0.5)
    assert log == [("wait", 5, 0)] and forks == []
    for forks, did in (  # noqa: B007 (fork reads it)
        ([0, 6], [("exit", 0)]), ([0, 0], [("watch", 7, 0.5), ("exit", 0)])
    ):  # fmt: skip
        log.clear()
        with pytest.raises(Ended):
            live.begin(0.5)
        assert log == did
    log.clear()
    monkeypatch.setattr(sys, "stderr", None)
    live.begin(None)
    assert log == []


# ---- bench --------------------------------------------------------------------------------------------------


class Bench:
    """An engine and a backend that say what is asked of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[Any] = []
        self.starts = True
        bench = self

        class Budget:
            def __init__(self, limit: str, name: str) -> None:
                bench.log.append(("budget", limit, name))

            def __enter__(self) -> None:
                bench.log.append("enter")

            def __exit__(self, *_: object) -> None:
                bench.log.append("exit")

        class Arena:
            def alloc(self, size: int) -> None:
                bench.log.append(size)

            def reset(self) -> None:
                bench.log.append("reset")

        def install(**what: bool) -> bool:
            self.log.append(what)
            return self.starts

        monkeypatch.setattr(workloads, "install", install)
        monkeypatch.setattr(workloads, "configured", lambda: SimpleNamespace(Budget=Budget, Arena=Arena))

    def did(self) -> list[Any]:
        log, self.log[:] = list(self.log), []
        return log


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


OBJECTS, ARRAYS = {"objects": True, "arrays": False}, {"objects": False, "arrays": True}


def call_of(workload: str, side: str) -> Any:
    return workloads.WORKLOADS[workload][1](side)


def test_the_sides_of_each_workload() -> None:
    """CLI-2: ours first."""
    peers = ("native", "default", "mimalloc", "jemalloc", "tcmalloc")
    assert {name: sides for name, (_, _, sides) in workloads.WORKLOADS.items()} == {
        "objects": peers, "arrays": (*peers, "limit"), "charged": ("native", "tracemalloc", "limit"),
        "blocks": ("native", "bytearray", "pure", "limit"),
    }  # fmt: skip


def test_objects_of_a_workload(made: Bench) -> None:
    """CLI-2: twenty thousand, on the engine for our side alone."""
    for side, installs in (("native", [OBJECTS]), ("default", []), ("mimalloc", [])):
        call = call_of("objects", side)
        assert made.did() == installs
    assert call() == sum(len(f"name {i}") for i in range(20_000))
    made.starts = False
    for workload, installs in (("objects", [OBJECTS]), ("charged", [OBJECTS])):
        with pytest.raises(SystemExit, match="^the engine did not start$"):
            call_of(workload, "native")
        assert made.did() == installs


def test_charged_objects_of_a_workload(made: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """CLI-2: the limit has the engine and no owner."""
    monkeypatch.setitem(sys.modules, "tracemalloc", SimpleNamespace(start=lambda: made.log.append("tracemalloc")))  # type: ignore[misc]
    monkeypatch.setattr(workloads, "_objects", lambda: made.log.append("objects"))
    for side, begins, does in (
        ("tracemalloc", ["tracemalloc"], ["objects"]), ("limit", [OBJECTS], ["objects"]),
        ("native", [OBJECTS, ("budget", "1 GiB", "bench")], ["enter", "objects", "exit"]),
    ):  # fmt: skip
        call = call_of("charged", side)
        assert made.did() == begins
        call()
        assert made.did() == does


def test_arrays_of_a_workload(made: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """CLI-2: of 1 MiB each, twenty times; the limit makes none of them."""

    class Array:
        def __init__(self, name: str) -> None:
            self.name = name

        def __mul__(self, other: Array) -> Array:
            made.log.append("multiply")
            return self

        def __add__(self, other: Array) -> Array:
            made.log.append("add")
            return self

    def out_of(what: str) -> Any:
        return lambda a, b, out: made.log.append((what, a.name, b.name, out.name))

    numpy = SimpleNamespace(
        ones=lambda n: made.log.append(n) or Array("ones"), empty_like=lambda a: Array("out"),
        multiply=out_of("multiply"), add=out_of("add"),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "numpy", numpy)  # type: ignore[misc]
    for side, installs in (("native", [ARRAYS]), ("default", []), ("limit", [])):
        call = call_of("arrays", side)
        assert made.did() == [*installs, 1 << 17, 1 << 17]
        call()
        if side == "limit":
            steps = [("multiply", "ones", "ones", "out"), ("add", "out", "ones", "out")]
        else:
            steps = ["multiply", "add"]  # type: ignore[list-item]
        assert made.did() == steps * 20


def test_blocks_of_each_side(made: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """CLI-2: ten thousand of 64 bytes, which go all at once."""
    monkeypatch.setattr(workloads, "bytearray", made.log.append, raising=False)
    for side, does in (("bytearray", [64] * 10_000), ("native", [*[64] * 10_000, "reset"])):
        call = call_of("blocks", side)
        assert made.did() == []
        for _ in range(2):
            call()
            assert made.did() == does


# ---- report, leaks and diff ---------------------------------------------------------------------------------


class Terminal:
    """Standard output is a terminal; ``shown`` has what it would be given to show."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        from nativemem.observe.report import text

        self.shown: list[Any] = []
        self.file = str(write(tmp_path / "run.nm", example()))
        self.less = str(write(tmp_path / "less.nm", example(sites=())))
        for name in ("report", "leaks", "diff"):
            monkeypatch.setattr(f"nativemem.commands.{name}.is_terminal", lambda: True)
        monkeypatch.setattr(text, "show", lambda report, out, **how: self.shown.append((report.where, out, how)))
        monkeypatch.setattr(
            text, "show_tables", lambda head, tables, out: self.shown.append((head, len(tables), out))
        )

    def __call__(self, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[Any, list[Any], str, str]:
        self.shown.clear()
        try:
            code = cli.main([*words])
        except SystemExit as ended:
            code = ended.code
        said = capsys.readouterr()
        return code, list(self.shown), said.out, said.err


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Terminal:
    return Terminal(monkeypatch, tmp_path)


def test_a_report_in_a_terminal(terminal: Terminal, capsys: pytest.CaptureFixture[str]) -> None:
    """CLI-2: in colour where it is text for the screen; what is no text goes to a file."""
    file = terminal.file
    assert terminal(capsys, "report", file) == (0, [(file, sys.stdout, {"by": "peak"})], "", "")
    code, shown, _, _ = terminal(capsys, "report", file, "--by", "live", "--top", "3", "--format", "text")
    assert (code, shown) == (0, [(file, sys.stdout, {"by": "live", "top": 3})])
    for more in (("-o", "-"), ("--format", "json")):
        code, shown, out, _ = terminal(capsys, "report", file, *more)
        assert (code, shown) == (0, []) and out
    code, shown, out, err = terminal(capsys, "report", file, "--format", "pprof")
    assert (code, shown, out) == (2, [], "")
    assert err == "nativemem report: pprof is no text for a terminal; give -o FILE (see nativemem report --help)\n"
    assert terminal(capsys, "report", file, "-o", f"{file}.pb.gz")[0] == 0 and os.path.getsize(f"{file}.pb.gz") > 0


def test_leaks_and_differences_in_a_terminal(terminal: Terminal, capsys: pytest.CaptureFixture[str]) -> None:
    """CLI-2, CLI-3: as tables, with their exit codes; no table where there is nothing."""
    for words, code, tables in (
        (("leaks", terminal.file), 4, 1), (("leaks", terminal.less), 0, 0),
        (("leaks", terminal.file, "--at-least", "1TiB"), 0, 0),
    ):  # fmt: skip
        ended, ((head, count, out),), said, err = terminal(capsys, *words)
        assert (ended, count, out, said, err) == (code, tables, sys.stdout, "", "") and head
    ended, ((head, count, out),), said, _ = terminal(capsys, "diff", terminal.less, terminal.file)
    assert (ended, out, said) == (5, sys.stdout, "") and count >= 1 and "\n" in head
    assert terminal(capsys, "diff", terminal.file, terminal.file)[0] == 0
    for words in (("leaks", terminal.file, "--format", "json"), ("diff", terminal.less, terminal.file, "-o", "-")):
        _, shown, said, _ = terminal(capsys, *words)
        assert shown == [] and said


def test_reports_that_cannot_be_written(
    terminal: Terminal, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """CLI-3: exit code 1, and which file it was."""

    def full(made: Any, file: str | None) -> None:
        raise OSError(28, "full")

    for name in ("report", "leaks", "diff"):
        monkeypatch.setattr(f"nativemem.commands.{name}.write", full)
    for words, where in (
        (("report", terminal.file, "-o", "x.html"), "x.html"), (("report", terminal.file, "--format", "json"), ""),
        (("leaks", terminal.file, "--format", "json"), ""),
        (("diff", terminal.less, terminal.file, "-o", "x.html"), "x.html"),
        (("diff", terminal.less, terminal.file, "--format", "json"), ""),
    ):  # fmt: skip
        code, shown, out, err = terminal(capsys, *words)
        assert (code, shown, out) == (1, [], "")
        assert err == f"nativemem {words[0]}: {where or 'standard output'}: full\n"
