"""MET-1: each metric by its names, and what is written of it, to clients that keep what they are told."""

from __future__ import annotations

import importlib
import os
import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from nativemem._version import __version__
from nativemem.errors import ConfigError, NativeUnavailable
from nativemem.observe import metrics, opentelemetry, prometheus
from nativemem.observe.metrics import METRICS, read
from nativemem.observe.snapshot import EngineState, OwnerState, ProcessState, Snapshot
from nativemem.stats import Stats

#: the name for Prometheus, that for OpenTelemetry, the unit, whether it counts
OF_OWNERS = (
    ("nativemem_owner_used_bytes", "nativemem.owner.used", "By", False),
    ("nativemem_owner_peak_bytes", "nativemem.owner.peak", "By", False),
    ("nativemem_owner_limit_bytes", "nativemem.owner.limit", "By", False),
    ("nativemem_owner_denials_total", "nativemem.owner.denials", "{request}", True),
    ("nativemem_owner_pressure", "nativemem.owner.pressure", "{level}", False),
)
OF_PROCESS = (
    ("nativemem_held_bytes", "nativemem.held", "By", False),
    ("nativemem_held_peak_bytes", "nativemem.held.peak", "By", False),
    ("nativemem_limit_bytes", "nativemem.limit", "By", False),
    ("nativemem_kept_bytes", "nativemem.kept", "By", False),
    ("nativemem_denials_total", "nativemem.denials", "{request}", True),
    ("nativemem_allocations_total", "nativemem.allocations", "{block}", True),
    ("nativemem_fragmentation_ratio", "nativemem.fragmentation", "1", False),
    ("nativemem_resident_bytes", "nativemem.resident", "By", False),
    ("nativemem_resident_peak_bytes", "nativemem.resident.peak", "By", False),
)


def owner(path: str, used: int, peak: int, limit: int, denials: int, pressure: str) -> OwnerState:
    return OwnerState(path, Stats(used, peak, used, limit, 0, 0, 0, 0, denials), pressure, None, 0, False)


NOW = Snapshot(
    1.0,
    ProcessState(1, "3", "0", "native", 111, 222, Stats(25, 0, 100, None, 0, 0, 0, 0, 0)),
    EngineState(True, True, True, 1, 2, 3, 4, 5, 6, None),
    (
        owner("a", 10, 20, 30, 4, "warn"),
        owner("a/budget 7", 1, 2, 3, 1, "full"),
        owner("a/budget 8", 5, 6, 7, 2, "critical"),
        owner("b", 0, 0, 9, 0, "normal"),
    ),
)


def test_names_kinds_and_units() -> None:
    assert [(m.name, m.dotted, m.unit, m.counts) for m in METRICS] == [*OF_OWNERS, *OF_PROCESS]
    assert [m.by_owner for m in METRICS] == [True] * 5 + [False] * 9
    assert METRICS[:4] == (metrics.USED, metrics.PEAK, metrics.LIMIT, metrics.DENIALS)


def test_figures() -> None:
    """Those of one label are added up, but for pressure."""
    found = {metric.name: dict(values) for metric, values in read(NOW).items()}
    labels = ("a", "a/*", "b")
    assert found == {
        **{
            name: dict(zip(labels, values, strict=True))
            for (name, *_), values in zip(
                OF_OWNERS, ((10, 6, 0), (20, 8, 0), (30, 10, 9), (4, 3, 0), (1, 3, 0)), strict=True
            )
        },
        **{
            name: {"": value}
            for (name, *_), value in zip(OF_PROCESS, (1, 2, 3, 4, 5, 6, 0.75, 111, 222), strict=True)
        },
    }
    order = replace(NOW, owners=NOW.owners[::-1])
    assert read(order)[METRICS[4]] == {"b": 0, "a/*": 3, "a": 1}


def test_figures_that_there_are_not() -> None:
    """Without the engine, a limit, or a system that counts, a metric has no value."""
    process = replace(NOW.process, stats=None, resident=None, resident_peak=None)
    bare = read(replace(NOW, engine=None, process=process, owners=()))
    assert {metric.name: values for metric, values in bare.items()} == {name: {} for name, *_ in OF_OWNERS}
    unlimited = read(replace(NOW, engine=replace(NOW.engine, limit=None)))  # type: ignore[type-var]
    assert {m.name for m in METRICS} - {m.name for m in unlimited} == {"nativemem_limit_bytes"}


class Series:
    """A gauge or counter that keeps what it is told."""

    def __init__(self, name: str, said: str, labels: Any, **options: Any) -> None:
        self.name, self.help, self.options = name, said, options
        self.by_label, self.label = bool(labels), ""
        assert labels in ([], ["owner"])
        self.told: list[tuple[str, str, float]] = []

    def labels(self, label: str) -> Series:
        assert self.by_label
        self.label = label
        return self

    def inc(self, value: float) -> None:
        self.told.append(("inc", self.label, value))

    def set(self, value: float) -> None:
        self.told.append(("set", self.label, value))


class Client:
    def __init__(self) -> None:
        self.made: dict[str, Series] = {}
        self.REGISTRY = SimpleNamespace(log=[])
        self.REGISTRY.register = lambda each: self.REGISTRY.log.append(("register", each))
        self.REGISTRY.unregister = lambda each: self.REGISTRY.log.append(("unregister", each))

    def Counter(self, *given: Any, **options: Any) -> Series:
        return self._series(*given, counts=True, **options)

    def Gauge(self, *given: Any, **options: Any) -> Series:
        return self._series(*given, counts=False, **options)

    def _series(self, *given: Any, counts: bool, **options: Any) -> Series:
        made = self.made[given[0]] = Series(*given, counts=counts, **options)
        return made


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The snapshot that is taken, without sites."""
    held = SimpleNamespace(taken=NOW)

    def take(*, sites: bool) -> Snapshot:
        assert not sites
        return held.taken

    monkeypatch.setattr(prometheus, "snapshot", take)
    monkeypatch.setattr(opentelemetry, "snapshot", take)
    return held


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    made = Client()
    monkeypatch.setattr(prometheus, "_client", lambda: made)
    for variable in ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"):
        monkeypatch.delenv(variable, raising=False)
    return made


@pytest.mark.parametrize("variable", ["PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"])
def test_what_a_worker_writes(
    client: Client, now: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """Gauges as they are, of an owner that is gone 0; counters by what has come."""
    monkeypatch.setenv(variable, "")
    publisher = prometheus.publish()
    assert client.REGISTRY.log == [] and publisher._thread is None and publisher._collector is None
    assert {name: (made.options["counts"], made.by_label) for name, made in client.made.items()} == {
        **{name: (counts, True) for name, _, _, counts in OF_OWNERS},
        **{name: (counts, False) for name, _, _, counts in OF_PROCESS},
    }
    for metric in METRICS:
        made = client.made[metric.name]
        assert made.help == metric.help and made.options["registry"] is client.REGISTRY
        assert made.options.get("multiprocess_mode") == (None if metric.counts else "liveall")

    def told(name: str) -> list[Any]:
        found = sorted(client.made[name].told)
        client.made[name].told.clear()
        return found

    used, denials, count, held = (
        *("nativemem_owner_used_bytes", "nativemem_owner_denials_total", "nativemem_allocations_total"),
        "nativemem_held_bytes",
    )
    assert told(used) == [("set", "a", 10), ("set", "a/*", 6), ("set", "b", 0)]
    assert told(denials) == [("inc", "a", 4), ("inc", "a/*", 3), ("inc", "b", 0)]
    assert (told(count), told(held)) == ([("inc", "", 6)], [("set", "", 1)])
    grown = (owner("a", 8, 20, 30, 9, "warn"), owner("c", 1, 1, 1, 2, "warn"))
    now.taken = replace(NOW, owners=grown, engine=replace(NOW.engine, allocations=16))  # type: ignore[type-var]
    publisher.update()
    assert told(used) == [("set", "a", 8), ("set", "a/*", 0.0), ("set", "b", 0.0), ("set", "c", 1)]
    assert told(denials) == [("inc", "a", 5), ("inc", "a/*", 0.0), ("inc", "b", 0), ("inc", "c", 2)]
    assert (told(count), told(held)) == ([("inc", "", 10)], [("set", "", 1)])
    now.taken = replace(NOW, owners=(owner("a", 8, 20, 30, 3, "warn"), owner("b", 1, 1, 1, 1, "warn")), engine=None)
    publisher.update()
    assert told(denials) == [("inc", "a", 3), ("inc", "a/*", 0.0), ("inc", "b", 1), ("inc", "c", 0.0)]
    assert (told(count), told(held)) == ([("inc", "", 0.0)], [("set", "", 0.0)])
    publisher.update()
    assert ("inc", "a", 0) in told(denials)
    monkeypatch.setattr(os, "getpid", lambda: -1)  # in a child
    publisher.update()
    assert told(denials) == [("inc", "a", 3), ("inc", "b", 1)]
    publisher.update()
    assert told(denials) == [("inc", "a", 0), ("inc", "b", 0)]
    publisher.close()


def test_what_is_read_at_a_scrape(client: Client, now: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one process: families without figures when it is registered, and with them when it is collected."""

    class Family:
        def __init__(self, name: str, said: str, labels: list[str]) -> None:
            self.given = name, said, labels
            self.added: list[Any] = []

        def add_metric(self, labels: list[str], value: float) -> None:
            self.added.append((labels, value))

    core = SimpleNamespace(
        CounterMetricFamily=type("Counter", (Family,), {}), GaugeMetricFamily=type("Gauge", (Family,), {})
    )
    monkeypatch.setattr(importlib, "import_module", {"prometheus_client.core": core}.__getitem__)
    registry = Client().REGISTRY
    with prometheus.publish(registry) as publisher:
        ((verb, collector),) = registry.log
        assert (verb, collector) == ("register", publisher._collector) and client.REGISTRY.log == [] == [
            *client.made
        ]
        publisher.update()
        described = collector.describe()
        assert [each.given for each in described] == [
            (metric.name, metric.help, ["owner"] if metric.by_owner else []) for metric in METRICS
        ]
        assert [type(each).__name__ for each in described] == ["Counter" if m.counts else "Gauge" for m in METRICS]
        found = {each.given[0]: each.added for each in collector.collect()}
        assert len(found) == 14 and found["nativemem_kept_bytes"] == [([], 4)]
        assert found["nativemem_owner_used_bytes"] == [(["a"], 10), (["a/*"], 6), (["b"], 0)]
    assert registry.log[1:] == [("unregister", collector)]
    publisher.close()
    assert len(registry.log) == 2 and publisher._thread is None


def test_a_thread_that_writes(client: Client, now: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an interval is asked for, in a child anew; it ends with the publisher, and waits for no other."""
    handlers: list[Any] = []
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "x")
    monkeypatch.setattr(os, "register_at_fork", lambda **given: handlers.append(given))
    prometheus.publish().close()
    assert handlers == []
    publisher: Any = prometheus.publish(interval=3600)
    thread = publisher._thread
    assert (
        thread.daemon and thread.name == "nativemem metrics" and handlers == [{"after_in_child": publisher._start}]
    )
    publisher.close()
    assert not thread.is_alive()
    publisher._start()  # in a child of later
    assert publisher._thread is thread
    publisher._thread = threading.current_thread()
    publisher.close()
    waits = [False, True]
    publisher._end = SimpleNamespace(wait=lambda seconds: (handlers.append(seconds), waits.pop(0))[1])
    monkeypatch.setattr(publisher, "update", lambda: handlers.append("update"))
    publisher._run()
    assert handlers[1:] == [3600.0, "update", 3600.0]


def test_intervals(client: Client, now: SimpleNamespace) -> None:
    for interval in (None, 0.001, 0.5, 1):
        publisher: Any = prometheus.publish(interval=interval)
        assert publisher._interval == interval and publisher._thread is None, "it is asked at each scrape"
        publisher.close()
    for interval in (0, 0.0, -1, float("inf"), float("nan")):
        with pytest.raises(ConfigError, match="^prometheus.interval: takes seconds above 0, or None, not "):
            prometheus.publish(interval=interval)


def test_instruments(now: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    meter = SimpleNamespace(
        create_observable_counter=lambda name, **rest: made.append((True, name, rest)),
        create_observable_gauge=lambda name, **rest: made.append((False, name, rest)),
    )
    asked: list[Any] = []
    api = SimpleNamespace(
        get_meter=lambda *given: (asked.append(given), meter)[1], Observation=lambda value, labels: (value, labels)
    )
    monkeypatch.setattr(opentelemetry, "_api", lambda: api)
    provider: Any = object()
    opentelemetry.instrument(provider)
    assert asked == [("nativemem", __version__, provider)]
    assert [(counts, name, rest["unit"], rest["description"]) for counts, name, rest in made] == [
        (metric.counts, metric.dotted, metric.unit, metric.help) for metric in METRICS
    ]
    observed = {name: [call(None) for call in rest["callbacks"]] for _, name, rest in made}
    assert observed["nativemem.owner.used"] == [[(10, {"owner": "a"}), (6, {"owner": "a/*"}), (0, {"owner": "b"})]]
    assert observed["nativemem.resident"] == [[(111, {})]] and len(observed) == 14
    now.taken = replace(NOW, engine=None)
    assert made[5][2]["callbacks"][0](None) == []


@pytest.mark.parametrize(
    ("module", "call", "own", "other"),
    [
        (prometheus, prometheus._client, "prometheus_client", "prometheus_client.core"),
        (opentelemetry, opentelemetry._api, "opentelemetry", "opentelemetry_api"),
        (opentelemetry, opentelemetry._api, "opentelemetry.metrics", "typing_extensions"),
        (opentelemetry, opentelemetry._api, "opentelemetry.metrics", None),
    ],
)
def test_another_module_that_is_missing(
    module: Any, call: Any, own: str, other: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that the client needs is not taken for the client."""
    missing: list[Any] = [own, other]

    def gone(name: str) -> Any:
        raise ModuleNotFoundError("gone", name=missing[0])

    monkeypatch.setattr(importlib, "import_module", gone)
    with pytest.raises(NativeUnavailable, match="and it is not installed") as caught:
        call()
    assert str(caught.value.suggestion).startswith("pip install 'nativemem[") and caught.value.__suppress_context__
    missing.pop(0)
    with pytest.raises(ModuleNotFoundError, match="^gone$"):
        call()
