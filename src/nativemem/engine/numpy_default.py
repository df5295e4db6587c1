"""Finds NumPy's default memory handler, now or as soon as NumPy is imported (NEP 49)."""

from __future__ import annotations

import sys

from .._lazy import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

#: the module with the C-API table, by its name in NumPy 2 and 1
_UMATH = ("numpy._core._multiarray_umath", "numpy.core._multiarray_umath")
_NEEDS = (1, 22)  # the first release with memory handlers


def module() -> Any:
    """NumPy's module with the C-API table. Raises :class:`NativeUnavailable` for a NumPy without handlers, and for
    one whose import is not done."""
    numpy = sys.modules["numpy"]
    version = getattr(numpy, "__version__", None)
    umath = next((sys.modules[name] for name in _UMATH if name in sys.modules), None)
    if umath is None or version is None:
        raise errors.NativeUnavailable("the import of NumPy is not done", suggestion="install before or after it")
    if tuple(int(part) for part in version.split(".")[:2]) < _NEEDS:
        raise errors.NativeUnavailable(f"NumPy {version} has no memory handlers; 1.22 is the first that has")
    return umath


def imports_under_way() -> dict[str, Any] | None:
    """The import system's own table: the name of each module that is being imported, in whatever thread, with a
    weak reference to the lock that the import holds; the lock's ``owner`` is the thread's number. None where this
    Python keeps none."""
    return getattr(sys.modules.get("_frozen_importlib"), "_module_locks", None)


def hook(put_in: Callable[[Any], None]) -> None:
    """Calls ``put_in(table)`` with NumPy's C-API table, in a context that has no handler of its own.

    So what the C side sees as the current handler is NumPy's default one, which every thread uses that
    has not chosen another. Raises :class:`NativeUnavailable` for a NumPy whose handlers are not those.
    """
    from contextvars import Context  # NumPy has imported it

    try:
        Context().run(put_in, module()._ARRAY_API)
    except RuntimeError as error:  # of C: another version of the handler's structure
        raise errors.NativeUnavailable(str(error)) from None


class WhenImported:
    """A finder that calls ``action`` once NumPy has been imported, and then leaves.

    Asked for a specification it only stands before the loader in it: neither ``importlib.util.find_spec`` nor an
    import that fails ends the waiting.
    """

    def __init__(self, action: Callable[[], None]) -> None:
        self._action = action

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        """Finds what the other finders find; only NumPy's own loader has another before it."""
        if name != "numpy":
            return None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None) if finder is not self else None
            spec = find(name, path, target) if find is not None else None
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):  # not a folder without code
                    spec.loader = _Loader(spec.loader, self._imported)
                return spec
        return None

    def _imported(self) -> None:
        if not self.waits:
            return
        self.leave()
        try:
            self._action()
        except Exception as error:  # an import must not fail for it
            import warnings

            warnings.warn(f"nativemem: arrays stay with NumPy's allocator: {error}", stacklevel=3)

    @property
    def waits(self) -> bool:
        """Whether it is in its place, NumPy not imported yet."""
        return self in sys.meta_path

    def enter(self) -> None:
        """Starts waiting."""
        if not self.waits:
            sys.meta_path.insert(0, self)

    def replace_those_of(self, module: str) -> None:
        """Takes the place of a finder that a class of ``module`` made, if there is one."""
        for at, finder in enumerate(sys.meta_path):
            if type(finder).__module__ == module:
                sys.meta_path[at] = self

    def leave(self) -> None:
        """Stops waiting."""
        if self.waits:
            sys.meta_path.remove(self)


class _Loader:
    """Stands before a loader until it has run its module."""

    def __init__(self, loader: Any, then: Callable[[], None]) -> None:
        self._loader = loader
        self._then = then

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # a copy in the making is asked for those before it has a loader
            raise AttributeError(name)
        return getattr(self._loader, name)

    def create_module(self, spec: Any) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        module.__loader__ = module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._then()
