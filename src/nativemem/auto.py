"""``import nativemem.auto`` as a program's first line: the engine, with the settings of the environment.

``NATIVEMEM_LIMIT`` bounds the process; ``NATIVEMEM_PROFILE`` names a file for a profile of it. Where the engine
cannot run nothing happens, but for one :class:`RuntimeWarning`. In a subinterpreter nothing happens either: the
engine is the process's, and the main interpreter's to install.

The start-up file imports it where ``NATIVEMEM_AUTOINSTALL`` is set, as ``nativemem run`` does.
"""

from __future__ import annotations

import os

from ._lazy import errors
from .backends.selection import in_main_interpreter
from .engine.install import install
from .settings import RUN, Settings

__all__: list[str] = []

_settings = Settings.from_env()
try:
    if in_main_interpreter():
        # taken out first: it is for this process, and for none of its children
        _run = os.environ.pop(RUN, None)
        if _run is not None:
            from .engine import startup as _program

            _program.begin(_run)
        else:
            from .engine import profiling as _profiling

            _profiled = _profiling.from_environment() if install(limit=_settings.limit) else None
            if _profiled is not None:
                import atexit

                _profiling.begin(*_profiled)
                atexit.register(_profiling.stop)
        # only where it is asked for: it brings sockets and json
        if _settings.control is not None or _settings.control_signal is not None:
            from .observe.control import from_environment as _answer

            _answer()
except errors.NativeMemError as error:
    import warnings

    _without = {"profile": "there is no profile", "control": "there is no control socket"}
    _what = _without.get(str(error).partition(":")[0], "the engine is off")
    warnings.warn(f"nativemem.auto: {_what}: {error}", RuntimeWarning, stacklevel=2)
