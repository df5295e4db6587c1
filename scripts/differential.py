"""Runs generated programs on native, pure and the model until enough operations were compared.

Each round is a run of tests/test_differential.py with the next seed; a round that fails shows its program, and
``--seed`` with the number that it printed runs it again.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COUNT = re.compile(r"^(\d+) operations$", re.MULTILINE)


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--operations", type=int, default=200_000, help="how many at least (200000)")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32), help="of the first round (random)")
    given = parser.parse_args()
    env = {"NATIVEMEM_TEST_EXAMPLES": "2000", "NATIVEMEM_TEST_STEPS": "100"} | os.environ
    env["CI"] = "1"  # where the C core is not built there is nothing to compare
    seed, done, start = given.seed, 0, time.monotonic()
    while done < given.operations:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--hypothesis-seed={seed}"]
        run = subprocess.run(
            [*command, "tests/test_differential.py"], cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True
        )
        count = COUNT.search(run.stdout)
        if run.returncode or count is None:
            print(run.stdout)
            print(f"seed {seed} failed")
            return 1
        done += int(count[1])
        print(f"seed {seed}: {count[1]} operations, the same on native, pure and the model", flush=True)
        seed += 1
    print(f"{done} operations in {time.monotonic() - start:.0f} s, seeds {given.seed} to {seed - 1}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
