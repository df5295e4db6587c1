"""The classes of the package, in one list, and the backend that they are bound to.

:func:`load` gives the classes bound to one backend; the package's own names are those of the configured one.

Any thread may call what is here.
"""

from __future__ import annotations

import atexit
import threading
from typing import Any

from .allocators.arena import Arena
from .allocators.heap import Heap
from .allocators.memlib import Memlib
from .allocators.pool import Pool
from .allocators.slab import Slab
from .allocators.stack import Stack
from .allocators.system import System
from .allocators.typed import TypedArena
from .allocators.utilities import Utilities
from .backends import forks as _forks
from .backends.binding import Binding, bind
from .backends.protocols import Pressure
from .backends.selection import select
from .budgets import pressure
from .budgets.budget import Budget
from .settings import Settings
from .wrappers.cport import CPort
from .wrappers.failing import Failing
from .wrappers.histogram import show_all
from .wrappers.limited import Limited
from .wrappers.locked import Locked
from .wrappers.traced import Traced
from .wrappers.verified import Verified

__all__ = ["FACADES", "configured", "load", "loaded"]

#: a new allocator or wrapper is bound by being in this list
FACADES: tuple[type[Any], ...] = (
    System,
    Arena,
    TypedArena,
    Stack,
    Pool,
    Slab,
    Heap,
    Memlib,
    Limited,
    Traced,
    Failing,
    Locked,
    Verified,
    CPort,
    Budget,
    Utilities,
)

#: for one binding of each name: the classes of another would not take its objects; reentrant, as a signal handler
#: may load
_binding = threading.RLock()
_forks.hold(_binding)
_bindings: dict[str, Binding] = {}


def load(name: str = "auto") -> Binding:
    """The classes bound to the backend ``name``: ``auto``, ``native`` or ``pure``.

    Returns a namespace with ``name``, the classes of :data:`FACADES` by their names, ``Block``, ``utilities`` and
    ``default_system``; the same one each time. Both backends can be loaded in one process. Raises
    :class:`ConfigError` for another name, and whatever the import of a broken extension raises. Safe from any
    thread.

    >>> load("pure").Arena().alloc(10).size
    10
    """
    name = select(name)
    if name not in _bindings:
        with _binding:
            if name not in _bindings:
                _bindings[name] = _bound(name)
    return _bindings[name]


def configured() -> Binding:
    """The binding that the environment asks for.

    >>> import nativemem
    >>> configured().name == nativemem.backend, configured() in loaded()
    (True, True)
    """
    return load(Settings.from_env().backend)


def loaded() -> list[Binding]:
    """The bindings that this process has made. Any thread."""
    return list(_bindings.values())


def _bound(name: str) -> Binding:
    binding = bind(name, FACADES, Pressure(pressure.tell, pressure.ask, pressure.retry))
    binding.default_system = binding.System()
    settings = Settings.from_env()
    if settings.test_oom_n:
        binding.default_system = binding.Failing(binding.default_system, settings.test_oom_n)
    if settings.alloc_histo:
        atexit.register(show_all, binding.backend)
    binding.utilities = binding.Utilities()
    return binding
