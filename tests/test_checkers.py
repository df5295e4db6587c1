"""The memory checkers see blocks, and not only the chunks that blocks are cut from.

Each mistake in ``tests/c/planted.c`` must be reported by the checkers that can see its kind, with the compiler and
run-time options that ``make c-tests-asan``, ``c-tests-tsan`` and ``c-tests-valgrind`` use; a program without a
mistake must pass under all of them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PLANTED = ROOT / "tests" / "c" / "planted.c"
OPTIONS = {"ASAN_OPTIONS": "allocator_may_return_null=1", "TSAN_OPTIONS": "allocator_may_return_null=1"}

MISTAKES = re.findall(r"MISTAKE\((\w+)\)", PLANTED.read_text(encoding="utf-8").split("mistakes[]")[1])
UNINITIALISED = [name for name in MISTAKES if name.endswith("_uninitialised")]
OTHERS = ("nothing", "leak", "race", "overflow", *UNINITIALISED)
#: of a block that is gone, beside one, or in its slack
MISUSES = [name for name in MISTAKES if name not in OTHERS]

TOUCHED = "use-after-poison"
INVALID = r"Invalid (read|write) of size 1"


def build(checker: str) -> Path:
    for tool in ("make", os.environ.get("CC") or "cc", *(["valgrind"] if checker == "valgrind" else [])):
        if shutil.which(tool.split()[0]) is None:
            pytest.skip(f"needs {tool}")
    program = f"build/c-tests/{checker}/planted"
    # a make that runs this test must not be taken for the parent of this one
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    made = subprocess.run(["make", "-s", program], cwd=ROOT, env=env, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    return ROOT / program


@pytest.fixture(scope="module")
def asan() -> Path:
    return build("asan")


@pytest.fixture(scope="module")
def tsan() -> Path:
    return build("tsan")


@pytest.fixture(scope="module")
def valgrind() -> Path:
    return build("valgrind")


def report(*command: object) -> tuple[int, str]:
    words = [str(word) for word in command]
    done = subprocess.run(words, env=os.environ | OPTIONS, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout + done.stderr


def under_valgrind(program: Path, mistake: str) -> tuple[int, str]:
    flags = ("--quiet", "--error-exitcode=9", "--leak-check=full", "--errors-for-leak-kinds=definite")
    return report("valgrind", *flags, program, mistake)


def test_every_kind_of_mistake_is_planted() -> None:
    assert {"arena_overrun", "slab_use_after_free", "arena_use_after_reset", "heap_uninitialised"} <= set(MISTAKES)
    assert len(MISUSES) >= 20 and len(UNINITIALISED) == 5


def test_a_program_without_a_mistake_passes(asan: Path, tsan: Path) -> None:
    assert report(asan, "nothing") == (0, "")
    assert report(tsan, "nothing") == (0, "")


def test_a_program_without_a_mistake_passes_valgrind(valgrind: Path) -> None:
    assert under_valgrind(valgrind, "nothing") == (0, "")


@pytest.mark.parametrize("mistake", MISUSES)
def test_address_sanitizer_sees(asan: Path, mistake: str) -> None:
    code, text = report(asan, mistake)
    assert code != 0 and TOUCHED in text, text


def test_leak_sanitizer_sees_a_lost_block(asan: Path) -> None:
    code, text = report(asan, "leak")
    assert code != 0 and "100 byte(s) leaked in 1 allocation(s)" in text, text


def test_undefined_behaviour_sanitizer_sees_an_overflow(asan: Path) -> None:
    code, text = report(asan, "overflow")
    assert code != 0 and "signed integer overflow" in text, text


def test_thread_sanitizer_sees_a_race_in_a_block(tsan: Path) -> None:
    code, text = report(tsan, "race")
    assert code != 0 and "data race" in text and "count_up" in text, text


@pytest.mark.parametrize("mistake", MISUSES)
def test_valgrind_sees(valgrind: Path, mistake: str) -> None:
    code, text = under_valgrind(valgrind, mistake)
    assert code == 9 and re.search(INVALID, text), text


@pytest.mark.parametrize("mistake", UNINITIALISED)
def test_valgrind_sees_bytes_that_nobody_wrote(valgrind: Path, mistake: str) -> None:
    code, text = under_valgrind(valgrind, mistake)
    assert code == 9 and "depends on uninitialised value" in text, text


def test_valgrind_sees_a_lost_block(valgrind: Path) -> None:
    code, text = under_valgrind(valgrind, "leak")
    assert code == 9 and "100 bytes in 1 blocks are definitely lost" in text, text
