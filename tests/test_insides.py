"""The self-test of what the core reads of the interpreter's insides: it passes wherever `install` may be called
from, nothing sees it, and where it fails the engine is declined."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from test_scopes import native

#: ways to call `install`, each of which has to end with the engine on
PLACES = {
    "module": "install()",
    "generator": "list(f() for f in [install])",
    "coroutine": "async def main(): install()\nasyncio.run(main())",
    "handler": "try: raise MemoryError\nexcept MemoryError: install()",
    "handlers": """
try:
    try: raise MemoryError
    except MemoryError: raise KeyError
except KeyError: install()
""",
    "finally": "try:\n    try: raise KeyError\n    finally: install()\nexcept KeyError: pass",
    "with": "with threading.Lock(): install()",
    "thread": "thread = threading.Thread(target=install)\nthread.start(); thread.join()",
    "finalizer": "class Last:\n    def __del__(self): install()\nLast()",
    "context": "import contextvars\ncontextvars.Context().run(install)",
    "callback": "sorted([2, 1], key=lambda x: install() and x)",
    "tracer": "sys.settrace(seen)\ninstall()\nsys.settrace(None)",
    "profiler": "sys.setprofile(seen)\ninstall()\nsys.setprofile(None)",
    "compiled before": "import compileall, dis\nfor _ in range(3000): compile('1', '', 'eval')\ninstall()",
}
if sys.version_info >= (3, 12):
    PLACES["monitor"] = """
events = sys.monitoring.events
without = "C_RAISE", "C_RETURN", "NO_EVENTS"
every = [getattr(events, name) for name in dir(events) if name.isupper() and name not in without]
sys.monitoring.use_tool_id(3, "every event")
for event in every: sys.monitoring.register_callback(3, event, lambda code, *rest: found(code))
sys.monitoring.set_events(3, sum({*every}))
install()
sys.monitoring.set_events(3, 0)
"""


def output(code: str) -> list[str]:
    program = textwrap.dedent("import asyncio, sys, threading, nativemem") + textwrap.dedent(code)
    command = [sys.executable, "-W", "error", "-c", program]
    env = {name: value for name, value in os.environ.items() if not name.startswith("NATIVEMEM_")}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@native
@pytest.mark.parametrize("place", PLACES)
def test_it_passes_wherever_it_runs(place: str) -> None:
    """PYV-1: and code that watches does not see it."""
    assert output(
        f"""
from nativemem.backends.native.loader import dataplane
found_codes = set()
def found(code): found_codes.add(code.co_filename)
def seen(frame, *rest):
    found(frame.f_code)
    return seen
def install():
    assert dataplane.insides_check() is None, dataplane.insides_check()
    return nativemem.install()
{PLACES[place]}
print(bool(nativemem.installed()), "<nativemem>" in found_codes)
"""
    ) == ["True False"]


@native
def test_what_is_elsewhere_is_declined() -> None:
    """PYV-1: with its name, before anything is switched on; the program goes on."""
    assert output(
        """
from nativemem.backends.native.loader import dataplane
dataplane.insides_check = lambda: "the frame that runs"
for call in (nativemem.install, lambda: nativemem.install(objects=False)):
    try: call()
    except nativemem.NativeUnavailable as error:
        text = str(error)
        print(text.startswith("Python 3"), "not keep the frame that runs where" in text, error.suggestion != "")
print(bool(nativemem.installed()), nativemem.Heap().alloc(10).size)
"""
    ) == ["True True True", "True True True", "False 10"]
