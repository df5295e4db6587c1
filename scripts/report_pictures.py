"""The pictures of docs/report.md: the page of a run of examples/service, in Chromium, through Playwright.

    python scripts/report_pictures.py [--recording FILE]

Needs the extra `browser`, pillow, and Debian's chromium.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]
SERVICE = ROOT / "examples" / "service"
IMAGES = ROOT / "docs" / "images"
WIDTH = 1000


def record(file: Path) -> None:
    """A profile of the service while one of its tenants asks for too much."""
    spec = importlib.util.spec_from_file_location("load_test", SERVICE / "__main__.py")
    assert spec is not None and spec.loader is not None
    service: Any = importlib.util.module_from_spec(spec)
    sys.modules["load_test"] = service
    spec.loader.exec_module(service)
    command = [sys.executable, "-m", "nativemem", "run", "--profile=4KiB", "-o", str(file)]
    command += ["examples/service/server.py", "--limit", str(service.LIMIT)]
    for tenant in (*service.OTHERS, service.GREEDY):
        command += ["--tenant", tenant]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as server:
        assert server.stdout is not None
        try:
            port = int(server.stdout.readline())
            asyncio.run(service.load(port, service.TIMES, 12))
        finally:
            server.terminate()


def take(page_file: Path) -> None:
    """Two parts of the page, with few colours: small files."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 900}, color_scheme="light")
        page.goto(page_file.as_uri())
        for name, part in (("timeline", "#time"), ("paths", "#paths")):
            target = IMAGES / f"report-{name}.png"
            page.locator(part).screenshot(path=target)
            image = Image.open(target).convert("RGB")
            image = image.crop((0, 0, image.width, min(image.height, 470)))
            image.quantize(48).save(target, optimize=True)
            print(f"{target.relative_to(ROOT)}: {target.stat().st_size} bytes")
        browser.close()


def main() -> None:
    """Makes the recording, unless one is given, and the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recording", type=Path, help="of another run")
    options = parser.parse_args()
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        recording = options.recording or Path(folder) / "service.nm"
        if options.recording is None:
            record(recording)
        page_file = Path(folder) / "report.html"
        subprocess.run([sys.executable, "-m", "nativemem", "report", recording, "-o", page_file], check=True)
        take(page_file)


if __name__ == "__main__":
    main()
