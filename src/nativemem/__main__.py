"""``python -m nativemem``."""

import os
import sys

# What this command imports is not to come from the folder that the program may be in. That has a path of its own.
try:
    if sys.path[:1] == [os.getcwd()]:
        del sys.path[0]
except OSError:  # there is no such folder any more
    pass

from .commands.cli import main

sys.exit(main())
