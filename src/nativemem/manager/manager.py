"""The manager: one entry point for an application's memory, with a budget for each owner.

Owners are budgets below one total. A block is charged to the total and to its owner before memory is taken, by the
allocator in front of the heap, all or nothing. By size a manager tells small, medium and large blocks from those of
the process's heap; each owner has one allocator for each. At verification OFF that is all there is; at other levels
the manager is of a subclass whose calls run the checks.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from ..allocators.base import wipe
from ..backends import forks
from ..budgets.lending import Loan, Move, SharingPolicy
from ..errors import BudgetExceeded, CapacityExceeded, ConfigError, ForeignBlock, shown
from ..facades import configured
from ..levels import Level
from ..refusals import name_of, space
from ..sizes import format_size, parse_size
from . import configuration
from .configuration import MAX_SINGLE, PRESETS, PROVIDERS, Configuration
from .provider import Provider, source
from .providers import default_provider
from .scoped import Scoped, caller
from .verification import Verification, VerificationStats

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..allocators.base import Allocator
    from ..allocators.block import Block
    from ..budgets.budget import Budget

__all__ = ["ManagerStats", "MemoryManager", "OwnerStats"]

#: makes owners, and the allocators of each
_making = threading.RLock()
forks.hold(_making)


#: by kind of collection its class, and how many formats it takes
KINDS = {
    "list": ("BoundedList", 1),
    "stack": ("BoundedStack", 1),
    "queue": ("BoundedQueue", 1),
    "deque": ("BoundedDeque", 1),
    "set": ("BoundedSet", 1),
    "map": ("BoundedMap", 2),
    "bitset": ("BoundedBitSet", 0),
    "string": ("BoundedString", 0),
}


@dataclass(frozen=True)
class OwnerStats:
    """An owner at one moment, for any thread: bytes ``used``, the highest so far (``peak``), the ``limit`` with
    what was borrowed and lent, bytes ``lent`` to others, requests ``denied``, and the ``pressure``."""

    used: int
    peak: int
    limit: int
    lent: int
    denied: int
    pressure: str


@dataclass(frozen=True)
class ManagerStats:
    """A manager at one moment, for any thread: the ``total`` and each of the ``owners`` as :class:`OwnerStats`;
    live blocks by ``providers`` (small, medium, large, heap), and the ``verification``'s account."""

    total: OwnerStats
    owners: dict[str, OwnerStats]
    providers: dict[str, int]
    verification: VerificationStats


def _of(budget: Any) -> OwnerStats:
    return OwnerStats(budget.used, budget.peak, budget.limit, budget.lent, budget.denied, str(budget.pressure))


class _Owner:
    """An owner's budget and, by size of block, its allocators; None until they are needed."""

    __slots__ = ("budget", "contents", "name", "routes")

    def __init__(self, name: str, budget: Any) -> None:
        self.name, self.budget = name, budget
        self.routes: list[Any] = [None] * len(PROVIDERS)
        self.contents: Any = None  # what providers take from


class MemoryManager:
    """All memory of an application: owners with budgets below one total.

    Parameters: ``owners``, by name their limit, a size such as ``"512 KiB"``, or a mapping with ``limit`` and any
    of ``minimum`` (bytes that lending leaves), ``warn``, ``critical`` (fractions where pressure begins) and
    ``lends_to`` (names; None: any); ``total``, a size (None: the sum of the limits); ``policy``:

    * ``"permissive"``: an owner that there is not is made when it is asked for, with the total as its limit;
    * ``"strict"``: it is a :class:`ConfigError`;
    * ``"safety-critical"``: as strict; no single request above a tenth of the total. After :meth:`lock` nothing is
      allocated, as under each policy.

    ``overcommit``: whether the limits may be more than the total together; ``auto_rebalance``: an owner that would
    be refused takes unused limit from others first; ``thresholds``, the largest ``small`` (8 KiB), ``medium``
    (64 KiB) and ``large`` (1 MiB) block; ``above``, where larger ones come from: ``"heap"``, or ``"error"``;
    ``tier`` of providers and collections: ``"std"``, ``"alloc"`` or ``"static"`` (None: as
    :func:`default_provider` has it); ``verification``, a level, its name, or a :class:`Verification`;
    ``upstream``, an allocator that any thread may use (None: a heap of the manager's own, and for ``above`` the
    system's).

    Raises :class:`ConfigError` for values that these do not take; the message has the path of each. Any thread may
    call any method.

    >>> from nativemem.manager import MemoryManager
    >>> manager = MemoryManager({"decoder": "512 KiB", "cache": "256 KiB"}, total="1 MiB", policy="strict")
    >>> block = manager.allocate("decoder", 1000)
    >>> block.size, block.owner.name, block.allocator.provider, manager.stats.total.used
    (1000, 'decoder', 'small', 1000)
    >>> manager.deallocate(block)
    >>> manager.total.used
    0
    """

    _default: ClassVar[MemoryManager | None] = None

    def __new__(cls, *args: Any, verification: Any = None, **rest: Any) -> Self:
        """At OFF an object of the class itself, whose code has no checks; at any other level one of a subclass."""
        if verification is None or Verification.of(verification).level is Level.OFF:
            return super().__new__(cls)
        from .ledger import verified

        kind: Any = cls
        return super().__new__(verified(kind))

    def __init__(
        self,
        owners: Mapping[str, Any] | None = None,
        total: int | str | None = None,
        policy: str = "permissive",
        *,
        overcommit: bool = False,
        auto_rebalance: bool = False,
        thresholds: Mapping[str, int | str] | None = None,
        above: str = "heap",
        tier: str | None = None,
        verification: Any = None,
        upstream: Allocator | None = None,
    ) -> None:
        given = {
            "owners": {} if owners is None else owners,
            "total": total,
            "policy": policy,
            "overcommit": overcommit,
            "auto_rebalance": auto_rebalance,
            "thresholds": {} if thresholds is None else thresholds,
            "above": above,
            "tier": tier,
        }
        made = configuration.read({key: each for key, each in given.items() if each is not None}, "manager.")
        self._set_up(made, upstream, "off" if verification is None else verification)

    @classmethod
    def _made(cls, made: Configuration, upstream: Any = None, verification: Any = None) -> MemoryManager:
        """One of a configuration, whose verification ``verification`` replaces."""
        if verification is None:
            verification = made.verification
        self: MemoryManager = cls.__new__(cls, verification=verification)
        self._set_up(made, upstream, verification)
        return self

    def _set_up(self, made: Configuration, upstream: Any, verification: Any) -> None:
        heap = upstream = None if upstream is None else source(upstream, "manager.upstream")
        binding = configured() if upstream is None else upstream._binding
        if heap is None:
            heap, upstream = binding.Heap(), binding.default_system
        elif upstream._confined() is not None:
            raise ConfigError(
                f"manager.upstream: takes an allocator that any thread may use, not {upstream.describe()}",
                suggestion="put a Locked in front of it",
            )
        self._configuration, self._binding = made, binding
        self._sources = heap, heap, heap, upstream
        self._small, self._medium, self._large = made.small, made.medium, made.large
        self._route_type = _route_type(binding)
        strictest = MAX_SINGLE if made.policy == "safety-critical" else None
        self._total = binding.Budget(made.limit, "total", max_single=strictest, auto_rebalance=made.auto_rebalance)
        self._owners: dict[str, _Owner] = {}
        for name, owner in made.owners.items():
            policy = None if owner.lends_to is None else SharingPolicy(borrowers=owner.lends_to)
            self._add(
                name, owner.limit, minimum=owner.minimum, warn=owner.warn, critical=owner.critical, sharing=policy
            )

        self._verification = Verification.of(verification)
        self._begin()

    def _begin(self) -> None:
        """The end of the making, for a subclass."""

    def _add(self, name: str, limit: int, **options: Any) -> _Owner:
        made = _Owner(name, self._binding.Budget(limit, name, self._total, **options))
        self._owners[name] = made
        return made

    @classmethod
    def preset(cls, name: str, **changes: Any) -> MemoryManager:
        """One made as a preset has it: ``"embedded"``, ``"desktop"`` or ``"server"``.

        ``changes``: parameters of the class that differ. Raises as the class. Any thread.

        >>> from nativemem.manager import MemoryManager
        >>> manager = MemoryManager.preset("embedded", owners={"decoder": "1 MiB"})
        >>> manager.policy, manager.total.limit, manager.verification.level.value
        ('safety-critical', 8388608, 'standard')
        """
        if not isinstance(name, str) or name not in PRESETS:
            raise ConfigError(f"manager.preset: takes {', '.join(PRESETS)}, not {shown(name)}")
        upstream, verification = changes.pop("upstream", None), changes.pop("verification", None)
        made = configuration.read({"preset": name, **changes}, "manager.")
        return cls._made(made, upstream, verification)

    @classmethod
    def from_toml(cls, path: Any, *, upstream: Allocator | None = None, verification: Any = None) -> MemoryManager:
        """One made as a TOML file has it. The keys are the parameters of the class; ``preset`` names what the
        others differ from, ``owners`` and ``thresholds`` are tables.

        Parameters: ``path`` of the file; ``upstream`` and ``verification`` as for the class, where the file cannot
        say it. Raises :class:`ConfigError` that names every key that is wrong, as ``owners.cache.limit``, for what
        is no TOML, and on Python 3.10 without ``tomli``; :class:`OSError` where there is no file. Any thread.

        >>> import tempfile
        >>> from pathlib import Path
        >>> from nativemem.manager import MemoryManager
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "memory.toml")
        ...     _ = path.write_text("total = '1 MiB'\\nowners = {cache = '256 KiB'}")
        ...     manager = MemoryManager.from_toml(path)
        >>> manager.total.limit, manager.owner("cache").limit
        (1048576, 262144)
        """
        made = configuration.read_toml(path)
        return cls._made(made, upstream, verification)

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> MemoryManager:
        """One made as ``NATIVEMEM_MANAGER`` has it: a preset, or the path of a TOML file; without it the preset
        ``desktop``. ``NATIVEMEM_LIMIT`` is the total of a preset.

        Parameter: ``env``, variables (None: the process's). Raises as :meth:`from_toml`. Any thread.

        >>> from nativemem.manager import MemoryManager
        >>> MemoryManager.from_env({"NATIVEMEM_LIMIT": "64 MiB"}).total.limit
        67108864
        """
        return cls._made(configuration.read_env(env))

    @classmethod
    def default(cls) -> MemoryManager:
        """That of the module's ``memory()`` and ``Memory``: made by :meth:`from_env` when it is asked for first.
        Any thread."""
        with _making:
            if MemoryManager._default is None:
                MemoryManager._default = MemoryManager.from_env()
            return MemoryManager._default

    # ---- what it was made with

    @property
    def policy(self) -> str:
        """``"permissive"``, ``"strict"`` or ``"safety-critical"``."""
        return self._configuration.policy

    @property
    def total(self) -> Budget:
        """The :class:`Budget` above all owners."""
        return self._total

    @property
    def owners(self) -> dict[str, Budget]:
        """The owners by name, each a :class:`Budget`."""
        return {name: owner.budget for name, owner in list(self._owners.items())}

    @property
    def verification(self) -> Verification:
        """How deep it checks, and what came of it."""
        return self._verification

    def owner(self, name: str) -> Budget:
        """The :class:`Budget` of an owner. Raises :class:`ConfigError` where there is none of that name and the
        policy makes none.

        >>> from nativemem.manager import MemoryManager
        >>> MemoryManager({"cache": "64 KiB"}).owner("cache").limit
        65536
        """
        return self._owner(name).budget

    def _owner(self, name: str) -> _Owner:
        if not isinstance(name, str) or not name:
            raise ConfigError(f"manager.owner: takes a name, not {shown(name)}")
        if name in self._owners:
            return self._owners[name]
        if self.policy != "permissive":
            known = ", ".join(list(self._owners)[:10]) or "none"
            raise ConfigError(f"manager.owner: there is no owner {name!r}; there are {known}")
        with _making:
            return self._owners.get(name) or self._add(name, self._total.limit)

    # ---- memory

    def allocate(self, owner: str, size: int | str, align: int = 16, *, zero: bool = False) -> Block:
        """A new :class:`Block`, charged to the total and to an owner.

        Parameters: ``owner``, its name; ``size``, bytes or a string such as ``"64 KiB"``; ``align``, of which the
        address is a multiple; ``zero``, whether the bytes are zero, otherwise they are undefined. The block's
        ``owner`` is the budget, and ``block.allocator.provider`` says where it came from: ``"small"``,
        ``"medium"``, ``"large"`` or ``"heap"``.

        Raises, with nothing charged, :class:`BudgetExceeded` where the owner or the total has no room, for more
        than a single request may have, and after :meth:`lock`; :class:`CapacityExceeded` for more than a large
        block where ``above`` is ``"error"``; :class:`InvalidLayout` for what is no size; :class:`ConfigError` for
        an owner that there is not; :class:`OperationRefused` where a hook refuses; :class:`OutOfMemory`.
        """
        try:
            held = self._owners[owner]
        except (KeyError, TypeError):
            held = self._owner(owner)
        if type(size) is not int:
            size = parse_size(size, "manager.allocate: size")
        kind = 0 if size <= self._small else self._larger(size)
        block = (held.routes[kind] or self._route(held, kind)).alloc(size, align)
        if zero:
            wipe(block)
        return block

    def _larger(self, size: int) -> int:
        """The provider of a block that is not small: 1 medium, 2 large, 3 heap."""
        if size <= self._medium:
            return 1
        if size <= self._large:
            return 2
        if self._configuration.above == "error":
            raise CapacityExceeded(
                f"manager.allocate: {size} bytes, and blocks have {self._large} at most",
                suggestion="ask for smaller pieces, or have above='heap'",
                **space(size, 0, self._large),
            )
        return 3

    def _route(self, owner: _Owner, kind: int) -> Any:
        with _making:
            if owner.routes[kind] is None:
                route = self._route_type(self._sources[kind], owner.budget)
                route.provider, route.manager, route.owner_name = PROVIDERS[kind], self, owner.name
                owner.routes[kind] = route
            return owner.routes[kind]

    def _is_ours(self, block: Any) -> bool:
        route = getattr(block, "allocator", None)
        return isinstance(route, self._route_type) and route.manager is self

    def _must_be_ours(self, block: Any) -> None:
        if not isinstance(block, self._binding.Block):
            raise TypeError(f"manager.deallocate: takes a Block, not {type(block).__name__}")
        if not self._is_ours(block):
            raise ForeignBlock(
                f"manager.deallocate: the block is not one of this manager's, but of {name_of(block.allocator)}"
            )

    def deallocate(self, block: Block) -> None:
        """Gives a block back; its owner and the total are credited.

        Raises, with nothing changed, :class:`ForeignBlock` for one that is not this manager's, :class:`DoubleFree`
        for one that was freed, :class:`BufferError` while a view of it is out, :class:`OperationRefused` where a
        hook refuses, and :class:`TypeError` for what is no block.

        >>> from nativemem.manager import MemoryManager
        >>> manager = MemoryManager({"cache": "64 KiB"})
        >>> block = manager.allocate("cache", "1 KiB")
        >>> manager.deallocate(block); manager.owner("cache").used
        0
        """
        if not self._is_ours(block):
            self._must_be_ours(block)
        block.free()

    def memory(self, size: int | str, owner: str | None = None) -> AbstractContextManager[Block]:
        """A context manager whose block is a zeroed :class:`Block` of ``size`` bytes, freed at the end.

        Parameters as for :meth:`allocate`; ``owner`` None: the top-level package of the calling code. Raises as
        :meth:`allocate` when it is entered; at the end :class:`BufferError` where a view of the block is out, but
        not in place of another exception.

        >>> from nativemem.manager import MemoryManager
        >>> manager = MemoryManager({"decoder": "64 KiB"})
        >>> with manager.memory("1 KiB", "decoder") as block:
        ...     block.size, bytes(block) == bytes(1024), manager.total.used
        (1024, True, 1024)
        >>> manager.total.used
        0
        """
        return Scoped(self, size, caller() if owner is None else owner)

    def provider(self, owner: str, size: int | str = 64 << 10, tier: str | None = None) -> Provider:
        """A provider whose memory is charged to an owner; for what ``size`` and ``tier`` are see
        :func:`default_provider` (None: the manager's ``tier``). It checks as the manager does. Raises as
        :meth:`allocate` and :func:`default_provider`.

        >>> from nativemem.manager import MemoryManager
        >>> manager = MemoryManager({"log": "64 KiB"})
        >>> with manager.provider("log", "4 KiB", "static") as provider:
        ...     provider.write_bytes(0, b"line")
        ...     manager.owner("log").used
        4096
        """
        return default_provider(
            self._configuration.tier if tier is None else tier,
            size,
            upstream=self._contents(owner),
            verification=self._verification,
        )

    def _contents(self, owner: str) -> Any:
        """What the providers and collections of an owner take their memory from."""
        held = self._owner(owner)
        with _making:
            if held.contents is None:
                held.contents = self._binding.Limited(self._sources[0], held.budget)
            return held.contents

    def collection(self, kind: str, capacity: int | str, item_format: Any = None, owner: str | None = None) -> Any:
        """A bounded collection of :mod:`nativemem.manager.collections`, whose memory is charged to an owner when it
        is made, and never more.

        Parameters: ``kind``, ``"list"``, ``"stack"``, ``"queue"``, ``"deque"``, ``"set"``, ``"map"``, ``"bitset"``
        or ``"string"``; ``capacity``, the most items, of a string bytes; ``item_format``, the :mod:`struct` format
        of an item, of a map those of its keys and values as a pair, of a bit set and a string none; ``owner`` as
        for :meth:`memory`. Raises :class:`ConfigError` for another kind or a format that is none of its, and what
        the collection and :meth:`allocate` raise.

        >>> from nativemem.manager import MemoryManager
        >>> manager = MemoryManager({"jobs": "64 KiB"})
        >>> queue = manager.collection("queue", 100, "I16p", "jobs")
        >>> queue.push((1, b"resize")); queue.pop(), manager.owner("jobs").used
        ((1, b'resize'), 2000)
        """
        from .collections import bound

        if not isinstance(kind, str) or kind not in KINDS:
            raise ConfigError(f"manager.collection: takes {', '.join(KINDS)}, not {shown(kind)}")
        name, formats = KINDS[kind]
        given = item_format if isinstance(item_format, tuple) else () if item_format is None else (item_format,)
        if len(given) != formats:
            takes = ("no format", "one format", "a pair of formats, of keys and of values")[formats]
            raise ConfigError(f"manager.collection: a {kind} takes {takes}, not {shown(item_format)}")
        upstream = self._contents(caller() if owner is None else owner)
        return getattr(bound(self._binding), name)(capacity, *given, upstream=upstream)

    # ---- shares of the total

    def lend(self, lender: str, borrower: str, n: int | str, timeout: float = 0.0) -> Loan:
        """Moves ``n`` bytes of unused limit from one owner to another until the :class:`Loan` ends, with its
        ``with`` block or ``settle()``, and returns that. ``lender`` and ``borrower`` are names; ``timeout`` and
        errors as :meth:`Budget.lend` has them; the lender's ``lends_to`` names the owners that it may lend to.

        >>> from nativemem.manager import MemoryManager
        >>> manager = MemoryManager({"idle": 1000, "busy": 1000})
        >>> with manager.lend("idle", "busy", 400):
        ...     manager.owner("idle").limit, manager.owner("busy").limit
        (600, 1400)
        """
        return self._owner(lender).budget.lend(self._owner(borrower).budget, n, timeout)

    def borrow(self, borrower: str, n: int | str, lender: str | None = None, timeout: float = 0.0) -> Loan:
        """As :meth:`lend`, asked for by the borrower: ``n`` bytes, for which it waits up to ``timeout`` seconds.
        ``lender`` None: that of the others with the most to spare that may lend so much. Raises
        :class:`BudgetExceeded` where there is none.

        >>> from nativemem.manager import MemoryManager
        >>> manager = MemoryManager({"idle": {"limit": 1000, "lends_to": ["busy"]}, "busy": 100})
        >>> with manager.borrow("busy", 300) as loan:
        ...     loan.lender.name, manager.owner("busy").limit
        ('idle', 400)
        """
        to = self._owner(borrower).budget
        if lender is not None:
            return self.lend(lender, borrower, n, timeout)
        n = parse_size(n, "manager.borrow: size")
        others = [each.budget for each in list(self._owners.values()) if each.budget is not to]
        for other in sorted(others, key=lambda budget: budget.available - budget.minimum, reverse=True):
            try:
                return other.lend(to, n, timeout)
            except BudgetExceeded:
                continue
        raise BudgetExceeded(
            f"manager.borrow: no owner has {n} bytes that it may lend to {borrower!r}",
            suggestion="ask for less, or free what an owner has in use; lends_to names those that it lends to",
            **space(n, to.used, to.limit),
            owner=borrower,
        )

    def rebalance(self) -> list[Move]:
        """Moves unused limit from owners without pressure to those with it, as :meth:`Budget.rebalance`; none goes
        below its ``minimum``. Returns the moves."""
        return self._total.rebalance()

    def lock(self) -> None:
        """From now on nothing is allocated, for good: what a service does when it has started. What there is may
        be given back."""
        self._total.lock()

    @property
    def locked(self) -> bool:
        """Whether :meth:`lock` was called."""
        return bool(self._total.locked)

    # ---- what there is

    @property
    def stats(self) -> ManagerStats:
        """Counters now, as a :class:`ManagerStats`. Any thread."""
        live = dict.fromkeys(PROVIDERS, 0)
        owners = list(self._owners.items())
        for _, owner in owners:
            for name, route in zip(PROVIDERS, owner.routes, strict=True):
                live[name] += 0 if route is None else route.stats.live
        return ManagerStats(
            _of(self._total),
            {name: _of(owner.budget) for name, owner in owners},
            live,
            self._verification.stats,
        )

    def report(self) -> str:
        """The counters for people: a line for the total and each owner, the largest first, then the blocks and
        the checks.

        >>> from nativemem.manager import MemoryManager
        >>> manager = MemoryManager({"decoder": "512 KiB"}, total="1 MiB")
        >>> print(manager.report())
        owner         used      peak     limit  denied  pressure
        total          0 B       0 B   1.0 MiB       0  normal
        decoder        0 B       0 B 512.0 KiB       0  normal
        blocks: 0 small, 0 medium, 0 large, 0 heap; verification off: 0 checks, 0 failures
        """
        stats = self.stats
        rows = [("total", stats.total), *sorted(stats.owners.items(), key=lambda pair: -pair[1].used)]
        width = max(len(name) for name, _ in rows)
        lines = [f"{'owner':{width}}  {'used':>9} {'peak':>9} {'limit':>9}  denied  pressure"]
        for name, each in rows:
            sizes = " ".join(f"{format_size(n):>9}" for n in (each.used, each.peak, each.limit))
            lines.append(f"{name:{width}}  {sizes}  {each.denied:6}  {each.pressure}")
        blocks = ", ".join(f"{n} {name}" for name, n in stats.providers.items())
        checks = stats.verification
        lines.append(
            f"blocks: {blocks}; verification {checks.level.value}: {checks.checks} checks, "
            f"{checks.failures} failures"
        )
        return "\n".join(lines)

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("cannot copy or pickle 'MemoryManager': memory has one owner")

    def __repr__(self) -> str:
        used, limit = format_size(self._total.used), format_size(self._total.limit)
        return f"<MemoryManager {self.policy}, {used} of {limit} for {len(self._owners)} owners>"


_route_types: dict[str, Any] = {}


def _route_type(binding: Any) -> Any:
    """The class of the allocators that blocks come from: a Limited that says which provider it is."""
    if binding.name not in _route_types:
        slots = ("provider", "manager", "owner_name")
        _route_types[binding.name] = type(
            "Managed", (binding.Limited,), {"__slots__": slots, "__module__": __name__}
        )
    return _route_types[binding.name]
