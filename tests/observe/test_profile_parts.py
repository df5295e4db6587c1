"""PROF-1: a profile's beginning and end, of an engine whose answers are known."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nativemem.engine import profiling
from nativemem.errors import ConfigError, NativeMemError, NativeUnavailable
from nativemem.observe import profile as module
from nativemem.observe import recording
from nativemem.observe.profile import Profile


class Core:
    def __init__(self) -> None:
        self.log: list[Any] = []
        self.budget: Any = (1, 2, 3, 4)
        self.parts = [b"now"]

    def engine_budget(self) -> Any:
        return self.budget

    def profile_read(self) -> list[bytes]:
        self.log.append("read")
        return self.parts

    def profile_stop(self) -> None:
        self.log.append("stop")


@pytest.fixture
def core(monkeypatch: pytest.MonkeyPatch) -> Core:
    made = Core()
    monkeypatch.setattr(module, "_core", lambda: made)
    monkeypatch.setattr(profiling, "state", lambda: None)
    monkeypatch.setattr(profiling, "start", lambda *given: made.log.append(given))
    monkeypatch.setattr(recording, "read_bytes", lambda parts, where: ("bytes", parts, where))
    monkeypatch.setattr(recording, "read", lambda path: ("file", path))
    return made


def test_in_memory(core: Core) -> None:
    """What was noted is there so far, and when it has ended; it ends once."""
    made: Any = Profile(rate=1)
    assert repr(made) == "<Profile in memory, a sample in 1 B, not running>"
    with pytest.raises(NativeMemError, match="^a profile: it was not started") as caught:
        made.read()
    assert caught.value.suggestion == "use it as a context manager" and core.log == []
    with made as same:
        assert same is made and core.log == [(None, 64 << 20, 1)]
        assert repr(made) == "<Profile in memory, a sample in 1 B, running>"
        assert made.read() == ("bytes", [b"now"], "memory")
        core.parts = [b"last"]
    assert core.log[1:] == ["read", "read", "stop"] and repr(made).endswith("not running>")
    core.parts = [b"later"]
    assert made.read() == ("bytes", [b"last"], "memory") and core.log[-1] == "stop"
    made.stop()
    assert core.log[-1] == "stop" and core.log.count("stop") == 1
    made.stop()


def test_in_a_file(core: Core, tmp_path: Path) -> None:
    file = tmp_path / "run.nm"
    made: Any = Profile(file, rate="1 KiB", bound="1 MiB")
    assert made.path == str(file) and repr(made) == f"<Profile {file}, a sample in 1024 B, not running>"
    with pytest.raises(NativeMemError, match="it was not started"):
        made.read()
    with made:
        assert core.log == [(str(file), 1 << 20, 1024)] and made.read() == ("bytes", [b"now"], str(file))
    assert core.log[1:] == ["read", "stop"], "what is in the file is not read into memory"
    file.touch()
    assert made.read() == ("file", str(file)) and core.log[-1] == "stop"


def test_where_it_cannot_begin(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Profile()
    core.budget = None
    with pytest.raises(NativeUnavailable, match="^a profile: the engine was not installed") as caught:
        made.start()
    assert caught.value.suggestion == "call nativemem.install()"
    core.budget = (0, 0, 0, 0)
    monkeypatch.setattr(profiling, "state", lambda: SimpleNamespace())
    with pytest.raises(NativeMemError, match="^a profile: one is running in this process") as other:
        made.start()
    assert other.value.suggestion == "stop it first" and core.log == [] and "not running" in repr(made)
    made.stop()
    assert core.log == []


def test_what_it_takes() -> None:
    made = Profile()
    assert (made.path, made.rate, made.bound) == (None, 512 << 10, 64 << 20)
    for bound in (1 << 20, 1 << 40):
        assert Profile(rate=1, bound=bound).bound == bound
    for given, says in (
        ({"path": 3}, "profile.path: takes a path or None, not 3"),
        ({"path": b"x"}, "profile.path: takes a path or None, not b'x'"),
        ({"path": "a\0b"}, "profile.path: takes a path without a NUL"),
        ({"rate": 0}, "profile.rate: takes 1 byte or more"),
        ({"bound": (1 << 20) - 1}, "profile.bound: takes 1 MiB to 1 TiB"),
        ({"bound": (1 << 40) + 1}, "profile.bound: takes 1 MiB to 1 TiB"),
    ):
        with pytest.raises(ConfigError) as caught:
            Profile(**given)  # type: ignore[arg-type]
        assert str(caught.value) == says
    assert Profile(Path("a")).path == "a" and os.fspath("a") == Profile("a").path


def test_whose_profile_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The native core's, and of nothing else."""
    asked: list[str] = []
    monkeypatch.setattr(module, "native_core", lambda what: (asked.append(what), "core")[1])
    assert module._core() == "core" and asked == ["a profile"]
