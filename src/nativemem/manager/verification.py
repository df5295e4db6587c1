"""The verification engine: hooks, invariants, comparisons, and the account of all of it."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from ..backends import forks as _forks
from ..config import _bool, parse_count
from ..errors import ConfigError, CorruptionDetected, shown
from .checks import Entry, Ghost, backends_of
from .levels import Level

__all__ = ["Verification", "VerificationStats", "lock"]

#: operations after which a ledger is reconciled in debug
EVERY = 100

#: what is compared, and then changed, is so by one thread
lock = threading.RLock()
_forks.hold(lock)
_keys = itertools.count(1)


@dataclass(frozen=True)
class VerificationStats:
    """The account of a :class:`Verification`: its ``level``, the ``checks`` made so far, how many were
    ``failures``, the ``last_failure`` in words, how often hooks ``refused``, and the ``fuel`` that operations took
    (units of work, see :meth:`Level.cost`)."""

    level: Level
    checks: int
    failures: int
    last_failure: str | None
    refused: int
    fuel: int


class Verification:
    """How deep a manager or a provider checks, by what, and what came of it.

    Parameters: ``level``, a :class:`Level` or its name; ``backend``, ``"none"``, ``"checksum"``, ``"ghost"``, an
    object with the methods of ``nativemem.manager.checks.Nothing``, or several of these (None: as the level has
    it, a ledger from BASIC on and a checksum as well from SAMPLING on); ``debug``, whether a manager's ledger is
    reconciled every 100 operations; ``seed``, for the dice of SAMPLING (None: another each time). At OFF nothing
    is checked or counted, and there are no hooks.

    Raises :class:`ConfigError` for values that these do not take. Any thread.

    >>> from nativemem.manager import StdProvider, Verification
    >>> checks = Verification("full")
    >>> with StdProvider(verification=checks) as provider:
    ...     provider.write_bytes(0, b"data")
    >>> checks.stats.failures, checks.stats.fuel > 0
    (0, True)
    """

    def __init__(
        self,
        level: Level | str = Level.STANDARD,
        backend: Any = None,
        *,
        debug: bool = False,
        seed: int | None = None,
    ) -> None:
        self._level = Level.parse(level, "verification.level")
        if backend is None:
            ledger = () if self._level is Level.OFF else ("ghost",)
            backend = (*ledger, "checksum") if self._level.keeps_checksums else ledger
        self._backends = backends_of(backend)
        self._ghost = next((each for each in self._backends if isinstance(each, Ghost)), None)
        self._debug = _bool(debug, "verification.debug")
        self._random = random.Random(None if seed is None else parse_count(seed, "verification.seed"))
        self._invariants: dict[str, Callable[[], Any]] = {}
        self._checks = self._failures = self._refused = self._fuel = self._operations = 0
        self._last_failure: str | None = None

    @classmethod
    def of(cls, value: Any) -> Verification:
        """``value`` itself where it is a :class:`Verification`, else one of that level. Raises
        :class:`ConfigError` for what is neither. Any thread."""
        return value if isinstance(value, cls) else cls(Level.parse(value, "verification"))

    @property
    def level(self) -> Level:
        """The level that it was made with."""
        return self._level

    @property
    def stats(self) -> VerificationStats:
        """The account so far. Any thread."""
        with lock:
            return VerificationStats(
                self._level, self._checks, self._failures, self._last_failure, self._refused, self._fuel
            )

    def ledger(self) -> list[Entry]:
        """The live blocks of the managers that it is for, the oldest first: id, size, owner, site.

        Raises :class:`ConfigError` where no ``"ghost"`` is among the backends. Any thread.
        """
        if self._ghost is None:
            raise ConfigError("verification.backend: a ledger needs 'ghost'")
        with lock:
            return self._ghost.entries()

    def invariant(self, name: str, function: Callable[[], Any] | None = None) -> Any:
        """Registers what must always be true, for :meth:`check`.

        Parameters: ``name``, what messages call it, one more of the same name takes its place; ``function``,
        without parameters, which returns a reason or False where it does not hold. Without it this is a decorator.
        Raises :class:`ConfigError` for other values. Any thread.

        >>> from nativemem.manager import Verification
        >>> checks, queue = Verification("basic"), []
        >>> checks.invariant("short queue", lambda: len(queue) < 10)
        >>> checks.check()
        1
        """
        if not isinstance(name, str) or not name:
            raise ConfigError(f"verification.invariant: takes a name, not {shown(name)}")
        if function is None:
            return lambda later: (self.invariant(name, later), later)[1]
        if not callable(function):
            raise ConfigError(f"verification.invariant: takes a callable, not {shown(function)}")
        self._invariants[name] = function
        return None

    def check(self) -> int:
        """Checks every invariant, the ledgers of managers among them. Returns how many there are.

        Raises :class:`CorruptionDetected` for the first that does not hold. What an invariant raises goes through.
        Any thread; invariants run without a lock.
        """
        invariants = list(self._invariants.items())
        for name, function in invariants:
            answer = function()
            self.count(self._verdict(answer))
            if (reason := self._verdict(answer)) is not None:
                self.fail(f"invariant {name!r} does not hold{reason and ': '}{reason}")
        return len(invariants)

    @staticmethod
    def _verdict(answer: Any) -> str | None:
        """None where a callable is content, else its reason."""
        if answer is None or answer is True:
            return None
        return "" if answer is False else str(answer)

    # ---- for the room's own modules

    def spend(self, operation: str) -> None:
        """Adds the cost of an operation. Under the lock."""
        self._fuel += self._level.cost(operation)

    def count(self, wrong: str | None) -> None:
        with lock:
            self._checks += 1
            if wrong is not None:
                self._failures += 1

    def fail(self, what: str, **state: Any) -> NoReturn:
        """Notes a failure that was counted, and raises it."""
        with lock:
            self._last_failure = what
        raise CorruptionDetected(
            what,
            suggestion="look for code that writes by address or through a view that was kept; save what can be "
            "checked, and end the process",
            **state,
        )

    def compare(self, key: int, used: memoryview, importance: int, name: str) -> None:
        """Has the used bytes compared, where the level has it for this importance. Under the lock."""
        if not self._level.compares(importance, self._random.getrandbits(8)):
            return
        self.compare_now(key, used, name)

    def compare_now(self, key: int, used: memoryview, name: str) -> None:
        self.spend("checksum")
        for backend in self._backends:
            wrong = backend.compare(key, used)
            self.count(wrong)
            if wrong is not None:
                self.fail(f"{name}: {wrong}", used=len(used))

    def tell(self, method: str, *args: Any) -> None:
        """Tells every backend. Under the lock."""
        for backend in self._backends:
            getattr(backend, method)(*args)

    def is_due(self) -> bool:
        """Counts an operation; whether a ledger is to be reconciled after it. Under the lock."""
        self._operations += 1
        return self._debug and self._operations % EVERY == 0


def new_key() -> int:
    """A number that nothing else of the room has, for a block or for the bytes of a provider."""
    return next(_keys)
