"""When modules of the package come: at once, but for those that a process needs only when something goes wrong."""

from __future__ import annotations

import sys
from _frozen_importlib import _gcd_import  # type: ignore[attr-defined]  # the stubs leave it out

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["errors", "import_module", "import_what_was_put_off", "room"]


def import_module(name: str) -> Any:
    """As `importlib` does it, which brings `warnings`, too. `__import__` may be the program's own."""
    return _gcd_import(name)


class _Lazy:
    """Stands for a module of the package, which the first use of a name in it loads."""

    def __init__(self, name: str) -> None:
        self._name = f"{__package__}.{name}"

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(self._name), name)


def room(package: str, **modules: str) -> tuple[Callable[[str], Any], list[str]]:
    """The ``__getattr__`` and the ``__all__`` of a room (a folder of the package).

    Parameters: ``package``, the room's name; ``modules``, by module of the room, the names that come from it. The
    first use of a name loads its module, so a room costs nothing by itself.
    """
    homes = {name: module for module, names in modules.items() for name in names.split()}

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{homes[name]}"), name)

    return get, sorted(homes)


def import_what_was_put_off() -> None:
    """Does the imports of the package's modules that the interpreter has put off (``-X lazy_imports=all``, 3.15).

    It does each where its name is used first. That may be where there is no memory left, or nothing can be imported
    any more; and a class that is registered by the module that defines it would be missing.
    """
    if not getattr(sys, "lazy_modules", None):
        return
    from types import LazyImportType  # type: ignore[attr-defined]

    done: set[str] = set()
    while todo := {name for name in sys.modules if name.partition(".")[0] == __package__} - done:
        done |= todo
        for module in [sys.modules[name] for name in todo]:
            for name, value in list(getattr(module, "__dict__", {}).items()):
                if type(value) is LazyImportType:
                    getattr(module, name)


if TYPE_CHECKING:
    from . import errors as errors
else:
    errors = _Lazy("errors")
