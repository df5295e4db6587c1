"""What the start-up files call: it puts the engine under this process where NATIVEMEM_AUTOINSTALL asks for it.

Interpreters up to 3.17 run the line of ``nativemem_autoinstall.pth``; from 3.15 on they call what
``nativemem_autoinstall.start`` names (PEP 829), and pass over the line where that file stands beside it. Those come
here at each start, so nothing else is imported before the variable was looked at.

pytest is not to warn that this is imported already when it looks for what to rewrite: PYTEST_DONT_REWRITE.
"""

from __future__ import annotations

import os
import sys


def start() -> None:
    """Does what ``import nativemem.auto`` does, where ``NATIVEMEM_AUTOINSTALL`` is set and not 0. In a
    subinterpreter it does nothing: the engine is the process's, and the import would cost each of them."""
    if os.environ.get("NATIVEMEM_AUTOINSTALL", "0") == "0":
        return
    if sys.implementation.name == "cpython":
        interpreters = __import__("_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters")
        if interpreters.get_current() != interpreters.get_main():
            return
    import nativemem.auto  # noqa: F401
