"""What memory there is for this process."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

__all__ = ["memory"]


def _limits(root: Path) -> Iterator[int]:
    """Of the control groups that the process is in (version 2, or version 1), and of those above them. In a container
    the path may be the host's, then only the top is found."""
    for line in (root / "proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, file = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            top, file = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        inner = PurePosixPath(path.lstrip("/"))
        for group in (inner, *inner.parents):
            with contextlib.suppress(OSError, ValueError):  # "max", or not there
                yield int((top / group / file).read_text())


def memory(root: Path = Path("/")) -> int:
    """Bytes of memory that the process may use: the machine's, or what its container allows."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min([machine, *_limits(root)])
    except (OSError, ValueError):  # no /proc
        return machine
