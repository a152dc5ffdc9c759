"""Ranks on several machines of a Ray cluster keep every promise that ranks on one machine keep."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import pytest_asyncio
import zmq
from engine_workers import Preloaded
from PIL import Image
from ray_machines import Cluster, ray, three_machines
from zmq.utils.monitor import parse_monitor_message

from polyrank.distributed import DistributedRunner, wire
from polyrank.distributed.guard import Guard, Keys, use_keys
from polyrank.distributed.remote import frames
from polyrank.distributed.router import Router
from polyrank.errors import NotEnoughDevices, RequestTimeout, SetupFailed, WorkerDied, WorkerError

pytestmark = pytest.mark.asyncio(loop_scope="module")

HANDSHAKE_IS_OVER = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_DISCONNECTED
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Three machines with room for one rank each."""
    yield from three_machines()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(cluster: Cluster, running: Callable[..., Any]) -> AsyncIterator[DistributedRunner]:
    """Two ranks that work together, on two machines."""
    async with running(world_size=2, launcher="ray", cancel_grace_s=10) as runner:
        yield runner


async def pids(runner: DistributedRunner) -> list[int]:
    result: list[int] = await runner.invoke({"do": "pids"})
    return result


async def machines(runner: DistributedRunner) -> list[int]:
    """The pid of Ray's daemon on the machine of each rank."""
    found = await runner.invoke({"do": "environment", "name": "RAY_RAYLET_PID"})
    return [int(pid) for pid in found]


def daemon(node: Any) -> int:
    pid: int = node.all_processes["raylet"][0].process.pid
    return pid


async def has_begun(stream: Any, item: Any = "begun") -> None:
    async for found in stream:
        if found == item:
            return


def skip_where_a_cluster_runs() -> None:
    if any(process.name() == "gcs_server" for process in psutil.process_iter(["name"])):
        pytest.skip("a Ray cluster runs on this machine")


async def test_no_cluster_is_a_sentence(running: Callable[..., Any]) -> None:
    """Not a traceback of Ray's. The first test here: no cluster has been started yet."""
    skip_where_a_cluster_runs()
    try:
        with pytest.raises(SetupFailed, match="ray start --head"):
            async with running(launcher="ray"):
                pass
    except pytest.fail.Exception:  # it was found, if tests that run beside this have started one
        ray.shutdown()
        skip_where_a_cluster_runs()
        raise


async def test_what_a_worker_preloads_is_imported_where_its_ranks_are(
    cluster: Cluster,
    running: Callable[..., Any],
    preloading: Callable[..., None],
) -> None:
    """By the process that they are forked from."""
    preloading()
    async with running(Preloaded, launcher="ray") as runner:
        [[imported_by, parent]] = await runner.invoke({})
        assert imported_by == parent


async def test_the_ranks_are_on_two_machines(pair: DistributedRunner) -> None:
    assert len(set(await machines(pair))) == 2
    assert await pair.invoke({"do": "total", "values": [3, 4]}) == 7
    hosts = await pair.invoke({"do": "host_of_group"})
    assert hosts == [ray.util.get_node_ip_address()] * 2


async def test_values_cross_losslessly_and_are_the_workers_own(pair: DistributedRunner) -> None:
    array = np.random.default_rng(7).standard_normal((700, 500))
    picture = Image.effect_noise((300, 200), 60)
    echoed = await pair.invoke({"do": "echo", "value": [array, picture, b"x" * 200_000, "text"]})
    assert np.array_equal(echoed[0], array)
    assert echoed[1].tobytes() == picture.tobytes()
    assert echoed[2:] == [b"x" * 200_000, "text"]
    echoed[0][0] = 1  # and the caller's own
    # As many calls as would fill the shared memory if its blocks were not given back.
    big = np.zeros(2**20, np.uint8)
    for _ in range(20):
        assert len(await pair.invoke({"do": "echo", "value": big})) == len(big)
    assert await pair.invoke({"do": "mutate", "value": [big]}) == [[0], [0]]


async def test_events_arrive_in_order_and_before_the_result(pair: DistributedRunner) -> None:
    payload = {"do": "events", "owner": "me", "count": 600}  # more than the window
    received = [item async for item in pair.stream(payload)]
    numbers = [item["number"] for item in received[:-1]]
    assert numbers == list(range(600))
    assert received[-1] == {"owner": "me", "count": 600}
    texts = [text async for text in pair.stream({**payload, "count": 1}, as_text_events=True)]
    assert texts[0] == b'data: {"owner": "me", "number": 0}\n\n'


async def test_a_slow_reader_holds_up_the_ranks(pair: DistributedRunner) -> None:
    before = await pids(pair)
    async with contextlib.aclosing(
        pair.stream({"do": "events", "owner": 1, "count": 10**6, "pause": True})
    ) as stream:
        await has_begun(stream, {"owner": 1, "number": 0})
    assert await pids(pair) == before


@pytest.mark.parametrize("step", [0, 1, 5, 10])
async def test_every_rank_leaves_at_the_same_step(
    pair: DistributedRunner, gate: Any, step: int
) -> None:
    before = await pids(pair)
    payload = {"do": "steps", "count": 10**6, "hold_at": step, "fifo": gate.path}
    async with contextlib.aclosing(pair.stream(payload)) as stream:
        await has_begun(stream, step)
    await gate.open()
    # The word goes over the network, while the ranks go on.
    left = await pair.invoke({"do": "left_at"})
    assert left[0] == left[1] >= step
    assert await pids(pair) == before


async def test_a_cancellation_at_any_moment_tears_no_collective(pair: DistributedRunner) -> None:
    """And one that comes too late does not reach the next request."""
    before = await pids(pair)
    for number in range(60):
        async with contextlib.aclosing(pair.stream({"do": "steps", "count": 1000})) as stream:
            await has_begun(stream, number % 20)
        left = await pair.invoke({"do": "left_at"})
        assert left[0] is not None
        assert left[0] == left[1]
        async with contextlib.aclosing(pair.stream({"do": "steps", "count": 3})) as stream:
            await has_begun(stream, number % 3)
        assert await pair.invoke({"do": "steps", "count": 5}) == "completed"
    assert await pids(pair) == before


async def test_a_timeout_stops_the_work(pair: DistributedRunner) -> None:
    before = await pids(pair)
    with pytest.raises(RequestTimeout, match="within 0.1 s"):
        await pair.invoke({"do": "endless"}, timeout=0.1)
    assert await pids(pair) == before


@pytest.mark.parametrize("rank", [0, 1])
async def test_an_exception_names_its_rank_and_costs_no_process(
    pair: DistributedRunner, rank: int
) -> None:
    before = await pids(pair)
    with pytest.raises(WorkerError, match=f"rank {rank} raised ValueError: boom") as caught:
        await pair.invoke({"do": "fail", "ranks": [rank]})
    assert "engine_workers.py" in caught.value.traceback
    with pytest.raises(WorkerError, match="without me"):
        await pair.invoke({"do": "fail_and_go_on", "rank": rank})
    assert await pids(pair) == before


async def test_lines_carry_their_rank_and_request(
    pair: DistributedRunner, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "polyrank.rank"):
        await pair.invoke({"do": "say", "text": "hello", "ranks": [1]})
    said = [record for record in caplog.records if record.getMessage() == "[rank 1] hello"]
    assert [record.request_id is not None for record in said] == [True]
    assert "[rank 1] hello from C" in caplog.messages


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(("how", "word"), [("kill", "SIGKILL"), ("exit", "exit code 3")])
async def test_a_rank_that_dies_fails_its_request_and_no_other(
    pair: DistributedRunner, rank: int, how: str, word: str
) -> None:
    payload = {"do": "die", "rank": rank, "how": how, "place": "collective"}
    lost = asyncio.create_task(pair.invoke(payload))
    waiting = [asyncio.create_task(pair.invoke({"do": "echo", "value": n})) for n in range(3)]
    with pytest.raises(WorkerDied, match=f"rank {rank}.*{word}") as caught:
        await lost
    assert f"last words of rank {rank}" in caught.value.stderr
    assert await asyncio.gather(*waiting) == [0, 1, 2]


async def test_a_relay_that_dies_is_replaced(pair: DistributedRunner) -> None:
    """Its rank dies with it, and the group comes back."""
    before = [psutil.Process(pid) for pid in await pids(pair)]
    relay = before[1].parent().parent()  # type: ignore[union-attr]
    relay.kill()
    after = await pair.invoke({"do": "pids"}, retries=1)
    assert not {process.pid for process in before} & set(after)
    assert not psutil.wait_procs(before, 60)[1]


async def test_a_machine_that_dies_under_load_costs_what_ran_there(
    cluster: Cluster, pair: DistributedRunner
) -> None:
    """What waits is served on the machines that are left."""
    used = await machines(pair)
    dying = next(node for node in cluster.worker_nodes if daemon(node) in used)
    gone = daemon(dying)
    stream = pair.stream({"do": "endless"})
    assert await anext(stream) == "begun"
    waiting = [asyncio.create_task(pair.invoke({"do": "echo", "value": n})) for n in range(5)]
    await asyncio.to_thread(cluster.remove_node, dying, allow_graceful=False)
    with pytest.raises(WorkerDied, match="was lost"):
        await anext(stream)
    assert await asyncio.gather(*waiting) == [0, 1, 2, 3, 4]
    after = await machines(pair)
    assert len(set(after)) == 2
    assert gone not in after


async def test_stopping_leaves_nothing_behind(
    cluster: Cluster, running: Callable[..., Any], pair: DistributedRunner, tmp_path: Path
) -> None:
    await pair.stop()
    async with running(world_size=1, launcher="ray", hang_timeout_s=0.5) as runner:
        with pytest.raises(WorkerDied, match="progress"):
            await runner.invoke({"do": "die", "rank": 0, "how": "freeze"})
        await runner.invoke({"do": "remember_goodbye", "folder": str(tmp_path)})
        rank = psutil.Process((await pids(runner))[0])
        relay = rank.parent().parent()  # type: ignore[union-attr]
    assert (tmp_path / "0").read_text() == "teardown ran"
    assert not psutil.wait_procs([rank, relay], 60)[1]


async def test_what_is_missing_is_said(
    cluster: Cluster, running: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(NotEnoughDevices, match="need 2 GPUs; the cluster has none"):
        async with running(world_size=2, launcher="ray", device="cuda"):
            pass
    with pytest.raises(SetupFailed, match="not ready within 4 s"):
        async with running(world_size=9, launcher="ray", start_timeout=4):
            pass
    assert "9 rank(s) ask for 9 CPUs (the cluster has 2, free are" in caplog.text


async def test_strangers_are_not_heard() -> None:
    """Only those whose keys the runner knows; and they speak to the runner and nobody else."""
    guard, friend, stranger = Guard(), Keys.create(), Keys.create()
    guard.allow(friend.public)
    router = Router("tcp://127.0.0.1:*", frames.decode_from_relay, guard)
    heard: asyncio.Queue[wire.Frame] = asyncio.Queue()
    router.register(b"rank", lambda frame, _: heard.put_nowait(frame))
    hello = wire.encode(wire.Hello(epoch=1))
    with zmq.Context() as context:
        for keys, server_key, is_let_in in [
            (None, b"", False),
            (stranger, guard.keys.public, False),
            (friend, Keys.create().public, False),
            (friend, guard.keys.public, True),
        ]:
            socket = context.socket(zmq.DEALER)
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.IDENTITY, b"rank")
            socket.setsockopt(zmq.RECONNECT_IVL, -1)
            if keys is not None:
                use_keys(socket, keys, server_key)
            monitor = socket.get_monitor_socket(HANDSHAKE_IS_OVER)
            socket.connect(router.address)
            # Where the handshake has failed by now there is nobody to send to.
            with contextlib.suppress(zmq.Again):
                socket.send_multipart(hello, zmq.NOBLOCK)
            assert await asyncio.to_thread(monitor.poll, 60_000)
            event = parse_monitor_message(monitor.recv_multipart())
            assert (event["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED) is is_let_in
            if is_let_in:
                assert await heard.get() == wire.Hello(epoch=1)
            assert heard.empty()
            socket.disable_monitor()
            monitor.close(0)
            socket.close()
    router.close()
