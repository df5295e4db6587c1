"""Makes a folder on the path count as one that packages are installed in: its .pth files are read."""

import site
from pathlib import Path

site.addsitedir(str(Path(__file__).resolve().parent))
