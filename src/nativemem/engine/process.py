"""What the engine serves in this process, beside the calls that install it: the public module of the engine.

The values that it returns do not change: any thread may read them.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..budgets.budget import Denial
from ..errors import NativeUnavailable
from ..sizes import SIZE_MAX
from ..stats import Stats
from ..wrappers.histogram import percentiles
from .install import Installed, core, install, installed, owns, uninstall

__all__ = ["Installed", "Usage", "install", "installed", "owns", "stats", "uninstall", "usage"]


@dataclass(frozen=True)
class Usage:
    """What the engine served so far; sizes in bytes.

    ``held`` and ``peak`` are what it holds, in whole pages, and the most it held; ``denials`` counts
    requests refused because of the ``limit``, ``last_denial`` has the last of them; ``allocations`` counts blocks
    served; ``sizes`` maps the percentiles 50, 90 and 99 to block sizes, rounded up to the cell.
    """

    held: int
    peak: int
    limit: int | None
    denials: int
    last_denial: Denial | None
    allocations: int
    sizes: dict[int, int] | None


def usage() -> Usage:
    """What the engine holds and served, a :class:`Usage`. Raises :class:`NativeUnavailable` where it was never
    installed. Any thread.

    >>> import nativemem
    >>> from nativemem.process import usage
    >>> installed = nativemem.install(limit="1 GiB")  # doctest: +SKIP
    >>> usage().limit, usage().held <= usage().peak, usage().denials  # doctest: +SKIP
    (1073741824, True, 0)
    """
    engine = core()
    from ..backends.native.budget import denial_of_engine

    budget = engine.engine_budget()
    if budget is None:
        raise NativeUnavailable("the engine was not installed", suggestion="call nativemem.install()")
    held, peak, limit, denials = budget
    refused = denial_of_engine()
    denial = None
    if refused is not None:
        requested, used, allowed, _, when, _ = refused
        denial = Denial(requested, used, allowed, None, when / 1e9)
    sizes, _ = engine.engine_account()
    return Usage(
        held=held,
        peak=peak,
        limit=None if limit == SIZE_MAX else limit,
        denials=denials,
        last_denial=denial,
        allocations=sum(n for _, n in sizes),
        sizes=percentiles(sizes),
    )


def stats() -> Stats:
    """What the engine serves, as the :class:`Stats` that allocators and budgets have. Raises
    :class:`NativeUnavailable` where it was never installed. Any thread.

    >>> import nativemem
    >>> installed = nativemem.install()  # doctest: +SKIP
    >>> figures = nativemem.process.stats()  # doctest: +SKIP
    >>> figures.current <= figures.peak, figures.current <= figures.reserved  # doctest: +SKIP
    (True, True)
    """
    now = usage()
    engine, limit = core(), now.limit
    sizes, _ = engine.engine_account()
    return Stats(
        current=now.held,
        peak=now.peak,
        reserved=now.held + engine.engine_kept(),
        limit=limit,
        total=sum(size * blocks for size, blocks in sizes),
        live=0,
        count=sum(blocks for _, blocks in sizes),
        frees=0,
        failures=now.denials,
        largest_free=None if limit is None else max(limit - now.held, 0),
    )
