"""Rows that compare a workload with its peers, the targets they are held to, and how they print."""

from __future__ import annotations

import os
import platform
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

HEAD = ("workload", "peer", "time", "native/peer", "spread", "target", "")


def paired(native: Sequence[float], peer: Sequence[float]) -> tuple[float, float, float]:
    """Median, quartile 1 and quartile 3 of native/peer, round by round.

    Both sides of one round ran next to each other, so what slows the machine down for a while
    slows both and cancels.
    """
    each = sorted(n / p for n, p in zip(native, peer, strict=True))
    if len(each) == 1:
        return each[0], each[0], each[0]
    low, middle, high = statistics.quantiles(each, n=4, method="inclusive")
    return middle, low, high


@dataclass(frozen=True)
class Row:
    """One line. ``value``: seconds, bytes where ``unit`` is "B", or a bare number where it is "1"; ratios
    are native/peer."""

    workload: str
    peer: str
    value: float | None
    ratio: float
    low: float | None = None
    high: float | None = None
    target: float | None = None
    unit: str = "s"

    @property
    def verdict(self) -> str:
        """Whether the ratio keeps to the target; empty where there is none."""
        if self.target is None:
            return ""
        # at the two digits that are printed, so that the verdict never contradicts its line
        return "pass" if round(self.ratio, 2) <= self.target else "short"

    def cells(self) -> tuple[str, ...]:
        """The line's texts, in the order of :data:`HEAD`."""
        spread = "" if self.low is None else f"{self.low:.2f}-{self.high:.2f}"
        target = "" if self.target is None else f"<= {self.target:.2f}"
        return (
            self.workload,
            self.peer,
            "" if self.value is None else shown(self.value, self.unit),
            f"{self.ratio:.2f}",
            spread,
            target,
            self.verdict,
        )


@dataclass
class Table:
    """The rows of one target."""

    title: str
    notes: list[str]
    #: what its third and fourth columns are called
    measured: str = "time"
    ratio: str = "native/peer"
    rows: list[Row] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def add(self, row: Row) -> None:
        self.rows.append(row)

    def skip(self, reason: str) -> None:
        """Says once under the table what was left out."""
        if reason not in self.skipped:
            self.skipped.append(reason)

    def lines(self) -> list[str]:
        """The table as plain text."""
        names = {"time": self.measured, "native/peer": self.ratio}
        head = [names.get(name, name) for name in HEAD]
        grid = [head, *(row.cells() for row in self.rows)]
        widths = [max(len(line[i]) for line in grid) for i in range(len(HEAD))]
        left = (True, True, False, False, False, False, True)
        out = [self.title, *self.notes, ""]
        for line in grid:
            cells = (
                text.ljust(width) if flush else text.rjust(width)
                for text, width, flush in zip(line, widths, left, strict=True)
            )
            out.append("  ".join(cells).rstrip())
        held = [row.verdict for row in self.rows if row.verdict]
        out += ["", f"{held.count('pass')} of {len(held)} targets met"]
        out += [f"left out: {reason}" for reason in self.skipped]
        return out


def three_digits(value: float) -> str:
    """``1.23``, ``12.3``, ``123``."""
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def shown(value: float, unit: str) -> str:
    """Three digits and a unit: ``12.3 us``, ``45.6 MiB``."""
    if unit == "1":
        return three_digits(value)
    if unit == "B":
        return f"{value / (1 << 20):.1f} MiB"
    for scale, name in ((1e-9, "ns"), (1e-6, "us"), (1e-3, "ms")):
        if value < scale * 1000:
            return f"{three_digits(value / scale)} {name}"
    return f"{three_digits(value)} s"


def size_name(size: int) -> str:
    """``65536`` as ``64 KiB``."""
    for power, name in ((20, "MiB"), (10, "KiB")):
        if size >= 1 << power:
            return f"{size >> power} {name}"
    return f"{size} B"


def _first(path: str, key: str) -> str | None:
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    for line in text.splitlines():
        if line.startswith(key):
            return line.partition(":")[2].strip()
    return None


def machine() -> list[str]:
    """What the figures were taken on."""
    import numpy

    import nativemem

    model = _first("/proc/cpuinfo", "model name") or platform.processor() or platform.machine()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    lines = [
        f"cpu     {model}, {os.cpu_count()} cores, {memory:.0f} GiB",
        f"system  {platform.system()} {platform.release()}, {' '.join(platform.libc_ver())}",
        f"python  {platform.python_implementation()} {platform.python_version()}"
        f" ({sys.maxsize.bit_length() + 1} bit), numpy {numpy.__version__},"
        f" nativemem {nativemem.__version__}",
    ]
    pages = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if pages.exists():
        lines.append(f"pages   transparent huge pages: {pages.read_text().strip()}")
    return lines
