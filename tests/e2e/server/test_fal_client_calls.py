"""Every way to call that the reference platform's Python client has, sync and async alike."""

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from polyrank_program import ROOT

from .conftest import ServerProcess

APP = ROOT / "tests" / "programs" / "client_app.py"

# ``call("run", …)`` is ``fal_client.run(…)`` or what ``fal_client.run_async(…)`` comes to;
# ``finish`` does the same for what methods of a handle return.
SETUP = """
import asyncio, inspect, json, sys, time, warnings
import fal_client
import fal_client.client as client
address, suffix, argument = sys.argv[1:]
client.RUN_URL_FORMAT = address + "/run/"
client.QUEUE_URL_FORMAT = address + "/queue/"
loop = asyncio.new_event_loop()
me = "local/client-app"

async def listed(stream):
    return [each async for each in stream]

def finish(value):
    if inspect.isasyncgen(value):
        return loop.run_until_complete(listed(value))
    if inspect.isawaitable(value):
        return loop.run_until_complete(value)
    return list(value) if inspect.isgenerator(value) else value

def call(name, *arguments, **options):
    return finish(getattr(fal_client, name + suffix)(*arguments, **options))

def say(value):
    print(json.dumps(value))

def failure(name, *arguments, **options):
    try:
        return {"result": call(name, *arguments, **options)}
    except fal_client.FalClientHTTPError as error:
        return {
            "status": error.status_code, "type": error.error_type, "message": error.message,
            "id": error.response_headers.get("x-fal-request-id"),
        }
"""

Run = Callable[..., list[Any]]


@pytest.fixture(scope="module")
def server(start_server: Callable[..., ServerProcess]) -> ServerProcess:
    return start_server(f"{APP}::ClientApp")


@pytest.fixture(params=["", "_async"], ids=["sync", "async"])
def run(server: ServerProcess, request: pytest.FixtureRequest) -> Run:
    """What a program says, with either client."""

    def run_program(code: str, argument: object = "") -> list[Any]:
        program = subprocess.run(
            [
                *(sys.executable, "-W", "ignore", "-c", SETUP + textwrap.dedent(code)),
                *(server.address, request.param, str(argument)),
            ],
            capture_output=True,
            text=True,
            timeout=60,
            env={"FAL_KEY": "id:secret", "PATH": os.environ["PATH"]},
        )
        assert program.returncode == 0, program.stderr
        return [json.loads(line) for line in program.stdout.splitlines()]

    return run_program


def test_run_with_a_path_of_its_own(run: Run) -> None:
    assert run(
        """
        say(call("run", me, {"number": 1}, timeout=30))
        say(call("run", me + "/steps", {"file": "/dev/null"}))
        say(call("run", me, {"file": "/dev/null", "steps": 1}, path="/steps"))
        """
    ) == [{"sum": 2}, {"steps": 0}, {"steps": 1}]


def test_run_with_another_method(run: Run) -> None:
    (failed,) = run('say(failure("run", me, {}, method="GET"))')
    assert failed["status"] == 405
    assert failed["message"] == "/ is called with POST, not GET"


def test_what_a_caller_wishes_reaches_the_app(run: Run) -> None:
    direct, queued, subscribed = run(
        """
        wishes = {"hint": "style-7", "start_timeout": 30, "headers": {"X-Campaign": "spring"}}
        say(call("run", me, {}, path="headers", **wishes))
        wishes["priority"] = "low"
        say(finish(call("submit", me, {}, path="/headers", **wishes).get()))
        say(call("subscribe", me + "/headers", {}, **wishes))
        """
    )
    for headers in (direct, queued, subscribed):
        assert headers["x-fal-runner-hint"] == "style-7"
        assert float(headers["x-fal-request-timeout"]) == 30
        assert headers["x-campaign"] == "spring"
        assert headers["user-agent"].startswith("fal-client/")
    assert queued["x-fal-queue-priority"] == subscribed["x-fal-queue-priority"] == "low"


def test_a_handle_and_the_functions_that_need_only_an_id(run: Run) -> None:
    kinds, metrics, logs, results, found = run(
        """
        handle = call("submit", me, {"number": 1})
        events = finish(handle.iter_events(with_logs=True, interval=0.02))
        say([type(event).__name__ for event in events])
        say(events[-1].metrics)
        say([log["message"] for log in call("status", me, handle.request_id, with_logs=True).logs])
        say([finish(handle.get(interval=0.02)), call("result", me, handle.request_id)])
        client = fal_client.async_client if suffix else fal_client.sync_client
        found = finish(client.get_handle(me + "/any/path", handle.request_id))
        say([found == handle, type(finish(found.status())).__name__])
        """
    )
    assert set(kinds[:-1]) <= {"Queued", "InProgress"} and kinds[-1] == "Completed"
    assert metrics["inference_time"] >= 0
    assert logs == ["adding one to 1"]
    assert results == [{"sum": 2}, {"sum": 2}]
    assert found[1] == "Completed"


def test_subscribe_tells_what_happens(run: Run) -> None:
    ids, kinds, lines, result = run(
        """
        ids, updates = [], []
        result = call(
            "subscribe", me, {"number": 1}, with_logs=True, interval=0.02,
            on_enqueue=ids.append, on_queue_update=updates.append,
        )
        say(len(ids))
        say([type(update).__name__ for update in updates])
        say([log["message"] for log in updates[-1].logs])
        say(result)
        """
    )
    assert ids == 1
    assert kinds[-1] == "Completed"
    assert lines == ["adding one to 1"]
    assert result == {"sum": 2}


def test_a_subscriber_whose_time_is_up_cancels(run: Run, tmp_path: Path) -> None:
    (error_id_and_status,) = run(
        """
        try:
            call("subscribe", me + "/steps", {"file": argument, "steps": 6000}, client_timeout=1.2)
        except fal_client.FalClientTimeoutError as error:
            while type(status := call("status", me, error.request_id)).__name__ != "Completed":
                time.sleep(0.02)
            say([error.timeout, status.error_type])
        """,
        tmp_path / "steps",
    )
    assert error_id_and_status == [1.2, "client_cancelled"]


@pytest.mark.parametrize("by", ["handle", "id"])
def test_cancel_stops_the_work(run: Run, tmp_path: Path, by: str) -> None:
    marks = tmp_path / "steps"
    (failed,) = run(
        f"""
        handle = call("submit", me + "/steps", {{"file": argument, "steps": 6000}})
        while type(finish(handle.status())).__name__ != "InProgress":
            time.sleep(0.02)
        if {by == "handle"}:
            finish(handle.cancel())
        else:
            call("cancel", me, handle.request_id)
        say(failure("result", me, handle.request_id))
        """,
        marks,
    )
    assert (failed["status"], failed["type"]) == (499, "client_cancelled")
    assert not marks.exists() or marks.read_text().count("\n") < 3000


def test_a_start_timeout_is_not_tried_again(run: Run) -> None:
    failures = run(
        """
        busy = [call("submit", me + "/steps", {"file": "/dev/null", "steps": 6000})
                for _ in range(4)]
        for handle in busy:
            while type(finish(handle.status())).__name__ != "InProgress":
                time.sleep(0.02)
        say(failure("run", me, {"number": 1}, start_timeout=1.1))
        say(failure("subscribe", me, {"number": 1}, start_timeout=1.1))
        for handle in busy:
            finish(handle.cancel())
        """
    )
    assert [(each["status"], each["type"]) for each in failures] == [(504, "request_timeout")] * 2


def test_stream(run: Run) -> None:
    events, other = run(
        """
        say(call("stream", me, {"number": 3}))
        say(call("stream", me, {"number": 1}, path="/broken/stream", timeout=9, headers={"a": "b"}))
        """
    )
    assert events == [{"step": 0}, {"step": 1}, {"step": 2}]
    assert other[0] == {"step": 0}
    assert other[1]["error"] == "out of paint"


def test_errors_carry_status_reason_and_kind(run: Run) -> None:
    invalid, refused, bug, no_app, no_path, no_request = run(
        """
        say(failure("run", me, {"number": -1}))
        say(failure("run", me + "/teapot", {}))
        say(failure("subscribe", me + "/bug", {}))
        say(failure("run", "local/nothing", {}))
        say(failure("run", me + "/nothing", {}))
        say(failure("result", me, "nothing"))
        """
    )
    assert (invalid["status"], invalid["message"][0]["loc"]) == (422, ["body", "number"])
    assert (refused["status"], refused["message"]) == (418, "it is a teapot")
    assert (bug["status"], bug["type"]) == (500, "internal_error")
    assert "missing" in bug["message"]
    assert (no_app["status"], no_app["type"]) == (404, "app_not_found")
    assert (no_path["status"], no_path["message"]) == (404, "Path /nothing not found")
    assert (no_request["status"], no_request["type"]) == (404, "request_not_found")
    assert all(each["id"] for each in (invalid, refused, bug, no_app, no_path))
