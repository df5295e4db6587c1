"""What a manager is made with: presets, TOML files, the environment; every key checked and named with its path.

The values that it returns do not change: any thread may read them.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..config import Settings
from ..errors import ConfigError, NativeMemError, shown
from ..levels import Level
from ..sizes import parse_size

__all__ = ["PRESETS", "Configuration", "OwnerConfiguration"]

#: how the sizes of blocks are told apart; larger ones are of the process's own heap
PROVIDERS = ("small", "medium", "large", "heap")
POLICIES = ("permissive", "strict", "safety-critical")
#: of a safety-critical total, the largest single request
MAX_SINGLE = 0.1

PRESETS: dict[str, dict[str, Any]] = {
    "embedded": {
        "total": "8 MiB",
        "policy": "safety-critical",
        "above": "error",
        "tier": "static",
        "verification": "standard",
    },
    "desktop": {"total": "1 GiB", "policy": "permissive", "tier": "std"},
    "server": {"total": "8 GiB", "policy": "strict", "tier": "alloc", "auto_rebalance": True},
}


def _size(value: Any) -> int:
    return parse_size(value, "", least=1)


def _size_or_none(value: Any) -> int:
    return parse_size(value, "")


def _one_of(*names: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in names:
            raise ConfigError(f"takes {', '.join(names)}, not {shown(value)}")
        return value

    return check


def _switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"takes true or false, not {shown(value)}")
    return value


def _fraction(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
        raise ConfigError(f"takes a fraction above 0, at most 1, not {shown(value)}")
    return float(value)


def _names(value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, (list, tuple, set, frozenset)):
        raise ConfigError(f"takes a list of owners, not {shown(value)}")
    if not all(isinstance(each, str) for each in value):
        raise ConfigError(f"takes a list of owners, not {shown(value)}")
    return tuple(value)


def _level(value: Any) -> str:
    return Level.parse(value, "").value


@dataclass(frozen=True)
class OwnerConfiguration:
    """What an owner is made with: ``limit`` and ``minimum`` in bytes, ``warn`` and ``critical``, fractions of the
    limit where pressure begins, ``lends_to``, names of the owners that may borrow (None: any)."""

    limit: int
    minimum: int = 0
    warn: float = 0.8
    critical: float = 0.95
    lends_to: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Configuration:
    """What a manager is made with. Sizes in bytes; ``total`` None: the sum of the owners' limits. Parameters as of
    :class:`MemoryManager`; ``small``, ``medium`` and ``large`` are its thresholds."""

    owners: dict[str, OwnerConfiguration] = field(default_factory=dict)
    total: int | None = None
    policy: str = "permissive"
    overcommit: bool = False
    auto_rebalance: bool = False
    small: int = 8 << 10
    medium: int = 64 << 10
    large: int = 1 << 20
    above: str = "heap"
    tier: str | None = None
    verification: str = "off"

    @property
    def limit(self) -> int:
        """The total in bytes."""
        return sum(owner.limit for owner in self.owners.values()) if self.total is None else self.total


_OWNER: dict[str, Callable[[Any], Any]] = {
    "limit": _size,
    "minimum": _size_or_none,
    "warn": _fraction,
    "critical": _fraction,
    "lends_to": _names,
}
_THRESHOLDS: dict[str, Callable[[Any], Any]] = {"small": _size, "medium": _size, "large": _size}
_MANAGER: dict[str, Callable[[Any], Any]] = {
    "total": _size,
    "policy": _one_of(*POLICIES),
    "overcommit": _switch,
    "auto_rebalance": _switch,
    "above": _one_of("heap", "error"),
    "tier": _one_of("std", "alloc", "static"),
    "verification": _level,
}


class _Reader:
    """Reads a mapping and collects what is wrong with it, each with the path of its key."""

    def __init__(self, source: str) -> None:
        self._source = source
        self.wrong: list[str] = []

    def say(self, path: str, what: str) -> None:
        self.wrong.append(f"{self._source}{path}: {what.strip(': ')}")

    def table(self, value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            self.say(path or "owners", f"takes a table, not {shown(value)}")
            return {}
        return {key: each for key, each in value.items() if self.is_key(key, path)}

    def is_key(self, key: Any, path: str) -> bool:
        if not isinstance(key, str) or not key:
            self.say(path, f"takes names, not {shown(key)}")
            return False
        return True

    def values(self, given: dict[str, Any], known: dict[str, Callable[[Any], Any]], path: str) -> dict[str, Any]:
        found = {}
        for key, value in given.items():
            if key not in known:
                self.say(path + key, f"is no key, but there are {', '.join(known)}")
                continue
            try:
                found[key] = known[key](value)
            except NativeMemError as error:
                self.say(path + key, str(error))
        return found

    def owner(self, name: str, value: Any) -> OwnerConfiguration | None:
        path = f"owners.{name}"
        if not isinstance(value, Mapping):
            value = {"limit": value}
            path, before = "owners.", len(self.wrong)
            found = self.values({name: value["limit"]}, {name: _size}, path)
            return OwnerConfiguration(found[name]) if len(self.wrong) == before else None
        before = len(self.wrong)
        found = self.values(self.table(value, path), _OWNER, f"{path}.")
        if "limit" not in value:
            self.say(f"{path}.limit", "is missing")
        elif len(self.wrong) == before and found.get("minimum", 0) > found["limit"]:
            self.say(f"{path}.minimum", f"is {found['minimum']} bytes, above the limit of {found['limit']}")
        return None if len(self.wrong) > before else OwnerConfiguration(**found)


def read(given: Mapping[str, Any], source: str = "") -> Configuration:
    """A configuration of a mapping as a TOML file has it.

    Parameters: ``given``, with the keys ``preset``, ``total``, ``policy``, ``overcommit``, ``auto_rebalance``,
    ``above``, ``tier``, ``verification``, the table ``thresholds`` and the table ``owners``; ``source``, what
    messages begin with. Raises one :class:`ConfigError` that names every key that is wrong, with its path. Any
    thread.

    >>> read({"total": "1 MiB", "owners": {"decoder": "512 KiB"}}).owners["decoder"].limit
    524288
    """
    reader = _Reader(source)
    given = reader.table(given, "")
    preset = given.pop("preset", None)
    if preset is not None and (not isinstance(preset, str) or preset not in PRESETS):
        reader.say("preset", f"takes {', '.join(PRESETS)}, not {shown(preset)}")
        preset = None
    given = {**PRESETS.get(preset or "", {}), **given}
    limits = reader.values(reader.table(given.pop("thresholds", {}), "thresholds"), _THRESHOLDS, "thresholds.")
    owners = {}
    for name, value in reader.table(given.pop("owners", {}), "owners").items():
        owner = reader.owner(name, value)
        if owner is not None:
            owners[name] = owner
    found = reader.values(given, {**_MANAGER, "preset": _switch, "thresholds": _switch, "owners": _switch}, "")
    made = Configuration(owners=owners, **limits, **found)
    if not made.small <= made.medium <= made.large:
        reader.say("thresholds", f"takes ascending sizes, not {made.small}, {made.medium}, {made.large}")
    if not reader.wrong:
        _check_together(made, reader)
    if reader.wrong:
        raise ConfigError("; ".join(reader.wrong))
    return made


def _check_together(made: Configuration, reader: _Reader) -> None:
    """What is wrong with values that are right each by itself."""
    for name, owner in made.owners.items():
        for other in owner.lends_to or ():
            if other not in made.owners and made.policy != "permissive":
                reader.say(f"owners.{name}.lends_to", f"there is no owner {other!r}")
    if not made.limit:
        reader.say("total", "is missing, and there are no owners whose limits it could be the sum of")
    asked = sum(owner.limit for owner in made.owners.values())
    if asked > made.limit and not made.overcommit:
        reader.say("total", f"is {made.limit} bytes, less than the {asked} of all owners; overcommit allows that")
    if made.overcommit and made.policy == "safety-critical":
        reader.say("overcommit", "is not for the policy safety-critical")


def _toml() -> Any:
    """The module that reads TOML: the standard library's, from Python 3.11 on."""
    for name in ("tomllib", "tomli"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise ConfigError(
        "manager.from_toml: Python 3.10 reads no TOML by itself",
        suggestion="pip install 'nativemem[toml]', or pass the same keys to MemoryManager",
    )


def read_toml(path: Any) -> Configuration:
    """A configuration of a TOML file. Raises :class:`ConfigError` for what is no TOML, as :func:`read` for what is
    in it, and :class:`OSError` where there is no such file."""
    toml = _toml()
    with open(path, "rb") as file:
        try:
            given = toml.load(file)
        except toml.TOMLDecodeError as error:
            raise ConfigError(f"{os.fspath(path)}: {error}") from None
    return read(given, f"{os.fspath(path)}: ")


def read_env(env: Mapping[str, str] | None = None) -> Configuration:
    """A configuration as ``NATIVEMEM_MANAGER`` has it: a preset, or the path of a TOML file. Without it the preset
    ``desktop``. ``NATIVEMEM_LIMIT`` is the total of a preset."""
    settings = Settings.from_env(env)
    asked = settings.manager or "desktop"
    if asked.endswith(".toml"):
        return read_toml(asked)
    return read({"preset": asked, **({} if settings.limit is None else {"total": settings.limit})})
