"""The Python frames of the calling thread."""

from __future__ import annotations

import sys
from typing import Any

from ._folder import PACKAGE

__all__ = ["Place", "frame_at", "places", "site"]

#: file, line, function
Place = tuple[str, int, str]


def frame_at(depth: int) -> Any:
    """The frame of the caller for 0, of what called it for 1 and so on; None where there are no more.

    Raises :class:`MemoryError`. The next frame is not taken from ``f_back``: where CPython 3.11 has no memory for
    that frame's object, ``f_back`` is None and leaves the MemoryError set, so that the call after it fails with a
    SystemError.
    """
    try:
        return sys._getframe(depth + 1)
    except ValueError:
        return None


def places(depth: int) -> tuple[Place, ...]:
    """The innermost ``depth`` frames of the caller of this package."""
    found: list[Place] = []
    n = 1
    while len(found) < depth and (frame := frame_at(n)) is not None:
        code = frame.f_code
        if found or not code.co_filename.startswith(PACKAGE):
            line = frame.f_lineno or code.co_firstlineno  # some instructions of the compiler's own have none
            found.append((code.co_filename, line, getattr(code, "co_qualname", code.co_name)))
        n += 1
    return tuple(found)


#: ``file:line`` by a place in a code object: finding the line's number costs more than all the rest
_sites: dict[tuple[Any, int], str] = {}
_MOST_SITES = 1000


def site(depth: int) -> str:
    """``file:line`` of the caller of this package. The frames of the ``depth`` innermost calls, from the caller of
    this function on, are known to be of the package."""
    n = depth + 1
    while (frame := frame_at(n)) is not None and frame.f_code.co_filename.startswith(PACKAGE):
        n += 1
    if frame is None:
        return "an unknown place:0"
    key = frame.f_code, frame.f_lasti
    found = _sites.get(key)
    if found is None:
        if len(_sites) >= _MOST_SITES:
            _sites.clear()  # code that is made again and again
        found = _sites[key] = f"{key[0].co_filename}:{frame.f_lineno or key[0].co_firstlineno}"
    return found
