"""From attempts to findings: which are one fault, and which are the interpreter's own."""

from __future__ import annotations

import os
import re
import signal
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from .findings import Finding, Findings
from .injection_report import Attempt
from .injection_sources import DOMAINS
from .interpreter_faults import known_fault
from .stacks import CFrame, Modules, PythonFrame, c_frames, inner, python_frames, within

__all__ = ["Judge"]

#: the system's reason for a signal that a process has sent, SI_USER
_SENT = 0
#: a line of faulthandler's
_FAULT = re.compile(r'^  File "(.*)", line (\d+|\?\?\?) in (.*)$', re.MULTILINE)


class Judge:
    def __init__(self, names: tuple[str, ...], command: Callable[[int], str]) -> None:
        self.names, self.command = names, command
        self.modules = Modules(_python() if names != ("allocators",) else None)
        paths = sysconfig.get_paths()
        self.library = tuple({paths["stdlib"] + os.sep, paths["platstdlib"] + os.sep, "<frozen "})
        self.packages = tuple({paths["purelib"] + os.sep, paths["platlib"] + os.sep})
        #: by what makes two of them one fault
        self.found: dict[tuple[Any, ...], Finding] = {}

    def add(self, attempt: Attempt) -> None:
        finding, key = self.judged(attempt)
        before = self.found.get(key)
        self.found[key] = (
            finding if before is None else replace(before, numbers=(*before.numbers, *finding.numbers))
        )

    def findings(self, **counts: Any) -> Findings:
        found = [replace(each, numbers=tuple(sorted(each.numbers))) for each in self.found.values()]
        found.sort(key=lambda each: each.nth)
        return Findings(
            tuple(each for each in found if not each.known), tuple(each for each in found if each.known), **counts
        )

    def judged(self, attempt: Attempt) -> tuple[Finding, tuple[Any, ...]]:
        said = attempt.said or {}
        c, python = c_frames(attempt.c), python_frames(attempt.python)
        end_c: tuple[CFrame, ...] = ()
        end_python: tuple[PythonFrame, ...] = ()
        if attempt.signal or not os.WIFEXITED(attempt.status):
            end_c, end_python = c_frames(attempt.end_c), _faults(attempt.end_python)
        elif "traceback" in said:
            end_python = within(PythonFrame(*row) for row in said["traceback"])
        kind, detail = self.kind(attempt, said)
        if not python and self.names == ("allocators",):
            python = end_python
        finding = Finding(
            kind,
            detail,
            (attempt.nth,),
            DOMAINS[attempt.domain] if self.names != ("allocators",) else "allocators",
            attempt.size,
            python,
            c,
            end_python,
            end_c,
            attempt.output.strip(),
            self.command(attempt.nth),
        )
        finding = replace(finding, known=known_fault(finding))
        others = self.modules.others
        culprit = others(inner(c)) or others(inner(end_c)) or others(c) or others(end_c)
        if culprit is None and not finding.known and not (attempt.signal and attempt.code == _SENT):
            finding = replace(finding, known=self.interpreters(finding, said))
        # the extension's call, or the Python code that dealt with the refusal, or the line that was refused
        place: tuple[Any, ...] = (culprit.module, culprit.offset) if culprit else python[:1]
        if kind in ("wrong result", "exit") and not culprit:
            place = ()
        if said.get("raised"):
            place = end_python[:1]
        if kind == "crash":
            place += end_c[:1]
        elif kind not in ("leak", "hang"):
            place += (detail.partition(":")[0],)
        return finding, (kind, finding.known if finding.known else place)

    def kind(self, attempt: Attempt, said: dict[str, Any]) -> tuple[str, str]:
        status = attempt.status
        if "kind" in said and not os.WIFSIGNALED(status):
            return said["kind"], said["detail"]
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            if number == signal.SIGKILL and not attempt.signal:
                return "hang", "it was killed: its own alarm did not end it"
            if number == signal.SIGALRM:
                return "hang", "it did not end in time"
            name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
            where = f" at address {attempt.address:#x}" if name in ("SIGSEGV", "SIGBUS") else ""
            when = " after the function" if attempt.said is not None else ""
            return "crash", f"{name}{where}{when}"
        if "broken" in said:
            return "exit", f"it could not be judged: {said['broken'].strip().rpartition(chr(10))[2]}"
        return "exit", f"the process ended with status {os.WEXITSTATUS(status)}"

    def interpreters(self, finding: Finding, said: dict[str, Any]) -> str:
        """Why it is the interpreter's own; empty: it is not. Pre: no extension is on the stacks."""
        if finding.kind == "crash" and finding.c and finding.end_c:
            place = finding.end_c[0].function or finding.end_c[0]
            return f"{finding.detail}, in {place}, and no extension on the stacks"
        if finding.kind in ("no exception", "stray exception", "wrong exception") and finding.c:
            file = finding.end_python[0].file if finding.end_python else ""
            is_library = file.startswith(self.library) and not file.startswith(self.packages)
            if not said.get("raised") or is_library:
                return f"{finding.detail}, and no extension on the stack"
        return ""


def _faults(text: str) -> tuple[PythonFrame, ...]:
    """The stack of the thread that faulthandler tells of first."""
    for part in re.split(r"\n\n|\nThread ", text):
        if rows := _FAULT.findall(part):
            return within(PythonFrame(file, int(line) if line.isdigit() else 0, name) for file, line, name in rows)
    return ()


def _python() -> str | None:
    from ..backends.native.loader import dataplane

    path = dataplane.injection_python()
    return str(path) if path is not None else sys.executable
