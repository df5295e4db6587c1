"""What a sweep found.

The values that it returns do not change: any thread may read them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from .stacks import CFrame, PythonFrame, inner

__all__ = ["KINDS", "Finding", "Findings"]

#: kinds of findings, and what each is
KINDS = {
    "crash": "a signal ended the process",
    "hang": "it had not ended after the timeout",
    "exit": "the process ended in another way than without a refusal",
    "no exception": "a call failed and set no exception",
    "stray exception": "a call succeeded and left an exception set",
    "wrong exception": "another exception than MemoryError came out",
    "wrong result": "it ended well, with another result than without a refusal",
    "not usable afterwards": "after the MemoryError, the function does not do any more what it did",
    "leak": "each run that fails there keeps blocks",
}

#: frames of each stack that str() shows
_SHOWN = 8


@dataclass(frozen=True)
class Finding:
    """One fault, however many allocations led to it.

    ``kind`` is one of :data:`KINDS`, ``detail`` says more in a line. ``numbers`` are the allocations, from 1 on,
    whose refusal showed it, ``nth`` is the first of them; ``domain`` and ``size`` (bytes) are what that one asked
    for. ``python`` and ``c`` are the stacks that asked for it, ``end_python`` and ``end_c`` those of the end where
    there is one, all innermost first. ``output`` is what the process wrote first, ``command`` shows it again.
    ``known``, in ``Findings.interpreter``, says which of the interpreter's own faults it is.

    >>> found = Finding("crash", "SIGSEGV", (3, 7), "obj", 64, python=(), c=())
    >>> found.nth, str(found).splitlines()[0]
    (3, 'crash: SIGSEGV')
    """

    kind: str
    detail: str
    numbers: tuple[int, ...]
    domain: str
    size: int
    python: tuple[PythonFrame, ...]
    c: tuple[CFrame, ...]
    end_python: tuple[PythonFrame, ...] = ()
    end_c: tuple[CFrame, ...] = ()
    output: str = ""
    command: str = ""
    known: str = ""

    @property
    def nth(self) -> int:
        """The first of its ``numbers``."""
        return self.numbers[0]

    def __str__(self) -> str:
        more = len(self.numbers) - 1
        others = ", ".join(map(str, self.numbers[1:6])) + ", …" * (more > 5)
        also = f" (and of {more} more: {others})" if more else ""
        asked = f"{self.size} bytes of {self.domain}" if self.domain != "allocators" else "of an allocator"
        lines = [f"{self.kind}: {self.detail}"]
        lines.append(f"  after the refusal of allocation {self.nth}, {asked}{also}, asked for at")
        lines += _stack(self.python, self.c)
        if self.end_python or self.end_c:
            lines += ["  and it ended at", *_stack(self.end_python, self.end_c)]
        if self.output:
            lines += [f"  it wrote: {line}" for line in self.output.splitlines()[:3]]
        if self.known:
            lines.append(f"  the interpreter's own: {self.known}")
        if self.command:
            lines.append(f"  again: {self.command}")
        return "\n".join(lines)


def _stack(python: Sequence[PythonFrame], c: Sequence[CFrame]) -> list[str]:
    rows = [*(f"C {frame}" for frame in inner(c)[:_SHOWN]), *(f"Python {frame}" for frame in python[:_SHOWN])]
    return [f"    {row}" for row in rows]


@dataclass(frozen=True)
class Findings(Sequence[Finding]):
    """The result of :func:`sweep`: a sequence of findings, empty where each refusal was borne. ``str()`` shows all.

    ``domains`` are what was refused. ``interpreter`` are the findings in which only the interpreter's own code took
    part. ``allocations`` counts those of one run of the function, ``sites`` the places they come from, ``attempts``
    the runs with a refusal. ``unreached`` counts attempts in which the allocation was not made: the function does
    not always do the same. ``stopped`` says why not all was tried, empty where it was; ``seconds`` is what it took.
    """

    findings: tuple[Finding, ...] = ()
    interpreter: tuple[Finding, ...] = ()
    domains: tuple[str, ...] = ()
    allocations: int = 0
    sites: int = 0
    attempts: int = 0
    unreached: int = 0
    stopped: str = ""
    seconds: float = field(default=0.0, compare=False)

    def __len__(self) -> int:
        return len(self.findings)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        return self.findings[index]

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __str__(self) -> str:
        count = len(self.findings)
        head = f"{count or 'no'} finding{'s' * (count != 1)}"
        lines = [
            f"{head}: {self.attempts} of {self.allocations} allocations refused, one in each run"
            f" ({', '.join(self.domains)}; {self.sites} sites), in {self.seconds:.1f} s"
        ]
        if self.stopped:
            lines.append(f"not all was tried: {self.stopped}")
        if self.unreached:
            lines.append(f"{self.unreached} allocations were not made again: the function varies")
        for i, finding in enumerate(self.findings, 1):
            lines += ["", f"{i}. {finding}"]
        if self.interpreter:
            lines += ["", f"the interpreter's own, {len(self.interpreter)}:"]
            lines += [f"  {each.kind} at allocation {each.nth}: {each.known}" for each in self.interpreter]
        return "\n".join(lines)
