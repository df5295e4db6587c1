"""How places, sizes and times are written, whatever a program called its files and functions."""

from __future__ import annotations

import re
from datetime import datetime, timezone

from .tree import Place

__all__ = ["at_time", "clean", "named", "number", "short", "when"]

#: what a terminal would take for an order, or what breaks a line or turns its direction
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
#: where libraries lie: what follows says enough
_LIBRARY = re.compile(r"^.*/(?:site-packages|dist-packages|lib(?:64)?/python3\.\d+t?)/(?=.)")


def clean(text: str) -> str:
    r"""``text`` on one line and without control characters.

    >>> clean("a\nb\x1b[2J")
    'a\\x0ab\\x1b[2J'
    """
    return _CONTROL.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def short(file: str, folder: str = "") -> str:
    """A file's name from ``folder`` (the program's) or from its library on.

    >>> short("/usr/lib/python3.11/json/decoder.py"), short("/srv/app/main.py", "/srv")
    ('json/decoder.py', 'app/main.py')
    """
    if folder and folder != "/" and file.startswith(folder.rstrip("/") + "/"):
        inside = file[len(folder.rstrip("/")) + 1 :]
        if not _LIBRARY.match(inside):
            return clean(inside)
    return clean(_LIBRARY.sub("", file))


def named(place: Place, folder: str = "") -> str:
    """``place`` as it is shown: ``main.py:12 in load``."""
    if not place.file:
        return clean(place.function)
    return f"{short(place.file, folder)}:{place.line} in {clean(place.function)}"


def number(n: int) -> str:
    """``n`` with commas."""
    return f"{n:,}"


def at_time(seconds: float) -> str:
    """A time after the beginning.

    >>> at_time(0.25), at_time(75), at_time(7265)
    ('0.250 s', '75.0 s', '2:01:05')
    """
    if seconds < 10:
        return f"{seconds:.3f} s"
    if seconds < 600:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def when(epoch: float) -> str:
    """A date and time, in UTC.

    >>> when(0)
    '1970-01-01 00:00:00 UTC'
    """
    try:
        return datetime.fromtimestamp(epoch, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, OSError, ValueError):  # of a damaged file
        return "an unknown time"
