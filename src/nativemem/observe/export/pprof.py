"""pprof's format (https://github.com/google/pprof/blob/main/proto/profile.proto), gzipped.

Sample types have the names of Go's heap profile, so that ``go tool pprof -inuse_space`` finds them. Protocol
buffers are written by the few lines below: the library is larger than this package, and a writer needs no schema.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from typing import Any

from ..report.model import Report
from ..report.tree import Amount, Place

__all__ = ["render"]

#: name, unit, and what it is of a site
_TYPES = (
    ("alloc_objects", "count", "total_blocks"),
    ("alloc_space", "bytes", "total"),
    ("peak_objects", "count", "peak_blocks"),
    ("peak_space", "bytes", "peak"),
    ("inuse_objects", "count", "live_blocks"),
    ("inuse_space", "bytes", "live"),
)
_OPENED = {"live": "inuse_space", "peak": "peak_space", "total": "alloc_space"}


def _varint(n: int) -> bytes:
    """https://protobuf.dev/programming-guides/encoding: seven bits a byte, the low ones first."""
    n &= (1 << 64) - 1
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value) if value else b""


def _part(field: int, data: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _packed(field: int, values: Iterable[int]) -> bytes:
    return _part(field, b"".join(map(_varint, values)))


class _Table:
    """Numbers things in the order in which they come; ``write`` makes the message of a new one."""

    def __init__(self) -> None:
        self.strings: dict[str, int] = {"": 0}
        self.functions: dict[tuple[str, str], int] = {}
        self.locations: dict[Place, int] = {}

    def text(self, value: str) -> int:
        value = value.encode("utf-8", "replace").decode()
        return self.strings.setdefault(value, len(self.strings))

    def location(self, place: Place) -> int:
        self.functions.setdefault((place.function, place.file), len(self.functions) + 1)
        return self.locations.setdefault(place, len(self.locations) + 1)

    def messages(self) -> bytes:
        """Locations, functions and, last, the strings that they use."""
        out = bytearray()
        for place, number in self.locations.items():
            function = self.functions[place.function, place.file]
            line = _number(1, function) + _number(2, place.line)
            out += _part(4, _number(1, number) + _number(2, 1) + _part(4, line))
        for (name, file), number in self.functions.items():
            of = self.text(name)
            out += _part(5, _number(1, number) + _number(2, of) + _number(3, of) + _number(4, self.text(file)))
        for text in self.strings:
            out += _part(6, text.encode())
        return bytes(out)


def render(report: Report, *, by: str = "peak", **_: Any) -> bytes:
    """The file, opened at ``by``; owners and sources are labels (``pprof -tagfocus=owner=cache``)."""
    table, recording = _Table(), report.recording
    out = bytearray()
    for name, unit, _attribute in _TYPES:
        out += _part(1, _number(1, table.text(name)) + _number(2, table.text(unit)))
    for leaf in report.tree.leaves:
        labels = b"".join(
            _part(3, _number(1, table.text(key)) + _number(2, table.text(value)))
            for key, value in (("owner", leaf.owner), ("source", leaf.source))
        )
        locations = _packed(1, [table.location(place) for place in report.tree.path(leaf.node)])
        out += _part(2, locations + _packed(2, _values(leaf.amount)) + labels)
    program = recording.about.get("command") or report.where
    # one mapping with functions and lines: without it pprof looks for a binary to take them from
    out += _part(3, _number(1, 1) + _number(5, table.text(program)) + b"".join(_number(f, 1) for f in (7, 8, 9)))
    out += _number(9, round(recording.began * 1e9))
    out += _number(10, round(report.seconds * 1e9))
    out += _part(11, _number(1, table.text("space")) + _number(2, table.text("bytes")))
    out += _number(12, recording.rate)
    if recording.about:
        out += _packed(13, [table.text(f"{name}: {text}") for name, text in recording.about.items()])
    out += _number(14, table.text(_OPENED[by]))
    return gzip.compress(bytes(out) + table.messages(), mtime=0)


def _values(amount: Amount) -> list[int]:
    return [getattr(amount, attribute) for _, _, attribute in _TYPES]
