"""REP-2, REP-5: the page in a real browser: Chromium of the system, through Playwright (`make browser`)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nativemem.observe.recording import Recording
from nativemem.observe.report import render

from .recordings import HOSTILE, MIB, example, hostile

pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra: browser)")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium; on Debian: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-background-networking", "--disable-gpu"]
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield launched
        launched.close()


class Opened:
    """A page, and what it said and asked for."""

    def __init__(self, context: Any, file: Path) -> None:
        self.page = context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.said.append(dialog.message), dialog.dismiss()))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(file.as_uri())

    def frames(self) -> dict[str, float]:
        """By the words of each frame, its share of the width."""
        found = self.page.eval_on_selector_all(
            "#graph .frame",
            "all => all.map(e => [e.getAttribute('aria-label').split(': ')[0], parseFloat(e.style.width)])",
        )
        return dict(found)

    def focused(self) -> str:
        label = self.page.evaluate("document.activeElement.getAttribute('aria-label') || ''")
        return str(label).split(":")[0].split(" (")[0]


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Any]:
    contexts = []

    def open_page(recording: Recording, **options: Any) -> Opened:
        file = tmp_path / "report.html"
        file.write_text(str(render(recording, "html")), encoding="utf-8")
        contexts.append(browser.new_context(**options))
        return Opened(contexts[-1], file)

    yield open_page
    for context in contexts:
        context.close()


WINDOWS = [
    pytest.param({"viewport": {"width": width, "height": 800}, "color_scheme": scheme}, id=f"{width}-{scheme}")
    for width in (1280, 360)
    for scheme in ("light", "dark")
]


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("recording", [example(), hostile()], ids=["example", "hostile"])
def test_nothing_is_asked_for_and_nothing_is_wrong(
    opened: Any, recording: Recording, window: dict[str, Any]
) -> None:
    """REP-5: no request but for the file, no message, nothing wider than the window, in any light."""
    it = opened(recording, **window)
    assert [url.partition(":")[0] for url in it.asked if not url.startswith("data:")] == ["file"]
    assert it.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert it.page.evaluate("document.querySelectorAll('#timeline canvas').length") == 1
    assert it.page.evaluate("document.images.length") == 0
    background = it.page.evaluate("getComputedStyle(document.body).backgroundColor")
    dark = sum(map(int, background.strip("rgb()").split(","))) < 200
    assert dark == (window["color_scheme"] == "dark")
    for select in ("1", "-1"):
        it.page.select_option("#owner", select)
    for words in ("x", ""):
        it.page.fill("#search", words)
    it.page.evaluate("matchMedia('(prefers-color-scheme: dark)')")
    assert it.said == []


def test_the_switches(opened: Any) -> None:
    """REP-2: to one owner, and between live, peak and total."""
    it = opened(example())
    inner = "JSONDecoder.raw_decode (json/decoder.py:353)"
    peak = it.frames()
    assert abs(peak[inner] - 100 * 28 / 69) < 0.1 and "load (load.py:12)" in peak
    it.page.check("input[value=live]")
    assert abs(it.frames()[inner] - 100 * 22 / 23) < 0.1
    assert "23.0 MiB live at the end" in it.page.inner_text("#detail")
    it.page.select_option("#owner", label="cache")
    assert it.frames() == {"all": 100, "main (main.py:40)": 100, "load (load.py:12)": 100, inner: 100}
    assert "20.0 MiB live at the end" in it.page.inner_text("#detail")
    owners = it.page.eval_on_selector_all(
        "tr[data-owner]", "all => all.filter(e => !e.hidden).map(e => e.dataset.owner)"
    )
    assert set(owners) == {"cache"}
    it.page.check("input[value=total]")
    assert "80.0 MiB in total" in it.page.inner_text("#detail")
    it.page.select_option("#owner", label="all")
    assert "135.0 MiB in total" in it.page.inner_text("#detail")
    assert it.said == []


def test_zoom_by_click(opened: Any) -> None:
    """REP-2"""
    it = opened(example())
    assert it.page.is_disabled("#whole")
    it.page.click("#graph .frame:has-text('raw_decode')")
    frames = it.frames()
    assert len(frames) == 4 and set(frames.values()) == {100}
    assert it.page.locator("#graph .above").count() == 3 and it.focused() == "JSONDecoder.raw_decode"
    it.page.click("#graph .frame:has-text('main')")
    assert it.frames()["main (main.py:40)"] == 100 and it.page.locator("#graph .above").count() == 1
    it.page.click("#whole")
    assert it.page.is_disabled("#whole") and it.page.locator("#graph .above").count() == 0
    assert it.said == []


def test_the_keyboard_alone(opened: Any) -> None:
    """REP-5: every control is reached with Tab, and the graph is walked with arrows."""
    it = opened(example())
    press = it.page.keyboard.press
    reached = []
    for _ in range(40):
        press("Tab")
        reached.append(it.page.evaluate("document.activeElement.id || document.activeElement.className || ''"))
        if "frame" in reached[-1]:
            break
    assert {"skip", "owner", "timeline", "search"} <= {word for each in reached for word in each.split()}
    assert it.focused() == "all"
    for key, name in {
        "ArrowDown": "main",
        "Enter": "main",
        "Home": "all",
        "End": "all",
        "Escape": "all",
    }.items():
        press(key)
        assert it.focused() == name, key
    walk = [("ArrowDown", "main"), ("ArrowDown", "load"), ("ArrowDown", "JSONDecoder.raw_decode")]
    walk += [("ArrowDown", "JSONDecoder.raw_decode"), ("ArrowUp", "load"), ("ArrowUp", "main")]
    walk += [("ArrowRight", "(no Python code)"), ("ArrowLeft", "main"), ("Enter", "main")]
    for key, name in walk[:6]:
        press(key)
        assert it.focused() == name, key
    press("Enter")
    assert it.page.locator("#graph .above").count() == 1
    press("Backspace")
    assert it.page.locator("#graph .above").count() == 0
    it.page.focus("#timeline")
    press("End")
    assert "10.0 s: process 60.0 MiB, cache 31.0 MiB, request 2.0 MiB" in it.page.inner_text("#moment")
    press("ArrowLeft")
    assert it.page.inner_text("#moment").startswith("9.000 s: process 100.0 MiB")
    it.page.focus("#owner")
    press("c")
    assert it.page.input_value("#owner") == "1"
    assert it.said == []


def test_search(opened: Any) -> None:
    """REP-2"""
    it = opened(example())
    it.page.fill("#search", "RAW_decode")
    assert it.page.inner_text("#found") == "1 frame matches, with 28.0 MiB (40.6 %)"
    assert it.page.locator("#graph .hit").count() == 1
    it.page.fill("#search", "srv/app")
    assert "(100.0 %)" in it.page.inner_text("#found"), "a frame below another that matches is counted once"
    it.page.fill("#search", "no such")
    assert it.page.inner_text("#found").startswith("0 frames match")
    assert it.said == []


def test_lines_can_be_left_out(opened: Any) -> None:
    """REP-2"""
    it = opened(example())
    shown = "document.querySelectorAll('#lines input:checked').length"
    assert it.page.evaluate(shown) == 3
    it.page.uncheck("#lines label:has-text('request') input")
    it.page.focus("#timeline")
    it.page.keyboard.press("End")
    assert "request" not in it.page.inner_text("#moment") and it.page.evaluate(shown) == 2
    assert it.said == []


def test_names_do_nothing(opened: Any) -> None:
    """REP-5"""
    it = opened(hostile())
    assert it.page.evaluate("document.scripts.length") == 3
    text = it.page.inner_text("#leaks")
    assert all(name in text for name in HOSTILE[:2])
    it.page.select_option("#owner", label=HOSTILE[0])
    assert it.page.locator("#leaks tbody tr:visible").count() == 1
    assert len(it.frames()) == 3 and it.said == []
    assert f"{MIB // MIB}.0 MiB" in it.page.inner_text("#detail")
