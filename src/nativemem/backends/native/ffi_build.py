"""Describes the extension ``nativemem._core`` to cffi. Used while building, never at run time.

One shared object holds two modules: the control plane, which cffi generates from ``cdef.h``,
and the data plane ``PyInit__dataplane``, hand-written in ``csrc/binding``.
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[3]
#: memlib without the core; see csrc/include/memlib.h
OTHER_PATH = "csrc/use/memlib_system.c"
#: the last is where setup.py puts nm_config.h
INCLUDE_DIRS = ["csrc/include", "csrc", "build/config/1"]


def _below_csrc(pattern: str) -> list[str]:
    # setuptools takes paths relative to setup.py only; sorted, so that builds are reproducible
    found = (path.relative_to(ROOT).as_posix() for path in (ROOT / "csrc").rglob(pattern))
    return sorted(path for path in found if path != OTHER_PATH)


#: NM__OWNED(noun, (parameters), (arguments))
_OWNED = re.compile(r"^NM__OWNED\((\w+),\s*\((.*?)\),\s*\(", re.MULTILINE | re.DOTALL)


def declarations() -> str:
    """All that cffi is told: ``cdef.h``, and what each structure in the list of owned.h has."""
    types, functions = [], []
    for noun, parameters in _OWNED.findall((ROOT / "csrc/binding/owned.h").read_text(encoding="utf-8")):
        types.append(f"typedef struct nm_{noun} nm_{noun};")
        functions += [f"bool own_{noun}({parameters});", f"void nm_{noun}_destroy(nm_{noun} *{noun});"]
        header = ROOT / f"csrc/include/nativemem/{noun}.h"
        if f"nm_{noun}_port(" in header.read_text(encoding="utf-8"):
            functions.append(f"nm_allocator nm_{noun}_port(nm_{noun} *{noun});")
    return "\n".join([*types, (HERE / "cdef.h").read_text(encoding="utf-8"), *functions])


ffibuilder = FFI()
ffibuilder.cdef(declarations())
ffibuilder.set_source(
    "nativemem._core",
    "".join(
        f'#include "{header}"\n'
        for header in (
            *("nm_config.h", "nativemem.h", "heap/heap.h"),
            *("engine/engine.h", "binding/owned.h", "engine/stacks.h", "base/events.h"),
        )
    ),
    sources=_below_csrc("*.c"),
    # without this a change to a header alone would leave a stale extension behind
    depends=_below_csrc("*.h"),
    include_dirs=INCLUDE_DIRS,
    # These flags also compile cffi's generated file, which is not warning-free and must build with
    # compilers to come: warnings as errors are the business of `make lint-c`.
    extra_compile_args=[
        "-std=c11",
        "-O2",
        "-g1",
        "-fvisibility=hidden",
        "-Werror=implicit-function-declaration",  # what CPython does not declare in a version returns no pointer
        "-pthread",
        *shlex.split(os.environ.get("NATIVEMEM_CFLAGS", "")),
    ],
    extra_link_args=["-pthread", *shlex.split(os.environ.get("NATIVEMEM_LDFLAGS", ""))],
    # the data plane uses more of Python's C API than the stable ABI has
    py_limited_api=False,
)
