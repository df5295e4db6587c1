"""The facade classes, all of them: what binds them to a backend does so from here.

A facade class registers itself when its module is imported, and a binding has those that are registered by then.
A room that took its backend from :mod:`nativemem.backends.binding` alone would have a binding without the others,
if a program had imported nothing else before it.
"""

from __future__ import annotations

from .allocators import base as _base  # noqa: F401
from .allocators import typed as _typed  # noqa: F401
from .allocators import utilities as _utilities  # noqa: F401
from .backends.binding import Binding, configured, load
from .budgets import budget as _budget  # noqa: F401
from .interop import cport as _cport  # noqa: F401
from .interop import memlib as _memlib  # noqa: F401
from .wrappers import traced as _traced  # noqa: F401

__all__ = ["Binding", "configured", "load"]
