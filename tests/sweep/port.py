"""Each allocation that an operation makes through the port fails once, and then each and all after it."""

from __future__ import annotations

from typing import Any

from bad_input import cases
from bad_input.world import World
from nativemem import errors
from nativemem._api import load
from nativemem.backends.binding import Binding

from .scenarios import Scenario, scenarios, subject_of


class Swept:
    """One scenario on one backend."""

    def __init__(self, nm: Binding, subject: str, scenario: Scenario) -> None:
        self.nm, self.subject, self.scenario = nm, subject, scenario
        self.complaints: list[str] = []
        self.expected: type | None = None

    def once(self, failing: Any) -> None:
        """Makes everything, does it, gives everything back; what does not hold is noted."""
        w = World(self.nm, self.subject, failing)
        w.watched = False
        failed: MemoryError | None = None
        try:
            try:
                self.scenario.prepare(w)
                result = self.scenario.run(w)
                self.note(cases._settle(result, w, cases.Case("", self.scenario.run, attribute=True)), failing)
                del result
                if not failing.n:
                    self.expected = None
            except MemoryError as error:
                failed = error
                if failing.failed:
                    self.still_usable(w, failing)
                else:
                    self.other(error, failing)
            except Exception as error:
                self.other(error, failing)
        finally:
            for what in w.finish():
                self.note(what, failing)
        if failed is not None and failing.failed:
            raise failed

    def other(self, error: Exception, failing: Any) -> None:
        """What it raises anyhow, as it should; anything else is wrong."""
        if not failing.n:
            self.expected = type(error)
        elif type(error) is not self.expected:
            self.note(f"raised {type(error).__name__}: {error}", failing)

    def still_usable(self, w: World, failing: Any) -> None:
        for what in w.broken():
            self.note(what, failing)
        if failing.sticky or w.allocator.closed or self.scenario.changes:
            return
        try:
            w.allocator.alloc(64).free()
        except (errors.NativeMemError, MemoryError) as error:
            self.note(f"no block to be had afterwards: {type(error).__name__}: {error}", failing)

    def note(self, what: str | None, failing: Any) -> None:
        if what is not None:
            self.complaints.append(f"with allocation {failing.n}{' and on' * failing.sticky} failing: {what}")


def sweep(backend: str, group: str) -> tuple[int, list[str]]:
    """How many allocations were made fail, and what was wrong then."""
    nm = load(backend)
    made, complaints = 0, []
    for scenario in scenarios()[group]:
        if scenario.dry:
            continue
        swept = Swept(nm, subject_of(group), scenario)
        with nm.Failing() as failing:
            swept.once(failing)
        for sticky in (False, True):
            try:
                made += nm.Failing.sweep(swept.once, sticky=sticky, most=500)
            except Exception as error:
                if "allocated nothing" in str(error):
                    break
                swept.complaints.append(f"{type(error).__name__}: {error} {getattr(error, '__notes__', '')}")
        complaints += [f"{backend}, {group}: {scenario.label}: {what}" for what in swept.complaints]
    return made, complaints
