"""scripts/hunt_limits.py: a short hunt, and one with bodies of which each is a finding."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import nativemem

HUNT = Path(__file__).resolve().parents[1] / "scripts" / "hunt_limits.py"

pytestmark = pytest.mark.skipif(nativemem.backend != "native", reason="the engine is native")


def hunt(*arguments: object) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, HUNT, *map(str, arguments)], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("kind", ["scope", "process"])
def test_a_short_hunt(kind: str) -> None:
    """ENG-9: full again and again; `make hunt-limits` has the other variants."""
    code, said = hunt("--kind", kind, "--variant", "full", "--limit", "256 KiB", "--denials", 4_000, "--seed", 3)
    assert code == 0, said
    met = re.search(r"(\d+) MemoryErrors, .* no findings", said)
    assert met is not None and int(met[1]) >= 4_000


PLANTED = """
import faulthandler, gc, random, time

calls = [0]

def crash(r, n):
    calls[0] += 1
    if calls[0] > 1: faulthandler._sigsegv()

def hang(r, n):
    calls[0] += 1
    while calls[0] > 1:
        try: time.sleep(1)
        except BaseException: pass

def wrong(r, n):
    calls[0] += 1
    return calls[0]

def another(r, n):
    calls[0] += 1
    if calls[0] > 1: raise KeyError(5)

class Bad:
    def __del__(self): raise ValueError

def aside(r, n):
    Bad()

def made_up(r, n):
    calls[0] += 1
    if calls[0] > 1: raise MemoryError

def leaves(r, n):
    calls[0] += 1
    if calls[0] > 1: __import__("os")._exit(3)

BODIES = {f.__name__: f for f in (crash, hang, wrong, another, aside, made_up, leaves)}
"""


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        ("crash", "SIGSEGV"),
        ("hang", "hang, deaf to Ctrl-C"),
        ("wrong", "wrong result"),
        ("another", "KeyError: 5"),
        ("aside", "aside: ValueError"),
        ("made_up", "MemoryError without a denial"),
        ("leaves", "exit code 3"),
    ],
)
def test_what_it_finds(body: str, outcome: str, tmp_path: Path) -> None:
    bodies = tmp_path / "planted.py"
    bodies.write_text(PLANTED)
    at = ("--variant", "plain", "--kind", "scope", "--limit", "4 MiB")
    code, said = hunt("--bodies", bodies, "--only", body, *at, "--patience", 2)
    assert code == 1
    assert outcome in said
    assert f"--only {body} --variant plain --kind scope" in said
