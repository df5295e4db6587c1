"""Another name of :mod:`nativemem.interop.capi`."""

import sys

from .interop import capi as _module
from .interop.capi import *  # noqa: F403  # for what reads sources

sys.modules[__name__] = _module
