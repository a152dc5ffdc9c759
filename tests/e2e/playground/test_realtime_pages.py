"""Realtime endpoints and plain websockets in the playground."""

import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Locator, Page, expect
from polyrank_program import ROOT, Program


@pytest.fixture(scope="module")
def realtime_site() -> Iterator[str]:
    program = Program(
        "run", str(ROOT / "tests" / "programs" / "realtime_page_app.py"), "--port", "0"
    )
    yield program.address().split("/run/")[0]
    assert program.end() == 0


@pytest.fixture
def open_endpoint(browser: Browser, realtime_site: str) -> Iterator[Callable[[str], Page]]:
    context = browser.new_context()
    context.set_default_timeout(20_000)

    def open(path: str) -> Page:
        page = context.new_page()
        page.goto(f"{realtime_site}/playground/local/realtime-page-app")
        page.get_by_label("Endpoint").select_option(path)
        return page

    yield open
    context.close()


def status(page: Page) -> Locator:
    return page.get_by_role("status").locator("strong")


def test_each_change_is_sent_and_each_picture_shown(open_endpoint) -> None:
    page = open_endpoint("/paint")
    page.get_by_role("button", name="Connect", exact=True).click()
    preview = page.get_by_role("img", name="Preview")
    expect(preview).to_have_js_property("naturalWidth", 121)
    page.get_by_label("Red", exact=True).fill("200")
    expect(preview).to_have_js_property("naturalWidth", 201)

    page.get_by_label("Red", exact=True).fill("300")
    red = page.get_by_label("Red", exact=True)
    expect(red).to_have_accessible_description(re.compile("less than or equal to 255"))
    expect(status(page)).to_have_text("Connected")
    red.fill("10")
    expect(preview).to_have_js_property("naturalWidth", 11)
    expect(red).not_to_have_attribute("aria-invalid", "true")

    page.get_by_role("button", name="Disconnect", exact=True).click()
    expect(status(page)).to_have_text("Completed")
    expect(page.get_by_role("tabpanel")).to_contain_text("grüße")
    expect(page.get_by_role("button", name="Connect", exact=True)).to_be_enabled()


def test_a_change_while_connecting_is_what_is_sent(open_endpoint) -> None:
    page = open_endpoint("/paint")
    words = page.evaluate(
        """async () => {
            const { Session } = await import("/static/session.js");
            const endpoint = { path: "/paint", kind: "realtime", mode: "unary" };
            const session = new Session("local/realtime-page-app", endpoint, { words: "early" });
            const first = new Promise((resolve) => {
                session.addEventListener("change", () => session.result && resolve(session.result));
            });
            session.start();
            session.send({ words: "late" });
            const { words } = await first;
            session.cancel();
            return words;
        }"""
    )
    assert words == "late"


def test_many_inputs_are_sent_by_hand_and_ended(open_endpoint) -> None:
    page = open_endpoint("/sum")
    page.get_by_role("button", name="Connect", exact=True).click()
    expect(status(page)).to_have_text("Connected")
    page.get_by_label("Red", exact=True).fill("30")
    page.get_by_role("button", name="Send", exact=True).click()
    page.get_by_role("button", name="Finish").click()
    expect(status(page)).to_have_text("Completed")
    expect(page.get_by_role("tabpanel")).to_contain_text("150")


def test_a_plain_websocket_is_a_conversation(open_endpoint) -> None:
    page = open_endpoint("/chat")
    page.get_by_label("Message").fill("hello")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("tabpanel")).to_contain_text("HELLO")
    page.get_by_label("Message").fill("again")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("tabpanel")).to_contain_text("AGAIN")
    page.keyboard.press("Escape")
    expect(status(page)).to_have_text("Completed")


def test_what_is_packed_is_what_was_meant(open_endpoint) -> None:
    page = open_endpoint("/chat")
    values = [
        None, True, 0, 127, 128, 255, 65536, -1, -32, -33, -(2**31), 2**40, -(2**40), 1.5, 1e300,
        "", "é海🙂", "x" * 40, "x" * 300, "x" * 70000, [], list(range(20)), {"a": {"b": [1, {}]}},
        {str(n): n for n in range(20)},
    ]  # fmt: skip
    again = page.evaluate(
        """async (values) => {
            const { decode, encode } = await import("/static/msgpack.js");
            return values.map((value) => decode(encode(value)));
        }""",
        values,
    )
    assert again == values
