"""What the pytest plugin costs a suite of 1,000 trivial tests: instructions, as callgrind counts them.

    python bench/pytest_overhead.py [TESTS]

Three runs in this environment: without the plugin, idle, and with a budget for each test. Needs valgrind; bytecode
has to be written, so PYTHONDONTWRITEBYTECODE is taken away.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

RUNS = {"without": ["-p", "no:nativemem"], "idle": [], "budgets": ["--nativemem-budget=64MiB"]}


def count(folder: str, options: list[str]) -> int:
    """Instructions of one run, after one that leaves the bytecode."""
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    subprocess.run(run, cwd=folder, env=environment, capture_output=True, check=True)
    counted = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", *run]
    done = subprocess.run(counted, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    found = re.search(r"Collected : (\d+)", done.stderr)
    assert found is not None, done.stderr
    return int(found[1])


def main() -> None:
    tests = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with tempfile.TemporaryDirectory() as folder:
        suite = "".join(f"def test_{i}(): assert {i} == {i}\n" for i in range(tests))
        Path(folder, "test_trivial.py").write_text(suite, encoding="utf-8")
        counts = {name: count(folder, options) for name, options in RUNS.items()}
    for name, found in counts.items():
        print(f"{name:8} {found / 1e6:9,.0f} million instructions  {100 * (found / counts['without'] - 1):+.1f} %")


if __name__ == "__main__":
    main()
