"""Another name of :mod:`nativemem.interop.numpy`."""

from ..interop.numpy import *  # noqa: F403
from ..interop.numpy import __all__ as __all__
