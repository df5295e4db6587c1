"""Programs of pyperformance as functions of this process, so that what a tool adds to one can be counted.

Their scripts are run as they are. What they hand to their runner is kept in place of being timed.
"""

from __future__ import annotations

import asyncio
import importlib.util
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: of those that allocate most; how often a call runs what the script hands over, for some 10^8 instructions
CALLS = {
    "async_tree": 1,
    "async_tree_io": 1,
    "async_tree_cpu_io_mixed": 1,
    "async_tree_memoization": 1,
    "comprehensions": 500,
    "deepcopy": 50,
    "float": 1,
    "json_loads": 50,
}
#: what of a script is another number here: a tree of four levels has 1,555 tasks, one of six 55,987
CONSTANTS = {"NUM_RECURSE_LEVELS": 4}


def _script(name: str) -> tuple[Path, list[str]]:
    """The script of a benchmark, and the options that pyperformance starts it with."""
    import tomllib

    found = importlib.util.find_spec("pyperformance")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("missing: pyperformance; it is in the extra `bench`")
    for file in Path(found.submodule_search_locations[0]).glob("data-files/benchmarks/bm_*/*.toml"):
        told = tomllib.loads(file.read_text(encoding="utf-8")).get("tool", {}).get("pyperformance", {})
        own = file.parent.name if file.name == "pyproject.toml" else file.stem
        if told.get("name", own.removeprefix("bm_")) == name:
            return file.parent / "run_benchmark.py", told.get("extra_opts", [])
    raise SystemExit(f"pyperformance has no {name}")


def load(name: str) -> Callable[[], int]:
    """One call runs all that the benchmark ``name`` measures; the number of functions that it called."""
    import pyperf

    handed: list[Callable[[], object]] = []
    modules: list[dict[str, Any]] = []

    class Runner(pyperf.Runner):  # type: ignore[misc]
        def bench_func(self, name: str, function: Callable[..., object], *args: Any, **_: Any) -> None:
            handed.append(lambda: function(*args))

        def bench_time_func(self, name: str, function: Callable[..., object], *args: Any, **_: Any) -> None:
            handed.append(lambda: function(1, *args))

        def bench_async_func(self, name: str, function: Callable[..., Any], *args: Any, **_: Any) -> None:
            handed.append(lambda: asyncio.run(function(*args)))
            modules.append(getattr(function, "__func__", function).__globals__)

    script, options = _script(name)
    kept = sys.argv, pyperf.Runner
    sys.argv, pyperf.Runner = [str(script), *options], Runner
    sys.path.insert(0, str(script.parent))
    try:
        runpy.run_path(str(script), run_name="__main__")
    finally:
        sys.argv, pyperf.Runner = kept

    for module in modules:
        module.update({name: value for name, value in CONSTANTS.items() if name in module})

    def call() -> int:
        for _ in range(CALLS[name]):
            for each in handed:
                each()
        return len(handed)

    return call
