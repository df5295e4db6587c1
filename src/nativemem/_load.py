"""The shared object: the control plane by cffi, and the data plane, its second module."""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.util
import sys

from . import _core  # type: ignore[attr-defined]  # built from C
from ._machine import memory
from ._settings import Settings
from .errors import OutOfMemory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["address", "dataplane", "ffi", "lib", "start_region"]

ffi, lib = _core.ffi, _core.lib


def _load_dataplane() -> Any:
    """The second module of the shared object; the import system finds only the one named like the file."""
    name = f"{__package__}._dataplane"
    if name in sys.modules:
        return sys.modules[name]
    loader = importlib.machinery.ExtensionFileLoader(name, _core.__file__)
    spec = importlib.util.spec_from_file_location(name, _core.__file__, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    sys.modules[name] = module
    return module


dataplane = _load_dataplane()


@functools.cache
def start_region() -> None:
    """Reserves the region. Raises :class:`OutOfMemory` where the system refuses even a small one.

    Unless they are set: four times what the process may use as address space, so that it is never the bound; an 8th
    of it, at most 256 MiB, as free spans that are kept.
    """
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
