"""Pages of other origins that call the server, in a browser that holds them to the rules."""

import contextlib
import http.server
import threading
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Error, Page

# As @fal-ai/client calls from a page.
CALL = """
async ([url, body]) => {
  const answer = await fetch(url, {
    method: body ? "POST" : "GET",
    mode: "cors",
    headers: {
      "Authorization": "Key id:secret",
      "Accept": "application/json",
      "Content-Type": "application/json",
      "x-fal-queue-priority": "normal",
      "x-fal-request-timeout": "30",
    },
    body: body && JSON.stringify(body),
  });
  const id = answer.headers.get("x-fal-request-id");
  return { status: answer.status, id, body: await answer.json() };
}
"""


class EmptyPage(http.server.BaseHTTPRequestHandler):
    """The page of a program on this machine."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html>")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def neighbour() -> Iterator[str]:
    """Another origin of this machine."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), EmptyPage) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://localhost:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context()
    with contextlib.suppress(Error):  # newer browsers ask before a page may call this machine
        context.grant_permissions(["local-network-access"])
    yield context.new_page()
    context.close()


def test_a_page_of_this_machine_calls_and_reads(page: Page, neighbour: str, site: str) -> None:
    page.goto(neighbour)
    submitted = page.evaluate(CALL, [f"{site}/queue/local/playground-app", {"prompt": "sea"}])
    assert submitted["status"] == 200
    assert submitted["id"] == submitted["body"]["request_id"]
    page.evaluate(CALL.replace('"GET"', '"PUT"'), [submitted["body"]["cancel_url"], None])
    missing = page.evaluate(CALL, [f"{site}/run/local/nothing", {}])
    assert (missing["status"], missing["body"]["error_type"]) == (404, "app_not_found")


def test_a_page_from_elsewhere_learns_why_it_may_not(page: Page, site: str) -> None:
    elsewhere = "https://elsewhere.example"
    page.route(
        f"{elsewhere}/**",
        lambda route: route.fulfill(body="<!doctype html>", content_type="text/html"),
    )
    page.goto(elsewhere)
    refused = page.evaluate(CALL, [f"{site}/queue/local/playground-app", {"prompt": "sea"}])
    assert (refused["status"], refused["body"]["error_type"]) == (403, "forbidden")
    assert elsewhere in refused["body"]["detail"]
