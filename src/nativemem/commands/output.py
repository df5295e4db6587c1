"""How the commands write: to standard output as it is, or to a file."""

from __future__ import annotations

import os
import sys

__all__ = ["Unwritten", "is_terminal", "say", "write"]


class Unwritten(OSError):
    """Standard output cannot be written: the disk is full, for instance."""


def is_terminal() -> bool:
    """Whether standard output is one that shows more than plain text."""
    return sys.stdout is not None and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def say(text: str | bytes) -> bool:
    """Prints ``text`` whatever standard output can show. Returns False where nothing reads it any more. Raises
    :class:`Unwritten` where it cannot be written."""
    out = sys.stdout
    if out is None:
        return False
    try:
        if isinstance(text, bytes):
            out.flush()
            out.buffer.write(text)
        else:
            encoding = getattr(out, "encoding", None) or "utf-8"
            out.write(text.encode(encoding, "backslashreplace").decode(encoding))
        out.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())  # the interpreter would complain at its end
        if not isinstance(error, BrokenPipeError):
            raise Unwritten(error.errno, error.strerror) from None
        return False
    return True


def write(text: str | bytes, file: str | None) -> None:
    """Writes ``text`` to ``file``; None or ``-``: standard output. Raises OSError."""
    if file is None or file == "-":
        say(text)
        return
    data = text if isinstance(text, bytes) else text.encode("utf-8", "backslashreplace")
    with open(file, "wb") as opened:
        opened.write(data)
