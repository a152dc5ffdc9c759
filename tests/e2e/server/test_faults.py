"""What goes wrong in front of a replica of two ranks, and what its callers get."""

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from polyrank_program import ROOT

from .conftest import ServerProcess

APP = ROOT / "tests" / "programs" / "faults_app.py"
RUN = "/run/local/faults-app"
QUEUE = "/queue/local/faults-app"
LONG = 80  # steps of 20 ms: longer than anything here waits, shorter than the app's limit


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("faults")
    process = ServerProcess(f"sqlite:///{folder / 'polyrank.db'}", f"{APP}::FaultsApp")
    yield process
    process.end()


@pytest.fixture
def client(server: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.address, timeout=60) as client:
        yield client


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "steps"
    path.touch()
    return path


def steps(log: Path) -> int:
    return log.read_text().count("\n")


def wait_for_steps(log: Path, count: int) -> None:
    deadline = time.monotonic() + 30
    while steps(log) < count:
        assert time.monotonic() < deadline, "the work never began"
        time.sleep(0.005)


def steps_once_still(log: Path) -> int:
    """How many steps there are when no more come for half a second."""
    before = -1
    while (now := steps(log)) != before:
        before = now
        time.sleep(0.5)
    return now


def hang_up_after(server: ServerProcess, body: dict[str, object], log: Path) -> None:
    """A caller who closes the connection in the middle of the work."""
    content = json.dumps(body).encode()
    where = urlsplit(server.address)
    with socket.create_connection((where.hostname or "", where.port or 0)) as caller:
        head = f"POST {RUN} HTTP/1.1\r\nhost: {where.netloc}\r\n"
        head += "content-type: application/json\r\n"
        caller.sendall(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
        wait_for_steps(log, 5)


def test_work_stops_when_its_caller_hangs_up(
    server: ServerProcess, client: httpx.Client, log: Path
) -> None:
    hang_up_after(server, {"steps": LONG, "log": str(log)}, log)
    # The next request is served only once the ranks have left the last.
    assert client.post(RUN, json={}).json() == {"steps": 0}
    assert steps(log) < LONG // 2


def test_who_hangs_up_while_waiting_is_never_run(
    server: ServerProcess, client: httpx.Client, log: Path, tmp_path: Path
) -> None:
    second = tmp_path / "second"
    second.touch()
    with ThreadPoolExecutor() as pool:
        first = pool.submit(client.post, RUN, json={"steps": 30, "log": str(log)})
        wait_for_steps(log, 1)
        with httpx.Client(base_url=server.address, timeout=0.2) as impatient:
            with pytest.raises(httpx.ReadTimeout):
                impatient.post(RUN, json={"steps": 30, "log": str(second)})
        assert first.result().json() == {"steps": 30}
    assert client.post(RUN, json={}).status_code == 200
    assert steps(second) == 0


@pytest.mark.parametrize("face", [RUN, QUEUE])
def test_a_request_past_its_time_is_answered_504_then_and_stopped(
    client: httpx.Client, log: Path, face: str
) -> None:
    begun = time.monotonic()
    answer = client.post(face, json={"steps": 500, "log": str(log)})
    if face is QUEUE:
        url = f"{QUEUE}/requests/{answer.json()['request_id']}"
        with client.stream("GET", f"{url}/status/stream") as events:
            *_, last = [line for line in events.iter_lines() if line.startswith("data: ")]
        assert json.loads(last[6:])["error_type"] == "request_timeout"
        answer = client.get(url)
    assert answer.status_code == 504
    assert answer.headers["x-fal-error-type"] == "request_timeout"
    assert "within 5 s" in answer.json()["detail"]
    assert time.monotonic() - begun < 10
    assert client.post(RUN, json={}).status_code == 200
    assert steps(log) < 500


def test_a_killed_ranks_caller_is_told_at_once_and_those_behind_are_served(
    client: httpx.Client, log: Path
) -> None:
    with ThreadPoolExecutor() as pool:
        first = pool.submit(client.post, RUN, json={"steps": LONG, "log": str(log)})
        wait_for_steps(log, 2)
        behind = [pool.submit(client.post, RUN, json={"steps": 1}) for _ in range(2)]
        os.kill(int(log.read_text().split()[0]), signal.SIGKILL)
        answer = first.result()
        assert answer.status_code == 503
        assert answer.json() == {
            "detail": "rank 0 was killed by SIGKILL",
            "error_type": "runner_disconnected",
        }
        assert [waiting.result().json() for waiting in behind] == [{"steps": 1}] * 2


def test_a_queued_request_whose_rank_is_killed_is_run_again(
    client: httpx.Client, log: Path
) -> None:
    id = client.post(QUEUE, json={"steps": 30, "log": str(log)}).json()["request_id"]
    wait_for_steps(log, 2)
    os.kill(int(log.read_text().split()[0]), signal.SIGKILL)
    with client.stream("GET", f"{QUEUE}/requests/{id}/status/stream") as events:
        words = [json.loads(line[6:]) for line in events.iter_lines() if line.startswith("data: ")]
    assert words[-1]["status"] == "COMPLETED" and words[-1]["error"] is None
    assert any("retry 1 of 10" in word.get("reason", "") for word in words)
    assert client.get(f"{QUEUE}/requests/{id}").json() == {"steps": 30}


def test_a_killed_replicas_caller_is_told_at_once_and_those_behind_are_served(
    server: ServerProcess, client: httpx.Client, log: Path
) -> None:
    with ThreadPoolExecutor() as pool:
        first = pool.submit(client.post, RUN, json={"steps": LONG, "log": str(log)})
        wait_for_steps(log, 2)
        behind = [pool.submit(client.post, RUN, json={"steps": 1}) for _ in range(2)]
        os.kill(server.replica_pid(), signal.SIGKILL)
        answer = first.result()
        assert answer.status_code == 503
        assert answer.json()["error_type"] == "runner_connection_error"
        assert [waiting.result().json() for waiting in behind] == [{"steps": 1}] * 2


def test_a_slow_reader_holds_up_the_ranks_and_not_the_memory(
    server: ServerProcess, client: httpx.Client, log: Path
) -> None:
    body = {"steps": 500, "log": str(log), "pad": 2**18, "pause": 0}
    with client.stream("POST", f"{RUN}/stream", json=body) as events:
        lines = events.iter_lines()
        next(lines)
        wait_for_steps(log, 3)
        # The engine lets a rank be some 300 events ahead, and sockets hold some more.
        assert steps_once_still(log) < 500
        assert sum(1 for line in lines if line.startswith("data: ")) == 500
    assert steps(log) == 500
