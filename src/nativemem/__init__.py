"""nativemem: the memory engine for CPython programs.

Where it is imported at the start, pytest is not to warn that it comes too late to rewrite it: PYTEST_DONT_REWRITE.
"""

from __future__ import annotations

from ._version import __version__ as __version__
from .engine.install import install as install
from .engine.install import installed as installed
from .engine.install import uninstall as uninstall
from .settings import Settings as _Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    # what the first use of a name makes of the package; also its modules, which are there from then on
    from . import config as config
    from . import errors as errors
    from . import memlib as memlib
    from . import process as process
    from ._api import *  # noqa: F403
    from ._api import __all__ as __all__
else:

    def __getattr__(name):
        """All but the engine comes with its first use: to a process that has none of it, it costs nothing."""
        if name.startswith("_") and name != "__all__":  # also what the import system asks for, on its way
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from . import _api

        names = globals()
        for each in ("__all__", *_api.__all__):
            names.setdefault(each, getattr(_api, each))
        if name in names:  # or a module of the package, which is there by now
            return names[name]
        if name not in _api.MOVED:
            where = f"; it is in {_api.ELSEWHERE[name]}" if name in _api.ELSEWHERE else ""
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}{where}")
        import warnings

        home = _api.MOVED[name]
        warnings.warn(f"nativemem.{name} is now {home.__name__}.{name}", DeprecationWarning, stacklevel=2)
        return getattr(home, name)

    def __dir__():
        return sorted({*globals(), *__getattr__("__all__")})


def load_ipython_extension(ipython: object) -> None:
    """What ``%load_ext nativemem`` calls: brings ``%%nativemem`` to notebooks."""
    from .testing.notebook import load

    load(ipython)


def _asks_doctor() -> bool:
    import sys

    first, *words = getattr(sys, "argv", [""]) or [""]
    name = first.replace("\\", "/").rpartition("/")[2]
    return words[:1] == ["doctor"] and (
        name in ("nativemem", "nativemem.exe") or (name == "-m" and "nativemem" in sys.orig_argv)
    )


if not _asks_doctor():  # which shows it as one finding among others
    _Settings.from_env()  # a variable with a bad value is to show now
