"""The names of the package, bound to the backend that the environment asks for."""

from . import memlib as memlib
from . import process as process
from ._version import __version__
from .allocators.base import Allocator, Stats
from .allocators.utilities import Utilities as _Utilities  # noqa: F401  # registers the facade
from .backends.binding import configured as _configured
from .backends.binding import load as load
from .budgets.budget import SharingPolicy
from .budgets.pressure import MemoryPressure
from .config import ArenaConfig, HeapConfig, PoolConfig, SlabConfig, StackConfig
from .engine.install import install, installed, uninstall
from .errors import (
    ArenaExhausted,
    BudgetExceeded,
    BudgetUnderflow,
    CapacityExceeded,
    ConfigError,
    CorruptionDetected,
    DoubleFree,
    ForeignBlock,
    InvalidLayout,
    InvalidMark,
    LeakError,
    LendTimeout,
    LifoViolation,
    LoanOutstanding,
    NativeMemError,
    NativeUnavailable,
    OutOfBounds,
    OutOfMemory,
    PoolExhausted,
    ScopeError,
    StaleBlock,
    StaleHandle,
    UninitializedRead,
    WrongThread,
)
from .interop.capi import get_include
from .interop.cport import CPort as _CPort  # noqa: F401  # registers the facade
from .wrappers.sites import Frame, Site
from .wrappers.traced import Traced as _Traced  # noqa: F401  # registers the facade

_bound = _configured()
backend = _bound.name
Arena = _bound.Arena
Block = _bound.Block
Budget = _bound.Budget
CPort = _bound.CPort
Failing = _bound.Failing
Heap = _bound.Heap
Limited = _bound.Limited
Locked = _bound.Locked
Pool = _bound.Pool
Slab = _bound.Slab
Stack = _bound.Stack
System = _bound.System
Traced = _bound.Traced
TypedArena = _bound.TypedArena
utilities = _bound.utilities

__all__ = [
    "Allocator",
    "Arena",
    "ArenaConfig",
    "ArenaExhausted",
    "Block",
    "Budget",
    "BudgetExceeded",
    "BudgetUnderflow",
    "CPort",
    "CapacityExceeded",
    "ConfigError",
    "CorruptionDetected",
    "DoubleFree",
    "Failing",
    "ForeignBlock",
    "Frame",
    "Heap",
    "HeapConfig",
    "InvalidLayout",
    "InvalidMark",
    "LeakError",
    "LendTimeout",
    "LifoViolation",
    "Limited",
    "LoanOutstanding",
    "Locked",
    "MemoryPressure",
    "NativeMemError",
    "NativeUnavailable",
    "OutOfBounds",
    "OutOfMemory",
    "Pool",
    "PoolConfig",
    "PoolExhausted",
    "ScopeError",
    "SharingPolicy",
    "Site",
    "Slab",
    "SlabConfig",
    "Stack",
    "StackConfig",
    "StaleBlock",
    "StaleHandle",
    "Stats",
    "System",
    "Traced",
    "TypedArena",
    "UninitializedRead",
    "WrongThread",
    "__version__",
    "backend",
    "get_include",
    "install",
    "installed",
    "uninstall",
    "utilities",
]
