"""The process that makes the attempts of a sweep: forked once, warm from then on, and the parent of each.

It never returns to the code that called :func:`sweep`. The function runs in its children, and in itself only to
warm up, once a child has shown that this ends well.
"""

from __future__ import annotations

import array
import contextlib
import dis
import faulthandler
import functools
import gc
import itertools
import mmap
import os
import pickle
import signal
import struct
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, BinaryIO, NoReturn, Protocol

from .injection_report import Attempt, Shared
from .repetitions import settle

__all__ = ["Plan", "Server", "Source", "forked", "send"]

#: runs before anything is counted: imports, caches, and instructions that are specialized after some eight runs; at
#: least the first number, at most the second, and no more of them once so many seconds are over
_WARM = (3, 12, 0.2)
#: failing runs in one process, of which the last ones count: what fails has its instructions specialized, too.
#: Where these grow, as many are made once more, and what most of all of these keep is told
_REPEATS, _COUNTED = 14, 6
#: bytes that are read of what an attempt wrote
_TEXT = 4096
#: attempts that are all made, before sites are sampled
EXHAUSTIVE = 2000
#: of a site, where they are sampled: the first, the last, and one between
PER_SITE = 3


class Source(Protocol):
    """What takes memory. ``domains``: the names of what is refused."""

    @property
    def names(self) -> tuple[str, ...]: ...
    def report_size(self) -> int: ...
    def open(self, shared: Shared) -> None: ...
    def call(self, function: Callable[[], Any], nth: int, sticky: bool, sites: mmap.mmap | None) -> Any: ...
    def counted(self, shared: Shared) -> tuple[int, int]: ...
    def live(self, shared: Shared) -> int: ...


@dataclass(frozen=True)
class Plan:
    """What :func:`sweep` was asked for; its docstring says what each is."""

    function: Callable[[], Any]
    source: Source
    nth: int | None
    sticky: bool
    allowed: tuple[type[BaseException], ...]
    leaks: bool
    per_site: int | None
    most: int
    seconds: float
    timeout: float


def forked() -> int:
    """``os.fork``, which since 3.12 warns of other threads: none of them is needed in the child."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def send(channel: BinaryIO, *message: Any) -> None:
    data = pickle.dumps(message)
    channel.write(struct.pack("=q", len(data)) + data)
    channel.flush()


class Server:
    def __init__(self, plan: Plan, shared: Shared, channel: BinaryIO, output: BinaryIO, faults: BinaryIO) -> None:
        self.plan, self.shared, self.channel = plan, shared, channel
        self.output, self.faults = output, faults
        #: the function's result, where two runs gave equal ones
        self.result: Any = None
        self.comparable = False
        #: it leaves threads behind, which no fork takes along: each attempt has to warm up by itself
        self.warm_each = False
        #: it ends the process itself, with this status
        self.exits: int | None = None
        self.began = time.monotonic()

    def serve(self) -> NoReturn:
        """In the server's process: all of it, to its end."""
        status = 1
        try:
            self.detach()
            self.plan.source.open(self.shared)
            self.sweep()
            status = 0
        except BaseException:
            with contextlib.suppress(BaseException):
                send(self.channel, "broken", traceback.format_exc())
        finally:
            os._exit(status)

    def detach(self) -> None:
        """From all that belongs to the process before: its terminal, its streams, its tools that look on."""
        os.setpgid(0, 0)
        with open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        for descriptor in (1, 2):
            os.dup2(self.output.fileno(), descriptor)
        sys.stdout = open(1, "w", encoding="utf-8", errors="replace", closefd=False)
        sys.stderr = open(2, "w", encoding="utf-8", errors="replace", closefd=False)
        sys.unraisablehook = _ignore
        sys.settrace(None)
        sys.setprofile(None)
        monitoring: Any = getattr(sys, "monitoring", None)  # since 3.12
        for tool in range(6) if monitoring is not None else ():
            if monitoring.get_tool(tool) is not None:
                monitoring.set_events(tool, 0)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        gc.collect()
        gc.freeze()  # what there is now is no attempt's garbage, and each attempt collects often
        _no_cores()
        faulthandler.enable(self.faults, all_threads=False)
        faulthandler.register(signal.SIGALRM, self.faults, all_threads=False, chain=True)

    # ---- attempts --------------------------------------------------------------------------------------

    def attempt(self, nth: int, run: Callable[[], None]) -> Attempt:
        """Runs ``run`` in a child, and returns what is known of its end."""
        for file in (self.output, self.faults):
            os.ftruncate(file.fileno(), 0)
            os.lseek(file.fileno(), 0, os.SEEK_SET)
        self.shared.begin()
        child = forked()
        if child == 0:
            try:
                os.setpgid(0, 0)
                signal.setitimer(signal.ITIMER_REAL, self.plan.timeout)
                run()
            except BaseException:
                with contextlib.suppress(BaseException):
                    self.shared.say(broken=traceback.format_exc())
            os._exit(0)
        self.shared.runs(child)
        _, status = os.waitpid(child, 0)
        with contextlib.suppress(OSError):  # what the function left running
            os.killpg(child, signal.SIGKILL)
        return self.shared.read(nth, status)

    def call(self, nth: int, sticky: bool = False, sites: mmap.mmap | None = None) -> Any:
        """The function's result. A child of the function's own that comes back here is none of the sweep's."""
        process = os.getpid()
        gc.collect()  # which empties the interpreter's free lists, too: it is the same each time
        try:
            return self.plan.source.call(self.plan.function, nth, sticky, sites)
        finally:
            if os.getpid() != process:
                os._exit(0)

    def numbers(self) -> dict[str, int]:
        allocations, refused = self.plan.source.counted(self.shared)
        return {"allocations": allocations, "refused": refused}

    def trial(self) -> None:
        """In a child: whether the function does without a refusal, and what it leaves."""
        before = _threads()  # a library may start some in each child of a fork
        first = self.call(0)
        leaves = bool(_threads() - before)
        self.shared.say(threads=leaves, comparable=leaves and _same(first, self.call(0)))

    def warm(self) -> None:
        """In an attempt, where the server could not."""
        if self.warm_each:
            self.result = self.call(0)

    def refuse(self, nth: int, sites: mmap.mmap | None = None) -> None:
        """In a child: one attempt. With number 0 nothing is refused, and the rest is the same."""
        self.warm()
        said: dict[str, Any] = {}
        result = None
        try:
            result = self.call(nth, self.plan.sticky, sites)
        except BaseException as error:
            said = self.judged(error)
        else:
            if self.comparable and not _same(result, self.result):
                said = {"kind": "wrong result", "detail": f"{_short(result)} instead of {_short(self.result)}"}
            result = None
        said |= self.numbers()
        self.shared.say(**said)
        if "kind" in said:
            self.describe()
            return
        if said["refused"]:
            self.after(nth, said)

    def describe(self) -> None:
        if self.shared.native:
            from ..backends.native.loader import dataplane

            dataplane.injection_named()

    def after(self, nth: int, said: dict[str, Any]) -> None:
        """What only shows once the refusal is over: damage, a lock that is held, blocks that are kept."""
        gc.collect()
        if self.plan.leaks:
            self.repeat(nth, said)
        try:
            result = self.call(0)
        except BaseException as error:
            said |= {
                "kind": "not usable afterwards",
                "detail": f"then raised {_named(error)}",
                "traceback": _lines(error),
            }
        else:
            if self.comparable and not _same(result, self.result):
                said |= {
                    "kind": "not usable afterwards",
                    "detail": f"then gave {_short(result)} instead of {_short(self.result)}",
                }
            result = None
            gc.collect()
        if "kind" in said:
            self.describe()
        self.shared.say(**said)

    def repeat(self, nth: int, said: dict[str, Any]) -> None:
        live = array.array("q", bytes(8 * (_REPEATS + _COUNTED)))
        for i in range(len(live)):
            if i == _REPEATS and not _grows(live[i - _COUNTED : i]):
                return
            self.fail(nth)
            settle()
            if not self.plan.source.counted(self.shared)[1]:
                return  # it does not come so far any more
            live[i] = self.plan.source.live(self.shared)
        if _grows(live[-_COUNTED:]):
            kept = max(1, _most_often(live[_REPEATS - _COUNTED :]))
            said |= {"kind": "leak", "detail": f"{kept} block{'s' * (kept != 1)} each time"}

    def fail(self, nth: int) -> None:
        with contextlib.suppress(BaseException):
            self.call(nth, self.plan.sticky)

    def judged(self, error: BaseException) -> dict[str, Any]:
        """What an exception says of the attempt; empty where it is as it should be."""
        if isinstance(error, SystemError):
            text = str(error)
            kind = "wrong exception"
            if "without" in text and "exception" in text:
                kind = "no exception"
            elif "with an exception set" in text:
                kind = "stray exception"
        elif _is_want(error) or isinstance(error, self.plan.allowed):
            return {}
        else:
            kind = "wrong exception"
        said = {"kind": kind, "detail": _named(error), "traceback": _lines(error)}
        return said | {"raised": _is_raised(error.__traceback__)}

    # ---- the sweep -------------------------------------------------------------------------------------

    def sweep(self) -> None:
        if not self.warm_up():
            return
        sites = mmap.mmap(-1, 8 * self.plan.most)
        attempt = self.attempt(0, functools.partial(self.refuse, 0, sites))
        if not self.ended_well(attempt):
            return
        allocations = (attempt.said or {}).get("allocations", attempt.allocations)
        seen: Sequence[int] = struct.unpack_from(f"={min(allocations, self.plan.most)}Q", sites)
        if not any(seen):  # of this source no stacks are known
            seen = range(len(seen))
        send(self.channel, "counted", allocations, len(set(seen)))
        failed: set[int] = set()
        attempts = unreached = 0
        stopped = f"it makes more than most={self.plan.most}" if allocations > self.plan.most else ""
        for nth, is_known in self.numbers_of(seen):
            if is_known and seen[nth - 1] in failed:
                continue
            if time.monotonic() - self.began > self.plan.seconds:
                stopped = f"{self.plan.seconds:g} seconds were over"
                break
            attempt = self.attempt(nth, functools.partial(self.refuse, nth))
            if "broken" in (attempt.said or {}):  # of the function that says nothing
                attempt = self.attempt(nth, functools.partial(self.refuse, nth))
            attempts += 1
            if attempt.said is not None and not attempt.said.get("refused", 1):
                unreached += 1
            elif self.is_fault(attempt):
                failed.add(seen[nth - 1])
                if not attempt.c:  # it ended before it could name them
                    self.describe()
                    attempt.c = self.shared.read(nth, 0).c
                self.written(attempt)
                send(self.channel, "attempt", attempt)
        send(self.channel, "done", attempts, unreached, stopped)

    def warm_up(self) -> bool:
        """False: the function does not do by itself, and the sweep has been told."""
        attempt = self.attempt(0, self.trial)
        if attempt.said is None and os.WIFEXITED(attempt.status) and not attempt.signal:
            self.exits = attempt.status
        elif not self.ended_well(attempt):
            return False
        else:
            assert attempt.said is not None
            self.warm_each, self.comparable = attempt.said["threads"], attempt.said["comparable"]
        if self.exits is None and not self.warm_each:
            least, most, seconds = _WARM
            began = time.monotonic()
            for i in range(most):
                before, self.result = self.result, self.call(0)
                if i + 1 >= least and time.monotonic() - began > seconds:
                    break
            self.comparable = _same(before, self.result)
            del before
        gc.collect()
        gc.disable()  # from now on, the same allocations each time
        gc.freeze()
        return True

    def ended_well(self, attempt: Attempt) -> bool:
        """Of one without a refusal."""
        said = attempt.said
        if said is not None and not {"broken", "kind"} & said.keys():
            return True
        if said is None and self.exits is not None and attempt.status == self.exits:
            return True
        if said is not None:
            send(self.channel, "fails", said.get("broken") or said["detail"])
        else:
            self.written(attempt)
            send(self.channel, "ends", attempt)
        return False

    def is_fault(self, attempt: Attempt) -> bool:
        if attempt.said is None:
            return attempt.status != self.exits
        return "kind" in attempt.said or "broken" in attempt.said or attempt.status not in (0, self.exits)

    def numbers_of(self, seen: Sequence[int]) -> Iterator[tuple[int, bool]]:
        """Which allocations are refused, in turn, and whether that place has been tried before."""
        per_site = self.plan.per_site
        if self.plan.nth is not None:
            yield self.plan.nth, False
            return
        if per_site is None and len(seen) <= EXHAUSTIVE:
            yield from ((nth, False) for nth in range(1, len(seen) + 1))
            return
        places: dict[int, list[int]] = {}
        for nth, site in enumerate(seen, 1):
            places.setdefault(site, []).append(nth)
        turns = [_spread(numbers, PER_SITE if per_site is None else per_site) for numbers in places.values()]
        for turn in range(max(map(len, turns))):
            yield from ((numbers[turn], turn > 0) for numbers in turns if turn < len(numbers))

    def written(self, attempt: Attempt) -> None:
        """What it wrote first: a panic's message, faulthandler's innermost frames."""
        attempt.output = os.pread(self.output.fileno(), _TEXT, 0).decode("utf-8", "replace")
        attempt.end_python = os.pread(self.faults.fileno(), _TEXT, 0).decode("utf-8", "replace")


def _grows(live: Sequence[int]) -> bool:
    """Whether it does steadily: what looks on, at collections say, may take or give a block now and then."""
    return live[-1] - live[0] > (len(live) - 1) // 2


def _most_often(live: Sequence[int]) -> int:
    """By how much it grows most often; the more of two."""
    steps = [after - before for before, after in itertools.pairwise(live)]
    return max(steps, key=lambda step: (steps.count(step), step))


def _spread(numbers: list[int], count: int) -> list[int]:
    """The first, the last, and others between, evenly."""
    if len(numbers) <= count:
        return numbers
    if count == 1:
        return numbers[:1]
    middle = [numbers[i * (len(numbers) - 1) // (count - 1)] for i in range(1, count - 1)]
    return [numbers[0], numbers[-1], *middle]


def _ignore(unraisable: Any) -> None:
    """In place of ``sys.unraisablehook``: what it is told of is a MemoryError, most often."""


def _no_cores() -> None:
    import resource

    # 1: too small for a file, and for a pipe the one limit that the kernel heeds
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (1, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def _threads() -> set[object]:
    try:
        return set(os.listdir("/proc/self/task"))
    except OSError:
        return set(threading.enumerate())


def _same(a: Any, b: Any) -> bool:
    try:
        return bool(type(a) is type(b) and a == b)
    except BaseException:
        return False


def _is_want(error: BaseException) -> bool:
    """A MemoryError, or what was raised ``from`` one, or a group of such."""
    group = getattr(error, "exceptions", None)
    if isinstance(group, tuple) and group:
        return all(map(_is_want, group))
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        if isinstance(cause, MemoryError):
            return True
        seen.add(id(cause))
        cause = cause.__cause__
    return False


def _short(value: Any) -> str:
    try:
        text = " ".join(repr(value).split())
    except BaseException:
        text = f"some {type(value).__name__}"
    return text if len(text) <= 120 else text[:117] + "..."


def _named(error: BaseException) -> str:
    name = type(error).__qualname__
    try:
        text = " ".join(str(error).split())[:300]
    except BaseException:
        text = "(it has no text)"
    return f"{name}: {text}" if text else name


def _lines(error: BaseException) -> list[tuple[str, int, str]]:
    """File, line and function of its traceback, innermost first."""
    try:
        rows = [(f.filename, f.lineno or 0, f.name) for f in traceback.extract_tb(error.__traceback__)]
    except BaseException:
        return []
    return rows[::-1][:32]


def _is_raised(tb: TracebackType | None) -> bool:
    """Whether Python code has a ``raise`` there, rather than a call of C code that failed."""
    if tb is None:
        return False
    while tb.tb_next is not None:
        tb = tb.tb_next
    code, at = tb.tb_frame.f_code, tb.tb_lasti
    return any(i.offset == at and i.opname.startswith(("RAISE", "RERAISE")) for i in dis.get_instructions(code))
