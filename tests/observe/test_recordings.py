"""PROF: what a recording holds, what an earlier layout held, and files that are damaged."""

from __future__ import annotations

import gzip
import random
import shlex
import struct
import subprocess
import sys
from pathlib import Path

import pytest

import nativemem
from nativemem.errors import ConfigError
from nativemem.observe.recording import Moment, Owner, Recording, Refused, Sampled, Sized, read
from nativemem.observe.recording import Path as Place

#: written by the layout's version 1: a budget of 4 MiB for "cache", which refused one request
FIRST = Path(__file__).parent / "version-1.nm.gz"


@pytest.fixture
def first(tmp_path: Path) -> Path:
    file = tmp_path / "first.nm"
    file.write_bytes(gzip.decompress(FIRST.read_bytes()))
    return file


@pytest.mark.skipif(nativemem.backend != "native", reason="a profile is of the engine, which is native")
def test_what_the_process_is_and_how_large_its_blocks_are(tmp_path: Path) -> None:
    """PROF-1, REP-2"""
    file = tmp_path / "run.nm"
    code = (
        "import sys, nativemem; nativemem.install()\n"
        "from nativemem.observe.profile import Profile\n"
        "with Profile(sys.argv[1], rate=1):\n"
        "    kept = [bytes(1000) for _ in range(2000)]; gone = [bytearray(3_000_000) for _ in range(3)]; del gone\n"
    )
    command = [sys.executable, "-c", code, str(file), "a b"]
    subprocess.run(command, check=True)
    recording = read(file)
    assert shlex.split(recording.about["command"]) == command
    version = ".".join(map(str, sys.version_info[:3]))
    assert recording.about["python"].startswith(f"cpython {version}")
    assert recording.about["nativemem"] == nativemem.__version__ and recording.about["system"]
    assert sum(s.live for s in recording.sizes) == recording.live
    assert sum(s.total for s in recording.sizes) == sum(s.total for s in recording.sites)
    mosts = [s.most for s in recording.sizes]
    assert mosts == sorted(mosts)
    (ours,) = (s for s in recording.sizes if s.most >= 1033 and s.most < 1033 * 5 / 4)
    assert 2000 <= ours.live_blocks < 2100
    (large,) = (s for s in recording.sizes if s.most >= 3_000_000)
    assert large.live_blocks == 0 and large.total_blocks == 3


@pytest.mark.skipif(nativemem.backend != "native", reason="a profile is of the engine, which is native")
def test_an_owner_that_ends_uses_nothing(tmp_path: Path) -> None:
    """REP-2: what several budgets of one name used can be added up at any time."""
    file = tmp_path / "run.nm"
    code = (
        "import sys, nativemem; nativemem.install()\n"
        "from nativemem.observe.profile import Profile\n"
        "with Profile(sys.argv[1], rate=1):\n"
        "    for _ in range(5):\n"
        "        budget = nativemem.Budget('64 MiB', name='request')\n"
        "        with budget:\n"
        "            kept = tuple(map(bytes, (100_000,) * 100))\n"  # CPython keeps some lists and frames
        "        del kept, budget\n"
    )
    subprocess.run([sys.executable, "-c", code, str(file)], check=True)
    recording = read(file)
    numbers = [i for i, owner in enumerate(recording.owners) if owner.name == "request"]
    assert len(numbers) == 5
    for number in numbers:
        assert recording.owners[number].used == 0 and recording.owners[number].peak > 10_000_000
        assert [m for m in recording.moments if m.number == number][-1].used == 0


@pytest.mark.skipif(nativemem.backend != "native", reason="a profile is of the engine, which is native")
def test_each_refusal_is_noted(tmp_path: Path) -> None:
    """REP-2: those of small blocks, whose error comes later, as well as large ones."""
    file = tmp_path / "run.nm"
    code = (
        "import sys, nativemem; nativemem.install()\n"
        "from nativemem.observe.profile import Profile\n"
        "budget = nativemem.Budget('1 MiB', name='small')\n"
        "def fill(size):\n"
        "    kept = []\n"
        "    while True: kept.append(bytes(size))\n"
        "with Profile(sys.argv[1]):\n"
        "    for size in (40, 1000, 300_000):\n"
        "        try:\n"
        "            with budget: fill(size)\n"
        "        except MemoryError: pass\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, str(file)], check=True)
    recording = read(file)
    denials = next(owner.denials for owner in recording.owners if owner.name == "small")
    assert len(recording.refused) == denials >= 3 and {each.owner for each in recording.refused} == {"small"}
    assert all("fill" in [at.function for at in each.path] for each in recording.refused)
    assert {each.limit for each in recording.refused} == {1 << 20}


def test_the_first_layout_is_read(first: Path) -> None:
    """PROF-3"""
    recording = read(first)
    assert recording.sizes == () and recording.about == {}
    assert recording.live == sum(s.live for s in recording.sites) > 3_000_000
    assert [(o.name, o.limit, o.denials) for o in recording.owners] == [
        ("process", 1 << 30, 0),
        ("cache", 4 << 20, 1),
    ]
    assert recording.refused[0].path.function == "refused"


NO_LIMIT = (1 << 64) - 1


def made(file: Path, *, times: int = 4, ended: int = 5_000_000_000, version: int = 2, sections: int = 9) -> Path:
    """A recording of our own making, in which no two numbers are the same where one could stand for the other."""
    strings, offsets = bytearray(4), {"": 0}
    for text in ("/a.py", "f", "/b.py", "g", "cache", "python", "\u03a9 x"):
        offsets[text] = len(strings)
        strings += struct.pack("<I", len(text.encode())) + text.encode()
        strings += bytes(-len(strings) % 4)

    def at(text: str) -> int:
        return offsets[text]

    nodes = [(0, 0, 0, 0), (0, at("/a.py"), at("f"), 3), (1, at("/b.py"), at("g"), 5), (9, 0, 1 << 20, 7)]
    sites = [
        (2, 1, 2, 77, 100, 3 * 1024, 200, 6 * 1024, 150, 4 * 1024 + 511),  # had another share at the peak
        (1, 0, 0, 70, 10, 1536, 20, 2560, 15, 9999),  # and this has not changed since
        (40, 9, 3, 77, 1, 1024, 2, 2048, 3, 3072),  # a path, and an owner, that there are not
        (3, 0, 9, 70, 1, 1024, 2, 2048, 0, 0),
        (1, 1, 0, 70, 0, 0, 0, 0, 0, 0),  # nothing came
    ]
    owners = [(0, 0, NO_LIMIT, 111, 222, 0), (at("cache"), 0, 4096, 100, 300, 2), (0, 1, 1, 2, 3, 4)]
    moments = [(1_000_000_000, 1, 0, 50, 4096), (2_500_000_000, 0, 0, 60, NO_LIMIT)]
    refused = [(3_000_000_000, 5000, 90, 4096, 1, 2), (4_000_000_000, 6000, 95, NO_LIMIT, 7, 0)]
    sizes = [(16, 10, 1536, 30, 3584), (32, 0, 0, 0, 0), (64, 20, 1024, 40, 2048)]
    about = [(at("python"), at("\u03a9 x"))]
    tables = [("<4I", nodes), ("<4I6Q", sites), ("<2I4Q", owners), ("<Q2I2Q", []), ("<Q2I2Q", [])]
    tables[min(times, 5) - 1] = ("<Q2I2Q", moments)
    tables += [("<4Q2I", refused), ("<5Q", sizes), ("<2I", about)]
    parts = [(1, len(strings), bytes(strings))]
    for layout, rows in tables[: sections - 1]:
        parts.append((struct.calcsize(layout), len(rows), b"".join(struct.pack(layout, *row) for row in rows)))
    place, table, data = 8 + 8 + 11 * 8 + 8 + 32 * sections, b"", b""
    for item, count, part in parts:
        table += struct.pack("<4Q", place + len(data), count, item, count)
        data += part
    numbers = (0, 7_000_000_000, ended, 4321, 512, 0, 12, 34, 1110, 2220, 1_500_000_000)
    head = struct.pack("<8s2I11Q2I", b"NMRECORD", version, sections, *numbers, 77, times)
    file.write_bytes(head + table + data)
    return file


@pytest.mark.parametrize("times", [4, 5])
def test_what_a_recording_says(tmp_path: Path, times: int) -> None:
    """PROF-3: each figure in its place; what is not there, or is damaged, as the reader says."""
    recording = read(made(tmp_path / "made.nm", times=times))
    f = Place("/a.py", 3, "f")
    g = Place("/b.py", 5, "g", f)
    other = Place("", 0, "(other code)")
    assert recording == Recording(
        pid=4321,
        began=7.0,
        lasted=5.0,
        rate=512,
        samples=34,
        dropped=12,
        live=1110,
        peak=2220,
        peak_at=1.5,
        sites=(
            Sampled(g, "cache", "arrays", 100, 3, 200, 6, 150, 4),
            Sampled(f, "process", "objects", 10, 2, 20, 2, 10, 2),
            Sampled(other, "process", "blocks", 1, 1, 2, 2, 3, 3),
            Sampled(Place("", 7, ""), "process", "9", 1, 1, 2, 2, 1, 1),
        ),
        owners=(
            Owner("process", None, 111, 222, 0),
            Owner("cache", 4096, 100, 300, 2),
            Owner("owner 2", 1, 2, 3, 4),
        ),
        moments=(Moment(1.0, "cache", 50, 4096, 1), Moment(2.5, "process", 60, None, 0)),
        refused=(
            Refused(3.0, "cache", 5000, 90, 4096, g),
            Refused(4.0, "process", 6000, 95, None, other),
        ),
        sizes=(Sized(16, 10, 2, 30, 4), Sized(64, 20, 1, 40, 2)),
        about={"python": "\u03a9 x"},
    )
    assert g.frames() == [g, f] and [str(place) for place in g] == ["/b.py:5 in g", "/a.py:3 in f"]
    assert (str(other), g.caller, f.caller) == ("(other code)", f, None)
    assert read(made(tmp_path / "made.nm", ended=0)).lasted is None


def test_an_earlier_layout_and_no_other(tmp_path: Path) -> None:
    """PROF-3"""
    first = read(made(tmp_path / "made.nm", version=1, sections=7))
    assert (first.sizes, first.about, len(first.refused)) == ((), {}, 2)
    for layout in ({"version": 3}, {"version": 1}, {"version": 0, "sections": 7}, {"times": 6}):
        with pytest.raises(ConfigError, match="has layout|is damaged"):
            read(made(tmp_path / "made.nm", **layout))
    whole = made(tmp_path / "made.nm").read_bytes()
    for end, what in ((100, "is no recording"), (8 + 8 + 11 * 8 + 8 + 32 * 9 - 1, "is damaged")):
        (tmp_path / "made.nm").write_bytes(whole[:end])
        with pytest.raises(ConfigError, match=what):
            read(tmp_path / "made.nm")


def test_a_damaged_file_is_read_or_is_an_error(first: Path) -> None:
    """PROF-3: of any content, in bounded time and memory."""
    whole = first.read_bytes()
    sections = [struct.unpack_from("<4Q", whole, 8 + 8 + 11 * 8 + 8 + 32 * s) for s in range(7)]
    used = [
        range(0, 340),
        *(range(at, at + min(room, count) * item) for at, room, item, count in sections if count),
    ]
    dice = random.Random(20)
    outcomes = set()
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(dice.choice((1, 3, 20))):
            at = dice.choice(dice.choice(used))
            size = dice.choice((1, 4, 8))
            damaged[at : at + size] = dice.choice((bytes(size), b"\xff" * size, dice.randbytes(size)))
        if dice.random() < 0.1:
            del damaged[dice.randrange(len(damaged)) :]
        first.write_bytes(damaged)
        try:
            recording = read(first)
            assert all(len(site.path.frames()) < 200 for site in recording.sites)
            outcomes.add("read")
        except ConfigError as error:
            assert str(error).startswith("recording: ")
            outcomes.add("error")
    assert outcomes == {"read", "error"}
    first.write_bytes(whole[:8] + struct.pack("<2I", 3, 11) + whole[16:])
    with pytest.raises(ConfigError, match="has layout 3, and this nativemem reads 1 to 2"):
        read(first)
