"""What this process has: its memory, and threads that run at the same time.

The start-up file runs it by itself (nativemem_autoinstall.py): it imports none of the package, nor `__future__`.
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["is_free_threaded", "limits", "machine_memory", "memory", "region_for"]


def is_free_threaded() -> bool:
    """Whether the interpreter is built to run its threads at the same time. That its lock may be on says nothing: a
    module that is imported later can turn it on."""
    return "t" in getattr(sys, "abiflags", "")


def _read(name: str) -> str:
    with open(name, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


def limits(root: str = "") -> "Iterator[int]":
    """Bytes that each control group of the process (version 2, or version 1) allows, and each above it. In
    a container the path may be the host's, then only the top is found."""
    for line in _read(f"{root}/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, file = f"{root}/sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            top, file = f"{root}/sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        while True:
            try:
                yield int(_read(f"{top}{path}/{file}"))
            except (OSError, ValueError):  # not there, or "max"
                pass
            if path in ("", "/"):
                break
            path = path.rpartition("/")[0]


def machine_memory() -> int:
    """Bytes of memory that the machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def memory(root: str = "") -> int:
    """Bytes of memory that the process may use: the machine's, or what its container allows."""
    machine = machine_memory()
    try:
        return min([machine, *limits(root)])
    except (OSError, ValueError):  # no /proc
        return machine


def region_for(reserve: int = 0, retain: int = 256 << 20, decay: float = 1.0) -> tuple[int, int, int]:
    """The region's bounds: most addresses, bytes of free spans that are kept, milliseconds that they are kept.

    Parameters: ``reserve``, bytes, 0 for four times what the process may use, so that they are never the bound
    (they are mapped as they are needed); ``retain``, bytes, of which an 8th of what it may use is the most;
    ``decay``, seconds.
    """
    may_use = memory()
    reserve = reserve or min(max(64 << 30, 1 << (4 * may_use - 1).bit_length()), 4 << 40)
    return reserve, min(retain, may_use // 8), int(decay * 1000)
