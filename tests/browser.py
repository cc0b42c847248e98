"""A real browser for tests of pages: the system's Chromium, headless, without a network, with WebGL2 in software."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge")
WEBGL = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
"""The CPU draws, so that it works on machines without a graphics card."""
NO_WEBGL = ("--disable-3d-apis",)


def chromium() -> str:
    """Path of a browser; the test is skipped where there is none."""
    pytest.importorskip("playwright.sync_api", reason="needs playwright (dependency group dev)")
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"needs a browser, one of {', '.join(NAMES)} (Debian: apt-get install chromium)")
    return found


@contextmanager
def browsers() -> Iterator[Callable[..., Any]]:
    """A call that starts a browser of playwright with these arguments; all are closed at the end."""
    path = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Nothing leaves the machine, and containers run tests as root.
        yield lambda *arguments: playwright.chromium.launch(executable_path=path, args=["--no-sandbox", *arguments])


class Tab:
    """A page in a browser without a network, and what went wrong on it.

    Args:
        browser: of `opened`.
        path: HTML file to load.
        fragment: what follows "#" in the address.
    """

    def __init__(self, browser: Any, path: Path, fragment: str = "") -> None:
        self.context = browser.new_context(viewport={"width": 1000, "height": 560}, device_scale_factor=1)
        self.context.set_offline(True)
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.problems: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", lambda message: self.problems.append(message.text) if message.type != "log" else None)
        self.page.goto(path.as_uri() + (f"#{fragment}" if fragment else ""))

    def picture(self, selector: str = "#canvas") -> np.ndarray:
        """(H, W, 3) int: what is seen of an element."""
        png = self.page.locator(selector).screenshot()
        return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)

    def settle(self) -> None:
        """Wait until the viewer shows its case, or says why not, and has been drawn."""
        self.page.wait_for_selector("dialog[open]")
        self.page.wait_for_selector("#where[data-voxel], #canvas[hidden]", state="attached")
        self.draw()

    def draw(self) -> None:
        """Wait for two frames."""
        self.page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
