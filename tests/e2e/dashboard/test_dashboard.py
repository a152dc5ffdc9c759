"""The dashboard, as whoever keeps a server meets it. The tests follow one app through its life."""

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Locator, Page, expect

from tests.e2e.deploy.conftest import Installation, Project

Open = Callable[..., Page]
APP = "/dashboard/local/greeter"

expect.set_options(timeout=20_000)


@pytest.fixture
def api(installation: Installation) -> Iterator[httpx.Client]:
    """The server."""
    with httpx.Client(base_url=installation.url, trust_env=False, timeout=60) as client:
        yield client


@pytest.fixture
def queue(installation: Installation) -> Iterator[httpx.Client]:
    """The app's queue."""
    with httpx.Client(
        base_url=f"{installation.url}/queue/local/greeter", trust_env=False
    ) as client:
        yield client


def fact(page: Page, title: str) -> Locator:
    """A figure of an app."""
    is_its_title = page.locator("dt").get_by_text(title, exact=True)
    return page.locator("dl > div").filter(has=is_its_title).locator("dd")


def part(page: Page, title: str) -> Locator:
    """A part of an app's page."""
    return page.get_by_role("region", name=title)


def replicas(page: Page) -> Locator:
    return part(page, "Replicas").get_by_role("row").filter(has=page.locator("th[scope=row]"))


def test_the_list_changes_with_what_it_shows(
    open_page: Open, installation: Installation, queue: httpx.Client
) -> None:
    page = open_page("/dashboard")
    app = page.get_by_role("listitem").filter(has_text="local/greeter")
    expect(app).to_contain_text("ready")
    expect(app).to_contain_text("revision 1")
    expect(app).to_contain_text("there is 1")
    expect(fact(page, "Replicas")).to_have_text("1 idle")
    long, behind = (queue.post("", json={"seconds": 60}).json()["cancel_url"] for _ in range(2))
    expect(fact(page, "Running")).to_have_text("1")
    expect(fact(page, "Waiting")).to_have_text("1")
    expect(fact(page, "Replicas")).to_have_text("1 running")
    for url in (behind, long):
        queue.put(url)
    expect(fact(page, "Running")).to_have_text("0")
    expect(fact(page, "Waiting")).to_have_text("0")

    page.get_by_role("link", name="local/greeter", exact=True).click()
    expect(part(page, "Revisions")).to_contain_text("the first")


def test_the_pages_of_an_app_lead_to_each_other(open_page: Open) -> None:
    page = open_page("/")
    page.get_by_role("link", name="Dashboard of local/greeter").click()
    page.get_by_role("link", name="Playground").click()
    expect(page.get_by_label("Seconds", exact=True)).to_be_visible()
    page.get_by_role("link", name="Dashboard").click()
    expect(page.get_by_role("heading", name="greeter")).to_be_visible()
    page.get_by_role("link", name="Dashboard").click()
    expect(page.get_by_role("link", name="local/greeter", exact=True)).to_be_visible()


def test_a_log_goes_on_while_it_is_read(open_page: Open, installation: Installation) -> None:
    page = open_page(APP)
    replicas(page).get_by_role("button", name="Log").click()
    log = page.get_by_role("log", name="Log of")
    expect(log).to_contain_text("setting up one")
    page.get_by_label("Only lines with").fill("no line has this")
    expect(log.get_by_text("setting up one")).to_be_hidden()
    page.get_by_label("Only lines with").fill("")

    [replica] = installation.replicas()
    # What it is told to print comes from the request, so that nothing printed before can be it.
    installation.call(path="/say", seconds=0.125)
    expect(log).to_contain_text("asked for <b>0.125</b>")
    page.get_by_role("button", name=f"Kill {replica['id']}").click()
    page.get_by_role("dialog").get_by_role("button", name="Kill").click()
    expect(page.locator("tr.over")).to_contain_text(replica["id"])
    expect(page.get_by_text("It ends here.")).to_be_visible()
    expect(replicas(page)).to_have_count(2)  # another takes its place
    expect(replicas(page).first).to_contain_text("idle")


def test_requests_are_seen_opened_and_flushed(
    open_page: Open, installation: Installation, queue: httpx.Client
) -> None:
    page = open_page(APP)
    listed = part(page, "Queue").get_by_role("row")
    ids = [queue.post("", json={"seconds": 60}).json()["request_id"] for _ in range(3)]
    waiting = listed.filter(has_text="queued")
    expect(waiting).to_have_count(2)
    page.get_by_role("button", name="Flush queue").click()
    expect(page.get_by_role("dialog")).to_contain_text("2 requests")
    page.get_by_role("dialog").get_by_role("button", name="Flush").click()
    expect(waiting).to_have_count(0)
    page.get_by_role("button", name=f"Cancel {ids[0]}").click()
    expect(listed.filter(has_text=ids[0][:8])).to_contain_text("cancelled")

    done = queue.post("", json={"seconds": 0.25}).json()["request_id"]
    row = listed.filter(has_text=done[:8])
    expect(row).to_contain_text("completed")
    row.get_by_role("link").click()
    expect(page.get_by_role("tabpanel")).to_contain_text("words of one")
    expect(page.get_by_label("Seconds", exact=True)).to_have_value("0.25")


def test_scaling_is_changed_and_given_back(open_page: Open, api: httpx.Client) -> None:
    def scaling() -> Any:
        return api.get("/apps/local/greeter").json()["scaling"]

    page = open_page(APP)
    field = page.get_by_label("Requests at once", exact=True)
    expect(field).to_have_value("1")
    field.fill("none at all")
    page.keyboard.press("Enter")
    expect(part(page, "Scaling").get_by_role("alert")).to_contain_text("max_multiplexing")
    field.fill("4")
    page.get_by_role("button", name="Save").click()
    expect(part(page, "Scaling")).to_contain_text("Set here; the revision says its default.")
    assert scaling() == {"max_multiplexing": 4}
    # Somebody else's change is shown, and what is being typed is left alone.
    page.get_by_label("Kept without work").fill("5")
    api.patch("/apps/local/greeter/scaling", json={"max_multiplexing": 2})
    expect(field).to_have_value("2")
    expect(page.get_by_label("Kept without work")).to_have_value("5")
    page.get_by_role("button", name="Undo").click()
    page.get_by_role("button", name="Back to what the revision says: max_multiplexing").click()
    page.get_by_role("button", name="Save").click()
    expect(field).to_have_value("1")
    assert scaling() == {}


def test_deployments_are_followed_and_taken_back(
    open_page: Open, installation: Installation, project: Project
) -> None:
    page = open_page(APP)
    deployments = part(page, "Deployments")
    project.write("two", "min_concurrency = 1", "max_concurrency = 1")
    deploying = threading.Thread(target=installation.deploy, args=(project,))
    deploying.start()
    entry = deployments.get_by_role("listitem").filter(has_text="Revision 2")
    expect(entry.locator("[aria-current=step]")).to_have_text("starting")
    expect(entry.get_by_role("log")).to_contain_text("setting up two")
    expect(entry.get_by_role("log")).to_contain_text("It serves.")
    deploying.join()
    expect(part(page, "Now")).to_contain_text("revision 2")

    page.get_by_role("button", name="Roll back to revision 1").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Revision 1 (the first) takes the place of revision 2.")
    dialog.get_by_role("button", name="Roll back").click()
    expect(part(page, "Revisions").locator("li.current")).to_contain_text("Revision 1")
    expect(part(page, "Now")).to_contain_text("revision 1")
    assert installation.call()["version"] == "one"


def test_a_deployment_that_fails_says_why(
    open_page: Open, installation: Installation, project: Project
) -> None:
    page = open_page(APP)
    project.write("three", setup='raise RuntimeError("no weights here")')
    assert installation.run("deploy", "app.py", cwd=project.folder).returncode != 0
    entry = part(page, "Deployments").get_by_role("listitem").filter(has_text="Revision 3")
    expect(entry).to_contain_text("failed")
    expect(entry.get_by_role("log")).to_contain_text("no weights here")
    expect(part(page, "Revisions").get_by_role("listitem").first).to_contain_text("failed")
    expect(part(page, "Now")).to_contain_text("ready")


@pytest.mark.parametrize("path", ["/dashboard", APP])
def test_pages_fit_narrow_screens(open_page: Open, path: str) -> None:
    page = open_page(path, viewport={"width": 340, "height": 700})
    expect(page.get_by_text("there is 1")).to_be_visible()
    widths = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert widths[0] <= widths[1]


def test_the_stream_tells_what_has_changed(api: httpx.Client) -> None:
    with api.stream("GET", "/deployed/events?app=local/greeter") as answer:
        events = (json.loads(line[6:]) for line in answer.iter_lines() if line)
        first = next(events)
        [app] = first["apps"]
        assert (app["name"], app["state"], first["gone"]) == ("local/greeter", "ready", [])
        assert [each["number"] for each in first["deployments"]] == [3, 1, 2, 1]
        api.patch("/apps/local/greeter/scaling", json={"keep_alive": 7})
        [app] = next(event["apps"] for event in events if event["apps"])
        assert app["options"]["keep_alive"] == 7
        api.delete("/apps/local/greeter")
        assert next(event["gone"] for event in events if event["gone"]) == ["local/greeter"]


def test_a_page_finds_its_server_again(open_page: Open, installation: Installation) -> None:
    page = open_page("/dashboard")
    expect(page.get_by_text("No app is deployed here yet")).to_be_visible()
    installation.program.end()
    expect(page.get_by_role("status")).to_contain_text("does not answer")
    installation.start_again()
    expect(page.get_by_role("status")).to_be_hidden()
