"""The pages of a server that needs a key."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, expect
from polyrank_program import POLYRANK, ROOT, Program

APP = ROOT / "tests" / "programs" / "playground_app.py"


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """The address of a server that needs a key, and a key."""
    environment = {"POLYRANK_DATA_DIR": str(tmp_path), "POLYRANK_AUTH": "always"}
    made = subprocess.run(
        [*POLYRANK, "keys", "create", "--json", "--scope", "ADMIN"],
        env={**os.environ, **environment},
        capture_output=True,
        check=True,
        timeout=60,
    )
    program = Program("run", str(APP), "--port", "0", **environment)
    yield program.address().split("/run/")[0], json.loads(made.stdout)["key"]
    assert program.end() == 0


def test_a_page_asks_for_the_key_and_then_works(browser: Browser, guarded: tuple[str, str]) -> None:
    address, key = guarded
    assert httpx.get(f"{address}/apps").status_code == 401
    page = browser.new_context().new_page()
    page.goto(f"{address}/playground/local/playground-app")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.get_by_label("Key", exact=True).fill("wrong:key")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.get_by_label("Key", exact=True).fill(key)
    page.keyboard.press("Enter")
    page.get_by_label("Prompt").first.fill("sea")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("status").locator("strong")).to_have_text("Completed")
    expect(page.get_by_role("tabpanel").get_by_role("img")).to_be_visible()
    page.get_by_role("link", name="polyrank").click()
    expect(page.get_by_role("link", name="local/playground-app")).to_contain_text("ready")
    page.context.close()
