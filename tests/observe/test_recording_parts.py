"""PROF: each field of a recording from its bytes, as recording.h lays them out, and each kind of damage."""

from __future__ import annotations

import struct
from pathlib import Path as File
from typing import Any

import pytest

from nativemem.errors import ConfigError
from nativemem.observe import recording as module
from nativemem.observe.recording import Moment, Owner, Path, Refused, Sampled, Sized, read, read_bytes

HEAD = "<8s2I11Q2I"
NONE = (1 << 64) - 1
KINDS = ("1s", "<4I", "<4I6Q", "<2I4Q", "<Q2I2Q", "<Q2I2Q", "<4Q2I", "<5Q", "<2I")


def strings(*texts: bytes) -> tuple[bytes, list[int]]:
    """A section of texts, and where each begins."""
    data, offsets = bytearray(4), []
    for text in texts:
        offsets.append(len(data))
        data += struct.pack("<I", len(text)) + text
    return bytes(data), offsets


TEXTS, (FILE, FUNCTION, OTHER, CACHE, EMPTY, BAD) = strings(b"a.py", b"load", b"main", b"cache", b"", b"\xff")


def sections(**given: Any) -> list[list[tuple[Any, ...]]]:
    """Those of one: 0 texts, 1 nodes, 2 sites, 3 owners, 4 and 5 moments, 6 refusals, 7 sizes, 8 about."""
    return [
        [],
        given.get("nodes", [(0, 0, 0, 0), (0, FILE, OTHER, 9), (1, FILE, FUNCTION, 4)]),
        given.get("sites", []),
        given.get("owners", [(0, 0, NONE, 10, 20, 3)]),
        given.get("moments", []),
        given.get("others", []),
        given.get("refused", []),
        given.get("sizes", []),
        given.get("about", []),
    ]


def parts(texts: bytes = TEXTS, version: int = 2, count: int = 9, times: int = 4, **given: Any) -> list[bytes]:
    """The head and the sections, as a core hands them out."""
    data = [texts, *(b"".join(struct.pack(kind, *item) for item in items)
                     for kind, items in zip(KINDS[1:], sections(**given)[1:], strict=True))]  # fmt: skip
    head = struct.pack(
        HEAD, b"NMRECORD", version, count, 0,
        *(5_500_000_000, given.get("ended", 2_250_000_000), 77, 64, 1 << 30, 6, 7, 8, 9, 1_500_000_000, 5, times),
    )[: struct.calcsize(HEAD)]  # fmt: skip
    table = b"".join(
        struct.pack("<4Q", 0, 0, 0, len(each) // struct.calcsize(kind))
        for kind, each in zip(KINDS[:count], data[:count], strict=True)
    )
    return [head + table, *data[:count]]


def test_the_head() -> None:
    made = read_bytes(parts())
    assert (made.pid, made.began, made.lasted, made.rate, made.samples, made.dropped) == (77, 5.5, 2.25, 64, 7, 6)
    assert (made.live, made.peak, made.peak_at) == (8, 9, 1.5)
    assert (made.sites, made.moments, made.refused, made.sizes, made.about) == ((), (), (), (), {})
    assert read_bytes(parts(ended=0)).lasted is None and read_bytes(parts(ended=1)).lasted == 1e-9


def test_owners() -> None:
    none = (1 << 63) - 1
    found = read_bytes(
        parts(
            owners=[
                (CACHE, 0, none, 1, 2, 3),
                (CACHE, 0, none - 1, 4, 5, 6),
                (0, 0, 7, 8, 9, 10),
                (EMPTY, 0, NONE, 0, 0, 0),
                (BAD, 0, 0, 0, 0, 0),
            ]
        )
    ).owners
    assert found == (
        Owner("process", None, 1, 2, 3),
        Owner("cache", none - 1, 4, 5, 6),
        Owner("owner 2", 7, 8, 9, 10),
        Owner("owner 3", None, 0, 0, 0),
        Owner("\ufffd", 0, 0, 0, 0),
    )


OWNERS = [(0, 0, NONE, 0, 0, 0), (CACHE, 0, NONE, 0, 0, 0)]
LOAD = Path("a.py", 4, "load", Path("a.py", 9, "main"))


def test_sites() -> None:
    """Counts of blocks are rounded; one that has not changed since the peak had at it what it has now."""
    found = read_bytes(
        parts(
            owners=OWNERS,
            sites=[
                (2, 1, 2, 5, 10, 1024, 30, 5 * 1024, 20, 2 * 1024),
                (1, 0, 0, 4, 11, 1535, 31, 1537, 21, 9 * 1024),
                (2, 2, 4, 5, 12, 0, 1, 511, 22, 513),
                (1, 0, 1, 5, 13, 1024, 0, 1024, 23, 1024),
                (9, 1, 3, 5, 1, 0, 1, 0, 1, 0),
            ],
        )
    ).sites
    nothing = Path("", 0, "(other code)")
    assert found == (
        Sampled(LOAD, "cache", "arrays", 10, 1, 30, 5, 20, 2),
        Sampled(LOAD.caller, "process", "objects", 11, 1, 31, 2, 11, 1),  # type: ignore[arg-type]
        Sampled(LOAD, "process", "4", 12, 0, 1, 0, 22, 1),
        Sampled(nothing, "cache", "blocks", 1, 0, 1, 0, 1, 0),
    )
    assert [str(each.path) for each in found] == [
        "a.py:4 in load",
        "a.py:9 in main",
        "a.py:4 in load",
        "(other code)",
    ]
    assert found[0].path.frames() == [LOAD, LOAD.caller] and found[2].path is found[0].path
    assert module.SOURCES == ("objects", "raw", "arrays", "blocks")


def test_paths_of_a_damaged_file() -> None:
    """A caller comes before what it calls, or there is none; texts beyond the end are empty."""
    nodes = [
        (0, 0, 0, 0),
        (2, FILE, FUNCTION, 1),
        (2, FILE, OTHER, 2),
        (1, FILE, OTHER, 3),
        (99, len(TEXTS), FILE, 4),
    ]
    nodes += [(4, len(TEXTS) - 4, len(TEXTS) - 3, 5)]
    sites = [(n, 0, 0, 5, 1, 0, 1, 0, 1, 0) for n in (1, 2, 3, 4, 5, 0)]
    found = [site.path for site in read_bytes(parts(nodes=nodes, sites=sites)).sites]
    assert found[0] == Path("a.py", 1, "load") and found[0].caller is None
    assert found[1] == Path("a.py", 2, "main") and found[1].caller is None
    assert found[2] == Path("a.py", 3, "main", found[0]) and found[2].caller is found[0]
    assert (found[3].file, found[3].function, found[3].caller) == ("", "a.py", None)
    assert found[4].caller is found[3] and found[4].function == "" and found[5] == Path("", 0, "(other code)")


@pytest.mark.parametrize("times", [4, 5])
def test_moments_and_refusals(times: int) -> None:
    """Of the section that the head names."""
    moments = [(1_500_000_000, 1, 0, 7, NONE), (2_000_000_000, 3, 0, 8, 9)]
    others = [(3_000_000_000, 0, 0, 1, 2)]
    made = read_bytes(parts(
        owners=OWNERS, moments=moments, others=others, times=times,
        refused=[(500_000_000, 100, 50, NONE, 1, 2), (600_000_000, 1, 2, 3, 9, 0)],
    ))  # fmt: skip
    assert made.moments == (
        (Moment(1.5, "cache", 7, None, 1), Moment(2.0, "process", 8, 9, 3))
        if times == 4
        else (Moment(3.0, "process", 1, 2, 0),)
    )
    assert made.refused == (
        Refused(0.5, "cache", 100, 50, None, LOAD),
        Refused(0.6, "process", 1, 2, 3, Path("", 0, "(other code)")),
    )


def test_sizes_and_about() -> None:
    made = read_bytes(
        parts(
            sizes=[(16, 1, 1535, 2, 2561), (32, 5, 1024, 0, 1024), (64, 0, 0, 1, 0)],
            about=[(FILE, FUNCTION), (OTHER, 0)],
        )
    )
    assert made.sizes == (Sized(16, 1, 1, 2, 3), Sized(64, 0, 0, 1, 0))
    assert made.about == {"a.py": "load", "main": ""}


def test_the_first_layout_has_neither() -> None:
    made = read_bytes(parts(version=1, count=7, sizes=[(16, 1, 1, 1, 1)], about=[(FILE, FILE)]))
    assert (made.sizes, made.about, made.pid) == ((), {}, 77)


def refused(*given: Any, where: str = "memory", says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_bytes(*given)
    assert str(caught.value) == f"recording: {where} {says}"
    assert caught.value.suggestion == "write one with nativemem.observe.profile"


def test_what_is_damaged() -> None:
    whole = parts()
    head = whole[0]
    refused([head[: struct.calcsize(HEAD) - 1], *whole[1:]], says="is no recording")
    refused([b"NMRECORE" + head[8:], *whole[1:]], "it", where="it", says="is no recording")
    for version, count in ((3, 9), (0, 9), (2, 7), (1, 9), (2, 8)):
        changed = head[:8] + struct.pack("<2I", version, count) + head[16:]
        refused([changed, *whole[1:]], says=f"has layout {version}, and this nativemem reads 1 to 2")
    for cut in (head[:-1], head[: struct.calcsize(HEAD)], head[: struct.calcsize(HEAD) + 1]):
        refused([cut, *whole[1:]], says="is damaged")
    assert read_bytes([head + b"more", *whole[1:]]).pid == 77
    refused(whole[:-1], says="is damaged")
    assert read_bytes([*whole, b"more"]).pid == 77
    for times in (3, 6, 0):
        refused(parts(times=times), says="is damaged")


def test_a_section_that_is_cut() -> None:
    """Whole items alone are read, and no more than were counted."""
    whole = parts(sizes=[(16, 1, 1, 1, 1), (32, 1, 1, 1, 1), (64, 1, 1, 1, 1)])
    whole[8] = whole[8][:-1]
    assert [each.most for each in read_bytes(whole).sizes] == [16, 32]
    whole = parts(sizes=[(16, 1, 1, 1, 1)])
    whole[8] *= 3
    assert len(read_bytes(whole).sizes) == 1


def written(file: File, change: Any = None, cut: int = 0, **given: Any) -> File:
    """A file of these parts; ``change`` gets and gives each line of its table."""
    head, *data = parts(**given)
    at = 4096
    table, body = b"", b""
    for i, (kind, each) in enumerate(zip(KINDS, data, strict=False)):
        size = struct.calcsize(kind)
        entry = [at, len(each) // size, size, len(each) // size]
        table += struct.pack("<4Q", *(change(i, entry) if change else entry))
        body += each
        at += len(each)
    whole = (head[: struct.calcsize(HEAD)] + table).ljust(4096, b"\0") + body
    file.write_bytes(whole[: len(whole) - cut])
    return file


ABOUT = {"about": [(FILE, FUNCTION), (OTHER, FILE)], "sizes": [(16, 1, 1, 1, 1)]}


def test_a_file(tmp_path: File) -> None:
    file = written(tmp_path / "x.nm", **ABOUT)
    for path in (file, str(file)):
        made = read(path)
        assert made == read_bytes(parts(**ABOUT)) and made.about == {"a.py": "load", "main": "a.py"}
    assert read(written(tmp_path / "one.nm", version=1, count=7)).about == {}


def test_a_file_that_is_damaged(tmp_path: File) -> None:
    """Its items are of another size, or lie beyond its end; what has no room is not read."""

    def one(section: int, **new: int) -> Any:
        names = ("offset", "room", "item", "count")
        return lambda i, entry: [
            new.get(name, old) if i == section else old for name, old in zip(names, entry, strict=True)
        ]

    file = tmp_path / "x.nm"
    for section in range(9):
        written(file, one(section, item=3), **ABOUT)
        with pytest.raises(ConfigError) as caught:
            read(file)
        assert str(caught.value) == f"recording: {file} is damaged"
    with pytest.raises(ConfigError, match="is damaged"):
        read(written(file, cut=1, **ABOUT))
    assert read(written(file, one(8, room=1, count=5), **ABOUT)).about == {"a.py": "load"}
    assert read(written(file, one(8, room=5, count=1), **ABOUT)).about == {"a.py": "load"}
    with pytest.raises(ConfigError, match="is damaged"):
        read(written(file, one(8, room=3, count=3), **ABOUT))
    with pytest.raises(ConfigError, match=f"^recording: {file} is no recording"):
        file.write_bytes(b"")
        read(file)
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none")
