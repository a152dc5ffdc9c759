"""The server ends, in order or not, and another goes on with what runs."""

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from .conftest import Installation, Project, result_of


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    installation = Installation(tmp_path / "data")
    yield installation
    installation.program.end(signal.SIGINT)


def submit(installation: Installation, **body: object) -> dict[str, str]:
    answer = httpx.post(f"{installation.url}/queue/local/greeter", json=body, trust_env=False)
    submitted: dict[str, str] = answer.raise_for_status().json()
    return submitted


def test_a_killed_server_is_followed_by_one_that_goes_on_with_its_replicas(
    installation: Installation, project: Project
) -> None:
    project.write("kept", "min_concurrency = 1", "max_concurrency = 1")
    installation.deploy(project)
    before = installation.call()["pid"]
    submitted = [submit(installation, seconds=0.2) for _ in range(10)]
    installation.program.end(signal.SIGKILL)
    installation.start_again()
    assert [result_of(each)["pid"] for each in submitted] == [before] * 10
    assert installation.call()["pid"] == before
    assert installation.json("apps", "list-rev", "greeter")[0]["is_current"]


def test_a_replica_that_ended_with_its_server_has_ended_and_its_key_with_it(
    installation: Installation, project: Project
) -> None:
    project.write("gone", "min_concurrency = 1")
    installation.deploy(project)
    [replica] = installation.replicas()
    process = psutil.Process(replica["pid"])
    installation.program.end(signal.SIGKILL)
    process.kill()
    process.wait(60)
    installation.start_again()
    [ended] = [
        each
        for each in installation.json("runners", "list", "--since", "1h")
        if each["id"] == replica["id"]
    ]
    assert ended["state"] == "terminated"
    [key] = [
        each
        for each in installation.json("keys", "list")
        if each["description"].startswith(f"replica {replica['id']} ")
    ]
    assert key["revoked_at"] is not None


def test_a_server_that_is_asked_to_end_answers_what_it_works_on_first(
    installation: Installation, project: Project
) -> None:
    project.write("kept", "min_concurrency = 1", "max_multiplexing = 2")
    installation.deploy(project)
    before = installation.call()["pid"]
    with ThreadPoolExecutor(1) as callers:
        long_call = callers.submit(installation.call, seconds=1.0)
        queued = submit(installation, seconds=1.0)
        while installation.replicas()[0]["running"] < 2:
            pass
        assert installation.program.end(signal.SIGTERM) == 0
        assert long_call.result()["pid"] == before
    installation.start_again()
    assert result_of(queued)["pid"] == before
    assert installation.call()["pid"] == before


def test_ctrl_c_ends_the_replicas_too(installation: Installation, project: Project) -> None:
    project.write("short", "min_concurrency = 1")
    installation.deploy(project)
    [replica] = installation.replicas()
    process = psutil.Process(replica["pid"])
    assert installation.program.end(signal.SIGINT) == 0, installation.program.output
    process.wait(60)
    installation.start_again()
    assert installation.call()["version"] == "short"  # what is deployed is started again
