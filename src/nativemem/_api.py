"""The names of the package, bound to the backend that the environment asks for.

At most 40 (docs/decisions/0055-forty-names.md): what programs make, what they catch, and the engine's switch. Each
other name is in the module that it belongs to, an error in ``nativemem.errors``, a configuration in
``nativemem.config``.
"""

from typing import TYPE_CHECKING

from . import config, errors
from . import memlib as memlib
from . import process as process
from ._version import __version__
from .allocators.base import Allocator, Stats
from .budgets.lending import SharingPolicy
from .budgets.pressure import MemoryPressure
from .engine.install import install, installed, uninstall
from .errors import BudgetExceeded, LeakError, NativeMemError, NativeUnavailable, OutOfMemory
from .facades import configured as _configured
from .facades import load as load
from .interop.capi import get_include
from .wrappers import sites

if TYPE_CHECKING:
    # what the classes are to a type checker, whatever the backend
    from .allocators.arena import Arena
    from .allocators.block import Block
    from .allocators.heap import Heap
    from .allocators.pool import Pool
    from .allocators.slab import Slab
    from .allocators.stack import Stack
    from .allocators.system import System
    from .allocators.typed import TypedArena
    from .allocators.utilities import Utilities
    from .budgets.budget import Budget
    from .wrappers.cport import CPort
    from .wrappers.failing import Failing
    from .wrappers.limited import Limited
    from .wrappers.locked import Locked
    from .wrappers.traced import Traced
    from .wrappers.verified import Verified

    backend: str
    utilities: Utilities
else:
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
    Verified = _bound.Verified
    utilities = _bound.utilities

__all__ = [
    "Allocator",
    "Arena",
    "Block",
    "Budget",
    "BudgetExceeded",
    "CPort",
    "Failing",
    "Heap",
    "LeakError",
    "Limited",
    "Locked",
    "MemoryPressure",
    "NativeMemError",
    "NativeUnavailable",
    "OutOfMemory",
    "Pool",
    "SharingPolicy",
    "Slab",
    "Stack",
    "Stats",
    "System",
    "Traced",
    "TypedArena",
    "Verified",
    "__version__",
    "backend",
    "get_include",
    "install",
    "installed",
    "uninstall",
    "utilities",
]

#: names that were the package's own before there were 40, and the modules that have them; gone in 0.3
MOVED = {
    **dict.fromkeys(("ArenaConfig", "HeapConfig", "PoolConfig", "SlabConfig", "StackConfig"), config),
    **dict.fromkeys(("ArenaExhausted", "BudgetUnderflow", "CapacityExceeded", "ConfigError"), errors),
    **dict.fromkeys(("CorruptionDetected", "DoubleFree", "ForeignBlock", "InvalidLayout", "InvalidMark"), errors),
    **dict.fromkeys(("LendTimeout", "LifoViolation", "LoanOutstanding", "PoolExhausted", "ScopeError"), errors),
    **dict.fromkeys(("StaleBlock", "StaleHandle", "WrongThread"), errors),
    **dict.fromkeys(("Frame", "Site"), sites),
}

#: names of rooms that a program may look for here first, and the modules that have them: for the message alone
ELSEWHERE = {
    **dict.fromkeys(("CappedProvider", "Level", "LinearMemory", "Memory", "MemoryManager"), "nativemem.manager"),
    **dict.fromkeys(("Provider", "StaticProvider", "StdProvider", "Verification"), "nativemem.manager"),
    **dict.fromkeys(("default_provider", "memory", "with_memory"), "nativemem.manager"),
    **dict.fromkeys(("BoundedBitSet", "BoundedDeque", "BoundedList"), "nativemem.manager.collections"),
    **dict.fromkeys(("BoundedMap", "BoundedQueue", "BoundedSet"), "nativemem.manager.collections"),
    **dict.fromkeys(("BoundedStack", "BoundedString"), "nativemem.manager.collections"),
    **dict.fromkeys(("AsyncCache", "AsyncObjectPool", "Cache", "CacheInfo"), "nativemem.structures"),
    **dict.fromkeys(("CircuitBreakerCache", "DedupCache", "Handle", "InternStats"), "nativemem.structures"),
    **dict.fromkeys(("InternTable", "ObjectPool", "PoolHealth", "RateLimitedCache"), "nativemem.structures"),
}
