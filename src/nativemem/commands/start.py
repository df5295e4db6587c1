"""Runs a program where the interpreter reads no start-up file: under ``-S``, and where the package has none.

``nativemem run`` gives the interpreter a ``-c`` command then, which comes here once the engine is on. What runs the
program is the interpreter's own code, in the interpreter's own ``__main__``: the functions that ``python`` calls.
The command's frames stand below the program's.
"""

from __future__ import annotations

import ctypes
import os
import runpy  # noqa: F401  # before the program can put another in its place
import sys

from .._lazy import import_what_was_put_off
from .run import split

__all__ = ["start"]

#: of PyCompilerFlags: the command is decoded already
_IGNORE_COOKIE = 0x0800


class _CompilerFlags(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_int), ("feature_version", ctypes.c_int)]


def _call(name: str, *args: object) -> bool:
    """Whether a function of the interpreter's that runs code ended in an exception; it has shown that. One that is
    left by SystemExit does not return."""
    function = ctypes.pythonapi[name]
    function.restype = ctypes.c_int
    return bool(function(*args))


def _file_at(function: str, *args: object) -> ctypes.c_void_p | None:
    library = ctypes.CDLL(None, use_errno=True)
    opener = library[function]
    opener.restype = ctypes.c_void_p
    found = opener(*args)
    return None if found is None else ctypes.c_void_p(found)


def _flags(flags: int = 0) -> object:
    return ctypes.byref(_CompilerFlags(flags, sys.version_info.minor))


def _before_all(folder: str) -> None:
    """Puts ``folder`` first on the path, in place of what ``-c`` has put there."""
    if sys.path[:1] == [""]:
        sys.path[0] = folder


def _run_command(command: str) -> bool:
    return _call("PyRun_SimpleStringFlags", ctypes.c_char_p(os.fsencode(command + "\n")), _flags(_IGNORE_COOKIE))


def _dedented(text: str) -> str:
    """As python does it with a command since 3.14, which has no name for others to call; textwrap brings much."""
    lines = [line if line.strip(" \t") else "" for line in text.split("\n")]
    margins = [line[: len(line) - len(line.lstrip(" \t"))] for line in lines if line]
    least, most = min(margins, default=""), max(margins, default="")
    same = next((i for i, char in enumerate(least) if most[i] != char), len(least))
    return "\n".join(line[same:] for line in lines)


def _given_command(text: str) -> bool:
    if sys.version_info >= (3, 14):
        text = _dedented(text)
    # Tracebacks show a command's lines since 3.13. Those of the one that came here are under the same name.
    register = getattr(sys.modules.get("linecache"), "_register_code", None)
    if register is not None:
        register(compile("", "<string>", "exec"), text, "<string>")
    return _run_command(text)


def _run_stdin() -> bool:
    if sys.flags.interactive:  # the command itself goes on with that
        if not sys.flags.quiet:
            print(f"Python {sys.version} on {sys.platform}", file=sys.stderr)
            if not sys.flags.no_site:
                print('Type "help", "copyright", "credits" or "license" for more information.', file=sys.stderr)
        return False
    stdin = ctypes.c_void_p.in_dll(ctypes.CDLL(None), "stdin")
    return _call("PyRun_AnyFileExFlags", stdin, ctypes.c_char_p(b"<stdin>"), 0, _flags())


def _run_file(name: str, skip_first_line: bool) -> bool:
    path = os.path.abspath(name)
    get_importer = ctypes.pythonapi.PyImport_GetImporter
    get_importer.restype = ctypes.py_object
    if get_importer(ctypes.py_object(path)) is not None:  # a folder or a zip file
        if sys.path[:1] == [""]:
            del sys.path[0]
        sys.path.insert(0, path)
        return _run_command("__import__('runpy')._run_module_as_main('__main__', False)")
    _before_all(os.path.dirname(os.path.realpath(name)))
    if os.path.isdir(path):
        print(f"{sys.executable}: {path!r} is a directory, cannot continue", file=sys.stderr)
        raise SystemExit(1)
    file = _file_at("fopen", ctypes.c_char_p(os.fsencode(path)), ctypes.c_char_p(b"rbe"))
    if file is None:
        number = ctypes.get_errno()
        text = f"{sys.executable}: can't open file {path!r}: [Errno {number}] {os.strerror(number)}"
        print(text, file=sys.stderr)
        raise SystemExit(2)
    if skip_first_line:
        library = ctypes.CDLL(None)
        character = 0
        while character not in (-1, 0x0A):
            character = library.getc(file)
        library.ungetc(character, file)
    return _call("PyRun_AnyFileExFlags", file, ctypes.c_char_p(os.fsencode(path)), 1, _flags())


def start() -> None:
    """Runs the program that ``sys.argv`` has: its kind, and python's words for it."""
    import_what_was_put_off()
    _, kind, *words = sys.argv
    given = sys.orig_argv[: len(sys.orig_argv) - len(words) - 3]
    sys.orig_argv[:] = [*given, *words]
    if words[:1] == ["--"]:
        del words[0]
    sys.argv[:] = words or [""]
    if kind in ("c", "m"):
        what = words[1]
        sys.argv[:2] = [words[0]]
    if kind == "m":
        _before_all(os.getcwd())
        failed = _run_command(f"__import__('runpy')._run_module_as_main({what!r})")
    elif kind == "c":
        failed = _given_command(what)
    elif not words or words[0] == "-":
        failed = _run_stdin()
    else:
        failed = _run_file(words[0], "x" in split(given[1:]).letters())
    # The interpreter has kept an interrupt, and ends by the signal if this returns; it goes on with a terminal.
    goes_on = sys.flags.inspect and (sys.flags.interactive or os.isatty(0))
    if failed and not goes_on and type(getattr(sys, "last_value", None)) is not KeyboardInterrupt:
        ctypes.pythonapi.Py_Exit(1)  # SystemExit would be shown where an inspection was asked for
