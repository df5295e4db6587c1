"""The environment, and sizes as people write them.

Part of what a process loads that has the engine and nothing else of the package. So the modules of the standard
library that cost memory and time (dataclasses, inspect, typing) are imported neither here nor in its company.
"""

from __future__ import annotations

import os
from _operator import index  # what `operator` has it from, without the rest of that

from ._lazy import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, NoReturn

__all__ = ["SIZE_MAX", "Settings", "format_size", "parse_size"]

#: Largest size of a block, in bytes: ``PTRDIFF_MAX`` of a 64-bit machine, on both backends.
SIZE_MAX = (1 << 63) - 1

#: the tiers of providers
PROVIDERS = ("std", "alloc", "static")
#: of managers
PRESETS = ("embedded", "desktop", "server")

_UNITS = {
    "": 1,
    "b": 1,
    **{p + "b": 1000 ** (i + 1) for i, p in enumerate("kmgt")},
    **{p + "ib": 1024 ** (i + 1) for i, p in enumerate("kmgt")},
}
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_SPACE = " \t\n\r\f\v"
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
        text = value.strip(_SPACE)
        digits = text.rstrip(_LETTERS)
        unit = _UNITS.get(text[len(digits) :].lower())
        digits = digits.rstrip(_SPACE)
        if unit is None or not (digits.isascii() and digits.isdecimal()):
            raise errors.InvalidLayout(f"{label} {_TAKES}, not {errors.shown(value)}")
        # int() refuses absurdly long digit strings with an error of its own
        number = int(digits) * unit if len(digits) <= 20 else SIZE_MAX + 1
    elif isinstance(value, (bool, float)):
        raise errors.InvalidLayout(f"{label} {_TAKES}, not {errors.shown(value)}")
    else:
        try:
            number = index(value)
        except TypeError:
            raise errors.InvalidLayout(f"{label} {_TAKES}, not {errors.shown(value)}") from None
    if number < 0:
        raise errors.InvalidLayout(f"{label} {_TAKES}, not the negative {errors.shown(value)}")
    if number > SIZE_MAX:
        raise errors.InvalidLayout(f"{label} {_TAKES}, at most {SIZE_MAX} bytes, not {errors.shown(value)}")
    if number < least:
        raise errors.InvalidLayout(f"{label} is {number} bytes; the least is {least}")
    return number


def format_size(n: int) -> str:
    """``n`` bytes for people: ``"1.5 MiB"``.

    >>> format_size(1536), format_size(0), format_size(5 << 30), format_size(-3 << 50)
    ('1.5 KiB', '0 B', '5.0 GiB', '-3072.0 TiB')
    """
    if abs(n) < 1024:
        return f"{n} B"
    for shift, unit in ((10, "KiB"), (20, "MiB"), (30, "GiB")):
        if abs(n) < 1024 << shift:
            return f"{n / (1 << shift):.1f} {unit}"
    tenths = (abs(n) * 10 + (1 << 39)) >> 40  # an int: it may be more than a float takes
    return f"{'-' * (n < 0)}{tenths // 10}.{tenths % 10} TiB"


def reserve_of(limit: int) -> int:
    """Bytes of a limit that are kept for small blocks beyond the rest, so that the interpreter can go on to where
    it raises the error: a 16th, at least 64 KiB or a quarter, at most 4 MiB.

    >>> reserve_of(64 << 10), reserve_of(1 << 20), reserve_of(32 << 20), reserve_of(1 << 40)
    (16384, 65536, 2097152, 4194304)
    """
    return min(max(limit // 16, min(limit // 4, 64 << 10)), 4 << 20)


def _mapping(env: Any) -> Mapping[str, str]:
    """``env``; the process's variables for None."""
    if env is None:
        return os.environ
    if not hasattr(env, "get"):
        raise errors.ConfigError(f"env: takes a mapping or None, not {errors.shown(env)}")
    return env


def _env_switch(env: Mapping[str, str], name: str) -> bool:
    text = env.get(name, "0")
    if text not in ("0", "1"):
        raise errors.ConfigError(f"{name}: takes 1 (on) or 0 (off), not {text!r}")
    return text == "1"


def _env_count(env: Mapping[str, str], name: str) -> int:
    text = env.get(name, "0")
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise errors.ConfigError(f"{name}: takes a whole number, not {text!r}")
    return int(text)


def _env_size(env: Mapping[str, str], name: str) -> int | None:
    text = env.get(name)
    if text is None:
        return None
    try:
        return parse_size(text, name, least=1)
    except errors.InvalidLayout as error:
        raise errors.ConfigError(str(error)) from None


class Settings:
    """The environment as it was when it was read. Sizes in bytes. Immutable; equal where all values are."""

    backend: str = "auto"
    #: the kill switch: each block from the system, no hooks
    disable: bool = False
    #: which allocation of the default allocator fails; 0: none
    test_oom_n: int = 0
    #: whether a Traced counts sizes unless it is told otherwise
    alloc_histo: bool = False
    #: the engine at the start of every Python of this environment
    autoinstall: bool = False
    #: of the process, for ``nativemem.auto``; None: none
    limit: int | None = None
    #: what arenas and heaps are made with where nothing else is said; None: their own default
    arena_hint: int | None = None
    arena_cap: int | None = None
    secure: bool = False
    #: a thread of the engine gives free memory back while the process does nothing
    idle_decay: bool = False
    #: the tier of ``nativemem.manager.default_provider``; None: by the other settings
    provider: str | None = None
    #: what the default manager is made with: a preset, or the path of a TOML file
    manager: str | None = None
    #: the region: most addresses that it takes, bytes of free spans kept, seconds that they are kept
    region: int = 0
    retain: int = 256 << 20
    decay: float = 1.0

    def __init__(self, **values: Any) -> None:
        for name, value in values.items():
            if name not in Settings.__annotations__:
                raise errors.ConfigError(f"settings: there is no {errors.shown(name)}")
            self.__dict__[name] = value

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError("settings do not change; make new ones")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Settings):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in Settings.__annotations__)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{k}={v!r}' for k, v in self.__dict__.items())})"

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Settings:
        """Reads ``NATIVEMEM_*``. Raises :class:`ConfigError` naming variable, value and what it takes."""
        env = _mapping(env)
        backend = env.get("NATIVEMEM_BACKEND", "auto")
        if backend not in ("auto", "native", "pure"):
            raise errors.ConfigError(f"NATIVEMEM_BACKEND: takes auto, native or pure, not {backend!r}")
        provider = env.get("NATIVEMEM_PROVIDER")
        if provider not in (None, *PROVIDERS):
            raise errors.ConfigError(f"NATIVEMEM_PROVIDER: takes {', '.join(PROVIDERS)}, not {provider!r}")
        manager = env.get("NATIVEMEM_MANAGER")
        if manager not in (None, *PRESETS) and not manager.endswith(".toml"):
            raise errors.ConfigError(
                f"NATIVEMEM_MANAGER: takes {', '.join(PRESETS)}, or the path of a .toml file, not {manager!r}"
            )
        return cls(
            backend=backend,
            disable=_env_switch(env, "NATIVEMEM_DISABLE"),
            test_oom_n=_env_count(env, "NATIVEMEM_TEST_OOM_N"),
            alloc_histo=_env_switch(env, "NATIVEMEM_ALLOC_HISTO"),
            autoinstall=_env_switch(env, "NATIVEMEM_AUTOINSTALL"),
            limit=_env_size(env, "NATIVEMEM_LIMIT"),
            arena_hint=_env_size(env, "NATIVEMEM_ARENA_HINT"),
            arena_cap=_env_size(env, "NATIVEMEM_ARENA_CAP"),
            secure=_env_switch(env, "NATIVEMEM_SECURE"),
            idle_decay=_env_switch(env, "NATIVEMEM_IDLE_DECAY"),
            provider=provider,
            manager=manager,
        )
