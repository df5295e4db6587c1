"""The engine under the interpreter and NumPy: installing it, and what the process uses."""

from __future__ import annotations

from .._lazy import room

__getattr__, __all__ = room(
    __name__,
    process="Installed Usage installed owns uninstall usage",
)
