"""PYV-9: what doctor tries can fail: each probe in a world in which one thing is not what it should be."""

from __future__ import annotations

import importlib.util
import json
import sys
import sysconfig
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from nativemem import facades
from nativemem.commands import probes
from nativemem.commands.probes import Row
from nativemem.errors import ConfigError, NativeMemError

BUG = "this is a bug: please report it, with the whole of this page"


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """There is a core, and an engine that tells how it was asked and owns everything."""
    made = SimpleNamespace(asked=[], owns=True, raw=True)

    def install(**how: bool) -> Any:
        made.asked.append(how)
        return SimpleNamespace(raw=made.raw)

    monkeypatch.setattr(probes, "why_pure", lambda: None)
    monkeypatch.setattr(probes, "_install", SimpleNamespace(install=install, owns=lambda address: made.owns))
    yield made


def settings(monkeypatch: pytest.MonkeyPatch, **values: Any) -> None:
    found = SimpleNamespace(**{"disable": False, "backend": "auto", **values})
    monkeypatch.setattr(probes, "Settings", SimpleNamespace(from_env=lambda: found))


def test_objects_and_raw(world: SimpleNamespace) -> None:
    assert probes._engine("engine") == Row("engine", "works", "install() serves Python's objects")
    assert probes._raw("raw").state == "works"
    assert world.asked == [{"arrays": False}, {"objects": False, "arrays": False, "raw": True}]
    world.owns = world.raw = False
    assert probes._engine("e") == Row("e", "declined", "it is on, and an object did not come from it", BUG)
    assert probes._raw("r") == Row("r", "declined", "it was asked for, and is not on", BUG)


def test_arrays(world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    numpy = pytest.importorskip("numpy")
    works = Row("arrays", "works", f"install() serves the arrays of NumPy {numpy.__version__}")
    assert probes._arrays("arrays") == works
    assert world.asked == [{"objects": False}]
    world.owns = False
    assert probes._arrays("a") == Row("a", "declined", "it is on, and an array did not come from it", BUG)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert probes._arrays("a") == Row("a", "off", "NumPy is not installed")


class Limit:
    """A scope that has seen so many bytes."""

    def __init__(self, used: int) -> None:
        self.used = used

    def __enter__(self) -> Limit:
        return self

    def __exit__(self, *error: object) -> None:
        pass


@pytest.mark.parametrize(("used", "refuses", "works"), [(1 << 20, True, True), (1 << 21, True, True),
    ((1 << 20) - 1, True, False), (1 << 20, False, False)])  # fmt: skip
def test_scopes(
    world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, used: int, refuses: bool, works: bool
) -> None:
    def taken(size: int) -> bytes:
        taken_sizes.append(size)
        if size == 64 << 20 and refuses:
            raise MemoryError
        return b""

    sizes: list[int] = []
    taken_sizes: list[int] = []
    monkeypatch.setattr(probes, "_scope", lambda size: (sizes.append(size), Limit(used))[1])
    monkeypatch.setattr(probes, "bytes", taken, raising=False)
    row = probes._scopes("scopes")
    assert (row.state, sizes, world.asked) == ("works" if works else "declined", [8 << 20], [{"arrays": False}])
    assert taken_sizes == [1 << 20, 64 << 20]
    if not works:
        assert row[2:] == (f"charged {used} bytes for 1 MiB; refused: {refuses}", BUG)


@pytest.mark.parametrize(
    ("used", "refuses", "works"),
    [(8 << 17, True, True), ((8 << 17) + 1, True, False), ((8 << 17) - 1, True, False), (8 << 17, False, False)],
)
def test_scopes_without_the_lock(
    world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, used: int, refuses: bool, works: bool
) -> None:
    """Of arrays alone, where there is NumPy."""

    def empty(count: int) -> Any:
        counts.append(count)
        if count == 8 << 20 and refuses:
            raise MemoryError
        return SimpleNamespace(nbytes=8 * count)

    sizes: list[int] = []
    counts: list[int] = []
    monkeypatch.setattr(probes, "is_free_threaded", lambda: True)
    monkeypatch.setattr(probes, "_scope", lambda size: (sizes.append(size), Limit(used))[1])
    monkeypatch.setitem(sys.modules, "numpy", SimpleNamespace(empty=empty))  # type: ignore[misc]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "numpy" or None)
    row = probes._scopes("s")
    assert (sizes, counts, world.asked) == ([8 << 20], [1 << 17, 8 << 20], [{"objects": False}])
    said = "a scope of 8 MiB was charged for an array of 1 MiB and refused 64 MiB; objects are not"
    bug = f"charged {used} bytes for 1 MiB; refused: {refuses}"
    assert row == (Row("s", "works", said) if works else Row("s", "declined", bug, BUG))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    none = "NumPy is not installed; without the lock (GIL) objects are charged to no scope"
    assert probes._scopes("s") == Row("s", "off", none)


def test_the_insides(world: SimpleNamespace) -> None:
    checked: list[int] = []
    world_install: Any = probes._install
    world_install.check_insides = lambda: checked.append(1)
    works = Row("i", "works", "what the core reads of the interpreter is where it is expected")
    assert probes._insides("i") == works and checked == [1]


@pytest.mark.parametrize(
    ("error", "asked", "row"),
    [
        (ModuleNotFoundError("no", name="nativemem._core"), "0", Row("c", "off", "why", "cure")),
        (ModuleNotFoundError("no", name="nativemem._core"), "1", Row("c", "declined", "why", "cure")),
        (
            ModuleNotFoundError("no module", name="cffi"),
            "0",
            Row("c", "declined", "does not load: no module", "install it again, for this Python"),
        ),
        (
            ImportError("undefined symbol", name="nativemem._core"),
            "1",
            Row("c", "declined", "does not load: undefined symbol", "install it again, for this Python"),
        ),
        (None, "1", Row("c", "works", "_dataplane.so loads")),
    ],
)
def test_the_core(monkeypatch: pytest.MonkeyPatch, error: ImportError | None, asked: str, row: Row) -> None:
    import nativemem.backends.native as native

    class Loader:
        def __getattr__(self, name: str) -> Any:
            if name == "dataplane" and error is None:
                return SimpleNamespace(__file__="/x/_dataplane.so")
            raise AttributeError(name)

    class Broken:
        def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
            if name == "nativemem.backends.native.loader" and error is not None:
                raise error

    settings(monkeypatch)
    name = "nativemem.backends.native.loader"
    monkeypatch.delattr(native, "loader", raising=False)
    monkeypatch.delitem(sys.modules, name, raising=False)
    if error is None:
        monkeypatch.setitem(sys.modules, name, Loader())  # type: ignore[misc]
        monkeypatch.setattr(native, "loader", Loader(), raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    monkeypatch.setattr(probes, "missing_core", lambda: ("why", "cure"))
    monkeypatch.setattr(probes, "build", lambda: {"asked": asked})
    assert probes._core("c") == row


@pytest.mark.parametrize("comes", [True, False])
def test_errors_that_come_later(world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, comes: bool) -> None:
    asked = 0

    def measured(kept: list[Any]) -> int:
        nonlocal asked
        asked += 1
        if asked == 31 and comes:
            raise MemoryError
        return len(kept) if asked < 40 else 1_000_000

    sizes: list[int] = []
    monkeypatch.setattr(probes, "_scope", lambda size: (sizes.append(size), Limit(0))[1])
    monkeypatch.setattr(probes, "len", measured, raising=False)
    row = probes._deferral("d")
    assert (sizes, world.asked) == ([2 << 20], [{"arrays": False}])
    if comes:
        reason = "15 lists filled a scope of 2 MiB; the error came, and the program goes on"
        assert row == Row("d", "works", reason)
    else:
        assert row == Row("d", "declined", "a million lists did not fill a scope of 2 MiB", BUG)


@pytest.mark.parametrize(
    ("broken", "works"), [("", True), ("content", False), ("place", False), ("charge", False), ("refusal", False)]
)
def test_blocks(monkeypatch: pytest.MonkeyPatch, broken: str, works: bool) -> None:
    class Block:
        def __init__(self) -> None:
            self.raw = bytearray(1000)
            self.address = 32 if broken == "place" else 640

        def __getitem__(self, part: slice) -> bytes:
            return b"patient" if broken == "content" else bytes(self.raw[part])

        def __setitem__(self, part: slice, value: bytes) -> None:
            self.raw[part] = value

    asked: list[tuple[int, int]] = []

    class Arena(Limit):
        def alloc(self, size: int, align: int = 16) -> Block:
            asked.append((size, align))
            if size > 1 << 20 and broken != "refusal":
                raise MemoryError
            return Block()

    limit = Limit(0 if broken == "charge" else 65536)
    sizes: list[int] = []
    binding = SimpleNamespace(
        name="made",
        Budget=lambda size, name: (sizes.append(size), limit)[1],
        Arena=lambda upstream: Arena(0),
        Limited=lambda *_: None,
    )
    monkeypatch.setattr(facades, "configured", lambda: binding)
    monkeypatch.setattr(probes, "memoryview", lambda block: block, raising=False)
    row = probes._blocks("blocks")
    assert (row.state, sizes) == ("works" if works else "declined", [1 << 20])
    assert row.cure == ("" if works else BUG)
    assert asked == [(1000, 64), *[(2 << 20, 16)] * (works or broken == "refusal")]


@pytest.mark.parametrize(
    ("chosen", "flags", "attribute", "on"),
    [
        ("", {}, False, False),
        ("malloc", {}, False, False),
        ("debug", {}, False, True),
        ("pymalloc_debug", {}, False, True),
        ("debug", {"ignore_environment": True}, False, False),
        ("", {"dev_mode": True}, False, True),
        ("default", {"dev_mode": True}, False, True),
        ("malloc", {"dev_mode": True}, False, False),
        ("", {}, True, True),
        ("malloc", {}, True, False),
    ],
)
def test_debug_hooks(
    world: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    chosen: str,
    flags: dict[str, bool],
    attribute: bool,
    on: bool,
) -> None:
    made = SimpleNamespace(flags=SimpleNamespace(**{"ignore_environment": False, "dev_mode": False, **flags}))
    if attribute:
        made.gettotalrefcount = int
    monkeypatch.setattr(probes, "sys", made)
    monkeypatch.setenv("PYTHONMALLOC", chosen)
    row = probes._debug_hooks("hooks")
    assert (row.state, world.asked) == (("works", [{"arrays": False}]) if on else ("off", []))


@pytest.mark.parametrize(
    ("could", "before", "after", "state", "cure"),
    [
        (0, True, True, "off", ""),
        (1, True, True, "off", "PYTHON_GIL=0"),
        (1, False, True, "declined", "NATIVEMEM_BACKEND=pure"),
        (1, False, False, "works", ""),
    ],
)
def test_the_interpreters_lock(
    monkeypatch: pytest.MonkeyPatch, could: int, before: bool, after: bool, state: str, cure: str
) -> None:
    seen = iter((before, after))
    monkeypatch.setattr(sysconfig, "get_config_var", lambda name: could)
    selected: list[str] = []
    monkeypatch.setattr(probes, "_lock_is_on", lambda: next(seen))
    monkeypatch.setattr(probes, "select", selected.append)
    settings(monkeypatch, backend="native")
    row = probes._threads("lock")
    assert (row.state, row.cure, selected) == (state, cure, ["native"] * could)


def test_whether_the_lock_is_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is where the interpreter cannot say so: those before 3.13 have it always."""
    for says in (True, False):
        monkeypatch.setattr(sys, "_is_gil_enabled", lambda says=says: says, raising=False)
        assert probes._lock_is_on() is says
    monkeypatch.delattr(sys, "_is_gil_enabled")
    assert probes._lock_is_on() is True


@pytest.mark.usefixtures("needs_native")
def test_the_table_of_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    from nativemem.interop import capi

    assert probes._c_api("C").state == "works"
    monkeypatch.setattr(capi, "_C_API", None)
    assert probes._c_api("C") == Row("C", "declined", "there is no table of functions", BUG)


def test_without_a_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "why_pure", lambda: ("why", "cure"))
    needs = (probes._insides, probes._engine, probes._scopes, probes._deferral, probes._raw, probes._c_api)
    for values, asked, reason, state in (
        ({"disable": True}, "1", "why", "off"),
        ({"backend": "pure"}, "1", "why", "off"),
        ({}, "0", "it needs the native core, and there is none", "off"),
        ({}, "1", "it needs the native core, and there is none", "declined"),
        ({}, None, "it needs the native core, and there is none", "declined"),
    ):
        settings(monkeypatch, **values)
        monkeypatch.setattr(probes, "build", lambda asked=asked: {} if asked is None else {"asked": asked})
        for probe in needs:
            assert probe("x") == Row("x", state, reason)
    settings(monkeypatch)
    monkeypatch.setattr(probes, "select", lambda backend: "pure")
    assert probes._backend("b") == Row("b", "works", "pure: why", "cure")
    monkeypatch.setattr(probes, "why_pure", lambda: None)
    assert probes._backend("b") == Row("b", "works", "pure: it was asked for", "")
    monkeypatch.setattr(probes, "select", lambda backend: "native")
    assert probes._backend("b") == Row("b", "works", "native")
    settings(monkeypatch, disable=True)
    row = Row("core", "off", "NATIVEMEM_DISABLE=1 is set", "leave NATIVEMEM_DISABLE unset")
    assert probes._core("core") == row


def test_what_goes_wrong_in_a_probe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(error: BaseException) -> Row:
        def probe(name: str) -> Row:
            raise error

        return probes.guarded("x", probe)

    assert fails(ConfigError("what", suggestion="cure")) == Row("x", "declined", "what", "cure")
    assert fails(NativeMemError("what")).cure.startswith("this is a mistake in nativemem itself")
    assert fails(SystemExit(" a\n  b")) == Row("x", "declined", "SystemExit: a b")
    assert fails(OSError("y" * (300 - len("OSError: ")))).reason == "OSError: " + "y" * 291
    assert fails(OSError("y" * 292)).reason == "OSError: " + "y" * 288 + "..."
    monkeypatch.setitem(probes.PROBES, "one", lambda name: Row(name, "works", "yes"))
    probes.run(["one"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [{"begins": "one"}, ["one", "works", "yes", ""]]


def test_what_is_known_when_a_probe_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line is out before anything else is tried."""
    written: list[str] = []
    log: list[str] = []
    flush = lambda: (log.append("".join(written)), written.clear())  # noqa: E731
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(write=written.append, flush=flush))
    monkeypatch.setitem(probes.PROBES, "one", lambda name: log.append("tried") or Row(name, "works", "yes"))
    probes.run(["one", "one"])
    begins, row = '{"begins": "one"}\n', '["one", "works", "yes", ""]\n'
    assert log == [begins, "tried", row] * 2 and written == []
