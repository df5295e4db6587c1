"""Tests against memory: a pytest plugin, fault injection into any code, growth by repetition, traces."""

from .._lazy import room

__getattr__, __all__ = room(
    __name__,
    findings="Finding Findings",
    injection="sweep",
    repetitions="Growth growth",
    trace="Place Trace",
)
