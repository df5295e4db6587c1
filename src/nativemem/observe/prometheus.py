"""Metrics for Prometheus, by its own client (extra ``nativemem[prometheus]``), with one process or many.

In the client's multiprocess mode (``PROMETHEUS_MULTIPROC_DIR``) what is scraped is read from files that each worker
writes, and a collector, which is asked when it is scraped, is not asked in the workers. There the figures are
gauges and counters of each worker, written when :meth:`Publisher.update` is called.

Any thread may call what is here.
"""

from __future__ import annotations

import importlib
import math
import os
import threading
from typing import Any

from ..backends import forks as _forks
from ..config import parse_number
from ..errors import ConfigError, NativeUnavailable, shown
from .metrics import METRICS, Metric, read
from .snapshot import snapshot

__all__ = ["Publisher", "publish"]

#: as the client looks for them
_VARIABLES = ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir")


def _client() -> Any:
    try:
        return importlib.import_module("prometheus_client")
    except ModuleNotFoundError as error:
        if error.name != "prometheus_client":
            raise
        raise NativeUnavailable(
            "metrics for Prometheus need prometheus-client, and it is not installed",
            suggestion="pip install 'nativemem[prometheus]'",
        ) from None


class _Collector:
    """What the client asks at each scrape."""

    def __init__(self, core: Any) -> None:
        self._core = core

    def describe(self) -> list[Any]:
        """The families, without figures: nothing is read when it is registered."""
        return [self._family(metric) for metric in METRICS]

    def _family(self, metric: Metric) -> Any:
        kind = self._core.CounterMetricFamily if metric.counts else self._core.GaugeMetricFamily
        return kind(metric.name, metric.help, labels=["owner"] if metric.by_owner else [])

    def collect(self) -> Any:
        """The families, with the figures of now."""
        for metric, values in read(snapshot(sites=False)).items():
            family = self._family(metric)
            for label, value in values.items():
                family.add_metric([label] if metric.by_owner else [], value)
            yield family


class _Written:
    """The gauges and counters of one worker."""

    def __init__(self, client: Any, registry: Any) -> None:
        self._lock = threading.RLock()
        _forks.hold(self._lock)
        self._metrics: dict[Metric, Any] = {}
        for metric in METRICS:
            labels = ["owner"] if metric.by_owner else []
            if metric.counts:
                made = client.Counter(metric.name, metric.help, labels, registry=registry)
            else:
                # by pid, of those that live: a sum, a maximum or a mean over workers is the query's to choose
                made = client.Gauge(
                    metric.name, metric.help, labels, registry=registry, multiprocess_mode="liveall"
                )
            self._metrics[metric] = made
        self._pid = os.getpid()
        self._last: dict[tuple[str, str], float] = {}

    def update(self) -> None:
        with self._lock:
            if self._pid != os.getpid():  # a child: the client has files of its own for it
                self._pid, self._last = os.getpid(), {}
            found = read(snapshot(sites=False))
            for metric, made in self._metrics.items():
                values = dict(found.get(metric, {}))
                gone = {label for name, label in self._last if name == metric.name} - set(values)
                for label in {*values, *gone}:
                    one = made.labels(label) if metric.by_owner else made
                    value, last = values.get(label, 0.0), self._last.get((metric.name, label), 0.0)
                    if metric.counts:
                        one.inc(value - last if value >= last else value)
                    else:
                        one.set(value)  # of an owner that is gone 0: a series cannot be taken out of the files
                    self._last[metric.name, label] = value


class Publisher:
    """What :func:`publish` returns; parameters as of :func:`publish`."""

    def __init__(self, registry: Any, interval: float | None) -> None:
        client = _client()
        self._registry = client.REGISTRY if registry is None else registry
        self._collector: _Collector | None = None
        self._written: _Written | None = None
        self._end = threading.Event()
        self._thread: threading.Thread | None = None
        self._interval = interval
        if any(variable in os.environ for variable in _VARIABLES):
            self._written = _Written(client, self._registry)
            self._written.update()
            self._start()
            if interval is not None and hasattr(os, "register_at_fork"):
                os.register_at_fork(after_in_child=self._start)  # a thread does not come along
        else:
            self._collector = _Collector(importlib.import_module("prometheus_client.core"))
            self._registry.register(self._collector)

    def _start(self) -> None:
        if self._interval is not None and not self._end.is_set():
            self._thread = threading.Thread(target=self._run, name="nativemem metrics", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while not self._end.wait(self._interval):
            self.update()

    def update(self) -> None:
        """Writes the figures of now, in multiprocess mode; elsewhere a scrape reads them itself. Any thread."""
        if self._written is not None:
            self._written.update()

    def close(self) -> None:
        """No more figures from now on. Idempotent."""
        self._end.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        if self._collector is not None:
            self._registry.unregister(self._collector)
            self._collector = None

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def publish(registry: Any = None, interval: float | None = None) -> Publisher:
    """Has the figures of this process scraped with the metrics of ``registry`` (None: the client's own).

    With one process they are read at each scrape. In multiprocess mode each worker calls this, and
    :meth:`Publisher.update` when it likes, after each request, say; or ``interval``: a thread does so every so many
    seconds. Gauges have the label ``pid`` there; call the client's ``mark_process_dead`` when a worker ends, as its
    page says. Names and units: docs/observe.md.

    Returns a :class:`Publisher`, to be closed. Raises :class:`NativeUnavailable` without prometheus-client,
    ValueError where a registry has the figures already, :class:`ConfigError` for an interval that is none. Any
    thread.

    >>> import prometheus_client, nativemem
    >>> registry = prometheus_client.CollectorRegistry()
    >>> budget = nativemem.Budget("1 MiB", "published")
    >>> with publish(registry), budget.reserve(1000):
    ...     registry.get_sample_value("nativemem_owner_used_bytes", {"owner": "published"})
    1000
    """
    seconds = None if interval is None else parse_number(interval, "prometheus.interval")
    if seconds is not None and not 0 < seconds < math.inf:
        raise ConfigError(f"prometheus.interval: takes seconds above 0, or None, not {shown(interval)}")
    return Publisher(registry, seconds)
