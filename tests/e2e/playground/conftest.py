"""A browser in front of a real server, with an app behind it that has every kind of input."""

from collections.abc import Callable, Iterator

import httpx
import pytest
from browsing import launched, visiting
from playwright.sync_api import Browser, Page
from polyrank_program import ROOT, Program

APP = ROOT / "tests" / "programs" / "playground_app.py"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """The address of a server with the app."""
    program = Program("run", str(APP), "--port", "0")
    yield program.address().split("/run/")[0]
    assert program.end() == 0


@pytest.fixture
def open_page(browser: Browser, site: str) -> Iterator[Callable[..., Page]]:
    """Opens pages that must not fail, nor ask other machines."""
    with visiting(browser, site) as open:
        yield lambda path="/playground/local/playground-app", **options: open(path, **options)
        cancel_all(site)


def cancel_all(site: str) -> None:
    """What a test left running would hold up the next one."""
    with httpx.Client(base_url=f"{site}/queue/local/playground-app") as client:
        for state in ("queued", "running"):
            for request in client.get(f"/requests?state={state}").json()["requests"]:
                client.put(request["cancel_url"])
