"""Sizes, as people write them and as they are shown.

Part of what a process loads that has the engine and nothing else of the package: see settings.py.
"""

from __future__ import annotations

from _operator import index  # what `operator` has it from, without the rest of that

from ._lazy import errors
from .units import SIZE_MAX, bytes_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["SIZE_MAX", "format_size", "parse_size"]

_TAKES = "takes bytes as an int, or a string such as '64 KiB' (1024-based) or '64 MB' (1000-based)"


def parse_size(value: Any, label: str = "size", *, least: int = 0) -> int:
    """Converts a size to bytes.

    Parameters: ``value``, an int or a string such as ``"64 KiB"`` or ``"2 GB"``; ``label``, what the
    message calls it; ``least``, the smallest value allowed, in bytes. Returns bytes. Raises
    :class:`InvalidLayout` for anything else. Safe from any thread.

    >>> parse_size("64 KiB"), parse_size("64 kB"), parse_size(12)
    (65536, 64000, 12)
    """
    if isinstance(value, str):
        found = bytes_of(value)
        if found is None:
            raise errors.InvalidLayout(f"{label} {_TAKES}, not {errors.shown(value)}")
        number = found
    elif isinstance(value, (bool, float)):
        raise errors.InvalidLayout(f"{label} {_TAKES}, not {errors.shown(value)}")
    else:
        try:
            number = index(value)
        except TypeError:
            raise errors.InvalidLayout(f"{label} {_TAKES}, not {errors.shown(value)}") from None
    if number < 0:
        raise errors.InvalidLayout(f"{label} {_TAKES}, not the negative {errors.shown(value)}")
    if number > SIZE_MAX:
        raise errors.InvalidLayout(f"{label} {_TAKES}, at most {SIZE_MAX} bytes, not {errors.shown(value)}")
    if number < least:
        raise errors.InvalidLayout(f"{label} is {number} bytes; the least is {least}")
    return number


def format_size(n: int) -> str:
    """``n`` bytes for people: ``"1.5 MiB"``.

    >>> format_size(1536), format_size(0), format_size(5 << 30), format_size(-3 << 50)
    ('1.5 KiB', '0 B', '5.0 GiB', '-3072.0 TiB')
    """
    if abs(n) < 1024:
        return f"{n} B"
    for shift, unit in ((10, "KiB"), (20, "MiB"), (30, "GiB")):
        if abs(n) < 1024 << shift:
            return f"{n / (1 << shift):.1f} {unit}"
    tenths = (abs(n) * 10 + (1 << 39)) >> 40  # an int: it may be more than a float takes
    return f"{'-' * (n < 0)}{tenths // 10}.{tenths % 10} TiB"
