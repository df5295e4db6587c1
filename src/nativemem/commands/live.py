"""What ``nativemem run --live`` shows meanwhile: for how long, what is resident, and the most that was.

A process of its own looks from outside, in ``/proc``: the program has no thread, no descriptor and no child more
than without. In a terminal it is a line that is written over; the cursor is left at its beginning, so that what the
program says stands in its place. Elsewhere it is a line each time.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from ..sizes import format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

__all__ = ["ONCE_A", "begin", "missing"]

#: seconds between two looks, in a terminal and elsewhere
ONCE_A = (1.0, 10.0)
#: columns that are used at the most: fewer than the summary's first line has, which takes the line's place
_COLUMNS = 72


def missing() -> str | None:
    """What this system has not got that is needed here; None: nothing."""
    if not hasattr(os, "pidfd_open"):
        return "an interpreter with os.pidfd_open (Linux)"
    return None if os.path.exists("/proc/self/status") else "/proc"


def begin(every: float | None) -> None:
    """Has a process show the one that calls this, on its standard error, until it ends; ``every``, seconds, or None
    for the usual. The program that the caller becomes has no child: what made the process ends here."""
    if sys.stderr is None:
        return
    seen = os.getpid()
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    try:
        if os.fork() == 0:
            _watch(seen, every)
    finally:
        os._exit(0)


def _watch(seen: int, every: float | None) -> NoReturn:
    """Ends with the process ``seen``, or where nothing takes what it writes."""
    try:
        import select

        for number in (signal.SIGINT, signal.SIGQUIT):  # of the terminal: they are for the program
            signal.signal(number, signal.SIG_IGN)
        ended = os.pidfd_open(seen)
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1):
            os.dup2(nothing, descriptor)
        is_terminal = os.isatty(2) and os.environ.get("TERM") != "dumb"
        shape = "\r{}\x1b[K\r" if is_terminal else "{}\n"
        between = every or ONCE_A[not is_terminal]
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        began = time.monotonic()
        while not poll.poll(between * 1000):
            text = _line(seen, time.monotonic() - began)
            if text is None:
                break
            os.write(2, shape.format(text).encode())
    finally:
        os._exit(0)


def _line(seen: int, seconds: float) -> str | None:
    """None where the process has ended."""
    try:
        with open(f"/proc/{seen}/status", "rb") as file:
            words = file.read().split()
        now, most = (int(words[words.index(name) + 1]) * 1024 for name in (b"VmRSS:", b"VmHWM:"))
    except (OSError, ValueError):
        return None
    return f"nativemem: {_clock(seconds)}, resident {format_size(now)}, peak {format_size(most)}"[:_COLUMNS]


def _clock(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} h" if hours else f"{minutes}:{rest:02} min"
