"""The build switch USE_NATIVE_MEM. Everything else about the package is in pyproject.toml."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

from setuptools import setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import BaseError, CCompilerError

sys.path.insert(0, str(Path(__file__).resolve().parent / "scripts" / "backend"))

import nativemem_build as switch


def without_cffi() -> str | None:
    """Why the build environment has no cffi that will do; None where it has."""
    try:
        import _cffi_backend  # noqa: F401  # cffi itself loads it late
        import cffi
    except ModuleNotFoundError:
        return "cffi is not installed in the build environment"
    except Exception as error:  # whatever is wrong with it, the core is not built with it
        return f"the cffi of the build environment does not load: {error}"
    least = tuple(int(part) for part in switch.CFFI.partition(">=")[2].split("."))
    if cffi.__version_info__[: len(least)] < least:
        return f"the build environment has cffi {cffi.__version__}, and {switch.CFFI} is needed"
    return None


choice = switch.choice()
obstacle = None if choice == "0" else switch.obstacle() or without_cffi()


HEADERS = Path("csrc/include")
CONFIG = Path("csrc/nm_config.h.in")


def config(native: bool) -> str:
    """nm_config.h, which is the one place that says whether this is a native build."""
    return CONFIG.read_text(encoding="utf-8").replace("@USE_NATIVE_MEM@", str(int(native)))


def record(native: bool, reason: object) -> str:
    """What the package says of its build: ``nativemem doctor`` shows it, and the errors of what the core is missing
    for. A pure build is for any machine, and has nothing of this one in it."""
    said: dict[str, Any] = {"native": native, "asked": choice, "reason": reason and " ".join(str(reason).split())}
    if native:
        version = subprocess.run([*switch.compiler(), "--version"], capture_output=True, text=True, check=False)
        said["compiler"] = version.stdout.partition("\n")[0]
        flags = [os.environ.get(name, "") for name in ("NATIVEMEM_CFLAGS", "NATIVEMEM_LDFLAGS")]
        said["flags"] = " ".join(each for each in flags if each)
    return json.dumps(said, indent=1) + "\n"


def put_build(package: Path, native: bool, reason: object) -> list[str]:
    """What says which build this is: _build.json, and what ``nativemem.get_include()`` has, nm_config.h and in a
    native build all other headers. Returns the files."""
    include = package / "include"
    shutil.rmtree(include, ignore_errors=True)
    if native:
        shutil.copytree(HEADERS, include)
    include.mkdir(parents=True, exist_ok=True)
    (include / "nm_config.h").write_text(config(native), encoding="utf-8")
    (package / "_build.json").write_text(record(native, reason), encoding="utf-8")
    print(f"nativemem: USE_NATIVE_MEM={int(native)} ({'the native core' if native else 'pure Python'})")
    return [str(package / "_build.json"), *(str(path) for path in sorted(include.rglob("*.h")))]


def fall_back(reason: object) -> None:
    warnings.warn(
        "nativemem: the C core was not built, this is a pure Python build "
        f"(USE_NATIVE_MEM=1 makes this an error). Reason: {reason}",
        stacklevel=2,
    )


class HeardStderr:
    """While it is entered descriptor 2 is a file: what the compiler says. It is passed on at the end."""

    said = ""

    def __enter__(self) -> HeardStderr:
        sys.stderr.flush()
        self.file, self.before = tempfile.TemporaryFile(), os.dup(2)
        os.dup2(self.file.fileno(), 2)
        return self

    def __exit__(self, *_: object) -> None:
        sys.stderr.flush()
        os.dup2(self.before, 2)
        os.close(self.before)
        self.file.seek(0)
        self.said = self.file.read().decode("utf-8", "replace")
        self.file.close()
        sys.stderr.write(self.said)


class BuildOrFallBack(build_ext):
    """Builds the C core; where that fails, says so and turns this into a pure build."""

    def run(self) -> None:
        heard = HeardStderr()
        try:
            with heard:
                super().run()
        except (BaseError, CCompilerError, OSError) as error:
            # the error itself has the whole command in it
            why = switch.first_error(heard.said) or str(error)
            fall_back(why)
            for stale in Path(self.build_lib).glob("nativemem/_core*"):
                stale.unlink()  # of a build before, in the same tree
            package = "src/nativemem" if self.editable_mode else f"{self.build_lib}/nativemem"
            put_build(Path(package), native=False, reason=why)
            # the commands that follow take the layout and the tag of the wheel from these three
            self.extensions = []
            self.distribution.ext_modules = None
            self.distribution.get_command_obj("bdist_wheel").root_is_pure = True


class BuildWithStart(build_py):
    """The headers go into the package; the files that let NATIVEMEM_AUTOINSTALL=1 work go beside it. Of an
    editable install those alone are installed."""

    start = ("nativemem_autoinstall.pth", "nativemem_autoinstall.start")
    ours: list[str] = []

    def run(self) -> None:
        super().run()
        self.ours = put_build(Path("src" if self.editable_mode else self.build_lib) / "nativemem", native, obstacle)
        # editable: the folder that becomes the wheel, which has nothing else that was built
        beside = self.get_finalized_command("install").install_purelib if self.editable_mode else self.build_lib
        Path(beside).mkdir(parents=True, exist_ok=True)
        for name in self.start:
            self.copy_file(f"src/{name}", str(Path(beside) / name))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        outputs = super().get_outputs(include_bytecode)
        if not self.editable_mode:
            outputs += [*(str(Path(self.build_lib) / name) for name in self.start), *self.ours]
        return outputs


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
    options["cffi_modules"] = ["src/nativemem/backends/native/ffi_build.py:ffibuilder"]
    if choice == "auto":
        options["cmdclass"]["build_ext"] = BuildOrFallBack

# The extension loads cffi's run-time module; a pure build is standard library only.
setup(install_requires=[switch.CFFI] if native else [], **options)
