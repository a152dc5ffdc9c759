"""Apps as they are written for the reference platform, served by `polyrank run` and called."""

import base64
import io
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image as PILImage
from polyrank_program import LIMIT_S, ROOT, Program
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

PROGRAMS = ROOT / "tests" / "programs"


@pytest.fixture(scope="module")
def painter() -> Iterator[Program]:
    program = Program("run", "tests/programs/reference_app.py", "--port", "0", "--device", "cpu")
    yield program
    program.end()


def url_of(painter: Program, path: str = "/") -> str:
    return painter.address() + path


def test_every_curl_line_that_is_printed_is_accepted(painter: Program) -> None:
    painter.wait_for("Ctrl-C ends it")
    lines = re.findall(r"^  (curl .*)$", painter.output, re.MULTILINE)
    assert len(lines) == 5
    for line in lines:
        words = shlex.split(line)
        address = next(word for word in words if word.startswith("http"))
        body = words[words.index("-d") + 1] if "-d" in words else None
        headers = {"content-type": "application/json"}
        answer = httpx.post(address, content=body, headers=headers)
        assert answer.status_code == (429 if address.endswith("/busy") else 200), answer.text
    assert re.search(r"^  websocket ws://\S+/chat$", painter.output, re.MULTILINE)


def test_requirements_and_gpus_that_are_not_there_are_told(painter: Program) -> None:
    painter.address()
    told = re.findall(r"requirement not met here: (.*)", painter.output)
    url = "git+https://example.com/a/b.git@main#egg=no-such-thing"
    assert told == [
        "no-such-package==1.0: not installed",
        f"{url}: no-such-thing is not installed",
    ]


def test_pictures_go_in_and_out(painter: Program) -> None:
    body = {"prompt": "x", "colours": ["blue"], "image_size": {"width": 32, "height": 16}}
    answer = httpx.post(url_of(painter), json=body)
    assert answer.json()["seed"] == 42
    image = answer.json()["images"][0]
    assert (image["content_type"], image["width"], image["height"]) == ("image/jpeg", 32, 16)
    assert decoded(image["url"]).size == (32, 16)
    again = httpx.post(
        url_of(painter, "/image-to-image"), json=body | {"image": image["url"], "strength": 0.5}
    )
    assert decoded(again.json()["images"][0]["url"]).size == (8, 8)
    assert re.match(r"painted-\d+$", again.headers["x-fal-runner-hints"])
    assert httpx.get(url_of(painter, "/health")).json()["painted"] >= 1


def test_a_file_alone_is_the_whole_body(painter: Program) -> None:
    answer = httpx.post(
        url_of(painter, "/describe"),
        json={"url": "data:text/plain,four"},
        headers={"x-fal-request-id": "the-id"},
    )
    assert answer.json() == {"length": 4, "request_id": "the-id"}


def test_wrong_input_and_the_apps_own_errors_have_a_reason(painter: Program) -> None:
    wrong = httpx.post(url_of(painter), json={"prompt": "x", "colours": []})
    assert (wrong.status_code, wrong.json()["detail"][0]["loc"]) == (422, ["body", "colours"])
    own = httpx.post(url_of(painter), json={"prompt": "forbidden", "colours": ["red"]})
    assert (own.status_code, own.json()["detail"]) == (
        422,
        [{"loc": ["body", "prompt"], "msg": "this is not painted here", "type": "value_error"}],
    )
    busy = httpx.post(url_of(painter, "/busy"))
    assert (busy.status_code, busy.json()["detail"]) == (429, "come back later")
    assert httpx.post(url_of(painter, "/gone")).json() == {"detail": "Path /gone not found"}


def test_events_arrive_as_they_are_made(painter: Program) -> None:
    body = {"prompt": "x", "colours": ["red"], "num_inference_steps": 3}
    with httpx.stream("POST", url_of(painter, "/stream"), json=body) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [json.loads(line[6:]) for line in answer.iter_lines() if line]
    assert events == [{"step": 0}, {"step": 1}, {"step": 2}]


def test_a_websocket_is_served(painter: Program) -> None:
    url = url_of(painter, "/chat").replace("http", "ws")
    with connect(url) as socket:
        socket.send("hello")
        assert socket.recv() == "HELLO"
    with connect(url) as socket:
        socket.send("fail")
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv()
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1008, "no more words")


def test_an_app_in_a_package_is_found_by_its_entry_point_and_so_is_its_worker(
    start: Callable[..., Program],
) -> None:
    program = start("adder", "--device", "cpu", cwd=PROGRAMS / "parcel_app")  # type: ignore[arg-type]
    answer = httpx.post(program.address(), json={"numbers": [1, 2, 3]})
    assert answer.json() == {"greeting": "hello from the package", "sum": 6.0, "ranks": 2}
    assert program.end() == 0


def test_an_app_in_a_package_is_found_by_its_file(start: Callable[..., Program]) -> None:
    program = start("tests/programs/parcel_app/painting/app.py", "--ranks", "1", "--device", "cpu")
    answer = httpx.post(program.address(), json={"numbers": [1, 2]})
    assert answer.json()["ranks"] == 1


def test_a_slip_in_pyproject_is_refused_with_a_suggestion() -> None:
    program = Program("run", "misspelt", cwd=PROGRAMS / "parcel_app")
    assert program.wait() == 2
    assert "no option 'num_gpu'; did you mean 'num_gpus'?" in " ".join(program.output.split())


def test_a_refused_name_says_why_where_it_is_used(
    start: Callable[..., Program], tmp_path: Path
) -> None:
    file = tmp_path / "function_app.py"
    file.write_text("import fal\nclass A(fal.App):\n    @fal.function('x')\n    def r(self): ...\n")
    program = start(str(file))
    assert program.wait() == 1
    assert re.search(
        r"no fal.function: polyrank serves apps, not single functions.*line 3", program.output
    )


def test_a_file_serves_itself_through_wrap_app(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    file = tmp_path / "serving_app.py"
    file.write_text(
        "from polyrank import App, endpoint, wrap_app\n"
        "class Serving(App):\n"
        "    @endpoint('/')\n"
        "    def ok(self) -> str: return 'ok'\n"
        "if __name__ == '__main__':\n"
        "    import time\n"
        f"    try: wrap_app(Serving)(port={port})\n"
        "    except KeyboardInterrupt: time.sleep(2); print('and on it goes')\n"
    )
    process = subprocess.Popen([sys.executable, str(file)], stdout=subprocess.PIPE, text=True)
    with httpx.Client(transport=httpx.HTTPTransport(retries=6)) as client:
        assert client.post(f"http://127.0.0.1:{port}/").json() == "ok"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=LIMIT_S)[0] == "and on it goes\n"
    assert process.returncode == 0


STUCK = """
import threading, time
from polyrank import App, endpoint
class Stuck(App):
    termination_grace_period_seconds = {grace}
    def setup(self) -> None:
        {setup}
    def teardown(self) -> None:
        print('torn down', flush=True)
    @endpoint('/')
    def wait(self) -> None:
        print('at work', flush=True)
        threading.Event().wait()
    @endpoint('/coroutine')
    async def wait_here(self) -> None:
        import asyncio
        print('at work', flush=True)
        await asyncio.Event().wait()
"""


@pytest.mark.parametrize("path", ["/", "/coroutine"])
def test_work_that_outlasts_the_grace_period_is_cut_off_with_a_reason(
    start: Callable[..., Program], tmp_path: Path, path: str
) -> None:
    file = tmp_path / "stuck_app.py"
    file.write_text(STUCK.format(grace=1, setup="pass"))
    program = start(str(file))
    with called(program.address() + path) as call:
        program.wait_for("at work")
        assert program.end(signal.SIGTERM) == 0
    assert call.answer is not None
    assert (call.answer.status_code, call.answer.json()["detail"]) == (503, "the app is ending")
    assert "torn down" in program.output
    assert "Traceback" not in program.output


def test_ctrl_c_twice_ends_a_plain_method_too(
    start: Callable[..., Program], tmp_path: Path
) -> None:
    file = tmp_path / "stuck_app.py"
    file.write_text(STUCK.format(grace=600, setup="pass"))
    program = start(str(file))
    with called(program.address()):
        program.wait_for("at work")
        os.killpg(program.process.pid, signal.SIGINT)
        program.wait_for("Ctrl-C again ends them at once")
        program.end(signal.SIGINT)


def test_an_open_websocket_does_not_hold_up_the_end(start: Callable[..., Program]) -> None:
    program = start("tests/programs/reference_app.py", "--device", "cpu")
    with connect(program.address().replace("http", "ws") + "/chat") as chat:
        chat.send("hello")
        assert chat.recv() == "HELLO"
        assert program.end(signal.SIGTERM) == 0
        with pytest.raises(ConnectionClosed) as closed:
            chat.recv()
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1012
    assert "Traceback" not in program.output


def test_an_app_that_cannot_be_made_says_why(start: Callable[..., Program], tmp_path: Path) -> None:
    file = tmp_path / "needy_app.py"
    file.write_text("import polyrank\nclass Needy(polyrank.App):\n    def __init__(self, a): ...\n")
    program = start(str(file))
    assert program.wait() == 1
    assert re.search(r"Needy\(\) failed: TypeError: .* argument: 'a'", program.output)
    assert "Traceback" not in program.output


def test_an_address_of_ip_version_6_is_one_that_can_be_called(
    start: Callable[..., Program],
) -> None:
    program = start("examples/hello.py", "--host", "::1")
    assert httpx.post(program.address(), json={}).status_code == 200


@pytest.mark.parametrize("command", ["--help", "run --help", "--version"])
def test_help_is_quick_as_it_imports_little(command: str) -> None:
    run = [sys.executable, "-X", "importtime", "-m", "polyrank", *command.split()]
    told = subprocess.run(run, check=True, capture_output=True, text=True)
    imported = {line.rpartition("|")[2].strip() for line in told.stderr.splitlines()}
    assert "typer" in imported
    assert imported.isdisjoint({"torch", "fastapi", "sqlalchemy", "httpx", "numpy"})


def test_a_setup_that_never_ends_is_ended_in_time(
    start: Callable[..., Program], tmp_path: Path
) -> None:
    file = tmp_path / "stuck_app.py"
    file.write_text(
        STUCK.format(grace=1, setup="print('setting up', flush=True); threading.Event().wait()")
    )
    program = start(str(file))
    program.wait_for("setting up")
    assert program.end(signal.SIGTERM) == 0


class called:
    """Calls an address in a thread, whatever comes of it."""

    def __init__(self, address: str) -> None:
        self.answer: httpx.Response | None = None
        self._thread = threading.Thread(target=self._call, args=(address,))

    def _call(self, address: str) -> None:
        try:
            self.answer = httpx.post(address, timeout=LIMIT_S)
        except httpx.HTTPError:
            pass

    def __enter__(self) -> "called":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(LIMIT_S)


def decoded(url: str) -> PILImage.Image:
    """The picture behind a data URI, or behind a URL of the server's files."""
    if url.startswith("data:"):
        return PILImage.open(io.BytesIO(base64.b64decode(url.split(",", 1)[1])))
    return PILImage.open(io.BytesIO(httpx.get(url).raise_for_status().content))
