"""Tests against memory: fault injection into any code."""

from .._lazy import room

__getattr__, __all__ = room(__name__, findings="Finding Findings", injection="sweep")
