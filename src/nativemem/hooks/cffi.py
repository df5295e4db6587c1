"""Another name of :mod:`nativemem.interop.cffi`."""

import sys

from ..interop import cffi as _module
from ..interop.cffi import *  # noqa: F403  # for what reads sources

sys.modules[__name__] = _module
