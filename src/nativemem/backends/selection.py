"""Which backend this process has, and this interpreter."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # what `signal` has it from, without enum
import os
import sys

from .._folder import PACKAGE
from .._lazy import errors, import_module
from ..settings import Settings
from .machine import is_free_threaded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "build",
    "in_main_interpreter",
    "native_core",
    "need_lock",
    "need_native",
    "select",
    "unavailable",
    "why_pure",
    "without_lock",
]

#: the first version whose free-threaded build the core is for
FREE_THREADED = (3, 14)


def in_main_interpreter() -> bool:
    """Whether this is the interpreter that the process started with.

    The module that tells it exactly takes as long to load as the core. It is asked where this is not the main
    thread of the main interpreter, which alone may set signal handlers; None is none.
    """
    try:
        _signal.signal(_signal.SIGINT, None)
    except TypeError:
        return True
    except ValueError:
        pass
    try:
        interpreters = import_module("_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters")
    except ImportError:
        return True
    # each is a number, since 3.13 the first of a tuple
    return bool(interpreters.get_current() == interpreters.get_main())


def _has_core() -> bool:
    try:
        from .native import loader as loader
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == "nativemem._core"
        if not missing and in_main_interpreter():
            raise
        return False
    return True


def select(name: str) -> str:
    """The backend that ``name`` stands for: ``auto`` is ``native`` where the extension exists.

    An extension that is there but broken is an error that shows, not a silent change of backend. With the kill
    switch ``NATIVEMEM_DISABLE`` it is ``pure``, where each block comes from the system by itself. In an isolated
    subinterpreter ``auto`` is ``pure``, too: that does not load such extensions. Raises :class:`NativeUnavailable`
    where ``native`` is asked for and there is none, and :class:`ConfigError` for another name.
    """
    if name in ("auto", "native", "pure") and Settings.from_env().disable:
        return "pure"
    if name == "auto":
        return "native" if _has_core() else "pure"
    if name == "native" and not _has_core():
        reason, cure = missing_core()
        raise errors.NativeUnavailable(f"the native backend was asked for: {reason}", suggestion=cure)
    if name in ("native", "pure"):
        return name
    raise errors.ConfigError(f"backend: takes auto, native or pure, not {errors.shown(name)}")


def build() -> dict[str, Any]:
    """What the build recorded: ``native``, whether it made the core; ``asked``, the value of USE_NATIVE_MEM;
    ``reason``, why there is no core, None where none was asked for; of a native build ``compiler`` and ``flags``.
    All are missing where nothing was built, as in a source tree."""
    import json

    try:
        with open(os.path.join(PACKAGE, "_build.json"), encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def without_lock() -> str:
    """Why there is no core on a free-threaded interpreter that has none."""
    if sys.version_info[:2] < FREE_THREADED:
        return "the core does not run on a free-threaded interpreter before 3.14"
    return "the core is built for a free-threaded interpreter where it is asked for, by USE_NATIVE_MEM=1"


def missing_core() -> tuple[str, str]:
    """Why there is no core here, as the build recorded it, and what to do about it."""
    if not in_main_interpreter():
        return "an isolated subinterpreter does not load the core", "ask for it in the main interpreter"
    built, again = build(), "from its sources: USE_NATIVE_MEM=1 pip install --no-cache-dir --force-reinstall ."
    # whatever is done about a build
    if sys.implementation.name != "cpython":
        return f"the core needs CPython, and this is {sys.implementation.name}", "run the program on CPython"
    if sys.maxsize < 1 << 32:
        return "the core needs a 64-bit interpreter, and this one has 32 bits", "run the program on one of 64 bits"
    if is_free_threaded() and sys.version_info[:2] < FREE_THREADED:
        return without_lock(), "take the interpreter of that version that has the lock (no t in its name)"
    if not built:
        return "these are sources that were never built", "install them: USE_NATIVE_MEM=1 pip install ."
    if built.get("native"):
        reason = f"its core was built for another Python than {sys.version.split()[0]}"
        return reason, f"install it for this one, {again}"
    if built.get("reason"):
        return f"the core was not built: {built['reason']}", f"put that right, then install it {again}"
    return "it was built without the core (USE_NATIVE_MEM=0)", f"install it, with a C compiler at hand, {again}"


def why_pure() -> tuple[str, str] | None:
    """Why this process runs on the pure backend, and what to do about it; None where it does not."""
    settings = Settings.from_env()
    if settings.disable:
        return "NATIVEMEM_DISABLE=1 is set", "leave NATIVEMEM_DISABLE unset"
    if settings.backend == "pure":
        cure = "leave NATIVEMEM_BACKEND unset (a package with the core is installed by USE_NATIVE_MEM=1)"
        return "NATIVEMEM_BACKEND=pure is set", cure
    if _has_core():
        return None
    return missing_core()


def unavailable(what: str) -> Exception:
    """The :class:`NativeUnavailable` that says why ``what``, a noun in the singular, cannot be had."""
    why = why_pure()
    if why is None:  # of a binding to the pure backend in a process that has both
        return errors.NativeUnavailable(f"{what} needs the native core, and this is of the pure backend")
    return errors.NativeUnavailable(
        f"{what} needs the native core, and this process runs on the pure backend: {why[0]}", suggestion=why[1]
    )


def need_native(what: str) -> None:
    """Raises :class:`NativeUnavailable` where ``what`` cannot do without the native backend, and it is another."""
    if select(Settings.from_env().backend) != "native":
        raise unavailable(what)


def native_core(what: str) -> Any:
    """The functions of the core, which it loads. Raises as :func:`need_native`."""
    need_native(what)
    from .native.loader import dataplane

    return dataplane


def need_lock(what: str) -> None:
    """Raises :class:`NativeUnavailable` where an interpreter's threads do not take turns, as ``what`` needs."""
    if is_free_threaded():
        raise errors.NativeUnavailable(
            f"{what}: not on a free-threaded interpreter, whose threads run at the same time",
            suggestion="take the interpreter of that version that has the lock (no t in its name)",
        )
