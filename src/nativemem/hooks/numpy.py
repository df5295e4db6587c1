"""Another name of :mod:`nativemem.interop.numpy`."""

import sys

from ..interop import numpy as _module
from ..interop.numpy import *  # noqa: F403  # for what reads sources

sys.modules[__name__] = _module
