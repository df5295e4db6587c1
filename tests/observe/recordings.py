"""Recordings made by hand: what a file holds is known, and it may hold what no program would write."""

from __future__ import annotations

import struct
from pathlib import Path as File
from typing import Any

from nativemem.observe.recording import Moment, Owner, Path, Recording, Refused, Sampled, Sized
from nativemem.observe.report import Report

MIB = 1 << 20
HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    "a;b\nc 12",
    "=HYPERLINK(3)",
    "|`\"'\\{}\x1b[2J\u202e@all",
    "\U0001f600 日本 %s {0}",
)


def path(*places: tuple[str, int, str]) -> Path:
    """A call path, outermost first."""
    made: Path | None = None
    for file, line, function in places:
        made = Path(file, line, function, made)
    assert made is not None
    return made


def sampled(
    where: Path, owner: str, live: int, peak: int, total: int, block: int, source: str = "objects"
) -> Sampled:
    """Of blocks of ``block`` bytes."""
    return Sampled(where, owner, source, live, live // block, total, total // block, peak, peak // block)


MAIN = ("/srv/app/main.py", 40, "main")
LOAD = ("/srv/app/load.py", 12, "load")
DECODE = ("/usr/lib/python3.11/json/decoder.py", 353, "JSONDecoder.raw_decode")


def example(**changed: object) -> Recording:
    """A program of 10 s with a process of 100 MiB, an owner ``cache`` of 32 MiB, which was refused twice, and two
    owners ``request``, one after the other."""
    cached, other = path(MAIN, LOAD, DECODE), path(MAIN, LOAD)
    sites = (
        sampled(cached, "cache", 20 * MIB, 24 * MIB, 80 * MIB, 512),
        sampled(cached, "process", 2 * MIB, 4 * MIB, 6 * MIB, 64),
        sampled(other, "process", 0, 40 * MIB, 40 * MIB, 4 * MIB, "arrays"),
        sampled(path(MAIN), "request", MIB, MIB, 9 * MIB, 1024),
        sampled(path(("", 0, "(no Python code)")), "process", 4096, 4096, 4096, 4096, "raw"),
    )
    values: dict[str, object] = {
        "pid": 4711,
        "began": 1_800_000_000.0,
        "lasted": 10.0,
        "rate": 1,
        "samples": 250_000,
        "dropped": 0,
        "live": sum(s.live for s in sites),
        "peak": sum(s.peak for s in sites),
        "peak_at": 5.0,
        "sites": sites,
        "owners": (
            Owner("process", None, 60 * MIB, 100 * MIB, 0),
            Owner("cache", 32 * MIB, 21 * MIB, 31 * MIB, 2),
            Owner("request", 16 * MIB, 0, 5 * MIB, 0),
            Owner("request", 16 * MIB, 2 * MIB, 6 * MIB, 0),
        ),
        "moments": (
            Moment(0.0, "process", 10 * MIB, None, 0),
            Moment(1.0, "cache", 5 * MIB, 32 * MIB, 1),
            Moment(2.0, "request", 5 * MIB, 16 * MIB, 2),
            Moment(3.0, "request", 6 * MIB, 16 * MIB, 3),
            Moment(3.5, "request", 0, 16 * MIB, 2),
            Moment(5.0, "process", 100 * MIB, None, 0),
            Moment(6.0, "cache", 31 * MIB, 32 * MIB, 1),
            Moment(9.0, "request", 2 * MIB, 16 * MIB, 3),
            Moment(10.0, "process", 60 * MIB, None, 0),
        ),
        "refused": (
            Refused(5.5, "cache", 2 * MIB, 31 * MIB, 32 * MIB, cached),
            Refused(6.5, "cache", 3 * MIB, 30 * MIB, 32 * MIB, cached),
        ),
        "sizes": (
            Sized(64, 2 * MIB, 32_768, 6 * MIB, 98_304),
            Sized(512, 20 * MIB, 40_960, 80 * MIB, 163_840),
            Sized(1024, MIB, 1024, 9 * MIB, 9216),
            Sized(4 * MIB, 0, 0, 40 * MIB, 10),
        ),
        "about": {
            "command": "python main.py",
            "folder": "/srv/app",
            "python": "cpython 3.11.7",
            "system": "Linux 6.1 x86_64, 2 CPUs",
            "nativemem": "0.1.0",
        },
    }
    return Recording(**{**values, **changed})  # type: ignore[arg-type]


def hostile() -> Recording:
    """Whose names are markup, orders to a terminal, and what other formats separate by."""
    sites = tuple(
        sampled(path(MAIN, (f"/srv/{name}", 7, name)), name, MIB * (i + 1), MIB * (i + 1), MIB * (i + 1), 1024)
        for i, name in enumerate(HOSTILE)
    )
    return example(
        sites=sites,
        live=sum(s.live for s in sites),
        peak=sum(s.peak for s in sites),
        owners=(Owner("process", None, MIB, MIB, 0), *(Owner(name, MIB, MIB, MIB, 1) for name in HOSTILE)),
        moments=tuple(Moment(float(i), name, MIB * i, MIB, i + 1) for i, name in enumerate(HOSTILE)),
        refused=tuple(Refused(1.0, s.owner, MIB, MIB, MIB, s.path) for s in sites),
        about={name: name for name in HOSTILE} | {"command": "python " + " ".join(HOSTILE)},
    )


def write(file: File, recording: Recording) -> File:
    """Writes a recording's file, in the layout of csrc/observe/recording.h. Returns the file."""
    strings = bytearray(4)
    offsets: dict[str, int] = {"": 0}

    def text(value: str) -> int:
        if value not in offsets:
            data = value.encode()
            offsets[value] = len(strings)
            strings.extend(struct.pack("<I", len(data)) + data + bytes(-len(data) % 4))
        return offsets[value]

    nodes = [struct.pack("<4I", 0, 0, 0, 0)]
    numbers: dict[tuple[int, str, int, str], int] = {}

    def node(at: Path | None) -> int:
        if at is None:
            return 0
        key = (node(at.caller), at.file, at.line, at.function)
        if key not in numbers:
            numbers[key] = len(nodes)
            nodes.append(struct.pack("<4I", key[0], text(at.file), text(at.function), at.line))
        return numbers[key]

    none = (1 << 64) - 1
    names = [owner.name for owner in recording.owners]
    limits = [none if owner.limit is None else owner.limit for owner in recording.owners]
    kinds = ("objects", "raw", "arrays", "blocks")
    sections = [
        b"",
        b"",
        b"".join(
            struct.pack(
                "<4I6Q",
                *(node(s.path), names.index(s.owner), kinds.index(s.source), 1),
                *(s.live, s.live_blocks << 10, s.total, s.total_blocks << 10, s.peak, s.peak_blocks << 10),
            )
            for s in recording.sites
        ),
        b"".join(
            struct.pack("<2I4Q", text(o.name) if i else 0, 0, limits[i], o.used, o.peak, o.denials)
            for i, o in enumerate(recording.owners)
        ),
        b"".join(
            struct.pack("<Q2I2Q", round(m.seconds * 1e9), m.number, 0, m.used, none if m.limit is None else m.limit)
            for m in recording.moments
        ),
        b"",
        b"".join(
            struct.pack(
                "<4Q2I",
                *(round(r.seconds * 1e9), r.requested, r.used, none if r.limit is None else r.limit),
                *(names.index(r.owner), node(r.path)),
            )
            for r in recording.refused
        ),
        b"".join(
            struct.pack("<5Q", s.most, s.live, s.live_blocks << 10, s.total, s.total_blocks << 10)
            for s in recording.sizes
        ),
        b"".join(struct.pack("<2I", text(name), text(value)) for name, value in recording.about.items()),
    ]
    sections[0], sections[1] = bytes(strings), b"".join(nodes)
    items = (1, 16, 64, 40, 32, 32, 40, 40, 8)
    at, table = 4096, b""
    for section, item in zip(sections, items, strict=True):
        table += struct.pack("<4Q", at, len(section) // item, item, len(section) // item)
        at += len(section)
    head = struct.pack(
        "<8s2I11Q2I",
        *(b"NMRECORD", 2, 9, at, round(recording.began * 1e9)),
        0 if recording.lasted is None else round(recording.lasted * 1e9),
        *(recording.pid, recording.rate, 10_000_000, recording.dropped, recording.samples),
        *(recording.live, recording.peak, round(recording.peak_at * 1e9), 1, 4),
    )
    file.write_bytes((head + table).ljust(4096, b"\0") + b"".join(sections))
    return file


# --- small ones, of which each figure is given


def at(line: int, function: str = "f", file: str = "/x/a.py", caller: Path | None = None) -> Path:
    return Path(file, line, function, caller)


def site(
    where: Path, live: int = 0, peak: int = 0, total: int = 0, *, owner: str = "process", source: str = "objects",
    blocks: tuple[int, int, int] = (1, 1, 1),
) -> Sampled:  # fmt: skip
    return Sampled(where, owner, source, live, blocks[0], total, blocks[2], peak, blocks[1])


def recorded(*sites: Sampled, **changed: Any) -> Recording:
    owners = tuple(Owner(name, None, 0, 0, 0) for name in dict.fromkeys(["process", *(s.owner for s in sites)]))
    values: dict[str, Any] = {
        "pid": 7, "began": 0.0, "lasted": 1.0, "rate": 1, "samples": 0, "dropped": 0, "live": 0, "peak": 0,
        "peak_at": 0.0, "sites": sites, "owners": owners, "moments": (), "refused": (),
    }  # fmt: skip
    return Recording(**{**values, **changed})


def reported(*sites: Sampled, **changed: Any) -> Report:
    return Report(recorded(*sites, **changed))
