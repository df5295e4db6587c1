"""Settings: every default, every environment variable, every check of a configuration, in one place."""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import SIZE_MAX, ConfigError, InvalidLayout, shown

__all__ = ["ArenaConfig", "Settings", "SlabConfig", "parse_size"]

#: most allocators on top of each other, and budgets below each other: a call goes through all of them
MAX_DEPTH = 100

_UNITS = {
    "": 1,
    "b": 1,
    **{p + "b": 1000 ** (i + 1) for i, p in enumerate("kmgt")},
    **{p + "ib": 1024 ** (i + 1) for i, p in enumerate("kmgt")},
}
_SIZE = re.compile(r"\s*(\d+)\s*([a-z]*)\s*", re.IGNORECASE | re.ASCII)
_TAKES = "takes bytes as an int, or a string such as '64 KiB' (1024-based) or '64 MB' (1000-based)"


def parse_size(value: Any, label: str = "size", *, least: int = 0) -> int:
    """Converts a size to bytes.

    Parameters: ``value``, an int or a string such as ``"64 KiB"`` or ``"2 GB"``; ``label``, what the
    message calls it; ``least``, the smallest value allowed, in bytes. Returns bytes. Raises
    :class:`InvalidLayout` for anything else. Safe from any thread.

    >>> parse_size("64 KiB"), parse_size("64 kB"), parse_size(12)
    (65536, 64000, 12)
    """
    if isinstance(value, str):
        match = _SIZE.fullmatch(value)
        unit = _UNITS.get(match[2].lower()) if match else None
        if match is None or unit is None:
            raise InvalidLayout(f"{label} {_TAKES}, not {shown(value)}")
        # int() refuses absurdly long digit strings with an error of its own
        number = int(match[1]) * unit if len(match[1]) <= 20 else SIZE_MAX + 1
    elif isinstance(value, (bool, float)):
        raise InvalidLayout(f"{label} {_TAKES}, not {shown(value)}")
    else:
        try:
            number = operator.index(value)
        except TypeError:
            raise InvalidLayout(f"{label} {_TAKES}, not {shown(value)}") from None
    if number < 0:
        raise InvalidLayout(f"{label} {_TAKES}, not the negative {shown(value)}")
    if number > SIZE_MAX:
        raise InvalidLayout(f"{label} {_TAKES}, at most {SIZE_MAX} bytes, not {shown(value)}")
    if number < least:
        raise InvalidLayout(f"{label} is {number} bytes; the least is {least}")
    return number


def reserve_of(limit: int) -> int:
    """Bytes of a process limit that are kept for handling its denial: a 16th, in steps of 64 KiB, at most
    2 MiB.

    >>> reserve_of(1 << 20), reserve_of(32 << 20), reserve_of(1 << 40)
    (65536, 2097152, 2097152)
    """
    return min(limit // 16, 2 << 20) & ~0xFFFF


def format_size(n: int) -> str:
    """``n`` bytes for people: ``"1.5 MiB"``.

    >>> format_size(1536), format_size(0), format_size(5 << 30)
    ('1.5 KiB', '0 B', '5.0 GiB')
    """
    if abs(n) < 1024:
        return f"{n} B"
    amount = float(n)
    for unit in ("KiB", "MiB", "GiB"):
        amount /= 1024
        if abs(amount) < 1024:
            return f"{amount:.1f} {unit}"
    return f"{amount / 1024:.1f} TiB"


def _bool(value: Any, label: str) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{label}: takes True or False, not {shown(value)}")
    return value


@dataclass(frozen=True)
class ArenaConfig:
    """What an arena is made with; sizes in bytes. ``cap`` None: no cap."""

    hint: int = 64 << 10
    cap: int | None = None
    grow: bool = True
    zero_on_free: bool = False

    @classmethod
    def of(cls, hint: Any, cap: Any, grow: Any, zero_on_free: Any) -> ArenaConfig:
        """Checks what a caller gave; messages name the field (``arena.cap: …``)."""
        return cls(
            parse_size(hint, "arena.hint:", least=1),
            None if cap is None else parse_size(cap, "arena.cap:", least=1),
            _bool(grow, "arena.grow"),
            _bool(zero_on_free, "arena.zero_on_free"),
        )


@dataclass(frozen=True)
class SlabConfig:
    """What a slab is made with. ``bins``: cell sizes in bytes."""

    bins: tuple[int, ...] = (32, 64, 128, 256)
    zero_on_free: bool = False

    @classmethod
    def of(cls, bins: Any, zero_on_free: Any) -> SlabConfig:
        """Checks what a caller gave; messages name the field (``slab.bins: …``)."""
        takes = "takes ascending multiples of 16, at most 4096"
        try:
            cells = tuple(parse_size(b, "slab.bins:", least=16) for b in bins)
        except TypeError:
            raise ConfigError(f"slab.bins: {takes}, not {shown(bins)}") from None
        ascending = all(a < b for a, b in zip(cells, cells[1:], strict=False))
        if not cells or not ascending or any(c % 16 or c > 4096 for c in cells):
            raise ConfigError(f"slab.bins: {takes}, not {shown(cells)}")
        return cls(cells, _bool(zero_on_free, "slab.zero_on_free"))


@dataclass(frozen=True)
class Settings:
    """The environment, read once. Sizes in bytes."""

    backend: str = "auto"
    arena: ArenaConfig = ArenaConfig()
    #: the region: address space wanted, bytes of free spans kept, seconds that they are kept
    region: int = 0
    retain: int = 256 << 20
    decay: float = 1.0

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Settings:
        """Reads ``NATIVEMEM_*``. Raises :class:`ConfigError` naming variable, value and what it takes."""
        env = os.environ if env is None else env
        backend = env.get("NATIVEMEM_BACKEND", "auto")
        if backend not in ("auto", "native", "pure"):
            raise ConfigError(f"NATIVEMEM_BACKEND: takes auto, native or pure, not {backend!r}")
        return cls(
            backend=backend,
            arena=ArenaConfig(
                hint=_env_size(env, "NATIVEMEM_ARENA_HINT", ArenaConfig.hint) or ArenaConfig.hint,
                cap=_env_size(env, "NATIVEMEM_ARENA_CAP", None),
            ),
        )


def _env_size(env: Mapping[str, str], name: str, default: int | None) -> int | None:
    text = env.get(name)
    if text is None:
        return default
    try:
        return parse_size(text, name, least=1)
    except InvalidLayout as error:
        raise ConfigError(str(error)) from None
