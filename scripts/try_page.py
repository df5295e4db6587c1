"""Does what a page says, and compares what comes out: `python scripts/try_page.py docs/tutorial.md`.

A page's programs and commands run in an empty folder, one after the other, with the Python that runs this script
first on the path. Of a page are run:

* a block of code after a line that ends in `` `name.py`: `` is written into that file, of whatever language it is;
* a block ``console``: each line after ``$ `` is a command, and what follows it is what it prints, both streams
  together. ``...`` stands for anything. A command that ends in ``&`` goes on in the background until the page ends.
  An exit code other than 0 is the last line, as ``(exit code 3)``;
* blocks ``ipython`` are the cells of one notebook; a block ``text`` right after one is what the cell shows.

A block ``python`` or ``c`` that has no file is a mistake, as nothing would run it; blocks ``sh`` are for readers
alone. PORT in the environment of the commands is a free port. It takes the standard library alone, and IPython for
cells. Exit code 1 where something else came out.
"""

from __future__ import annotations

import argparse
import doctest
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"`([\w./-]+\.\w+)`:\s*$")
_LIMIT = 120  # seconds for a command

_CELLS = """\
import json, sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance(colors="NoColor")
for cell in json.load(sys.stdin):
    shell.run_cell(cell, store_history=False)
    sys.stdout.flush()
    print("\\0", end="", flush=True)
"""


@dataclass(frozen=True)
class Step:
    """What a page wants done: a ``file`` to write, a ``command``, or a ``cell``; ``text`` is the content, or what
    is to come out (None: whatever)."""

    kind: str
    what: str
    text: str | None
    line: int


def steps(page: Path) -> Iterator[Step]:
    """What ``page`` does, in its order. Raises ValueError for code that nothing would run."""
    text = page.read_text(encoding="utf-8")
    blocks = list(_FENCE.finditer(text))
    for i, block in enumerate(blocks):
        language, body, line = block[1], block[2], text.count("\n", 0, block.start()) + 1
        name = _FILE.search(text[: block.start()])
        if name:
            yield Step("file", name[1], body, line)
        elif language == "console":
            for command, shown in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", body, re.MULTILINE):
                yield Step("command", command, shown, line)
        elif language == "ipython":
            after = blocks[i + 1] if i + 1 < len(blocks) else None
            is_shown = after is not None and after[1] == "text" and not text[block.end() : after.start()].strip()
            yield Step("cell", body, after[2] if after is not None and is_shown else None, line)
        elif language in ("python", "c"):
            raise ValueError(f"{page}:{line}: a block of {language} without a file's name in front of it")


class Trial:
    """One page in one folder."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.environment = {name: value for name, value in environment.items() if not name.startswith("NATIVEMEM_")}
        self.environment |= {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', os.defpath)}",
            "PORT": str(port),
            "PYTHONUNBUFFERED": "1",
            "COLUMNS": "100",
            "HOME": str(folder),
        }
        self.background: list[subprocess.Popen[bytes]] = []

    def run(self, page: Path) -> list[str]:
        """What came out otherwise than the page says, a text for each step."""
        todo = list(steps(page))
        try:
            wrong = [self._one(step) for step in todo if step.kind != "cell"]
            wrong += self._notebook([step for step in todo if step.kind == "cell"])
        finally:
            for process in self.background:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return [f"{page}:{each}" for each in wrong if each]

    def _one(self, step: Step) -> str:
        if step.kind == "file":
            path = self.folder / step.what
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(step.text or "", encoding="utf-8")
            return ""
        if step.what.rstrip().endswith("&"):
            self.background.append(self._start(step.what.rstrip()[:-1], subprocess.DEVNULL))
            return ""
        process = self._start(step.what, subprocess.PIPE)
        try:
            output = process.communicate(timeout=_LIMIT)[0].decode(errors="replace")
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return f"{step.line}: $ {step.what}\nhad not ended after {_LIMIT} seconds"
        if process.returncode:
            output += f"(exit code {process.returncode})\n"
        return _difference(step, f"$ {step.what}", output)

    def _start(self, command: str, output: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["sh", "-c", command],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def _notebook(self, cells: list[Step]) -> list[str]:
        if not cells:
            return []
        done = subprocess.run(
            [sys.executable, "-c", _CELLS],
            cwd=self.folder,
            env=self.environment,
            input=json.dumps([cell.what for cell in cells]),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_LIMIT,
            check=False,
        )
        shown = done.stdout.split("\0")
        if len(shown) != len(cells) + 1:
            return [f"{cells[0].line}: the notebook ended early\n{done.stdout}"]
        return [_difference(cell, cell.what.strip(), output) for cell, output in zip(cells, shown, strict=False)]


def _difference(step: Step, what: str, output: str) -> str:
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    if step.text is None or doctest.OutputChecker().check_output(step.text, output, flags):
        return ""
    return f"{step.line}: {what}\nis to print\n{step.text}but printed\n{output}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", type=Path, nargs="+")
    failed = False
    for page in parser.parse_args().pages:
        with tempfile.TemporaryDirectory() as folder:
            wrong = Trial(Path(folder), dict(os.environ)).run(page)
        print(*wrong, f"{page}: {'not so' if wrong else 'as it says'}", sep="\n")
        failed = failed or bool(wrong)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
