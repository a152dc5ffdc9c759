"""Calls over one websocket, and the slashes and statuses that older clients count on."""

import contextlib
import json
from collections.abc import Callable

import httpx
import pytest
from polyrank_program import ROOT
from websockets.sync.client import ClientConnection, connect

from .conftest import ServerProcess

APP = ROOT / "tests" / "programs" / "client_app.py"
QUEUE = "/queue/local/client-app"


@pytest.fixture(scope="module")
def server(start_server: Callable[..., ServerProcess]) -> ServerProcess:
    return start_server(f"{APP}::ClientApp")


@pytest.fixture
def url(server: ServerProcess) -> str:
    return server.address.replace("http", "ws", 1) + "/ws/local/client-app"


def answer(websocket: ClientConnection) -> tuple[int, bytes]:
    """Status and body of the next answer."""
    start = json.loads(websocket.recv(timeout=60))
    assert start["type"] == "start"
    body = b""
    while isinstance(part := websocket.recv(timeout=60), bytes):
        body += part
    assert json.loads(part) == {"type": "end", "request_id": start["request_id"]}
    return start["status"], body


def test_many_calls_over_one_websocket(url: str) -> None:
    with connect(url) as websocket:
        for number in range(5):
            websocket.send(json.dumps({"number": number}))
        answers = [answer(websocket) for _ in range(5)]
    assert [status for status, _ in answers] == [200] * 5
    assert [json.loads(body)["sum"] for _, body in answers] == [1, 2, 3, 4, 5]


def test_an_error_is_an_answer_and_the_websocket_goes_on(url: str) -> None:
    with connect(url) as websocket:
        for text in ('{"number": -1}', "no json", '{"number": 1}'):
            websocket.send(text)
        statuses = [answer(websocket)[0] for _ in range(3)]
    assert statuses == [422, 422, 200]
    with connect(f"{url}/teapot") as websocket:
        websocket.send("{}")
        assert answer(websocket) == (
            418,
            b'{"detail":"it is a teapot","error_type":"app_exception"}',
        )
    with connect(url.replace("client-app", "nobody")) as websocket:
        websocket.send("{}")
        assert answer(websocket)[0] == 404


def test_a_stream_comes_part_by_part(url: str) -> None:
    with connect(f"{url}/stream") as websocket:
        websocket.send(json.dumps({"number": 3}))
        status, body = answer(websocket)
    assert status == 200
    assert body.decode().split("\n\n")[:3] == [f'data: {{"step": {n}}}' for n in range(3)]


def test_a_caller_who_goes_away_ends_the_call(server: ServerProcess, url: str) -> None:
    run = f"{server.address}/run/local/client-app/steps"
    with contextlib.ExitStack() as websockets:
        for _ in range(4):  # one for each slot
            websocket = websockets.enter_context(connect(f"{url}/steps"))
            websocket.send(json.dumps({"file": "/dev/null", "steps": 6000}))
        limit = {"x-fal-request-timeout": "1"}
        body = {"file": "/dev/null", "steps": 1}
        assert httpx.post(run, json=body, headers=limit, timeout=30).status_code == 504
    assert httpx.post(run, json=body, headers=limit, timeout=30).json() == {"steps": 1}


def test_a_websocket_that_is_no_handshake_is_not_there(server: ServerProcess) -> None:
    assert httpx.get(f"{server.address}/ws/local/client-app").status_code == 404


def test_slashes_at_the_end_and_202_until_it_is_done(server: ServerProcess) -> None:
    with httpx.Client(base_url=server.address, timeout=60) as client:
        body = {"file": "/dev/null", "steps": 6000}
        id = client.post(f"{QUEUE}/steps/", json=body).json()["request_id"]
        url = f"{QUEUE}/requests/{id}"
        for end in ("/status/", "/status/?logs=0", "/status"):
            assert client.get(url + end).status_code == 202
        assert client.get(f"{url}/").status_code == 400
        assert client.put(f"{url}/cancel/").status_code == 202
        with client.stream("GET", f"{url}/status/stream/?logs=1") as events:
            assert "COMPLETED" in list(events.iter_lines())[-2]
        assert client.get(f"{url}/status/?logs=1").status_code == 200
        assert client.get(f"{url}/").status_code == 499
