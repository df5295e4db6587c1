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
from nativemem.observe.recording import read

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
        "            kept = [bytes(100_000) for _ in range(100)]\n"
        "        del kept, budget\n"
    )
    subprocess.run([sys.executable, "-c", code, str(file)], check=True)
    recording = read(file)
    numbers = [i for i, owner in enumerate(recording.owners) if owner.name == "request"]
    assert len(numbers) == 5
    for number in numbers:
        assert recording.owners[number].used == 0 and recording.owners[number].peak > 10_000_000
        assert [m for m in recording.moments if m.number == number][-1].used == 0


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
