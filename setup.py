"""The build switch USE_NATIVE_MEM. Everything else about the package is in pyproject.toml."""

from __future__ import annotations

import importlib.util
import os
import platform
import warnings
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext
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
            # the commands that follow take the layout and the tag of the wheel from these three
            self.extensions = []
            self.distribution.ext_modules = None
            self.distribution.get_command_obj("bdist_wheel").root_is_pure = True


if choice == "1" and obstacle:
    raise SystemExit(f"USE_NATIVE_MEM=1: {obstacle}")
if choice == "auto" and obstacle:
    fall_back(obstacle)

options: dict[str, object] = {}
if choice != "0" and obstacle is None:
    options["cffi_modules"] = ["src/nativemem/_ffi_build.py:ffibuilder"]
    if choice == "auto":
        options["cmdclass"] = {"build_ext": BuildOrFallBack}

# The extension loads cffi's run-time module; a pure build is standard library only.
setup(install_requires=["cffi>=1.17"] if options else [], **options)
