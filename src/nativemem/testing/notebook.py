"""``%load_ext nativemem`` and ``%%nativemem``: a notebook's cell with a budget, and what it took."""

from __future__ import annotations

import ast
import html
from collections.abc import Sequence
from typing import Any

from ..engine.install import install
from ..errors import InvalidLayout, NativeMemError, NativeUnavailable
from ..sizes import SIZE_MAX, format_size, parse_size
from .charge import Scope, line_of, new_budget
from .trace import Place, Trace, places_of

__all__ = ["CellMemory", "Magic", "load"]

#: the sampling of a cell's trace
_RATE = 64 << 10
_BARS = "▁▂▃▄▅▆▇█"
#: points of the plot, its width and its height
_POINTS, _WIDTH, _HEIGHT = 48, 480, 60


def _thinned(values: Sequence[int]) -> list[int]:
    """At most so many values as the plot has points, each the largest of its part."""
    parts = min(len(values), _POINTS)
    return [max(values[len(values) * i // parts : len(values) * (i + 1) // parts]) for i in range(parts)]


class CellMemory:
    """What a cell took: ``peak`` and ``limit`` (None: there was none) in bytes, ``blocks`` allocated, ``places``
    with the most at the peak, ``used`` over time; ``refused``, the budget line where it went over. A notebook
    shows it."""

    def __init__(
        self, peak: int, limit: int | None, blocks: int, places: Sequence[Place], used: Sequence[int], refused: str
    ) -> None:
        self.peak, self.limit, self.blocks, self.refused = peak, limit, blocks, refused
        self.places, self.used = tuple(places), _thinned(used)

    def _head(self) -> str:
        of = "" if self.limit is None else f" of {format_size(self.limit)}"
        return f"peak {format_size(self.peak)}{of}, about {self.blocks:,} blocks allocated"

    def __str__(self) -> str:
        top = max(self.used, default=0) or 1
        plot = "".join(_BARS[value * (len(_BARS) - 1) // top] for value in self.used)
        lines = [self.refused] if self.refused else []
        return "\n".join(
            [*lines, f"nativemem: {self._head()}  {plot}".rstrip(), *(f"  {place}" for place in self.places)]
        )

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """The same with a plot, for notebooks."""
        top = max([*self.used, self.limit or 0], default=0) or 1
        step = _WIDTH / max(len(self.used) - 1, 1)
        points = " ".join(
            f"{i * step:.1f},{_HEIGHT - value * _HEIGHT / top:.1f}" for i, value in enumerate(self.used)
        )
        line = ""
        if self.limit is not None:
            y = _HEIGHT - self.limit * _HEIGHT / top
            line = f'<line x1="0" x2="{_WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="#c22" stroke-dasharray="4"/>'
        rows = "".join(
            f"<tr><td>{format_size(each.bytes)}</td><td>{each.blocks:,}</td>"
            f'<td style="text-align:left">{html.escape(each.path[0])}</td></tr>'
            for each in self.places
        )
        refused = f"<p><b>{html.escape(self.refused)}</b></p>" if self.refused else ""
        return (
            f"{refused}<p>{self._head()}</p>"
            f'<svg width="{_WIDTH}" height="{_HEIGHT}" role="img" aria-label="memory used over time">{line}'
            f'<polyline points="{points}" fill="none" stroke="currentColor"/></svg>'
            f"<table><thead><tr><th>bytes<th>blocks<th>place</tr></thead><tbody>{rows}</tbody></table>"
        )


class Magic:
    """The cell magic of one shell."""

    def __init__(self, shell: Any) -> None:
        self.shell = shell
        self._said = False

    def __call__(self, line: str, cell: str) -> None:
        """Runs ``cell`` as one without the magic, within the budget that ``line`` has, and shows what it took.
        Raises what the cell raises."""
        limit = self._limit(line)
        try:
            on = bool(install())
            reason = "NATIVEMEM_DISABLE=1 is set"
        except NativeUnavailable as error:
            on, reason = False, str(error)
        if not on:
            if not self._said:
                print(f"nativemem: cells are neither measured nor bounded here: {reason}")
                self._said = True
            self.execute(cell)
            return
        budget = new_budget(SIZE_MAX if limit is None else limit, f"cell [{self.shell.execution_count}]")
        scope, trace = Scope(budget, True), Trace(_RATE)
        try:
            trace.start()
        except NativeMemError:  # another profile runs; its places are not the cell's alone
            trace = Trace(_RATE)
        scope.enter()
        try:
            self.execute(cell)
        except BaseException as error:
            scope.leave(error)
            self._show(budget, limit, trace)
            raise
        scope.leave(None)
        self._show(budget, limit, trace)

    def _limit(self, line: str) -> int | None:
        from IPython.core.error import UsageError

        words = line.replace("=", " ", 1).split(maxsplit=1)
        if not words:
            return None
        if words[0] != "--budget" or len(words) == 1:
            raise UsageError("%%nativemem [--budget SIZE], a size as 1GiB")
        try:
            return parse_size(words[1].strip("'\""), "the budget", least=1)
        except InvalidLayout as error:
            raise UsageError(f"%%nativemem: {error}") from None

    def execute(self, raw: str) -> None:
        """Runs it in the shell's namespace; shows its last expression."""
        shell = self.shell
        code = shell.transform_cell(raw)
        name = shell.compile.cache(code, shell.execution_count, raw_code=raw)
        tree = shell.transform_ast(shell.compile.ast_parse(code, filename=name))
        last: list[Any] = [tree.body.pop()] if tree.body and isinstance(tree.body[-1], ast.Expr) else []
        self._name = name
        exec(shell.compile(tree, name, "exec"), shell.user_ns)
        if last:
            exec(shell.compile(ast.Interactive(last), name, "single"), shell.user_ns)

    def _show(self, budget: Any, limit: int | None, trace: Trace) -> None:
        from IPython.display import display

        show: Any = display  # has types in some versions only
        recording = trace.recording
        trace.stop()
        places, used, blocks = [], [], 0
        if recording is not None:
            here = getattr(self, "_name", "")
            places = [
                Place(each.bytes, each.blocks, tuple(call.replace(here, "the cell") for call in each.path))
                for each in places_of(recording, "peak", 5, budget.name)
            ]
            used = [moment.used for moment in recording.moments if moment.owner == budget.name]
            blocks = sum(site.total_blocks for site in recording.sites if site.owner == budget.name)
        refused = line_of(budget, budget.limit, "cell's budget") if budget.denied else ""
        show(CellMemory(budget.peak, limit, blocks, places, [*used, budget.used], refused))


def load(shell: Any) -> None:
    """Registers the magic with an IPython ``shell``."""
    shell.register_magic_function(Magic(shell), "cell", "nativemem")
