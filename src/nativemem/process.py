"""Another name of :mod:`nativemem.engine.process`."""

import sys

from .engine import process as _module
from .engine.process import *  # noqa: F403  # for what reads sources

sys.modules[__name__] = _module
