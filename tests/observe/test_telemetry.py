"""OBS-2: the ring of events, on both backends."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from nativemem.backends.binding import Binding
from nativemem.backends.ownership import MOST_EVENTS
from nativemem.errors import ConfigError
from nativemem.observe.telemetry import Event, Reader, events, to_logging

from .helpers import native, run


def of(found: list[Event], *owners: str) -> list[tuple[str, str, str | None, int, int, int | None, str]]:
    return [(e.kind, e.owner, e.other, e.requested, e.used, e.limit, e.detail) for e in found if e.owner in owners]


def test_what_is_noted(nm: Binding) -> None:
    """OBS-2"""
    reader = Reader(new=True)
    parent = nm.Budget(1000, "parent")
    child = nm.Budget(800, "child", parent, max_single=0.75)
    child.try_reserve(500)
    child.try_reserve(700)
    parent.try_reserve(450)
    child.try_reserve(100)
    child.limit = 900
    child.limit = 900
    with parent.lend(child, 50):
        pass
    child.lock()
    child.try_reserve(1)
    child.release(500)
    del child
    assert of(reader.read(), "parent", "child") == [
        ("made", "parent", None, 0, 0, 1000, ""),
        ("made", "child", None, 0, 0, 800, ""),
        ("denied", "child", None, 700, 500, 800, "max_single"),
        ("pressure", "parent", None, 0, 950, 1000, "critical"),
        ("denied", "parent", "child", 100, 950, 1000, "limit"),
        ("limit", "child", None, 800, 500, 900, ""),
        ("pressure", "parent", None, 0, 950, 950, "full"),
        ("lent", "parent", "child", 50, 950, 950, ""),
        ("lent", "child", "parent", 50, 500, 900, ""),
        ("locked", "child", None, 0, 500, 900, ""),
        ("denied", "child", None, 1, 500, 900, "locked"),
        ("closed", "child", None, 0, 0, 900, ""),
    ]
    assert reader.read() == [] and reader.lost == 0


def test_the_ring_keeps_the_last(nm: Binding) -> None:
    """OBS-2: of 1024, and the reader says what it missed."""
    reader = Reader(new=True)
    budget = nm.Budget(10_000, "ring")
    for n in range(1, MOST_EVENTS + 11):
        budget.limit = n
    mine = [event for event in events() if event.backend == nm.name]
    assert len(mine) == MOST_EVENTS
    assert [event.limit for event in mine] == list(range(11, MOST_EVENTS + 11))
    assert [event.number - mine[0].number for event in mine] == list(range(MOST_EVENTS))
    assert len(reader.read()) == MOST_EVENTS and reader.lost == 11


def test_names(nm: Binding) -> None:
    """OBS-2: one without a name has a number, and a long one is cut between two letters."""
    reader = Reader(new=True)
    budgets = [nm.Budget(1, "é" * 30), nm.Budget(1, "x" * 39), nm.Budget(1, None)]
    names = [event.owner for event in reader.read() if event.kind == "made"]
    assert names[:2] == ["é" * 19, "x" * 39] and names[2].startswith("budget ")
    assert len(budgets) == 3


def test_threads(nm: Binding) -> None:
    """OBS-2: no event is mixed of two, none comes twice, and its thread is known."""
    reader = Reader(new=True)
    stop = threading.Event()
    idents: set[int] = set()

    def write(name: str, size: int) -> None:
        budget = nm.Budget(size, name)
        idents.add(threading.get_ident())
        while not stop.is_set():
            assert not budget.try_reserve(size + 1)

    threads = [threading.Thread(target=write, args=(f"writer {n}", 1000 * n + 1)) for n in range(3)]
    for thread in threads:
        thread.start()
    found: list[Event] = []
    while len(found) < 5000:
        found += reader.read()
    stop.set()
    for thread in threads:
        thread.join()
    for event in found:
        if event.kind == "denied" and event.owner.startswith("writer "):
            size = 1000 * int(event.owner.removeprefix("writer ")) + 1
            assert (event.requested, event.limit, event.used) == (size + 1, size, 0)
            assert event.thread in idents
    numbers = [event.number for event in found if event.backend == nm.name]
    assert numbers == sorted(set(numbers))


def test_times_do_not_change_the_order(nm: Binding, monkeypatch: pytest.MonkeyPatch) -> None:
    """OBS-2: events are in the order of their numbers, though a later one has an earlier time."""
    reader = Reader(new=True)
    budgets = [nm.Budget(1000, name) for name in ("first", "second")]
    raw = nm.backend.events(0)[-2:]
    swapped = [raw[0]._replace(time_ns=raw[1].time_ns + 10**9), raw[1]]
    monkeypatch.setattr(nm.backend, "events", lambda seen: swapped)
    assert [event.owner for event in reader.read()] == ["first", "second"] and len(budgets) == 2


def test_as_text(nm: Binding) -> None:
    """OBS-2"""
    reader = Reader(new=True)
    a, b = nm.Budget(1 << 20, "a"), nm.Budget(1 << 20, "b")
    a.limit = "1536 KiB"
    loan = a.lend(b, "512 KiB")
    b.try_reserve("2 MiB")
    b.lock()
    assert [str(event) for event in reader.read() if event.owner in ("a", "b")] == [
        "a was made: 0 B of 1.0 MiB in use",
        "b was made: 0 B of 1.0 MiB in use",
        "a: its limit is 1.5 MiB and was 1.0 MiB; 0 B in use",
        "a lent 512.0 KiB of limit to b and has 1.0 MiB",
        "b refused 2.0 MiB: 0 B of 1.5 MiB in use",
        "b was locked: 0 B of 1.5 MiB in use",
    ]
    loan.settle()


class Seen(logging.Handler):
    """Keeps what is logged, and does as it is told meanwhile."""

    def __init__(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.meanwhile = meanwhile

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        self.meanwhile()


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    found = logging.Logger("of a test", logging.INFO)
    yield found
    for handler in list(found.handlers):
        found.removeHandler(handler)


def test_into_logging(nm: Binding, logger: logging.Logger) -> None:
    """OBS-2"""
    nm.Budget(10, "before")
    logger.addHandler(seen := Seen())
    with to_logging(logger) as bridge:
        budget = nm.Budget(1000, "logged")
        assert not budget.try_reserve(2000)
        assert seen.records == []
        assert bridge.flush() >= 2
    mine = [record for record in seen.records if record.nativemem.owner == "logged"]  # type: ignore[attr-defined]
    assert [(record.levelname, record.getMessage()) for record in mine] == [
        ("INFO", "nativemem: logged was made: 0 B of 1000 B in use"),
        ("WARNING", "nativemem: logged refused 2.0 KiB: 0 B of 1000 B in use"),
    ]
    assert "before" not in [record.nativemem.owner for record in seen.records]  # type: ignore[attr-defined]
    assert bridge.dropped == 0


def test_the_bridge_does_not_answer_itself(nm: Binding, logger: logging.Logger) -> None:
    """OBS-2: neither by what a handler causes, nor by a handler that flushes."""
    budget = nm.Budget(1000, "full")
    budget.try_reserve(1000)
    bridge = to_logging(logger, logging.ERROR)
    logger.addHandler(seen := Seen(lambda: (budget.try_reserve(10), bridge.flush())))
    budget.try_reserve(1)
    assert bridge.flush() == 1 == len(seen.records)
    assert bridge.flush() == 0
    assert seen.records[0].levelno == logging.ERROR and budget.denied == 2
    other = threading.Thread(target=budget.try_reserve, args=(5,))
    seen.meanwhile = lambda: (other.start(), other.join())
    budget.try_reserve(2)
    assert bridge.flush() == 1
    seen.meanwhile = lambda: None
    assert bridge.flush() == 1, "what another thread did meanwhile comes next"
    assert [record.nativemem.requested for record in seen.records] == [1, 2, 5]  # type: ignore[attr-defined]


def test_a_handler_without_memory(nm: Binding, logger: logging.Logger) -> None:
    """OBS-2: what cannot be logged is counted, and the rest is logged."""

    def fail() -> None:
        if len(seen.records) == 1:
            raise MemoryError

    logger.addHandler(seen := Seen(fail))
    bridge = to_logging(logger)
    budget = nm.Budget(1000, "short")
    budget.try_reserve(2000)
    assert bridge.flush() == 1 and bridge.dropped == 1
    assert len(seen.records) == 2
    bridge.close()


def test_a_thread_looks_for_events(nm: Binding, logger: logging.Logger) -> None:
    """OBS-2: one that was asked for, and that ends with the bridge."""
    came = threading.Event()
    logger.addHandler(seen := Seen(came.set))
    with to_logging(logger, interval=0.001):
        nm.Budget(100, "by a thread").try_reserve(200)
        assert came.wait(20)
    assert not [thread for thread in threading.enumerate() if thread.name == "nativemem telemetry"]
    assert any(record.nativemem.owner == "by a thread" for record in seen.records)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "given",
    [{"logger": 3}, {"level": "INFO"}, {"level": True}, {"interval": 0}, {"interval": -1}, {"interval": math.inf}],
    ids=str,
)
def test_what_a_bridge_does_not_take(given: dict[str, Any]) -> None:
    """OBS-2"""
    with pytest.raises(ConfigError, match="telemetry." + next(iter(given))):
        to_logging(**given)


@native
def test_within_a_budget_that_is_full() -> None:
    """OBS-2: the refusal of a scope is noted in the core, and logged without a charge to any budget."""
    run("""
        import io, logging, warnings
        import nativemem
        warnings.simplefilter("ignore")
        from nativemem.observe.telemetry import Reader, to_logging
        nativemem.install(limit="1 GiB")
        out = io.StringIO()
        logging.basicConfig(level=logging.INFO, stream=out)
        reader, bridge = Reader(new=True), to_logging()
        cache = nativemem.Budget("8 MiB", "cache")
        with cache:
            kept = []
            try:
                while True: kept.append(bytearray(1 << 16))
            except MemoryError: pass
            used = cache.used
            assert bridge.flush() >= 2
            assert cache.used <= used + (1 << 16), (used, cache.used)
        assert "cache refused " in out.getvalue(), out.getvalue()
        kinds = [event.kind for event in reader.read() if event.owner == "cache"]
        assert kinds[0] == "made" and {"denied", "pressure"} <= set(kinds), kinds
        reader.read()
        nativemem.uninstall()
        nativemem.install(objects=False)
        engine = [event.detail for event in reader.read() if event.kind == "engine"]
        assert engine[:1] == [""] or engine[:2] == ["arrays", ""], engine
    """)


def test_a_flush_that_comes_to_nothing(
    nm: Binding, logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OBS-2: while another is under way, or where there is no memory to read; what happened is logged later."""
    logger.addHandler(seen := Seen())
    bridge = to_logging(logger)
    assert not nm.Budget(10, "small").try_reserve(20)
    with bridge._busy:
        assert bridge.flush() == 0

    def no_memory() -> int:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(bridge, "_pass_on", no_memory)
        assert bridge.flush() == 0
    assert seen.records == [] and bridge.flush() >= 2
