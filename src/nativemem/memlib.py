"""Another name of :mod:`nativemem.interop.memlib`."""

import sys

from .interop import memlib as _module
from .interop.memlib import *  # noqa: F403  # for what reads sources

sys.modules[__name__] = _module
