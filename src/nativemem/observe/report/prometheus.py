"""The figures of a report in Prometheus's text format, for node_exporter's textfile collector or a Pushgateway."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .. import metrics
from .model import Report
from .wording import clean

__all__ = ["render"]

_Samples = Iterable[tuple[dict[str, str], float]]


def _value(text: str) -> str:
    return clean(text).replace("\\", "\\\\").replace('"', '\\"')


def _family(name: str, kind: str, text: str, samples: _Samples) -> list[str]:
    lines = [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
    for labels, number in samples:
        inside = ",".join(f'{key}="{_value(value)}"' for key, value in labels.items())
        lines.append(f"{name}{{{inside}}} {number}" if inside else f"{name} {number}")
    return lines if len(lines) > 2 else []


def render(report: Report, *, top: int = 20, by: str = "peak", **_: Any) -> str:
    """Figures by owner, and the ``top`` largest sites by ``by``."""
    owners, recording = report.owners, report.recording
    sites = [
        (
            {
                "owner": row.owner,
                "file": row.place.file,
                "line": str(row.place.line),
                "function": row.place.function,
            },
            row,
        )
        for row in report.sites(by, top)
    ]

    def by_owner(metric: metrics.Metric, of: str) -> list[str]:
        """Under the name that a running process gives it."""
        values = ((row.name, getattr(row, of)) for row in owners)
        samples: _Samples = [({"owner": owner}, value) for owner, value in values if value is not None]
        return _family(metric.name, "counter" if metric.counts else "gauge", metric.help, samples)

    lines = [
        *by_owner(metrics.USED, "used"),
        *by_owner(metrics.PEAK, "peak"),
        *by_owner(metrics.LIMIT, "limit"),
        *by_owner(metrics.DENIALS, "denials"),
        *_family(
            "nativemem_profile_bytes",
            "gauge",
            "Live, peak and total bytes that the profile saw.",
            [
                ({"owner": row.name, "measure": measure}, row.amount.bytes(measure))
                for row in owners
                for measure in ("live", "peak", "total")
            ],
        ),
        *_family(
            "nativemem_site_bytes",
            "gauge",
            "Bytes of the largest lines of the program.",
            [({**labels, "measure": by}, row.amount.bytes(by)) for labels, row in sites],
        ),
        *_family(
            "nativemem_block_size_bytes",
            "gauge",
            "Percentiles of the sizes of blocks.",
            [({"quantile": f"{p / 100}"}, size) for p, size in (report.histogram.total or {}).items()],
        ),
        *_family("nativemem_profile_dropped", "gauge", "Items without room.", [({}, recording.dropped)]),
        *_family("nativemem_profile_began_seconds", "gauge", "When it began.", [({}, recording.began)]),
    ]
    return "\n".join(lines) + "\n"
