"""The dashboard of a server that needs a key."""

import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, expect

from tests.e2e.deploy.conftest import Installation


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Installation]:
    installation = Installation(tmp_path / "data", POLYRANK_AUTH="always")
    yield installation
    installation.program.end(signal.SIGINT)


def test_a_page_asks_for_a_key_that_may_see_it(browser: Browser, guarded: Installation) -> None:
    for path in ("/deployed/events", "/deployments", "/deployed"):
        assert httpx.get(guarded.url + path, trust_env=False).status_code == 401
    keys = {
        "API": guarded.json("keys", "create", "--scope", "API")["key"],
        "ADMIN": guarded.program.wait_for(r"an admin key, shown this once: (\S+)")[1],
    }
    told = {
        scope: httpx.get(
            f"{guarded.url}/apps", headers={"authorization": f"Key {key}"}, trust_env=False
        ).json()["dashboard"]
        for scope, key in keys.items()
    }
    assert told == {"API": None, "ADMIN": "/dashboard"}

    page = browser.new_context().new_page()
    page.goto(f"{guarded.url}/dashboard")
    for key in ("wrong:key", keys["API"]):
        expect(page.get_by_role("dialog")).to_be_visible()
        page.get_by_label("Key", exact=True).fill(key)
        page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("lacks the scope ADMIN")
    page.get_by_label("Key", exact=True).fill(keys["ADMIN"])
    page.keyboard.press("Enter")
    expect(page.get_by_text("No app is deployed here yet")).to_be_visible()
    expect(page.get_by_role("dialog")).to_be_hidden()
    page.context.close()
