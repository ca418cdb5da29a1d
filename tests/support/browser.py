"""A real headless browser for tests of pages: Debian's or any other Chromium, with its requests and messages."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_QUIET = (
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic",
    "--no-first-run", "--disable-gpu", "--no-sandbox",
)  # fmt: skip
_LOCAL = ("localhost", "127.0.0.1", "::1", "")


@dataclass
class Visit:
    """An open page, with what went wrong on it."""

    page: Any  # playwright.sync_api.Page
    errors: list[str] = field(default_factory=list)  # of the console, and exceptions
    outside: list[str] = field(default_factory=list)  # requests to other machines

    def fine(self) -> None:
        """Neither an error on the console nor a request to another machine."""
        assert not self.errors, self.errors
        assert not self.outside, self.outside


@contextmanager
def visit(url: str, *, width: int = 1280, height: int = 900, **options: Any) -> Iterator[Visit]:
    """The page at a URL, in a browser of its own; skipped without one, except on CI, where that is a failure.

    Args:
        url: of a file or of a server on this machine.
        width: of the window in pixels.
        height: of the window in pixels.
        options: of the browser's context, such as `color_scheme="dark"`.
    """
    path = next(filter(None, map(shutil.which, _NAMES)), None)
    if path is None:
        word = "no Chromium on this machine; on Debian: apt-get install chromium"
        if os.environ.get("CI"):
            pytest.fail(word)
        pytest.skip(word)
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as home, sync_playwright() as started:
        browser = started.chromium.launch_persistent_context(
            home, executable_path=path, args=list(_QUIET), viewport={"width": width, "height": height}, **options
        )
        try:
            page = browser.pages[0] if browser.pages else browser.new_page()
            seen = Visit(page)
            page.on("console", lambda said: seen.errors.append(said.text) if said.type == "error" else None)
            page.on("pageerror", lambda error: seen.errors.append(str(error)))
            page.on("request", lambda request: _note(seen, request.url))
            page.goto(url)
            yield seen
        finally:
            browser.close()


def _note(seen: Visit, url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme in ("http", "https", "ws", "wss") and parts.hostname not in _LOCAL:
        seen.outside.append(url)
