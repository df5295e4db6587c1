"""Another name of :mod:`nativemem.engine.process`."""

from .engine.process import *  # noqa: F403
from .engine.process import __all__ as __all__
