"""The verification engine: hooks, invariants, comparisons, and the account of all of it.

The values that it returns do not change: any thread may read them.
"""

from __future__ import annotations

import itertools
import random
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn, TypeVar

from ..backends import forks
from ..config import parse_bool, parse_count
from ..errors import ConfigError, CorruptionDetected, OperationRefused, shown
from ..levels import FUEL, MUTATION, Level
from .checks import Entry, Ghost, backends_of, told

__all__ = ["Event", "Verification", "VerificationStats", "lock"]

HOOKS = ("pre_allocate", "post_allocate", "pre_deallocate", "post_deallocate")
#: operations after which a ledger is reconciled in debug
EVERY = 100

#: the least importance at which contents are compared; at SAMPLING the dice say it
NEVER = 256
_LEAST = {Level.STANDARD: MUTATION, Level.FULL: 0, Level.REDUNDANT: 0}

#: what is compared, and then changed, is so by one thread
lock = threading.RLock()
forks.hold(lock)
_keys = itertools.count(1)

H = TypeVar("H", bound=Callable[..., Any])


class Event(NamedTuple):
    """What a hook is told: which ``hook`` it is, the ``id`` of the block (0 before there is one), the ``owner``'s
    name, the ``size`` in bytes and the ``provider`` that the manager chose (small, medium, large or heap)."""

    hook: str
    id: int
    owner: str | None
    size: int
    provider: str


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
        self._keeps = self._level.keeps_checksums
        self._costs = {operation: self._level.cost(operation) for operation in FUEL}
        self._least = _LEAST.get(self._level, NEVER)
        self._backends = backends_of(backend)
        self._told = told(self._backends)
        self._ghost = next((each for each in self._backends if isinstance(each, Ghost)), None)
        self._debug = parse_bool(debug, "verification.debug")
        self._random = random.Random(None if seed is None else parse_count(seed, "verification.seed"))
        self._hooks: dict[str, list[Callable[[Event], Any]]] = {hook: [] for hook in HOOKS}
        self._invariants: dict[str, Callable[[], Any]] = {}
        self._checks = self._failures = self._refused = self._fuel = self._operations = 0
        self._last_failure: str | None = None
        #: what takes out of a manager's ledger the blocks that are gone
        self._books: dict[str, Callable[[], Any]] = {}
        #: keys of what was collected, which may happen anywhere: told to the backends later, under the lock
        self._gone: deque[int] = deque()

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
            for settle in list(self._books.values()):
                settle()
            self._settle()
            return self._ghost.entries()

    def on(self, hook: str) -> Callable[[H], H]:
        """Decorates a function that is called with an :class:`Event` around each allocation of a manager.

        Parameter: ``hook``, ``"pre_allocate"``, ``"post_allocate"``, ``"pre_deallocate"`` or
        ``"post_deallocate"``. One of the two that begin with ``pre`` refuses by what it returns: a reason, or
        False. The call then raises :class:`OperationRefused` and nothing has changed. What it raises goes through;
        from a ``post`` hook to the caller, after the fact. Hooks run in the thread of the call, without a lock.
        Raises :class:`ConfigError` for another name, and at OFF, which has none.

        >>> from nativemem.manager import MemoryManager, Verification
        >>> checks = Verification("basic")
        >>> @checks.on("pre_allocate")
        ... def no_large_ones(event):
        ...     return "too large" if event.size > 1000 else None
        >>> manager = MemoryManager({"decoder": 4096}, verification=checks)
        >>> try:
        ...     manager.allocate("decoder", 2000)
        ... except Exception as error:
        ...     print(error)
        manager.allocate: refused by no_large_ones: too large
        """
        if hook not in self._hooks:
            raise ConfigError(f"verification.on: takes {', '.join(HOOKS)}, not {shown(hook)}")
        if self._level is Level.OFF:
            raise ConfigError("verification.on: at OFF there are no hooks; take another level")

        def register(function: H) -> H:
            if not callable(function):
                raise ConfigError(f"verification.on: takes a callable, not {shown(function)}")
            self._hooks[hook].append(function)
            return function

        return register

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
            self._count(self._verdict(answer))
            if (reason := self._verdict(answer)) is not None:
                self._fail(f"invariant {name!r} does not hold{reason and ': '}{reason}")
        return len(invariants)

    @staticmethod
    def _verdict(answer: Any) -> str | None:
        """None where a callable is content, else its reason."""
        if answer is None or answer is True:
            return None
        return "" if answer is False else str(answer)

    # ---- for the room's own modules

    def _spend(self, operation: str) -> None:
        """Adds the cost of an operation. Under the lock."""
        self._fuel += self._costs[operation]
        if self._gone:
            self._settle()

    def _settle(self) -> None:
        while self._gone:
            self._tell("closed", self._gone.popleft())

    def _later(self, key: int) -> None:
        """Has the backends told that something is gone. Takes no lock: for finalisers."""
        self._gone.append(key)

    def _count(self, wrong: str | None) -> None:
        with lock:
            self._checks += 1
            if wrong is not None:
                self._failures += 1

    def _fail(self, what: str, **state: Any) -> NoReturn:
        """Notes a failure that was counted, and raises it."""
        with lock:
            self._last_failure = what
        raise CorruptionDetected(
            what,
            suggestion="look for code that writes by address or through a view that was kept; save what can be "
            "checked, and end the process",
            **state,
        )

    def _compare(self, key: int, used: memoryview, importance: int, name: str) -> None:
        """Has the used bytes compared, where the level has it for this importance. Under the lock."""
        if self._is_compared(importance):
            self._compare_now(key, used, name)

    def _is_compared(self, importance: int) -> bool:
        """As :meth:`Level.compares`, by what was found out before."""
        if self._level is Level.SAMPLING:
            return self._random.getrandbits(8) < importance
        return importance >= self._least

    def _compare_now(self, key: int, used: memoryview, name: str) -> None:
        self._spend("checksum")
        for backend in self._backends:
            wrong = backend.compare(key, used)
            self._count(wrong)
            if wrong is not None:
                self._fail(f"{name}: {wrong}", used=len(used))

    def _tell(self, method: str, *args: Any) -> None:
        """Tells every backend that has a use for it. Under the lock."""
        for tell in self._told[method]:
            tell(*args)

    def _run(self, hook: str, event: Event, call: str) -> None:
        """Runs the hooks of one kind. Raises :class:`OperationRefused`."""
        for function in self._hooks[hook]:
            answer = function(event)
            if hook.startswith("pre") and (reason := self._verdict(answer)) is not None:
                with lock:
                    self._refused += 1
                name = getattr(function, "__name__", type(function).__name__)
                raise OperationRefused(
                    f"manager.{call}: refused by {name}{reason and ': '}{reason}",
                    hook=hook,
                    reason=reason,
                    requested=event.size,
                    owner=event.owner,
                )

    def _is_due(self) -> bool:
        """Counts an operation; whether a ledger is to be reconciled after it. Under the lock."""
        self._operations += 1
        return self._debug and self._operations % EVERY == 0


def new_key() -> int:
    """A number that nothing else of the room has, for a block or for the bytes of a provider."""
    return next(_keys)
