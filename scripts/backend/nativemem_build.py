"""The build backend (PEP 517): setuptools, which asks for cffi only where the C core is to be built and can be.

setup.py takes from here what the build switch says and what stands in the core's way, so both answer alike. The
frontend installs what is asked for, and a package that it cannot install ends the whole installation: with
``auto`` no later moment is left to fall back. So this looks first at all that the core needs of the machine.
"""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from functools import cache
from typing import Any

from setuptools.build_meta import (
    build_editable,
    build_sdist,
    build_wheel,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "CFFI",
    "build_editable",
    "build_sdist",
    "build_wheel",
    "choice",
    "compiler",
    "first_error",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "obstacle",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

#: what the core is generated with, and what its control plane loads
CFFI = "cffi>=2" if sysconfig.get_config_var("Py_GIL_DISABLED") else "cffi>=1.17"
#: the versions of CPython whose insides the core knows: the first, and the last
FIRST, LAST = (3, 10), (3, 15)
#: the first of them whose free-threaded build cffi and the guards of the data plane are for
FREE_THREADED = (3, 14)


def choice() -> str:
    """The build switch. Ends the build, in one line, where it has a value that it does not take."""
    value = os.environ.get("USE_NATIVE_MEM", "auto")
    if value not in ("1", "0", "auto"):
        raise SystemExit(
            f"USE_NATIVE_MEM={value!r}: takes 1 (require the C core), "
            "0 (pure Python, no compiler needed) or auto (try the C core, else pure Python)"
        )
    return value


@cache
def obstacle() -> str | None:
    """What stands in the way of the C core on this interpreter and this machine; None: nothing that is seen before
    its own code is compiled."""
    if platform.python_implementation() != "CPython":
        return f"the C core needs CPython, and this is {platform.python_implementation()}"
    if os.name != "posix":
        return f"the C core needs a POSIX system, and this is {platform.system()}"
    if sys.maxsize < 1 << 32:
        return "the C core needs a 64-bit interpreter, and this one has 32 bits"
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        if sys.version_info[:2] < FREE_THREADED:
            return "the C core does not run on a free-threaded interpreter before 3.14, as cffi does not"
        if choice() == "auto":
            return "the C core is built for a free-threaded interpreter where it is asked for, by USE_NATIVE_MEM=1"
    if not FIRST <= sys.version_info[:2] <= LAST:
        known = f"CPython {FIRST[0]}.{FIRST[1]} to {LAST[0]}.{LAST[1]}"
        return f"the C core knows the insides of {known}, and this is {platform.python_version()}"
    return _compiler_says()


def compiler() -> list[str]:
    """The command that compiles extensions: its name and its options."""
    return shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")


def _compiler_says() -> str | None:
    """What goes wrong when the compiler is given a file that includes Python.h, as the core's files do."""
    flags = [flag for name in ("CPPFLAGS", "CFLAGS") for flag in shlex.split(os.environ.get(name, ""))]
    folders = sorted({sysconfig.get_path(name) for name in ("include", "platinclude")})
    with tempfile.TemporaryDirectory() as place:
        source = os.path.join(place, "probe.c")
        with open(source, "w", encoding="ascii") as file:
            file.write("#include <Python.h>\n#include <stdatomic.h>\n")
        command = [*compiler(), *flags, *(f"-I{folder}" for folder in folders), "-c", source, "-o", f"{source}.o"]
        env = {**os.environ, "LC_ALL": "C"}
        try:
            done = subprocess.run(command, env=env, capture_output=True, text=True, errors="replace", check=False)
        except OSError as error:
            hint = "on Debian or Ubuntu: apt-get install gcc"
            return f"there is no C compiler: {command[0]}: {error.strerror} ({hint})"
    if done.returncode == 0:
        return None
    what = first_error(done.stderr.replace(place + os.sep, "")) or f"it ends with exit code {done.returncode}"
    package = "python3-dev" if "Python.h" in what else "libc6-dev" if ".h:" in what else ""
    hint = f" (on Debian or Ubuntu: apt-get install {package})" if package else ""
    return f"the C compiler {command[0]} does not compile a file that includes Python.h: {what}{hint}"


def first_error(said: str) -> str | None:
    """The line of a compiler's messages that says what went wrong first."""
    return next((line.strip() for line in said.splitlines() if "error:" in line), None)


def _requires() -> list[str]:
    asked = choice()
    if asked == "0":
        return []
    why = obstacle()
    if why is None:
        return [CFFI]
    if asked == "1":
        raise SystemExit(f"USE_NATIVE_MEM=1: {why}")
    return []


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    """What the frontend has to install before a wheel is built. It does not run setup.py, which needs that."""
    return _requires()


def get_requires_for_build_editable(config_settings: Any = None) -> list[str]:
    """As for a wheel."""
    return _requires()


def get_requires_for_build_sdist(config_settings: Any = None) -> list[str]:
    """As for a wheel: the archive's metadata are those of the build that this machine would make."""
    return _requires()
