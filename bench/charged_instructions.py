"""What charging costs by instructions: loops in a scope beside the same loops without, counted by callgrind.

Usage: charged_instructions.py [LOOP]...

Each side is the engine with the same modules and a budget; "charged" enters it. A loop is run once and twice, and
the difference counts. The load of the machine does not matter. Loops: those of P3, ``lists`` and ``dicts`` of
small ones, and ``outlive``, which frees after the scope what it made in it.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Callable

import peers
from object_worker import LOOPS


def lists() -> None:
    """80,000 lists of two."""
    for _ in range(4):
        [[i, i] for i in range(20_000)]


def dicts() -> None:
    """40,000 dicts of two."""
    for _ in range(2):
        [{"a": i, "b": 2} for i in range(20_000)]


MORE: dict[str, Callable[[], object]] = {"lists": lists, "dicts": dicts}
OUTLIVE = 5_000


def one_side(side: str, name: str, times: int) -> None:
    """The program that is counted."""
    import nativemem

    nativemem.install()
    budget = nativemem.Budget("8 GiB", "charged")
    scope: contextlib.AbstractContextManager[object] = budget if side == "charged" else contextlib.nullcontext()
    if name == "outlive":
        with scope:
            made = [{"a": i, "b": [i], "c": f"x{i}"} for i in range(OUTLIVE)]
        del made[: len(made) * (times - 1)]  # of the second run
        os._exit(0)  # the rest is not freed
    function = {**LOOPS, **MORE}[name]
    with scope:
        for _ in range(times):
            function()


def instructions(side: str, name: str, times: int) -> int:
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", sys.executable, __file__]
    env = peers.clean(os.environ) | {"PYTHONHASHSEED": "0"}
    done = subprocess.run(
        [*command, "--side", side, name, str(times)], env=env, capture_output=True, text=True, check=True
    )
    found = re.search(r"Collected : (\d+)", done.stderr)
    if found is None:
        raise RuntimeError(done.stderr)
    return int(found[1])


def main() -> None:
    if sys.argv[1:2] == ["--side"]:
        one_side(sys.argv[2], sys.argv[3], int(sys.argv[4]))
        return
    print("| loop | without | charged | ratio |\n| --- | ---: | ---: | ---: |")
    for name in sys.argv[1:] or [*LOOPS, *MORE, "outlive"]:
        sides = [instructions(side, name, 2) - instructions(side, name, 1) for side in ("without", "charged")]
        print(f"| {name} | {sides[0]:,} | {sides[1]:,} | {sides[1] / sides[0]:.3f} |", flush=True)


if __name__ == "__main__":
    main()
