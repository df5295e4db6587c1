"""What the four have in common: how a binding is built, and what a library on a port does."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

HERE = Path(__file__).resolve().parent
BUILT = HERE.parents[1] / "build" / "c_libraries" / f"{sys.implementation.cache_tag}-{platform.machine()}"


class Wrong(Exception):
    """Something is not as it should be."""


class Denied(MemoryError):
    """A library was refused memory and says so: ``code`` is its own name for that."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Wrong(otherwise)


# --- bindings ---


@dataclass(frozen=True)
class Binding:
    """A C library, as cffi is told of it. ``package``: what brings ``header`` on Debian; ``source``: C that the
    declarations of ``cdef`` need besides that."""

    name: str
    package: str
    header: str
    library: str
    cdef: str
    source: str = ""

    @property
    def module(self) -> str:
        return f"_on_{self.name}"

    @property
    def built(self) -> Path:
        """Where it is once it is built."""
        return BUILT / f"{self.module}{sysconfig.get_config_var('EXT_SUFFIX')}"

    def is_built(self) -> bool:
        """And no older than these files."""
        newest = max(path.stat().st_mtime for path in HERE.glob("*.py"))
        return self.built.exists() and self.built.stat().st_mtime >= newest


def compiler() -> list[str]:
    """As the compiler of extension modules is chosen."""
    return (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()


def missing(bindings: Iterable[Binding]) -> list[str]:
    """What is not there to build those with that are not built yet, each line with the remedy."""
    bindings = [binding for binding in bindings if not binding.is_built()]
    if not bindings:
        return []
    modules = [name for name in ("cffi", "setuptools") if importlib.util.find_spec(name) is None]
    lines = [f"missing: {', '.join(modules)}; pip install {' '.join(modules)}"] if modules else []
    packages = []
    if shutil.which(compiler()[0]) is None:
        packages.append("gcc")
    else:
        headers = {"python3-dev": "Python.h", **{binding.package: binding.header for binding in bindings}}
        packages += [package for package, header in headers.items() if not has(header)]
    if packages:
        names = " ".join(packages)
        lines.append(f"missing: {', '.join(packages)}; on Debian or Ubuntu: apt-get install {names}")
    return lines


def has(header: str) -> bool:
    command = [*compiler(), "-I", sysconfig.get_path("include"), "-fsyntax-only", "-x", "c", "-"]
    done = subprocess.run(command, input=f"#include <{header}>\n", text=True, capture_output=True, check=False)
    return done.returncode == 0


@cache
def load(binding: Binding) -> Any:
    """The compiled binding, with ``ffi`` and ``lib``; built where it is not yet."""
    if not binding.is_built():
        build(binding)
    spec = importlib.util.spec_from_file_location(binding.module, binding.built)
    if spec is None or spec.loader is None:
        raise Wrong(f"{binding.built} is no extension module")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build(binding: Binding) -> None:
    from cffi import FFI

    ffi = FFI()
    ffi.cdef(binding.cdef)
    source = f"#include <{binding.header}>\n{binding.source}"
    ffi.set_source(binding.module, source, libraries=[binding.library])
    BUILT.mkdir(parents=True, exist_ok=True)
    # built aside and moved: another run may be loading it
    with tempfile.TemporaryDirectory(dir=BUILT) as folder:
        os.replace(ffi.compile(tmpdir=folder), binding.built)


# --- libraries ---


class Library(ABC):
    """A C library that takes its memory from a port, ready for work. Making one raises :class:`Denied`, and leaves
    nothing, where the port has not even that much."""

    name: ClassVar[str]
    binding: ClassVar[Binding]
    #: bytes that it may have
    limit: ClassVar[int]
    #: amounts of work: a little, what fits into the limit, and what does not
    little: ClassVar[int]
    fits: ClassVar[int]
    too_much: ClassVar[int]
    #: its own name for being out of memory
    no_memory: ClassVar[str]

    def __init__(self, port: Any) -> None:
        module = load(self.binding)
        self.port = port
        self.ffi: Any = module.ffi
        self.lib: Any = module.lib

    @abstractmethod
    def work(self, amount: int) -> str:
        """Does so much, and returns what that was. Raises :class:`Denied`, :class:`Wrong` for a wrong result."""

    @abstractmethod
    def answer(self) -> None:
        """Does something small that it can do after a denial, too. Raises as ``work`` does."""

    @abstractmethod
    def close(self) -> None:
        """Has the library free everything."""

    def in_heap(self) -> bool:
        """Where blocks have no heads, and are as large as the cells they lie in."""
        return bool(self.port.allocator.describe().endswith("Heap"))

    def taken(self) -> int:
        """Bytes of the port that are in use, without heads."""
        stats = self.port.stats
        return int(stats.current - (0 if self.in_heap() else stats.live * 16))
