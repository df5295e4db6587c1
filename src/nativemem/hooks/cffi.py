"""Another name of :mod:`nativemem.interop.cffi`."""

from ..interop.cffi import *  # noqa: F403
from ..interop.cffi import __all__ as __all__
