"""What an exception becomes that no caller can be given."""

from __future__ import annotations

import functools
import sys
from types import SimpleNamespace, TracebackType
from typing import Any

__all__ = ["is_of_a_signal", "unraisable"]


def is_of_a_signal(traceback: TracebackType | None) -> bool:
    """Whether a handler of a signal raised it, wherever that came: it is for the code that was interrupted, not for
    what we happened to run there. The traceback of such an error goes through the handler."""
    import signal  # not at the start: few programs come here

    codes = set()
    for number in signal.valid_signals():
        handler = signal.getsignal(number)
        while isinstance(handler, functools.partial):
            handler = handler.func
        called = handler if hasattr(handler, "__code__") or hasattr(handler, "__func__") else type(handler).__call__
        codes.add(getattr(getattr(called, "__func__", called), "__code__", None))
    codes.discard(None)
    while traceback is not None:
        if traceback.tb_frame.f_code in codes:
            return True
        traceback = traceback.tb_next
    return False


def unraisable(message: str, thing: Any) -> None:
    """Reports the exception that is being handled to ``sys.unraisablehook``."""
    error: Any = sys.exc_info()
    # The hook's argument has no public constructor. A class of our own would be a cycle, and keep what the frames
    # have.
    argument: Any = SimpleNamespace(
        exc_type=error[0],
        exc_value=error[1],
        exc_traceback=error[2],
        err_msg=message,
        object=thing,
    )
    hook = sys.unraisablehook
    if hook is not sys.__unraisablehook__:
        try:
            hook(argument)
            return
        except TypeError:
            pass  # it passes on to the default one, which takes nothing but its own
    if sys.stderr is not None:
        print(f"{message}: {thing!r}", file=sys.stderr)
        sys.__excepthook__(*error)
