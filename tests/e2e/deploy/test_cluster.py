"""``polyrank serve`` on a Ray cluster: replicas on several machines, one of which is lost."""

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
from ray_machines import Cluster, three_machines

from .conftest import Installation, Project, result_of

APP = """
import asyncio
import os

import polyrank
from pydantic import BaseModel


class Work(BaseModel):
    number: int = 0


class Spread(polyrank.App):
    app_name = "spread"
    min_concurrency = 2
    max_concurrency = 2

    @polyrank.endpoint("/")
    async def work(self, work: Work) -> dict:
        await asyncio.sleep(0.05)
        return {"number": work.number, "raylet": int(os.environ["RAY_RAYLET_PID"])}
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    yield from three_machines()


@pytest.fixture
def installation(cluster: Cluster, tmp_path: Path) -> Iterator[Installation]:
    installation = Installation(
        tmp_path / "data",
        POLYRANK_LAUNCHER="ray",
        POLYRANK_NODE_DIR=str(tmp_path / "node"),
        RAY_ADDRESS=cluster.address,
    )
    yield installation
    installation.program.end(signal.SIGINT)


def test_a_machine_is_lost_under_load_and_no_request_with_it(
    cluster: Cluster, installation: Installation, project: Project
) -> None:
    (project.folder / "app.py").write_text(APP)
    installation.deploy(project)
    raylets: set[int] = set()
    while len(raylets) < 2:  # until both replicas are there
        with ThreadPoolExecutor(2) as callers:
            calls = [callers.submit(installation.call, "local/spread") for _ in range(4)]
        raylets |= {call.result()["raylet"] for call in calls}

    submitted = [
        httpx.post(
            f"{installation.url}/queue/local/spread", json={"number": number}, trust_env=False
        ).json()
        for number in range(60)
    ]
    daemons = {node.all_processes["raylet"][0].process.pid: node for node in cluster.worker_nodes}
    lost = next(raylet for raylet in raylets if raylet in daemons)
    cluster.remove_node(daemons[lost], allow_graceful=False)
    results = [result_of(each) for each in submitted]
    assert [each["number"] for each in results] == list(range(60))
    assert not psutil.pid_exists(lost)
    # Another machine has taken the place of the lost one.
    while len(raylets - {lost}) < 2:
        with ThreadPoolExecutor(2) as callers:
            calls = [callers.submit(installation.call, "local/spread") for _ in range(4)]
        raylets |= {call.result()["raylet"] for call in calls}
