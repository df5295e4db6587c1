"""What ``nativemem doctor`` tries out, in a process of its own: one that a broken core may bring down.

Each probe prints when it begins and what it found, a line each: so it is known in which of them the process ended.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from ..backends.machine import is_free_threaded
from ..backends.selection import build, missing_core, select, why_pure
from ..engine import install as _install
from ..errors import NativeMemError
from ..settings import Settings

__all__ = ["DECLINED", "OFF", "PROBES", "WORKS", "Row", "guarded", "run"]

#: states: it did what it should; it is wanted and cannot be had; it is not asked for, or there is nothing that it
#: would serve
WORKS, DECLINED, OFF = "works", "declined", "off"


#: characters of what an error says that is not of this package
_LONGEST = 300


class Row(NamedTuple):
    """What is known of one thing: ``state`` is one of three; ``cure`` is what to do, empty where nothing is."""

    name: str
    state: str
    reason: str
    cure: str = ""


def guarded(name: str, probe: Callable[[str], Row]) -> Row:
    """What ``probe`` answers, or what went wrong in it: the other probes are tried all the same."""
    try:
        return probe(name)
    except NativeMemError as error:
        return Row(name, DECLINED, str(error), error.suggestion or "")
    except BaseException as error:  # also SystemExit: whatever a module does when it is imported
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return Row(name, DECLINED, text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}...")


def _bug(name: str, what: str) -> Row:
    return Row(name, DECLINED, what, "this is a bug: please report it, with the whole of this page")


def _without_core(name: str) -> Row | None:
    """A row for what needs the core where the process has none; None where it has."""
    why = why_pure()
    if why is None:
        return None
    settings = Settings.from_env()
    if settings.disable or settings.backend == "pure":
        return Row(name, OFF, why[0])
    state = OFF if build().get("asked") == "0" else DECLINED
    return Row(name, state, "it needs the native core, and there is none")


def _core(name: str) -> Row:
    settings = Settings.from_env()
    if settings.disable:
        return Row(name, OFF, "NATIVEMEM_DISABLE=1 is set", "leave NATIVEMEM_DISABLE unset")
    try:
        from ..backends.native import loader as _load
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "nativemem._core":
            reason, cure = missing_core()
            return Row(name, OFF if build().get("asked") == "0" else DECLINED, reason, cure)
        return Row(name, DECLINED, f"does not load: {error}", "install it again, for this Python")
    file = getattr(_load.dataplane, "__file__", None) or _load.dataplane.__spec__.origin
    return Row(name, WORKS, f"{os.path.basename(file)} loads")


def _backend(name: str) -> Row:
    found = select(Settings.from_env().backend)
    if found == "native":
        return Row(name, WORKS, "native")
    why = why_pure()
    return Row(name, WORKS, f"pure: {why[0] if why else 'it was asked for'}", why[1] if why else "")


def _blocks(name: str) -> Row:
    from ..facades import configured

    binding = configured()
    limit = binding.Budget(1 << 20, name="doctor")
    with binding.Arena(upstream=binding.Limited(None, limit)) as arena:
        block = arena.alloc(1000, align=64)
        memoryview(block)[:6] = b"doctor"
        if bytes(memoryview(block)[:6]) != b"doctor" or block.address % 64 or not limit.used:
            return _bug(name, "a block is not what it should be")
        try:
            arena.alloc(2 << 20)
        except MemoryError:
            return Row(name, WORKS, f"allocators and budgets ({binding.name}); a limit of 1 MiB refused 2 MiB")
    return _bug(name, "a limit of 1 MiB did not refuse 2 MiB")


def _insides(name: str) -> Row:
    row = _without_core(name)
    if row is not None:
        return row
    _install.check_insides()
    return Row(name, WORKS, "what the core reads of the interpreter is where it is expected")


def _engine(name: str) -> Row:
    row = _without_core(name)
    if row is not None:
        return row
    _install.install(arrays=False)
    thing = bytes(10_000)
    if not _install.owns(id(thing)):
        return _bug(name, "it is on, and an object did not come from it")
    return Row(name, WORKS, "install() serves Python's objects")


def _arrays(name: str) -> Row:
    from importlib.util import find_spec

    if find_spec("numpy") is None:
        return Row(name, OFF, "NumPy is not installed")
    row = _without_core(name)
    if row is not None:
        return row
    import numpy

    _install.install(objects=False)
    array = numpy.empty(100_000)
    if not _install.owns(array.ctypes.data):
        return _bug(name, "it is on, and an array did not come from it")
    return Row(name, WORKS, f"install() serves the arrays of NumPy {numpy.__version__}")


def _scope(size: int) -> Any:
    from ..facades import configured

    return configured().Budget(size, name="doctor")


def _scopes(name: str) -> Row:
    row = _without_core(name)
    if row is not None:
        return row
    if is_free_threaded():
        return _scopes_of_arrays(name)
    _install.install(arrays=False)
    limit = _scope(8 << 20)
    refused = False
    with limit:
        kept = bytes(1 << 20)
        used = limit.used
        try:
            bytes(64 << 20)
        except MemoryError:
            refused = True
    del kept
    if used < 1 << 20 or not refused:
        return _bug(name, f"charged {used} bytes for 1 MiB; refused: {refused}")
    return Row(name, WORKS, "a scope of 8 MiB was charged for 1 MiB and refused 64 MiB")


def _scopes_of_arrays(name: str) -> Row:
    from importlib.util import find_spec

    if find_spec("numpy") is None:
        return Row(name, OFF, "NumPy is not installed; without the lock (GIL) objects are charged to no scope")
    import numpy

    _install.install(objects=False)
    limit = _scope(8 << 20)
    refused = False
    with limit:
        kept = numpy.empty(1 << 17)
        used = limit.used
        try:
            numpy.empty(8 << 20)
        except MemoryError:
            refused = True
    if used != kept.nbytes or not refused:
        return _bug(name, f"charged {used} bytes for 1 MiB; refused: {refused}")
    return Row(
        name,
        WORKS,
        "a scope of 8 MiB was charged for an array of 1 MiB and refused 64 MiB; objects are not",
    )


def _deferral(name: str) -> Row:
    row = _without_core(name)
    if row is not None:
        return row
    _install.install(arrays=False)
    limit = _scope(2 << 20)
    kept: list[Any] = []
    try:
        with limit:
            while len(kept) < 1_000_000:
                kept.append([len(kept)])
    except MemoryError:
        count = len(kept)
        kept.clear()
        return Row(name, WORKS, f"{count:,} lists filled a scope of 2 MiB; the error came, and the program goes on")
    return _bug(name, "a million lists did not fill a scope of 2 MiB")


def _raw(name: str) -> Row:
    row = _without_core(name)
    if row is not None:
        return row
    if not _install.install(objects=False, arrays=False, raw=True).raw:
        return _bug(name, "it was asked for, and is not on")
    return Row(name, WORKS, "install(raw=True) serves the interpreter's raw domain; it is off unless asked for")


def _debug_hooks(name: str) -> Row:
    chosen = "" if sys.flags.ignore_environment else os.environ.get("PYTHONMALLOC", "")
    on = chosen == "debug" or chosen.endswith("_debug") or (sys.flags.dev_mode and chosen in ("", "default"))
    if hasattr(sys, "gettotalrefcount") and chosen in ("", "default"):  # a debug build has them on
        on = True
    if not on:
        return Row(name, OFF, "the interpreter's own are not on (PYTHONMALLOC=debug, -X dev)")
    row = _without_core(name)
    if row is not None:
        return row
    _install.install(arrays=False)
    return Row(name, WORKS, "the interpreter's own are on, and check the blocks of the engine, which is slow")


def _threads(name: str) -> Row:
    import sysconfig

    if not sysconfig.get_config_var("Py_GIL_DISABLED"):
        return Row(name, OFF, "this interpreter has the lock (GIL)")
    before = _lock_is_on()
    select(Settings.from_env().backend)
    if before:
        return Row(name, OFF, "the interpreter could do without the lock (GIL), and has it on", "PYTHON_GIL=0")
    if _lock_is_on():
        return Row(name, DECLINED, "the core turns the interpreter's lock (GIL) on", "NATIVEMEM_BACKEND=pure")
    return Row(name, WORKS, "the interpreter's lock (GIL) stays off")


def _lock_is_on() -> bool:
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())


def _c_api(name: str) -> Row:
    row = _without_core(name)
    if row is not None:
        return row
    from ..interop import capi

    capi.get_include()
    if capi._C_API is None:
        return _bug(name, "there is no table of functions")
    return Row(name, WORKS, "extensions find the headers by nativemem.get_include()")


#: in the order in which they are tried and shown
PROBES: dict[str, Callable[[str], Row]] = {
    "free-threaded": _threads,  # first: what comes after has loaded the core
    "core": _core,
    "backend": _backend,
    "blocks": _blocks,
    "insides": _insides,
    "engine": _engine,
    "arrays": _arrays,
    "scopes": _scopes,
    "deferred errors": _deferral,
    "raw domain": _raw,
    "debug hooks": _debug_hooks,
    "C API": _c_api,
}


def run(names: Iterable[str]) -> None:
    """Tries ``names`` out, and prints for each that it begins, and then its row, as JSON."""
    for name in names:
        print(json.dumps({"begins": name}), flush=True)
        print(json.dumps(guarded(name, PROBES[name])), flush=True)
