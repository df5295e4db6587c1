"""The core for other extensions: where the headers are, and the capsule with the table of functions.

``#include <nativemem/capi.h>`` is the whole of it: the header tells how.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from .._folder import PACKAGE
from ..backends.selection import missing_core, need_native
from ..errors import NativeUnavailable

__all__ = ["get_include"]


def get_include() -> str:
    """The folder to put on an extension's include path, as for ``Extension(include_dirs=[...])``. Any thread.

    Raises :class:`NativeUnavailable` where nativemem was built without its core.

    >>> import nativemem, pathlib
    >>> if nativemem.backend == "native":
    ...     assert (pathlib.Path(nativemem.get_include()) / "memlib.h").exists()
    """
    include = os.path.join(PACKAGE, "include")
    if not os.path.exists(os.path.join(include, "nativemem", "capi.h")):
        reason, cure = missing_core()
        raise NativeUnavailable(
            f"nativemem was built without its core, so there are no headers to build against: {reason}",
            suggestion=cure,
        )
    return include


def _borrow(allocator: Any) -> tuple[Any, int, int]:
    """For C: what keeps the allocator, and the two words of its port."""
    from ..facades import load

    port = load("native").CPort(allocator)
    return (port, *port._core.words())


if TYPE_CHECKING:
    _C_API: object
else:

    def __getattr__(name):
        if name != "_C_API":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        need_native("the C API")
        from ..backends.native.loader import dataplane, start_region

        start_region()
        globals()[name] = capsule = dataplane.capi()
        return capsule
