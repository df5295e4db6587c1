"""``nativemem doctor``: what works for the interpreter at hand, what is declined and why, and what to do.

What may go wrong is tried out in a process of its own (:mod:`nativemem.commands.probes`), with the options that
this interpreter was given: should that crash or hang, a line says so.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from .._folder import PACKAGE
from .._version import __version__
from ..backends.machine import limits, machine_memory, memory
from ..backends.selection import build
from ..errors import ConfigError
from ..settings import RUN, Settings
from ..sizes import format_size
from .output import say
from .probes import DECLINED, OFF, PROBES, WORKS, Row, guarded
from .run import letters_of, options_of_this, start_up_files

if TYPE_CHECKING:
    import argparse

__all__ = ["HELP", "configure", "execute"]

HELP = "say what works here, what does not and why"

_DESCRIPTION = """\
Says for the interpreter that runs it what of nativemem works, what is
declined and why, and what to do. It tries things out, in processes of its
own, and changes nothing.
"""

_EXAMPLES = """\
examples:
  nativemem doctor
  python3.13 -X dev -m nativemem doctor
  nativemem doctor --json

exit code: 0, or 1 where something is declined; 2 for a mistake in the command
line. What is off is not declined: it was not asked for, or there is nothing
that it would serve.
"""

_SHOWN = (
    *(
        "kill switch",
        "core",
        "backend",
        "blocks",
        "insides",
        "engine",
        "arrays",
        "scopes",
        "deferred errors",
        "raw domain",
    ),
    *("debug hooks", "free-threaded", "C API", "nativemem run", "start-up file"),
    *("huge pages", "address limit", "cgroup limit"),
)
_WIDTH = 80
#: seconds, for a probe that hangs
_PATIENCE = 30
#: what an environment asks for at the start, and what makes allocations fail: the probes do without
_NOT_FOR_PROBES = (
    RUN,
    "NATIVEMEM_AUTOINSTALL",
    "NATIVEMEM_LIMIT",
    "NATIVEMEM_TEST_OOM_N",
    "NATIVEMEM_ALLOC_HISTO",
)
_CHILD = """\
import sys
sys.path[:] = [*sys.path[sys.path[:1] == [""]:], {root!r}]
from nativemem.commands.probes import run
run(sys.argv[1:])
"""


# --- the environment, and what the probes are given of it ---


def _bad_variables(env: dict[str, str]) -> dict[str, str]:
    """What is wrong with the variables of ``env``, each of which it takes out."""
    found: dict[str, str] = {}
    while True:
        try:
            Settings.from_env(env)
            return found
        except ConfigError as error:
            name = str(error).split(":")[0].split()[0]
            if env.pop(name, None) is None:  # it did not begin with the name: all that it may be
                name = "environment"
                for each in [each for each in env if each.startswith("NATIVEMEM_")]:
                    del env[each]
            found[name] = str(error)


def _ask(names: list[str], env: dict[str, str]) -> Iterator[Row]:
    """Rows of the probes ``names``, in turn. A process that ends in the midst of one is made anew for the rest."""
    if not sys.executable:
        yield from (Row(name, DECLINED, "not tried: this interpreter does not know its own file") for name in names)
        return
    root = os.path.dirname(os.path.dirname(PACKAGE))
    command = [sys.executable, *options_of_this(), "-c", _CHILD.format(root=root)]
    while names:
        try:
            done = subprocess.run(
                [*command, *names],
                env=env,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_PATIENCE,
                check=False,
            )
            said, complaints, how = done.stdout, done.stderr, _end(done.returncode)
        except subprocess.TimeoutExpired as error:
            said, complaints, how = error.stdout or b"", error.stderr or b"", f"hung for {_PATIENCE} s"
        except OSError as error:
            reason = f"not tried, for want of a process: {error.strerror}"
            yield from (Row(name, DECLINED, reason) for name in names)
            return
        begun = ""
        for line in said.decode("utf-8", "replace").splitlines():
            try:
                found = json.loads(line)
            except ValueError:  # of something that was imported
                continue
            if isinstance(found, dict) and found.get("begins") in names:
                begun = found["begins"]
            elif begun and isinstance(found, list) and found[:1] == [begun]:
                yield Row(*found)
                del names[: names.index(begun) + 1]
                begun = ""
        if names:  # what was begun last, or, where nothing was, the first
            last = complaints.decode("utf-8", "replace").strip().splitlines()[-1:]
            broken = begun or names[0]
            said_last = f": {last[0].strip()}" if last else ""
            yield Row(broken, DECLINED, f"the process that tried it {how}{said_last}", "please report it")
            del names[: names.index(broken) + 1]


def _end(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    import signal

    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


# --- rows that need no process of their own ---


def _switch(name: str) -> Row:
    if os.environ.get("NATIVEMEM_DISABLE") == "1":
        reason = "NATIVEMEM_DISABLE=1: each block comes from the system, nothing is hooked"
        return Row(name, WORKS, reason, "leave NATIVEMEM_DISABLE unset")
    return Row(name, OFF, "NATIVEMEM_DISABLE is not set")


def _run_bounds(engine: Row) -> Row:
    if engine.state == WORKS:
        return Row("nativemem run", WORKS, "bounds and measures a program at each allocation")
    reason = "best effort: it measures with tracemalloc, and looks at the budget every 5 ms"
    return Row("nativemem run", engine.state, f"{reason} (there is no engine)")


_STARTED = "import sys; print('nativemem.auto' in sys.modules or 'nativemem._dataplane' in sys.modules)"


def _start_up(env: dict[str, str], name: str) -> Row:
    files = start_up_files(letters_of(options_of_this()))
    if not files:
        return Row(name, OFF, "this interpreter reads none, so NATIVEMEM_AUTOINSTALL does nothing")
    asked = env.get("NATIVEMEM_AUTOINSTALL", "0") != "0"
    command = [sys.executable, *options_of_this(), "-c", _STARTED]
    done = subprocess.run(
        command,
        env={**env, "NATIVEMEM_AUTOINSTALL": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_PATIENCE,
        check=False,
    )
    file = os.path.basename(files[0])
    if done.stdout.split()[-1:] != [b"True"]:
        last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        why = f": {last[0].strip()}" if last else ""
        return Row(name, DECLINED, f"{file} is there, and does nothing{why}", "install the package again")
    if asked:
        return Row(name, WORKS, f"{file} is read; NATIVEMEM_AUTOINSTALL asks each Python for the engine")
    return Row(name, WORKS, f"{file} is read; NATIVEMEM_AUTOINSTALL=1 asks each Python for the engine")


def _huge_pages(name: str) -> Row:
    try:
        with open("/sys/kernel/mm/transparent_hugepage/enabled", encoding="ascii") as file:
            chosen = file.read().partition("[")[2].partition("]")[0]
    except OSError as error:
        return Row(name, OFF, f"this system does not tell: {error.strerror}")
    if chosen == "never":
        cure = "as root: echo madvise >/sys/kernel/mm/transparent_hugepage/enabled"
        return Row(name, OFF, "the system gives none (never), so large blocks have more page faults", cure)
    return Row(name, WORKS, f"large blocks ask for them, and the system gives them ({chosen})")


def _address_space(name: str) -> Row:
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    except (ImportError, AttributeError):
        return Row(name, OFF, "this system has no such limit")
    if limit == resource.RLIM_INFINITY:
        return Row(name, OFF, "no limit (ulimit -v); the engine maps addresses as it needs them")
    cure = "" if limit >= 1 << 30 else "raise it (ulimit -v): an interpreter alone maps 100 MiB and more"
    return Row(name, WORKS, f"{format_size(limit)} (ulimit -v), which the engine stays within", cure)


def _control_group(name: str) -> Row:
    try:
        found = min(limits(), default=None)
    except (OSError, ValueError):
        return Row(name, OFF, "this system has no control groups, or does not show them")
    if found is None or found >= machine_memory():
        return Row(name, OFF, "no limit for this process")
    reason = f"{format_size(found)} (memory.max): beyond it the system ends the process, with no MemoryError"
    return Row(name, WORKS, reason, "set a lower one: nativemem run --budget, NATIVEMEM_LIMIT, install(limit=)")


# --- the whole ---


def _python() -> str:
    kind = f"{platform.python_implementation()} {platform.python_version()}"
    lock = ["free-threaded"] * ("t" in getattr(sys, "abiflags", ""))
    return ", ".join([kind, *lock, f"{sys.maxsize.bit_length() + 1} bits", sys.executable or "of no known file"])


def _built() -> str:
    found = build()
    if not found:
        return "none: these are sources"
    kind = "native core" if found.get("native") else "pure Python"
    parts = [kind, f"USE_NATIVE_MEM={found.get('asked')}", found.get("compiler"), found.get("flags")]
    return ", ".join(str(part) for part in parts if part)


def _variables() -> str:
    found = (f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith("NATIVEMEM_"))
    return " ".join(found) or "none"


def _about() -> dict[str, str]:
    """What the report is about."""
    parts: dict[str, Callable[[], str]] = {
        "nativemem": lambda: f"{__version__}, {os.path.dirname(PACKAGE)}",
        "python": _python,
        "system": lambda: ", ".join(
            part for part in (platform.system(), platform.machine(), " ".join(platform.libc_ver()).strip()) if part
        ),
        "build": _built,
        "memory": lambda: f"{format_size(memory())} for this process",
        "variables": _variables,
    }
    return {name: _line(ask) for name, ask in parts.items()}


def _line(ask: Callable[[], str]) -> str:
    try:
        return " ".join(ask().split())
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _examine() -> list[Row]:
    env = dict(os.environ)
    wrong = _bad_variables(env)
    for_probes = {name: value for name, value in env.items() if name not in _NOT_FOR_PROBES}
    rows = [Row(name, DECLINED, reason, "set it right, or not at all") for name, reason in wrong.items()]
    looks: dict[str, Callable[[str], Row]] = {
        "kill switch": _switch,
        "start-up file": lambda name: _start_up(env, name),
        "huge pages": _huge_pages,
        "address limit": _address_space,
        "cgroup limit": _control_group,
    }
    found = {row.name: row for row in _ask(list(PROBES), for_probes)}
    found["nativemem run"] = _run_bounds(found["engine"])
    found |= {name: guarded(name, look) for name, look in looks.items()}
    return rows + [found[name] for name in _SHOWN]


def _shown(about: dict[str, str], rows: list[Row]) -> str:
    """The report, within 80 columns but for words that are longer."""
    import textwrap

    def wrapped(text: str, first: str, rest: str) -> list[str]:
        found = textwrap.TextWrapper(_WIDTH, first, rest, break_long_words=False, break_on_hyphens=False).wrap(text)
        return found or [first.rstrip()]

    lines: list[str] = []
    for name, text in about.items():
        lines += wrapped(text, f"{name:<11}", " " * 11)
    lines.append("")
    wide = max(len(row.name) for row in rows) + 2
    for row in rows:
        first = f"{row.state:<10}{row.name:<{wide}}"
        lines += wrapped(row.reason, first, " " * len(first))
        if row.cure:
            lines += wrapped(row.cure, " " * len(first) + "> ", " " * len(first) + "  ")
    declined = [row.name for row in rows if row.state == DECLINED]
    lines.append("")
    lines += wrapped(f"Declined: {', '.join(declined)}." if declined else "Nothing is declined.", "", "")
    return "\n".join(lines) + "\n"


def configure(parser: argparse.ArgumentParser) -> None:
    """Gives the parser of this command its options."""
    import argparse

    parser.description = _DESCRIPTION
    parser.epilog = _EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def execute(parser: argparse.ArgumentParser, argv: list[str]) -> int:
    """Runs the command line after ``doctor``. Returns the exit code."""
    options = parser.parse_args(argv)
    about = _about()
    rows = _examine()
    declined = any(row.state == DECLINED for row in rows)
    if options.json:
        text = json.dumps({**about, "rows": [row._asdict() for row in rows], "declined": declined}, indent=1) + "\n"
    else:
        text = _shown(about, rows)
    say(text)
    return int(declined)
