"""Sizes as people write them, in bytes, and what a limit has to leave.

The start-up file runs it by itself (nativemem_autoinstall.py): it imports none of the package, nor `__future__`.
"""

__all__ = ["LEAST_OVER_HELD", "SIZE_MAX", "bytes_of", "reserve_of"]

#: Largest size of a block, in bytes: ``PTRDIFF_MAX`` of a 64-bit machine, on both backends.
SIZE_MAX = (1 << 63) - 1
#: with less a program could not even show its own error
LEAST_OVER_HELD = 1 << 20

_UNITS = {
    "": 1,
    "b": 1,
    **{p + "b": 1000 ** (i + 1) for i, p in enumerate("kmgt")},
    **{p + "ib": 1024 ** (i + 1) for i, p in enumerate("kmgt")},
}
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_SPACE = " \t\n\r\f\v"


def bytes_of(text: str) -> "int | None":
    """What ``"64 KiB"`` (1024-based), ``"64 MB"`` (1000-based) or ``"65536"`` means; None where it means nothing.

    >>> bytes_of("64 KiB"), bytes_of("64 kB"), bytes_of("much")
    (65536, 64000, None)
    """
    text = text.strip(_SPACE)
    digits = text.rstrip(_LETTERS)
    unit = _UNITS.get(text[len(digits) :].lower())
    digits = digits.rstrip(_SPACE)
    if unit is None or not (digits.isascii() and digits.isdecimal()):
        return None
    # int() refuses absurdly long digit strings with an error of its own
    return int(digits) * unit if len(digits) <= 20 else SIZE_MAX + 1


def reserve_of(limit: int) -> int:
    """Bytes of a limit that are kept for small blocks beyond the rest, so that the interpreter can go on to where
    it raises the error: a 16th, at least 64 KiB or a quarter, at most 4 MiB.

    >>> reserve_of(64 << 10), reserve_of(1 << 20), reserve_of(32 << 20), reserve_of(1 << 40)
    (16384, 65536, 2097152, 4194304)
    """
    return min(max(limit // 16, min(limit // 4, 64 << 10)), 4 << 20)
