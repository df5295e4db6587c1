"""The environment.

Part of what a process loads that has the engine and nothing else of the package. So the modules of the standard
library that cost memory and time (dataclasses, inspect, typing) are imported neither here nor in its company.

Any thread may read them.
"""

from __future__ import annotations

import os

from ._lazy import errors
from .sizes import parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, NoReturn

__all__ = ["RUN", "Settings"]

#: how ``nativemem run`` tells the interpreter that it becomes: see engine/startup.py. What reads it takes it away
RUN = "_NATIVEMEM_RUN"
#: the tiers of providers
PROVIDERS = ("std", "alloc", "static")
#: of managers
PRESETS = ("embedded", "desktop", "server")


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
    """The environment as it was when it was read. Sizes in bytes. Immutable, so for any thread; equal where all
    values are.

    >>> Settings().profile_rate, Settings() == Settings(disable=True)
    (524288, False)
    """

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
    #: where ``nativemem.auto`` and ``nativemem run`` write a profile, and the mean of bytes between its samples
    profile: str | None = None
    profile_rate: int = 512 << 10
    #: where the process answers ``nativemem attach``, and the signal at which it begins to
    control: str | None = None
    control_signal: str | None = None
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
        """Reads ``NATIVEMEM_*`` from ``env`` (None: the process's environment). Raises :class:`ConfigError` naming
        variable, value and what it takes."""
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
        profile = env.get("NATIVEMEM_PROFILE")
        if profile == "":
            raise errors.ConfigError("NATIVEMEM_PROFILE: takes the path of a file or a folder, not ''")
        control = env.get("NATIVEMEM_CONTROL")
        if control == "":
            raise errors.ConfigError("NATIVEMEM_CONTROL: takes the path of a socket or a folder, not ''")
        signal = env.get("NATIVEMEM_CONTROL_SIGNAL")
        if signal is not None and not (signal.isascii() and signal.isalnum() and signal.isupper()):
            raise errors.ConfigError(f"NATIVEMEM_CONTROL_SIGNAL: takes a signal such as USR2, not {signal!r}")
        return cls(
            backend=backend,
            disable=_env_switch(env, "NATIVEMEM_DISABLE"),
            test_oom_n=_env_count(env, "NATIVEMEM_TEST_OOM_N"),
            alloc_histo=_env_switch(env, "NATIVEMEM_ALLOC_HISTO"),
            autoinstall=_env_switch(env, "NATIVEMEM_AUTOINSTALL"),
            limit=_env_size(env, "NATIVEMEM_LIMIT"),
            arena_hint=_env_size(env, "NATIVEMEM_ARENA_HINT"),
            arena_cap=_env_size(env, "NATIVEMEM_ARENA_CAP"),
            control=control,
            control_signal=signal,
            profile=profile,
            profile_rate=_env_size(env, "NATIVEMEM_PROFILE_RATE") or cls.profile_rate,
            secure=_env_switch(env, "NATIVEMEM_SECURE"),
            idle_decay=_env_switch(env, "NATIVEMEM_IDLE_DECAY"),
            provider=provider,
            manager=manager,
        )
