"""The program's side of ``nativemem run``: what is measured from the interpreter's start on, and said at its end.

:mod:`nativemem.auto` calls :func:`begin` before the program starts, in the program's own process. Everything that
the end needs is loaded by then: the program may leave an interpreter in which nothing can be imported. It is
little: modules that a program notices, and threads of :mod:`threading`, are not among it.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # what `signal` has it from, without enum
import _thread
import atexit
import os
import sys
from time import perf_counter

from .._lazy import errors, import_what_was_put_off
from ..backends.machine import is_free_threaded
from ..backends.selection import select, without_lock
from ..settings import Settings
from ..sizes import format_size
from ..units import reserve_of
from ..wrappers.histogram import percentiles
from . import profiling
from .install import core, install, limit_to

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

__all__ = ["AUTOINSTALL", "OVER_BUDGET", "USAGE", "begin"]

#: exit codes of `run` beside the program's own
USAGE, OVER_BUDGET = 2, 3
AUTOINSTALL = "NATIVEMEM_AUTOINSTALL"
LIMIT = "NATIVEMEM_LIMIT"
#: where the copy of stderr is looked for first: out of the way of the descriptors that a program counts
_HIGH = 200
#: a reader that has not made room for a few lines after so many milliseconds reads nothing any more
_PATIENCE = 1000

# by these names, because a program may put others into `os` and `sys`
_open, _write, _close, _fstat, _lseek, _getpid = os.open, os.write, os.close, os.fstat, os.lseek, os.getpid
_current_frames = sys._current_frames


def pack(
    budget: int | None,
    summary: str | None,
    before: str | None,
    rate: int | None = None,
    recording: str | None = None,
) -> str:
    """The value of the variable that settings.py names `RUN`: the budget, what `AUTOINSTALL` was, the rate of a
    profile, the files for the recording and the summary; empty for None. A file may have any character in its name,
    so a length stands before it."""
    recording = recording or ""
    return f"{budget or ''};{before or ''};{rate or ''};{len(recording)};{recording}{summary or ''}"


def _unpack(packed: str) -> tuple[str, str, str, str, str]:
    """The budget, what `AUTOINSTALL` was, the rate, the recording and the summary."""
    budget, before, rate, length, files = packed.split(";", 4)
    return budget, before, rate, files[: int(length)], files[int(length) :]


class _Refused(Exception):
    """The program is not started; the message says why."""


# --- what measures ---


class _NativeMeter:
    """The engine measures and bounds."""

    backend = "native"
    note = ""

    def __init__(self) -> None:
        install()
        self._core = core()
        #: exact, and with the interpreter at its end; see csrc/engine/ending.c
        self.watches = self._core.ending_watch()

    def bound(self, budget: int, said_by: str) -> None:
        try:
            limit_to(budget, said_by)
        except errors.InvalidLayout as error:
            raise _Refused(f"{error} (see nativemem run --help)") from None

    def pass_on(self, budget: int | None) -> None:
        """Children that are made by exec get the same, each for itself; those made by fork have it."""
        os.environ[AUTOINSTALL] = "1"
        if budget is not None:
            os.environ[LIMIT] = str(budget)

    def lift(self) -> int:
        return self._core.engine_lift()

    def profile(self, path: str, rate: int) -> bool:
        """Whether there is one now."""
        try:
            profiling.begin(path, rate)
        except errors.ConfigError as error:
            raise _Refused(str(error)) from None
        return True

    def read(self) -> dict[str, Any]:
        sizes, denial = self._core.engine_account()
        _, _, _, denials = self._core.engine_budget()
        percentile = percentiles(sizes) or {}
        return {
            "allocations": sum(n for _, n in sizes),
            **{f"p{p}": percentile.get(p) for p in (50, 90, 99)},
            "denials": denials,
            "denial": _denial(denial),
        }

    def plan_end(self, code: int, file: int, at: int) -> None:
        self._core.ending_plan(code, file, at, len(_UNKNOWN))


class _PureMeter:
    """tracemalloc measures; a thread looks at it every few milliseconds to enforce the budget."""

    backend = "pure"
    note = (
        "{why}: measured with tracemalloc, which is slow; the budget is checked every 5 ms, "
        "not at each allocation, and the MemoryError goes to the main thread"
    )
    interval = 0.005
    watches = False

    def __init__(self, why: str) -> None:
        self.note = self.note.format(why=why)
        self._ended = _thread.allocate_lock()
        self._thread = _thread.get_ident()
        self._denial: tuple[int, int, int] | None = None
        self._denials = 0
        try:
            import _tracemalloc
        except ImportError:
            raise errors.NativeUnavailable(
                "this interpreter has neither the native core nor tracemalloc, so nothing can be measured"
            ) from None
        self._traced = _tracemalloc.get_traced_memory
        if not _tracemalloc.is_tracing():
            _tracemalloc.start(1)

    def bound(self, budget: int, said_by: str) -> None:
        import ctypes

        raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
        target, error = ctypes.c_ulong(self._thread), ctypes.py_object(MemoryError)
        self._ended.acquire()
        refuse, take_back = lambda: raise_in(target, error), lambda: raise_in(target, None)
        _thread.start_new_thread(self._watch, (budget, refuse, take_back))

    def pass_on(self, budget: int | None) -> None:
        """Nothing: a thread watches this process alone."""

    def profile(self, path: str, rate: int) -> bool:
        """None: a profile is of the engine."""
        self.note += "; there is no profile, which is of the engine"
        return False

    def _watch(self, budget: int, refuse: Any, take_back: Any) -> None:
        wait = self.interval
        while not self._ended.acquire(timeout=wait):
            used = self._traced()[0]
            wait = self.interval
            if used > budget and self._runs_program():
                self._denial = used - budget, used, budget
                self._denials += 1
                refuse()
                if not self._runs_program():  # it has ended since it was looked at
                    take_back()
                wait = 20 * self.interval  # for the program to let go of something

    def _runs_program(self) -> bool:
        return _runs_program(_current_frames().get(self._thread))

    def lift(self) -> int:
        if self._ended.locked():
            self._ended.release()
        return self._traced()[1]

    def read(self) -> dict[str, Any]:
        return {
            "allocations": None,
            **{f"p{p}": None for p in (50, 90, 99)},
            "denials": self._denials,
            "denial": _denial(self._denial),
        }


class _ArraysMeter(_PureMeter):
    """As that, on a free-threaded interpreter with the core: there the engine bounds arrays, and no objects."""

    def __init__(self) -> None:
        super().__init__(
            "a free-threaded interpreter keeps its objects, so they are not bounded exactly: what threads take in "
            "5 ms is not, nor what C code takes by itself"
        )
        self._bounds = False

    def bound(self, budget: int, said_by: str) -> None:
        super().bound(budget, said_by)
        try:
            install(objects=False)
            limit_to(budget, said_by)
        except errors.InvalidLayout:  # less than 1 MiB: what looks every 5 ms does it
            return
        except errors.NativeUnavailable as error:
            self.note += f"; the engine is off ({error})"
            return
        self._bounds = True
        self.note += "; arrays beyond the budget are refused at once"

    def lift(self) -> int:
        if self._bounds:
            core().engine_lift()
        return super().lift()

    def read(self) -> dict[str, Any]:
        numbers = super().read()
        if self._bounds:
            numbers["denials"] += core().engine_budget()[3]
            numbers["denial"] = numbers["denial"] or _denial(core().engine_account()[1])
        return numbers


_IMPORT_SYSTEM = "importlib", "_frozen_importlib", "_frozen_importlib_external"


def _runs_program(frame: FrameType | None) -> bool:
    """Whether code of the program's is on the stack: else the interpreter shows the error that has ended it, say.

    As ``nm__spared_is_without_program`` of csrc/engine/spared.c.
    """
    is_imported = True  # what is further in and not the library's: a finder, or a module of the environment's
    while frame is not None:
        module = frame.f_globals.get("__name__")
        if module == "nativemem.commands.start":  # below it is the command that runs the program
            break
        part = module.partition(".")[0] if isinstance(module, str) else ""
        if part == "runpy":
            return True
        if part in _IMPORT_SYSTEM:
            is_imported = True
        elif part not in sys.stdlib_module_names and part != "nativemem" and not part.startswith("namedtuple_"):
            is_imported = False
        frame = frame.f_back
    return not is_imported


def _denial(values: tuple[int, int, int] | None) -> dict[str, int] | None:
    return values and dict(zip(("requested", "used", "limit"), values, strict=True))


def _meter() -> Any:
    if select(Settings.from_env().backend) != "native":
        if not is_free_threaded():
            return _PureMeter("pure backend (nativemem doctor says why)")
        unbound = "what threads take within that time is not bounded, nor what C code takes by itself"
        return _PureMeter(f"pure backend, as {without_lock()}; {unbound}")
    if is_free_threaded():
        return _ArraysMeter()
    try:
        return _NativeMeter()
    except errors.NativeUnavailable as error:
        # tracemalloc was asked for by an option or a variable; or the interpreter declines the engine
        return _PureMeter(f"the engine is off ({error})")


# --- where it is said ---


class _Stderr:
    """The file that was descriptor 2 when the process began.

    A copy of the descriptor, out of the way: the program may close descriptor 2 or open another file as it, and may
    close the copy, too. So what stands at a number is compared before anything is written to it. A child made by
    fork has no copy: one that outlives its parent is not to keep a pipe open.
    """

    def __init__(self) -> None:
        self._copy, self._file = -1, None
        if sys.stderr is None:  # closed from the beginning
            return
        try:
            self._file = self._identity(2)
            self._copy = self._duplicate()
        except (OSError, ValueError):
            return
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    @staticmethod
    def _identity(descriptor: int) -> tuple[int, int]:
        status = _fstat(descriptor)
        return status.st_dev, status.st_ino

    @staticmethod
    def _duplicate() -> int:
        try:
            import fcntl
        except ImportError:
            return os.dup(2)
        for least in (_HIGH, 20):  # the limit on descriptors may be low
            try:
                return fcntl.fcntl(2, fcntl.F_DUPFD_CLOEXEC, least)
            except OSError:
                pass
        return -1

    def _is_at(self, descriptor: int) -> bool:
        try:
            return descriptor >= 0 and self._identity(descriptor) == self._file
        except OSError:
            return False

    def _forget(self) -> None:
        if self._is_at(self._copy):
            _close(self._copy)
        self._copy = -1

    def say(self, lines: list[str]) -> None:
        """Each as a line, if anything still reads there."""
        text = "".join(f"nativemem: {line}\n" for line in lines).encode("utf-8", "backslashreplace")
        for descriptor in (self._copy, 2):
            if self._is_at(descriptor) and _takes(descriptor):
                try:
                    while text:
                        text = text[_write(descriptor, text) :]
                except OSError:
                    pass
                return


try:
    from select import POLLOUT, poll
except ImportError:

    def _takes(descriptor: int) -> bool:
        return True

else:

    def _takes(descriptor: int) -> bool:
        """Whether it takes some lines without waiting: a full pipe that nothing empties is not waited for."""
        ready = poll()
        ready.register(descriptor, POLLOUT)
        return any(events & POLLOUT for _, events in ready.poll(_PATIENCE))


class _Undisturbed:
    """While it is entered a pipe without a reader is an error, and an interrupt nothing: the end is under way."""

    _names = ("SIGPIPE", "SIGINT")

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}

    def enter(self) -> None:
        for name in self._names:
            number = getattr(_signal, name, None)
            if number is None or number in self._before:
                continue
            try:
                before = _signal.signal(number, _signal.SIG_IGN)
            except ValueError:  # not the main thread
                return
            if before is not None:
                self._before[number] = before

    def leave(self) -> None:
        for number, before in self._before.items():
            _signal.signal(number, before)


# --- what is said ---

#: in the summary file until exit() tells the code; the codes from 0 to 255 fit into it
_UNKNOWN = "null"


class _Summary:
    """What is printed, and written with -o, when the process ends."""

    def __init__(self, meter: Any, budget: int | None, output: str | None) -> None:
        self.meter, self.budget, self.output = meter, budget, output
        #: the recording's file
        self.profile: str | None = None
        self.stderr = _Stderr()
        self.pid, self.began = _getpid(), perf_counter()

    def __call__(self) -> None:
        if _getpid() != self.pid:  # a child made by fork runs its parent's exit functions
            return
        undisturbed = _Undisturbed()
        try:
            undisturbed.enter()
        except BaseException:  # an interrupt that came just before
            undisturbed.enter()
        try:
            self._end()
        finally:
            undisturbed.leave()

    def _end(self) -> None:
        peak = self.meter.lift()  # only now: until here other threads of the program may run
        profiled = profiling.stop() if self.profile is not None else None
        numbers = {
            "backend": self.meter.backend,
            "wall_s": perf_counter() - self.began,
            "peak_bytes": peak,
            **self.meter.read(),
            "peak_rss_bytes": _peak_rss(),
            "budget_bytes": self.budget,
            "headroom_bytes": None if self.budget is None else max(self.budget - peak, 0),
            "pid": self.pid,
            **({} if self.profile is None else {"profile": self.profile}),
        }
        code = _code_by_now(numbers["denial"] is not None)
        lines = _lines(numbers, code, self.meter.note)
        if self.profile is not None:
            lines.append(profiling.line_of(self.profile, profiled))
        file, at = -1, 0
        if self.output is not None:
            try:
                file, at = self._put(numbers, code)
            except (OSError, ValueError) as error:
                lines.insert(0, f"the summary was not written: {error}")
        self.stderr.say(lines)
        if self.meter.watches:
            self.meter.plan_end(OVER_BUDGET if code == OVER_BUDGET else 0, file, at)
        elif code == OVER_BUDGET and not sys.flags.inspect:
            _leave(code)

    def _put(self, numbers: dict[str, Any], code: int | None) -> tuple[int, int]:
        """Writes the file. Returns its descriptor and where in it the exit code has to go; -1 where that is known,
        or cannot be found out or be written later."""
        assert self.output is not None
        known = _UNKNOWN if code is None else f"{code:<{len(_UNKNOWN)}}"
        head = "{\n" + "".join(f' "{name}": {_json(value)},\n' for name, value in numbers.items())
        head += ' "exit_code": '
        file = _open(self.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_CLOEXEC", 0), 0o666)
        try:
            rest = f"{head}{known}\n}}\n".encode()
            while rest:
                rest = rest[_write(file, rest) :]
            if self.meter.watches and _is_regular(file):
                return file, len(head)
        except BaseException:
            _close(file)
            raise
        _close(file)
        return -1, 0


def _leave(code: int) -> None:
    """Ends the process with ``code``, at the end of its exit functions: what the interpreter would still do is not
    done."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # whatever the program has put there
            pass
    os._exit(code)


def _is_regular(file: int) -> bool:
    return _fstat(file).st_mode & 0o170000 == 0o100000


def _code_by_now(denied: bool) -> int | None:
    """The exit code, as far as the interpreter has kept why the program ended: it says nothing of SystemExit."""
    error = getattr(sys, "last_value", None)
    if error is None:
        return None
    if type(error) is KeyboardInterrupt:  # of a class derived from it the interpreter does not die
        return 128 + int(_signal.SIGINT)
    return OVER_BUDGET if denied and isinstance(error, MemoryError) else 1


def _json(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{name}": {_json(each)}' for name, each in value.items()) + "}"
    return _json_text(value) if isinstance(value, str) else repr(value)


def _json_text(text: str) -> str:
    escaped = (c if " " <= c <= "~" and c not in '"\\' else f"\\u{ord(c):04x}" for c in text)
    return '"' + "".join(escaped) + '"'


def _lines(n: dict[str, Any], code: int | None, note: str) -> list[str]:
    rss = "" if n["peak_rss_bytes"] is None else f" (resident {format_size(n['peak_rss_bytes'])})"
    parts = [f"{n['wall_s']:.2f} s", f"peak {format_size(n['peak_bytes'])}{rss}"]
    if n["allocations"] is not None:
        parts.append(f"{n['allocations']:,} allocations")
    if n["p50"] is not None:
        parts.append(f"size p50 {n['p50']:,} p90 {n['p90']:,} p99 {n['p99']:,} B")
    lines = [note] if note else []
    lines.append(", ".join(parts))
    if n["budget_bytes"] is not None:
        lines.append(
            f"budget {format_size(n['budget_bytes'])}, headroom {format_size(n['headroom_bytes'])}, "
            f"{n['denials']:,} denial{'s' * (n['denials'] != 1)}"
        )
    d = n["denial"]
    if d is not None:
        what = "budget exceeded" if code == OVER_BUDGET else "the last denial"
        kept = reserve_of(d["limit"]) if n["backend"] == "native" else 0
        kept_note = f" ({kept:,} of them kept for handling the error)" if kept else ""
        lines.append(
            f"{what}: {d['requested']:,} bytes asked for with {d['used']:,} in use, "
            f"{d['limit']:,} allowed{kept_note}; give it more with --budget, or find what holds them"
        )
    return lines


def _peak_rss() -> int | None:
    """Of this program: what getrusage has is at least the peak of the command that this process was before."""
    try:
        file = _open("/proc/self/status", os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        try:
            words = os.read(file, 1 << 14).split()
        finally:
            _close(file)
        return int(words[words.index(b"VmHWM:") + 1]) * 1024
    except (OSError, ValueError):
        pass
    try:
        import resource
    except Exception:  # whatever the program has made of the import system
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


# --- the start ---


def _start(budget: int | None, output: str | None, profile: tuple[str, int] | None) -> None:
    meter = _meter()
    said_by = "--budget"
    if budget is None:
        budget, said_by = Settings.from_env().limit, LIMIT
    summary = _Summary(meter, budget, output)
    if budget is not None:
        meter.bound(budget, said_by)
    profile = profile or profiling.from_environment()
    if profile is not None and meter.profile(*profile):
        summary.profile = profile[0]
    meter.pass_on(budget)
    import_what_was_put_off()
    atexit.register(summary)  # before any of the program's, so that it runs after them


def begin(packed: str) -> None:
    """Puts the engine under this process and arranges the summary; ends the process where the program must not run.

    ``packed``: as `pack` makes it.
    """
    budget, before, rate, recording, output = _unpack(packed)
    if before:
        os.environ[AUTOINSTALL] = before
    else:
        os.environ.pop(AUTOINSTALL, None)
    try:
        profile = (profiling.file_of(recording or None), int(rate)) if rate else None
        _start(int(budget) if budget else None, output or None, profile)
        return
    except _Refused as error:
        message, code = f"nativemem run: {error}", USAGE
    except errors.NativeMemError as error:
        message, code = f"nativemem: {error}", 1
    try:
        _write(2, f"{message}\n".encode("utf-8", "backslashreplace"))
    except OSError:
        pass
    os._exit(code)  # an exception in a start-up file is printed, and the program starts
