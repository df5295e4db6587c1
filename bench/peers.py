"""The malloc libraries to compare with: sonames, Debian packages, and the environment that preloads them."""

from __future__ import annotations

import glob
import sys
from collections.abc import Callable, Mapping

#: sonames, and the Debian packages that they come from
PRELOADS = {
    "mimalloc": ("libmimalloc.so.2", "libmimalloc2.0"),
    "jemalloc": ("libjemalloc.so.2", "libjemalloc2"),
    "tcmalloc": ("libtcmalloc_minimal.so.4", "libtcmalloc-minimal4"),
}
#: what would change an allocator, or exchange it
_SETTINGS = ("LD_PRELOAD", "MALLOC_", "MIMALLOC_", "TCMALLOC_", "NATIVEMEM_", "PYTHONMALLOC", "PYTHONTRACEMALLOC")


def clean(env: Mapping[str, str]) -> dict[str, str]:
    """``env`` without what would change an allocator."""
    return {key: value for key, value in env.items() if not key.startswith(_SETTINGS)}


def preloads(skip: Callable[[str], None] = lambda reason: None) -> dict[str, dict[str, str]]:
    """By name, the environment of each that is installed; ``skip`` is told of the others."""
    if not sys.platform.startswith("linux"):
        skip("preloaded allocators: measured on Linux only")
        return {}
    found = {}
    for name, (soname, package) in PRELOADS.items():
        paths = glob.glob(f"/usr/lib/*-linux-gnu/{soname}")
        if paths:
            found[name] = {"LD_PRELOAD": paths[0]}
        else:
            skip(f"{name}: {soname} is not installed (Debian package {package})")
    return found


def found(skip: Callable[[str], None] = lambda reason: None) -> dict[str, dict[str, str]]:
    """As :func:`preloads`, with the C library's own allocator first."""
    return {"glibc": {}, **preloads(skip)}
