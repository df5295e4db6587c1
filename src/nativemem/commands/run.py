"""``nativemem run``: becomes the interpreter that runs the program, with the engine from its start on.

The program is run by ``python`` itself, with its own command line, so whatever that does is as it is without
nativemem. The start-up file beside the package puts the engine under it (:mod:`nativemem.engine.startup`); where
the interpreter does not read that, :mod:`nativemem.commands.start` takes its place.
"""

from __future__ import annotations

import os
import stat
import sys

from .._folder import PACKAGE
from ..engine.startup import AUTOINSTALL, pack
from ..settings import RUN, Settings
from ..sizes import parse_size
from ..units import LEAST_OVER_HELD
from .files import seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import NoReturn

__all__ = ["HELP", "configure", "execute", "letters_of", "options_of_this", "split", "start_up_files"]

HELP = "run a program on the engine and say what it used"

_DESCRIPTION = """\
Runs a Python program with the engine under its objects and NumPy arrays; at
the end says on stderr what it used. PROGRAM and its arguments are what python
would be given: a script, folder, zip file or .pyc, -m MODULE, -c COMMAND, or -
for standard input. Options of python's may stand before it, as -X dev or -W
error.
"""

_EXAMPLES = """\
examples:
  nativemem run script.py --its --arguments
  nativemem run --budget 512MiB script.py
  nativemem run --profile script.py            # writes nativemem-PID.nm
  nativemem run --profile=64KiB -o run.nm -m package
  nativemem run --live --budget 4GiB script.py # what it has, each second
  nativemem run -X dev --summary numbers.json -m json.tool data.json

exit code: the program's own, or its signal; 2 for a mistake in the command
line; 3 when the program ended with a MemoryError because of the budget.
"""

#: python's options of one letter: those that stand alone, those with a value, those after which the program stands
_ALONE, _WITH_VALUE, _PROGRAM = "bBdEiIOPqRsStuvVx", "WX", "cm"
_LONG_WITH_VALUE = ("--check-hash-based-pycs",)
#: python answers these by itself
_ANSWERED = ("--help-env", "--help-xoptions", "--help-all")
_OWN_WITH_VALUE = ("--budget", "--summary", "-o")
#: how long, in ms, something that is piped into the command may take to begin
_PATIENCE = 1000


class _Mistake(Exception):
    """In the command line; the message is for the parser."""


class _Words:
    """A command line, taken apart. ``own``: for this command's parser; ``options``: for the interpreter; ``kind``:
    ``file``, ``c`` or ``m``, None where there is no program; ``program``: what python is given after its options.
    Its first word may have some more of them before the ``c`` or ``m``; ``last`` is those."""

    def __init__(self) -> None:
        self.own: list[str] = []
        self.options: list[str] = []
        self.kind: str | None = None
        self.program: list[str] = []
        self.last: list[str] = []

    def letters(self) -> set[str]:
        """The interpreter's options of one letter."""
        return letters_of([*self.options, *self.last])

    def apart(self) -> list[str]:
        """``program`` with ``-c`` or ``-m`` as a word of its own, and without ``last``."""
        if self.kind not in ("c", "m"):
            return self.program
        _, _, what = self.program[0].partition(self.kind)
        return [f"-{self.kind}", *([what] if what else []), *self.program[1:]]


def letters_of(options: list[str]) -> set[str]:
    """The interpreter's options of one letter that are in ``options``."""
    found = set()
    for option in options:
        if option[:1] == "-" and option[1:2] not in ("-", ""):
            for letter in option[1:]:
                found.add(letter)
                if letter in _WITH_VALUE:
                    break
    return found


def split(argv: list[str]) -> _Words:
    """Takes ``argv`` apart as the interpreter does. Raises `_Mistake` for an option that it does not have.

    argparse has no way to leave the program's words alone: it takes a ``--`` out of them.
    """
    words, rest = _Words(), list(argv)
    while rest:
        word = rest[0]
        if word in ("-", "--") or not word.startswith("-"):
            if rest != ["--"]:
                words.kind, words.program = "file", rest
            break
        del rest[0]
        if word.startswith(("--", "-o")) or word == "-h":
            if word in _ANSWERED or word in _LONG_WITH_VALUE:
                words.options.append(word)
                if word in _LONG_WITH_VALUE and rest:
                    words.options.append(rest.pop(0))
            else:
                words.own.append(word)
                if word in _OWN_WITH_VALUE and rest:
                    words.own.append(rest.pop(0))
            continue
        for i, letter in enumerate(word[1:], start=1):
            if letter in _PROGRAM:
                what = word[i + 1 :]
                if not what and not rest:
                    noun = "a module" if letter == "m" else "a command"
                    raise _Mistake(f"-{letter}: give {noun}, as to python")
                words.kind, words.program = letter, [word, *rest]
                words.last = [word[:i]] if i > 1 else []
                return words
            if letter in _WITH_VALUE:
                words.options.append(word)
                if i == len(word) - 1:
                    if not rest:
                        raise _Mistake(f"-{letter}: give a value, as to python")
                    words.options.append(rest.pop(0))
                break
            if letter not in _ALONE:
                raise _Mistake(f"there is no option -{letter}, here or of python's")
        else:
            words.options.append(word)
    return words


def options_of_this() -> list[str]:
    """The interpreter's options under ``python OPTIONS -m nativemem``. What stands in the first line of a script
    ``nativemem`` is not meant for the program."""
    try:
        words = split(sys.orig_argv[1:])
    except _Mistake:
        return []
    module = words.apart()[1:2] if words.kind == "m" else []
    return [*words.options, *words.last] if module == ["nativemem"] else []


def _stdin_is_program() -> bool:
    """Whether standard input is a file, or something comes through a pipe: no program is named, as in
    ``nativemem run < script.py``. A terminal, or a pipe in which nothing comes, is a mistake."""
    try:
        mode = os.fstat(0).st_mode
    except OSError:
        return False
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        return stat.S_ISREG(mode)
    try:
        from select import POLLIN, poll
    except ImportError:
        return False
    ready = poll()
    ready.register(0, POLLIN)
    return any(events & POLLIN for _, events in ready.poll(_PATIENCE))


def _root() -> str:
    """The folder from which the package is imported."""
    return os.path.dirname(os.path.dirname(PACKAGE))


def start_up_files(letters: set[str]) -> list[str]:
    """The start-up files that an interpreter with these options reads; the first is the one that counts."""
    if "S" in letters:
        return []
    import site

    folders = list(site.getsitepackages())
    if site.ENABLE_USER_SITE and not letters & {"s", "I"}:
        folders.append(site.getusersitepackages())
    # 3.15 brought the one (PEP 829), 3.18 no longer runs the lines of the other
    kinds = ["start"] * (sys.version_info >= (3, 15)) + ["pth"] * (sys.version_info < (3, 18))
    names = [os.path.join(folder, f"nativemem_autoinstall.{kind}") for folder in folders for kind in kinds]
    return [name for name in names if os.path.isfile(name)]


#: Before it anything of the program's folder could be imported instead of what this needs: that is taken from the
#: path meanwhile. It leaves no name in `__main__`.
_INSTEAD = """\
import sys
path = sys.path[:]
sys.path[:] = [*path[path[:1] == [""]:], {root!r}]
try:  # where no interpreter puts off an import
    import nativemem.auto
    from nativemem.commands.start import start
finally:
    sys.path[:] = path
start()
"""


def _environment() -> dict[str, str]:
    """As the process was given it: where the locale is C, the interpreter has put LC_CTYPE into its own."""
    env = dict(os.environ)
    if env.get("LC_CTYPE", "").lower() in ("c.utf-8", "c.utf8", "utf-8"):
        try:
            with open("/proc/self/environ", "rb") as file:
                given = file.read().split(b"\0")
        except OSError:
            return env
        if not any(each.startswith(b"LC_CTYPE=") for each in given):
            del env["LC_CTYPE"]
    return env


def _become(command: list[str], env: dict[str, str]) -> int:
    """Runs the interpreter in this process. Returns only where a system cannot do that: its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    if os.name == "nt":  # exec starts another process there, and this one's parent would not wait for it
        return os.spawnve(os.P_WAIT, command[0], command, env)
    os.execve(command[0], command, env)


def configure(parser: argparse.ArgumentParser) -> None:
    """Gives the parser of this command its options."""
    import argparse

    def size(text: str) -> int:
        from .._lazy import errors

        try:
            return parse_size(text, "it", least=1)
        except errors.InvalidLayout as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    parser.description = _DESCRIPTION
    parser.epilog = _EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    own = f"[--budget SIZE] [--profile[=RATE]] [-o FILE]\n{' ' * 21}[--summary FILE] [--live[=SECONDS]]"
    parser.usage = f"nativemem run {own}\n{' ' * 21}[options of python's] PROGRAM ..."
    parser.add_argument(
        "--budget",
        type=size,
        metavar="SIZE",
        help="most memory that the engine may hold, such as 512MiB; beyond it the program gets MemoryError",
    )
    parser.add_argument(
        "--profile",
        type=size,
        nargs="?",
        const=Settings.profile_rate,
        metavar="=RATE",
        help="write a profile of the memory, with a sample in each RATE bytes in the mean (512KiB; 1: each block)",
    )
    parser.add_argument(
        "-o",
        dest="output",
        metavar="FILE",
        help="where the profile goes (nativemem-PID.nm; %%p in it is the process's number); without --profile the "
        "summary, as JSON",
    )
    parser.add_argument("--summary", metavar="FILE", help="write the summary as JSON")
    parser.add_argument(
        "--live",
        type=seconds,
        nargs="?",
        const=0.0,
        metavar="=SECONDS",
        help="show on stderr how long the program has run, what is resident, and the most that was: each second in "
        "a terminal, as a line that is written over, else each 10 s",
    )


def execute(parser: argparse.ArgumentParser, argv: list[str]) -> int:
    """Runs the command line after ``run``. Returns only where it must, see `_become`; mistakes end in the parser's
    ``error``."""

    def mistake(text: str) -> NoReturn:
        parser.error(text)
        raise AssertionError("the parser has exited")

    try:
        words = split(argv)
    except _Mistake as error:
        mistake(str(error))
    options = parser.parse_args(words.own)
    budget, rate = options.budget, options.profile
    if options.output and options.summary and rate is None:
        mistake("-o: the summary has a file already, and there is no --profile")
    recording, summary = (
        (options.output, options.summary) if rate is not None else (None, options.summary or options.output)
    )
    if budget is not None and budget < LEAST_OVER_HELD:
        needs = f"an interpreter needs more than {LEAST_OVER_HELD}; a number and its unit are one word, as 64MiB"
        mistake(f"--budget: {budget} bytes is too little; {needs}")
    if not sys.executable:
        mistake("this interpreter does not know its own file (sys.executable), so it cannot be started again")
    words.options[:0] = options_of_this()
    letters = words.letters()
    by_itself = letters & {"i", "V"} or set(_ANSWERED) & set(words.options)
    if words.kind is None and not by_itself and not _stdin_is_program():
        mistake("name a program: a script, -m MODULE, -c COMMAND, or - for standard input")
    try:
        recording = recording and os.path.abspath(recording)
        summary = summary and os.path.abspath(summary)
    except OSError as error:
        mistake(f"-o: the folder that {recording or summary!r} is in is not there: {error.strerror}")
    env = _environment()
    env[RUN] = pack(budget, summary, env.get(AUTOINSTALL), rate, recording)
    env[AUTOINSTALL] = "1"
    command = [sys.executable, *words.options]
    if start_up_files(letters):
        command += words.program
    else:
        instead = f"exec({_INSTEAD.format(root=_root())!r}, dict(__name__=__name__))"
        command += [*words.last, "-c", instead, words.kind or "", *words.apart()]
    if options.live is not None and not by_itself:
        from . import live

        lacking = live.missing()
        if lacking is not None:
            mistake(f"--live: there is no {lacking} here")
        live.begin(options.live or None)
    try:
        return _become(command, env)
    except OSError as error:
        mistake(f"{sys.executable} does not start: {error.strerror}")
