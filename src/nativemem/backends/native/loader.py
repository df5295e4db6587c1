"""The data plane: the second module of the shared object. It does without the first, and so without cffi, which a
process that only runs on the engine never loads."""

from __future__ import annotations

import os
import sys
from _frozen_importlib import ModuleSpec  # as `importlib.machinery` has them, without the rest of that
from _frozen_importlib_external import ExtensionFileLoader

from ..._lazy import errors
from ...settings import Settings
from ..machine import region_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["dataplane", "start_region"]


def _shared_object() -> str:
    """Where it is: the import system finds only the module that is named like the file."""
    core = "nativemem._core"
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)  # the import system passes over finders that have none, too
        spec = find(core, sys.modules["nativemem"].__path__) if find is not None else None
        if spec is not None and spec.origin is not None:
            return spec.origin
    raise ModuleNotFoundError(f"No module named {core!r}", name=core)


def _load_dataplane() -> Any:
    name = "nativemem._dataplane"
    if name in sys.modules:
        return sys.modules[name]
    path = _shared_object()
    loader = ExtensionFileLoader(name, path)
    spec = ModuleSpec(name, loader, origin=path)
    module = loader.create_module(spec)
    module.__loader__, module.__spec__ = loader, spec
    loader.exec_module(module)
    sys.modules[name] = module
    return module


dataplane = _load_dataplane()

if hasattr(dataplane, "guards_open") and hasattr(os, "register_at_fork"):  # without the interpreter's lock
    _guarded = (dataplane.Ring, dataplane.TableMap, dataplane.TableSet, dataplane.Bits, dataplane.Intern)
    os.register_at_fork(after_in_child=lambda: dataplane.guards_open(_guarded))


def start_region() -> None:
    """Finds the region a place, once. Raises :class:`OutOfMemory` where the system refuses even the first of its
    memory."""
    if dataplane.region_size() != 0:
        return
    settings = Settings()
    if not dataplane.region_init(*region_for(settings.region, settings.retain, settings.decay)):
        raise errors.OutOfMemory(
            "the system refused the first memory for the heap",
            suggestion="raise the limit on address space (ulimit -v)",
        )
