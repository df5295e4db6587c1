"""The waist between the facade and the two backends: protocols, selection, binding."""

from __future__ import annotations

from .._lazy import room

__getattr__, __all__ = room(
    __name__,
    binding="Binding bind",
    protocols="AllocatorCore Backend BudgetCore DataPlane Pressure",
    selection="need_native select unavailable why_pure",
    machine="is_free_threaded",
)
