"""The control plane: the module of the shared object that cffi made."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["address", "ffi", "lib"]

_core: Any = import_module("._core", __package__)  # built from C
ffi, lib = _core.ffi, _core.lib


def address(thing: Any) -> int:
    return int(ffi.cast("uintptr_t", thing))
