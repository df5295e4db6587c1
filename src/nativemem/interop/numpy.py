"""NumPy arrays from any allocator: for a block of code, for a thread, for the whole process.

The engine (:func:`nativemem.install`) puts its heap under NumPy as it is. Here one says which allocator: an arena
that goes as a whole, a heap with a budget of its own, a traced one. Every function raises
:class:`NativeUnavailable` on the pure backend, whose memory C cannot be given, and :class:`ModuleNotFoundError`
without NumPy (1.22 or newer). Under the kill switch nothing is hooked.
"""

from __future__ import annotations

import contextlib
import contextvars
import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from ..allocators.base import Allocator, check_source
from ..backends.selection import native_core, need_lock
from ..budgets.pressure import budget_of
from ..engine import numpy_default as _numpy
from ..errors import ConfigError, shown
from ..settings import Settings

if TYPE_CHECKING:
    from ..budgets.budget import Budget

__all__ = [
    "Coverage",
    "coverage",
    "handler_of",
    "initializer",
    "install",
    "last_denial",
    "owner_of",
    "uninstall",
    "using",
]

A = TypeVar("A", bound=Allocator)

_ENGINE = "nativemem"

_ESCAPES = {
    "frombuffer, asarray of a buffer, from_dlpack, memmap": "views of memory that was taken elsewhere",
    "items of object arrays": "objects: the engine's, if it is installed with objects",
    "unpickled arrays": "large ones are views of the bytes that they came in",
    "strings of StringDType": "the interpreter's raw domain: install(raw=True)",
    "scratch of linalg, fft and of BLAS": "the C library's malloc",
    "shapes and strides, buffers of iterators": "the interpreter's domains, or the C library's malloc",
}


@dataclass(frozen=True)
class Coverage:
    """Where arrays come from now.

    ``here`` and ``default`` are names of handlers: this context's, and the one where none was chosen, as in new
    threads. ``"nativemem"`` is the engine. ``arrays`` and ``bytes``: what is in use from allocators that were put
    here.
    ``escapes``: what NumPy takes past every handler, and from where.
    """

    here: str
    default: str
    arrays: int
    bytes: int
    escapes: dict[str, str]


def _module() -> Any:
    """NumPy. Where it is there already no import is begun: a collection in its midst may come here again."""
    return sys.modules.get("numpy") or importlib.import_module("numpy")


def _dataplane() -> Any:
    _module()
    return native_core("a memory handler for NumPy")


def _name(allocator: Any) -> str:
    return f"nativemem {allocator.describe()} #{allocator.id}"


def _handler(dataplane: Any, allocator: Any, what: str) -> Any:
    if not isinstance(allocator, Allocator):
        raise ConfigError(f"hooks.numpy.{what}: takes an allocator, not {shown(allocator)}")
    if not isinstance(allocator, dataplane.Allocator):
        raise ConfigError(f"hooks.numpy.{what}: takes an allocator of the native backend")
    need_lock(f"hooks.numpy.{what}")
    allocator._opened()
    check_source(allocator, f"hooks.numpy.{what}")
    table, locks = _numpy.module()._ARRAY_API, _numpy.imports_under_way()
    return contextvars.Context().run(dataplane.numpy_handler, table, allocator, _name(allocator), locks)


def _swap(dataplane: Any, handler: Any) -> Any:
    return dataplane.numpy_swap(_numpy.module()._ARRAY_API, handler)


@contextlib.contextmanager
def using(allocator: A) -> Iterator[A]:
    """A context manager, and a decorator: new arrays of this context come from ``allocator``, 64-byte aligned.

    They outlive it, and go back where they came from; as long as one is there its allocator cannot be closed or
    reset. Arrays that are made while a module is being imported, where that import began inside, come from where
    they would without it: a module keeps them. Where the allocator refuses NumPy raises its own
    :class:`MemoryError`, and :func:`last_denial` tells why. Threads start without it (see :func:`install`,
    :func:`initializer`), tasks inherit it, and in a generator it is the caller's as well, like any context
    variable. Returns the allocator. Raises :class:`ConfigError` for anything else, :class:`StaleHandle` for a
    closed one. Any thread; arrays are taken by the thread that makes them, so not from another thread's arena.

    >>> import nativemem
    >>> from nativemem.hooks import numpy as hook
    >>> import numpy
    >>> arena = nativemem.Arena("1 MiB")
    >>> with hook.using(arena):  # doctest: +SKIP
    ...     a = numpy.ones(1000)
    >>> hook.owner_of(a) is arena  # doctest: +SKIP
    True
    """
    if Settings.from_env().disable:
        yield allocator
        return
    dataplane = _dataplane()
    before = _swap(dataplane, _handler(dataplane, allocator, "using"))
    try:
        yield allocator
    finally:
        _swap(dataplane, before)


def initializer(allocator: Allocator) -> Callable[[], None]:
    """What ``ThreadPoolExecutor(initializer=...)`` takes, so that arrays of its threads come from ``allocator``.

    Parameters: ``allocator``, one that those threads may use. Returns a function that sets it for the thread
    that calls, for good. Raises as :func:`using`. Any thread.

    >>> import nativemem, numpy
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> from nativemem.hooks import numpy as hook
    >>> heap = nativemem.Heap()
    >>> with ThreadPoolExecutor(initializer=hook.initializer(heap)) as pool:  # doctest: +SKIP
    ...     hook.owner_of(pool.submit(numpy.ones, 1000).result()) is heap
    True
    """
    if Settings.from_env().disable:
        return lambda: None
    dataplane = _dataplane()
    _handler(dataplane, allocator, "initializer")

    def begin() -> None:
        _swap(dataplane, _handler(dataplane, allocator, "initializer"))

    return begin


def install(allocator: Allocator) -> None:
    """New arrays of the whole process come from ``allocator``, wherever no other was chosen; new threads' too.

    Parameters: ``allocator``, one that any thread may use. May be called again, with another. It comes before the
    engine, which need not be installed. Raises :class:`ConfigError` for an allocator that belongs to one thread
    (put it into a :class:`Locked`), otherwise as :func:`using`. Any thread.

    >>> import nativemem, numpy
    >>> from nativemem.hooks import numpy as hook
    >>> heap = nativemem.Heap()
    >>> hook.install(heap)  # doctest: +SKIP
    >>> array = numpy.ones(1000)
    >>> hook.owner_of(array) is heap  # doctest: +SKIP
    True
    >>> hook.uninstall()  # doctest: +SKIP
    """
    if Settings.from_env().disable:
        return
    dataplane = _dataplane()
    handler = _handler(dataplane, allocator, "install")
    if allocator._confined() is not None:
        raise ConfigError(
            f"hooks.numpy.install: {allocator.describe()} belongs to one thread; give a heap, or one in a Locked"
        )
    _numpy.hook(dataplane.engine_hook_arrays)
    dataplane.numpy_default(handler)


def uninstall() -> None:
    """Ends what :func:`install` began. Arrays from the allocator stay, and go back there. Any thread."""
    if not Settings.from_env().disable:
        _dataplane().numpy_default(None)


def _owner_of_memory(array: Any, what: str) -> tuple[Any, int]:
    numpy = _module()
    if not isinstance(array, numpy.ndarray):
        raise ConfigError(f"hooks.numpy.{what}: takes an array of NumPy, not {shown(array)}")
    while isinstance(array.base, numpy.ndarray):
        array = array.base
    return (array if array.flags.owndata else None), array.__array_interface__["data"][0]


def owner_of(array: Any) -> Budget | None:
    """What owns the memory of an array, or of what it is a view of: the allocator, or the :class:`Budget` of the
    scope that it was made in; None where there is none, and for memory that is not NumPy's. Any thread.
    """
    dataplane = _dataplane()
    owned, address = _owner_of_memory(array, "owner_of")
    if owned is None:
        return None
    allocator = dataplane.numpy_allocator_of(address)
    if allocator is None:
        from ..backends.native.budget import array_budget

        return budget_of(array_budget(address))
    return allocator


def handler_of(array: Any) -> str | None:
    """The name of the handler that an array's memory, or that of what it is a view of, came from: ``"nativemem"``
    for the engine, ``"nativemem Arena > System #7"`` for an allocator, what NumPy calls another; None for memory
    that is not NumPy's. Raises :class:`ConfigError` for what is no array. Any thread.

    >>> import nativemem, numpy
    >>> from nativemem.hooks import numpy as hook
    >>> with hook.using(nativemem.Heap()):  # doctest: +SKIP
    ...     hook.handler_of(numpy.ones(9)[::2]).startswith("nativemem Heap")
    True
    """
    dataplane = _dataplane()
    owned, address = _owner_of_memory(array, "handler_of")
    if owned is None:
        return None
    allocator = dataplane.numpy_allocator_of(address)
    if allocator is not None:
        return _name(allocator)
    get = _numpy.module().get_handler_name
    name: str = get(owned)
    if name.startswith(f"{_ENGINE} "):  # of an import: the allocator's handler passed it on
        name = contextvars.Context().run(get)
    return dataplane.engine_array_handler(address) if name == _ENGINE else name


def coverage() -> Coverage:
    """Where arrays come from now, and what escapes, as a :class:`Coverage`. Any thread.

    >>> import nativemem, numpy
    >>> from nativemem.hooks import numpy as hook
    >>> with hook.using(nativemem.Heap()):  # doctest: +SKIP
    ...     array = numpy.ones(1000)
    >>> hook.coverage().bytes  # doctest: +SKIP
    8000
    """
    dataplane = _dataplane()
    get = _numpy.module().get_handler_name
    here, default = get(), contextvars.Context().run(get)
    if default == _ENGINE:  # the hook is in, whichever handler it passes on to
        default = dataplane.engine_array_handler(None)
    arrays, used = dataplane.numpy_in_use()
    return Coverage(default if here == _ENGINE else here, default, arrays, used, dict(_ESCAPES))


def last_denial() -> Exception | None:
    """The last error for which an allocator that was put here refused an array, or None; NumPy raises its own. Any
    thread.

    >>> import nativemem, numpy
    >>> from nativemem.hooks import numpy as hook
    >>> with hook.using(nativemem.Limited(nativemem.Heap(), nativemem.Budget("1 KiB"))):  # doctest: +SKIP
    ...     try:
    ...         numpy.ones(1000)
    ...     except MemoryError:
    ...         print(hook.last_denial())
    Limited: 8000 bytes asked for; budget has 0 of 1024 bytes in use
    """
    return _dataplane().numpy_refusal()
