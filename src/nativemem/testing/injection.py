"""Fault injection: each allocation that a function makes fails once, in a process of its own."""

from __future__ import annotations

import inspect
import os
import pickle
import select
import shlex
import signal
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO

from .._lazy import errors
from ..config import parse_bool, parse_count
from .findings import Findings
from .injection_report import Attempt, Shared
from .injection_server import Plan, Server, forked
from .injection_sources import source_of
from .judgement import Judge

__all__ = ["sweep"]

#: bounds of the times, in seconds
_LEAST, _LONGEST = 0.01, 86_400.0
_MOST = 10_000_000


def sweep(
    function: Callable[[], object],
    *,
    domains: str | Iterable[str] = ("raw", "mem", "obj"),
    nth: int | None = None,
    sticky: bool = False,
    allowed: type[BaseException] | Iterable[type[BaseException]] = (),
    leaks: bool = False,
    per_site: int | None = None,
    most: int = 1_000_000,
    seconds: float = 300.0,
    timeout: float = 10.0,
) -> Findings:
    """Runs a function again and again, each time with another of its allocations refused, and returns what did not
    bear that.

    Each run is a forked process: a crash is a finding, and the sweep goes on. The function is called without
    arguments, never in the calling process. It should do the same each time: numbers count the allocations of one
    run, from 1 on, by the thread that runs it. A refusal is borne where a :class:`MemoryError` comes out, or an
    exception that was raised ``from`` one, or the right result.

    Parameters: ``domains``, one or more of CPython's, ``"raw"``, ``"mem"``, ``"obj"``, or ``"allocators"`` alone,
    this package's; ``nth``, the one allocation to refuse; ``sticky``, whether all after it are refused too;
    ``allowed``, exceptions that may come out as well; ``leaks``, whether to look for blocks that a failing run
    keeps, which takes six more runs each; ``per_site``, how many of the allocations that one place makes are
    tried (None: all where there are at most 2000, else 3); ``most``, allocations that are counted; ``seconds``,
    after which no further run begins; ``timeout``, seconds that a run may take. Raises :class:`ConfigError` for
    arguments that are not these, where the function fails without a refusal, and where it allocates nothing;
    :class:`NativeUnavailable` where there is no fork, or no core for the domains. To be called from any thread.

    >>> from nativemem.testing import sweep
    >>> findings = sweep(lambda: [bytes(1000) for _ in range(3)])  # doctest: +SKIP
    >>> len(findings)  # doctest: +SKIP
    0
    """
    plan = _plan(function, domains, nth, sticky, allowed, leaks, per_site, most, seconds, timeout)
    return _Sweep(plan).run()


def _plan(
    function: Any,
    domains: Any,
    nth: Any,
    sticky: Any,
    allowed: Any,
    leaks: Any,
    per_site: Any,
    most: Any,
    seconds: Any,
    timeout: Any,
) -> Plan:
    if not callable(function):
        raise errors.ConfigError(f"sweep.function: takes a callable, not {errors.shown(function)}")
    for is_one, name in (
        (inspect.iscoroutinefunction, "a coroutine"),
        (inspect.isasyncgenfunction, "an asynchronous generator"),
        (inspect.isgeneratorfunction, "a generator"),
    ):
        if is_one(function):
            raise errors.ConfigError(
                f"sweep.function: its call only makes {name}, which does nothing by itself",
                suggestion="give a function that runs it to its end, say with asyncio.run or list",
            )
    classes = allowed if isinstance(allowed, (tuple, list)) else (allowed,)
    if not all(isinstance(each, type) and issubclass(each, BaseException) for each in classes):
        raise errors.ConfigError(f"sweep.allowed: takes classes of exceptions, not {errors.shown(allowed)}")
    return Plan(
        function=function,
        nth=None if nth is None else parse_count(nth, "sweep.nth", least=1),
        sticky=parse_bool(sticky, "sweep.sticky"),
        allowed=tuple(classes),
        leaks=parse_bool(leaks, "sweep.leaks"),
        per_site=None if per_site is None else parse_count(per_site, "sweep.per_site", least=1),
        most=_at_most(parse_count(most, "sweep.most", least=1), "sweep.most"),
        seconds=_time(seconds, "sweep.seconds"),
        timeout=_time(timeout, "sweep.timeout"),
        source=source_of(domains),  # last: it may want the core
    )


def _at_most(count: int, name: str) -> int:
    if count > _MOST:
        raise errors.ConfigError(f"{name}: takes at most {_MOST}, not {count}")
    return count


def _time(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not _LEAST <= value <= _LONGEST:
        raise errors.ConfigError(f"{name}: takes {_LEAST} to {_LONGEST:g} seconds, not {errors.shown(value)}")
    return float(value)


class _Sweep:
    """The calling process's side: starts the server, hears it, and ends it whatever happens."""

    def __init__(self, plan: Plan) -> None:
        if not hasattr(os, "fork"):
            raise errors.NativeUnavailable("a sweep needs fork, which this system does not have")
        self.plan = plan
        self.judge = Judge(plan.source.names, lambda nth: command(plan, nth))
        self.allocations = self.sites = self.attempts = self.unreached = 0
        self.stopped = ""
        #: when the server last began an attempt, as far as is known, and which that was
        self.turn, self.turned = 0, time.monotonic()

    def run(self) -> Findings:
        began = time.monotonic()
        shared = Shared(self.plan.source.report_size())
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as faults:
            receiver, sender = os.pipe()
            sys.stdout.flush()
            sys.stderr.flush()
            server = forked()
            if server == 0:
                try:
                    os.close(receiver)
                    Server(self.plan, shared, open(sender, "wb"), output, faults).serve()
                finally:
                    os._exit(1)
            os.close(sender)
            try:
                with open(receiver, "rb", buffering=0) as channel:
                    self.hear(channel, shared)
            finally:
                _end(server, shared)
        return self.judge.findings(
            domains=self.plan.source.names,
            allocations=self.allocations,
            sites=self.sites,
            attempts=self.attempts,
            unreached=self.unreached,
            stopped=self.stopped,
            seconds=time.monotonic() - began,
        )

    def hear(self, channel: BinaryIO, shared: Shared) -> None:
        while True:
            (size,) = struct.unpack("=q", self.received(channel, shared, 8))
            kind, *rest = pickle.loads(self.received(channel, shared, size))
            if kind == "counted":
                self.allocations, self.sites = rest
                self.check_count()
            elif kind == "attempt":
                self.judge.add(*rest)
            elif kind == "done":
                self.attempts, self.unreached, self.stopped = rest
                return
            else:
                raise _refusal(kind, *rest)

    def check_count(self) -> None:
        names = ", ".join(self.plan.source.names)
        if not self.allocations:
            raise errors.ConfigError(
                f"sweep: the function took nothing from {names}, so nothing was tried",
                suggestion="have it do more, or name another domain; a thread that it starts is not counted",
            )
        if self.plan.nth is not None and self.plan.nth > self.allocations:
            made = self.allocations
            raise errors.ConfigError(f"sweep.nth: the function makes {made} allocations, not {self.plan.nth}")

    def received(self, channel: BinaryIO, shared: Shared, size: int) -> bytes:
        data = b""
        while len(data) < size:
            if select.select([channel], [], [], 0.5)[0]:
                part = channel.read(size - len(data))
                if not part:
                    raise errors.NativeMemError("sweep: the server of the attempts ended without a word")
                data += part
            else:
                self.watch(shared)
        return data

    def watch(self, shared: Shared) -> None:
        """Ends an attempt that outlives its own alarm: the function has taken it away."""
        process, turn = shared.under_way()
        now = time.monotonic()
        if turn != self.turn:
            self.turn, self.turned = turn, now
        elif process and now - self.turned > 2 * self.plan.timeout + 1:
            _kill(process)
            self.turned = now


def _refusal(kind: str, what: Any) -> Exception:
    if kind == "fails":
        last = what.strip().splitlines()[-1]
        error = errors.ConfigError(
            f"sweep: the function fails without any refusal: {last}",
            suggestion=f"have it pass by itself first\n{what}",
        )
        return error
    if kind == "ends":
        attempt: Attempt = what
        how = f"signal {os.WTERMSIG(attempt.status)}" if os.WIFSIGNALED(attempt.status) else "its timeout"
        return errors.ConfigError(
            f"sweep: the function's process ends with {how} without any refusal",
            suggestion=f"have it pass by itself first\n{attempt.end_python}{attempt.output}",
        )
    return errors.NativeMemError(f"sweep: the server of the attempts failed\n{what}")


def _kill(process: int) -> None:
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return


def _end(server: int, shared: Shared) -> None:
    _kill(server)
    os.waitpid(server, 0)
    process, _ = shared.under_way()
    if process:
        try:
            os.killpg(process, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            return


def command(plan: Plan, nth: int) -> str:
    """How to see one attempt again."""
    given = [f"nth={nth}"]
    if plan.source.names != ("raw", "mem", "obj"):
        names = plan.source.names
        given.append(f"domains={(names[0] if len(names) == 1 else names)!r}")
    given += [f"{name}=True" for name in ("sticky", "leaks") if getattr(plan, name)]
    function = plan.function
    name = getattr(function, "__qualname__", type(function).__qualname__)
    call = f"sweep({name}, {', '.join(given)})"
    module = getattr(function, "__module__", None)
    seed = os.environ.get("PYTHONHASHSEED", "0")
    if module in (None, "__main__") or "<" in name:
        return f"{call}, under PYTHONHASHSEED={seed}"
    code = f"from nativemem.testing import sweep; from {module} import {name.partition('.')[0]}; print({call})"
    return f"PYTHONHASHSEED={seed} python -c {shlex.quote(code)}"
