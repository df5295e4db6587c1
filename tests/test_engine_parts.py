"""What installs the engine, part by part, on a core that is made by hand: nothing is installed here."""

from __future__ import annotations

import errno
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from nativemem.budgets.budget import Denial
from nativemem.engine import about, install, numpy_default, process, profiling
from nativemem.engine.install import Installed
from nativemem.errors import ConfigError, InvalidLayout, NativeUnavailable, OutOfMemory
from nativemem.settings import Settings
from nativemem.sizes import SIZE_MAX
from nativemem.units import LEAST_OVER_HELD, reserve_of

MIB = 1 << 20


class Engine:
    """A core that keeps what is asked of it; ``state`` is what is on."""

    def __init__(self) -> None:
        self.log: list[Any] = []
        self.state = {"objects": False, "arrays": False, "raw": False}
        self.budget: tuple[int, int, int, int] | None = (3 * MIB, 5 * MIB, SIZE_MAX, 2)
        self.moved: str | None = None
        self.starts = True
        self.stranger: tuple[str, str | None] | None = None
        self.sizes: list[tuple[int, int]] = [(16, 3), (64, 1)]
        self.profile: tuple[int, int, int, int] | None = None

    def insides_check(self) -> str | None:
        return self.moved

    def engine_start(self, secure: bool) -> bool:
        self.log.append(("start", secure))
        return self.starts

    def region_decay_when_idle(self) -> None:
        self.log.append("decay")

    def engine_budget(self) -> tuple[int, int, int, int] | None:
        return self.budget

    def engine_set_limit(self, limit: int, reserve: int) -> None:
        self.log.append(("limit", limit, reserve))

    def engine_stranger(self, objects: bool, raw: bool) -> tuple[str, str | None] | None:
        self.log.append(("stranger", objects, raw))
        return self.stranger

    def engine_catch_strays(self) -> None:
        self.log.append("strays")

    def engine_hook_arrays(self, table: Any) -> None:
        self.log.append(("hook", table))

    def engine_state(self) -> tuple[bool, bool, bool]:
        return self.state["objects"], self.state["arrays"], self.state["raw"]

    def engine_account(self) -> tuple[list[tuple[int, int]], None]:
        return self.sizes, None

    def engine_kept(self) -> int:
        return MIB

    def region_owns(self, address: int) -> bool:
        self.log.append(("owns", address))
        return address % 2 == 0

    def profile_start(self, *given: Any) -> None:
        self.log.append(("profile", *given))

    def profile_state(self) -> Any:
        return self.profile

    def profile_stop(self) -> Any:
        last, self.profile = self.profile, None
        return last

    def __getattr__(self, name: str) -> Callable[[bool], None]:
        what = name.removeprefix("engine_")
        if what not in self.state:
            raise AttributeError(name)

        def switch(on: bool) -> None:
            self.log.append((what, on))
            self.state[what] = on

        return switch

    def did(self) -> list[Any]:
        log, self.log[:] = list(self.log), []
        return log


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    """The core of this process, for as long as the test lasts."""
    made: Any = Engine()
    loader: Any = SimpleNamespace(dataplane=made, start_region=lambda: made.log.append("region"))
    monkeypatch.setitem(sys.modules, "nativemem.backends.native.loader", loader)
    monkeypatch.setitem(sys.modules, "nativemem._dataplane", made)
    for module in (install, process, profiling):
        monkeypatch.setattr(module, "core", lambda: made)
    monkeypatch.setattr(install, "import_what_was_put_off", lambda: made.log.append("imports"))
    monkeypatch.setattr(install, "is_free_threaded", lambda: False)
    monkeypatch.setattr(install, "Settings", SimpleNamespace(from_env=lambda: made.settings))
    made.settings = Settings()
    monkeypatch.setitem(sys.modules, "numpy", None)  # type: ignore[arg-type]
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    return made  # type: ignore[no-any-return]


# ---- what is on ---------------------------------------------------------------------------------------------


def test_what_is_on() -> None:
    """A value: equal, hashed, kept and shown by what it says; true where anything is on."""
    values = [(False, False, False, None), (True, False, False, None), (False, True, False, None),
              (False, False, True, None), (False, False, False, 5)]  # fmt: skip
    made = [Installed(*each) for each in values]
    assert [bool(each) for each in made] == [False, True, True, True, False]
    for one, value in zip(made, values, strict=True):
        assert (one.objects, one.arrays, one.raw, one.limit) == value
        assert [one == other for other in made] == [one is other for other in made]
        assert Installed(*value) == one and hash(Installed(*value)) == hash(one) and (one != value) is True
        assert pickle.loads(pickle.dumps(one)) == one
        with pytest.raises(AttributeError, match=r"^this is what was on when it was asked; call install\(\) or"):
            one.objects = True
    assert len({hash(each) for each in made}) == len(made)
    assert repr(made[4]) == "Installed(objects=False, arrays=False, raw=False, limit=5)"


def test_what_is_on_now(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing before the core has been loaded and started; arrays also where NumPy is waited for."""
    assert install.started_core() is engine and install.installed() == Installed(False, False, False, None)
    engine.budget = (1, 2, 7, 3)
    for name in engine.state:
        engine.state[name] = True
        assert install.installed() == Installed(**{**engine.state, "limit": 7})  # type: ignore[arg-type]
        engine.state[name] = False
    install.numpy_awaited.enter()
    assert install.installed() == Installed(False, True, False, 7)
    install.numpy_awaited.leave()
    engine.budget = None
    assert install.started_core() is None and not install.installed()
    monkeypatch.delitem(sys.modules, "nativemem._dataplane")
    assert install.started_core() is None and install.installed() == Installed(False, False, False, None)


def test_whose_memory_it_is(engine: Engine) -> None:
    """An address is what a pointer may be."""
    for address, is_ours in ((0, True), (1, False), ((1 << 64) - 1, False), ((1 << 64) - 2, True)):
        assert install.owns(address) is is_ours
    assert engine.did() == [("owns", 0), ("owns", 1), ("owns", (1 << 64) - 1), ("owns", (1 << 64) - 2)]
    assert install.owns(-1) is install.owns(-2) is install.owns(1 << 64) is False and engine.did() == []


# ---- installing ---------------------------------------------------------------------------------------------


def test_an_interpreter_that_is_another(engine: Engine) -> None:
    install.check_insides()
    engine.moved = "the frame of a thread"
    with pytest.raises(NativeUnavailable) as caught:
        install.check_insides()
    version = sys.version.split()[0]
    assert str(caught.value).splitlines()[0] == (
        f"Python {version} does not keep the frame of a thread where this build expects it"
    )
    assert str(caught.value.suggestion).startswith("build nativemem on this machine")


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize(("asked", "by_environment"), [(False, False), (True, False), (False, True)])
def test_the_start_of_the_heap(engine: Engine, secure: bool, asked: bool, by_environment: bool) -> None:
    """As the environment has it; a thread where either asks for it."""
    engine.settings = Settings(secure=secure, idle_decay=by_environment)  # type: ignore[attr-defined]
    install._start(asked)
    assert engine.did() == ["region", ("start", secure), *["decay"] * (asked or by_environment)]


def test_a_system_without_memory(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is refused first says so; nothing has begun then."""

    def no_memory() -> None:
        raise MemoryError

    engine.starts = False
    with pytest.raises(OutOfMemory, match="^no memory for the engine's control structures"):
        install._start(True)
    assert engine.did() == ["region", ("start", False)]
    monkeypatch.setattr(engine, "insides_check", no_memory)
    with pytest.raises(OutOfMemory, match="^the system refused the first memory for the heap"):
        install._start(True)
    assert engine.did() == []


def test_the_least_limit(engine: Engine) -> None:
    """What is held, rather than the most that was, and 1 MiB."""
    install.limit_to(4 * MIB, "x")
    assert engine.did() == [("limit", 4 * MIB, reserve_of(4 * MIB))] and LEAST_OVER_HELD == MIB
    with pytest.raises(InvalidLayout, match=f"^x: {4 * MIB - 1} bytes is too little; the least is {4 * MIB}"):
        install.limit_to(4 * MIB - 1, "x")
    assert engine.did() == []


def test_hooks_of_others(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which tool it is, as far as is known, and what to do."""
    tracing = SimpleNamespace(is_tracing=lambda: traces)
    monkeypatch.setitem(sys.modules, "_tracemalloc", tracing)  # type: ignore[arg-type]
    traces: Any = 0
    install._refuse_above_others(engine, True, False)
    assert engine.did() == [("stranger", True, False)]
    after = "; when it stops it would take the engine out from under its blocks"
    for found, traces, says, suggests in (
        (("obj", None), 0, "an allocator hook from no file is in the interpreter's obj domain", "the other tool"),
        (("raw", "/a.so"), 0, "an allocator hook from /a.so is in the interpreter's raw domain", "the other tool"),
        (("raw", "/a.so"), 1, "tracemalloc is tracing", "tracemalloc"),
    ):
        engine.stranger = found
        with pytest.raises(NativeUnavailable) as caught:
            install._refuse_above_others(engine, False, True)
        assert str(caught.value).splitlines()[0] == says + after
        assert caught.value.suggestion == f"stop {suggests}, install, then start it again"
        assert install._is_tracing() is bool(traces)
    monkeypatch.setitem(sys.modules, "_tracemalloc", None)  # type: ignore[arg-type]
    assert install._is_tracing() is False


@pytest.mark.parametrize("name", ["objects", "arrays", "raw", "idle_decay"])
@pytest.mark.parametrize("value", [1, None, "64 MiB"])
def test_arguments_that_are_no_switches(engine: Engine, name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"^install.{name}: takes True or False, not {value!r}") as caught:
        install.install(**{name: value})
    by_name = "a limit is given by its name: install(limit='64 MiB')"
    assert (caught.value.suggestion == by_name) is (name == "objects") and engine.did() == []


def test_limits_that_are_none(engine: Engine) -> None:
    for limit in ("much", 0, -1, True):
        with pytest.raises(InvalidLayout, match="^install.limit:"):
            install.install(limit=limit)
    assert engine.did() == []
    with pytest.raises(InvalidLayout, match="^install.limit: 1 bytes is too little; the least is"):
        install.install(limit=1)  # which is a size


def test_the_core_of_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "native_core", lambda what: ("core", what))
    assert install.core() == ("core", "the engine")


def test_the_kill_switch(engine: Engine) -> None:
    """Nothing is done; arguments that will not do are refused all the same."""
    engine.settings = Settings(disable=True)  # type: ignore[attr-defined]
    assert install.install(limit="1 GiB") == Installed(False, False, False, None) and engine.did() == []
    with pytest.raises(ConfigError):
        install.install(objects=1)  # type: ignore[arg-type]


BEGIN = ["imports", "region", ("start", False)]


def test_each_part_by_itself(engine: Engine) -> None:
    """What is asked for is switched on, after all that may decline it, and the rest is as it was."""
    off: dict[str, Any] = {"objects": False, "arrays": False}
    assert install.install(**off) == Installed(False, False, False, None)
    assert engine.did() == [*BEGIN, ("stranger", False, False)]
    on = [("stranger", True, False), "strays", ("objects", True)]
    assert install.install(arrays=False) == Installed(True, False, False, None) and engine.did() == [*BEGIN, *on]
    engine.state["objects"] = False
    assert install.install(**off, raw=True) == Installed(False, False, True, None)
    assert engine.did() == [*BEGIN, ("stranger", False, True), "strays", ("raw", True)]
    assert install.install(arrays=False, raw=True) == Installed(True, False, True, None)
    assert engine.did() == [*BEGIN, ("stranger", True, True), "strays", ("raw", True), ("objects", True)]
    assert install.install(**off, limit="8 MiB", idle_decay=True) == Installed(True, False, True, None)
    limit = ("limit", 8 * MIB, reserve_of(8 * MIB))
    assert engine.did() == [*BEGIN, "decay", ("stranger", False, False), limit]
    install.uninstall()
    assert engine.did() == [("objects", False), ("raw", False), ("arrays", False)]
    install.uninstall()
    assert engine.did() == []
    assert install.install() == Installed(True, True, False, None) and install.numpy_awaited.waits
    assert engine.did() == [*BEGIN, *on]
    install.uninstall()
    assert not install.numpy_awaited.waits and engine.did() == [
        ("objects", False),
        ("raw", False),
        ("arrays", False),
    ]


def numpy_of(monkeypatch: pytest.MonkeyPatch, version: str | None = "2.1.0", name: int | None = 0) -> Any:
    """A NumPy, as far as it is looked at."""
    for each in numpy_default._UMATH:
        monkeypatch.delitem(sys.modules, each, raising=False)
    numpy: Any = ModuleType("numpy")
    if version is not None:
        numpy.__version__ = version
    monkeypatch.setitem(sys.modules, "numpy", numpy)
    umath: Any = SimpleNamespace(_ARRAY_API="table")
    if name is not None:
        monkeypatch.setitem(sys.modules, numpy_default._UMATH[name], umath)
    return umath


def test_arrays_where_numpy_is_there(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that will not do declines before anything has begun."""
    numpy_of(monkeypatch, "1.21.9")
    with pytest.raises(NativeUnavailable, match=r"^NumPy 1.21.9 has no memory handlers"):
        install.install()
    assert engine.did() == ["imports"]
    assert install.install(arrays=False) == Installed(True, False, False, None)  # which does not look at it
    engine.did()
    numpy_of(monkeypatch)
    assert install.install(objects=False) == Installed(True, True, False, None)
    assert engine.did() == [*BEGIN, ("stranger", False, False), ("hook", "table"), ("arrays", True)]
    assert not install.numpy_awaited.waits


def test_arrays_once_numpy_is_imported(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    install.install(objects=False)
    engine.did()
    numpy_of(monkeypatch)
    install.numpy_awaited._imported()
    assert engine.did() == [("hook", "table"), ("arrays", True)] and not install.numpy_awaited.waits


def test_objects_without_the_lock(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are declined; the rest is not."""
    monkeypatch.setattr(install, "is_free_threaded", lambda: True)
    for more in ({}, {"raw": True}):
        with pytest.raises(NativeUnavailable, match="^objects: the collector of a free-threaded interpreter"):
            install.install(**more)
        assert engine.did() == ["imports"]
    assert install.install(objects=False, raw=True) == Installed(False, True, True, None)
    install.numpy_awaited.leave()


def test_what_a_fork_renews() -> None:
    """Another thread of the parent may have held the lock."""
    before = install._lock
    try:
        install._renew_lock()
        assert install._lock is not before and install._lock.acquire(blocking=False)
        install._lock.release()
    finally:
        install._lock = before


# ---- NumPy --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [0, 1])
@pytest.mark.parametrize("version", ["1.22", "1.22.0rc1", "1.100.3", "2.0.1", "10.0"])
def test_a_numpy_that_will_do(monkeypatch: pytest.MonkeyPatch, version: str, name: int) -> None:
    umath = numpy_of(monkeypatch, version, name)
    assert numpy_default.module() is umath


@pytest.mark.parametrize(
    ("version", "name", "says"),
    [
        ("1.21.9", 1, "NumPy 1.21.9 has no memory handlers; 1.22 is the first that has"),
        ("0.99", 0, "NumPy 0.99 has no memory handlers; 1.22 is the first that has"),
        (None, 0, "the import of NumPy is not done"),
        ("2.0.0", None, "the import of NumPy is not done"),
    ],
)
def test_a_numpy_that_will_not_do(
    monkeypatch: pytest.MonkeyPatch, version: str | None, name: int | None, says: str
) -> None:
    numpy_of(monkeypatch, version, name)
    with pytest.raises(NativeUnavailable) as caught:
        numpy_default.module()
    assert str(caught.value).splitlines()[0] == says


def test_handlers_of_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default handler is looked at, whatever this context has."""
    from contextvars import ContextVar

    numpy_of(monkeypatch)
    chosen = ContextVar("chosen", default="default")
    chosen.set("mine")
    seen: list[Any] = []

    def put_in(table: Any) -> None:
        seen.append((table, chosen.get()))
        if len(seen) == 2:
            raise RuntimeError("version 3")

    numpy_default.hook(put_in)
    with pytest.raises(NativeUnavailable, match="^version 3"):
        numpy_default.hook(put_in)
    assert seen == [("table", "default")] * 2


def test_imports_that_are_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, found in (
        (SimpleNamespace(_module_locks={"a": 1}), {"a": 1}),
        (SimpleNamespace(), None),
        (None, None),
    ):
        monkeypatch.setitem(sys.modules, "_frozen_importlib", module)  # type: ignore[arg-type]
        assert numpy_default.imports_under_way() == found
        monkeypatch.undo()


class Loader:
    def __init__(self, log: list[Any]) -> None:
        self.log, self.other = log, "its own"

    def create_module(self, spec: Any) -> Any:
        self.log.append(("create", spec))
        return "made"

    def exec_module(self, module: Any) -> None:
        self.log.append(("exec", module.__loader__ is self and module.__spec__.loader is self))


def test_the_import_that_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others' loader runs the module, and is its loader; then the arrays are put under it, once."""
    log: list[Any] = []
    loader = Loader(log)
    spec: Any = SimpleNamespace(loader=loader)

    def find(*given: Any) -> Any:
        log.append(("find", *given))
        return spec

    waiting = numpy_default.WhenImported(lambda: log.append("action"))
    first: Any = SimpleNamespace(find_spec=lambda *_: None)
    old: Any = SimpleNamespace()  # without find_spec
    monkeypatch.setattr(sys, "meta_path", [old, first])
    assert not waiting.waits
    waiting.leave()
    waiting.enter()
    waiting.enter()
    assert sys.meta_path == [waiting, old, first] and waiting.waits
    assert waiting.find_spec("numpy.core", None) is None and waiting.find_spec("numpy", None) is None
    sys.meta_path.append(SimpleNamespace(find_spec=find))  # type: ignore[arg-type]
    assert waiting.find_spec("numpy", "path", "target") is spec and log == [("find", "numpy", "path", "target")]
    stands: Any = spec.loader
    assert stands.other == "its own" and stands.create_module("spec") == "made" and log[1:] == [("create", "spec")]
    with pytest.raises(AttributeError, match="^__getstate_of_none__$"):
        stands.__getstate_of_none__  # noqa: B018
    for times in (1, 0):  # the second import finds it gone
        log.clear()
        module: Any = SimpleNamespace(__spec__=SimpleNamespace(loader=stands), __loader__=stands)
        stands.exec_module(module)
        assert log == [("exec", True), *["action"] * times] and not waiting.waits
    spec.loader = None  # a folder without code
    waiting.enter()
    assert waiting.find_spec("numpy", None) is spec and spec.loader is None and waiting.waits
    waiting.leave()
    waiting.leave()
    assert not waiting.waits


def test_the_place_of_another_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The start-up file's own finder, wherever it stands by then."""
    waiting = numpy_default.WhenImported(lambda: None)
    other: Any = type("Other", (), {"__module__": "other"})()
    its: Any = type("Its", (), {"__module__": "its"})()
    for before, after in (([other, its, other], [other, waiting, other]), ([other], [other]), ([], [])):
        monkeypatch.setattr(sys, "meta_path", before)
        waiting.replace_those_of("its")
        assert sys.meta_path == after and waiting.waits is (waiting in after)


def test_an_import_does_not_fail_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def action() -> None:
        raise NativeUnavailable("no handlers")

    monkeypatch.setattr(sys, "meta_path", [])
    waiting = numpy_default.WhenImported(action)
    waiting.enter()

    def imports() -> None:
        def exec_module() -> None:
            waiting._imported()

        exec_module()

    with pytest.warns(UserWarning, match="^nativemem: arrays stay with NumPy's allocator: no handlers") as seen:
        imports()
    (warning,) = seen
    assert warning.filename == __file__ and sys.meta_path == []
    assert warning.lineno == imports.__code__.co_firstlineno + 4


# ---- what the process used ----------------------------------------------------------------------------------


def denies(monkeypatch: pytest.MonkeyPatch, found: Any) -> None:
    budget: Any = SimpleNamespace(denial_of_engine=lambda: found)
    monkeypatch.setitem(sys.modules, "nativemem.backends.native.budget", budget)


def test_usage(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    denies(monkeypatch, None)
    now = process.usage()
    assert (now.held, now.peak, now.limit, now.denials, now.last_denial) == (3 * MIB, 5 * MIB, None, 2, None)
    assert (now.allocations, now.sizes) == (4, {50: 16, 90: 64, 99: 64})
    engine.budget, engine.sizes = (1, 2, 3, 0), []
    denies(monkeypatch, (10, 20, 30, "core", 2_500_000_000, 7))
    now = process.usage()
    assert (now.limit, now.allocations, now.sizes, now.denials) == (3, 0, None, 0)
    assert now.last_denial == Denial(10, 20, 30, owner=None, time=2.5, reason="limit")
    engine.budget = None
    for ask in (process.usage, process.stats):
        with pytest.raises(NativeUnavailable, match="^the engine was not installed") as caught:
            ask()
        assert caught.value.suggestion == "call nativemem.install()"


def test_figures(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """As allocators and budgets have them."""
    denies(monkeypatch, None)
    found = process.stats()
    assert (found.current, found.peak, found.reserved, found.limit) == (3 * MIB, 5 * MIB, 4 * MIB, None)
    assert (found.total, found.live, found.count, found.frees) == (16 * 3 + 64, 0, 4, 0)
    assert (found.failures, found.largest_free) == (2, None)
    for limit, free in ((4 * MIB, MIB), (3 * MIB, 0), (2 * MIB, 0)):
        engine.budget = (3 * MIB, 5 * MIB, limit, 0)
        assert (process.stats().limit, process.stats().largest_free) == (limit, free)


# ---- the profile of the process -----------------------------------------------------------------------------


@pytest.fixture
def no_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiling, "_path", None)
    monkeypatch.setattr(profiling, "need_lock", lambda what: None)


def test_a_profile_of_the_process(engine: Engine, no_profile: None, tmp_path: Path) -> None:
    """A file is replaced, and nothing else that is there."""
    assert profiling.state() is None and profiling.stop() is None
    path = str(tmp_path / "a.nm")
    for file in (None, path, path):
        profiling.start(file, 100, 7)
        words = about.about()
        assert engine.did() == [("profile", None if file is None else os.fsencode(file), 100, 7, words)]
        engine.profile = (7, 8, 9, 100)
        now = profiling.state()
        assert now is not None
        assert (now.path, now.rate, now.samples, now.dropped, now.bound) == (file, 7, 8, 9, 100)
        last = profiling.stop()
        assert last is not None
        assert (last.path, last.rate, last.samples, last.dropped, last.bound) == (file, 7, 8, 9, 100)
        assert profiling.state() is None and profiling.stop() is None
        (tmp_path / "a.nm").write_text("of before")
    os.mkfifo(tmp_path / "pipe")
    for there in ("pipe", "."):
        with pytest.raises(FileExistsError) as caught:
            profiling.start(str(tmp_path / there), 100, 7)
        assert caught.value.errno == errno.EEXIST and caught.value.filename == str(tmp_path / there)
        assert caught.value.strerror == "It is no regular file, so it is not replaced"
    assert engine.did() == []
    engine.budget, engine.profile = None, (7, 8, 9, 100)  # of an engine that was never started
    assert profiling.state() is None and profiling.stop() is None


def test_a_profile_needs_the_lock(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def needs(what: str) -> None:
        raise NativeUnavailable(what)

    monkeypatch.setattr(profiling, "need_lock", needs)
    with pytest.raises(NativeUnavailable, match="^a profile"):
        profiling.start(None, 100, 7)
    assert engine.did() == []


def test_beginning_a_profile(engine: Engine, no_profile: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 64 MiB at the most; what stands in its way is a mistake in a setting."""
    profiling.begin("/no/a.nm", 9)
    assert engine.did() == [("profile", b"/no/a.nm", 64 * MIB, 9, about.about())]
    for error, says in (
        (OSError(13, "not allowed"), "not allowed"), (RuntimeError("one runs"), "one runs"),
        (ValueError("embedded null byte"), "embedded null byte"), (OSError("odd"), "odd"),
    ):  # fmt: skip

        def refuse(*given: Any, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(engine, "profile_start", refuse)
        with pytest.raises(ConfigError, match=f"^profile: '/no/a.nm' cannot be written: {says}"):
            profiling.begin("/no/a.nm", 9)


def test_the_file_of_a_profile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    me = os.getpid()
    usual = f"nativemem-{me}.nm"
    for name, file in (
        (None, usual), ("a.nm", "a.nm"), ("%p/%p.nm", f"{me}/{me}.nm"), (str(tmp_path), str(tmp_path / usual))
    ):  # fmt: skip
        assert profiling.file_of(name) == file
    name = profiling.VARIABLE
    assert name == "NATIVEMEM_PROFILE"
    for value, rate, found, stays in (
        (None, None, None, False), ("a.nm", None, ("a.nm", 512 << 10), False),
        ("a-%p", None, (f"a-{me}", 512 << 10), True), (str(tmp_path), "1KiB", (str(tmp_path / usual), 1024), True),
    ):  # fmt: skip
        for variable, text in ((name, value), ("NATIVEMEM_PROFILE_RATE", rate)):
            monkeypatch.delenv(variable, raising=False)
            if text is not None:
                monkeypatch.setenv(variable, text)
        assert profiling.from_environment() == found and (name in os.environ) is stays


def test_what_is_said_of_a_profile() -> None:
    """How to see it, as a shell takes it."""

    def said(path: str, *figures: int) -> str:
        return profiling.line_of(path, profiling.ProfileState(path, 1, *figures, 1) if figures else None)

    assert said("a.nm") == "profile a.nm; nativemem report a.nm shows it"
    assert said("a.nm", 1234, 0) == "profile a.nm, 1,234 samples; nativemem report a.nm shows it"
    assert said("a b", 1, 2345) == "profile a b, 1 samples, 2,345 without room; nativemem report 'a b' shows it"


# ---- what a recording says of its process -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "word"),
    [("a", "a"), ("A_b9@%+=:,./-", "A_b9@%+=:,./-"), ("", "''"), ("a b", "'a b'"), ("it's", "'it'\"'\"'s'"),
     ("\N{EURO SIGN}", "'\N{EURO SIGN}'"), ("$x", "'$x'")],
)  # fmt: skip
def test_words_of_a_shell(text: str, word: str) -> None:
    assert about.shell_word(text) == word
    plain = "".join(sorted(about._PLAIN))
    assert about.shell_word(plain) == plain


def test_about_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python", "-c", "a b"])
    words = about.about()
    told = dict(zip(words[::2], words[1::2], strict=True))
    system = os.uname()
    assert [*told] == ["command", "folder", "python", "system", "nativemem"]
    assert told["command"] == "python -c 'a b'" and told["folder"] == os.getcwd()
    version = ".".join(map(str, sys.version_info[:3])) + sys.abiflags
    assert told["python"] == f"{sys.implementation.name} {version}" and version.count(".") == 2
    assert told["system"] == f"{system.sysname} {system.release} {system.machine}, {os.cpu_count()} CPUs"
    assert told["nativemem"] == about.__version__

    def gone() -> str:
        raise FileNotFoundError

    monkeypatch.setattr(os, "getcwd", gone)
    words = about.about()
    assert words[2:4] == ("folder", "")
