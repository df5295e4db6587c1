"""Says in one line which Debian packages are missing to build the C core with this Python.

Exit code 0: everything is there; 1: something is missing. Runs on any Python 3.
"""

import importlib.util
import os
import shlex
import shutil
import sys
import sysconfig


def missing():
    """Returns (what, Debian package) for each prerequisite that is not there."""
    # Debian has one package per minor version; its plain names belong to the default one
    default = os.path.realpath("/usr/bin/python3")
    version = "python%d.%d" % sys.version_info[:2]
    stem = "python3" if os.path.realpath(sys.executable) == default else version
    found = []
    if sys.version_info < (3, 10):
        found.append(("Python 3.10 or later", "python3"))
    # Debian splits ensurepip off; without it `python3 -m venv` stops half-way
    if not all(importlib.util.find_spec(name) for name in ("venv", "ensurepip")):
        found.append(("the venv module", stem + "-venv"))
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
    if shutil.which(compiler) is None:
        found.append(("a C compiler (%s)" % compiler, "gcc"))
    # the compiler comes without the C library's headers when recommended packages are left out
    if not os.path.exists("/usr/include/stdio.h") and sys.platform.startswith("linux"):
        found.append(("the C library's headers", "libc6-dev"))
    if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
        found.append(("Python.h", stem + "-dev"))
    return found


if __name__ == "__main__":
    gaps = missing()
    if gaps:
        what = ", ".join(name for name, _ in gaps)
        packages = " ".join(package for _, package in gaps)
        sys.exit("missing: %s; on Debian or Ubuntu: apt-get install %s" % (what, packages))
