"""nativemem: the memory engine for CPython programs."""

from ._backend import configured as _configured
from ._version import __version__
from .allocators import Allocator, Stats
from .errors import (
    ArenaExhausted,
    BudgetExceeded,
    BudgetUnderflow,
    ConfigError,
    DoubleFree,
    ForeignBlock,
    InvalidLayout,
    InvalidMark,
    LeakError,
    NativeMemError,
    NativeUnavailable,
    OutOfMemory,
    StaleBlock,
    StaleHandle,
    WrongThread,
)
from .process import install, installed, uninstall

_bound = _configured()
backend = _bound.name
Arena = _bound.Arena
Block = _bound.Block
Budget = _bound.Budget
Heap = _bound.Heap
Limited = _bound.Limited
Slab = _bound.Slab
System = _bound.System
Traced = _bound.Traced

__all__ = [
    "Allocator",
    "Arena",
    "ArenaExhausted",
    "Block",
    "Budget",
    "BudgetExceeded",
    "BudgetUnderflow",
    "ConfigError",
    "DoubleFree",
    "ForeignBlock",
    "Heap",
    "InvalidLayout",
    "InvalidMark",
    "LeakError",
    "Limited",
    "NativeMemError",
    "NativeUnavailable",
    "OutOfMemory",
    "Slab",
    "StaleBlock",
    "StaleHandle",
    "Stats",
    "System",
    "Traced",
    "WrongThread",
    "__version__",
    "backend",
    "install",
    "installed",
    "uninstall",
]
