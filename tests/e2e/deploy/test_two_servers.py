"""Two servers on one Postgres database and one file store: what one is told, both do."""

import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from .conftest import Installation, Project


@pytest.fixture
def servers(postgres_url: str, tmp_path: Path) -> Iterator[list[Installation]]:
    shared = {
        "POLYRANK_DATABASE_URL": postgres_url,
        "POLYRANK_FILES_URL": str(tmp_path / "files"),
    }
    servers = [Installation(tmp_path / name, **shared) for name in ("first", "second")]
    yield servers
    for server in servers:
        server.program.end(signal.SIGINT)


def versions(server: Installation) -> str:
    """What a server answers, once it knows the app."""
    while True:
        answer = httpx.post(f"{server.url}/run/local/greeter", json={}, trust_env=False, timeout=60)
        if answer.status_code != 404:
            return str(answer.raise_for_status().json()["version"])


def test_what_is_deployed_at_one_server_is_served_by_both(
    servers: list[Installation], project: Project
) -> None:
    first, second = servers
    first.deploy(project)
    assert versions(first) == versions(second) == "one"
    project.write("two")
    second.deploy(project)
    while versions(first) == "one":
        pass
    assert versions(first) == versions(second) == "two"
    assert second.run("apps", "delete", "greeter", "--yes").returncode == 0
    while True:
        answer = httpx.post(f"{first.url}/run/local/greeter", json={}, trust_env=False, timeout=60)
        if answer.status_code == 404:
            break
    assert first.replicas() == second.replicas() == []
