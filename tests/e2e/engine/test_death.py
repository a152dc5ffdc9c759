"""A rank that dies or freezes costs its request; whatever waits is served by the next epoch."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio

from polyrank.distributed import DistributedRunner
from polyrank.errors import RequestTimeout, RunnerStopped, SetupFailed, WorkerDied

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=[2, 4])
async def ranks(
    request: pytest.FixtureRequest, running: Callable[..., Any]
) -> AsyncIterator[DistributedRunner]:
    async with running(world_size=request.param, cancel_grace_s=0.3) as runner:
        yield runner


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def two(running: Callable[..., Any]) -> AsyncIterator[DistributedRunner]:
    async with running(world_size=2, cancel_grace_s=0.3) as runner:
        yield runner


async def is_served(runner: DistributedRunner) -> bool:
    return len(set(await runner.invoke({"do": "pids"}))) == runner.world_size


def names_the_death(error: WorkerDied, rank: int, how: str) -> bool:
    if how == "kill":
        return error.rank == rank and error.signal == "SIGKILL" and "SIGKILL" in str(error)
    return error.rank == rank and error.exit_code == 3 and "exit code 3" in str(error)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("how", ["kill", "exit"])
@pytest.mark.parametrize("place", ["running", "streaming", "collective"])
async def test_a_rank_that_dies_at_work_fails_its_request_and_no_other(
    ranks: DistributedRunner, place: str, how: str, rank: int
) -> None:
    """Row 7: the error names rank, cause and last words; the requests that wait are served."""
    payload = {"do": "die", "rank": rank, "how": how, "place": place}
    lost = asyncio.create_task(ranks.invoke(payload))
    waiting = [asyncio.create_task(ranks.invoke({"do": "echo", "value": n})) for n in range(3)]
    with pytest.raises(WorkerDied) as caught:
        await lost
    assert names_the_death(caught.value, rank, how)
    assert f"last words of rank {rank}" in caught.value.stderr
    assert f"last words of rank {rank}" in str(caught.value)
    assert await asyncio.gather(*waiting) == [0, 1, 2]


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("how", ["kill", "exit"])
async def test_a_rank_that_dies_mid_stream_ends_the_stream(
    two: DistributedRunner, how: str, rank: int
) -> None:
    """Row 7: the reader of a stream sees the death, too."""
    events = []
    with pytest.raises(WorkerDied) as caught:
        async for item in two.stream({"do": "die", "rank": rank, "how": how, "place": "streaming"}):
            events.append(item)
    assert names_the_death(caught.value, rank, how)
    assert events == [0, 1, 2][: len(events)]
    assert await is_served(two)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("place", ["running", "streaming", "collective"])
async def test_a_rank_that_freezes_at_work_is_replaced_after_the_timeout(
    ranks: DistributedRunner, place: str, rank: int
) -> None:
    """Row 12: the timeout ends the request, the grace ends the frozen rank."""
    payload = {"do": "die", "rank": rank, "how": "freeze", "place": place}
    before = await ranks.invoke({"do": "pids"})
    with pytest.raises(RequestTimeout):
        await ranks.invoke(payload, timeout=0.3)
    after = await ranks.invoke({"do": "pids"})
    assert not set(before) & set(after)


@pytest.mark.parametrize("rank", [0, 1])
async def test_a_rank_that_is_killed_while_idle_is_replaced(
    ranks: DistributedRunner, rank: int
) -> None:
    """Row 19: the survivors go, too, and nobody who calls later notices."""
    before = [psutil.Process(pid) for pid in await ranks.invoke({"do": "pids"})]
    before[rank].kill()
    after = await ranks.invoke({"do": "pids"}, retries=1)  # in case it is ahead of the news
    assert not {process.pid for process in before} & set(after)
    gone, alive = await asyncio.to_thread(psutil.wait_procs, before, 60)
    assert not alive


@pytest.mark.parametrize("rank", [0, 1])
async def test_a_rank_that_exits_while_idle_is_replaced(
    two: DistributedRunner, gate: Any, rank: int
) -> None:
    before = await two.invoke({"do": "pids"})
    await two.invoke({"do": "die_when", "rank": rank, "fifo": gate.path, "how": "exit"})
    died = psutil.Process(before[rank])
    await gate.open()
    await asyncio.to_thread(psutil.wait_procs, [died], 60)
    after = await two.invoke({"do": "pids"}, retries=1)
    assert not set(before) & set(after)


@pytest.mark.parametrize("rank", [0, 1])
async def test_a_rank_that_freezes_while_idle_is_replaced_after_the_next_timeout(
    two: DistributedRunner, rank: int
) -> None:
    before = await two.invoke({"do": "pids"})
    os.kill(before[rank], signal.SIGSTOP)
    with pytest.raises(RequestTimeout):
        await two.invoke({"do": "pids"}, timeout=0.3)
    assert not set(before) & set(await two.invoke({"do": "pids"}))


async def test_the_rank_that_died_is_named_not_the_peer_that_noticed(
    two: DistributedRunner,
) -> None:
    """A peer in a collective sees its connection close; the cause is the death, every time."""
    for _ in range(10):
        with pytest.raises(WorkerDied) as caught:
            await two.invoke({"do": "die", "rank": 1, "how": "exit", "place": "collective"})
        assert names_the_death(caught.value, 1, "exit")


async def test_a_retried_request_survives_a_death(two: DistributedRunner, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    flag.touch()
    payload = {"do": "die_if", "flag": str(flag), "rank": 0, "how": "exit"}
    lost = asyncio.create_task(two.invoke(payload, retries=1000))
    with pytest.raises(WorkerDied):
        await two.invoke(payload)
    flag.unlink()
    assert await lost is None


async def test_a_hang_is_found_where_a_limit_is_set(running: Callable[..., Any]) -> None:
    """Row 6: a rank without progress is killed, with no timeout from the caller."""
    async with running(world_size=2, hang_timeout_s=0.5) as runner:
        for rank in (0, 1):
            with pytest.raises(WorkerDied, match="progress"):
                await runner.invoke({"do": "die", "rank": rank, "how": "freeze"})
            assert await is_served(runner)


async def test_work_that_gets_on_is_no_hang(running: Callable[..., Any]) -> None:
    async with running(world_size=2, hang_timeout_s=0.5) as runner:
        events = {"do": "steps", "count": 3}
        assert await runner.invoke(events) == "completed"
        stream = runner.stream({"do": "endless"})
        assert await anext(stream) == "begun"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.5):
                await anext(stream)
        assert not runner.gather_errors()


async def test_the_process_that_forks_ranks_may_die_too(running: Callable[..., Any]) -> None:
    async with running(world_size=2) as runner:
        first = [psutil.Process(pid) for pid in await runner.invoke({"do": "pids"})]
        first[0].parent().kill()  # type: ignore[union-attr]
        await asyncio.to_thread(psutil.wait_procs, first, 60)
        second = await runner.invoke({"do": "pids"}, retries=1)
        assert not {process.pid for process in first} & set(second)


async def test_what_a_dead_rank_had_started_is_killed_with_it(
    running: Callable[..., Any],
) -> None:
    """Row 19: nothing of the group keeps memory, children of its ranks included."""
    async with running(world_size=2) as runner:
        child = psutil.Process(await runner.invoke({"do": "start_child"}))
        rank = psutil.Process((await runner.invoke({"do": "pids"}))[0])
        rank.kill()
        gone, alive = await asyncio.to_thread(psutil.wait_procs, [rank, child], 60)
        assert not alive


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(("how", "word"), [("kill", "SIGKILL"), ("exit", "exit code 3")])
async def test_a_rank_that_dies_in_setup_fails_the_start_by_name(
    running: Callable[..., Any], rank: int, how: str, word: str
) -> None:
    """Row 19: the caller of ``start`` learns which rank, how, and its last words."""
    setup = {"do": "die", "rank": rank, "how": how, "place": "setup"}
    with pytest.raises(SetupFailed, match=f"rank {rank}.*{word}") as caught:
        async with running(world_size=2, setup=setup):
            pass
    assert caught.value.rank == rank
    assert f"last words of rank {rank}" in str(caught.value)


async def test_a_rank_that_freezes_in_setup_fails_the_start_in_time(
    running: Callable[..., Any],
) -> None:
    setup = {"do": "die", "rank": 1, "how": "freeze", "place": "setup"}
    with pytest.raises(SetupFailed, match="not ready within 4 s"):
        async with running(world_size=2, setup=setup, start_timeout=4):
            pass


async def test_an_exception_in_setup_carries_its_traceback(running: Callable[..., Any]) -> None:
    """Row 19: the setup error itself, not "failed to start"."""
    with pytest.raises(SetupFailed, match="rank 1.*ValueError: boom") as caught:
        async with running(world_size=2, setup={"do": "fail", "ranks": [1]}):
            pass
    assert caught.value.rank == 1
    assert "engine_workers.py" in caught.value.traceback


async def test_a_group_that_dies_in_every_start_is_reported_and_left_down(
    running: Callable[..., Any], tmp_path: Path
) -> None:
    """What waits for it is told; nothing starts for ever."""
    flag = tmp_path / "flag"
    setup = {"do": "die_if", "flag": str(flag), "rank": 1, "how": "exit"}
    async with running(world_size=2, setup=setup, max_start_failures=2) as runner:
        flag.touch()
        lost = asyncio.create_task(
            runner.invoke({"do": "die", "rank": 0, "how": "kill", "place": "running"})
        )
        waiting = asyncio.create_task(runner.invoke({"do": "pids"}))
        with pytest.raises(WorkerDied):
            await lost
        with pytest.raises(RunnerStopped, match="exit code 3"):
            await waiting
        assert not runner.is_alive()
        assert "exit code 3" in str(runner.gather_errors()[-1])
        with pytest.raises(RunnerStopped, match="exit code 3"):
            await runner.invoke({"do": "pids"})
        with pytest.raises(RunnerStopped, match="exit code 3"):
            await runner.ensure_alive()


async def test_a_group_that_fails_once_to_start_again_is_tried_again(
    running: Callable[..., Any], tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    setup = {"do": "die_once", "flag": str(flag), "rank": 1}
    async with running(world_size=2, setup=setup) as runner:
        flag.touch()
        with pytest.raises(WorkerDied):
            await runner.invoke({"do": "die", "rank": 0, "how": "kill", "place": "running"})
        assert await is_served(runner)
