"""Sweeps of released extensions: a small use of each, each allocation of it refused once.

    pip install nativemem ujson ...                         # the extensions that are to be swept
    PYTHONHASHSEED=0 python bench/injection.py             # all; NAME... for some
    PYTHONHASHSEED=0 python bench/injection.py --nth 9 ujson
    PYTHONHASHSEED=0 python bench/injection.py --testcapi ujson  # the same crashes without nativemem

``--markdown`` prints docs/measured/injection.md.
"""

from __future__ import annotations

import argparse
import collections
import faulthandler
import gc
import importlib.metadata
import inspect
import os
import platform
import re
import signal
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from injection_bodies import BODIES, DOC


def without_nativemem(function: Callable[[], object], most: int) -> dict[int, str]:
    """Which allocations end the process with a signal where ``_testcapi`` refuses them, and the line of Python."""
    import _testcapi

    for _ in range(3):
        function()
    ended = {}
    with tempfile.TemporaryFile() as faults:
        for n in range(1, most + 1):
            faults.seek(0)
            faults.truncate()
            child = os.fork()
            if child == 0:
                faulthandler.enable(faults, all_threads=False)
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
                gc.collect()
                gc.disable()
                try:
                    _testcapi.set_nomemory(n - 1, n)
                    try:
                        function()
                    finally:
                        _testcapi.remove_mem_hooks()
                except BaseException as error:
                    del error
                gc.collect()
                os._exit(0)
            status = os.waitpid(child, 0)[1]
            if os.WIFSIGNALED(status):
                faults.seek(0)
                line = re.search(r'File "(.*)", line (\d+)', faults.read().decode())
                where = f"{os.path.basename(line[1])}:{line[2]}" if line else "?"
                ended[n] = f"{signal.Signals(os.WTERMSIG(status)).name} at {where}"
    return ended


def swept(name: str, **options: Any) -> Any:
    from nativemem.testing import sweep

    return sweep(BODIES[name], timeout=5, seconds=120, **options)


def again(name: str, finding: Any) -> int:
    """In how many of three runs of that allocation alone the same is found."""
    count = 0
    for _ in range(3):
        found = list(swept(name, nth=finding.nth))
        count += [(each.kind, each.c, each.end_c[:1]) for each in found] == [
            (finding.kind, finding.c, finding.end_c[:1])
        ]
    return count


def markdown(names: list[str]) -> None:
    rows, sections = [], []
    for name in names:
        findings = swept(name)
        kinds = collections.Counter(each.kind for each in findings)
        crashes = [each for each in findings if each.kind == "crash"]
        version = importlib.metadata.version(name)
        told = ", ".join(f"{kind} {count}" for kind, count in kinds.items()) or "none"
        rows.append(
            f"| {name} | {version} | {findings.allocations} | {findings.attempts} | {told} |"
            f" {len(findings.interpreter)} |"
        )
        if not findings:
            continue
        lines = [f"### {name} {version}", "", "```python", inspect.getsource(BODIES[name]).rstrip(), "```", ""]
        if crashes:
            last = max(number for each in crashes for number in each.numbers)
            alike = without_nativemem(BODIES[name], 2 * last + 8)
            shown = ", ".join(f"{n} {what}" for n, what in list(alike.items())[:8])
            lines += [f"Without nativemem, `_testcapi.set_nomemory(n - 1, n)`: n = {shown or 'none'}.", ""]
        for finding in findings:
            command = f"PYTHONHASHSEED=0 python bench/injection.py --nth {finding.nth} {name}"
            if finding.kind != "crash":
                place = next((frame for frame in finding.c if name.lower()[-4:] in frame.module.lower()), None)
                lines += [
                    f"- {finding.kind}, allocation {finding.nth}, in `{place or finding.c[0]}`: {finding.detail}"
                ]
                continue
            text = re.sub(r"(?<= )/\S*/(?=[^/]+:\d+ in)", "", str(finding))
            kept = [row[:116] for row in text.splitlines() if not row.startswith(("  again:", "  it wrote:"))]
            seen = f"seen again in {again(name, finding)} of 3 runs"
            lines += ["", "```", *kept, "```", "", f"`{command}`, {seen}", ""]
        sections.append("\n".join(lines))
        print(rows[-1], file=sys.stderr, flush=True)
    print(HEAD.format(python=platform.python_version(), doc=DOC))
    print(*rows, sep="\n")
    print("\n## What was found")
    print("\n".join(sections))


HEAD = """# Refusing each allocation of released extensions

Wheels as they are released, a small use of each, each of its allocations refused once
([injection.md](../injection.md)). It is what `PYTHONHASHSEED=0 python bench/injection.py --markdown` printed:
CPython {python}, Linux, x86-64, two cores of an AMD EPYC with much other work on them. The numbers of allocations
hold for these versions.

A finding is one place that does not bear one refusal. It says nothing of an extension in any other respect, and
most programs never meet it. Some of the exceptions other than `MemoryError` are a choice of their authors. The
last column counts faults of the interpreter, which are kept apart.

Each crash was replayed by its number three times. It was also looked for without nativemem, with the interpreter's
own `_testcapi.set_nomemory` in place of the sweep's hooks, which is what `bench/injection.py --testcapi` does: each
n in a process of its own, after the same warm-up. That counts also what one domain takes from another, and its own
call fills a free list, so its numbers may differ. By hand, where `use` is one of the functions below:

```python
import _testcapi, faulthandler, gc

faulthandler.enable()
for _ in range(3):
    use()
gc.collect()
_testcapi.set_nomemory(n - 1, n)
use()
```

They share `DOC = {doc}`.

| extension | version | allocations | tried | findings | interpreter's |
| --- | --- | --- | --- | --- | --- |"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="distributions; all unless some are given")
    parser.add_argument("--nth", type=int, help="this allocation alone")
    parser.add_argument("--testcapi", action="store_true", help="crashes alone, without nativemem")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    names = options.names or list(BODIES)
    if options.markdown:
        markdown(names)
        return
    for name in names:
        print(f"== {name} {importlib.metadata.version(name)}")
        print(
            without_nativemem(BODIES[name], 200) if options.testcapi else swept(name, nth=options.nth), flush=True
        )


if __name__ == "__main__":
    main()
