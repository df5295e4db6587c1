"""A hook of pyperf: the peak resident bytes of a worker, and whether it runs on the engine.

What pyperf says itself comes from getrusage, which on Linux starts with what the parent had when it started us.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any


class PeakRSS:
    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass

    def teardown(self, metadata: dict[str, Any]) -> None:
        """Called once a process, at the end."""
        nativemem = sys.modules.get("nativemem")
        metadata["nativemem"] = "on" if nativemem is not None and nativemem.installed() else "off"
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                metadata["peak_rss"] = int(line.split()[1]) * 1024
