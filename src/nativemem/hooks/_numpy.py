"""Finds NumPy's default memory handler, now or as soon as NumPy is imported (NEP 49)."""

from __future__ import annotations

import sys
import warnings

from ..errors import NativeUnavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

#: the module with the C-API table, by its name in NumPy 2 and 1
_UMATH = ("numpy._core._multiarray_umath", "numpy.core._multiarray_umath")
_NEEDS = (1, 22)  # the first release with memory handlers


def module() -> Any:
    """NumPy's module with the C-API table. Raises :class:`NativeUnavailable` for a NumPy without handlers."""
    numpy = sys.modules["numpy"]
    if tuple(int(part) for part in numpy.__version__.split(".")[:2]) < _NEEDS:
        raise NativeUnavailable(f"NumPy {numpy.__version__} has no memory handlers; 1.22 is the first that has")
    return next(sys.modules[name] for name in _UMATH if name in sys.modules)


def hook(put_in: Callable[[Any], None]) -> None:
    """Calls ``put_in(table)`` with NumPy's C-API table, in a context that has no handler of its own.

    So what the C side sees as the current handler is NumPy's default one, which every thread uses that
    has not chosen another. Raises :class:`NativeUnavailable` for a NumPy without handlers.
    """
    from contextvars import Context  # NumPy has imported it

    Context().run(put_in, module()._ARRAY_API)


class WhenImported:
    """A finder that calls ``action`` once the import of NumPy is done, and then leaves."""

    def __init__(self, action: Callable[[], None]) -> None:
        self._action = action

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        """Finds what the other finders find; only NumPy's own loader is given something more to do."""
        if name != "numpy":
            return None
        self.leave()
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            spec = find(name, path, target) if find is not None else None
            if spec is not None:
                break
        else:
            return None
        loader = spec.loader
        plain = loader.exec_module

        def exec_module(module: Any) -> None:
            plain(module)
            try:
                self._action()
            except Exception as error:  # an import must not fail for it
                warnings.warn(f"nativemem: arrays stay with NumPy's allocator: {error}", stacklevel=2)

        loader.exec_module = exec_module
        return spec

    def enter(self) -> None:
        """Starts waiting."""
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)

    def leave(self) -> None:
        """Stops waiting."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
