"""Writes the table of environment variables, made from nativemem.config, into docs/reference.md.

Usage: env_table.py [--check]
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))
#: the table below this heading
HEADING = "## Environment variables\n\n"


def with_table(text: str, table: str) -> str:
    """``text`` with the table below the heading replaced."""
    found = re.search(re.escape(HEADING) + r"(\|.*\n)+", text)
    if found is None:
        raise SystemExit(f"env_table: docs/reference.md has no table below {HEADING.strip()!r}")
    return text[: found.start()] + HEADING + table + "\n" + text[found.end() :]


def main() -> int:
    from nativemem.config import environment_table

    path = ROOT / "docs" / "reference.md"
    before = path.read_text(encoding="utf-8")
    after = with_table(before, environment_table())
    if "--check" in sys.argv[1:]:
        return int(before != after)
    path.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
