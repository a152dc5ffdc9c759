"""The flows, driven by hand: what is sent, and what is made of the answers."""

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from polyrank.client.errors import ClientHTTPError, ServerUnreachable, StreamFailed
from polyrank.client.flows import Flows
from polyrank.client.parts import Part
from polyrank.client.steps import (
    Answer,
    Emit,
    Lost,
    Open,
    Pause,
    Read,
    Request,
    Send,
    Together,
)
from polyrank.client.storage import StorageACL, StorageACLRule, StorageSettings

HOME = "http://server"
SUBMITTED = {
    "request_id": "r",
    "response_url": f"{HOME}/queue/local/a/requests/r",
    "status_url": f"{HOME}/queue/local/a/requests/r/status",
    "cancel_url": f"{HOME}/queue/local/a/requests/r/cancel",
}
EVENT_STREAM = {"content-type": "text/event-stream"}


@pytest.fixture
def flows() -> Flows:
    return Flows(HOME, "id:secret", agent="test", timeout_s=60, attempts=3)


class Told:
    """Drives a flow with the replies of a list; keeps what was sent."""

    def __init__(self, flow: Generator[Any, Any, Any], *replies: Any) -> None:
        self.sent: list[Request] = []
        self.pauses: list[float] = []
        self.values: list[Any] = []
        self.result: Any = None
        left = list(replies)
        try:
            step = next(flow)
            while True:
                match step:
                    case Emit(value):
                        self.values.append(value)
                        step = next(flow)
                        continue
                    case Pause(seconds):
                        self.pauses.append(seconds)
                        step = flow.send(None)
                        continue
                    case Send(request) | Open(request):
                        self.sent.append(request)
                    case Together(parts):
                        told = [Told(part, left.pop(0)) for part in parts]
                        self.sent += [request for each in told for request in each.sent]
                        step = flow.send([each.result for each in told])
                        continue
                    case other:
                        assert other == Read()
                reply = left.pop(0)
                step = flow.throw(reply) if isinstance(reply, Lost) else flow.send(reply)
        except StopIteration as end:
            self.result = end.value
        assert not left


def answer(body: Any, status: int = 200, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, named, json.dumps(body).encode())


LOST = Lost("connection reset", is_sent=True)
REFUSED = Lost("connection refused", is_sent=False)


def test_a_submit_whose_answer_is_lost_is_sent_again_with_the_same_key(flows: Flows) -> None:
    told = Told(flows.submit("a", {"x": 1}), LOST, answer({}, 503), answer(SUBMITTED))
    assert told.result.request_id == "r"
    keys = {request.headers["idempotency-key"] for request in told.sent}
    assert len(told.sent) == 3 and len(keys) == 1
    assert told.sent[0].headers["authorization"] == "Key id:secret"


def test_a_run_is_sent_again_only_if_it_was_not_received(flows: Flows) -> None:
    told = Told(flows.run("a", {}), REFUSED, answer({}, 429, retry_after="0"), answer({"y": 2}))
    assert told.result.y == 2
    with pytest.raises(ServerUnreachable, match="connection reset"):
        Told(flows.run("a", {}), LOST)
    with pytest.raises(ClientHTTPError):
        Told(flows.run("a", {}), answer({"detail": "away"}, 503))
    assert "idempotency-key" not in told.sent[0].headers
    assert Told(flows.run("a", {}, idempotency_key="k"), LOST, answer(5)).result == 5


def test_attempts_come_to_an_end(flows: Flows) -> None:
    with pytest.raises(ServerUnreachable, match="nobody answers at http://server"):
        Told(flows.submit("a"), REFUSED, REFUSED, REFUSED)
    with pytest.raises(ClientHTTPError) as caught:
        Told(flows.status("a", "r"), *[answer({"detail": "busy"}, 429, retry_after="0")] * 3)
    assert caught.value.status_code == 429


def test_retry_after_is_heeded(flows: Flows) -> None:
    told = Told(flows.submit("a"), answer({}, 429, retry_after="7"), answer(SUBMITTED))
    assert 7 <= told.pauses[0] <= 8.5


def test_an_apps_own_503_is_a_result_and_not_asked_for_again(flows: Flows) -> None:
    done = b'data: {"status": "COMPLETED"}\n\n'
    with pytest.raises(ClientHTTPError, match="no GPU"):
        Told(
            flows.result("a", "r"),
            Answer(200, EVENT_STREAM),
            done,
            answer({"detail": "no GPU"}, 503, x_fal_request_id="r"),
        )


def test_statuses_go_on_where_the_connection_was_lost(flows: Flows) -> None:
    told = Told(
        flows.iter_events("a", "r", with_logs=True),
        Answer(200, EVENT_STREAM),
        b'id: 4\ndata: {"status": "IN_QUEUE", "queue_position": 2, "reason": "2 ahead"}\n\n',
        LOST,
        answer({}, 502),
        Answer(200, EVENT_STREAM),
        b'data: {"status": "IN_QUEUE", "queue_position": 2, "reason": "2 ahead"}\n\n',
        b"",  # the server ended in order
        Answer(200, EVENT_STREAM),
        b'data: {"status": "COMPLETED", "logs": [], "error": "e"}\n\n',
    )
    assert [type(status).__name__ for status in told.values] == ["Queued", "Completed"]
    assert told.values[0].reason == "2 ahead"
    assert [request.headers.get("last-event-id") for request in told.sent] == [None, *"444"]
    assert told.sent[0].url.endswith("/status/stream?logs=1")


def test_a_direct_stream_that_breaks_off_is_an_error_and_not_an_end(flows: Flows) -> None:
    with pytest.raises(ServerUnreachable):
        Told(flows.stream("a"), Answer(200, EVENT_STREAM), b'data: {"step": 1}\n\n', LOST)


def test_a_kept_stream_is_resumed(flows: Flows) -> None:
    told = Told(
        flows.stream("a", idempotency_key="k"),
        Answer(200, EVENT_STREAM),
        b'id: 1\ndata: {"step": 1}\n\n',
        LOST,
        Answer(200, EVENT_STREAM),
        b'id: 2\ndata: {"step": 2}\n\n',
        b"",
    )
    assert [event.step for event in told.values] == [1, 2]
    assert told.sent[1].headers["last-event-id"] == "1"


def test_the_events_of_a_request_end_when_it_does_and_say_if_it_failed(flows: Flows) -> None:
    ticket = flows.ticket("a", "r")
    told = Told(
        flows.stream_of(ticket),
        Answer(200, EVENT_STREAM),
        b'id: 1\ndata: {"step": 1}\n\n',
        b"",  # the server ended in order
        answer({"status": "IN_PROGRESS", "logs": None}),
        Answer(200, EVENT_STREAM),
        b'id: 2\ndata: {"step": 2}\n\n',
        b"",
        answer({"status": "COMPLETED", "logs": None}),
    )
    assert [event.step for event in told.values] == [1, 2]
    failed = {"status": "COMPLETED", "logs": None, "error": "a rank died", "error_type": "x"}
    with pytest.raises(StreamFailed, match="a rank died"):
        Told(flows.stream_of(ticket), Answer(200, EVENT_STREAM), b"", answer(failed))


TOKEN = {"token": "t", "token_type": "Bearer", "expires_at": "2100-01-01T00:00:00+00:00"}


def test_an_upload_fetches_one_token_and_says_what_it_sends(flows: Flows) -> None:
    lifecycle = StorageSettings("1h", StorageACL("forbid", [StorageACLRule("me", "allow")]))
    told = Told(
        flows.upload("text", "text/plain", "naïve\nname.txt", lifecycle=lifecycle),
        answer(TOKEN),
        answer({"access_url": f"{HOME}/files/1"}),
    )
    assert told.result == f"{HOME}/files/1"
    headers = told.sent[1].headers
    assert headers["authorization"] == "Bearer t"
    assert headers["x-fal-file-name"] == "naïve_name.txt"
    assert json.loads(headers["x-fal-object-lifecycle"]) == {
        "expiration_duration_seconds": 3600,
        "initial_acl": {
            "default": "forbid",
            "rules": [{"user": "me", "decision": "allow"}],
        },
    }
    again = Told(flows.upload(b"", "text/plain"), answer({"access_url": "u"}))
    assert again.result == "u"


def test_a_large_file_is_sent_in_parts_read_from_it(flows: Flows, tmp_path: Path) -> None:
    path = tmp_path / "large.bin"
    with path.open("wb") as file:
        file.truncate(101 * 2**20)
    parts = [Answer(200, {"etag": f"e{number}"}) for number in range(1, 12)]
    told = Told(
        flows.upload_file(path),
        answer(TOKEN),
        answer({"access_url": f"{HOME}/files/1", "uploadId": "up"}),
        *parts,
        answer({}),
    )
    contents = [request.content for request in told.sent[2:-1]]
    assert all(isinstance(content, Part) for content in contents)
    assert [content.size for content in contents if isinstance(content, Part)] == [
        *[10 * 2**20] * 10,
        2**20,
    ]
    assert told.sent[2].url == f"{HOME}/files/1/multipart/up/1"
    completed = told.sent[-1]
    assert isinstance(completed.content, bytes)
    assert json.loads(completed.content)["parts"][-1] == {"partNumber": 11, "etag": "e11"}


def test_a_token_opens_a_websocket_without_the_key(flows: Flows) -> None:
    options: dict[str, Any] = {"path": "/realtime", "max_buffering": None, "token_expiration": 9}
    told = Told(flows.websocket("me/app/x", use_jwt=True, **options), answer("tok"))
    assert told.result.url == "ws://server/run/me/app/x/realtime?fal_jwt_token=tok"
    assert "authorization" not in told.result.headers
    body = told.sent[0].content
    assert isinstance(body, bytes)
    assert json.loads(body) == {"allowed_apps": ["app"], "token_expiration": 9}
    told = Told(flows.websocket("me/app/x", use_jwt=False, **options))
    assert told.result.headers["authorization"] == "Key id:secret"
