"""A profile as :mod:`tracemalloc` has it, for what reads that: statistics, comparisons, filters, other programs."""

from __future__ import annotations

import bisect
import itertools
import tracemalloc
from collections.abc import Sequence
from typing import Any

from ..errors import ConfigError, shown
from .recording import Recording, Sampled
from .snapshot import Snapshot

__all__ = ["DOMAINS", "to_tracemalloc"]

#: by source, the domain in tracemalloc's sense; that of arrays is NumPy's own (``numpy.lib.tracemalloc_domain``)
DOMAINS = {"objects": 0, "raw": 0, "arrays": 389047, "blocks": 389048}
_FIGURES = {"live": ("live", "live_blocks"), "peak": ("peak", "peak_blocks"), "total": ("total", "total_blocks")}
#: traces, which is what tracemalloc counts blocks by
_MOST = 1_000_000


class _Traces(Sequence[Any]):
    """So many traces of one size and place as there are blocks, without an object for each."""

    def __init__(self, sites: list[tuple[int, int, int, tuple[tuple[str, int], ...]]]) -> None:
        self._sites = sites  # domain, bytes, blocks, frames
        self._ends = list(itertools.accumulate(blocks for _, _, blocks, _ in sites))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        at = range(len(self))[index]
        place = bisect.bisect_right(self._ends, at)
        domain, size, blocks, frames = self._sites[place]
        is_last = at == self._ends[place] - 1
        each, rest = divmod(size, blocks)
        return domain, each + rest * is_last, frames, len(frames)


def _frames(site: Sampled) -> tuple[tuple[str, int], ...]:
    return tuple((at.file or at.function, at.line) for at in site.path)


def to_tracemalloc(
    profile: Recording | Snapshot, what: str = "live", owner: str | None = None
) -> tracemalloc.Snapshot:
    """The sites of a profile as a :class:`tracemalloc.Snapshot`: ``statistics``, ``compare_to``,
    ``filter_traces`` and ``dump`` do with it what they do with another.

    Parameters: ``profile``, a :class:`~.recording.Recording`, or a :class:`~.snapshot.Snapshot` that was taken
    while a profile ran; ``what``, ``"live"``, ``"peak"`` (what was live at the peak) or ``"total"``; ``owner``,
    whose sites alone are wanted (None: all). Sizes are exact sums of the profile's. Each block is a trace of the
    mean size of its site; where there are more than a million, a trace stands for several. ``domain`` is NumPy's
    for arrays, else 0.

    Raises :class:`ConfigError` for arguments of another kind. Any thread.

    >>> from nativemem.observe.recording import Path, Sampled
    >>> from nativemem.observe.snapshot import snapshot
    >>> import dataclasses
    >>> site = Sampled(Path("service.py", 7, "handle"), "cache", "objects", 3000, 30, 9000, 90, 3000, 30)
    >>> top = to_tracemalloc(dataclasses.replace(snapshot(), sites=(site,))).statistics("lineno")[0]
    >>> top.traceback[0].lineno, top.size, top.count
    (7, 3000, 30)
    """
    if not isinstance(profile, (Recording, Snapshot)):
        raise ConfigError(f"to_tracemalloc: takes a Recording or a Snapshot, not {type(profile).__name__}")
    if what not in _FIGURES:
        raise ConfigError(f"to_tracemalloc.what: takes 'live', 'peak' or 'total', not {shown(what)}")
    if owner is not None and not isinstance(owner, str):
        raise ConfigError(f"to_tracemalloc.owner: takes an owner's name or None, not {shown(owner)}")
    size_of, blocks_of = _FIGURES[what]
    found = [
        (DOMAINS.get(site.source, 0), getattr(site, size_of), max(getattr(site, blocks_of), 1), _frames(site))
        for site in profile.sites
        if getattr(site, size_of) and owner in (None, site.owner)
    ]
    scale = -(-sum(blocks for _, _, blocks, _ in found) // _MOST) or 1
    traces = [(domain, size, -(-blocks // scale), frames) for domain, size, blocks, frames in found]
    deepest = max((len(frames) for *_, frames in traces), default=1)
    return tracemalloc.Snapshot(_Traces(traces), deepest)
