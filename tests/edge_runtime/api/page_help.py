"""What the tests of the page share: headless Chromium, a visit that records what went wrong, checks of access."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Request

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_MODULES = ("playwright", "axe_playwright_python")
_MISSING = [name for name in _MODULES if importlib.util.find_spec(name) is None] + ([] if CHROMIUM else ["chromium"])
needs_browser = pytest.mark.skipif(bool(_MISSING), reason=f"not installed: {', '.join(_MISSING)}")

_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
Scheme = Literal["light", "dark"]

# Text cut off sideways, in the window or in a part that scrolls.
_TOO_WIDE = """() => [document.documentElement, ...document.querySelectorAll("main, .thread, dialog")]
    .filter(element => element.scrollWidth > element.clientWidth + 1).map(element => element.tagName)"""
# Controls smaller than a fingertip; links within a line of text are exempt, as in WCAG 2.5.8.
_TOO_SMALL = """() => [...document.querySelectorAll("button, a, input, textarea, summary")]
    .filter(element => element.checkVisibility() && !element.matches(".skip, .meta a, p a, .switch input"))
    .map(element => [element, element.getBoundingClientRect()])
    .filter(([, box]) => box.width && (box.width < 39.5 || box.height < 39.5))
    .map(([element, box]) => `${element.textContent || element.ariaLabel}: ${box.width} x ${box.height}`)"""


@dataclass
class Visit:
    """An open page. `problems` collects errors of the console and of scripts, `foreign` requests to anywhere but the
    server."""

    page: Page
    address: str
    problems: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    def open(self, token: str) -> None:
        """Opens the link of `penchant serve` and waits for the chat."""
        self.page.goto(f"{self.address}/#token={token}")
        self.page.get_by_role("textbox", name="Your message").wait_for()

    def go(self, view: str, heading: str) -> None:
        """Follows a link of the side column and waits for its heading."""
        self.page.get_by_role("navigation", name="Views").get_by_role("link", name=view).click()
        self.page.get_by_role("heading", name=heading, level=1).wait_for()

    def say(self, text: str) -> None:
        """Types a message and sends it with Enter."""
        self.page.get_by_role("textbox", name="Your message").fill(text)
        self.page.keyboard.press("Enter")

    def too_wide(self) -> list[str]:
        """What can be scrolled sideways."""
        return [f"too wide: {tag}" for tag in self.page.evaluate(_TOO_WIDE)]

    def barriers(self) -> list[str]:
        """What hinders people here: violations of axe-core's rules, sideways scrolling, small targets on a phone."""
        from axe_playwright_python.sync_playwright import Axe

        found = [f"{one['id']}: {one['nodes'][0]['html']}" for one in Axe().run(self.page).response["violations"]]
        found += self.too_wide()
        if cast("dict[str, int]", self.page.viewport_size)["width"] < 500:
            found += [f"too small: {control}" for control in self.page.evaluate(_TOO_SMALL)]
        return found


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Headless Chromium with an empty profile of its own."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def visiting(
    browser: Browser, address: str, *, width: int = 1440, height: int = 900, scheme: Scheme = "light"
) -> Iterator[Visit]:
    """A page that has not gone anywhere yet. Leaving fails if it reached for another origin."""
    phone = width < 500
    options: dict[str, Any] = {"is_mobile": phone, "has_touch": phone, "color_scheme": scheme}
    context = browser.new_context(viewport={"width": width, "height": height}, reduced_motion="reduce", **options)
    try:
        page = context.new_page()
        page.set_default_timeout(10_000)
        visit = Visit(page, address)

        def note_request(request: Request) -> None:
            if urlsplit(request.url).netloc != urlsplit(address).netloc:
                visit.foreign.append(request.url)

        page.on("request", note_request)
        page.on("pageerror", lambda error: visit.problems.append(str(error)))
        page.on("console", lambda line: visit.problems.append(line.text) if line.type == "error" else None)
        yield visit
        assert visit.foreign == []
    finally:
        context.close()
