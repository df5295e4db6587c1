"""The formats of a report. Each is a module in this table; a new one touches no other.

Any thread may call what is here.
"""

from __future__ import annotations

import importlib
from typing import NamedTuple

from ...errors import ConfigError, shown
from ..recording import Recording
from .model import Report

__all__ = ["FORMATS", "Format", "format_of", "render"]


class Format(NamedTuple):
    """``module`` has ``render(report, *, top, by, ...)``; ``endings`` are those of its files, the usual first;
    ``help`` is a line.

    >>> isinstance(FORMATS["html"], Format), FORMATS["html"].endings
    (True, ('.html', '.htm'))
    """

    module: str
    endings: tuple[str, ...]
    help: str


#: the formats, by their names: how each is written, the ends of its files, what it is for
FORMATS = {
    "text": Format("report.text", (".txt",), "tables for people"),
    "html": Format("report.html", (".html", ".htm"), "one page, with nothing to load"),
    "json": Format("report.as_json", (".json",), "all of it, for programs"),
    "csv": Format("report.as_csv", (".csv",), "the sites, for a spreadsheet"),
    "markdown": Format("report.markdown", (".md", ".markdown"), "tables for a pull request"),
    "prometheus": Format("report.prometheus", (".prom",), "figures for the textfile collector"),
    "collapsed": Format("export.collapsed", (".collapsed", ".folded"), "stacks for flame graphs"),
    "speedscope": Format("export.speedscope", (".speedscope.json",), "for speedscope.app"),
    "pprof": Format("export.pprof", (".pb.gz", ".pprof"), "for pprof"),
    "perfetto": Format(
        "export.perfetto", (".perfetto.json", ".trace.json"), "what owners used over time, for Perfetto"
    ),
}


def format_of(file: str) -> str | None:
    """The format that the name of a file asks for; None where it does not say.

    >>> format_of("run.speedscope.json"), format_of("run.txt"), format_of("run")
    ('speedscope', 'text', None)
    """
    endings = {ending: name for name, each in FORMATS.items() for ending in each.endings}
    found = [ending for ending in endings if file.lower().endswith(ending)]
    return endings[max(found, key=len)] if found else None


def render(
    recording: Recording,
    form: str = "text",
    *,
    top: int | None = None,
    by: str = "peak",
    owner: str | None = None,
    where: str = "",
) -> str | bytes:
    """What ``recording`` shows, in ``form``, one of :data:`FORMATS`: bytes where it is a binary one, else text.

    Parameters: ``top``, the most rows of a table (None: as the format has it); ``by``, what the largest sites are
    the largest of, ``live``, ``peak`` or ``total``; ``owner``, one owner alone; ``where``, the recording's name.
    Raises :class:`ConfigError` for another format or measure, and for an owner that there is not. Any thread.

    >>> import nativemem
    >>> from nativemem.observe.profile import Profile
    >>> installed = nativemem.install()  # doctest: +SKIP
    >>> with Profile(rate=1) as profile:  # doctest: +SKIP
    ...     data = [bytes(1000) for _ in range(100)]
    >>> text = render(profile.read(), "markdown", top=10)  # doctest: +SKIP
    >>> text.splitlines()[0]  # doctest: +SKIP
    '## Memory'
    """
    found = FORMATS.get(form)
    if found is None:
        raise ConfigError(f"report: formats are {', '.join(FORMATS)}, not {shown(form)}")
    module = importlib.import_module(f"..{found.module}", __package__)
    options = {} if top is None else {"top": top}
    made: str | bytes = module.render(Report(recording, where=where, owner=owner), by=by, **options)
    return made
