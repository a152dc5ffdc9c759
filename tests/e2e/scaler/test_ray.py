"""Replicas on the machines of a Ray cluster: placed, called, found again, lost with a machine."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import pytest_asyncio
from ray_machines import Cluster, three_machines

from polyrank.gateway.upstream import Upstream
from polyrank.reports import TOKEN_HEADER, Loaded, Ready
from polyrank.scaler.launch.base import Ended, ReplicaSpec, Waiting
from polyrank.scaler.launch.ray import Cluster as Places
from polyrank.scaler.launch.ray import RayHandle, RayLauncher
from polyrank.scaler.logs import Logs

pytestmark = pytest.mark.asyncio(loop_scope="module")

APP = """
import os
import polyrank
import words

class Where(polyrank.App):
    def setup(self):
        print("hello from setup")

    def teardown(self):
        print("goodbye")

    @polyrank.endpoint("/")
    def where(self) -> dict:
        return {"pid": os.getpid(), "raylet": os.environ["RAY_RAYLET_PID"], "word": words.WORD,
                "device": os.environ.get("CUDA_VISIBLE_DEVICES")}
"""


WIDE = """
import os
import polyrank
import torch.distributed
from polyrank.distributed import DistributedRunner, DistributedWorker

class Worker(DistributedWorker):
    def __call__(self, streaming=False):
        raylets = [None] * self.world_size
        torch.distributed.all_gather_object(raylets, os.environ["RAY_RAYLET_PID"])
        return {"raylets": raylets}

class Wide(polyrank.App):
    async def setup(self):
        self.runner = DistributedRunner(Worker, world_size=2)
        await self.runner.start()

    @polyrank.endpoint("/")
    async def ask(self) -> dict:
        return await self.runner.invoke()

    async def teardown(self):
        await self.runner.stop()
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    yield from three_machines()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``app``, what is deployed; ``server``, what the server keeps; ``node``, what machines do."""
    folder = tmp_path_factory.mktemp("folders")
    for name in ("app", "server", "node"):
        (folder / name).mkdir()
    (folder / "app" / "where.py").write_text(APP)
    (folder / "app" / "wide.py").write_text(WIDE)
    (folder / "app" / "words.py").write_text("WORD = 'of the bundle'")
    return folder


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def launcher(cluster: Cluster, folders: Path) -> AsyncIterator[RayLauncher]:
    made = RayLauncher(folders / "server", Places(node_folder=folders / "node"))
    yield made
    await made.close(keep=False)


def spec(folders: Path, id: str, **options: Any) -> ReplicaSpec:
    return ReplicaSpec(
        id=id,
        app="me/where",
        revision="r1",
        python="python",
        folder=folders / "app",
        ref="where.py::Where",
        **options,
    )


async def ready(handle: RayHandle) -> Ready:
    async for news in handle.follow():
        assert not isinstance(news, Ended), news.reason
        if isinstance(news, Ready):
            return news
    raise AssertionError("it was let go")


async def ended(handle: RayHandle) -> Ended:
    async for news in handle.follow():
        if isinstance(news, Ended):
            return news
    raise AssertionError("it was let go")


async def call(where: Ready) -> dict[str, Any]:
    """Calls the replica as the gateway does."""
    upstream = Upstream(where.host, where.port, where.token)
    exchange = await upstream.send("POST", b"/", [], b"")
    body = await exchange.body()
    exchange.release()
    upstream.close()
    assert exchange.status == 200, body
    return dict(json.loads(body))


async def test_a_replica_from_start_to_end(launcher: RayLauncher, folders: Path) -> None:
    handle = await launcher.start(spec(folders, "a" * 12))
    where = await ready(handle)
    answer = await call(where)
    assert answer["word"] == "of the bundle"
    assert answer["device"] == ""  # it asked for no GPU
    known = [type(news) async for news in until_ready(handle)]
    assert known == [Loaded, Ready]
    async with httpx.AsyncClient(base_url=f"http://{where.host}:{where.port}") as stranger:
        for headers in ({}, {TOKEN_HEADER.decode(): "guessed"}):
            refused = await stranger.post("/", headers=headers)
            assert refused.status_code == 401
            assert "its server only" in refused.json()["detail"]
    following = asyncio.create_task(follow_log(folders / "server", handle.spec.id))
    await handle.terminate()
    assert "it was asked to end" in (await ended(handle)).reason
    assert list((folders / "node" / "replicas").iterdir()) == []
    assert not psutil.pid_exists(answer["pid"])
    messages = await following
    assert messages.index("hello from setup") < messages.index("goodbye")
    assert "it was asked to end" in messages[-1]


async def follow_log(folder: Path, id: str) -> list[str]:
    return [line.message async for line in Logs(folder).read(id, follow=True)]


async def until_ready(handle: RayHandle) -> AsyncIterator[Any]:
    async for news in handle.follow():
        yield news
        if isinstance(news, Ready):
            return


async def test_the_next_server_finds_its_replicas(
    cluster: Cluster, launcher: RayLauncher, folders: Path
) -> None:
    places = Places(namespace="another", node_folder=folders / "node")
    before = RayLauncher(folders / "another", places)
    pid = (await call(await ready(await before.start(spec(folders, "b" * 12)))))["pid"]
    await before.close(keep=True)
    assert await launcher.recover() == []  # they are another server's
    after = RayLauncher(folders / "another", places)
    [found] = await after.recover()
    assert found.spec.app == "me/where"
    assert (await call(await ready(found)))["pid"] == pid
    await after.close(keep=False)
    assert not psutil.pid_exists(pid)


async def test_without_a_server_a_replica_ends(cluster: Cluster, folders: Path) -> None:
    places = Places(namespace="short", node_folder=folders / "node", linger_s=5)
    launcher = RayLauncher(folders / "short", places)
    answer = await call(await ready(await launcher.start(spec(folders, "c" * 12))))
    await launcher.close(keep=True)
    assert not (await asyncio.to_thread(psutil.wait_procs, [psutil.Process(answer["pid"])], 60))[1]


async def test_the_ranks_of_a_replica_may_be_on_other_machines(
    launcher: RayLauncher, folders: Path
) -> None:
    """The app names no launcher, and its runner finds the cluster that the replica is on."""
    told = {"POLYRANK_RANK_LAUNCHER": "ray", "POLYRANK_DEVICE": "cpu"}
    where = spec(folders, "f" * 12, environment=told)
    handle = await launcher.start(ReplicaSpec(**{**vars(where), "ref": "wide.py::Wide"}))
    raylets = (await call(await ready(handle)))["raylets"]
    assert len(set(raylets)) == 2
    await handle.terminate()


async def test_what_cannot_be_placed_says_why(launcher: RayLauncher, folders: Path) -> None:
    handle = await launcher.start(spec(folders, "d" * 12, num_gpus=4))
    news = await anext(handle.follow())
    assert isinstance(news, Waiting)
    assert "asks for 4 GPUs on one machine (the cluster has 0, free are 0)" in news.reason
    await handle.terminate()
    assert "before it had a place" in (await ended(handle)).reason


async def test_an_app_that_cannot_start_says_so(launcher: RayLauncher, folders: Path) -> None:
    broken = folders / "broken"
    broken.mkdir()
    (broken / "where.py").write_text("import nothing_of_this_name")
    handle = await launcher.start(
        ReplicaSpec(**{**vars(spec(folders, "e" * 12)), "folder": broken})
    )
    assert "exit status 1" in (await ended(handle)).reason
    messages = [line.message async for line in Logs(folders / "server").read(handle.spec.id)]
    assert any("nothing_of_this_name" in message for message in messages)


async def test_a_machine_that_dies_under_load(
    cluster: Cluster, launcher: RayLauncher, folders: Path
) -> None:
    """Its replica is said to be lost; the others go on; the next has a place elsewhere."""
    handles = [await launcher.start(spec(folders, digit * 12)) for digit in "12"]
    places = [await ready(handle) for handle in handles]
    raylets = [int((await call(where))["raylet"]) for where in places]
    assert len(set(raylets)) == 2
    daemons = {node.all_processes["raylet"][0].process.pid: node for node in cluster.worker_nodes}
    lost = next(index for index, raylet in enumerate(raylets) if raylet in daemons)
    kept = 1 - lost
    removing = asyncio.create_task(
        asyncio.to_thread(cluster.remove_node, daemons[raylets[lost]], allow_graceful=False)
    )
    end = asyncio.create_task(ended(handles[lost]))
    while not end.done():
        assert (await call(places[kept]))["raylet"] == str(raylets[kept])
    await removing
    assert "it was lost" in end.result().reason
    next_one = await ready(await launcher.start(spec(folders, "3" * 12)))
    assert int((await call(next_one))["raylet"]) not in raylets
