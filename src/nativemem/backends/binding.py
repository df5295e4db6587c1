"""The waist between facade and backends: what a backend supplies, and which one is taken.

A backend is a module with the names of :class:`Backend`. :func:`load` gives the facade classes bound to
one backend; the package's own names are those of the configured one. Nothing else in the package knows
which backend it runs on.
"""

from __future__ import annotations

import atexit
import importlib
import threading
from types import SimpleNamespace
from typing import Any, Protocol, TypeVar

from .._lazy import import_what_was_put_off
from ..settings import Settings
from ..wrappers.histogram import show_all
from . import forks as _forks
from .selection import select

__all__ = ["AllocatorCore", "Backend", "Binding", "BudgetCore", "DataPlane", "facade", "load"]

T = TypeVar("T")


class AllocatorCore(Protocol):
    """The control plane of one allocator. Sizes in bytes; statuses as :class:`~.errors.Status`."""

    def stats(self) -> tuple[int, int, int, int, int, int, int, int, int]:
        """used, peak, reserved, limit, total, live, count, frees, failures."""

    def usable(self, size: int, align: int) -> int:
        """Bytes behind a block of this layout."""

    def check(self) -> int:
        """``OK``, or ``WRONG_THREAD`` where the calling thread may not use the allocator."""

    def check_free(self) -> int:
        """As ``check``, for giving a block back."""

    def largest_free(self) -> int:
        """Of an arena's core alone: the largest block, at alignment 1, that it would serve now."""

    def clear(self) -> int:
        """Gives back everything that the allocator holds; called once, by close."""

    def hand_over(self, thread: Any) -> int:
        """Makes what only one thread may use another's; ``OK`` without effect where any thread may use it."""


class BudgetCore(Protocol):
    """The control plane of one budget."""

    def charge(self, n: int) -> bool: ...
    def release(self, n: int) -> int: ...
    def set_limit(self, limit: int) -> None: ...
    def numbers(self) -> tuple[int, int, int, int]:
        """used, peak, limit, denied."""

    def uncount(self, refuser: Any) -> None:
        """A charge here that ``refuser`` refused is tried again: it is denied no longer."""

    def denial(self) -> tuple[int, int, int, Any, int, int] | None:
        """requested, used, allowed, the core that refused, time in ns since the epoch, why: 0 limit, 1 max_single,
        2 locked."""

    def seal(self) -> None:
        """Refuses every charge from now on."""

    def sealed(self) -> bool: ...
    def shared_used(self) -> int: ...
    def pressure(self) -> int:
        """0 normal to 3 full."""

    def lend(self, to: Any, n: int) -> bool:
        """Moves limit, if so much is unused. Raises Refusal(TIMED_OUT)."""

    def rebalance(self) -> list[tuple[Any, Any, int]]:
        """The moves among its children: from, to, bytes."""

    def check(self) -> str | None:
        """None, or the invariant that does not hold."""


class DataPlane(Protocol):
    """The allocator base type that a backend supplies; the facade classes inherit it."""

    _core: Any
    closed: bool
    upstream: Any
    generation: int
    id: int

    def alloc(self, size: Any = ..., align: int = 16) -> Any: ...
    def free(self, block: Any) -> None: ...
    def resize(self, block: Any, size: Any) -> bool: ...
    def _attach(self, core: Any, upstream: Any, wraps: bool, autofree: bool, natural: int, /) -> None:
        """Once, from ``__init__``. ``wraps``: shares the upstream's blocks rather than holding memory, and its
        ``natural`` size, which alloc takes where none is given (0: one must be)."""

    def _live(self) -> list[Any]:
        """Live blocks that this allocator gave and somebody still refers to, newest first."""

    def _serial(self) -> int:
        """Number of the newest block of the whole chain; grows with each block."""

    def _reset(self) -> None:
        """A reset of an arena or stack: every block of the chain becomes stale. BufferError, and nothing
        changed, where one of them is exported or an allocator stands on this one's memory."""

    def _release(self, serial: int, mark: Any, /) -> None:
        """As ``_reset``, for the blocks newer than ``serial``; ``mark`` is the core's."""

    _depth: int

    def _shut(self, left: tuple[str, Any], /) -> None:
        """Closes: frees its blocks, clears the core, lets go of the upstream. BufferError, nothing changed, as
        ``_drop``. ``left`` becomes ``_left``, which is None before."""

    @property
    def _left(self) -> tuple[str, Any] | None:
        """Of a closed one: how it was described, and its owner."""


class Backend(Protocol):
    """What ``_native`` and ``_pure`` supply."""

    name: str
    features: frozenset[str]
    finish: Any  # called with each class that was bound to the backend's Allocator
    packed: Any  # classes of packed items: Ring and its kinds, TableMap, TableSet
    finish_packed: Any  # called with each class that was bound to one of those
    methods: dict[str, dict[str, Any]]  # by class: what the backend does itself
    Allocator: Any
    Block: Any
    BudgetCore: Any
    SystemCore: Any
    ArenaCore: Any
    StackCore: Any
    PoolCore: Any
    SlabCore: Any
    HeapCore: Any
    LimitedCore: Any
    TracedCore: Any
    FailingCore: Any
    LockedCore: Any
    Intern: Any  # the table of structures.intern: of an allocator, shards and what keeps that open
    MemlibCore: Any  # what nativemem.memlib takes from
    cdata_new: Any  # None, or what makes the callable of hooks.cffi: see csrc/binding/cdata.h
    this_thread: Any  # the calling thread, for hand_over
    Utilities: Any
    histograms: Any  # of sizes and latencies, of all that the process has traced with one
    crossing: Any  # the next level that a budget came to and that nobody was told of; see _pressure
    refusal: Any  # of this thread's last charge that a limit refused, once: the core charged, and that in the way
    aside: Any  # calls a function at nobody's charge


class Binding(SimpleNamespace):
    """The facade classes bound to one backend; see :func:`load`."""


_facades: list[type] = []


def facade(cls: type[T]) -> type[T]:
    """Decorates a facade class: :func:`load` binds it to a backend."""
    _facades.append(cls)
    return cls


#: for one binding of each name: the classes of another would not take its objects; reentrant, as a signal handler
#: may load
_binding = threading.RLock()
_forks.hold(_binding)
_bindings: dict[str, Binding] = {}


def _bound(name: str) -> Binding:
    if name not in _bindings:
        with _binding:
            if name not in _bindings:
                _bindings[name] = _bind(name)
    return _bindings[name]


#: the package, whatever room this is in
PACKAGE_NAME = __name__.partition(".")[0]
#: by name: what supplies :class:`Backend`'s names
_MODULES = {"native": "native.cores", "pure": "pure"}


def _bind(name: str) -> Binding:
    backend = importlib.import_module(f".{_MODULES[name]}", __package__)
    import_what_was_put_off()  # the modules of the facades, too
    binding = Binding(name=name, backend=backend, Block=backend.Block)
    for cls in _facades:
        bases = (cls, backend.Allocator) if hasattr(cls, "_fields") else (cls,)
        namespace = {
            "__slots__": getattr(cls, "_fields", ()),
            "__doc__": cls.__doc__,
            "__module__": "nativemem",
            "_backend": backend,
            "_binding": binding,
            **backend.methods.get(cls.__name__, {}),
        }
        bound = type(cls.__name__, bases, namespace)
        if len(bases) > 1:
            backend.finish(bound)
        setattr(binding, cls.__name__, bound)
    binding.default_system = binding.System()
    settings = Settings.from_env()
    if settings.test_oom_n:
        binding.default_system = binding.Failing(binding.default_system, settings.test_oom_n)
    if settings.alloc_histo:
        atexit.register(show_all, backend)
    binding.utilities = binding.Utilities()
    return binding


def load(name: str = "auto") -> Binding:
    """The facade classes bound to the backend ``name``: ``auto``, ``native`` or ``pure``.

    Returns a namespace with ``name``, ``System``, ``Arena``, ``TypedArena``, ``Stack``, ``Pool``, ``Slab``,
    ``Heap``, ``Limited``, ``Traced``, ``Budget``, ``Block``, ``utilities`` and ``default_system``; the same one
    each time. Both backends can be loaded in
    one process. Raises :class:`ConfigError` for another name, and whatever the import of a broken
    extension raises. Safe from any thread.

    >>> load("pure").Arena().alloc(10).size
    10
    """
    return _bound(select(name))


def configured() -> Binding:
    """The binding that the environment asks for."""
    # each facade registers when its module is imported, and a program may begin with a room that needs one
    importlib.import_module("._api", PACKAGE_NAME)
    return load(Settings.from_env().backend)
