"""OBS-2: each event in words, and the bridge to logging step by step."""

from __future__ import annotations

import atexit
import functools
import logging
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from nativemem.errors import ConfigError
from nativemem.observe import telemetry
from nativemem.observe.telemetry import Bridge, Event, Reader, events, to_logging
from nativemem.sizes import SIZE_MAX


def event(kind: str, **changed: Any) -> Event:
    values: dict[str, Any] = {
        "when": 1.0, "kind": kind, "owner": "a", "other": None, "requested": 2048, "used": 512, "limit": 1024,
        "detail": "", "thread": 1, "backend": "native", "number": 1,
    }  # fmt: skip
    return Event(**{**values, **changed})


SAID = {
    "denied": (event("denied", detail="limit"), "a refused 2.0 KiB: 512 B of 1.0 KiB in use"),
    "denied for another": (
        event("denied", other="b", detail="locked"),
        "a refused 2.0 KiB for b: 512 B of 1.0 KiB in use (locked)",
    ),
    "denied of one": (
        event("denied", detail="max_single"),
        "a refused 2.0 KiB: 512 B of 1.0 KiB in use (max_single)",
    ),
    "denied without a limit": (
        event("denied", detail="limit", limit=None),
        "a refused 2.0 KiB: 512 B in use, no limit",
    ),
    "pressure": (event("pressure", detail="warn"), "a is at warn: 512 B of 1.0 KiB in use"),
    "limit": (event("limit"), "a: its limit is 1.0 KiB and was 2.0 KiB; 512 B in use"),
    "limit of none": (event("limit", requested=SIZE_MAX), "a: its limit is 1.0 KiB and was none; 512 B in use"),
    "limit to none": (event("limit", limit=None), "a: its limit is none and was 2.0 KiB; 512 B in use"),
    "limit of 0": (event("limit", limit=0), "a: its limit is 0 B and was 2.0 KiB; 512 B in use"),
    "lent": (event("lent", other="b"), "a lent 2.0 KiB of limit to b and has 1.0 KiB"),
    "made": (event("made"), "a was made: 512 B of 1.0 KiB in use"),
    "closed": (event("closed", limit=None), "a was closed: 512 B in use, no limit"),
    "locked": (event("locked"), "a was locked: 512 B of 1.0 KiB in use"),
    "engine": (
        event("engine", detail="objects, raw"),
        "the engine serves objects, raw; 512 B held, its limit is 1.0 KiB",
    ),
    "engine of nothing": (
        event("engine", limit=None),
        "the engine serves nothing new; 512 B held, its limit is none",
    ),
}


@pytest.mark.parametrize("name", SAID)
def test_in_words(name: str) -> None:
    made, words = SAID[name]
    assert str(made) == words


def raw(kind: int, detail: int = 0, limit: int = 9, name: str = "n", other: str | None = None) -> Any:
    return 5, 2_500_000_000, 77, kind, detail, 3, 4, limit, name, other


AS_TOLD = [
    *((raw(1, i), "denied", said) for i, said in enumerate(("limit", "max_single", "locked"))),
    *((raw(2, i), "pressure", said) for i, said in enumerate(("normal", "warn", "critical", "full"))),
    *((raw(i, 1), kind, "") for i, kind in enumerate(("limit", "lent", "made", "closed", "locked"), 3)),
    *(
        (raw(8, bits), "engine", said)
        for bits, said in (
            *((0, ""), (1, "objects"), (2, "arrays"), (3, "objects, arrays")),
            *((4, "raw"), (5, "objects, raw"), (7, "objects, arrays, raw")),
        )
    ),
]


def test_as_the_core_has_them() -> None:
    for given, kind, detail in AS_TOLD:
        assert telemetry._event("pure", given) == Event(2.5, kind, "n", None, 3, 4, 9, detail, 77, "pure", 5)


def test_names_and_limits_as_the_core_has_them() -> None:
    for limit, said in ((SIZE_MAX - 1, SIZE_MAX - 1), (SIZE_MAX, None), (SIZE_MAX + 1, None), (0, 0)):
        assert telemetry._event("x", raw(3, limit=limit)).limit == said
    assert telemetry._event("x", raw(3, name="")).owner == "process"
    assert telemetry._event("x", raw(4, other="o")).other == "o"


class Rings:
    """A backend's events, by their numbers."""

    def __init__(self, name: str, *numbers: int) -> None:
        self.name, self.numbers = name, list(numbers)
        self.backend = self
        self.asides = 0

    def events(self, seen: int) -> list[Any]:
        fields = ("number", "time_ns", "thread", "kind", "detail", "requested", "used", "limit", "name", "other")
        return [_Raw(dict(zip(fields, (n, n * 10**9, 1, 5, 0, 0, 0, 9, self.name, None), strict=True)))
                for n in self.numbers if n > seen]  # fmt: skip

    def aside(self, call: Any) -> Any:
        self.asides += 1
        return call()


class _Raw(tuple[Any, ...]):
    number: int

    def __new__(cls, fields: dict[str, Any]) -> _Raw:
        made = super().__new__(cls, fields.values())
        made.number = fields["number"]
        return made


@pytest.fixture
def rings(monkeypatch: pytest.MonkeyPatch) -> tuple[Rings, Rings]:
    made = Rings("one", 1, 2, 5), Rings("two", 3, 4)
    monkeypatch.setattr(telemetry, "_bindings", lambda: [*made])
    return made


def test_a_reader(rings: tuple[Rings, Rings]) -> None:
    """Those of all backends by their times; each once; what came and went between is counted."""
    one, two = rings
    one.numbers = [4, 5]
    reader = Reader()
    assert [(each.backend, each.number) for each in reader.read()] == [
        ("two", 3),
        ("one", 4),
        ("two", 4),
        ("one", 5),
    ]
    assert reader.lost == 3 + 2 and reader.read() == []
    one.numbers, two.numbers = [9], [5]
    assert [each.number for each in reader.read()] == [5, 9] and reader.lost == 5 + 3
    fresh = Reader(new=True)
    assert fresh.lost == 0 and fresh.read() == []
    one.numbers = [10, 11]
    assert [each.number for each in fresh.read()] == [10, 11] and fresh.lost == 0
    assert [each.number for each in events()] == [5, 10, 11]


def test_all_backends_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the engine's events too, which is loaded by the configuration."""
    there: list[str] = []
    monkeypatch.setattr(telemetry, "configured", lambda: there.append("configured"))
    monkeypatch.setattr(telemetry, "loaded", lambda: list(there))
    assert telemetry._bindings() == ["configured"]


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    found = logging.Logger("parts", 1)
    found.addHandler(handler := Kept())
    found.kept = handler.records  # type: ignore[attr-defined]
    yield found


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.mark.parametrize("level", [None, logging.DEBUG, 0, 99])
def test_levels(
    logger: Any, rings: tuple[Rings, Rings], monkeypatch: pytest.MonkeyPatch, level: int | None
) -> None:
    """Warnings for what a person is to look at, or that of all that was asked for."""
    logger.setLevel(logging.NOTSET)
    logger.isEnabledFor = lambda _: True
    bridge = to_logging(logger, level)
    kinds = ("denied", "pressure", "limit", "lent", "made", "closed", "locked", "engine")
    told = [event(kind, other="b") for kind in kinds]
    monkeypatch.setattr(bridge._reader, "read", lambda: [told.pop(0) for _ in range(len(told))])
    assert bridge.flush() == 8
    levels = [logging.WARNING] * 2 + [logging.INFO] * 6 if level is None else [level] * 8
    assert [record.levelno for record in logger.kept] == levels
    assert [record.nativemem.kind for record in logger.kept] == [*kinds]
    assert logger.kept[4].getMessage() == "nativemem: a was made: 512 B of 1.0 KiB in use"


def test_a_flush_is_charged_to_nothing(logger: Any, rings: tuple[Rings, Rings]) -> None:
    """It runs aside on each backend; what was lost, and what could not be logged, was dropped."""
    bridge = to_logging(logger)
    rings[0].numbers = [8, 9]
    assert bridge.flush() == 2 and (rings[0].asides, rings[1].asides) == (1, 1)
    assert bridge.dropped == 2, "6 and 7"
    rings[0].numbers, logger.log = [10, 11, 12], functools.partial(fails, logger.log, [0, 2])
    assert bridge.flush() == 1 and bridge.dropped == 4
    assert not bridge._busy.locked()


def fails(log: Any, which: list[int], *args: Any, **rest: Any) -> None:
    """Has no memory for those calls."""
    which[:] = [n - 1 for n in which]
    if -1 in which:
        raise MemoryError
    log(*args, **rest)


def test_what_logging_causes_is_not_logged(logger: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another thread did meanwhile waits for the next flush, and is not lost."""
    bridge = to_logging(logger)
    me = threading.get_ident()
    reads = [
        [event("made")],
        [event("lent", thread=me), event("closed", thread=me + 1)],
        [event("locked")],
        [],
        [],
        [],
    ]
    monkeypatch.setattr(bridge._reader, "read", lambda: reads.pop(0))
    assert (bridge.flush(), bridge.flush(), bridge.flush()) == (1, 2, 0)
    assert [record.nativemem.kind for record in logger.kept] == ["made", "closed", "locked"]


def test_a_thread_of_its_own(logger: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits as long as it was told to, flushes, and ends with the bridge, which the exit closes otherwise."""
    ends: list[Any] = []
    monkeypatch.setattr(atexit, "register", lambda call: ends.append(("register", call)))
    monkeypatch.setattr(atexit, "unregister", lambda call: ends.append(("unregister", call)))
    bridge = to_logging(logger, interval=3600)
    thread = bridge._thread
    assert thread is not None and thread.daemon and thread.name == "nativemem telemetry" and thread.is_alive()
    assert bridge._interval == 3600.0 and ends == [("register", bridge.close)]
    bridge.close()
    assert not thread.is_alive() and bridge._thread is None and ends[1:] == [("unregister", bridge.close)]
    bridge.close()
    assert len(ends) == 2
    without = to_logging(logger)
    assert without._thread is None and len(ends) == 2
    without.close()
    assert len(ends) == 2


def test_it_is_closed_by_its_own_thread(logger: Any) -> None:
    """A handler may: it does not wait for itself."""
    bridge: Any = to_logging(logger)
    bridge._thread = threading.current_thread()
    bridge.close()
    assert bridge._thread is None and bridge._end.is_set()


def test_looks_until_it_ends(logger: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bridge: Any = to_logging(logger)
    waits = [False, False, True]
    asked: list[Any] = []
    bridge._interval, bridge._end = (
        5.0,
        SimpleNamespace(wait=lambda seconds: (asked.append(seconds), waits.pop(0))[1]),
    )
    monkeypatch.setattr(bridge, "flush", lambda: asked.append("flush"))
    bridge._run()
    assert asked == [5.0, "flush", 5.0, "flush", 5.0]


def test_a_with_block_logs_what_is_left(logger: Any, rings: tuple[Rings, Rings]) -> None:
    with to_logging(logger) as bridge:
        assert type(bridge) is Bridge
        rings[0].numbers = [6]
    assert [record.nativemem.number for record in logger.kept] == [6]


def test_loggers() -> None:
    """By name, itself, or an adapter; the package's name without any."""
    assert to_logging()._logger is logging.getLogger("nativemem")
    assert to_logging("x.y")._logger is logging.getLogger("x.y")
    adapter = logging.LoggerAdapter(logging.getLogger("x"), {})
    assert to_logging(adapter)._logger is adapter  # type: ignore[arg-type]
    for interval in (0.001, 0.5, 1):
        with to_logging("x", interval=interval) as bridge:
            assert bridge._interval == interval and bridge._thread is not None
    for wrong in ({"logger": None}, {"logger": logging}, {"level": False}, {"level": 1.0}, {"interval": "1"}):
        with pytest.raises(ConfigError, match=f"^telemetry.{next(iter(wrong))}: takes "):
            to_logging(**wrong)  # type: ignore[arg-type]
    for interval in (0, 0.0, -0.001, float("inf"), float("nan")):
        with pytest.raises(ConfigError, match="^telemetry.interval: takes seconds above 0, or None, not "):
            to_logging(interval=interval)
