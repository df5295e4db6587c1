"""What the worker programs share: the command line, sampling, the report."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def parser() -> argparse.ArgumentParser:
    """``--engine`` or ``--default``, and ``--quick`` for one short sample."""
    made = argparse.ArgumentParser()
    side = made.add_mutually_exclusive_group(required=True)
    side.add_argument("--engine", action="store_true", help="install the engine first")
    side.add_argument("--default", action="store_true", help="leave the allocators as they are")
    made.add_argument("--quick", action="store_true", help="one sample of one call")
    made.add_argument("--cpu", action=_ByCpu, help="CPU time of the process, for a machine that does other work")
    return made


class _ByCpu(argparse.Action):
    def __init__(self, **options: Any) -> None:
        super().__init__(nargs=0, **options)

    def __call__(self, *_: Any) -> None:
        global _clock
        _clock = time.process_time


_clock = time.perf_counter


def install(engine: bool) -> None:
    """Puts the engine under the process, before anything that is measured exists."""
    if engine:
        import nativemem

        if not nativemem.install():
            raise SystemExit("the engine did not start")


def timed(function: Callable[[], Any], calls: int) -> float:
    """Seconds for each of ``calls`` calls."""
    each = range(calls)
    start = _clock()
    for _ in each:
        function()
    return (_clock() - start) / calls


def calls_for(function: Callable[[], Any], seconds: float) -> int:
    """How many calls take about ``seconds``; runs them, which also warms up."""
    calls = 1
    while True:
        spent = timed(function, calls) * calls
        if spent >= seconds / 2:
            return max(1, round(calls * seconds / spent))
        calls = calls * 10 if spent < seconds / 20 else round(calls * seconds / spent) + 1


def peak_rss() -> int | None:
    """Peak resident bytes of this process; None where the system does not say.

    Not getrusage: on Linux its figure starts with what the parent had when it started us.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


def report(**values: Any) -> None:
    """Hands the results to the process that started the worker."""
    print(json.dumps(values))
