"""Cells in a real Jupyter kernel."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

__all__ = ["needs_a_kernel", "outputs"]

needs_a_kernel = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("ipykernel", "jupyter_client"))),
    reason="needs ipykernel and jupyter_client",
)

KERNEL = """
import os, sys
from jupyter_client import KernelManager
from jupyter_client.kernelspec import KernelSpec
manager = KernelManager(kernel_name="")
command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
manager._kernel_spec = KernelSpec(argv=command, display_name="")
manager.start_kernel(env=os.environ | ENV, stderr=-3)
client = manager.client()
client.start_channels()
client.wait_for_ready(timeout=300)
def cell(code):
    sent, out = client.execute(code), []
    while True:
        message = client.get_iopub_msg(timeout=300)
        if message["parent_header"].get("msg_id") != sent: continue
        kind, content = message["msg_type"], message["content"]
        if kind == "execute_result": out.append(content["data"]["text/plain"])
        elif kind == "stream": out.append(content["text"].strip())
        elif kind == "display_data":
            out.append(content["data"]["text/plain"])
            assert "<svg" in content["data"]["text/html"]
        elif kind == "error": out.append(content["ename"])
        elif kind == "status" and content["execution_state"] == "idle":
            print("\\n".join(out) + "\\n--")
            return
try:
    for code in CELLS: cell(code)
finally:
    client.stop_channels()
    manager.shutdown_kernel(now=True)
"""


def outputs(*cells: str, **env: str) -> list[str]:
    """What each cell shows: its results, errors' names, and what is displayed; ``env`` is the kernel's."""
    program = f"CELLS, ENV = {list(cells)!r}, {env!r}\n{KERNEL}"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        capture_output=True, text=True, timeout=600, env=os.environ | {"NATIVEMEM_AUTOINSTALL": "0"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split("--\n")[:-1]
