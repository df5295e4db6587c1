"""Faults of CPython itself that a sweep meets, known by the stack of the refusal.

docs/injection.md lists them, and how each was shown to be the interpreter's.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from .findings import Finding
from .stacks import inner

__all__ = ["FAULTS", "Fault", "known_fault"]


@dataclass(frozen=True)
class Fault:
    """``functions``: C functions that are all on the stack of the refusal, innermost first; ``end``: the one that
    a crash is in, empty: any; ``kinds``: what comes of it, empty: anything. The versions that have it are from
    ``since`` to before ``until``. ``through``: an instruction called the last of ``functions``, itself or through
    these; None: however it was called."""

    name: str
    functions: tuple[str, ...]
    end: str
    kinds: tuple[str, ...]
    since: tuple[int, int]
    until: tuple[int, int]
    through: tuple[str, ...] | None = None


FAULTS = (
    Fault(
        "an exception that leaves a function is lost where its frame object has no memory",
        ("_PyFrame_MakeAndSetFrameObject", "_PyFrame_Clear"),
        "",
        ("no exception", "wrong exception", "wrong result", "crash"),
        (3, 11),
        (3, 12),
    ),
    Fault(
        "an iterator over a dict's items that has no memory for its pair is freed before it is tracked",
        ("PyTuple_Pack", "PyObject_GetIter"),
        "dictiter_dealloc",
        ("crash",),
        (3, 11),
        (3, 12),
    ),
    # what is freed too early may be used by anything, whenever that comes
    Fault(
        "a function object that has no memory gives its code object back twice",
        ("PyFunction_NewWithQualName",),
        "",
        (),
        (3, 12),
        (3, 14),
        ("PyFunction_New",),
    ),
)


def known_fault(finding: Finding) -> str:
    """Its name; empty: it is none of them."""
    # a part of a function that the compiler moved away has the function's name and a suffix
    stack = [frame.function.partition(".")[0] for frame in inner(finding.c)]
    for fault in FAULTS:
        rest = iter(stack)
        if (
            fault.since <= sys.version_info[:2] < fault.until
            and (not fault.kinds or finding.kind in fault.kinds)
            and all(function in rest for function in fault.functions)
            and (fault.through is None or set(rest) <= set(fault.through))
            and (not fault.end or any(frame.function == fault.end for frame in finding.end_c[:1]))
        ):
            return fault.name
    return ""
