"""Where the package lies, for its modules in whichever room."""

from __future__ import annotations

import os

__all__ = ["PACKAGE"]

#: the package's folder, with a separator at its end: what begins like this is code of ours
PACKAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "")
