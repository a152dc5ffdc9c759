"""Apps that share a machine which has room for one replica."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Installation, Project


@pytest.fixture
def crowded(tmp_path: Path) -> Iterator[Installation]:
    installation = Installation(tmp_path / "data", POLYRANK_SLOTS="1")
    yield installation
    installation.program.end(signal.SIGINT)


@pytest.fixture
def narrow(tmp_path: Path) -> Iterator[Installation]:
    installation = Installation(tmp_path / "data", POLYRANK_SLOTS="2")
    yield installation
    installation.program.end(signal.SIGINT)


def test_a_rolling_deployment_takes_the_place_of_an_idle_replica_of_another_app(
    narrow: Installation, project: Project
) -> None:
    for environment in ("main", "blue"):
        project.write(environment, "keep_alive = 600", "min_concurrency = 0")
        narrow.deploy(project, "--env", environment)
        narrow.call("local/greeter" if environment == "main" else "local/greeter--blue")
    project.write("bluer", "keep_alive = 600")
    narrow.deploy(project, "--env", "blue")
    assert narrow.call("local/greeter--blue")["version"] == "bluer"
    # Where the app has the whole machine, there is nobody to give way.
    project.write("wide", "machine_type = 'M'")
    narrow.deploy(project, "--env", "wide")
    done = narrow.run("deploy", "app.py", "--env", "wide", cwd=project.folder)
    assert done.returncode == 1 and "--strategy recreate" in done.stderr


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
