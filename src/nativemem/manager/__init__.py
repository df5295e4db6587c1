"""One entry point for all memory of an application: owners with budgets, providers, checks as deep as wanted."""

from __future__ import annotations

from ..levels import Level
from .linear import LinearMemory
from .manager import MemoryManager
from .memory import Memory, memory, with_memory
from .provider import Provider
from .providers import CappedProvider, StaticProvider, StdProvider, default_provider
from .verification import Verification

__all__ = [
    "CappedProvider",
    "Level",
    "LinearMemory",
    "Memory",
    "MemoryManager",
    "Provider",
    "StaticProvider",
    "StdProvider",
    "Verification",
    "default_provider",
    "memory",
    "with_memory",
]
