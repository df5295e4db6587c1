"""Sizes, as people write them and as they are shown.

Part of what a process loads that has the engine and nothing else of the package: see settings.py.
"""

from __future__ import annotations

from _operator import index  # what `operator` has it from, without the rest of that

from ._lazy import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["SIZE_MAX", "format_size", "parse_size", "reserve_of"]

#: Largest size of a block, in bytes: ``PTRDIFF_MAX`` of a 64-bit machine, on both backends.
SIZE_MAX = (1 << 63) - 1

_UNITS = {
    "": 1,
    "b": 1,
    **{p + "b": 1000 ** (i + 1) for i, p in enumerate("kmgt")},
    **{p + "ib": 1024 ** (i + 1) for i, p in enumerate("kmgt")},
}
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_SPACE = " \t\n\r\f\v"
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
        text = value.strip(_SPACE)
        digits = text.rstrip(_LETTERS)
        unit = _UNITS.get(text[len(digits) :].lower())
        digits = digits.rstrip(_SPACE)
        if unit is None or not (digits.isascii() and digits.isdecimal()):
            raise errors.InvalidLayout(f"{label} {_TAKES}, not {errors.shown(value)}")
        # int() refuses absurdly long digit strings with an error of its own
        number = int(digits) * unit if len(digits) <= 20 else SIZE_MAX + 1
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


def reserve_of(limit: int) -> int:
    """Bytes of a limit that are kept for small blocks beyond the rest, so that the interpreter can go on to where
    it raises the error: a 16th, at least 64 KiB or a quarter, at most 4 MiB.

    >>> reserve_of(64 << 10), reserve_of(1 << 20), reserve_of(32 << 20), reserve_of(1 << 40)
    (16384, 65536, 2097152, 4194304)
    """
    return min(max(limit // 16, min(limit // 4, 64 << 10)), 4 << 20)
