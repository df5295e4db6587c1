"""``nativemem attach PID``: asks a running process for its owners, a profile, a snapshot."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from .files import add_common
from .files import size as size_of

if TYPE_CHECKING:
    import argparse

__all__ = ["HELP", "configure", "execute"]

HELP = "start or stop a profile in a running process, or have it write a snapshot"

_DESCRIPTION = """\
Asks a process that runs on nativemem. It answers if it was started with
NATIVEMEM_CONTROL=FOLDER, gets the signal of NATIVEMEM_CONTROL_SIGNAL, or
called nativemem.observe.control.serve(); on Python 3.14 and later this command
has it begin to, where the system permits that (the same user, and ptrace).
"""
_EXAMPLES = """\
examples:
  nativemem attach 4711                          # owners, limits, profile
  nativemem attach 4711 start -o run.nm          # then: report run.nm
  nativemem attach 4711 stop
  nativemem attach 4711 snapshot now.json        # then: stats, diff

exit code: 0; 1 where the process does not answer or declines; 2 for a mistake
in the command line.
"""
_ACTIONS = ("status", "start", "stop", "snapshot")


def configure(parser: argparse.ArgumentParser) -> None:
    """Gives the parser of this command its options."""
    from .processes import add_process, pid

    add_common(parser, _DESCRIPTION, _EXAMPLES)
    parser.add_argument("pid", type=pid, metavar="PID")
    parser.add_argument("action", nargs="?", choices=_ACTIONS, default="status", help="status, where none is given")
    parser.add_argument("file", nargs="?", metavar="FILE", help="of a snapshot")
    parser.add_argument("-o", dest="output", metavar="FILE", help="of a profile (nativemem-PID.nm)")
    parser.add_argument("--rate", type=size_of, metavar="RATE", help="bytes between a profile's samples (512KiB)")
    add_process(parser)


def _profile(state: dict[str, Any] | None) -> str:
    if state is None:
        return "no profile runs"
    where = state["path"] or "memory"
    return f"a profile goes to {where}: {state['samples']:,} samples, one in {state['rate']:,} bytes"


def execute(parser: argparse.ArgumentParser, argv: list[str]) -> int:
    """Runs the command line after ``attach``."""
    from .output import say
    from .processes import Unreachable, ask

    options = parser.parse_args(argv)
    starts = options.action == "start"
    if not starts and (options.output is not None or options.rate is not None):
        parser.error("-o and --rate are for start")
    if (options.file is not None) != (options.action == "snapshot"):
        parser.error("name a file after snapshot, and after nothing else")
    try:
        if options.action == "status":
            say(_status(options.pid, options.socket))
        elif starts:
            path = os.path.abspath(options.output or f"nativemem-{options.pid}.nm")
            more = {} if options.rate is None else {"rate": options.rate}
            answer = ask(options.pid, options.socket, do="start", path=path, **more)
            say(_profile(answer["profile"]) + "\n")
        elif options.action == "stop":
            state = ask(options.pid, options.socket, do="stop")["profile"]
            if state is None:
                print(f"nativemem attach: process {options.pid}: no profile runs", file=sys.stderr)
                return 1
            say(f"{state['path'] or 'memory'}: {state['samples']:,} samples\n")
        else:
            answer = ask(options.pid, options.socket, do="save", path=os.path.abspath(options.file))
            say(f"{answer['path']}\n")
    except Unreachable as error:
        print(f"nativemem attach: {error}", file=sys.stderr)
        return 1
    return 0


def _status(pid: int, socket: str | None) -> str:
    from ..observe.snapshot import Snapshot
    from .processes import ask
    from .view import text_of

    state = ask(pid, socket, do="status")["profile"]
    taken = Snapshot.from_dict(ask(pid, socket, do="snapshot"))
    return f"{text_of(taken)}{_profile(state)}\n"
