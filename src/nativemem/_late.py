"""Modules that a process on the engine needs only when something goes wrong."""

from __future__ import annotations

import importlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["errors"]


class _Late:
    """Stands for a module of the package, which the first use of a name in it loads."""

    def __init__(self, name: str) -> None:
        self._name = f"{__package__}.{name}"

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self._name), name)


if TYPE_CHECKING:
    from . import errors as errors
else:
    errors = _Late("errors")
