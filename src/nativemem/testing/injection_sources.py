"""What a sweep refuses memory from."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from typing import Any

from ..backends.machine import is_free_threaded
from ..backends.selection import native_core, need_lock
from ..facades import configured
from ..wrappers.domains import DOMAINS, chosen_domains
from .injection_report import Shared

__all__ = ["DOMAINS", "Allocators", "Domains", "source_of"]


def source_of(names: Any) -> Allocators | Domains:
    """Raises :class:`ConfigError` for names that are no sources, :class:`NativeUnavailable` for the domains where
    there is no core."""
    chosen = chosen_domains(names, "sweep.domains", alone="allocators")
    return Allocators() if chosen == ("allocators",) else Domains(chosen)


class Domains:
    """CPython's allocation domains, below all that is installed."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.core = native_core("fault injection into the interpreter's domains")
        need_lock("fault injection into the interpreter's domains")
        from ..engine.install import check_insides

        check_insides()  # Python's stack is read in the midst of an allocation
        self.names = names
        self.bits = sum(1 << DOMAINS.index(name) for name in names)

    def report_size(self) -> int:
        return int(self.core.injection_size)

    def open(self, shared: Shared) -> None:
        self.core.injection_open(shared.memory)

    def call(self, function: Callable[[], Any], nth: int, sticky: bool, sites: mmap.mmap | None) -> Any:
        return self.core.injection_call(function, self.bits, nth, sticky, sites)

    def counted(self, shared: Shared) -> tuple[int, int]:
        return shared.counted()

    def live(self, shared: Shared) -> int:
        return shared.live()


class Allocators:
    """This package's default allocator, which all others stand on that are made without an upstream."""

    names = ("allocators",)

    def __init__(self) -> None:
        self.binding = configured()
        self.failing: Any = None
        self.system = self.binding.default_system

    def report_size(self) -> int:
        if self.binding.name == "native" and not is_free_threaded():
            from ..backends.native.loader import dataplane

            return int(dataplane.injection_size)
        return 0

    def open(self, shared: Shared) -> None:
        if shared.native:
            from ..backends.native.loader import dataplane

            dataplane.injection_open(shared.memory)
        self.failing = self.binding.Failing(self.system)
        self.binding.default_system = self.failing

    def call(self, function: Callable[[], Any], nth: int, sticky: bool, sites: mmap.mmap | None) -> Any:
        self.failing.reset(nth, sticky)
        return function()

    def counted(self, shared: Shared) -> tuple[int, int]:
        return self.failing.calls, self.failing.failed

    def live(self, shared: Shared) -> int:
        return int(self.failing.stats.live)
