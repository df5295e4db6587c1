"""Runs a program on the engine, or on the pure backend under tracemalloc, and says what it used."""

from __future__ import annotations

import atexit
import builtins
import contextlib
import importlib.machinery
import importlib.util
import io
import json
import os
import runpy
import signal
import sys
import threading
import time
import types
from typing import Any

from . import _install, process
from ._choice import select
from ._settings import Settings, reserve_of
from .cli import OVER_BUDGET
from .config import format_size
from .errors import NativeUnavailable


class NoProgram(Exception):
    """There is no such program, or no room for any; the message says what to do."""


class _NativeMeter:
    """The engine measures and bounds."""

    backend = "native"
    note = ""

    def __init__(self) -> None:
        process.install()
        from ._engine import Engine

        #: for when the program has ended: what is left to do must not fail for want of memory
        self.lift = Engine.lift
        self._set_limit = Engine.set_limit

    def bound(self, budget: int | None) -> None:
        if budget is None:
            return
        least = process.usage().held + _install.LEAST_OVER_HELD
        if budget < least:
            raise NoProgram(
                f"--budget: {budget} bytes is too little, the interpreter holds most of it before the "
                f"program starts; the least is {least}"
            )
        self._set_limit(budget)

    def pass_on(self, budget: int | None) -> None:
        """Children that are made by exec get the same, each for itself; those made by fork have it."""
        os.environ["NATIVEMEM_AUTOINSTALL"] = "1"
        if budget is not None:
            os.environ["NATIVEMEM_LIMIT"] = str(budget)

    def read(self) -> dict[str, Any]:
        usage = process.usage()
        sizes = usage.sizes or {}
        denial = usage.last_denial
        return {
            "allocations": usage.allocations,
            **{f"p{p}": sizes.get(p) for p in (50, 90, 99)},
            "denials": usage.denials,
            "denial": denial
            and {"requested": denial.requested, "used": denial.used, "limit": denial.limit},
        }


class _PureMeter:
    """tracemalloc measures; a thread looks at it every few milliseconds to enforce the budget."""

    backend = "pure"
    note = (
        "pure backend: measured with tracemalloc, which is slow; the budget is checked every 5 ms, "
        "not at each allocation, and the MemoryError goes to the main thread"
    )
    interval = 0.005

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._denial: dict[str, int] | None = None
        self._denials = 0
        try:
            import tracemalloc
        except ImportError:
            raise NativeUnavailable(
                "this interpreter has neither the native core nor tracemalloc, so nothing can be measured"
            ) from None
        self._traced = tracemalloc.get_traced_memory
        tracemalloc.start()

    def bound(self, budget: int | None) -> None:
        if budget is not None:
            target = threading.main_thread().ident
            threading.Thread(target=self._watch, args=(budget, target), daemon=True).start()

    def pass_on(self, budget: int | None) -> None:
        """Nothing: a thread watches this process alone."""

    def _watch(self, budget: int, target: int | None) -> None:
        import ctypes

        wait = self.interval
        while not self._stop.wait(wait):
            used = self._traced()[0]
            wait = self.interval
            if used > budget:
                self._denial = {"requested": used - budget, "used": used, "limit": budget}
                self._denials += 1
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(target or 0), ctypes.py_object(MemoryError)
                )
                wait = 20 * self.interval  # for the program to let go of something

    def lift(self) -> int:
        self._stop.set()
        return self._traced()[1]

    def read(self) -> dict[str, Any]:
        return {
            "allocations": None,
            **{f"p{p}": None for p in (50, 90, 99)},
            "denials": self._denials,
            "denial": self._denial,
        }


class _Summary:
    """What is printed, and written with -o, when the process ends."""

    def __init__(self, meter: Any, budget: int | None, output: str | None) -> None:
        self.meter, self.budget, self.output = meter, budget, output
        self.pid, self.began = os.getpid(), time.perf_counter()
        self.code: int | None = 0
        self.stderr = sys.stderr  # the program may put something else there

    def __call__(self) -> None:
        if os.getpid() != self.pid:  # a child made by fork runs its parent's exit functions
            return
        peak = self.meter.lift()  # only now: until here other threads of the program may run
        numbers = {
            "backend": self.meter.backend,
            "wall_s": time.perf_counter() - self.began,
            "peak_bytes": peak,
            **self.meter.read(),
            "peak_rss_bytes": _peak_rss(),
            "budget_bytes": self.budget,
            "headroom_bytes": None,
            "pid": self.pid,
            "exit_code": self.code,
        }
        if self.budget is not None:
            numbers["headroom_bytes"] = max(self.budget - numbers["peak_bytes"], 0)
        if self.output is not None:
            try:
                with open(self.output, "w", encoding="utf-8") as file:
                    json.dump(numbers, file, indent=1)
                    file.write("\n")
            except OSError as error:
                say(f"the summary was not written: {error}", self.stderr)
        for line in _lines(numbers, self.meter.note):
            say(line, self.stderr)


def _lines(n: dict[str, Any], note: str) -> list[str]:
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
    if d is not None and n["exit_code"] != 0:
        what = "budget exceeded" if n["exit_code"] == OVER_BUDGET else "the last denial"
        kept = reserve_of(d["limit"]) if n["backend"] == "native" else 0
        kept_note = f" ({kept:,} of them kept for handling the error)" if kept else ""
        lines.append(
            f"{what}: {d['requested']:,} bytes asked for with {d['used']:,} in use, "
            f"{d['limit']:,} allowed{kept_note}; give it more with --budget, or find what holds them"
        )
    return lines


def say(line: str, stderr: Any) -> None:
    """One line on stderr; a closed one is no reason to fail, or to print elsewhere."""
    if stderr is not None:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            print(f"nativemem: {line}", file=stderr, flush=True)


def _peak_rss() -> int | None:
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _find(script: str | None, module: str | None) -> types.CodeType | None:
    """The script's code; None for a module, which is only looked for."""
    if module is not None:
        sys.path[0] = os.getcwd()
        try:
            found = importlib.util.find_spec(module)
        except (ImportError, ValueError):
            found = None
        if found is None:
            raise NoProgram(f"no module named {module!r}; give one that python -m would run")
        return None
    assert script is not None
    try:
        with io.open_code(os.path.abspath(script)) as file:
            source = file.read()
    except IsADirectoryError:
        raise NoProgram(f"{script!r} is a folder; give the path of a Python file") from None
    except OSError as error:
        reason = "no such script" if isinstance(error, FileNotFoundError) else error.strerror
        raise NoProgram(f"{reason}: {script!r}; give the path of a Python file") from None
    sys.path[0] = os.path.dirname(os.path.realpath(script))
    return compile(source, os.path.abspath(script), "exec", dont_inherit=True)


def _execute(code: types.CodeType | None, script: str | None, module: str | None, args: list[str]) -> None:
    sys.argv = [script or module or "", *args]
    if code is None:
        assert module is not None
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        return
    main = types.ModuleType("__main__")
    main.__dict__.update(  # as the interpreter has it
        __file__=code.co_filename,
        __builtins__=builtins,
        __loader__=importlib.machinery.SourceFileLoader("__main__", code.co_filename),
        __annotations__={},
        __cached__=None,
    )
    sys.modules["__main__"] = main
    exec(code, main.__dict__)


def _show(error: BaseException) -> None:
    """The program's traceback, as the interpreter would print it: without the frames of this package."""
    here = os.path.dirname(__file__) + os.sep
    trace = error.__traceback__
    while trace is not None and (
        trace.tb_frame.f_code.co_filename.startswith(here)
        or trace.tb_frame.f_globals.get("__name__") == "runpy"
    ):
        trace = trace.tb_next
    sys.excepthook(type(error), error.with_traceback(trace), trace)


def run(
    script: str | None, module: str | None, args: list[str], *, budget: int | None, output: str | None
) -> int | str | None:
    """Runs the program. Returns what to exit with; the summary follows when the process ends.

    Raises :class:`NoProgram` where there is none, and what :func:`nativemem.install` raises.
    """
    try:
        code = _find(script, module)
    except (SyntaxError, ValueError) as error:
        _show(error)
        return 1
    native = select(Settings.from_env().backend) == "native"
    meter: Any = _NativeMeter() if native else _PureMeter()
    summary = _Summary(meter, budget, output)
    atexit.register(summary)  # before any of the program's, so that it runs after them
    try:
        meter.bound(budget)  # last, so that only the program runs into it
        meter.pass_on(budget)
        _execute(code, script, module, args)
    except SystemExit as end:
        summary.code = end.code if isinstance(end.code, int) else int(end.code is not None)
        return end.code
    except NoProgram:
        atexit.unregister(summary)
        process.uninstall()
        raise
    except BaseException as error:
        try:
            _show(error)
        except MemoryError:
            meter.lift()
            _show(error)
        if isinstance(error, KeyboardInterrupt):
            summary.code = 128 + signal.SIGINT
        elif isinstance(error, MemoryError) and meter.read()["denial"]:
            summary.code = OVER_BUDGET
        else:
            summary.code = 1
    return summary.code
