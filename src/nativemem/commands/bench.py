"""``nativemem bench``: this machine, in one table."""

from __future__ import annotations

import glob
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from .files import add_common

if TYPE_CHECKING:
    import argparse

__all__ = ["HELP", "configure", "execute"]

HELP = "compare native, pure, the default allocator and installed peers on this machine"

_DESCRIPTION = """\
Runs a few workloads on this machine: with the engine or the C core (native),
without (default, pure), and with what else is installed; each side in
processes of its own that take turns, by CPU time. Takes five minutes at most.
`limit` is the same work without what is measured: nothing can be faster.
"""
_EXAMPLES = """\
examples:
  nativemem bench --quick
  nativemem bench --json >bench.json

exit code: 0; 1 where nothing could be measured; 2 for a mistake in the command
line.
"""
#: seconds after which no further round begins
_LONG, _QUICK = 200.0, 20.0
_ROUNDS = 5
_LIBRARIES = {"mimalloc": "libmimalloc.so*", "jemalloc": "libjemalloc.so*", "tcmalloc": "libtcmalloc_minimal.so*"}
_FOLDERS = ("/usr/lib", "/usr/lib64", "/usr/local/lib", f"/usr/lib/{platform.machine()}-linux-gnu")


def configure(parser: argparse.ArgumentParser) -> None:
    """Gives the parser of this command its options."""
    add_common(parser, _DESCRIPTION, _EXAMPLES)
    parser.add_argument("--quick", action="store_true", help="one round, half a minute")
    parser.add_argument("--json", action="store_true", help="the figures as JSON")


def _library(peer: str) -> str | None:
    found = (path for folder in _FOLDERS for path in sorted(glob.glob(os.path.join(folder, _LIBRARIES[peer]))))
    return next(found, None)


def _environment(side: str) -> dict[str, str] | None:
    """None: the peer is not installed."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("NATIVEMEM_", "LD_PRELOAD"))}
    env = {**env, "PYTHONHASHSEED": "0"}
    if side == "pure":
        env["NATIVEMEM_BACKEND"] = "pure"
    if side in _LIBRARIES:
        library = _library(side)
        if library is None:
            return None
        env |= {"LD_PRELOAD": library, "PYTHONMALLOC": "malloc"}
    return env


def _measure(workload: str, side: str, seconds: float) -> tuple[float | None, str]:
    """Seconds of a call; None, and why not."""
    env = _environment(side)
    if env is None:
        return None, "not installed"
    words = [sys.executable, "-m", f"{__package__}.workloads", workload, side, str(seconds)]
    try:
        done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        return None, "took more than a minute"
    try:
        return float(json.loads(done.stdout)), ""
    except ValueError:
        return None, (done.stderr.strip().splitlines() or ["it ended without a figure"])[-1]


def _progress(text: str) -> None:
    if sys.stderr is not None and sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def _run(quick: bool) -> dict[str, dict[str, list[float] | str]]:
    """By workload and side: the times of its rounds, or why there are none."""
    from .workloads import WORKLOADS

    found: dict[str, dict[str, list[float] | str]] = {w: {s: [] for s in WORKLOADS[w][2]} for w in WORKLOADS}
    until = time.monotonic() + (_QUICK if quick else _LONG)
    for i in range(1 if quick else _ROUNDS):
        if i and time.monotonic() > until:
            break
        for workload, sides in found.items():
            for side in [*sides][:: 1 if i % 2 == 0 else -1]:
                times = sides[side]
                if isinstance(times, str):
                    continue
                _progress(f"round {i + 1}: {workload}, {side}")
                seconds, why = _measure(workload, side, 0.1 if quick else 0.5)
                if seconds is None:
                    sides[side] = why
                else:
                    times.append(seconds)
    _progress("")
    return found


def _about() -> dict[str, str]:
    from ..engine.about import about

    words = about()
    told = dict(zip(words[::2], words[1::2], strict=True))
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg()) if hasattr(os, "getloadavg") else "?"
    return {name: told[name] for name in ("python", "system", "nativemem")} | {"load": load}


def execute(parser: argparse.ArgumentParser, argv: list[str]) -> int:
    """Runs the command line after ``bench``."""
    from .output import say

    options = parser.parse_args(argv)
    found = _run(options.quick)
    about = _about()
    if options.json:
        say(json.dumps({"environment": about, "seconds": found}, indent=1) + "\n")
    else:
        say(_table(found, about))
    measured = any(isinstance(times, list) and times for sides in found.values() for times in sides.values())
    return 0 if measured else 1


def _table(found: dict[str, dict[str, list[float] | str]], about: dict[str, str]) -> str:
    from .workloads import WORKLOADS

    lines = []
    for workload, sides in found.items():
        lines += ["", f"{workload}: {WORKLOADS[workload][0]}"]
        ours = sides["native"]
        for side, times in sides.items():
            if isinstance(times, str) or not times:
                lines.append(f"  {side:12} {times or 'not measured'}")
                continue
            median = statistics.median(times)
            line = f"  {side:12} {median * 1e3:10.3f} ms"
            if side != "native" and isinstance(ours, list) and ours:
                line += f"   native/{side} {statistics.median(ours) / median:6.2f}"
            lines.append(line)
    lines += ["", *(f"{name}: {text}" for name, text in about.items())]
    return "\n".join(lines[1:]) + "\n"
