"""Makes what a release consists of, and tries each piece in a fresh environment: `make dist`.

Into `dist/`: the source archive; out of it a wheel with the C core for each CPython at hand, and the pure wheel for
everything else. A wheel for glibc has a manylinux tag of at most 2_28 (RHEL 8, Debian 10), whatever this machine
has: see manylinux.h. A wheel has at most 1 MB. Each is installed into an environment of its own, where the engine,
a scope, `doctor` and a part of the contract suite are tried; the pure one on each interpreter that was found, with
the contract on one of each kind.

Interpreters are those that `--pythons` names, else those of this machine: `python3.N` on the path and in pyenv's
folder. `--system DIR` adds those of another system below DIR, which the commands run in by chroot (as root; /proc,
/dev and a way to the package index have to be there).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
MOST_BYTES = 1_000_000
LATEST_GLIBC = (2, 28)
FIRST = (3, 10)
#: with these a wheel for glibc is compiled and linked; paths are relative to the unpacked archive
CFLAGS = "-include scripts/manylinux.h"
#: before 2.34 they had the functions that the header names
LDFLAGS = "-Wl,--no-as-needed,-l:libpthread.so.0,-l:libdl.so.2"
PIP = ("-m", "pip", "--disable-pip-version-check", "--quiet")
CONTRACT = ("test_arena.py", "test_budget.py", "test_heap.py", "test_slab.py")

_ABOUT = """\
import importlib.util, json, os, platform, sys, sysconfig
print(json.dumps({
    "implementation": platform.python_implementation(),
    "version": list(sys.version_info[:2]),
    "shown": platform.python_version(),
    "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    "debug": hasattr(sys, "gettotalrefcount"),
    "bits": sys.maxsize.bit_length() + 1,
    "glibc": platform.libc_ver()[0] == "glibc",
    "headers": os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")),
    "venv": all(importlib.util.find_spec(name) for name in ("venv", "ensurepip")),
}))
"""

_TRY = """\
import sys
import nativemem
from nativemem import Budget, NativeUnavailable
assert nativemem.backend == sys.argv[1], nativemem.backend
if nativemem.backend == "native":
    assert nativemem.install(limit="1 GiB").objects
    budget = Budget("4 MiB", name="dist")
    try:
        with budget:
            kept = [bytes(1 << 20) for _ in range(8)]
    except MemoryError:
        pass
    else:
        raise AssertionError("a scope of 4 MiB held 8 MiB")
    assert nativemem.process.owns(id(bytes(10_000)))
else:
    try:
        nativemem.install()
    except NativeUnavailable as error:
        assert "it was built without the core" in str(error), error
    else:
        raise AssertionError("there is no engine")
with nativemem.Arena() as arena:
    assert arena.alloc(100).size == 100
"""


class Python(NamedTuple):
    """An interpreter: its file, and the system that it runs in, None for this one. ``native``: the core can be
    built for it."""

    file: str
    system: Path | None
    shown: str
    tag: str
    native: bool
    glibc: bool

    def run(self, *words: object, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
        return run(self.system, self.file, *words, cwd=cwd, **env)

    def __str__(self) -> str:
        return f"{self.shown} ({self.system or ''}{self.file})"


class Failed(SystemExit):
    """Ends the whole, with what a command said."""


def run(
    system: Path | None, *words: object, cwd: Path | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    """Runs a command in a system; paths in ``words`` and ``cwd`` are this machine's."""
    kept = ("PIP_", "SSL_CERT_", "REQUESTS_CA_BUNDLE", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")
    environment = {k: v for k, v in os.environ.items() if k.startswith(kept)}
    environment |= {"HOME": os.environ.get("HOME", "/root"), "PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
    command = [inside(system, word) for word in words]
    if system is not None:
        environment |= {"HOME": "/root", "PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        command = ["chroot", str(system), *(["env", "-C", inside(system, cwd)] if cwd else []), *command]
        cwd = None
    return subprocess.run(
        command, cwd=cwd, env={**environment, **env}, capture_output=True, text=True, errors="replace", check=False
    )


def inside(system: Path | None, word: object) -> str:
    """A path of this machine as the system has it; any other word as it is."""
    if system is not None and isinstance(word, Path):
        return f"/{word.relative_to(system)}"
    return str(word)


def done(result: subprocess.CompletedProcess[str], what: str) -> str:
    """What it printed. Ends the whole where it failed."""
    if result.returncode != 0:
        said = "\n".join((result.stdout + result.stderr).splitlines()[-40:])
        raise Failed(f"{said}\ndist: failed: {what}")
    return result.stdout


# --- interpreters ---


def candidates(system: Path | None) -> Iterator[str]:
    """Files that may be interpreters, of this machine or of a system."""
    names = re.compile(r"python3\.\d+t?")
    if system is None:
        folders = [Path(each) for each in os.environ["PATH"].split(os.pathsep) if each]
        pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
        folders += sorted(pyenv.glob("versions/*/bin"))
    else:
        folders = [system / "usr/local/bin", system / "usr/bin"]
    for folder in folders:
        if folder.name != "shims" and folder.is_dir():
            for path in sorted(folder.iterdir()):
                if names.fullmatch(path.name):
                    yield inside(system, path)


def look(file: str, system: Path | None) -> Python | None:
    """The interpreter; None for one that does not run, is too old or a debug build, or makes no environments."""
    try:
        about = json.loads(run(system, file, "-c", _ABOUT).stdout)
    except (OSError, ValueError):
        return None
    version = tuple(about["version"])
    if version < FIRST or about["debug"] or not about["venv"]:
        return None
    free_threaded = about["free_threaded"]
    cpython = about["implementation"] == "CPython"
    native = cpython and about["bits"] == 64 and about["headers"] and not free_threaded
    kind = "cp" if cpython else "pp"
    tag = f"{kind}{version[0]}{version[1]}{'t' * free_threaded}{'' if about['glibc'] else '-musl'}"
    shown = f"{about['implementation']} {about['shown']}{' free-threaded' * free_threaded}"
    return Python(file, system, shown, tag, native, about["glibc"])


def interpreters(named: list[str], systems: list[Path]) -> list[Python]:
    """One for each version and kind: those that were named first."""
    found: dict[str, Python] = {}
    for file in named:
        python = look(shutil.which(file) or file, None)
        if python is None:
            raise Failed(f"dist: {file} is no Python from {FIRST[0]}.{FIRST[1]} on that runs here")
        found.setdefault(python.tag, python)
    for system in [*([] if named else [None]), *systems]:
        for file in candidates(system):
            python = look(file, system)
            if python is not None:
                found.setdefault(python.tag, python)
    return sorted(
        found.values(),
        key=lambda python: [int(part) if part.isdigit() else 0 for part in re.split(r"[. ]", python.shown)],
    )


# --- making ---


class Place:
    """A folder of an interpreter's system, for environments, wheels and the tests; gone at the end."""

    def __init__(self, python: Python) -> None:
        base = None if python.system is None else python.system / "root"
        self.path = Path(tempfile.mkdtemp(prefix="nativemem-dist-", dir=base))
        self.python = python

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def environment(self, name: str) -> Python:
        """A fresh one, with pip."""
        made = self.path / name
        done(self.python.run("-m", "venv", made), f"an environment of {self.python}")
        return self.python._replace(file=inside(self.python.system, made / "bin" / "python"))

    def bring(self, file: Path) -> Path:
        """A copy of a file or folder of this machine."""
        target = self.path / file.name
        (shutil.copytree if file.is_dir() else shutil.copy)(file, target)
        return target


def sdist() -> Path:
    done(
        run(None, sys.executable, "-m", "build", "--sdist", "--outdir", DIST, ROOT, USE_NATIVE_MEM="0"), "the sdist"
    )
    (archive,) = DIST.glob("nativemem-*.tar.gz")
    return archive


def wheel(python: Python, archive: Path, native: bool) -> Path:
    """Built from the archive, as pip does where there is no wheel; a native one gets its platform's tag."""
    made = ROOT / "build" / "wheels" / python.tag
    made.mkdir(parents=True)
    env = {"USE_NATIVE_MEM": str(int(native))}
    if native and python.glibc:
        env |= {"NATIVEMEM_CFLAGS": CFLAGS, "NATIVEMEM_LDFLAGS": LDFLAGS}
    with Place(python) as place:
        builder = place.environment("builder")
        # no cache: pip would hand out the native wheel that it built from this archive as the pure one
        words = (*PIP, "wheel", "--no-cache-dir", "--no-deps", "--wheel-dir", place.path, place.bring(archive))
        done(builder.run(*words, **env), f"the wheel for {python}")
        (built,) = place.path.glob("nativemem-*.whl")
        shutil.copy(built, made)
    built = made / built.name
    if not native:
        return Path(shutil.copy(built, DIST))
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    repaired = ROOT / "build" / "repaired" / python.tag
    # outside Alpine musl's file has the name libc.so: its loader takes that for itself, auditwheel does not know it
    musl = () if python.glibc else ("--exclude", "libc.so")
    words = (sys.executable, "-m", "auditwheel", "repair", *musl, "--wheel-dir", repaired, built)
    done(run(None, *words, PATH=tools), f"auditwheel repair of {built.name}")
    (result,) = repaired.glob("*.whl")
    glibc = [(int(a), int(b)) for a, b in re.findall(r"manylinux_(\d+)_(\d+)_", result.name)]
    if python.glibc and min(glibc, default=(99, 0)) > LATEST_GLIBC:
        shown = done(run(None, sys.executable, "-m", "auditwheel", "show", built, PATH=tools), "auditwheel show")
        raise Failed(
            f"{shown}\ndist: {result.name}: needs a later glibc than {LATEST_GLIBC}; see scripts/manylinux.h"
        )
    return Path(shutil.copy(result, DIST))


# --- trying ---


def attempt(python: Python, file: Path, native: bool, contract: bool) -> str:
    """Installs a wheel into a fresh environment and tries it. Returns what the tests said, in a line."""
    with Place(python) as place:
        env = place.environment("env")
        wheel_there = place.bring(file)
        what = f"{file.name} on {python}"
        if native:
            done(env.run(*PIP, "install", "--no-cache-dir", wheel_there), f"pip install {what}")
        else:  # as it comes, without anything else
            done(env.run(*PIP, "install", "--no-index", wheel_there), f"pip install {what}")
        done(
            env.run("-W", "error", "-c", _TRY, "native" if native else "pure", cwd=place.path),
            f"a program with {what}",
        )
        done(env.run("-m", "nativemem", "doctor", cwd=place.path), f"nativemem doctor of {what}")
        start = "import nativemem, sys; sys.exit(not nativemem.installed())"
        begun = env.run("-c", start, cwd=place.path, NATIVEMEM_AUTOINSTALL="1").returncode
        if begun != int(not native):
            raise Failed(f"dist: failed: NATIVEMEM_AUTOINSTALL=1 with {what}")
        if not contract:
            return "works"
        done(env.run(*PIP, "install", "pytest>=8", "hypothesis>=6.100"), f"pip install pytest for {what}")
        place.bring(ROOT / "tests")
        place.bring(ROOT / "pyproject.toml")
        tests = [f"tests/contract/{name}" for name in CONTRACT]
        said = env.run("-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, cwd=place.path)
        return done(said, f"the tests with {what}").strip().splitlines()[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--pythons", nargs="*", default=[], metavar="FILE", help="interpreters (default: those at hand)"
    )
    parser.add_argument(
        "--system", nargs="*", default=[], type=Path, metavar="DIR", help="systems with further ones"
    )
    parser.add_argument("--list", action="store_true", help="say which interpreters there are, and do nothing")
    options = parser.parse_args()
    pythons = interpreters(options.pythons, [system.resolve() for system in options.system])
    if options.list:
        for python in pythons:
            print(f"{python.tag:10} {'native' if python.native else 'pure':7} {python}")
        return
    for folder in (DIST, ROOT / "build" / "wheels", ROOT / "build" / "repaired"):
        shutil.rmtree(folder, ignore_errors=True)
    DIST.mkdir()
    archive = sdist()
    print(f"{archive.name}: {archive.stat().st_size:,} bytes", flush=True)
    pure = wheel(Python(sys.executable, None, "this Python", "pure", False, True), archive, native=False)
    newest = {python.tag[:2]: python for python in pythons}
    for python in pythons:
        if python.native:
            file = wheel(python, archive, native=True)
            said = attempt(python, file, native=True, contract=True)
            print(f"{file.name}: {file.stat().st_size:,} bytes; {said}", flush=True)
    for python in pythons:
        said = attempt(python, pure, native=False, contract=python in newest.values())
        print(f"{pure.name}: {pure.stat().st_size:,} bytes; on {python.shown}: {said}", flush=True)
    too_large = [file.name for file in DIST.glob("*.whl") if file.stat().st_size > MOST_BYTES]
    if too_large:
        raise Failed(f"dist: more than {MOST_BYTES:,} bytes: {', '.join(too_large)}")
    made = {python.tag for python in pythons if python.native}
    if not any(tag.endswith("-musl") for tag in made):
        print("not made: musllinux wheels (no Python on musl is at hand; --system DIR takes one)")
    print(f"dist: {len(list(DIST.iterdir()))} files in {DIST.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
