"""The native backend: what :class:`nativemem.backends.protocols.Backend` lists.

``Allocator`` and ``Block`` are C types (the data plane); the ``*Core`` classes reach the C structures
through cffi (the control plane).
"""

from __future__ import annotations

import functools

from ...refusals import coerce_layout, raise_block, raise_exports, raise_status
from ..protocols import Pressure
from .allocators import ArenaCore, HeapCore, PoolCore, SlabCore, StackCore, SystemCore
from .budget import BudgetCore, aside, asker, crossing, current, events, refusal
from .control import lib
from .intern import Intern
from .loader import dataplane
from .plain import MemlibCore, PlainCore
from .utilities import Utilities
from .wrappers import FailingCore, LimitedCore, LockedCore, TracedCore, VerifiedCore, histograms

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
    "PlainCore",
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

name = "native"
#: what not every backend can do; pinned by a test
features = frozenset({"c-port", "engine", "resize-keeps-address", "stale-buffer-raises"})
Allocator = dataplane.Allocator
Block = dataplane.Block
finish = dataplane.own_hot_methods
packed = dataplane
finish_packed = dataplane.packed_own_methods
cdata_new = dataplane.cdata_new
this_thread = lib.nm_this_thread
#: of the facade's classes, in C: nothing may come between them and the `with` they serve
methods = {"Budget": dataplane.scope_own_methods}


def connect(pressure: Pressure) -> None:
    """Gives the data plane what it calls of Python: what raises, and what budgets do under pressure."""
    dataplane.set_hooks(
        coerce_layout,
        raise_status,
        raise_block,
        raise_exports,
        functools.partial(pressure.tell, crossing),
        asker(pressure.ask),
    )
