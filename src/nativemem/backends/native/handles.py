"""Structures of C, owned by handles of Python.

A core's handle owns its structure and holds the handles of those that it takes memory from or charges to, so that
whatever order Python drops them in, upstreams go last.
"""

from __future__ import annotations

from typing import Any

from ... import errors
from .control import address, ffi, lib
from .loader import dataplane


def own(kind: str, needs: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
    """Makes a structure: the pointer, and a handle that destroys it when Python drops that, and keeps ``needs``
    until after that. The handle is made first, so that no failure leaves a structure without one.

    Raises :class:`Refusal` where there is none.
    """
    handle = dataplane.own(address(ffi.addressof(lib, f"nm_{kind}_destroy")), needs)
    place = ffi.cast("void **", handle.place)
    with_lock = getattr(dataplane, f"own_{kind}", None)  # not through cffi
    made = with_lock(handle.place, *args) if with_lock else getattr(lib, f"own_{kind}")(place, *args)
    if not made:
        f = lib.nm_last_failure()
        raise errors.Refusal(f.status, f.requested, f.used, f.limit)
    return ffi.cast(f"nm_{kind} *", place[0]), handle
