"""What a block of code took: at its end, at most, in how many blocks; nested, in threads and in tasks."""

from __future__ import annotations

import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

from ..backends import forks as _forks
from ..engine.install import started_core
from ..errors import ConfigError, shown
from ..facades import load
from ..sizes import SIZE_MAX, format_size

if TYPE_CHECKING:
    from ..budgets.budget import Budget

__all__ = ["Measure", "measure"]


class _Figures(NamedTuple):
    used: int
    blocks: int | None
    denials: int | None


# --- sources: where figures come from. A source has `figures()`, and `take_peak()`: the peak since its last call


class _OfBudget:
    sees = "budget"

    def __init__(self, core: Any) -> None:
        self.core = core

    def figures(self) -> _Figures:
        used, _, _, denials = self.core.numbers()
        return _Figures(used, self.core.charges()[0], denials)

    def take_peak(self) -> int:
        return self.core.take_peak()


class _OfEngine:
    sees = "engine"

    def __init__(self, core: Any) -> None:
        self.core = core

    def figures(self) -> _Figures:
        used, _, _, denials = self.core.engine_budget()
        sizes, _ = self.core.engine_account()
        return _Figures(used, sum(blocks for _, blocks in sizes), denials)

    def take_peak(self) -> int:
        return self.core.engine_take_peak()


class _OfTracemalloc:
    sees = "tracemalloc"

    def __init__(self, module: Any) -> None:
        self.core = module

    def figures(self) -> _Figures:
        return _Figures(self.core.get_traced_memory()[0], None, None)

    def take_peak(self) -> int:
        peak: int = self.core.get_traced_memory()[1]
        self.core.reset_peak()
        return peak


def _process() -> Any:
    """The source for the whole process; None: nothing counts what it takes."""
    engine = started_core()
    if engine is not None and any(engine.engine_state()):
        return _OfEngine(engine)
    traced = sys.modules.get("tracemalloc")
    if traced is not None and traced.is_tracing():
        return _OfTracemalloc(traced)
    return None


# --- windows: what is open over one source. Its peak is taken whenever a window opens, closes or is looked at, and
# is then that of each window which is open: so they may overlap in any way

_lock = threading.RLock()
_forks.hold(_lock)
#: by the identity of the source's core
_open: dict[int, list[Measure]] = {}


def _turn(source: Any) -> None:
    """Pre: the lock is held."""
    windows = _open.get(id(source.core))
    if windows:
        peak = source.take_peak()
        for window in windows:
            window._top = max(window._top, peak)


class Measure:
    """What :func:`measure` returns, for its ``owner``. Its figures are those of now while its block runs, and of
    the end of it afterwards; each is None where nothing counts it.

    ``delta``, bytes in use at the end that were not at the start (less than 0: more went than came); ``peak``,
    the most that it had more than at the start; ``count``, blocks, of a budget charges; ``denials``, requests
    refused; ``seconds``. ``sees`` is where they come from: ``scope``, ``budget``, ``engine``, ``tracemalloc``, or
    ``nothing``.
    """

    def __init__(self, owner: Budget | str | None = None) -> None:
        is_budget = hasattr(type(owner), "_binding") and hasattr(owner, "try_reserve")
        if owner is not None and owner != "process" and not is_budget:
            raise ConfigError(f"measure.owner: takes a Budget, 'process' or None, not {shown(owner)}")
        self._owner: Any = owner
        self.sees = "nothing"
        self._scope: Any = None
        self._source: Any = None
        self._began = self._ended = 0.0
        self._start = self._end = _Figures(0, 0, 0)
        self._top = 0
        self._state = "new"

    def __enter__(self) -> Measure:
        if self._state != "new":
            raise RuntimeError("measure: it was used before; each block has one of its own")
        self._state = "open"
        if self._owner is None and _scopes_work():
            self.sees, self._scope = "scope", _scope()
            self._scope.__enter__()
        else:
            self._source = _process() if self._owner in (None, "process") else _OfBudget(self._owner._core)
            if self._source is not None:
                self.sees = self._source.sees
                self._open_window()
        self._began = time.perf_counter()
        return self

    def __exit__(self, *error: Any) -> None:
        self._ended = time.perf_counter()
        self._state = "closed"
        if self._scope is not None:
            scope, self._scope = self._scope, None
            scope.__exit__(*error)
            scope._core.detach()
            self._end, self._top = _of_scope(scope), max(self._top, scope._core.take_peak())
            around = scope.parent
            if type(around) is type(scope):
                with _lock:  # what was asked for in here was asked for in there
                    around.blocks += self._end.blocks
                    around.refused += self._end.denials
        elif self._source is not None:
            self._close_window()

    def _open_window(self) -> None:
        source = self._source
        with _lock:
            windows = _open.setdefault(id(source.core), [])
            if windows:
                _turn(source)
            else:
                source.take_peak()
            self._start = source.figures()
            self._top = self._start.used
            windows.append(self)

    def _close_window(self) -> None:
        source, self._source = self._source, None
        with _lock:
            _turn(source)
            windows = _open[id(source.core)]
            windows.remove(self)
            if not windows:
                del _open[id(source.core)]
            self._end = source.figures()
            self._top = max(self._top, self._end.used)

    def _now(self) -> _Figures:
        if self._scope is not None:
            self._top = max(self._top, self._scope._core.take_peak())
            return _of_scope(self._scope)
        if self._source is not None:
            with _lock:
                _turn(self._source)
                return self._source.figures()
        return self._end

    def reset_peak(self) -> None:
        """Has :attr:`peak` begin anew, with what is in use now. Those of other blocks, around and inside, stay.

        >>> import nativemem
        >>> budget = nativemem.Budget("1 MiB")
        >>> with measure(budget) as taken:
        ...     with budget.reserve(700):
        ...         pass
        ...     first = taken.peak
        ...     taken.reset_peak()
        ...     first, taken.peak
        (700, 0)
        """
        if self._state == "open":
            self._top = self._now().used
            if self._scope is not None:
                self._scope._core.take_peak()

    @property
    def delta(self) -> int | None:
        """Bytes in use that were not at the start."""
        return None if self.sees == "nothing" else self._now().used - self._start.used

    @property
    def peak(self) -> int | None:
        """The most that it had more than at the start, in bytes."""
        if self.sees == "nothing":
            return None
        used = self._now().used
        return max(self._top, used) - self._start.used

    @property
    def count(self) -> int | None:
        """Blocks that it was given; of a budget, charges."""
        return self._more(self._now().blocks, self._start.blocks)

    @property
    def denials(self) -> int | None:
        """Requests refused."""
        return self._more(self._now().denials, self._start.denials)

    def _more(self, now: int | None, start: int | None) -> int | None:
        return None if now is None or start is None or self.sees == "nothing" else now - start

    @property
    def seconds(self) -> float:
        """How long it took so far."""
        end = time.perf_counter() if self._state == "open" else self._ended
        return end - self._began if self._state != "new" else 0.0

    def __str__(self) -> str:
        if self.sees == "nothing":
            return f"{self.seconds:.3f} s; nothing counts what the process takes: call nativemem.install()"
        assert self.delta is not None and self.peak is not None
        said = [f"{self.seconds:.3f} s", f"{format_size(self.delta)} more", f"at most {format_size(self.peak)}"]
        if self.count is not None:
            said.append(_several(self.count, "charge" if self.sees == "budget" else "block"))
        if self.denials is not None:
            said.append(_several(self.denials, "denial"))
        return ", ".join(said)

    def __repr__(self) -> str:
        return f"<Measure by {self.sees}: {self}>"


def _several(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _scopes_work() -> bool:
    engine = started_core()
    return engine is not None and any(engine.engine_state()[:2])


_kinds: weakref.WeakKeyDictionary[type, type] = weakref.WeakKeyDictionary()


def _scope() -> Any:
    """A budget without a limit of its own below the one that is charged now, to be entered."""
    binding = load("native")
    kind = _kinds.get(binding.Budget)
    if kind is None:
        kind = type("Measured", (binding.Budget,), {"__slots__": ("blocks", "refused"), "_listed": False})
        _kinds[binding.Budget] = kind
    core = binding.backend.current()
    parent = None if core is None else core.budget()
    scope = kind(SIZE_MAX, "process" if parent is None else parent.name, parent)
    scope.blocks = scope.refused = 0
    return scope


def _of_scope(scope: Any) -> _Figures:
    core = scope._core
    used, _, _, denials = core.numbers()
    account = core.account()
    blocks = 0 if account is None else account[1] + sum(served for _, served in account[2])
    return _Figures(used, blocks + scope.blocks, denials + scope.refused)


def measure(owner: Budget | str | None = None) -> Measure:
    """A context manager that measures what its block takes; see :class:`Measure`.

    Parameters: ``owner``, None: what the code in the block allocates, and the tasks and generators that it
    starts, as ``with budget:`` would charge it, with the engine on; it is charged to the owner that is charged
    around it as well. What other threads and tasks do meanwhile does not count, nor does what they free, nor what
    the block charges to others by their ``with budget:``; sizes are in whole pages, and what lives on from
    the block keeps them. Without the engine the whole process is measured, by :mod:`tracemalloc` where that
    traces. A :class:`Budget`: what is charged to it meanwhile, whatever code does so, on both backends.
    ``"process"``: all that the engine holds.

    Blocks may be nested, and overlap in threads and tasks. Raises :class:`ConfigError` for another owner. Any
    thread.

    >>> import nativemem
    >>> budget = nativemem.Budget("1 MiB")
    >>> with measure(budget) as outer:
    ...     with budget.reserve(700), measure(budget) as inner:
    ...         kept = budget.reserve(100)
    >>> outer.delta, outer.peak, outer.count, inner.delta, inner.peak, inner.denials
    (100, 800, 2, 100, 100, 0)
    """
    return Measure(owner)
