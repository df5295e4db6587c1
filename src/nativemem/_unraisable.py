"""What an exception becomes that no caller can be given."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

__all__ = ["unraisable"]


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
