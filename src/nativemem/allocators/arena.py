"""Arena: many blocks, one lifetime."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from ..config import ArenaConfig
from ..errors import Refusal
from ..refusals import chain, is_full, space
from .rewindable import Rewindable

if TYPE_CHECKING:
    from typing_extensions import Self

    from .base import Allocator

__all__ = ["Arena"]


class Arena(Rewindable):
    """Many blocks, one lifetime: allocation bumps a pointer, ``reset`` drops everything at once.

    Parameters: ``hint``, bytes of the first chunk, later ones double; ``cap``, most bytes reserved (None:
    no cap); ``grow`` False: one chunk and no more; ``zero_on_free``: wipe on reset and close;
    ``upstream``: where chunks come from (None: the system); ``patterns``, for debugging: new blocks are
    filled with 0xAA, freed and dropped ones with 0xDD. Sizes are ints or strings.

    Belongs to the thread that made it: any call from another raises :class:`WrongThread`. A block stays
    until ``reset``, ``release`` or ``close``, whether freed or not, and is stale afterwards. Raises
    :class:`ArenaExhausted` when ``cap`` is reached; the arena is usable after it.

    >>> import nativemem
    >>> with nativemem.Arena(cap="1 MiB") as arena:
    ...     block = arena.alloc(100)
    ...     arena.reset()
    ...     block.alive
    False
    """

    __slots__ = ()
    _fields = ("config", "_marks")  # slots of the bound class
    _config = ArenaConfig
    config: ArenaConfig

    def __init__(
        self,
        hint: int | str | None = None,
        cap: int | str | None = None,
        grow: bool = True,
        zero_on_free: bool = False,
        upstream: Allocator | None = None,
        *,
        patterns: bool = False,
    ) -> None:
        config: Any = ArenaConfig.from_env() if hint is None or cap is None else ArenaConfig()
        config = config.replace(
            hint=config.hint if hint is None else hint,
            cap=config.cap if cap is None else cap,
            grow=grow,
            zero_on_free=zero_on_free,
            patterns=patterns,
        )
        upstream = self._upstream(upstream)
        core = self._make(
            "ArenaCore",
            upstream,
            upstream._core,
            config.hint,
            config.cap or 0,
            config.grow,
            config.zero_on_free,
            config.patterns,
        )
        self._open(core, upstream, auto=False)
        self.config = config  # a slot of the bound class
        self._marks = []

    def _arena_below(self) -> Any:
        return self

    def scope(self) -> AbstractContextManager[Self]:
        """Context manager: drops what was allocated inside, also when the body raises.

        >>> import nativemem
        >>> arena = nativemem.Arena()
        >>> with arena.scope():
        ...     block = arena.alloc(1000)
        >>> arena.stats.current
        0
        """
        return self._rewound("arena's scope")

    @staticmethod
    def _explain(allocator: Any, refused: Refusal, layout: tuple[int, int] | None) -> tuple[dict[str, Any], str]:
        """Of those along the chain the arena with just these figures refused."""
        try:
            return _room_in_chain(allocator, refused.requested, refused.used, refused.limit)
        except Exception:  # half-made, or a subclass with its own mind
            return _without_look(refused.requested, refused.used, refused.limit), ""


def _without_look(requested: int, reserved: int, limit: int) -> dict[str, Any]:
    return {"requested": requested, "reserved": reserved, "limit": limit, "capacity": limit}


def _room_in_chain(allocator: Any, requested: int, reserved: int, limit: int) -> tuple[dict[str, Any], str]:
    kinds, shared = allocator._binding, False
    for link in chain(allocator):
        shared = shared or isinstance(link, kinds.Locked)
        if not isinstance(link, kinds.Arena):
            continue
        used, _, held, most, _, _, count, frees, _ = link._core.stats()
        if (held, most) != (reserved, limit):
            continue
        state = {**space(requested, used, limit), "reserved": reserved}
        if shared:  # other threads go on below a Locked: only counters hold
            return state, ""
        state |= link._core.diagnose()
        return state, _advice(state, count, frees)
    return _without_look(requested, reserved, limit), ""


def _advice(state: dict[str, Any], count: int, frees: int) -> str:
    requested, available, largest = state["requested"], state["available"], state["largest_free"]
    if 2 * frees > count:
        return (
            f"{frees} of {count} blocks were freed one by one, which gives an arena no room back: use Heap or "
            "Slab for such blocks, or reset the arena"
        )
    if requested > state["limit"]:
        return f"raise its cap to at least {requested} bytes, or the hint of one that does not grow"
    if requested <= largest:
        return "the bytes are there, but not at that alignment: align less, or let the arena grow"
    if requested <= available:
        return (
            f"{available} bytes are in no block, but the largest piece has {largest}: a reset joins "
            "them, a larger hint makes fewer and larger chunks"
        )
    return f"it is {state['utilization']:.0%} full: reset it, or raise its cap" if is_full(state) else ""
