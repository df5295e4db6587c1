"""What a test is to keep to: its markers, the nearest first, and the defaults of the run."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from ..errors import ConfigError, InvalidLayout, shown
from ..sizes import parse_size

__all__ = ["Asked", "is_marked", "size_of"]

_MARKERS = ("nativemem_budget", "nativemem_no_leaks", "nativemem_oom")


def is_marked(item: pytest.Item) -> bool:
    """Whether one of our markers is on it, its class, module or package."""
    node: Any = item
    while node is not None:
        for marker in node.own_markers:
            if marker.name in _MARKERS:
                return True
        node = node.parent
    return False


def size_of(value: Any, where: str) -> int | None:
    """A limit in bytes, None for none. Raises ConfigError for what is no size."""
    if value is None:
        return None
    try:
        return parse_size(value, where, least=1)
    except InvalidLayout as error:
        raise ConfigError(str(error)) from None


def _budget(limit: Any, owner: Any = None) -> None:
    """The marker's parameters."""


def _no_leaks(warmup: Any = 1, repeat: Any = 3) -> None:
    """The marker's parameters."""


def _oom(nth: Any = None, sweep: Any = True, **options: Any) -> None:
    """The marker's parameters."""


def _arguments(marker: pytest.Mark, parameters: Any) -> list[Any]:
    try:
        bound = inspect.signature(parameters).bind(*marker.args, **marker.kwargs)
    except TypeError as error:
        raise ConfigError(f"{marker.name}: {error}") from None
    bound.apply_defaults()
    return list(bound.arguments.values())


def _called(limit: Any, item: pytest.Item) -> Any:
    """What a limit that is a callable gives for the test's parameters, which it takes by name."""
    if not callable(limit):
        return limit
    callspec = getattr(item, "callspec", None)
    given = {} if callspec is None else callspec.params
    wanted = inspect.signature(limit).parameters
    for name in wanted:
        if name not in given:
            raise ConfigError(
                f"nativemem_budget: the limit takes {name!r}, and the test has no parameter of that name"
            )
    return limit(**{name: given[name] for name in wanted})


class Asked:
    """What is asked of a test: ``limit``, the most that it may use; ``owners``, the most by name of a budget;
    ``repetitions``, warm-up and repetitions of a leak check, or None; ``oom``, the parameters of a sweep, or None.
    ``marked``: the limit is of a marker. As it is made it is what a run asks of tests without a marker."""

    def __init__(self, limit: int | None, no_leaks: bool) -> None:
        self.limit, self.marked = limit, False
        self.owners: dict[str, int | None] = {}
        self.repetitions: tuple[int, int] | None = (1, 3) if no_leaks else None
        self.oom: dict[str, Any] | None = None

    @classmethod
    def of(cls, item: pytest.Item, limit: int | None, no_leaks: bool) -> Asked:
        """What its markers ask for, the nearest first. Raises :class:`ConfigError` for one with values that will
        not do."""
        self = cls(limit, no_leaks)
        for marker in item.iter_markers("nativemem_budget"):
            self._bound(item, *_arguments(marker, _budget))
        nearest = item.get_closest_marker("nativemem_oom")
        if nearest is not None:
            nth, all_of_them, options = [*_arguments(nearest, _oom), {}][:3]
            if nth is None and all_of_them is not True:
                raise ConfigError(
                    "nativemem_oom: takes nth=..., the allocation to refuse, or sweep=True, each of them"
                )
            self.oom = {"nth": nth, **options}
        nearest = item.get_closest_marker("nativemem_no_leaks")
        if nearest is not None:
            from .repetitions import Repetitions

            warmup, repeat = _arguments(nearest, _no_leaks)
            self.repetitions = None
            if repeat != 0 or isinstance(repeat, bool):
                Repetitions(warmup, repeat)  # refuses what will not do
                self.repetitions = warmup, repeat
        return self

    def _bound(self, item: pytest.Item, value: Any, owner: Any) -> None:
        if owner is not None and not isinstance(owner, str):
            raise ConfigError(f"nativemem_budget: the owner is the name of a budget, not {shown(owner)}")
        if owner in self.owners if owner is not None else self.marked:
            return  # a nearer marker says otherwise
        most = size_of(_called(value, item), "nativemem_budget: the limit")
        if owner is None:
            self.limit, self.marked = most, True
        else:
            self.owners[owner] = most
