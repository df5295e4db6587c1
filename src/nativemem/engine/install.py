"""Installing the engine, the heap under a running interpreter and NumPy; and its limit.

The values that it returns do not change: any thread may read them.
"""

from __future__ import annotations

import os
import sys
from _thread import RLock

from .._lazy import errors, import_what_was_put_off
from ..backends.machine import is_free_threaded
from ..backends.selection import native_core
from ..settings import Settings
from ..sizes import SIZE_MAX, parse_size
from ..units import LEAST_OVER_HELD, reserve_of
from . import numpy_default as _numpy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

__all__ = [
    "Installed",
    "check_insides",
    "core",
    "install",
    "installed",
    "limit_to",
    "numpy_awaited",
    "owns",
    "started_core",
    "uninstall",
]

#: reentrant: a signal handler or a finalizer may install in the middle of an install
_lock = RLock()


class Installed:
    """What :func:`installed` returns: what is on. ``objects``: the heap serves CPython's objects; ``arrays``: it
    serves NumPy's arrays, or will from the moment that NumPy is imported; ``raw``: it serves what the interpreter
    itself and extensions take from its raw domain; ``limit``: bytes, None for none. False where nothing is on."""

    __slots__ = ("arrays", "limit", "objects", "raw")
    objects: bool
    arrays: bool
    raw: bool
    limit: int | None

    def __init__(self, objects: bool, arrays: bool, raw: bool, limit: int | None) -> None:
        for name, value in (("objects", objects), ("arrays", arrays), ("raw", raw), ("limit", limit)):
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError("this is what was on when it was asked; call install() or uninstall()")

    def _values(self) -> tuple[bool, bool, bool, int | None]:
        return self.objects, self.arrays, self.raw, self.limit

    def __eq__(self, other: object) -> bool:
        return self._values() == other._values() if isinstance(other, Installed) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._values())

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return Installed, self._values()

    def __bool__(self) -> bool:
        return self.objects or self.arrays or self.raw

    def __repr__(self) -> str:
        return f"Installed(objects={self.objects}, arrays={self.arrays}, raw={self.raw}, limit={self.limit})"


def _renew_lock() -> None:
    global _lock
    _lock = RLock()


if hasattr(os, "register_at_fork"):  # another thread of the parent may have held it
    os.register_at_fork(after_in_child=_renew_lock)


def core() -> Any:
    """The functions of the core, which it loads; those of the engine begin with ``engine_``. Raises
    :class:`NativeUnavailable` on the pure backend."""
    return native_core("the engine")


def started_core() -> Any:
    """The same, where the engine was started in this process; else None, and nothing is loaded."""
    loaded = sys.modules.get("nativemem._dataplane")
    return None if loaded is None or loaded.engine_budget() is None else loaded


def check_insides() -> None:
    """Raises :class:`NativeUnavailable` where this is not quite the interpreter that the core was built for."""
    moved = core().insides_check()
    if moved is not None:
        raise errors.NativeUnavailable(
            f"Python {sys.version.split()[0]} does not keep {moved} where this build expects it",
            suggestion="build nativemem on this machine, or run a version of Python that its page names",
        )


def _start(idle_decay: bool) -> None:
    """Makes the engine's heap. Raises :class:`OutOfMemory` where the system refuses its first memory, and what
    :func:`check_insides` raises."""
    from ..backends.native.loader import dataplane, start_region

    try:
        check_insides()
    except MemoryError:
        raise errors.OutOfMemory("the system refused the first memory for the heap") from None
    start_region()
    settings = Settings.from_env()
    if not dataplane.engine_start(settings.secure):
        raise errors.OutOfMemory("no memory for the engine's control structures")
    if idle_decay or settings.idle_decay:
        dataplane.region_decay_when_idle()


def limit_to(limit: int, label: str) -> None:
    """Bounds the engine, which was started. Raises :class:`InvalidLayout`, which begins with ``label``, for less
    than what it holds and 1 MiB."""
    engine = core()
    least = engine.engine_budget()[0] + LEAST_OVER_HELD
    if limit < least:
        raise errors.InvalidLayout(f"{label}: {limit} bytes is too little; the least is {least}")
    engine.engine_set_limit(limit, reserve_of(limit))


def _refuse_where_unsafe(objects: bool) -> None:
    if objects and is_free_threaded():
        raise errors.NativeUnavailable(
            "objects: the collector of a free-threaded interpreter requires the interpreter's own heap",
            suggestion="install(objects=False) puts the heap under arrays, with raw=True under the raw domain",
        )


def _refuse_above_others(engine: Any, objects: bool, raw: bool) -> None:
    """Before anything is switched on. Hooks that came after ours pass on to it, and are welcome."""
    found = engine.engine_stranger(objects, raw)
    if found is None:
        return
    domain, file = found
    if _is_tracing():
        tool, wording = "tracemalloc", "tracemalloc is tracing"
    else:
        origin = "from no file" if file is None else f"from {file}"
        tool, wording = "the other tool", f"an allocator hook {origin} is in the interpreter's {domain} domain"
    raise errors.NativeUnavailable(
        f"{wording}; when it stops it would take the engine out from under its blocks",
        suggestion=f"stop {tool}, install, then start it again",
    )


def _is_tracing() -> bool:
    try:  # not `tracemalloc`, which python -X tracemalloc does not import
        from _tracemalloc import is_tracing
    except ImportError:  # an interpreter without it cannot trace
        return False
    return bool(is_tracing())


def install(
    objects: bool = True,
    arrays: bool = True,
    raw: bool = False,
    limit: int | str | None = None,
    idle_decay: bool = False,
) -> Installed:
    """Puts the heap under this process: CPython's ``mem`` and ``obj`` domains, and NumPy's arrays.

    Parameters: ``objects`` and ``arrays``, what to switch on (False leaves it as it is); ``raw``, whether CPython's
    raw domain too, which few things take memory from: thread states, tracemalloc, the strings of NumPy's
    ``StringDType``, some extensions (no owner is charged for it, only the limit holds); ``limit``, most bytes that
    the engine may hold, counted in whole pages (None leaves the limit as it is); ``idle_decay``, whether a
    thread of the engine gives free memory back while the process does nothing (False leaves it as it is; it is on
    with ``NATIVEMEM_IDLE_DECAY=1``, too, and stays on). Without it there is no thread, and a process that does
    nothing keeps what it let go of last: 32 MiB and what it was using again and again, at most 256 MiB. May be
    called at any time and again; memory from before stays with the allocator that gave it. Beyond the limit the
    program gets :class:`MemoryError`.

    Returns what is on; nothing, and nothing is done, where ``NATIVEMEM_DISABLE=1`` is set. Raises
    :class:`NativeUnavailable` on the pure backend, for ``objects`` on a free-threaded interpreter, for
    ``objects`` and ``raw`` while :mod:`tracemalloc` traces or the allocator hook of another tool is in place,
    for ``arrays`` with a NumPy before 1.22 or in the midst of its import; :class:`InvalidLayout` for a limit
    that is less than what is in use and 1 MiB; :class:`ConfigError` for arguments of other types;
    :class:`OutOfMemory` where the system refuses even the first of its memory. What was on before is on then,
    and nothing else: the program goes on with the allocator it had. Call it from any thread.

    >>> import nativemem
    >>> bool(nativemem.install(limit="4 GiB"))  # doctest: +SKIP
    True
    """
    for label, value in (("objects", objects), ("arrays", arrays), ("raw", raw), ("idle_decay", idle_decay)):
        if not isinstance(value, bool):
            # a limit is often given first, as the only argument
            advice = "a limit is given by its name: install(limit='64 MiB')" if label == "objects" else ""
            raise errors.ConfigError(
                f"install.{label}: takes True or False, not {errors.shown(value)}", suggestion=advice
            )
    most = None if limit is None else parse_size(limit, "install.limit:", least=1)
    if Settings.from_env().disable:
        return installed()
    with _lock:
        engine = core()
        import_what_was_put_off()
        if objects or raw:
            _refuse_where_unsafe(objects)
        numpy_is_there = sys.modules.get("numpy") is not None
        if arrays and numpy_is_there:
            _numpy.module()
        _start(idle_decay)
        _refuse_above_others(engine, objects, raw)
        if most is not None:
            limit_to(most, "install.limit")
        if arrays:
            if numpy_is_there:
                _put_under_numpy(engine)
            else:
                numpy_awaited.enter()
        if objects or raw:
            engine.engine_catch_strays()
        if raw:
            engine.engine_raw(True)
        if objects:
            engine.engine_objects(True)
    return installed()


def _put_under_numpy(engine: Any) -> None:
    _numpy.hook(engine.engine_hook_arrays)
    engine.engine_arrays(True)


def _numpy_imported() -> None:
    with _lock:
        _put_under_numpy(core())


#: the start-up file, which puts no module of the package under a process, has left one in its place
numpy_awaited = _numpy.WhenImported(_numpy_imported)
numpy_awaited.replace_those_of("nativemem_autoinstall")


def uninstall() -> None:
    """Stops taking new memory from the heap. What it gave stays valid and is still freed into it.

    Does nothing where nothing is installed. Any thread.

    >>> import nativemem
    >>> nativemem.uninstall()
    >>> bool(nativemem.installed())
    False
    """
    with _lock:
        if not installed():
            return
        engine = core()
        engine.engine_objects(False)
        engine.engine_raw(False)
        numpy_awaited.leave()
        engine.engine_arrays(False)


def installed() -> Installed:
    """What is on now, an :class:`Installed`; false where nothing is. Any thread.

    >>> import nativemem
    >>> nativemem.install(objects=False, limit="1 GiB")  # doctest: +SKIP
    Installed(objects=False, arrays=True, raw=False, limit=1073741824)
    >>> nativemem.installed().arrays  # doctest: +SKIP
    True
    """
    engine = started_core()
    if engine is None:
        return Installed(False, False, False, None)
    objects, arrays, raw = engine.engine_state()
    limit = engine.engine_budget()[2]
    return Installed(objects, arrays or numpy_awaited.waits, raw, None if limit == SIZE_MAX else limit)


def owns(address: int) -> bool:
    """Whether the memory at ``address`` came from the heap: ``owns(id(thing))`` for an object that has no
    header before it, ``owns(array.ctypes.data)`` for an array.

    Parameters: ``address``, an int; False for what is none. Raises :class:`NativeUnavailable` on the pure backend.
    Any thread.

    >>> import nativemem
    >>> from nativemem.process import owns
    >>> installed = nativemem.install()  # doctest: +SKIP
    >>> thing = bytes(10_000)
    >>> owns(id(thing)), owns(id(None))  # doctest: +SKIP
    (True, False)
    """
    return core().region_owns(address) if 0 <= address < 1 << 64 else False
