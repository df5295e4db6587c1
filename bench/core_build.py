"""Compiles the C core as a shared object, and the programs in ``bench/c`` against it, into ``build/bench``.

The core is built the way a C program would link it: ``libnativemem.so``, -O2, position-independent, its public
symbols visible. The peers are shared objects too, so a call of either goes the same way.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "build" / "bench"
CSRC = ROOT / "csrc"
PROGRAMS = ROOT / "bench" / "c"
FLAGS = ["-std=c11", "-O2", "-pthread", "-Wall", "-Wextra", "-Wconversion", "-Werror"]
#: or the compiler drops a malloc whose block only goes to free
LIBC = ["-fno-builtin-malloc", "-fno-builtin-free"]
LIBRARY_FLAGS = ["-fPIC", "-fvisibility=default"]
INCLUDES = [f"-I{CSRC / 'include'}", f"-I{CSRC}"]


def compiler() -> list[str]:
    """``CC``, or gcc, as words."""
    return shlex.split(os.environ.get("CC") or "gcc")


def missing() -> str | None:
    """What is wanted and not there, or None."""
    return None if shutil.which(compiler()[0]) else f"a C compiler ({compiler()[0]})"


def _compile(target: Path, words: Sequence[str | Path]) -> Path:
    """Compiles to ``target`` unless it is newer than every C file and was made by the same command."""
    command = " ".join(map(str, [*compiler(), *FLAGS, *words]))
    sources = [*CSRC.rglob("*.[ch]"), *PROGRAMS.glob("*.[ch]")]
    stamp = target.with_suffix(".command")
    if target.exists() and stamp.exists() and stamp.read_text() == command:
        if target.stat().st_mtime > max(source.stat().st_mtime for source in sources):
            return target
    OUT.mkdir(parents=True, exist_ok=True)
    done = subprocess.run([*shlex.split(command), "-o", str(target)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command}\n{done.stderr}")
    stamp.write_text(command)
    return target


def library() -> Path:
    """``libnativemem.so``."""
    core = sorted(
        path
        for path in CSRC.rglob("*.c")
        if path.parent.name not in ("binding", "engine") and path.name != "memlib_system.c"
    )
    return _compile(OUT / "libnativemem.so", [*LIBRARY_FLAGS, *INCLUDES, "-shared", *core])


def loaded(name: str, source: str) -> Path:
    """A shared object of one file in ``bench/c``, which a process loads; it knows nothing of nativemem."""
    return _compile(OUT / name, [*LIBRARY_FLAGS, "-shared", PROGRAMS / source])


def program(name: str, *sources: str, side: str = "") -> Path:
    """The program ``name`` of ``sources`` in ``bench/c``. ``side``: SIDE_HEAP or SIDE_MALLOC where it has
    sides; one that is SIDE_MALLOC knows nothing of nativemem."""
    files = [PROGRAMS / source for source in sources]
    if side == "SIDE_MALLOC":
        return _compile(OUT / name, [*LIBC, f"-D{side}", *files])
    defines = [f"-D{side}"] if side else []
    found = ["-L", str(library().parent), f"-Wl,-rpath,{OUT}", "-lnativemem"]
    return _compile(OUT / name, [*LIBC, *INCLUDES, *defines, *files, *found])
