"""Metrics for OpenTelemetry (extra ``nativemem[otel]``)."""

from __future__ import annotations

import functools
import importlib
from typing import Any

from .._version import __version__
from ..errors import NativeUnavailable
from .metrics import METRICS, Metric, read
from .snapshot import snapshot

__all__ = ["instrument"]


def _api() -> Any:
    try:
        return importlib.import_module("opentelemetry.metrics")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "opentelemetry":
            raise
        raise NativeUnavailable(
            "metrics for OpenTelemetry need opentelemetry-api, and it is not installed",
            suggestion="pip install 'nativemem[otel]'",
        ) from None


def _observe(observation: Any, metric: Metric, options: Any) -> list[Any]:
    values = read(snapshot(sites=False)).get(metric, {})
    return [observation(value, {"owner": label} if metric.by_owner else {}) for label, value in values.items()]


def instrument(meter_provider: Any = None) -> None:
    """Has the figures of this process collected by ``meter_provider`` (None: the one that is set), as observable
    gauges and counters of the meter ``nativemem``. They are read when they are collected. Once for a provider.
    Names and units: docs/observe.md.

    Raises :class:`NativeUnavailable` without opentelemetry-api. Any thread.

    >>> from opentelemetry.sdk.metrics import MeterProvider
    >>> from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    >>> reader = InMemoryMetricReader()
    >>> instrument(MeterProvider([reader]))
    >>> metrics = reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics
    >>> [(metric.name, metric.unit) for metric in metrics if metric.name == "nativemem.resident"]
    [('nativemem.resident', 'By')]
    """
    api = _api()
    meter = api.get_meter("nativemem", __version__, meter_provider)
    for metric in METRICS:
        make = meter.create_observable_counter if metric.counts else meter.create_observable_gauge
        callback = functools.partial(_observe, api.Observation, metric)
        make(metric.dotted, callbacks=[callback], unit=metric.unit, description=metric.help)
