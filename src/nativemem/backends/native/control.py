"""The control plane: the module of the shared object that cffi made."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ...errors import NativeUnavailable

__all__ = ["address", "ffi", "lib"]

try:
    _core: Any = import_module("nativemem._core")  # built from C
except ModuleNotFoundError as error:
    if error.name != "_cffi_backend":
        raise
    raise NativeUnavailable(
        "the core's allocators and budgets need cffi at run time, and it is not installed",
        suggestion="pip install cffi, or set NATIVEMEM_BACKEND=pure",
    ) from error
ffi, lib = _core.ffi, _core.lib


def address(thing: Any) -> int:
    return int(ffi.cast("uintptr_t", thing))
