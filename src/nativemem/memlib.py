"""Another name of :mod:`nativemem.interop.memlib`."""

from .interop.memlib import *  # noqa: F403
from .interop.memlib import __all__ as __all__
