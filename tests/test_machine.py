"""What memory a process may use: of the machine, or of its container. The files are a tree of their own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nativemem.backends.machine import memory

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "bytes_"),
    [
        ({}, MACHINE),
        ({"proc/self/cgroup": "0::/\n"}, MACHINE),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"}, MACHINE),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "1048576\n"}, 1 << 20),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/memory.max": "max\n",
                "sys/fs/cgroup/a/memory.max": "3000000\n",
                "sys/fs/cgroup/memory.max": "4000000\n",
            },
            3000000,
        ),
        # of version 1; the path is that of the host, and not there
        (
            {
                "proc/self/cgroup": "4:memory:/docker/1\n3:cpu,cpuacct:/\n0::/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "5000000\n",
            },
            5000000,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu,memory:/a\n",
                "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "6000000\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            6000000,
        ),
        ({"proc/self/cgroup": "what is this\n"}, MACHINE),
    ],
    ids=["no files", "no limit", "max", "a limit", "of a parent", "in a container", "version 1", "not understood"],
)
def test_memory(tmp_path: Path, files: dict[str, str], bytes_: int) -> None:
    assert memory(str(tree(tmp_path, files))) == bytes_
