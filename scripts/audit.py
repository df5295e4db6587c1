"""Known vulnerabilities in what is installed with nativemem: `make audit`.

Usage: audit.py

Looks at the packages that nativemem asks for, with its optional ones, in the versions of this environment, and asks
pip-audit about each: PyPI's advisories, then OSV's. Exit code: 0 none is known; 1 one is; 75 it could not be asked
(no network, or an index without advisories): pip-audit itself says "no known vulnerabilities" there, which is no
answer.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

EXTRAS = ("cache", "otel", "prometheus", "rich", "toml")
NOT_ASKED = 75


def closure(root: str, extras: tuple[str, ...]) -> dict[str, str]:
    """Names and versions of what is installed, of what ``root`` asks for, and what that asks for."""
    found: dict[str, str] = {}
    todo = [(root, extras)]
    while todo:
        name, wanted = todo.pop()
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # for another Python or platform
        if name != root:
            found[name] = distribution.version
        for requirement in distribution.requires or ():
            match = re.match(r"([A-Za-z0-9._-]+)(?:\[([^]]*)\])?", requirement)
            extra = re.search(r"extra == ['\"]([\w-]+)['\"]", requirement)
            if match is None or (extra is not None and extra[1] not in wanted):
                continue
            other = re.sub(r"[-_.]+", "-", match[1]).lower()
            if other not in found:
                todo.append((other, tuple(filter(None, (match[2] or "").split(",")))))
    return found


def verdict(answers: list[dict[str, Any] | None], packages: dict[str, str]) -> tuple[int, str]:
    """Exit code and text. ``answers``: what pip-audit said of each source of advisories; None: it failed."""
    asked: set[str] = set()
    lines = []
    for answer in answers:
        for package in (answer or {}).get("dependencies", ()):
            if "skip_reason" in package:
                continue
            asked.add(package["name"])
            for each in package["vulns"]:
                fixed = ", ".join(each["fix_versions"]) or "no version"
                lines.append(f"{package['name']} {package['version']}: {each['id']}, repaired in {fixed}")
    if lines:
        return 1, "\n".join(sorted(set(lines)))
    left = sorted(set(packages) - asked)
    if left:
        return (
            NOT_ASKED,
            f"audit: not asked about {', '.join(left)}: no advisories can be reached from this machine",
        )
    return (
        0,
        f"audit: nothing is known against {', '.join(f'{name} {packages[name]}' for name in sorted(packages))}",
    )


def ask(requirements: Path, service: str) -> dict[str, Any] | None:
    command = [sys.executable, "-m", "pip_audit", "-r", str(requirements), "--no-deps", "--disable-pip"]
    command += ["-s", service, "-f", "json", "--progress-spinner", "off", "--timeout", "15"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        return None
    return answer


def main() -> int:
    packages = closure("nativemem", EXTRAS)
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder) / "requirements.txt"
        requirements.write_text("".join(f"{name}=={version}\n" for name, version in packages.items()))
        code, text = verdict([ask(requirements, service) for service in ("pypi", "osv")], packages)
    print(text)
    return code


if __name__ == "__main__":
    sys.exit(main())
