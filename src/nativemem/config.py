"""Configurations: every default, and every check of them. The environment's variables are in `settings`.

Configurations do not change: any thread may use them.
"""

from __future__ import annotations

import dataclasses
import math
import operator
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

from ._folder import PACKAGE
from .errors import ConfigError, InvalidLayout, shown
from .settings import Settings
from .sizes import SIZE_MAX, parse_size

__all__ = [
    "ArenaConfig",
    "Config",
    "HeapConfig",
    "PoolConfig",
    "Settings",
    "SlabConfig",
    "StackConfig",
    "parse_size",
]

C = TypeVar("C", bound="Config")

#: most allocators on top of each other, and budgets below each other: a call goes through all of them
MAX_DEPTH = 100


if TYPE_CHECKING:
    USE_NATIVE_MEM: int
else:

    def __getattr__(name):
        """USE_NATIVE_MEM, 1 or 0: what nativemem was built with, as the header of its C code says."""
        if name != "USE_NATIVE_MEM":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        name = os.path.join(PACKAGE, "include", "nm_config.h")
        with open(name, encoding="utf-8") as file:
            header = file.read()
        return int(header.split("#define NM_BUILT_NATIVE ", 1)[1].split()[0])


def parse_count(value: Any, label: str, *, least: int = 0) -> int:
    """``value`` as an int from ``least`` to SIZE_MAX. Raises :class:`ConfigError` for anything else.

    >>> parse_count(3, "failing.n")
    3
    """
    try:
        number = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = -1
    if not least <= number <= SIZE_MAX:
        raise ConfigError(f"{label}: takes an integer from {least} to {SIZE_MAX}, not {shown(value)}")
    return number


def parse_bool(value: Any, label: str) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{label}: takes True or False, not {shown(value)}")
    return value


def parse_number(value: Any, label: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"{label}: takes a number, not {shown(value)}")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def parse_fraction(value: Any, label: str) -> float:
    number = parse_number(value, label)
    if not 0 < number <= 1:
        raise ConfigError(f"{label}: takes a fraction above 0, at most 1, not {shown(value)}")
    return number


class BudgetOptions(NamedTuple):
    """What a budget has beside its limit, for both backends; see :class:`Budget`. Fractions are of the limit; 0
    stands for "as if it were not there"."""

    warn: float = 0.0
    critical: float = 0.0
    max_single: float = 0.0
    overcommit: float = 0.0
    minimum: int = 0
    auto_rebalance: bool = False
    shared: Any = None  # a core
    shared_max: int = 0


class Config:
    """What the configurations of the allocators share. Immutable; safe from any thread.

    Each is checked when it is made; a message starts with the section and the field (``arena.cap: …``).

    >>> isinstance(ArenaConfig(cap="1 MiB"), Config), ArenaConfig.section
    (True, 'arena')
    """

    #: names what messages call the configuration
    section: ClassVar[str]
    #: by preset, the fields that differ from the defaults
    presets: ClassVar[dict[str, dict[str, Any]]] = {}

    def _set(self, **fields: Any) -> None:
        for name, value in fields.items():
            object.__setattr__(self, name, value)  # the dataclasses are frozen

    @classmethod
    def _preset(cls: type[C], name: str, fields: dict[str, Any]) -> C:
        given = cls.presets.get(name, {}) | fields
        known = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
        for field in given:
            if field not in known:
                raise ConfigError(f"{cls.section}: has no setting {field!r}; it has {', '.join(known)}")
        return cls(**given)

    @classmethod
    def production(cls: type[C], **fields: Any) -> C:
        """The defaults: nothing that costs time. ``fields`` override.

        >>> ArenaConfig.production(cap="1 MiB").cap
        1048576
        """
        return cls._preset("production", fields)

    @classmethod
    def debug(cls: type[C], **fields: Any) -> C:
        """Makes mistakes show: patterns in memory where there are some, the secure heap. ``fields`` override.

        >>> ArenaConfig.debug().patterns
        True
        """
        return cls._preset("debug", fields)

    @classmethod
    def low_memory(cls: type[C], **fields: Any) -> C:
        """Takes less memory in advance and rounds less, at the price of more calls. ``fields`` override.

        >>> ArenaConfig.low_memory().hint
        4096
        """
        return cls._preset("low_memory", fields)

    @classmethod
    def from_env(cls: type[C], env: Mapping[str, str] | None = None, **fields: Any) -> C:
        """As the ``NATIVEMEM_*`` variables of ``env`` (None: the process's) have it. ``fields`` override.

        >>> ArenaConfig.from_env({"NATIVEMEM_ARENA_CAP": "1 MiB"}).cap
        1048576
        """
        return cls._preset("environment", _environment(Settings.from_env(env), cls) | fields)

    def replace(self: C, **changes: Any) -> C:
        """A copy with these fields changed (``changes``), checked again.

        >>> PoolConfig(64, 10).replace(count=20)
        PoolConfig(block_size=64, count=20, grow=False)
        """
        return self._preset("", dataclasses.asdict(self) | changes)  # type: ignore[call-overload]


@dataclass(frozen=True)
class ArenaConfig(Config):
    """What an arena is made with. ``hint``, bytes of the first chunk; ``cap``, most bytes reserved (None: no
    cap); ``grow`` False: one chunk and no more; ``zero_on_free``: wipe what is dropped; ``patterns``: fill new
    blocks with 0xAA and dropped ones with 0xDD. Sizes are ints or strings and become ints."""

    section = "arena"
    presets = {"debug": {"patterns": True}, "low_memory": {"hint": 4 << 10}}

    hint: int | str = 64 << 10
    cap: int | str | None = None
    grow: bool = True
    zero_on_free: bool = False
    patterns: bool = False

    def __post_init__(self) -> None:
        self._set(
            hint=parse_size(self.hint, "arena.hint:", least=1),
            cap=None if self.cap is None else parse_size(self.cap, "arena.cap:", least=1),
        )
        for name in ("grow", "zero_on_free", "patterns"):
            parse_bool(getattr(self, name), f"arena.{name}")


@dataclass(frozen=True)
class StackConfig(Config):
    """What a stack is made with. ``capacity``, bytes for blocks and the padding between them; ``patterns``: fill
    new blocks with 0xCC and freed ones with 0xDD."""

    section = "stack"
    presets = {"debug": {"patterns": True}}

    capacity: int | str
    patterns: bool = False

    def __post_init__(self) -> None:
        self._set(capacity=parse_size(self.capacity, "stack.capacity:", least=1))
        parse_bool(self.patterns, "stack.patterns")


@dataclass(frozen=True)
class PoolConfig(Config):
    """What a pool is made with. ``block_size``, bytes, rounded up to a multiple of 16 for the cells; ``count``,
    cells at first; ``grow``: take as many again whenever all are in use."""

    section = "pool"

    block_size: int | str
    count: int
    grow: bool = False

    def __post_init__(self) -> None:
        self._set(
            block_size=parse_size(self.block_size, "pool.block_size:", least=1),
            count=parse_size(self.count, "pool.count:", least=1),
        )
        if -(-self.block_size // 16) * 16 * self.count > SIZE_MAX:  # type: ignore[operator]
            raise InvalidLayout(f"pool.count: {self.count} cells are more than {SIZE_MAX} bytes")
        parse_bool(self.grow, "pool.grow")


@dataclass(frozen=True)
class SlabConfig(Config):
    """What a slab is made with. ``bins``: cell sizes in bytes, ascending multiples of 16 up to 4096;
    ``zero_on_free``: whether cells are wiped when they are freed.

    >>> import nativemem
    >>> nativemem.Slab.from_config(SlabConfig(bins=(64, "1 KiB"))).config.bins
    (64, 1024)
    """

    section = "slab"
    presets = {"low_memory": {"bins": (32, 48, 64, 96, 128, 192, 256)}}

    bins: Iterable[int | str] = (32, 64, 128, 256)
    zero_on_free: bool = False

    def __post_init__(self) -> None:
        takes = "takes ascending multiples of 16, at most 4096"
        try:
            cells = tuple(parse_size(b, "slab.bins:", least=16) for b in self.bins)
        except TypeError:
            raise ConfigError(f"slab.bins: {takes}, not {shown(self.bins)}") from None
        ascending = all(a < b for a, b in zip(cells, cells[1:], strict=False))
        if not cells or not ascending or any(c % 16 or c > 4096 for c in cells):
            raise ConfigError(f"slab.bins: {takes}, not {shown(cells)}")
        self._set(bins=cells)
        parse_bool(self.zero_on_free, "slab.zero_on_free")


@dataclass(frozen=True)
class HeapConfig(Config):
    """What a heap is made with. ``secure``: what docs/safety.md says of the secure mode.

    >>> HeapConfig.debug()
    HeapConfig(secure=True)
    """

    section = "heap"
    presets = {"debug": {"secure": True}}

    secure: bool = False

    def __post_init__(self) -> None:
        parse_bool(self.secure, "heap.secure")


def _environment(settings: Settings, cls: type) -> dict[str, Any]:
    """The fields of a configuration that the environment sets."""
    arena = {"hint": settings.arena_hint, "cap": settings.arena_cap}
    if issubclass(cls, ArenaConfig):
        return {name: value for name, value in arena.items() if value is not None}
    return {"secure": True} if settings.secure and issubclass(cls, HeapConfig) else {}


class Variable(NamedTuple):
    """A variable of the environment: when it is read, what it takes and means."""

    name: str
    when: str
    values: str


#: all of them; the tables of the documentation are made from this
VARIABLES = (
    Variable(
        "USE_NATIVE_MEM",
        "building",
        "`1` the C core or an error, `0` a pure wheel (no compiler needed), `auto` (default) try, fall back with a "
        "warning",
    ),
    Variable(
        "NATIVEMEM_CFLAGS, NATIVEMEM_LDFLAGS",
        "building",
        "more flags for the C core, as `-fsanitize=address`",
    ),
    Variable("NATIVEMEM_BACKEND", "running", "`native`, `pure`, `auto` (default): native where it was built"),
    Variable(
        "NATIVEMEM_DISABLE",
        "running",
        "`1`, the kill switch: each block comes straight from the system, from the pure backend whatever "
        "`NATIVEMEM_BACKEND` says, and `install()` does nothing; errors, budgets and counters stay; `0` (default)",
    ),
    Variable(
        "NATIVEMEM_SECURE",
        "running",
        "`1`: every heap, the engine's too, has canaries, guard pages, encoded free lists, and wipes what is freed "
        "([safety.md](safety.md)); `0` (default)",
    ),
    Variable(
        "NATIVEMEM_IDLE_DECAY",
        "running",
        "`1`: a thread of the engine gives free memory back while the process does nothing, as by "
        "`install(idle_decay=True)`; `0` (default): there is no thread",
    ),
    Variable(
        "NATIVEMEM_AUTOINSTALL",
        "running",
        "`1`: the engine is installed at the start of every Python of this environment, child processes too, as by "
        "`import nativemem.auto`; `nativemem run` sets it for its program's children; `0` (default)",
    ),
    Variable(
        "NATIVEMEM_LIMIT",
        "running",
        "a size: what `import nativemem.auto` limits the process to, and the budget of a `nativemem run` without "
        "`--budget`",
    ),
    Variable(
        "NATIVEMEM_PROFILE",
        "running",
        "where `import nativemem.auto` and `nativemem run` write a profile: a folder, in which it is "
        "`nativemem-PID.nm`, or a file; `%p` is the process's number. A file without it is the first process's "
        "alone, and its children do not see the variable",
    ),
    Variable(
        "NATIVEMEM_PROFILE_RATE",
        "running",
        "a size: bytes between two samples of it in the mean (512 KiB); `1`: each block",
    ),
    Variable(
        "NATIVEMEM_CONTROL",
        "running",
        "where the process answers `nativemem attach` and `top`: a folder, in which it is `PID.sock`, or the path "
        "of a socket; `%p` is the process's number. For `import nativemem.auto` and `nativemem run` "
        "([live.md](live.md))",
    ),
    Variable(
        "NATIVEMEM_CONTROL_SIGNAL",
        "running",
        "a signal such as `USR2`: when it comes the process begins to answer, in the usual folder",
    ),
    Variable(
        "NATIVEMEM_MANAGER",
        "running",
        "`embedded`, `desktop` (default), `server`, or the path of a `.toml` file: what the default manager of "
        "`nativemem.manager` is made with ([manager.md](manager.md))",
    ),
    Variable(
        "NATIVEMEM_PROVIDER",
        "running",
        "`std`, `alloc`, `static`: the tier of `nativemem.manager.default_provider()`; otherwise `alloc` where "
        "`NATIVEMEM_LIMIT` is set, else `std`",
    ),
    Variable("NATIVEMEM_ARENA_HINT, NATIVEMEM_ARENA_CAP", "running", "sizes: the defaults of `Arena`"),
    Variable(
        "NATIVEMEM_ALLOC_HISTO",
        "running",
        "`1`: a `Traced` keeps histograms unless it is told otherwise, and the process prints them when it ends; "
        "`0` (default)",
    ),
    Variable(
        "NATIVEMEM_TEST_OOM_N",
        "testing",
        "a number: that allocation of the default allocator (where `upstream` is not given) fails; `0` (default) "
        "none",
    ),
)


def environment_table() -> str:
    """The variables as a table in Markdown.

    >>> print(environment_table().splitlines()[0])
    | when | variable | values |
    """
    rows = ["| when | variable | values |", "| --- | --- | --- |"]
    for name, when, values in VARIABLES:
        names = ", ".join(f"`{part}`" for part in name.split(", "))
        rows.append(f"| {when} | {names} | {values} |")
    return "\n".join(rows)
