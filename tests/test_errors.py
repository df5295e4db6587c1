"""ERR: the error classes, their codes, and the one map from statuses to them."""

from __future__ import annotations

import copy
import io
import pickle
import re
import sys
import traceback
from pathlib import Path

import pytest

import nativemem
from nativemem import errors
from nativemem._api import load
from nativemem.backends.binding import Binding
from nativemem.errors import NativeMemError, Status
from nativemem.refusals import raise_status

#: every class, with the builtin that a caller would catch
BUILTIN = {
    "OutOfMemory": MemoryError,
    "BudgetExceeded": MemoryError,
    "ArenaExhausted": MemoryError,
    "InvalidLayout": ValueError,
    "DoubleFree": ValueError,
    "ForeignBlock": ValueError,
    "StaleBlock": ValueError,
    "StaleHandle": ValueError,
    "InvalidMark": ValueError,
    "BudgetUnderflow": ValueError,
    "ConfigError": ValueError,
    "WrongThread": RuntimeError,
    "LeakError": RuntimeError,
    "LendTimeout": RuntimeError,
    "LoanOutstanding": RuntimeError,
    "CorruptionDetected": RuntimeError,
    "LifoViolation": ValueError,
    "PoolExhausted": MemoryError,
    "CapacityExceeded": MemoryError,
    "NativeUnavailable": RuntimeError,
    "ScopeError": RuntimeError,
    "OutOfBounds": ValueError,
    "OperationRefused": RuntimeError,
    "UninitializedRead": ValueError,
    "CircuitOpenError": RuntimeError,
    "RateLimitExceeded": RuntimeError,
}
#: a cache computes nothing for a while
SPARED = (errors.CircuitOpenError, errors.RateLimitExceeded)
#: the error that each status stands for
RAISED = {
    Status.OUT_OF_MEMORY: "OutOfMemory",
    Status.EXHAUSTED: "ArenaExhausted",
    Status.OVER_BUDGET: "BudgetExceeded",
    Status.INVALID_LAYOUT: "InvalidLayout",
    Status.FOREIGN_BLOCK: "ForeignBlock",
    Status.WRONG_THREAD: "WrongThread",
    Status.INVALID_MARK: "InvalidMark",
    Status.CLOSED: "StaleHandle",
    Status.UNDERFLOW: "BudgetUnderflow",
    Status.LIFO_VIOLATION: "LifoViolation",
    Status.DOUBLE_FREE: "DoubleFree",
    Status.CORRUPTED: "CorruptionDetected",
    Status.POOL_EXHAUSTED: "PoolExhausted",
    Status.CAPACITY_EXCEEDED: "CapacityExceeded",
    Status.TIMED_OUT: "LendTimeout",
}


def every_class() -> list[type[NativeMemError]]:
    found, todo = [], [NativeMemError]
    while todo:
        below = todo.pop().__subclasses__()
        found += below
        todo += below
    return [cls for cls in found if cls.__module__ == "nativemem.errors"]


def test_every_class_is_listed() -> None:
    assert {cls.__name__ for cls in every_class()} == set(BUILTIN)
    assert set(BUILTIN) | {"NativeMemError", "Refusal", "Status"} == set(errors.__all__)


@pytest.mark.parametrize(("name", "builtin"), BUILTIN.items())
def test_each_derives_from_the_builtin_that_a_caller_would_catch(name: str, builtin: type[Exception]) -> None:
    """ERR-1"""
    cls = getattr(errors, name)
    assert issubclass(cls, NativeMemError)
    assert issubclass(cls, builtin)


def test_codes() -> None:
    """ERR-2: stable, unique, made from the name."""
    codes = {cls.__name__: cls.code for cls in every_class()}
    assert len(set(codes.values())) == len(codes)
    for name, code in codes.items():
        assert re.fullmatch(r"NM(-[A-Z]+)+", code)
        words = re.findall(r"[A-Z][a-z]*", name.removesuffix("Error"))
        assert code == "NM-" + "-".join(words).upper()
    assert NativeMemError.code not in codes.values()


def test_want_of_memory_may_pass_later() -> None:
    """ERR-2: so may a loan, and what a cache spares for a while; misuse does not."""
    later = (MemoryError, errors.LendTimeout, errors.LoanOutstanding, *SPARED)
    for cls in every_class():
        assert cls.retryable == issubclass(cls, later), cls


def test_each_has_a_docstring() -> None:
    for cls in every_class():
        assert "doc" not in cls.__dict__
        assert cls.__doc__ != NativeMemError.__doc__
        assert cls.__doc__.strip().endswith(".")


def test_the_suggestion_is_a_note() -> None:
    """ERR-2: the message stays one line."""
    error = errors.BudgetExceeded("no", suggestion="try less", requested=3, layout=(3, 1))
    assert str(error) == "no"
    assert (error.suggestion, error.state, error.layout) == ("try less", {"requested": 3}, (3, 1))
    shown = "".join(traceback.format_exception_only(type(error), error))
    if sys.version_info >= (3, 11):
        assert error.__notes__ == ["try less"]
        assert shown == "nativemem.errors.BudgetExceeded: no\ntry less\n"
    else:
        assert shown == "nativemem.errors.BudgetExceeded: no\n"


def test_severity() -> None:
    """ERR-2: a limit that was reached is a warning, what puts the process in danger critical, the rest an error."""
    critical = {errors.OutOfMemory, errors.CorruptionDetected}
    for cls in [NativeMemError, *every_class()]:
        if cls in critical:
            assert cls.severity == "critical"
        elif issubclass(cls, (MemoryError, *SPARED)) or cls is errors.LendTimeout:
            assert cls.severity == "warning"
        else:
            assert cls.severity == "error"


def test_each_class_has_a_suggestion() -> None:
    """ERR-2: where the state gives no better one."""
    suggestions = [cls("no").suggestion for cls in [NativeMemError, *every_class()]]
    assert all(suggestions)
    assert len(set(suggestions)) == len(suggestions)


def test_the_link_leads_to_the_entry_of_the_code() -> None:
    """ERR-2"""
    for cls in every_class():
        assert cls("no").link == f"docs/errors.md#{cls.code.lower()}"


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


_FULL = errors.ArenaExhausted(
    "full", suggestion="reset it", layout=(10**6000, 16), requested=3, utilization=0.98765, owner="b"
)


def test_explain_says_everything(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """ERR-2"""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    _FULL.explain()
    assert capsys.readouterr() == (
        "",
        "warning NM-ARENA-EXHAUSTED  full\n"
        "  layout  that int bytes at a multiple of 16\n"
        "  state   requested 3, utilization 0.988, owner 'b'\n"
        "  try     reset it\n"
        "  see     docs/errors.md#nm-arena-exhausted\n",
    )
    errors.DoubleFree("again", suggestion="once").explain(plain := io.StringIO())
    assert plain.getvalue().splitlines() == [
        "error NM-DOUBLE-FREE  again",
        "  try     once",
        "  see     docs/errors.md#nm-double-free",
    ]


def test_colour_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """ERR-2: and not where the user does not want it."""

    def explained(error: NativeMemError, file: io.StringIO) -> str:
        error.explain(file)
        return file.getvalue()

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    plain = explained(_FULL, io.StringIO())
    assert "\x1b" not in plain
    coloured = explained(_FULL, _Terminal())
    assert "\x1b[33m" in coloured
    assert re.sub(r"\x1b\[\d+m", "", coloured) == plain
    assert "\x1b[31m" in explained(errors.DoubleFree("again"), _Terminal())
    monkeypatch.setenv("TERM", "dumb")
    assert explained(_FULL, _Terminal()) == plain
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert explained(_FULL, _Terminal()) == plain


def test_errors_travel_between_processes() -> None:
    """ERR-2: a worker's error arrives with its code and numbers, and says its suggestion once."""
    for cls in [NativeMemError, *every_class()]:
        for error in (cls("full", suggestion="reset it", layout=(3, 16), requested=3, owner="b"), cls("plain")):
            copies = [pickle.loads(pickle.dumps(error, n)) for n in range(pickle.HIGHEST_PROTOCOL + 1)]
            for again in (*copies, copy.copy(error), copy.deepcopy(error)):
                assert type(again) is cls
                assert (str(again), again.code, again.link) == (str(error), error.code, error.link)
                assert (again.state, again.layout) == (error.state, error.layout)
                assert again.suggestion == error.suggestion
                assert getattr(again, "__notes__", None) == getattr(error, "__notes__", None)


@pytest.fixture
def pure() -> Binding:
    return load("pure")


STATUSES = {name: value for name, value in vars(Status).items() if name.isupper()}


@pytest.mark.parametrize("status", [s for s in STATUSES.values() if s != Status.OK], ids=list(STATUSES)[1:])
def test_each_status_has_one_error(pure: Binding, status: int) -> None:
    """ERR-1"""
    allocator = pure.System()
    with pytest.raises(NativeMemError) as caught:
        raise_status(allocator, status, 30, 20, 40)
    assert type(caught.value).__name__ == RAISED[status]
    assert str(caught.value).startswith("System: ")
    assert "\n" not in str(caught.value)


FIGURES = [
    ((70, 30, 90), (70, 32)),
    ((30, 90, 90), None),
    ((200, 9, 90), (200, 16)),
    ((1 << 60, 0, 90), None),
    ((), None),
]


def said(pure: Binding, name: str, figures: tuple[int, ...], layout: tuple[int, int] | None) -> str:
    """All that an error says, as one line."""
    with pytest.raises(NativeMemError) as caught:
        raise_status(pure.System(), STATUSES[name], *figures, layout=layout)
    error = caught.value
    state = " ".join(f"{key}={value!r}" for key, value in error.state.items())
    return " | ".join([name, type(error).__name__, str(error), state, repr(error.layout), error.suggestion])


def test_what_each_error_says(pure: Binding) -> None:
    """ERR-1: text, figures, layout and suggestion, as errors.txt states them."""
    lines = [said(pure, name, *figures) for name in STATUSES if name != "OK" for figures in FIGURES]
    assert lines == Path(__file__).with_name("errors.txt").read_text(encoding="utf-8").splitlines()


def test_an_unknown_status_is_an_error_as_well(pure: Binding) -> None:
    with pytest.raises(NativeMemError, match="unknown status 99"):
        raise_status(pure.System(), 99)


@pytest.mark.usefixtures("needs_native")
def test_the_statuses_of_the_core_are_the_same() -> None:
    """Both ways: the C enum and the Python one have the same names and values."""
    core = pytest.importorskip("nativemem._core")
    in_c = core.ffi.typeof("nm_status").relements
    assert in_c == {f"NM_{name}": status for name, status in STATUSES.items()}
    for name, status in STATUSES.items():
        assert getattr(core.lib, f"NM_{name}") == status


def test_exhaustion_is_caught_as_a_memory_error(nm: Binding) -> None:
    """ERR-1"""
    with pytest.raises(MemoryError) as caught:
        nm.Arena(hint=16, grow=False).alloc(17)
    error = caught.value
    assert isinstance(error, nativemem.errors.ArenaExhausted)
    assert (error.state["requested"], error.state["used"], error.state["limit"]) == (17, 0, 16)
    assert (error.code, error.retryable) == ("NM-ARENA-EXHAUSTED", True)
    assert error.suggestion
    if sys.version_info >= (3, 11):
        assert error.__notes__ == [error.suggestion]


class _Loud:
    def __repr__(self) -> str:
        raise RuntimeError("no")


_VALUES = [10**6000, -(10**6000), "x" * 5000, "a\nb", _Loud()]


@pytest.mark.parametrize("value", _VALUES, ids=lambda value: type(value).__name__)
def test_messages_show_any_value_in_one_short_line(nm: Binding, value: object) -> None:
    """ERR-2"""
    system = nm.System()
    for call in (
        lambda: system.alloc(value),
        lambda: system.alloc(1, value),
        lambda: system.array(value, 1),
        lambda: system.array("d", value),
        lambda: nm.Arena(cap=value),
        lambda: nm.Slab(bins=[value]),
        lambda: nm.Budget(value),
        lambda: nm.Budget(1, name=value if not isinstance(value, str) else b""),
    ):
        with pytest.raises(NativeMemError) as caught:
            call()
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 300


@pytest.mark.skipif(sys.version_info < (3, 11), reason="notes are from 3.11 on")
@pytest.mark.parametrize(("sites", "more"), [(1, []), (10, []), (11, ["  and 1 more"]), (13, ["  and 3 more"])])
def test_the_first_ten_sites_of_a_leak(sites: int, more: list[str]) -> None:
    """ERR-2"""
    error = errors.LeakError("leak")._at([f"site {n}" for n in range(sites)])
    assert error.sites == tuple(f"site {n}" for n in range(sites))
    assert error.__notes__[-1].splitlines() == [f"  site {n}" for n in range(min(sites, 10))] + more
    assert len(errors.LeakError("leak")._at([]).__notes__) == len(error.__notes__) - 1
