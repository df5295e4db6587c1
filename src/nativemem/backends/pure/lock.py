"""The pure backend's one lock."""

from __future__ import annotations

import collections
import functools
import gc
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from ..._unraisable import unraisable
from .. import forks as _forks

F = TypeVar("F", bound=Callable[..., Any])


class Lock:
    """The backend's one lock; see dataplane.py. The collector is off while it is held.

    A finaliser that the collector runs may wait for a thread (to write a log, say) that in turn waits for
    this lock; then neither would go on.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        #: how often this thread has entered
        self.depth = 0
        self._resume = False
        # of its own: views are released also where the interpreter is at its end, and has taken modules apart
        self._is_enabled, self._enable, self._disable = gc.isenabled, gc.enable, gc.disable
        #: what finalisers left to do; only the thread that has the lock touches it
        self._late: collections.deque[tuple[Callable[[Any], object], Any]] = collections.deque()
        #: At which depth a finaliser does its work. Deeper, it has come into the midst of a call of this thread's:
        #: a signal handler let go of something; or another thread did, and a free-threaded interpreter has the
        #: thread that made it finalise it, wherever that is. What the call is changing is not to be changed under
        #: it: the finaliser is put off until its end.
        self.at_once = 1
        _forks.hold(self._lock, inner=True)

    # Here and in __exit__ nothing is allocated while the lock is held and the collector on.
    def __enter__(self) -> None:
        try:
            self._lock.acquire()
            self.depth += 1  # first: a profiler's or a signal's code may come in at the calls below
            if self.depth == 1:
                self._resume = self._is_enabled()
                self._disable()
                if self._late:
                    self._catch_up()
        except BaseException:  # an interrupt
            if self._lock._is_owned():  # type: ignore[attr-defined]
                self.depth = max(self.depth, 1)
                self.__exit__()
            raise

    # not *error: where there is no memory for the tuple the lock would stay held
    def __exit__(self, kind: object = None, error: object = None, trace: object = None) -> None:
        try:
            if self._late and self.depth == 1:
                self._catch_up()
        finally:
            if self.depth == 1 and self._resume:
                self._enable()
            self.depth -= 1
            self._lock.release()

    def put_off(self, call: Callable[[Any], object], thing: Any) -> bool:
        """Has ``call(thing)`` done when this thread leaves. False: there is no memory for that, and now is better
        than never."""
        try:
            self._late.append((call, thing))
        except MemoryError:
            return False
        return True

    def finalise(self, call: Callable[[], object]) -> None:
        """Calls it with the lock, from a finaliser; it may be put off."""
        with self:
            if self.depth <= self.at_once or not self.put_off(self.finalise, call):
                call()

    def _catch_up(self) -> None:
        self.at_once = 2
        try:
            while self._late:
                self._do_next()
        finally:
            self.at_once = 1

    def _do_next(self) -> None:
        """What it lets go of has gone when it returns; that may put off more."""
        call, thing = self._late.popleft()
        try:
            call(thing)
        except Exception:  # a finaliser's, and not of the call that it meets here
            unraisable("Exception ignored in a finaliser that had waited", call)


lock = Lock()


def locked(method: F) -> F:
    """Of a method that has the lock."""

    @functools.wraps(method)
    def inside(*args: Any, **kwargs: Any) -> Any:
        with lock:
            return method(*args, **kwargs)

    return inside  # type: ignore[return-value]
