"""The one place where a status of the core, or a block that cannot be used, becomes an error."""

from __future__ import annotations

from _operator import index
from collections.abc import Iterator
from typing import Any, NoReturn

from .errors import (
    ALIGN_DEFAULT,
    ALIGN_MAX,
    ArenaExhausted,
    BudgetExceeded,
    BudgetUnderflow,
    CapacityExceeded,
    CorruptionDetected,
    DoubleFree,
    ForeignBlock,
    InvalidLayout,
    InvalidMark,
    LeakError,
    LendTimeout,
    LifoViolation,
    NativeMemError,
    NativeUnavailable,
    OutOfMemory,
    PoolExhausted,
    Refusal,
    ScopeError,
    StaleBlock,
    StaleHandle,
    Status,
    WrongThread,
    shown,
)
from .sizes import parse_size

__all__ = ["coerce_layout", "raise_block", "raise_exports", "raise_scope", "raise_status"]

_ALIGNMENTS = f"takes a power of two from 1 to {ALIGN_MAX}"


def name_of(allocator: Any) -> str:
    """``Arena``, ``Limited`` …: how messages call the allocator."""
    return type(allocator).__name__


def chain(allocator: Any) -> Iterator[Any]:
    """The chain from here to the bottom; a budget has none below."""
    while allocator is not None:
        yield allocator
        allocator = getattr(allocator, "upstream", None)


def space(requested: int, used: int, limit: int) -> dict[str, Any]:
    """The state that every want of room has."""
    return {
        "requested": requested,
        "used": used,
        "limit": limit,
        "capacity": limit,
        "available": max(limit - used, 0),
        "utilization": used / limit if limit else 1.0,
    }


def is_full(state: dict[str, Any]) -> bool:
    """Whether little is left."""
    share: float = state["utilization"]
    return share > 0.9


#: By status: the error's class; its message; the figures that its state has; the class whose ``_explain`` knows
#: more; whether it is about one block, whose layout it has.
_SAID: dict[int, tuple[type[NativeMemError], str, tuple[str, ...], str | None, bool]] = {
    Status.OUT_OF_MEMORY: (
        OutOfMemory,
        "the system has no {requested} bytes to give",
        ("requested",),
        "System",
        True,
    ),
    Status.EXHAUSTED: (
        ArenaExhausted,
        "no room for {requested} bytes; {used} of {limit} bytes are reserved",
        (),
        "Arena",
        True,
    ),
    Status.OVER_BUDGET: (
        BudgetExceeded,
        "{requested} bytes asked for; {budget} has {used} of {limit} bytes in use",
        (),
        "Budget",
        True,
    ),
    Status.INVALID_LAYOUT: (InvalidLayout, "{requested} bytes is not a size that a block can have", (), None, True),
    Status.FOREIGN_BLOCK: (ForeignBlock, "the block is not one of its own", (), None, True),
    Status.WRONG_THREAD: (WrongThread, "belongs to the thread that made it; this is another", (), None, True),
    Status.INVALID_MARK: (
        InvalidMark,
        "the mark is of another allocator, of an earlier generation, or already released",
        (),
        None,
        False,
    ),
    Status.CLOSED: (StaleHandle, "is closed", (), None, False),
    Status.UNDERFLOW: (
        BudgetUnderflow,
        "{requested} bytes to release, but only {used} are in use",
        ("requested", "used"),
        None,
        False,
    ),
    Status.LIFO_VIOLATION: (
        LifoViolation,
        "the block of {requested} bytes is not the newest; blocks above it are live",
        ("requested",),
        None,
        True,
    ),
    Status.DOUBLE_FREE: (DoubleFree, "the block of {requested} bytes was freed before", (), None, True),
    Status.CORRUPTED: (
        CorruptionDetected,
        "its memory was overwritten by something that had no right to it",
        (),
        None,
        True,
    ),
    Status.POOL_EXHAUSTED: (PoolExhausted, "every cell is in use", (), "Pool", True),
    Status.CAPACITY_EXCEEDED: (
        CapacityExceeded,
        "no room for {requested} bytes; {used} of {limit} bytes are in use",
        (),
        "Stack",
        True,
    ),
    Status.TIMED_OUT: (LendTimeout, "other loans kept it waiting", ("requested",), None, False),
}
#: an invalid layout with a limit: that of a pool's cell
_NO_CELL = (
    InvalidLayout,
    "a block of {requested} bytes, so aligned, does not fit a cell of {limit} bytes",
    ("requested", "used", "limit"),
    "Pool",
    True,
)


def raise_status(
    allocator: Any,
    status: int,
    requested: int = 0,
    used: int = 0,
    limit: int = 0,
    layout: tuple[int, int] | None = None,
) -> NoReturn:
    """Raises the error that ``status`` stands for. Both backends call this for every refusal.

    ``layout``: size and alignment that the caller asked for, where the call has one. The class that refuses with
    that status adds to the state and suggests what to do, in ``_explain(allocator, refusal, layout)``.
    ``allocator`` has a class of the binding in its chain, or is one.
    """
    said = _NO_CELL if status == Status.INVALID_LAYOUT and limit else _SAID.get(status)
    if said is None:
        raise NativeMemError(f"{name_of(allocator)}: the core answered with the unknown status {status}")
    kind, text, figures, explained_by, has_layout = said
    numbers: dict[str, Any] = {"requested": requested, "used": used, "limit": limit}
    state, suggestion = {name: numbers[name] for name in figures}, ""
    if explained_by is not None:
        binding = next(link._binding for link in chain(allocator) if hasattr(link, "_binding"))
        explain = getattr(binding, explained_by)._explain
        more, suggestion = explain(allocator, Refusal(status, requested, used, limit), layout)
        state |= more
    numbers["budget"] = f"budget {state['owner']!r}" if state.get("owner") else "budget"
    raise kind(
        f"{name_of(allocator)}: {text.format_map(numbers)}",
        suggestion=suggestion,
        layout=layout if has_layout else None,
        **state,
    )


def raise_scope(
    name: str | None, kind: int, inner: str | None, contexts: tuple[Any, Any] | None, ended: bool, error: Any
) -> NoReturn:
    """Raises :class:`ScopeError`, with ``error``, the exception in flight, as its context. Both backends call this.

    ``kind``: 1, the scope of the budget of that name is not open; 2, the one named ``inner`` is open inside; 3, it
    was entered in the first of ``contexts`` and left in the second. ``ended``: whether it ended all the same. 4: it
    was not entered, as a generator would have on an interpreter without a lock; that is :class:`NativeUnavailable`.
    """
    if kind == 4:
        raise NativeUnavailable(
            f"the scope of {_budget(name)} is not entered in a generator on a free-threaded interpreter: what the "
            "generator's caller does would be charged, too",
            suggestion="enter it around what runs the generator, or in a function or coroutine that it calls",
        )
    if kind == 1:
        message = "was left, but is not open: it was not entered, or was left before"
    elif kind == 2:
        message = (
            f"was left before the scope of {_budget(inner)}, which was entered inside it: the first has ended, the "
            "second is open still"
        )
    else:
        entered, left = contexts or (None, None)
        where = "a thread without a context" if left is None else f"another context, {left!r}"
        message = f"was entered in {entered!r} and left in {where}: it {'has ended' if ended else 'goes on'} there"
    raised = ScopeError(f"the scope of {_budget(name)} {message}")
    raised.__context__ = error
    raise raised


def _budget(name: str | None) -> str:
    return "a budget without a name" if name is None else f"budget {shown(name)}"


def raise_block(allocator: Any, block: Any, what: str) -> NoReturn:
    """Raises the error for a block that cannot be used here.

    ``what`` is ``"type"``, ``"double"``, ``"stale"``, ``"foreign"`` or ``"freed"`` (used after free).
    """
    name = name_of(allocator)
    if what == "type":
        raise TypeError(f"{name}: takes a Block, not {type(block).__name__}")
    layout = block.size, block.align
    if what == "foreign":
        given_by = block.allocator
        raise ForeignBlock(
            f"{name} {allocator.id}: the block belongs to another allocator, {name_of(given_by)} {given_by.id}",
            layout=layout,
            allocator=allocator.id,
            given_by=given_by.id,
        )
    if what == "double":
        raise DoubleFree(f"{name}: the block of {block.size} bytes was freed before", layout=layout)
    how, advice = "freed", ""
    if what != "freed":
        how = "dropped by a reset, release or close"
        advice = "take it from an allocator that lives as long as the block is used, or copy its bytes before"
    raise StaleBlock(f"{name}: the block of {block.size} bytes was {how}", suggestion=advice, layout=layout)


def _sites_of(blocks: list[Any]) -> list[Any]:
    """Where they were asked for, as far as a :class:`Traced` with stacks knows it, most bytes first."""
    found: dict[type, tuple[Any, list[Any]]] = {}
    for block in blocks:
        for link in chain(block.allocator):
            if getattr(link, "_stacks", 0):
                found.setdefault(type(link), (link, []))[1].append(block)
                break
    sites = [site for traced, known in found.values() for site in traced._sites_of(known)]
    return sorted(sites, key=lambda site: (-site.bytes, -site.blocks, site.frames))


def _sizes_of(blocks: list[Any]) -> str:
    """``1 of 80000 bytes, 3 of 64 bytes``, the largest first, a few of them."""
    counts: dict[int, int] = {}
    for size in sorted((block.size for block in blocks), reverse=True):
        counts[size] = counts.get(size, 0) + 1
    largest = list(counts.items())[:5]
    more = len(blocks) - sum(count for _, count in largest)
    return ", ".join(f"{count} of {size} bytes" for size, count in largest) + (f", {more} smaller" if more else "")


def raise_exports(allocator: Any, action: str, blocks: list[Any] | None = None, tops: int = 0) -> NoReturn:
    """Raises :class:`BufferError`: views, or allocators on top, still use the memory.

    ``blocks``: those with a view or an array, as far as there is memory to list them; ``tops``: allocators on top.
    Its ``sites`` say where the blocks were asked for, as those of a :class:`LeakError`, and so do its notes.
    """
    users = []
    if blocks:
        noun = "1 block" if len(blocks) == 1 else f"{len(blocks)} blocks"
        users.append(f"{noun} with a memoryview or an array: {_sizes_of(blocks)}")
    if tops:
        users.append("1 allocator on top of it" if tops == 1 else f"{tops} allocators on top of it")
    what = " and ".join(users) or "a memoryview, an array, or an allocator on top of it"
    try:
        found = _sites_of(blocks or [])
    except Exception:  # half-made, or no memory
        found = []
    blocks = None  # an error that is kept must not keep them
    sites = LeakError("")._at(found)
    text = f"{name_of(allocator)}: {action} refused, the memory is in use by {what}; release that first"
    details = "\n".join(sites._details())
    noted = hasattr(sites, "add_note")
    error = BufferError(text if noted or not details else f"{text}\n{details}")
    error.sites = sites.sites  # type: ignore[attr-defined]
    if details and noted:
        error.add_note(details)  # type: ignore[attr-defined]
    try:
        raise error
    finally:
        del error  # its traceback has this frame: a cycle would keep the allocator


def coerce_layout(allocator: Any, size: Any, align: Any = ALIGN_DEFAULT, label: str = "") -> tuple[int, int]:
    """Checks and converts what a caller gave for size and alignment; ``label``: what messages begin with.

    Both backends call it whenever the size is not a plain int in range or the alignment is not plain.
    """
    label = label or f"{name_of(allocator)}.alloc"
    if size is ... and allocator._natural:
        size = allocator._natural
    try:
        size = parse_size(size, f"{label}: size")
        if not isinstance(align, int) or isinstance(align, bool):
            raise InvalidLayout(f"{label}: align {_ALIGNMENTS}, not {shown(align)}")
        align = index(align)  # a plain int, whatever a subclass says of itself
        if not 1 <= align <= ALIGN_MAX or align & (align - 1):
            raise InvalidLayout(f"{label}: align {_ALIGNMENTS}, not {shown(align)}")
    except InvalidLayout as error:
        if type(size) is int and type(align) is int:
            error.layout = size, align
        raise
    return size, align
