"""Another name of :mod:`nativemem.interop.capi`."""

from .interop.capi import *  # noqa: F403
from .interop.capi import __all__ as __all__
from .interop.capi import __getattr__ as __getattr__
from .interop.capi import _borrow as _borrow
