"""The web pages, as a person with a browser meets them."""

import base64
import io
import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect
from polyrank_program import ROOT, Program

Open = Callable[..., Page]

expect.set_options(timeout=20_000)


def picture(width: int = 40) -> bytes:
    raw = io.BytesIO()
    Image.new("RGB", (width, 30), (200, 120, 40)).save(raw, "png")
    return raw.getvalue()


def run(page: Page) -> None:
    page.keyboard.press("Control+Enter")


def status(page: Page) -> Locator:
    return page.get_by_role("status").locator("strong")


def result(page: Page) -> Any:
    """The result that the page shows, as its button copies it."""
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("tab", name="JSON").click()
    page.get_by_role("tabpanel").get_by_role("button", name="Copy").click()
    value = json.loads(page.evaluate("navigator.clipboard.readText()"))
    page.get_by_role("tab", name="Result").click()
    return value


def choose(page: Page, path: str) -> None:
    page.get_by_label("Endpoint").select_option(path)


def count(page: Page, number: int, seconds: float, path: str = "/work") -> None:
    choose(page, path)
    page.get_by_label("Number", exact=True).fill(str(number))
    page.get_by_label("Seconds", exact=True).fill(str(seconds))


def test_the_first_page_lists_the_apps_and_leads_to_each(open_page: Open) -> None:
    page = open_page("/")
    card = page.get_by_role("link", name="local/playground-app")
    expect(card).to_contain_text("ready")
    expect(card).to_contain_text("/stream")
    card.click()
    expect(page.get_by_role("heading", name="playground-app")).to_be_visible()
    expect(page.get_by_label("Prompt", exact=False).first).to_be_visible()


SLOW = """
import pathlib, time
import polyrank

class Slow(polyrank.App):
    def setup(self) -> None:
        while not pathlib.Path({path!r}).exists():
            time.sleep(0.02)

    @polyrank.endpoint("/")
    async def greet(self) -> str:
        return "hello"
"""


def test_an_app_that_starts_says_so_until_it_is_ready(browser: Browser, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    (tmp_path / "app.py").write_text(SLOW.format(path=str(tmp_path / "go")))
    program = Program("run", str(tmp_path / "app.py"), "--port", port)
    with httpx.Client(
        base_url=f"http://127.0.0.1:{port}", transport=httpx.HTTPTransport(retries=9)
    ) as client:
        assert client.get("/apps", timeout=30).json()["apps"][0]["state"] == "starting replica"
    context = browser.new_context()
    first, second = context.new_page(), context.new_page()
    first.goto(f"http://127.0.0.1:{port}/")
    expect(first.get_by_role("link", name="local/slow")).to_contain_text("starting replica")
    second.goto(f"http://127.0.0.1:{port}/playground/local/slow")
    expect(second.get_by_text("local/slow: starting replica")).to_be_visible()
    (tmp_path / "go").touch()
    expect(first.get_by_role("link", name="local/slow")).to_contain_text("ready")
    second.get_by_role("button", name="Run", exact=True).click()
    expect(second.get_by_role("tabpanel")).to_contain_text("hello")
    context.close()
    assert program.end() == 0


def test_every_kind_of_field_has_an_input_that_is_sent(open_page: Open) -> None:
    page = open_page()
    expect(page.get_by_label("Prompt").first).to_have_attribute(
        "placeholder", "a lighthouse at dusk"
    )
    page.get_by_label("Prompt").first.fill("first line\nsecond line")
    page.get_by_text("custom").click()
    page.get_by_label("Width").first.fill("800")
    page.get_by_label("Height").first.fill("600")
    page.get_by_label("Steps", exact=True).fill("7")
    page.get_by_label("Strength, slider").fill("0.25")
    page.get_by_text("pastel").click()
    page.get_by_label("Sharpen").check()
    page.get_by_text("More settings").click()
    page.get_by_label("Seed", exact=True).fill("9")
    page.get_by_label("Negative prompt").fill("rain")
    add_tag = page.get_by_role("button", name="Add to Tags")
    for tag in ("sea", "night", "fog"):
        add_tag.click()
        page.keyboard.type(tag)  # the new one has the focus
    page.get_by_role("button", name="Remove Tags 2").click()
    page.get_by_label("Give Border").check()
    page.get_by_text("gold").click()
    page.get_by_label("Kind of Shape").select_option("box")
    shape = page.get_by_role("group", name="Shape")
    shape.get_by_label("Height", exact=True).fill("55")
    page.get_by_label("Kind of Mood").select_option("number")
    page.get_by_role("group", name="Mood").get_by_role("spinbutton").fill("1.5")
    page.get_by_role("button", name="Add to Weights").click()
    page.keyboard.type("sky")
    page.get_by_label("Weights 1, value").fill("0.5")
    run(page)
    expect(status(page)).to_have_text("Completed")
    assert result(page)["asked"] == {
        "prompt": "first line\nsecond line",
        "image_size": {"width": 800, "height": 600},
        "steps": 7,
        "strength": 0.25,
        "style": "pastel",
        "sharpen": True,
        "seed": 9,
        "negative_prompt": "rain",
        "tags": ["sea", "fog"],
        "border": {"width": 4, "colour": "gold"},
        "shape": {"kind": "box", "width": 40, "height": 55},
        "mood": 1.5,
        "weights": {"sky": 0.5},
    }


def test_what_is_left_alone_has_the_apps_defaults_and_is_not_sent_empty(open_page: Open) -> None:
    page = open_page()
    page.get_by_label("Prompt").first.fill("sea")
    with page.expect_request(re.compile("/queue/local/playground-app$")) as sent:
        run(page)
    assert sent.value.post_data_json == {
        "prompt": "sea",
        "image_size": "square",
        "steps": 4,
        "strength": 0.5,
        "style": "oil",
        "sharpen": False,
    }
    expect(status(page)).to_have_text("Completed")
    shown = page.get_by_role("tabpanel").get_by_role("img")
    expect(shown).to_have_js_property("naturalWidth", 128)


@pytest.mark.parametrize("way", ["chosen", "dropped", "pasted", "named by its URL"])
def test_a_picture_is_given(open_page: Open, way: str) -> None:
    page = open_page()
    page.get_by_label("Prompt").first.fill("sea")
    zone = page.get_by_role("button", name="Source")
    data = picture()
    if way == "chosen":
        with page.expect_file_chooser() as chooser:
            zone.click()
        chooser.value.set_files({"name": "a.png", "mimeType": "image/png", "buffer": data})
    elif way == "named by its URL":
        page.get_by_role("button", name="Give a URL instead").click()
        page.get_by_label("Source, URL").fill(
            f"data:image/png;base64,{base64.b64encode(data).decode()}"
        )
        page.keyboard.press("Tab")
    else:
        event, holder = {"dropped": ("drop", "dataTransfer"), "pasted": ("paste", "clipboardData")}[
            way
        ]
        zone.evaluate(
            """(zone, [event, holder, data]) => {
                const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
                const items = new DataTransfer();
                items.items.add(new File([bytes], "a.png", { type: "image/png" }));
                const options = { bubbles: true, cancelable: true, [holder]: items };
                const made = { drop: DragEvent, paste: ClipboardEvent }[event];
                zone.dispatchEvent(new made(event, options));
            }""",
            [event, holder, base64.b64encode(data).decode()],
        )
    expect(zone.locator("img")).to_have_js_property("naturalWidth", 40)
    run(page)
    expect(status(page)).to_have_text("Completed")
    assert result(page)["asked"]["source_bytes"] == len(data)


def test_a_file_of_another_kind_is_refused_at_its_field(open_page: Open) -> None:
    page = open_page()
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Source").click()
    chooser.value.set_files({"name": "a.txt", "mimeType": "text/plain", "buffer": b"words"})
    expect(page.get_by_text("a.txt is text/plain; image is asked for")).to_be_visible()


def test_any_file_is_uploaded(open_page: Open) -> None:
    page = open_page()
    choose(page, "/measure")
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="File").click()
    data = bytes(range(256)) * 1000
    chooser.value.set_files({"name": "a.bin", "mimeType": "", "buffer": data})
    run(page)
    expect(status(page)).to_have_text("Completed")
    assert result(page) == {"bytes": len(data)}


def test_what_is_wrong_stands_at_its_field(open_page: Open) -> None:
    page = open_page()
    page.get_by_label("Steps", exact=True).fill("99")
    page.get_by_text("More settings").click()
    page.get_by_label("Kind of Shape").select_option("box")
    page.get_by_role("group", name="Shape").get_by_label("Width", exact=True).fill("5000")
    page.get_by_text("More settings").click()  # folded again, with something wrong inside
    run(page)
    expect(status(page)).to_have_text("Failed")
    prompt = page.get_by_label("Prompt").first
    expect(prompt).to_have_attribute("aria-invalid", "true")
    expect(prompt).to_be_focused()
    expect(prompt).to_have_accessible_description(re.compile("Field required"))
    steps = page.get_by_label("Steps", exact=True)
    expect(steps).to_have_accessible_description(re.compile("less than or equal to 50"))
    width = page.get_by_role("group", name="Shape").get_by_label("Width", exact=True)
    expect(width).to_be_visible()
    expect(width).to_have_accessible_description(re.compile("less than or equal to 400"))

    steps.fill("5")
    width.fill("50")
    prompt.fill("forbidden")
    run(page)
    expect(prompt).to_have_accessible_description(re.compile("this is not painted here"))
    expect(steps).not_to_have_attribute("aria-invalid", "true")


def test_an_error_says_what_happened(open_page: Open) -> None:
    page = open_page()
    choose(page, "/fail")
    expect(page.get_by_text("This endpoint takes no input.")).to_be_visible()
    run(page)
    expect(status(page)).to_have_text("Failed")
    expect(page.get_by_role("tabpanel")).to_contain_text("RuntimeError: the brush broke")


def test_a_stream_shows_each_step_and_ends_with_its_result(open_page: Open) -> None:
    page = open_page()
    count(page, 30, 0.1, "/stream")
    run(page)
    preview = page.get_by_role("img", name="Preview")
    expect(preview).to_have_js_property("naturalWidth", 96)
    bar = page.get_by_role("progressbar")
    expect(bar).to_have_attribute("aria-valuenow", re.compile("[1-9]0"))
    expect(status(page)).to_have_text("Completed")
    shown = page.get_by_role("tabpanel").get_by_role("img")
    expect(shown).to_have_js_property("naturalWidth", 256)
    expect(page.get_by_role("tab", name="Log")).to_contain_text("31")


def test_escape_cancels_on_the_server_too(open_page: Open, site: str) -> None:
    page = open_page()
    count(page, 100, 1.0, "/stream")
    run(page)
    expect(page.get_by_role("img", name="Preview")).to_be_visible()
    page.keyboard.press("Escape")
    expect(status(page)).to_have_text("Cancelled")
    expect(page.get_by_role("button", name="Run", exact=True)).to_be_enabled()
    with httpx.Client(base_url=f"{site}/queue/local/playground-app") as client:
        newest = client.get("/requests?limit=1").json()["requests"][0]
    assert (newest["state"], newest["error_type"]) == ("done", "client_cancelled")


def test_a_request_that_waits_says_why_and_one_that_runs_what_it_prints(open_page: Open) -> None:
    first, second, third = open_page(), open_page(), open_page()
    count(first, 100, 1.0)
    run(first)
    expect(status(first)).to_have_text("Running")
    first.get_by_role("tab", name="Log").click()
    expect(first.get_by_role("tabpanel")).to_contain_text("step 1 of 100")
    for page, words in ((second, "next"), (third, "1 ahead")):
        count(page, 1, 0.0)
        run(page)
        expect(status(page)).to_have_text("Queued")
        expect(page.get_by_role("status")).to_contain_text(words)
    first.get_by_role("button", name="Cancel", exact=True).click()
    expect(status(first)).to_have_text("Cancelled")
    for page in (second, third):
        expect(status(page)).to_have_text("Completed")


def test_a_run_goes_on_across_a_reload_and_stays_in_the_history(open_page: Open) -> None:
    page = open_page()
    count(page, 30, 0.1, "/stream")
    run(page)
    expect(page.get_by_role("img", name="Preview")).to_be_visible()
    page.reload()
    expect(page.get_by_label("Number", exact=True)).to_have_value("30")
    expect(page.get_by_role("img", name="Preview")).to_be_visible()
    expect(status(page)).to_have_text("Completed")

    page.get_by_role("button", name="Reset").click()
    page.reload()
    expect(page.get_by_text("Nothing has run yet")).to_be_visible()
    past = page.get_by_role("region", name="History").get_by_role("button", name="completed")
    expect(past).to_have_count(1)
    past.click()
    expect(status(page)).to_have_text("Completed")
    expect(page.get_by_label("Number", exact=True)).to_have_value("30")
    assert result(page)["steps"] == 30
    page.get_by_role("button", name="Clear").click()
    expect(page.get_by_role("region", name="History")).to_be_hidden()


def test_a_link_brings_the_values_and_the_run_to_another_browser(open_page: Open) -> None:
    page = open_page()
    page.get_by_label("Prompt").first.fill("grüße, 海")
    page.get_by_label("Steps", exact=True).fill("11")
    run(page)
    expect(status(page)).to_have_text("Completed")
    address = page.url
    other = open_page("/playground/local/playground-app#" + address.split("#")[1])
    expect(other.get_by_label("Prompt").first).to_have_value("grüße, 海")
    expect(other.get_by_label("Steps", exact=True)).to_have_value("11")
    expect(status(other)).to_have_text("Completed")
    assert result(other)["asked"]["prompt"] == "grüße, 海"


def test_the_input_can_be_written_as_json(open_page: Open) -> None:
    page = open_page()
    page.get_by_label("Prompt").first.fill("sea")
    page.get_by_role("group", name="Input as").get_by_text("JSON").click()
    text = page.get_by_role("textbox")
    written = json.loads(text.input_value())
    assert written["prompt"] == "sea"
    text.fill(json.dumps({**written, "steps": 12}))
    page.get_by_role("group", name="Input as").get_by_text("Form").click()
    expect(page.get_by_label("Steps", exact=True)).to_have_value("12")


def test_sounds_and_files_are_shown_as_what_they_are(open_page: Open) -> None:
    page = open_page()
    choose(page, "/sound")
    run(page)
    expect(status(page)).to_have_text("Completed")
    expect(page.locator("audio")).to_have_js_property("readyState", 4)
    with page.expect_download() as download:
        page.get_by_role("link", name="Save notes.csv").click()
    assert download.value.path().read_bytes() == b"a,b\n1,2\n"


def test_what_a_hostile_app_answers_is_only_text(open_page: Open) -> None:
    page = open_page()
    choose(page, "/markup")
    run(page)
    expect(status(page)).to_have_text("Completed")
    panel = page.get_by_role("tabpanel")
    expect(panel).to_contain_text("<img src=x onerror=alert(1)>")
    expect(panel.locator("img, a[href^=javascript]")).to_have_count(0)


def test_a_picture_is_enlarged_and_escape_closes_it(open_page: Open) -> None:
    page = open_page()
    page.get_by_label("Prompt").first.fill("sea")
    run(page)
    page.get_by_role("button", name=re.compile("^Enlarge")).click()
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(status(page)).to_have_text("Completed")


def test_a_key_is_sent_with_every_call_and_forgotten_with_the_tab(open_page: Open) -> None:
    page = open_page()
    page.get_by_role("button", name="API key").click()
    page.get_by_label("Key", exact=True).fill("id:secret")
    page.keyboard.press("Enter")
    page.get_by_label("Prompt").first.fill("sea")
    with page.expect_request(re.compile("/queue/local/playground-app$")) as sent:
        run(page)
    assert sent.value.headers["authorization"] == "Key id:secret"
    assert page.evaluate("JSON.stringify({...localStorage})").count("secret") == 0
    page.get_by_role("tab", name="Code").click()
    expect(page.get_by_role("tabpanel")).to_contain_text("POLYRANK_KEY")
    expect(page.get_by_role("tabpanel")).not_to_contain_text("secret")


def test_everything_has_a_name_and_is_reached_by_the_keyboard(open_page: Open) -> None:
    page = open_page()
    page.locator("details").evaluate("(more) => (more.open = true)")
    reached: list[str] = []
    for _ in range(70):
        page.keyboard.press("Tab")
        name = page.evaluate(
            """() => { const at = document.activeElement;
                const labels = [...(at.labels ?? [])].map((each) => each.innerText).join();
                return at === document.body ? "" : at.ariaLabel || labels || at.innerText; }"""
        )
        if name in reached[:1]:
            break
        reached.append(name)
    assert all(reached[:-1]), reached
    wanted = ["Prompt*", "square", "Steps", "oil", "Sharpen", "Seed", "Add to Tags", "Run"]
    places = [reached.index(name) for name in wanted]
    assert places == sorted(places), reached


@pytest.mark.parametrize("path", ["/", "/playground/local/playground-app"])
def test_a_narrow_screen_needs_no_sideways_scrolling(open_page: Open, path: str) -> None:
    page = open_page(path, viewport={"width": 340, "height": 640})
    expect(page.get_by_text("playground-app").first).to_be_visible()
    if path != "/":
        page.get_by_label("Prompt").first.fill("sea")
        page.get_by_role("button", name="Run", exact=True).click()
        expect(page.get_by_role("tabpanel").get_by_role("img")).to_be_in_viewport()
    assert page.evaluate("document.documentElement.scrollWidth") <= 340


def test_dark_and_light_follow_the_system_until_one_is_chosen(open_page: Open) -> None:
    page = open_page("/", color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(ground) == "rgb(16, 17, 19)"
    page.get_by_role("button", name="Theme: system").click()
    assert page.evaluate(ground) == "rgb(246, 246, 244)"
    page.reload()
    expect(page.get_by_role("button", name="Theme: light")).to_be_visible()
    assert page.evaluate(ground) == "rgb(246, 246, 244)"


def test_nothing_moves_for_who_wants_it_still(open_page: Open) -> None:
    page = open_page(reduced_motion="reduce")
    count(page, 100, 1.0)
    run(page)
    expect(status(page)).to_have_text("Running")
    assert page.evaluate("document.getAnimations().length") == 0
    page.keyboard.press("Escape")
    expect(status(page)).to_have_text("Cancelled")


def test_every_page_and_file_has_a_strict_policy(site: str) -> None:
    with httpx.Client(base_url=site) as client:
        page = client.get("/playground/local/playground-app").text
        assert not re.search(r"<script(?![^>]*src=)|<style|style=|\son\w+=|https?://", page)
        files = re.findall(r'(?:src|href)="(/static/[^"]+)"', page)
        assert len(files) > 5
        for path in ["/", "/playground/local/playground-app", *files]:
            answer = client.get(path)
            assert answer.status_code == 200
            policy = answer.headers["content-security-policy"]
            assert "default-src 'self'" in policy and "unsafe" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            again = client.get(path, headers={"if-none-match": answer.headers["etag"]})
            assert again.status_code == (304 if path in files else 200)
        assert client.get("/static/../../errors.py").status_code == 404
        assert client.get("/static/%2e%2e/__init__.py").status_code == 404


def code(page: Page, language: str) -> str:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("tab", name="Code").click()
    page.get_by_role("button", name=f"Copy the {language} code").click()
    return str(page.evaluate("navigator.clipboard.readText()"))


@pytest.mark.parametrize("path", ["/", "/stream"])
def test_the_curl_that_is_shown_makes_the_same_call(open_page: Open, path: str) -> None:
    page = open_page()
    if path == "/":
        page.get_by_label("Prompt").first.fill('it\'s "quoted"\n$HOME `x` \\')
    else:
        count(page, 2, 0.0, path)
    shell = shutil.which("curl") and subprocess.run(
        ["bash", "-c", code(page, "curl") + " --silent"], capture_output=True, timeout=30
    )
    if not shell:
        pytest.skip("there is no curl here")
    if path == "/":
        assert json.loads(shell.stdout)["asked"]["prompt"] == 'it\'s "quoted"\n$HOME `x` \\'
    else:
        assert shell.stdout.count(b"data: ") == 3


def test_events_are_read_however_they_are_cut(open_page: Open) -> None:
    page = open_page("/")
    text = (
        ': comment\r\nid: 1\r\ndata: {"a": "é"}\r\n\r\nevent: end\ndata: x\ndata: y\n\ndata: lost'
    )
    read = page.evaluate(
        """async ([data, size]) => {
            const { readEvents } = await import("/static/sse.js");
            const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
            const stream = new ReadableStream({ start(controller) {
                for (let at = 0; at < bytes.length; at += size) {
                    controller.enqueue(bytes.slice(at, at + size));
                }
                controller.close();
            } });
            const events = [];
            for await (const event of readEvents(stream)) events.push(event);
            return events;
        }""",
        [base64.b64encode(text.encode()).decode(), 1],
    )
    assert read == [
        {"event": "message", "id": "1", "data": '{"a": "é"}'},
        {"event": "end", "id": None, "data": "x\ny"},
    ]


@pytest.mark.parametrize("path", ["/", "/stream"])
@pytest.mark.parametrize("language", ["Python", "JavaScript"])
def test_the_code_that_is_shown_makes_the_same_call(
    open_page: Open, tmp_path: Path, language: str, path: str
) -> None:
    page = open_page()
    prompt = 'it\'s "quoted"\n${x} \\ 海'
    if path == "/":
        page.get_by_label("Prompt").first.fill(prompt)
        page.get_by_text("custom").click()
    else:
        count(page, 2, 0.0, path)
    if language == "Python":
        file, command = tmp_path / "call.py", [sys.executable]
    else:
        modules = ROOT / "tests" / "e2e" / "server" / "js" / "node_modules"
        node = Path(sys.executable).with_name("node")
        if not modules.exists():
            pytest.skip("the npm client is not installed: make test does")
        (tmp_path / "node_modules").symlink_to(modules)
        file, command = tmp_path / "call.mjs", [str(node if node.exists() else "node")]
    file.write_text(code(page, language))
    called = subprocess.run([*command, str(file)], capture_output=True, text=True, timeout=60)
    assert called.returncode == 0, called.stderr
    if path == "/":
        assert "seed" in called.stdout and "quoted" in called.stdout
        run(page)  # the form's own call
        expect(status(page)).to_have_text("Completed")
        with httpx.Client() as client:
            base = page.url.split("/playground/")[0] + "/queue/local/playground-app/requests"
            ids = [each["request_id"] for each in client.get(base).json()["requests"][:2]]
            ours, theirs = (client.get(f"{base}/{id}").json()["asked"] for id in ids)
        assert ours == theirs
        assert ours["prompt"] == prompt
    else:
        assert called.stdout.count("preview_image") == 2
