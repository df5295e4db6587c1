"""`make dist`: which interpreters it finds, and that its wheels run on an old glibc (PYV-5)."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

import nativemem
from loading import load

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def dist() -> types.ModuleType:
    return load(ROOT / "scripts" / "dist.py")


@pytest.mark.skipif(
    nativemem.backend != "native" or platform.libc_ver()[0] != "glibc" or platform.machine() != "x86_64",
    reason="the wheels that the header is for have the core, glibc and x86-64",
)
def test_what_the_core_calls_of_a_late_glibc_has_an_older_version(dist: types.ModuleType) -> None:
    """The header names each function; a wheel made without one of them would be refused by dist.py."""
    tool = shutil.which("objdump")
    if tool is None:
        pytest.skip("needs objdump")
    (core,) = Path(nativemem.__file__).parent.glob("_core*.so")
    said = subprocess.run([tool, "-T", core], capture_output=True, text=True, check=True).stdout
    needed = re.findall(r"\*UND\*.*\(?GLIBC_(\d+)\.(\d+)[.\d]*\)?\s+(\w+)", said)
    assert "pthread_create" in {name for _, _, name in needed}
    late = {name for major, minor, name in needed if (int(major), int(minor)) > dist.LATEST_GLIBC}
    header = (ROOT / "scripts" / "manylinux.h").read_text(encoding="utf-8")
    named = dict(re.findall(r"NM_OLD\((\w+), ([\d.]+)\)", header))
    assert late - set(named) == set()
    for version in named.values():
        assert tuple(int(part) for part in version.split(".")) <= dist.LATEST_GLIBC


def test_this_interpreter_is_found(dist: types.ModuleType) -> None:
    found = dist.look(sys.executable, None)
    if found is None:  # without venv or ensurepip, or a debug build
        pytest.skip("this interpreter makes no environments")
    assert found.shown.startswith(f"{platform.python_implementation()} {platform.python_version()}")
    (again,) = dist.interpreters([sys.executable], [])
    assert again == found


def test_what_is_no_interpreter(dist: types.ModuleType, tmp_path: Path) -> None:
    assert dist.look(str(tmp_path / "none"), None) is None
    old = tmp_path / "python3.9"
    old.write_text("#!/bin/sh\necho Python 3.9\n")
    old.chmod(0o755)
    assert dist.look(str(old), None) is None
    with pytest.raises(SystemExit, match="is no Python from 3.10 on"):
        dist.interpreters([str(old)], [])


def test_interpreters_of_another_system(dist: types.ModuleType, tmp_path: Path) -> None:
    """They are found by their names there, and given to the commands that run there by its own paths."""
    folder = tmp_path / "usr" / "bin"
    folder.mkdir(parents=True)
    for name in ("python3.14", "python3.13t", "pypy3", "python3", "python3.14-config", "python2.7"):
        (folder / name).write_text("")
    assert sorted(dist.candidates(tmp_path)) == ["/usr/bin/python3.13t", "/usr/bin/python3.14"]
    assert dist.inside(tmp_path, tmp_path / "root" / "x") == "/root/x"
    assert dist.inside(tmp_path, "word") == "word"
    assert dist.inside(None, tmp_path) == str(tmp_path)


def test_a_command_that_fails_ends_it_with_what_it_said(dist: types.ModuleType) -> None:
    result = dist.run(None, sys.executable, "-c", "import sys; print('why'); sys.exit(3)")
    with pytest.raises(SystemExit, match="(?s)why.*dist: failed: the wheel"):
        dist.done(result, "the wheel")
