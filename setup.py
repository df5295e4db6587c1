"""The build switch USE_NATIVE_MEM. Everything else about the package is in pyproject.toml."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import warnings
from pathlib import Path
from typing import Any

from setuptools import setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import BaseError, CCompilerError

choice = os.environ.get("USE_NATIVE_MEM", "auto")
if choice not in ("1", "0", "auto"):
    raise SystemExit(
        f"USE_NATIVE_MEM={choice!r}: takes 1 (require the C core), "
        "0 (pure Python, no compiler needed) or auto (try the C core, else pure Python)"
    )

obstacle = None
if platform.python_implementation() != "CPython":
    obstacle = f"the C core needs CPython, this is {platform.python_implementation()}"
elif importlib.util.find_spec("cffi") is None:
    obstacle = "cffi is not installed in the build environment"


HEADERS = Path("csrc/include")
CONFIG = Path("csrc/nm_config.h.in")


def config(native: bool) -> str:
    """nm_config.h, which is the one place that says whether this is a native build."""
    return CONFIG.read_text(encoding="utf-8").replace("@USE_NATIVE_MEM@", str(int(native)))


def put_headers(package: Path, native: bool) -> list[str]:
    """What ``nativemem.get_include()`` has: nm_config.h, and in a native build all others. Returns the files."""
    include = package / "include"
    shutil.rmtree(include, ignore_errors=True)
    if native:
        shutil.copytree(HEADERS, include)
    include.mkdir(parents=True, exist_ok=True)
    (include / "nm_config.h").write_text(config(native), encoding="utf-8")
    print(f"nativemem: USE_NATIVE_MEM={int(native)} ({'the native core' if native else 'pure Python'})")
    return [str(path) for path in sorted(include.rglob("*.h"))]


def fall_back(reason: object) -> None:
    warnings.warn(
        "nativemem: the C core was not built, this is a pure Python build "
        f"(USE_NATIVE_MEM=1 makes this an error). Reason: {reason}",
        stacklevel=2,
    )


class BuildOrFallBack(build_ext):
    """Builds the C core; where that fails, says so and turns this into a pure build."""

    def run(self) -> None:
        try:
            super().run()
        except (BaseError, CCompilerError, OSError) as error:
            fall_back(error)
            for stale in Path(self.build_lib).glob("nativemem/_core*"):
                stale.unlink()  # of a build before, in the same tree
            package = "src/nativemem" if self.editable_mode else f"{self.build_lib}/nativemem"
            put_headers(Path(package), native=False)
            # the commands that follow take the layout and the tag of the wheel from these three
            self.extensions = []
            self.distribution.ext_modules = None
            self.distribution.get_command_obj("bdist_wheel").root_is_pure = True


class BuildWithStart(build_py):
    """The headers go into the package; the file that lets NATIVEMEM_AUTOINSTALL=1 work goes beside it. Of an
    editable install that file alone is installed."""

    start = "nativemem_autoinstall.pth"
    headers: list[str] = []

    def run(self) -> None:
        super().run()
        self.headers = put_headers(Path("src" if self.editable_mode else self.build_lib) / "nativemem", native)
        # editable: the folder that becomes the wheel, which has nothing else that was built
        beside = self.get_finalized_command("install").install_purelib if self.editable_mode else self.build_lib
        Path(beside).mkdir(parents=True, exist_ok=True)
        self.copy_file(f"src/{self.start}", str(Path(beside) / self.start))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        ours = [] if self.editable_mode else [str(Path(self.build_lib) / self.start), *self.headers]
        return [*super().get_outputs(include_bytecode), *ours]


if choice == "1" and obstacle:
    raise SystemExit(f"USE_NATIVE_MEM=1: {obstacle}")
if choice == "auto" and obstacle:
    fall_back(obstacle)

options: dict[str, Any] = {"cmdclass": {"build_py": BuildWithStart}}
native = choice != "0" and obstacle is None
if native:
    for_the_core = Path("build/config/1/nm_config.h")
    for_the_core.parent.mkdir(parents=True, exist_ok=True)
    for_the_core.write_text(config(native), encoding="utf-8")
    options["cffi_modules"] = ["src/nativemem/_ffi_build.py:ffibuilder"]
    if choice == "auto":
        options["cmdclass"]["build_ext"] = BuildOrFallBack

# The extension loads cffi's run-time module; a pure build is standard library only.
setup(install_requires=["cffi>=1.17"] if native else [], **options)
