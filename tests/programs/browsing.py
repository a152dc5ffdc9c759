"""A headless browser, and pages in it that must not fail, nor ask other machines."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator

import chromium
import pytest
from playwright.sync_api import Browser, Page, Request, sync_playwright

# On a new profile, and without anything that asks other machines.
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
).split()
LIMIT_MS = 20_000


@contextlib.contextmanager
def launched() -> Iterator[Browser]:
    """A browser; without one, the test is skipped."""
    found = chromium.find()
    if found is None:
        pytest.skip(
            "NO CHROMIUM: the web pages are NOT tested. "
            f"Run: {sys.executable} tests/programs/chromium.py .tools/chromium"
        )
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(
            executable_path=found.path, args=FLAGS, env={**os.environ, **found.environment}
        )


@contextlib.contextmanager
def visiting(browser: Browser, site: str) -> Iterator[Callable[..., Page]]:
    """Opens pages of a site by their paths, each with a storage of its own."""
    faults: list[str] = []

    def note_request(request: Request) -> None:
        if not request.url.startswith((site, "data:", "blob:")):
            faults.append(f"asked for {request.url}")

    def note_console(message: object) -> None:
        text = getattr(message, "text", "")
        if "Content Security Policy" in text or "Uncaught" in text:
            faults.append(text)

    contexts = []

    def open(path: str, **options: object) -> Page:
        context = browser.new_context(**options)  # type: ignore[arg-type]
        contexts.append(context)
        context.set_default_timeout(LIMIT_MS)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", note_console)
        page.on("request", note_request)
        page.goto(site + path)
        return page

    yield open
    for context in contexts:
        context.close()
    assert faults == []
