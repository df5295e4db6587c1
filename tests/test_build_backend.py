"""The build backend: what it asks the frontend for, on which interpreters and machines (PYV-3)."""

from __future__ import annotations

import importlib.util
import platform
import re
import sys
import sysconfig
import types
from pathlib import Path

import pytest

from builds import ROOT

pytest.importorskip("setuptools", minversion="77")

BACKEND = ROOT / "scripts" / "backend" / "nativemem_build.py"


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The backend as a frontend loads it. Nothing is remembered from a test before."""
    for name in ("USE_NATIVE_MEM", "CC", "CFLAGS", "CPPFLAGS"):
        monkeypatch.delenv(name, raising=False)
    spec = importlib.util.spec_from_file_location("nativemem_build", BACKEND)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def asked_for(backend: types.ModuleType) -> list[str]:
    kinds = ("wheel", "editable", "sdist")
    first, *others = (getattr(backend, f"get_requires_for_build_{kind}")() for kind in kinds)
    assert others == [first, first]
    assert isinstance(first, list)
    return first


def compiler(tmp_path: Path, script: str) -> str:
    path = tmp_path / "compiler"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_where_the_core_can_be_built_cffi_is_asked_for(
    backend: types.ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CC", compiler(tmp_path, "exit 0"))
    known = backend.FIRST <= sys.version_info[:2] <= backend.LAST
    cpython = platform.python_implementation() == "CPython"
    possible = known and cpython and not sysconfig.get_config_var("Py_GIL_DISABLED") and sys.maxsize > 1 << 32
    assert asked_for(backend) == ([backend.CFFI] if possible else [])


def test_a_pure_build_asks_for_nothing(backend: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USE_NATIVE_MEM", "0")
    monkeypatch.setattr(backend, "obstacle", lambda: pytest.fail("a pure build does not look for a compiler"))
    assert asked_for(backend) == []


def pypy(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(platform, "python_implementation", lambda: "PyPy")


def windows(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("os.name", "nt")
    patch.setattr(platform, "system", lambda: "Windows")


def narrow(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sys, "maxsize", (1 << 31) - 1)


def free_threaded(patch: pytest.MonkeyPatch) -> None:
    real = sysconfig.get_config_var
    patch.setattr(sysconfig, "get_config_var", lambda name: 1 if name == "Py_GIL_DISABLED" else real(name))
    patch.setattr(sys, "version_info", (3, 13, 5, "final", 0))


def unknown(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sys, "version_info", (3, 99, 0, "alpha", 1))
    patch.setattr(platform, "python_version", lambda: "3.99.0a1")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (pypy, "needs CPython, and this is PyPy"),
        (windows, "needs a POSIX system, and this is Windows"),
        (narrow, "needs a 64-bit interpreter, and this one has 32 bits"),
        (free_threaded, "does not run on a free-threaded interpreter before 3.14"),
        (unknown, "knows the insides of CPython 3.10 to 3.15, and this is 3.99.0a1"),
    ],
)
def test_where_there_can_be_no_core(
    change: types.FunctionType, why: str, backend: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`auto` asks for nothing, so nothing that these refuse is installed; `1` says why not, in one line."""
    with monkeypatch.context() as patch:
        change(patch)
        if change is not pypy:
            patch.setattr(platform, "python_implementation", lambda: "CPython")
        without = asked_for(backend)
        patch.setenv("USE_NATIVE_MEM", "1")
        try:
            backend.get_requires_for_build_wheel()
        except SystemExit as error:
            said = str(error)
    assert without == []
    assert said.startswith("USE_NATIVE_MEM=1: the C core ")
    assert why in said
    assert "\n" not in said


def test_without_the_lock_the_core_is_asked_for(
    backend: types.ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """PYV-2: `auto` builds the pure package there, and `1` the core, from 3.14 on."""
    monkeypatch.setenv("CC", compiler(tmp_path, "exit 0"))
    with monkeypatch.context() as patch:
        free_threaded(patch)
        patch.setattr(platform, "python_implementation", lambda: "CPython")
        patch.setattr(sys, "version_info", (3, 14, 4, "final", 0))
        assert asked_for(backend) == []
        assert "where it is asked for, by USE_NATIVE_MEM=1" in backend.obstacle()
        backend.obstacle.cache_clear()
        patch.setenv("USE_NATIVE_MEM", "1")
        assert asked_for(backend) == [backend.CFFI]


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (None, "there is no C compiler: "),
        ("exit 7", "it ends with exit code 7"),
        ("echo 'probe.c:1:10: fatal error: Python.h: No such file or directory' >&2; exit 1", "python3-dev"),
        ("echo 'x.h:1:2: fatal error: stdint.h: No such file or directory' >&2; exit 1", "libc6-dev"),
    ],
)
def test_without_a_compiler_that_works(
    script: str | None, why: str, backend: types.ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where cffi's own source would have to be compiled that fails as well, and would end the installation."""
    monkeypatch.setenv("CC", str(tmp_path / "none") if script is None else compiler(tmp_path, script))
    said = backend._compiler_says()
    assert why in said
    assert "\n" not in said
    monkeypatch.setattr(backend, "obstacle", lambda: said)
    assert asked_for(backend) == []


@pytest.mark.parametrize("value", ["yes", "", "2", "AUTO"])
def test_another_value_of_the_switch(
    value: str, backend: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USE_NATIVE_MEM", value)
    with pytest.raises(SystemExit, match=r"takes 1 \(require the C core\)"):
        backend.get_requires_for_build_wheel()


def test_the_versions_are_those_that_the_core_knows(backend: types.ModuleType) -> None:
    """What the backend lets through is compiled, and the core's own check refuses the next version."""
    text = (ROOT / "csrc" / "engine" / "internals.h").read_text(encoding="utf-8")
    refused = re.search(r"#if PY_VERSION_HEX >= 0x03([0-9A-F]{2})0000\n#error", text)
    assert refused is not None
    assert int(refused[1], 16) == backend.LAST[1] + 1
    named = re.findall(r"Python :: 3\.(\d+)\"", (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert (min(map(int, named)), max(map(int, named))) == (backend.FIRST[1], backend.LAST[1])


def test_nothing_but_setuptools_is_asked_for_in_any_case() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    _, _, section = text.partition("[build-system]")
    assert 'requires = ["setuptools>=77"]' in section.partition("\n[")[0]
