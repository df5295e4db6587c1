"""One object to be tried, what stands around it, and what "nothing is lost" means there.

A new public class needs a line in ``RECIPES``, a new parameter one in ``GOOD``: how to make a good one. The suite
fails, and says so, while it is missing. Everything else about a new name is found by looking at it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import importlib
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import nativemem
from nativemem import errors
from nativemem.backends.binding import Binding

ROOMY = 1 << 40  # bytes; a limit that nothing here reaches
SENTINEL = bytes(range(48))


class Worker:
    """The second thread, the same one until it is dismissed."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None

    def run(self, call: Callable[[], Any]) -> Any:
        """What ``call`` gives or raises there. Were a lock held that it needs, it would wait for ever."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1)
        return self._pool.submit(call).result(timeout=300)

    def dismiss(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None


worker = Worker()


class World:
    """A subject of one backend, on a system allocator of its own, beside a live block with known content.

    With ``upstream`` all memory comes from that instead, but for what takes none.
    """

    def __init__(self, nm: Binding, name: str, upstream: Any = None) -> None:
        self.nm = nm
        self.name = name
        self.upstream = upstream
        self.system = nm.System() if upstream is None else upstream
        self.budget = nm.Budget(ROOMY, name="world")
        self.opened: list[Any] = []
        self.kept: list[Any] = []
        self.views: list[memoryview] = []
        self.stays: Any = None
        self.aside: dict[str, Any] = {}
        self.allocator: Any = None
        self.block: Any = None
        self.sentinel: Any = None
        self.mark: Any = None
        self.budgets = [self.budget]
        self.before: list[Any] = []
        self.watched = True
        self.subject: Any = None
        self.make()

    def make(self) -> None:
        """The subject."""
        self.subject = RECIPES[self.name](self)

    # ---- what recipes use

    def heap(self) -> Any:
        """An allocator for what can lie in any."""
        return self.nm.Heap() if self.upstream is None else self.nm.Traced(self.upstream)

    def open(self, allocator: Any) -> Any:
        """``allocator``, to be closed at the end."""
        self.opened.append(allocator)
        return allocator

    def populate(self, allocator: Any, size: int = 64) -> Any:
        """``allocator``, opened, as the one that all is about, with the sentinel and below it a block to use."""
        self.allocator = self.open(allocator)
        self.sentinel = allocator.alloc(size)
        with memoryview(self.sentinel) as raw:
            raw[: len(SENTINEL)] = SENTINEL
        rewinds = self.rewindable()
        if rewinds is not None and not self.locked():
            self.mark = rewinds.mark()
        self.block = allocator.alloc(size)
        return allocator

    def rewindable(self) -> Any:
        """The arena or stack that the allocator's blocks lie in, or None."""
        link = self.allocator
        while link is not None and not hasattr(link, "mark"):
            link = link.upstream
        return link

    def locked(self) -> bool:
        """Whether a Locked stands over it."""
        return "Locked" in self.name

    def another(self, label: str, make: Callable[[], Any]) -> Any:
        """What stands aside, made where it is asked for first."""
        if label not in self.aside:
            self.aside[label] = make()
        return self.aside[label]

    def another_allocator(self) -> Any:
        return self.another("allocator", lambda: self.open(self.heap()))

    def another_arena(self) -> Any:
        return self.another("arena", lambda: self.open(self.nm.Arena(upstream=self.system)))

    def another_budget(self, nm: Binding | None = None) -> Any:
        nm = nm or self.nm
        return self.another(f"budget {nm.name}", lambda: nm.Budget(ROOMY, name=f"beside {nm.name}"))

    def knows(self, thing: Any) -> bool:
        """Whether it is one of those that stand here, that only the world may end."""
        here = (self.subject, self.system, self.nm.default_system, self.allocator, self.block, self.sentinel)
        return any(thing is other for other in (*here, *self.opened, *self.budgets, *self.aside.values()))

    # ---- what must not be lost

    def ready(self, argument: Any = None) -> Any:
        """To be said when all arguments are there: from now on a call that is refused may change nothing."""
        if self.watched:
            self.before = self.state()
        return argument

    def inside(self) -> None:
        """Said in the ``with`` block of what a call gave."""

    def state(self) -> list[Any]:
        """Everything that a refused call must leave alone; the counters of refusals are not part of it."""
        rows: list[Any] = []
        for allocator in (self.system, *self.opened):
            if allocator.closed:
                rows.append("closed")
            elif type(allocator).__name__ == "TypedArena":
                rows.append((len(allocator), list(allocator)))
            else:
                stats = dataclasses.replace(allocator.stats, failures=0)
                rows.append((allocator.generation, stats, [id(block) for block in allocator.blocks()]))
        for budget in (*self.budgets, *(b for b in self.aside.values() if hasattr(b, "last_denial"))):
            rows.append((budget.used, budget.limit, budget.lent, budget.locked, budget.pressure))
        return rows

    def broken(self) -> list[str]:
        """The invariants that do not hold."""
        found = []
        if self.sentinel is not None and self.sentinel.alive:
            with memoryview(self.sentinel) as raw:
                if bytes(raw[: len(SENTINEL)]) != SENTINEL:
                    found.append("a live block has lost its content")
        for allocator in (self.system, *self.opened):
            if allocator.closed or type(allocator).__name__ == "TypedArena":
                continue
            stats, blocks, name = allocator.stats, allocator.blocks(), type(allocator).__name__
            if any(number < 0 for number in dataclasses.astuple(stats) if number is not None):
                found.append(f"{name}: a counter below zero, {stats}")
            if not stats.current <= stats.peak <= stats.total:
                found.append(f"{name}: current <= peak <= total does not hold, {stats}")
            if sum(block.size for block in blocks) > stats.current:
                found.append(f"{name}: blocks of more than its current bytes, {stats}")
            if sum(block.size > 0 for block in blocks) > stats.live:
                found.append(f"{name}: more blocks than live ones, {stats}")
        for budget in self.budgets:
            complaint = budget._core.check()
            if complaint is not None or budget.lent < 0 or budget.used > budget.peak:
                found.append(f"Budget: {complaint or 'counters'}, {budget}, lent {budget.lent}")
        return found

    def finish(self) -> list[str]:
        """Gives back and closes everything; what was lost then."""
        found = self.broken()
        for view in self.views:
            view.release()
        self.views.clear()
        self.kept.clear()
        for view in self.aside.values():
            if isinstance(view, memoryview):
                view.release()
        others_thread = False
        for thing in self.opened:
            if hasattr(thing, "mark") and not thing.closed:
                with contextlib.suppress(errors.NativeMemError, BufferError):
                    thing.reset()
        for thing in reversed(self.opened):
            if thing.closed:
                continue
            try:
                for block in thing.blocks() if hasattr(thing, "blocks") else ():
                    if block.alive:
                        with contextlib.suppress(errors.LifoViolation):  # of one that was dropped
                            block.free()
                thing.close()
            except errors.WrongThread:
                others_thread = True
            except (errors.NativeMemError, BufferError) as error:
                found.append(f"{type(thing).__name__} cannot be closed any more: {type(error).__name__}: {error}")
        subject = self.subject
        if self.name.startswith("Budget") and hasattr(subject, "_core"):
            for budget in (subject, *self.budgets):
                budget.release(budget.used)
        system, budgets = self.system, self.budgets
        thing = block = budget = subject = None
        nothing: list[Any] = []
        self.opened, self.kept, self.budgets = nothing, nothing, nothing
        self.aside = {}
        self.subject = self.allocator = self.block = self.sentinel = self.mark = None
        lost = any_lost(system, budgets)
        if lost:
            gc.collect()
            lost = any_lost(system, budgets)
        if lost:
            found.append(f"lost at the end{', of another thread' if others_thread else ''}: {lost}")
        return found


def any_lost(system: Any, budgets: list[Any]) -> str:
    if system.closed:
        return "the system allocator was closed"
    stats = system.stats
    if stats.current or stats.live:
        return f"{stats.live} blocks of {stats.current} bytes"
    used = [budget.used for budget in budgets]
    return f"charges of {used} bytes" if any(used) else ""


# ---- how to make one of each --------------------------------------------------------------------------------

Recipe = Callable[[World], Any]


def _of(make: Callable[[World], Any]) -> Recipe:
    return lambda w: w.populate(make(w))


def _block(make: Callable[[World], Any]) -> Recipe:
    def recipe(w: World) -> Any:
        w.populate(make(w))
        return w.block

    return recipe


def _empty_block(w: World) -> Any:
    w.populate(w.heap())
    w.block = w.allocator.alloc(0)
    return w.block


def _typed_arena(w: World) -> Any:
    typed = w.nm.TypedArena("d", upstream=w.system)
    w.opened.append(typed)
    w.allocator = typed.arena
    typed.extend([1.5, 2.5, 3.5])
    return typed


def _mark(make: Callable[[World], Any]) -> Recipe:
    def recipe(w: World) -> Any:
        w.populate(make(w))
        return w.mark

    return recipe


def _budget(w: World, **options: Any) -> Any:
    budget = w.nm.Budget(1 << 20, "subject", w.budget, **options)
    w.populate(w.nm.Limited(w.system, budget))
    w.budgets = [w.budget, budget]
    return budget


def _loan(w: World) -> Any:
    w.budgets.append(w.nm.Budget(1 << 20, "borrower", w.budget))
    w.budgets.append(w.nm.Budget(1 << 20, "lender", w.budget))
    w.populate(w.nm.Limited(w.system, w.budgets[1]))
    return w.budgets[2].lend(w.budgets[1], 1000)


def _denied(w: World) -> Any:
    budget = w.nm.Budget(10, name="small")
    budget.try_reserve(11)
    return budget.last_denial


def _moves(w: World) -> Any:
    idle, busy = (w.nm.Budget(1000, name, w.budget) for name in ("idle", "busy"))
    w.budgets += [idle, busy]
    busy.try_reserve(900)
    (move,) = w.budget.rebalance()
    busy.release(900)
    return move


class _Executor:
    """Runs things at once."""

    def submit(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        pass


def _site(w: World) -> Any:
    traced = w.nm.Traced(w.system, stacks=1)
    block = traced.alloc(10)
    (site,) = traced.sites()
    block.free()
    return site


def _typed(verb: str, *args: Any) -> Recipe:
    def recipe(w: World) -> Any:
        w.populate(w.heap())
        thing = getattr(w.allocator, verb)(*args)
        w.block = thing.block
        return thing

    return recipe


def _plain(make: Callable[[Any], Any]) -> Recipe:
    """For what has nothing to do with memory; an allocator stands beside it."""

    def recipe(w: World) -> Any:
        w.populate(w.heap())
        return make(w)

    return recipe


RECIPES: dict[str, Recipe] = {
    # allocators
    "System": _of(lambda w: w.nm.System()),
    "Arena": _of(lambda w: w.nm.Arena(upstream=w.system)),
    "Stack": _of(lambda w: w.nm.Stack(4096, upstream=w.system)),
    "Pool": _of(lambda w: w.nm.Pool(64, 8, upstream=w.system)),
    "Slab": _of(lambda w: w.nm.Slab(upstream=w.system)),
    "Heap": _of(lambda w: w.nm.Heap()),
    "Limited": _of(lambda w: w.nm.Limited(w.system, w.budget)),
    "Traced": _of(lambda w: w.nm.Traced(w.system, histogram=True, stacks=4)),
    "Failing": _of(lambda w: w.nm.Failing(w.system)),
    "Locked": _of(lambda w: w.nm.Locked(w.system)),
    "Verified": _of(lambda w: w.nm.Verified(w.system, "full")),
    "TypedArena": _typed_arena,
    # what they give
    "Block": _block(lambda w: w.heap()),
    "Mark": _mark(lambda w: w.nm.Arena(upstream=w.system)),
    "Value": _typed("alloc_value", "d", 1.5),
    "Array": _typed("alloc_array", "d", [1.5, 2.5, 3.5]),
    "Stats": _plain(lambda w: w.allocator.stats),
    "Site": _plain(_site),
    "ScopedExecutor": _plain(lambda w: w.budget.wrap(_Executor())),
    "Frame": _plain(lambda w: _site(w).frames[0]),
    # budgets
    "Budget": _budget,
    "Loan": _loan,
    "Denial": _plain(_denied),
    "Move": _plain(_moves),
    "SharingPolicy": _plain(lambda w: nativemem.SharingPolicy(0.5, ["cache"], rule=lambda *_: True)),
    "MemoryPressure": _plain(lambda w: nativemem.MemoryPressure("message", w.budget)),
    # settings
    "Config": _plain(lambda w: nativemem.config.Config()),
    "ArenaConfig": _plain(lambda w: nativemem.config.ArenaConfig()),
    "StackConfig": _plain(lambda w: nativemem.config.StackConfig(4096)),
    "PoolConfig": _plain(lambda w: nativemem.config.PoolConfig(64, 8)),
    "SlabConfig": _plain(lambda w: nativemem.config.SlabConfig()),
    "HeapConfig": _plain(lambda w: nativemem.config.HeapConfig()),
    "Settings": _plain(lambda w: nativemem.config.Settings()),
    # the rest
    "Utilities": _plain(lambda w: w.nm.utilities),
    "Installed": _plain(lambda w: nativemem.installed()),
    "Usage": _plain(lambda w: nativemem.process.Usage(1, 2, None, 0, None, 0, None)),
    "Refusal": _plain(lambda w: errors.Refusal(1, 2, 3, 4)),
    # the same in other states of things
    "Arena, capped": _of(lambda w: w.nm.Arena(4096, 8192, zero_on_free=True, upstream=w.system, patterns=True)),
    "Secure heap": _of(lambda w: w.nm.Heap(w.budget, secure=True)),
    "Limited > Arena": _of(lambda w: w.nm.Limited(w.open(w.nm.Arena(upstream=w.system)), w.budget)),
    "Traced > Stack": _of(lambda w: w.nm.Traced(w.open(w.nm.Stack(4096, upstream=w.system)))),
    "Locked > Pool": _of(lambda w: w.nm.Locked(w.open(w.nm.Pool(64, 8, upstream=w.system)))),
    "Block of an arena": _block(lambda w: w.nm.Arena(upstream=w.system)),
    "Block of a stack": _block(lambda w: w.nm.Stack(4096, upstream=w.system)),
    "Block of a wrapped slab": _block(lambda w: w.nm.Limited(w.open(w.nm.Slab(upstream=w.system)), w.budget)),
    "Block of no bytes": _empty_block,
    "Mark of a stack": _mark(lambda w: w.nm.Stack(4096, upstream=w.system)),
    "Budget with everything": lambda w: _budget(
        w,
        max_single=0.5,
        on_pressure=lambda level, budget: None,
        overcommit=0.5,
        minimum=64,
        sharing=nativemem.SharingPolicy(),
        auto_rebalance=True,
        shared=w.another_budget(),
    ),
}
for _name in errors.__all__:
    _class = getattr(errors, _name)
    if isinstance(_class, type) and issubclass(_class, errors.NativeMemError):
        RECIPES[_name] = _plain(lambda w, cls=_class: cls("what happened", suggestion="what to do", used=1))

#: public names that are no subject, and why
NO_SUBJECT = {
    "Allocator": "abstract: what its subclasses inherit is tried on each of them",
    "Status": "names for numbers",
    "CPort": "C's, so there is none on the pure backend; tests/test_cport.py",
    "backend": "a string",
    "__version__": "a string",
}

#: parameters that are not tried, and why
NO_PARAMETER = {
    "label": "what a message calls the value: the caller's own words",
}

#: classes that are not made by hand, and how they come about
NOT_MADE = {
    "Mark": "mark()",
    "Value": "alloc_value()",
    "Array": "alloc_array()",
    "Loan": "lend()",
    "Denial": "last_denial",
    "Move": "rebalance()",
    "Site": "sites()",
    "ScopedExecutor": "wrap()",
    "Frame": "sites()",
}

#: what has public names and is tried here; not capi, CPort and memlib, which have tests of their own
MODULES = (
    *("allocators.base", "allocators.rewindable", "allocators.typed", "allocators.utilities"),
    *("budgets.budget", "budgets.lending", "budgets.executors", "config", "errors", "engine.process"),
    "wrappers.sites",
)


def surface(nm: Binding) -> dict[str, Any]:
    """Every public name: of the package, its facade bound to ``nm``, and of its public modules."""
    found = {name: getattr(nm, name, getattr(nativemem, name)) for name in nativemem.__all__}
    for each in MODULES:
        module = importlib.import_module(f"nativemem.{each}")
        for name in module.__all__:
            found.setdefault(name, getattr(module, name))
    return found


def class_of(nm: Binding, subject: str) -> Any:
    """The class of a subject, from its name up to the first word that says more."""
    name = subject.split(" > ")[0].split(",")[0].split(" ")[0]
    if subject == "Secure heap":
        name = "Heap"
    if name == "Utilities":
        return type(nm.utilities)
    return surface(nm)[name]


# ---- a good value for each parameter ------------------------------------------------------------------------


def _own_config(w: World) -> Any:
    return getattr(w.subject, "config", None) or nativemem.config.ArenaConfig()


#: by "Class.method.parameter", "method.parameter" or "parameter", the first that there is
GOOD: dict[str, Callable[[World], Any]] = {
    "size": lambda w: 64,
    "align": lambda w: 16,
    "block": lambda w: w.block,
    "kind": lambda w: "d",
    "n": lambda w: 4,
    "zero": lambda w: True,
    "sizes": lambda w: [16, 64],
    "fmt": lambda w: "d",
    "value": lambda w: 1.5,
    "values": lambda w: [1.5],
    "items": lambda w: [1.5],
    "config": _own_config,
    "mark": lambda w: w.mark,
    "upstream": lambda w: w.system,
    "fn": lambda w: lambda allocator: allocator.alloc(8).free(),
    "sticky": lambda w: False,
    "most": lambda w: 100,
    "domains": lambda w: "obj",
    "histogram": lambda w: True,
    "stacks": lambda w: 2,
    "function": lambda w: lambda: None,
    "scope": lambda w: w.budget,
    "wait": lambda w: True,
    "cancel_futures": lambda w: False,
    "executor": lambda w: w.another("executor", lambda: _Executor()),
    "sample": lambda w: 1000,
    "Verified.__init__.level": lambda w: "full",
    "seed": lambda w: 3,
    # constructors
    "hint": lambda w: 4096,
    "cap": lambda w: 1 << 20,
    "grow": lambda w: True,
    "zero_on_free": lambda w: False,
    "patterns": lambda w: False,
    "capacity": lambda w: 4096,
    "block_size": lambda w: 64,
    "count": lambda w: 8,
    "bins": lambda w: (32, 64),
    "budget": lambda w: w.budget,
    "secure": lambda w: False,
    "core": lambda w: None,
    "serial": lambda w: 1,
    "allocator": lambda w: w.allocator,
    # budgets
    "limit": lambda w: 1 << 20,
    "name": lambda w: "named",
    "parent": lambda w: w.budget,
    "warn": lambda w: 0.5,
    "critical": lambda w: 0.9,
    "max_single": lambda w: 0.5,
    "on_pressure": lambda w: lambda level, budget: None,
    "overcommit": lambda w: 0.5,
    "minimum": lambda w: 1,
    "sharing": lambda w: nativemem.SharingPolicy(),
    "auto_rebalance": lambda w: True,
    "shared": lambda w: w.another_budget(),
    "shared_max": lambda w: 16,
    "borrower": lambda w: w.another_budget(),
    "lender": lambda w: w.budget,
    "timeout": lambda w: 0.0,
    "max_share": lambda w: 0.5,
    "borrowers": lambda w: ["cache"],
    "siblings_only": lambda w: False,
    "rule": lambda w: lambda lender, borrower, n: True,
    "bytes": lambda w: 1,
    # utilities
    "to": lambda w: w.another("bytes", lambda: bytearray(64)),
    "source": lambda w: b"source",
    "byte": lambda w: 1,
    "a": lambda w: b"a",
    "b": lambda w: b"b",
    # errors and settings
    "file": lambda w: io.StringIO(),
    "layout": lambda w: (16, 16),
    "message": lambda w: "what happened",
    "suggestion": lambda w: "what to do",
    "status": lambda w: 1,
    "requested": lambda w: 1,
    "used": lambda w: 0,
    "level": lambda w: "warn",
    "env": lambda w: {},
    "least": lambda w: 0,
    "address": lambda w: 4096,
    "backend": lambda w: "pure",
    "arena": lambda w: nativemem.config.ArenaConfig(),
    "heap": lambda w: nativemem.config.HeapConfig(),
    "region": lambda w: 0,
    "retain": lambda w: 0,
    "decay": lambda w: 1.0,
    "objects": lambda w: False,
    "arrays": lambda w: False,
    "raw": lambda w: False,
    "idle_decay": lambda w: False,
}


def _fields(cls: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []


#: parameters of methods that take any keyword: which there are
KEYWORDS: dict[str, Callable[[Any], list[str]]] = {
    "fields": lambda cls: _fields(cls),
    "changes": lambda cls: _fields(cls),
    "rest": lambda cls: ["upstream"],
    "state": lambda cls: ["used"],
}


def good(cls: str, member: str, parameter: str, *, counts: bool = False) -> Callable[[World], Any]:
    """How to make a good argument; ``counts``: a field of a class that only holds numbers."""
    for key in (f"{cls}.{member}.{parameter}", f"{member}.{parameter}", f"{cls}.{parameter}", parameter):
        if key in GOOD:
            return GOOD[key]
    if counts:
        return lambda w: 1
    raise LookupError(
        f"bad_input/world.py does not know a good value for {parameter!r} of {cls}.{member}: "
        f"add a line to GOOD, {parameter!r} or '{cls}.{member}.{parameter}', with a function that makes one"
    )
