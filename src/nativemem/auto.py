"""``import nativemem.auto`` as a program's first line: the engine, with the settings of the environment.

``NATIVEMEM_LIMIT`` bounds the process. Where the engine cannot run nothing happens, but for one
:class:`RuntimeWarning`. In a subinterpreter nothing happens either: the engine is the process's, and the main
interpreter's to install.

The start-up file imports it where ``NATIVEMEM_AUTOINSTALL`` is set, as ``nativemem run`` does.
"""

from __future__ import annotations

import os

from ._lazy import errors
from .backends.selection import in_main_interpreter
from .engine.install import install
from .settings import Settings

__all__: list[str] = []

_limit = Settings.from_env().limit
try:
    if in_main_interpreter():
        # taken out first: it is for this process, and for none of its children
        _run = os.environ.pop("_NATIVEMEM_RUN", None)
        if _run is not None:
            from .engine import startup as _program

            _program.begin(_run)
        else:
            install(limit=_limit)
except errors.NativeMemError as error:
    import warnings

    warnings.warn(f"nativemem.auto: the engine is off: {error}", RuntimeWarning, stacklevel=2)
