"""What memory there is for this process."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["memory"]


def _read(name: str) -> str:
    with open(name, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


def _limits(root: str) -> Iterator[int]:
    """Of the control groups that the process is in (version 2, or version 1), and of those above them. In a
    container the path may be the host's, then only the top is found."""
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


def memory(root: str = "") -> int:
    """Bytes of memory that the process may use: the machine's, or what its container allows."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min([machine, *_limits(root)])
    except (OSError, ValueError):  # no /proc
        return machine
