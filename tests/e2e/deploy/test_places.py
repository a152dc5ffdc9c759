"""Apps that share a machine which has room for one replica."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Installation, Project


@pytest.fixture
def crowded(tmp_path: Path) -> Iterator[Installation]:
    installation = Installation(tmp_path / "data", POLYRANK_SLOTS="1")
    yield installation
    import signal

    installation.program.end(signal.SIGINT)


def test_an_idle_replica_makes_room_for_an_app_that_needs_one(
    crowded: Installation, project: Project
) -> None:
    for environment in ("main", "blue"):
        project.write(environment, "keep_alive = 600")
        crowded.deploy(project, "--env", environment)
    # The second deployment has taken the place of the first, which is started again for a call.
    assert [each["app"] for each in crowded.replicas()] == ["local/greeter--blue"]
    assert crowded.call()["version"] == "main"
    assert crowded.call("local/greeter--blue")["version"] == "blue"
    assert [each["app"] for each in crowded.replicas()] == ["local/greeter--blue"]
