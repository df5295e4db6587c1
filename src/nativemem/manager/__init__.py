"""One entry point for all memory of an application: owners with budgets, providers, checks as deep as wanted."""

from __future__ import annotations

from .levels import Level
from .providers import CappedProvider, Provider, StaticProvider, StdProvider, default_provider
from .verification import Verification

__all__ = [
    "CappedProvider",
    "Level",
    "Provider",
    "StaticProvider",
    "StdProvider",
    "Verification",
    "default_provider",
]
