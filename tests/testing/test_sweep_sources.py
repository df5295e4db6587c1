"""What a sweep refuses memory from, each source by itself: the domains' core is made by hand."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from nativemem.backends.binding import Binding
from nativemem.errors import ConfigError, NativeUnavailable
from nativemem.testing import injection_sources
from nativemem.testing.injection_sources import Allocators, Domains, source_of

WANTS = "fault injection into the interpreter's domains"


@pytest.fixture
def core(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is asked of a core, and before that of the process."""
    log: list[Any] = []

    def native_core(what: str) -> Any:
        log.append(("core", what))
        return SimpleNamespace(
            injection_size=123.0,
            injection_open=lambda memory: log.append(("open", memory)),
            injection_call=lambda *given: ("called", *given),
        )

    monkeypatch.setattr(injection_sources, "native_core", native_core)
    monkeypatch.setattr(injection_sources, "need_lock", lambda what: log.append(("lock", what)))
    monkeypatch.setattr("nativemem.engine.install.check_insides", lambda: log.append("insides"))
    return log


def test_the_domains(core: list[Any]) -> None:
    """INJ-1: a bit for each, and what the shared report says."""
    shared: Any = SimpleNamespace(memory="memory", counted=lambda: (7, 2), live=lambda: 5)
    for names, bits in ((("raw",), 1), (("mem",), 2), (("raw", "obj"), 5), (("raw", "mem", "obj"), 7)):
        made = Domains(names)
        assert core == [("core", WANTS), ("lock", WANTS), "insides"] and (made.names, made.bits) == (names, bits)
        core.clear()
        assert made.report_size() == 123 and type(made.report_size()) is int
        assert made.call(int, 3, True, None) == ("called", int, bits, 3, True, None)
        made.open(shared)
        assert core == [("open", "memory")] and (made.counted(shared), made.live(shared)) == ((7, 2), 5)
        core.clear()


def test_which_source_is_meant(core: list[Any], monkeypatch: pytest.MonkeyPatch, nm: Binding) -> None:
    monkeypatch.setattr(injection_sources, "configured", lambda: nm)
    for names in ("allocators", ("allocators",), ["allocators"]):
        found = source_of(names)
        assert isinstance(found, Allocators) and found.names == ("allocators",)
    for names, chosen in (("obj", ("obj",)), (("obj", "raw"), ("raw", "obj")), (["mem"] * 2, ("mem",))):
        assert source_of(names).names == chosen
    for bad in ("all", (), ("allocators", "obj"), ("obj", "x"), 5, None):
        with pytest.raises(ConfigError, match="^sweep.domains: takes raw, mem and obj, one or more, or allocators"):
            source_of(bad)
    for bad in ("malloc", ("obj", "malloc")):
        with pytest.raises(NativeUnavailable, match="^sweep.domains: malloc can be refused only where"):
            source_of(bad)


def test_the_packages_default_allocator(nm: Binding, monkeypatch: pytest.MonkeyPatch) -> None:
    """INJ-1: what is made without an upstream stands on it, and is refused the number that is asked for."""
    monkeypatch.setattr(injection_sources, "configured", lambda: nm)
    monkeypatch.setattr(nm, "default_system", nm.default_system)  # as it was, afterwards
    system = nm.default_system
    made = Allocators()
    shared: Any = SimpleNamespace(native=0)
    made.open(shared)
    assert made.system is system and nm.default_system is made.failing is not system

    def function() -> str:
        blocks = [nm.default_system.alloc(10) for _ in range(3)]
        live.append(made.live(shared))
        for block in blocks:
            block.free()
        return "result"

    live: list[int] = []
    assert made.call(function, 0, False, None) == "result" and made.counted(shared) == (3, 0) and live == [3]
    assert made.live(shared) == 0
    for nth, sticky, calls in ((1, False, 1), (3, False, 3), (2, True, 2)):
        with pytest.raises(MemoryError):
            made.call(function, nth, sticky, None)
        assert made.counted(shared) == (calls, 1)
    assert made.call(lambda: [nm.default_system.alloc(1).free() for _ in range(4)], 5, True, None) == [None] * 4
    assert made.counted(shared) == (4, 0)


def test_the_report_of_the_core_is_the_native_backends(nm: Binding, monkeypatch: pytest.MonkeyPatch) -> None:
    """INJ-1: of its crashes; the pure backend has none, nor has an interpreter without the lock."""
    monkeypatch.setattr(injection_sources, "configured", lambda: nm)
    opened: list[Any] = []
    dataplane = SimpleNamespace(injection_size=321.0, injection_open=opened.append)
    module: Any = SimpleNamespace(dataplane=dataplane)
    monkeypatch.setitem(sys.modules, "nativemem.backends.native.loader", module)
    monkeypatch.setattr(nm, "default_system", nm.default_system)
    for without_lock in (False, True):
        monkeypatch.setattr(injection_sources, "is_free_threaded", lambda without_lock=without_lock: without_lock)
        size = Allocators().report_size()
        assert size == (321 if nm.name == "native" and not without_lock else 0) and type(size) is int
    shared: Any = SimpleNamespace(native=0, memory="memory")
    Allocators().open(shared)
    assert opened == []
    shared.native = 321
    Allocators().open(shared)
    assert opened == ["memory"]
