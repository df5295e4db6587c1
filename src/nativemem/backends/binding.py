"""Binds the facade classes to a backend.

Any thread may use a binding.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

from .._lazy import import_what_was_put_off
from .protocols import Pressure

__all__ = ["Binding", "bind"]


class Binding(SimpleNamespace):
    """The facade classes bound to one backend: what :func:`nativemem.facades.load` returns."""


def bind(name: str, facades: Iterable[type[Any]], pressure: Pressure) -> Binding:
    """Each of ``facades``, as a class that inherits the data plane of the backend ``name``, if the facade is an
    allocator, and reaches the backend's cores; ``pressure`` is what budgets do under it. Raises whatever the import
    of a broken extension raises."""
    backend = importlib.import_module(f".{name}.backend", __package__)
    import_what_was_put_off()
    backend.connect(pressure)
    binding = Binding(name=name, backend=backend, Block=backend.Block)
    for cls in facades:
        bases = (cls, backend.Allocator) if hasattr(cls, "_fields") else (cls,)
        namespace = {
            "__slots__": getattr(cls, "_fields", ()),
            "__doc__": cls.__doc__,
            "__module__": "nativemem",
            "_backend": backend,
            "_binding": binding,
        }
        bound = type(cls.__name__, bases, namespace)
        if len(bases) > 1:
            backend.finish(bound)
        if cls.__name__ in backend.methods:
            backend.methods[cls.__name__](bound)
        setattr(binding, cls.__name__, bound)
    return binding
