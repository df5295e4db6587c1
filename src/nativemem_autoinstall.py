"""What the start-up files call: it puts the engine under this process where NATIVEMEM_AUTOINSTALL asks for it.

Interpreters up to 3.17 run the line of ``nativemem_autoinstall.pth``; from 3.15 on they call what
``nativemem_autoinstall.start`` names (PEP 829), and pass over the line where that file stands beside it. Those come
here at each start, so nothing else is imported before the variable was looked at.

With that variable alone, or with ``NATIVEMEM_LIMIT`` beside it, the core is all that is loaded: of the package's
modules none. Everything else, and every case that goes wrong, is for ``nativemem.auto``, which does the same with
all of the settings and says what is wrong. So nothing is imported here that a started interpreter does not have
already, `__future__` neither.

pytest is not to warn that this is imported already when it looks for what to rewrite: PYTEST_DONT_REWRITE.
"""

import _signal  # type: ignore[import-not-found]  # what `signal` has it from, without enum
import os
import sys

# as `importlib` has them, without the rest of that
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import ExtensionFileLoader, SourceFileLoader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: what a start reads beside NATIVEMEM_AUTOINSTALL and NATIVEMEM_LIMIT: where one is set, `nativemem.auto` does it
OTHERS = (
    "_NATIVEMEM_RUN",
    "NATIVEMEM_ALLOC_HISTO",
    "NATIVEMEM_ARENA_CAP",
    "NATIVEMEM_ARENA_HINT",
    "NATIVEMEM_BACKEND",
    "NATIVEMEM_CONTROL",
    "NATIVEMEM_CONTROL_SIGNAL",
    "NATIVEMEM_DISABLE",
    "NATIVEMEM_IDLE_DECAY",
    "NATIVEMEM_MANAGER",
    "NATIVEMEM_PROFILE",
    "NATIVEMEM_PROFILE_RATE",
    "NATIVEMEM_PROVIDER",
    "NATIVEMEM_SECURE",
    "NATIVEMEM_TEST_OOM_N",
)


def start() -> None:
    """Does what ``import nativemem.auto`` does, where ``NATIVEMEM_AUTOINSTALL`` is set and not 0. In a
    subinterpreter it does nothing: the engine is the process's, and the import would cost each of them."""
    asked = os.environ.get("NATIVEMEM_AUTOINSTALL", "0")
    if asked == "0":
        return
    if sys.implementation.name == "cpython":
        if not _in_main_interpreter():
            return
        try:
            if asked == "1" and {*map(os.environ.get, OTHERS)} == {None} and _started():
                return
        except (ImportError, MemoryError, OSError):
            pass  # nativemem.auto meets it again, and says it
    import nativemem.auto  # noqa: F401


def _in_main_interpreter() -> bool:
    """The module that tells it exactly takes as long to load as the core. It is asked where this is not the main
    thread of the main interpreter, which alone may set signal handlers; None is none."""
    try:
        _signal.signal(_signal.SIGINT, None)
    except TypeError:
        return True
    except ValueError:
        pass
    interpreters = __import__("_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters")
    return bool(interpreters.get_current() == interpreters.get_main())


def _started() -> bool:
    """Whether the engine is under the interpreter now, with the limit that is asked for, by the steps of
    `nativemem.engine.install`; False where one of them was declined."""
    finders: list[Any] = sys.meta_path
    if _awaited in finders:  # the folder was added twice
        return True
    if "t" in getattr(sys, "abiflags", "") or "numpy" in sys.modules:
        return False
    if "nativemem.engine.install" in sys.modules:  # its finder waits already: the two would ask each other for ever
        return False
    package = _folder()
    if package is None:
        return False
    machine = _alone(os.path.join(package, "backends", "machine.py"))
    asked = os.environ.get("NATIVEMEM_LIMIT")
    units = None if asked is None else _alone(os.path.join(package, "units.py"))
    limit = None if units is None else units["bytes_of"](asked)
    core = _core(package)
    if core.insides_check() is not None:
        return False
    if core.region_size() == 0 and not core.region_init(*machine["region_for"]()):
        return False
    if not core.engine_start(False) or core.engine_stranger(True, False) is not None:
        return False
    if units is not None:
        least = core.engine_budget()[0] + units["LEAST_OVER_HELD"]
        if limit is None or not least <= limit <= units["SIZE_MAX"]:
            return False
        core.engine_set_limit(limit, units["reserve_of"](limit))
    finders.insert(0, _awaited)
    core.engine_catch_strays()
    core.engine_objects(True)
    return True


def _folder() -> "str | None":
    """The folder of the package that an import would find; None where that is in none, or nowhere."""
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        spec = find("nativemem", None) if find is not None else None
        if spec is not None:
            return next(iter(spec.submodule_search_locations or ()), None)
    return None


def _alone(path: str) -> "dict[str, Any]":
    """What a module of the package defines that imports none of the others: it is run without them."""
    names: dict[str, Any] = {"__name__": "nativemem_autoinstall.alone", "__file__": path}
    code: Any = SourceFileLoader(names["__name__"], path).get_code(names["__name__"])
    exec(code, names)
    return names


def _core(package: str) -> "Any":
    """As `nativemem.backends.native.loader` loads it, which finds it there from then on."""
    from _imp import extension_suffixes

    name, path = "nativemem._dataplane", os.path.join(package, f"_core{extension_suffixes()[0]}")
    if name in sys.modules:
        return sys.modules[name]
    loader = ExtensionFileLoader(name, path)
    spec = ModuleSpec(name, loader, origin=path)
    module = loader.create_module(spec)
    module.__loader__, module.__spec__ = loader, spec
    loader.exec_module(module)
    sys.modules[name] = module
    return module


class _NumPyAwaited:
    """Stands among the finders for the one of `nativemem.engine.install`, which takes its place when it is
    imported: with the import of NumPy at the latest, and for that."""

    def find_spec(self, name: str, path: object, target: object = None) -> object:
        """None but for ``numpy``, which the other finders find."""
        if name != "numpy":
            return None
        install = "nativemem.engine.install"
        try:
            __import__(install)
        except Exception as error:  # an import must not fail for it
            if install not in sys.modules:
                import warnings

                warnings.warn(f"nativemem: arrays stay with NumPy's allocator: {error}", stacklevel=3)
                return None
            # a variable that the program has set is bad: it is said where it is read next
        return sys.modules[install].numpy_awaited.find_spec(name, path, target)


_awaited = _NumPyAwaited()
