"""Opens what a report can be made of: recordings, and snapshots that were saved."""

from __future__ import annotations

import os

from ...errors import ConfigError
from ..recording import PROCESS, Owner, Recording, read
from ..snapshot import Snapshot
from ..snapshot import load as load_snapshot

__all__ = ["load", "of_snapshot"]


def load(file: str | os.PathLike[str]) -> Recording:
    """What ``file`` holds: a recording, or a saved :class:`~nativemem.observe.snapshot.Snapshot` as one.
    Raises OSError where it cannot be read, :class:`ConfigError` where it is neither."""
    with open(file, "rb") as opened:
        first = opened.read(1)
    if first != b"{":
        return read(file)
    try:
        return of_snapshot(load_snapshot(file))
    except (UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"snapshot: {os.fspath(file)} is no JSON ({type(error).__name__})") from None


def of_snapshot(snapshot: Snapshot) -> Recording:
    """A recording that holds a snapshot's owners and sites, and nothing over time.

    >>> from nativemem.observe.snapshot import snapshot
    >>> of_snapshot(snapshot()).owners[0].name
    'process'
    """
    engine, process = snapshot.engine, snapshot.process
    first = Owner(PROCESS, None, process.resident or 0, process.resident_peak or 0, 0)
    if engine is not None:
        first = Owner(PROCESS, engine.limit, engine.held, engine.peak, engine.denials)
    owners = [Owner(each.name, each.stats.limit, each.used, each.peak, each.denials) for each in snapshot.owners]
    kind = (
        "a snapshot" if engine is not None else "a snapshot without the engine: the process has its resident memory"
    )
    return Recording(
        pid=process.pid,
        began=snapshot.when,
        lasted=0.0,
        rate=snapshot.rate or 1,
        samples=0,
        dropped=0,
        live=sum(site.live for site in snapshot.sites),
        peak=sum(site.peak for site in snapshot.sites),
        peak_at=0.0,
        sites=snapshot.sites,
        owners=(first, *owners),
        moments=(),
        refused=(),
        about={"kind": kind, "python": process.python, "nativemem": process.nativemem},
    )
