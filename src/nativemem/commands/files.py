"""What the commands that read files have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from ..observe.recording import Recording

__all__ = ["add_common", "opened", "seconds", "size"]


def add_common(parser: argparse.ArgumentParser, description: str, examples: str) -> None:
    """Gives a parser its texts, as they are."""
    import argparse

    parser.description = description
    parser.epilog = examples
    parser.formatter_class = argparse.RawDescriptionHelpFormatter


def opened(parser: argparse.ArgumentParser, file: str) -> Recording:
    """What ``file`` holds. A file that will not do ends in the parser's ``error``, in one line."""
    from ..errors import ConfigError
    from ..observe.report.loading import load
    from ..observe.report.wording import clean

    try:
        return load(file)
    except OSError as error:
        parser.error(f"{clean(file)}: {error.strerror or error}")
    except ValueError as error:
        reason = str(error).partition("\n")[0] if isinstance(error, ConfigError) else "is no name of a file"
        parser.error(clean(f"{file}: {reason.partition(file)[2].strip() or reason}"))
    raise AssertionError("the parser has exited")


def size(text: str) -> int:
    """An argument that is a size, such as ``64KiB``, or a number of rows."""
    import argparse

    from ..errors import InvalidLayout
    from ..sizes import parse_size

    try:
        return parse_size(text, "it")
    except InvalidLayout as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def seconds(text: str) -> float:
    """An argument that is a time between two looks."""
    import argparse

    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.05 <= value <= 86400:
        raise argparse.ArgumentTypeError(f"{text!r}: takes 0.05 to 86400 seconds")
    return value
