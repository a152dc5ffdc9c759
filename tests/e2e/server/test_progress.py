"""What a caller learns while a request waits and runs: reasons, lines of the log, events."""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from polyrank_program import ROOT

from .conftest import ServerProcess

APP = ROOT / "tests" / "programs" / "faults_app.py"
RUN = "/run/local/faults-app"
QUEUE = "/queue/local/faults-app"


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A file without which the app's setup goes on and on."""
    return tmp_path / "gate"


@pytest.fixture
def server(tmp_path: Path, gate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServerProcess]:
    monkeypatch.setenv("FAULTS_GATE", str(gate))
    process = ServerProcess(f"sqlite:///{tmp_path / 'polyrank.db'}", f"{APP}::FaultsApp")
    yield process
    process.end()


@pytest.fixture
def client(server: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.address, timeout=60) as client:
        yield client


def data(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    return (json.loads(line[6:]) for line in lines if line.startswith("data: "))


def test_from_the_start_of_the_replica_to_the_last_line_of_the_log(
    client: httpx.Client, gate: Path
) -> None:
    submitted = client.post(QUEUE, json={"steps": 3}).json()
    url = f"{QUEUE}/requests/{submitted['request_id']}"
    with client.stream("GET", f"{url}/status/stream?logs=1") as events:
        statuses = []
        for status in data(events.iter_lines()):
            statuses.append(status)
            if status.get("reason") == "loading 40 %: reading weights":
                gate.touch()
    words = [status["status"] for status in statuses]
    assert words[0] == "IN_QUEUE" and words[-1] == "COMPLETED"
    assert "IN_PROGRESS" in words
    # Each status has what is new in the log; together, they have every line once.
    lines = [line for status in statuses for line in status.get("logs") or ()]
    messages = [line["message"] for line in lines]
    assert messages == ["at work in the app", *(f"[rank 0] step {n}" for n in range(3))]
    assert {line["level"] for line in lines} == {"STDOUT"}
    assert {line["source"] for line in lines} == {"USER"}
    done = client.get(f"{url}/status?logs=1").json()
    assert done["logs"] == lines
    assert client.get(f"{url}/status").json()["logs"] is None


def test_the_status_stream_goes_on_behind_the_last_event_that_was_seen(
    client: httpx.Client, gate: Path
) -> None:
    gate.touch()
    submitted = client.post(QUEUE, json={"steps": 5}).json()
    url = f"{QUEUE}/requests/{submitted['request_id']}"
    with client.stream("GET", f"{url}/status/stream?logs=1") as events:
        for _ in data(events.iter_lines()):
            pass
    with client.stream(
        "GET", f"{url}/status/stream?logs=1", headers={"last-event-id": "4"}
    ) as events:
        [last] = data(events.iter_lines())
    assert [line["message"] for line in last["logs"]] == ["[rank 0] step 3", "[rank 0] step 4"]


def test_a_queued_streams_events_come_live_and_are_had_again_from_any_of_them(
    client: httpx.Client, gate: Path
) -> None:
    submitted = client.post(f"{QUEUE}/stream", json={"steps": 10}).json()
    url = f"{QUEUE}/requests/{submitted['request_id']}/events"
    ids = []
    with client.stream("GET", url) as events:
        gate.touch()
        for line in events.iter_lines():
            if line.startswith("id: "):
                ids.append(line[4:])
            if len(ids) == 3:
                break  # the connection is lost
    assert ids == ["1", "2", "3"]
    with client.stream("GET", url, headers={"last-event-id": ids[-1]}) as events:
        rest = list(data(events.iter_lines()))
    assert rest == [{"step": step} for step in range(3, 10)] + [10]
    with client.stream("GET", url) as events:
        again = list(data(events.iter_lines()))
    assert again[3:] == rest


def test_a_position_comes_with_a_guess_of_the_wait(client: httpx.Client, gate: Path) -> None:
    gate.touch()
    assert client.post(RUN, json={"steps": 20}).status_code == 200  # from now on it has an idea
    requests = f"{QUEUE}/requests"
    long = client.post(QUEUE, json={"steps": 100_000}).json()["request_id"]
    with client.stream("GET", f"{requests}/{long}/status/stream") as events:
        next(status for status in data(events.iter_lines()) if status["status"] == "IN_PROGRESS")
    ids = [client.post(QUEUE, json={}).json()["request_id"] for _ in range(3)]
    status = client.get(f"{requests}/{ids[-1]}/status").json()
    assert (status["status"], status["queue_position"]) == ("IN_QUEUE", 2)
    assert re.fullmatch(r"2 ahead, about [1-9]\d* s", status["reason"])
    assert client.put(f"{requests}/{long}/cancel").status_code == 202


def test_requests_are_listed(client: httpx.Client, gate: Path) -> None:
    gate.touch()
    ids = [client.post(QUEUE, json={}).json()["request_id"] for _ in range(3)]
    for id in ids:
        with client.stream("GET", f"{QUEUE}/requests/{id}/status/stream") as events:
            events.read()
    listed = client.get(f"{QUEUE}/requests?state=done&limit=2").json()["requests"]
    assert [row["request_id"] for row in listed] == ids[:0:-1]
    assert {row["status_code"] for row in listed} == {200}
    assert client.get(f"{QUEUE}/requests?state=queued").json() == {"requests": []}
    assert client.get(f"{QUEUE}/requests?state=lost").status_code == 422
    assert client.get(f"{QUEUE}/requests?limit=many").status_code == 422


def test_64_callers_with_one_idempotency_key_run_a_direct_call_once(
    client: httpx.Client, gate: Path, tmp_path: Path
) -> None:
    gate.touch()
    log = tmp_path / "steps"
    body, headers = {"steps": 5, "log": str(log)}, {"idempotency-key": "one"}
    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(lambda _: client.post(RUN, json=body, headers=headers), range(64)))
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.text for answer in answers} == {'{"steps":5}'}
    assert len(log.read_text().splitlines()) == 5
    other = client.post(RUN, json={"steps": 6}, headers=headers)
    assert (other.status_code, other.json()["error_type"]) == (422, "idempotency_conflict")
