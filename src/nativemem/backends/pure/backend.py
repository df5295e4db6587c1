"""The pure backend: what :class:`nativemem.backends.protocols.Backend` lists, from the standard library alone.

Sizes, errors, counters and their order are the native backend's; where a block lies in memory is not.
"""

from __future__ import annotations

from collections.abc import Callable

from . import packed
from .arena import ArenaCore
from .blocks import Block
from .budget import BudgetCore, aside, connect, crossing, current, events, refusal
from .dataplane import Allocator
from .failing import FailingCore
from .heap import HeapCore
from .intern import Intern
from .limited import LimitedCore
from .locked import LockedCore
from .memlib import MemlibCore
from .memory import WINDOWS
from .pool import PoolCore
from .slab import SlabCore
from .stack import StackCore
from .system import SystemCore
from .threads import this_thread
from .traced import TracedCore, histograms
from .utilities import Utilities
from .verified import VerifiedCore

__all__ = [
    "Allocator",
    "ArenaCore",
    "Block",
    "BudgetCore",
    "FailingCore",
    "HeapCore",
    "Intern",
    "LimitedCore",
    "LockedCore",
    "MemlibCore",
    "PoolCore",
    "SlabCore",
    "StackCore",
    "SystemCore",
    "TracedCore",
    "Utilities",
    "VerifiedCore",
    "aside",
    "cdata_new",
    "connect",
    "crossing",
    "current",
    "events",
    "features",
    "finish",
    "finish_packed",
    "histograms",
    "methods",
    "name",
    "packed",
    "refusal",
    "this_thread",
]

name = "pure"
#: Python does it
cdata_new = None


#: of the facade's classes: nothing is done otherwise here
methods: dict[str, Callable[[type], None]] = {}


def finish(cls: type) -> None:
    """Nothing: a Python class inherits at no cost."""


finish_packed = finish


#: From Python 3.12 on a class can refuse its buffer (PEP 688); before, a dead block has none, which is a TypeError.
features = frozenset({"stale-buffer-raises"} if WINDOWS else ())
