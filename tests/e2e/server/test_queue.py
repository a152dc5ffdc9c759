"""The queue over HTTP, beyond what clients happen to use."""

import json
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from .conftest import APP as PROGRAM

APP = "/queue/local/queue-app"


def wait(client: httpx.Client, id: str) -> dict[str, Any]:
    """The last status of a request."""
    with client.stream("GET", f"{APP}/requests/{id}/status/stream") as events:
        statuses = [
            json.loads(line[6:]) for line in events.iter_lines() if line.startswith("data: ")
        ]
    return statuses[-1]


def submit(client: httpx.Client, body: dict[str, Any], path: str = "", **headers: str) -> str:
    answer = client.post(APP + path, json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()["request_id"]


def test_a_request_from_submit_to_result(server) -> None:
    with httpx.Client(base_url=server.address, timeout=60) as client:
        answer = client.post(APP, json={"number": 3})
        body = answer.json()
        id = body["request_id"]
        assert answer.headers["x-fal-request-id"] == id
        assert body.pop("reason") in ("starting replica", "next")
        assert body == {
            "status": "IN_QUEUE",
            "request_id": id,
            "response_url": f"{server.address}{APP}/requests/{id}",
            "status_url": f"{server.address}{APP}/requests/{id}/status",
            "cancel_url": f"{server.address}{APP}/requests/{id}/cancel",
            "queue_position": 0,
        }
        done = wait(client, id)
        assert (done["status"], done["error"], done["error_type"]) == ("COMPLETED", None, None)
        assert done["metrics"]["inference_time"] >= 0
        for url in (f"{APP}/requests/{id}/status", f"{APP}/requests/{id}/status/?logs=1"):
            assert client.get(url).status_code == 200
        for url in (f"{APP}/requests/{id}", f"{APP}/requests/{id}/"):
            result = client.get(url)
            assert (result.status_code, result.json()) == (200, {"double": 6})
            assert result.headers["x-fal-request-id"] == id
        assert client.put(f"{APP}/requests/{id}/cancel").json() == {"status": "ALREADY_COMPLETED"}


def test_what_a_request_was_sent_with_can_be_seen_and_is_no_page(server) -> None:
    with httpx.Client(base_url=server.address, timeout=60) as client:
        sent = client.get(f"{APP}/requests/{submit(client, {'number': 3})}/input")
        assert sent.json() == {"number": 3}
        page = {"content": b"<script>alert(1)</script>", "headers": {"content-type": "text/html"}}
        id = client.post(APP, **page).json()["request_id"]
        sent = client.get(f"{APP}/requests/{id}/input")
        assert sent.content == page["content"]
        assert sent.headers["content-type"] == "application/octet-stream"
        assert sent.headers["x-content-type-options"] == "nosniff"


def test_a_failed_request_is_completed_with_a_reason_and_keeps_the_apps_answer(server) -> None:
    with httpx.Client(base_url=server.address, timeout=60) as client:
        id = submit(client, {"number": 2}, "/odd")
        done = wait(client, id)
        assert done["status"] == "COMPLETED"
        assert "must be odd" in done["error"] and done["error_type"] == "bad_request"
        result = client.get(f"{APP}/requests/{id}")
        assert result.status_code == 422
        assert result.json()["detail"][0]["msg"] == "must be odd"


def test_what_is_not_there_is_404_and_what_is_not_done_is_400(server) -> None:
    with httpx.Client(base_url=server.address, timeout=60) as client:
        assert client.post("/queue/local/nothing", json={}).status_code == 404
        for url in (f"{APP}/requests/none{what}" for what in ("", "/status", "/input")):
            answer = client.get(url)
            assert answer.status_code == 404 and "no request" in answer.json()["detail"]
        assert client.put(f"{APP}/requests/none/cancel").json() == {"status": "NOT_FOUND"}
        id = submit(client, {"seconds": 30}, "/work")
        assert client.get(f"{APP}/requests/{id}").status_code == 400
        assert client.put(f"{APP}/requests/{id}/cancel").status_code == 202
        assert wait(client, id)["error_type"] == "client_cancelled"
        assert client.get(f"{APP}/requests/{id}").status_code == 499


def test_bad_headers_are_refused(server) -> None:
    with httpx.Client(base_url=server.address, timeout=60) as client:
        for headers in (
            {"x-fal-request-timeout": "soon"},
            {"x-fal-request-timeout": "-1"},
            {"x-fal-queue-priority": "urgent"},
        ):
            assert client.post(APP, json={}, headers=headers).status_code == 422
        answer = client.post(f"{APP}?fal_max_queue_length=many", json={})
        assert answer.status_code == 422 and "fal_max_queue_length" in answer.json()["detail"]


def test_one_idempotency_key_runs_once(server, tmp_path: Path) -> None:
    with httpx.Client(base_url=server.address, timeout=60) as client:
        body = {"seconds": 0.1, "log": str(tmp_path / "steps")}
        with ThreadPoolExecutor(64) as pool:
            ids = list(
                pool.map(
                    lambda _: submit(client, body, "/work", **{"idempotency-key": "one"}), range(64)
                )
            )
        assert len(set(ids)) == 1
        other = client.post(APP, json={"number": 1}, headers={"idempotency-key": "one"})
        assert other.status_code == 422
        assert other.headers["x-fal-error-type"] == "idempotency_conflict"


def test_a_queue_of_limited_length_refuses_with_a_time_to_come_back(server) -> None:
    with httpx.Client(base_url=server.address, timeout=60) as client:
        ids = [submit(client, {"seconds": 20}, "/work") for _ in range(6)]
        refused = client.post(f"{APP}?fal_max_queue_length=2", json={"number": 1})
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        for id in ids:
            client.put(f"{APP}/requests/{id}/cancel")


def test_a_503_is_tried_again_until_it_is_good(server, tmp_path: Path) -> None:
    with httpx.Client(base_url=server.address, timeout=60) as client:
        log = str(tmp_path / "tries")
        id = submit(client, {"log": log}, "/flaky")
        assert wait(client, id)["error"] is None
        assert client.get(f"{APP}/requests/{id}").json() == {"tries": 3}
        log = str(tmp_path / "one try")
        id = submit(client, {"log": log}, "/flaky", **{"x-fal-no-retry": "1"})
        assert wait(client, id)["error"] == "not yet"
        assert client.get(f"{APP}/requests/{id}").status_code == 503


def test_what_ran_when_the_server_was_killed_is_run_again_at_once(server, tmp_path: Path) -> None:
    log = tmp_path / "steps"
    with httpx.Client(base_url=server.address, timeout=60) as client:
        id = submit(client, {"seconds": 1, "log": str(log)}, "/work")
        with client.stream("GET", f"{APP}/requests/{id}/status/stream") as events:
            next(line for line in events.iter_lines() if "IN_PROGRESS" in line)
            server.end(signal.SIGKILL)
    server.start()
    with httpx.Client(base_url=server.address, timeout=60) as client:
        assert wait(client, id)["error"] is None
        assert "pid" in client.get(f"{APP}/requests/{id}").json()


def test_a_caller_of_run_who_hangs_up_stops_the_work(server, tmp_path: Path) -> None:
    log = tmp_path / "steps"
    log.touch()
    address = httpx.URL(server.address)
    body = json.dumps({"seconds": 60, "log": str(log)})
    request = (
        f"POST /run/local/queue-app/work HTTP/1.1\r\nhost: {address.netloc.decode()}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n{body}"
    )
    with socket.create_connection((address.host, address.port)) as caller:
        caller.sendall(request.encode())
        while "step" not in log.read_text():
            pass
    with httpx.Client(base_url=server.address, timeout=60) as client:
        # All four slots are free again: four calls run side by side.
        with ThreadPoolExecutor(4) as pool:
            answers = pool.map(
                lambda _: client.post("/run/local/queue-app/work", json={"seconds": 0.1}), range(4)
            )
        assert [answer.status_code for answer in answers] == [200] * 4
        done = log.read_text()
        client.post("/run/local/queue-app/work", json={"seconds": 0.2})
        assert log.read_text() == done


def test_a_server_lets_only_so_many_wait(start_server) -> None:
    server = start_server(f"{PROGRAM}::QueueApp", {"POLYRANK_MAX_QUEUED": "3"})
    with httpx.Client(base_url=server.address, timeout=60) as client:
        running = []
        for _ in range(4):  # takes all slots
            running.append(submit(client, {"seconds": 60}, "/work"))
            with client.stream("GET", f"{APP}/requests/{running[-1]}/status/stream") as events:
                next(line for line in events.iter_lines() if "IN_PROGRESS" in line)
        waiting = [submit(client, {"number": 1}) for _ in range(3)]
        refused = client.post(APP, json={"number": 1})
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert "as many as this server lets wait" in refused.json()["detail"]
        for id in [*running, *waiting]:
            client.put(f"{APP}/requests/{id}/cancel")
        time.sleep(int(refused.headers["retry-after"]))
        assert wait(client, submit(client, {"number": 1}))["error"] is None


def test_an_app_is_not_given_its_callers_secrets(server) -> None:
    secrets = {"authorization": "Key id:secret", "cookie": "session=1", "x-own": "mine"}
    with httpx.Client(base_url=server.address, timeout=60, headers=secrets) as client:
        direct = client.post("/run/local/queue-app/caller", json={}).json()
        id = submit(client, {}, "/caller")
        wait(client, id)
        queued = client.get(f"{APP}/requests/{id}").json()
    for seen in (direct, queued):
        assert seen["x-own"] == "mine"
        assert not {"authorization", "cookie"} & seen.keys()
