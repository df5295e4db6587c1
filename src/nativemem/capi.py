"""Another name of :mod:`nativemem.interop.capi`."""

from .interop.capi import *  # noqa: F403
from .interop.capi import __all__ as __all__
from .interop.capi import _borrow as _borrow

TYPE_CHECKING = False
if not TYPE_CHECKING:  # for C, which finds the capsule by it
    from .interop.capi import __getattr__ as __getattr__
