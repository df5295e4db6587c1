"""The shared object: the control plane by cffi, and the data plane, its second module."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import ExtensionFileLoader, ModuleSpec

from ._machine import memory
from ._settings import Settings
from .errors import OutOfMemory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["address", "dataplane", "ffi", "lib", "start_region"]

_core: Any = import_module("._core", __package__)  # built from C
ffi, lib = _core.ffi, _core.lib


def _load_dataplane() -> Any:
    """The second module of the shared object; the import system finds only the one named like the file."""
    name = f"{__package__}._dataplane"
    if name in sys.modules:
        return sys.modules[name]
    loader = ExtensionFileLoader(name, _core.__file__)
    spec = ModuleSpec(name, loader, origin=_core.__file__)
    module = loader.create_module(spec)
    module.__loader__, module.__spec__ = loader, spec
    loader.exec_module(module)
    sys.modules[name] = module
    return module


dataplane = _load_dataplane()


def start_region() -> None:
    """Reserves the region, once. Raises :class:`OutOfMemory` where the system refuses even a small one.

    Unless they are set: four times what the process may use as address space, so that it is never the bound; an 8th
    of it, at most 256 MiB, as free spans that are kept.
    """
    if lib.nm_region_size() != 0:
        return
    settings, may_use = Settings(), memory()
    reserve = settings.region or min(max(64 << 30, 1 << (4 * may_use - 1).bit_length()), 4 << 40)
    status = lib.nm_region_init(reserve, min(settings.retain, may_use // 8), int(settings.decay * 1000))
    if status:
        raise OutOfMemory(
            "the system refused to reserve address space for the heap",
            suggestion="raise the limit on address space (ulimit -v)",
        )


def address(thing: Any) -> int:
    return int(ffi.cast("uintptr_t", thing))
