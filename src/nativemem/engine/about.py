"""What a recording says of its process.

Called in the program's own process, so it imports nothing that a program would notice.
"""

from __future__ import annotations

import os
import sys

from .._version import __version__

__all__ = ["about", "shell_word"]

_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789@%+=:,./-_")


def shell_word(text: str) -> str:
    """As a shell takes it; `shlex` brings the regular expressions."""
    return text if text and set(text) <= _PLAIN else "'" + text.replace("'", "'\"'\"'") + "'"


def about() -> tuple[str, ...]:
    """Names and texts in turn: the command line, the folder that it was given in, the Python, the system, the
    version of nativemem. Any thread."""
    try:
        folder = os.getcwd()
    except OSError:  # it is gone
        folder = ""
    system = os.uname()
    python = ".".join(map(str, sys.version_info[:3])) + sys.abiflags
    return (
        *("command", " ".join(map(shell_word, sys.orig_argv))),
        *("folder", folder),
        *("python", f"{sys.implementation.name} {python}"),
        *("system", f"{system.sysname} {system.release} {system.machine}, {os.cpu_count()} CPUs"),
        *("nativemem", __version__),
    )
