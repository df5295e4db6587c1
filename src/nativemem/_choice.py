"""Which backend this process has, and this interpreter."""

from __future__ import annotations

import importlib

from ._late import errors
from ._settings import Settings

__all__ = ["in_main_interpreter", "need_native", "select"]


def in_main_interpreter() -> bool:
    """Whether this is the interpreter that the process started with."""
    for name in ("_interpreters", "_xxsubinterpreters"):  # since 3.13, and before
        try:
            interpreters = importlib.import_module(name)
        except ImportError:
            continue
        # each is a number, since 3.13 the first of a tuple
        return bool(interpreters.get_current() == interpreters.get_main())
    return True


def _has_core() -> bool:
    try:
        from . import _load as _load
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == f"{__package__}._core"
        if not missing and in_main_interpreter():
            raise
        return False
    return True


def select(name: str) -> str:
    """The backend that ``name`` stands for: ``auto`` is ``native`` where the extension exists.

    An extension that is there but broken is an error that shows, not a silent change of backend. With the kill
    switch ``NATIVEMEM_DISABLE`` it is ``pure``, where each block comes from the system by itself. In an isolated
    subinterpreter ``auto`` is ``pure``, too: that does not load such extensions.
    """
    if name in ("auto", "native", "pure") and Settings.from_env().disable:
        return "pure"
    if name == "auto":
        return "native" if _has_core() else "pure"
    if name in ("native", "pure"):
        return name
    raise errors.ConfigError(f"backend: takes auto, native or pure, not {errors.shown(name)}")


def need_native(what: str) -> None:
    """Raises :class:`NativeUnavailable` where ``what`` cannot do without the native backend, and it is another."""
    if select(Settings.from_env().backend) != "native":
        raise errors.NativeUnavailable(
            f"{what} needs the native core, and this process runs on the pure backend",
            suggestion="install with USE_NATIVE_MEM=1, and leave NATIVEMEM_BACKEND unset",
        )
