"""Two servers on one Postgres database share the work."""

import json
import signal
from collections.abc import Iterator

import httpx
import pytest

from .conftest import ServerProcess

APP = "/queue/local/queue-app"


@pytest.fixture
def servers(postgres_url: str) -> Iterator[list[ServerProcess]]:
    processes = [ServerProcess(postgres_url) for _ in range(2)]
    yield processes
    for process in processes:
        process.end()


def wait(address: str, id: str) -> None:
    """Waits at a server until a request is done, wherever it runs."""
    with httpx.stream("GET", f"{address}{APP}/requests/{id}/status/stream", timeout=60) as events:
        for line in events.iter_lines():
            assert "FAILED" not in line


def submit(address: str, count: int, body: dict[str, object]) -> list[str]:
    return [
        httpx.post(f"{address}{APP}/work", json=body).json()["request_id"] for _ in range(count)
    ]


def result(address: str, id: str) -> dict[str, int]:
    return httpx.get(f"{address}{APP}/requests/{id}").json()


def test_what_one_is_given_both_run_and_either_tells(servers: list[ServerProcess]) -> None:
    first, second = servers
    for server in servers:  # both replicas are up
        assert httpx.post(f"{server.address}/run/local/queue-app", json={"number": 1}).is_success
    ids = submit(first.address, 16, {"seconds": 0.3})
    for id in ids:
        wait(second.address, id)
    pids = {result(first.address, id)["pid"] for id in ids}
    assert len(pids) == 2


def test_a_cancel_at_one_stops_what_the_other_runs(servers: list[ServerProcess]) -> None:
    first, second = servers
    ids = submit(first.address, 8, {"seconds": 60})  # both have four slots
    for id in ids:
        url = f"{first.address}{APP}/requests/{id}/status/stream"
        with httpx.stream("GET", url, timeout=60) as events:
            next(line for line in events.iter_lines() if "IN_PROGRESS" in line)
    for id in ids:
        answer = httpx.put(f"{second.address}{APP}/requests/{id}/cancel")
        assert answer.json() == {"status": "CANCELLATION_REQUESTED"}
    for id in ids:
        wait(first.address, id)
        assert httpx.get(f"{second.address}{APP}/requests/{id}").status_code == 499


def test_what_a_killed_server_ran_the_other_runs_again(servers: list[ServerProcess]) -> None:
    first, second = servers
    ids = submit(first.address, 8, {"seconds": 4})
    for id in ids:
        url = f"{second.address}{APP}/requests/{id}/status/stream"
        with httpx.stream("GET", url, timeout=60) as events:
            next(line for line in events.iter_lines() if "IN_PROGRESS" in line)
    first.end(signal.SIGKILL)
    for id in ids:
        wait(second.address, id)
        status = httpx.get(f"{second.address}{APP}/requests/{id}/status").json()
        assert json.dumps(status["error"]) == "null"
    first.start()
