"""A browser in front of a real server, with an app behind it that has every kind of input."""

import os
import sys
from collections.abc import Callable, Iterator

import chromium
import httpx
import pytest
from playwright.sync_api import Browser, Page, Request, sync_playwright
from polyrank_program import ROOT, Program

APP = ROOT / "tests" / "programs" / "playground_app.py"
# On a new profile, and without anything that asks other machines.
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
).split()
LIMIT_MS = 20_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
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


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """The address of a server with the app."""
    program = Program("run", str(APP), "--port", "0")
    yield program.address().split("/run/")[0]
    assert program.end() == 0


@pytest.fixture
def open_page(browser: Browser, site: str) -> Iterator[Callable[..., Page]]:
    """Opens pages, each with a storage of its own, that must not fail, nor ask other machines."""
    faults: list[str] = []

    def note_request(request: Request) -> None:
        if not request.url.startswith((site, "data:", "blob:")):
            faults.append(f"asked for {request.url}")

    def note_console(message: object) -> None:
        text = getattr(message, "text", "")
        if "Content Security Policy" in text or "Uncaught" in text:
            faults.append(text)

    contexts = []

    def open(path: str = "/playground/local/playground-app", **options: object) -> Page:
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
    cancel_all(site)
    assert faults == []


def cancel_all(site: str) -> None:
    """What a test left running would hold up the next one."""
    with httpx.Client(base_url=f"{site}/queue/local/playground-app") as client:
        for state in ("queued", "running"):
            for request in client.get(f"/requests?state={state}").json()["requests"]:
                client.put(request["cancel_url"])
