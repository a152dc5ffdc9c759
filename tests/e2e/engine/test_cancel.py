"""A cancelled request leaves every rank at the same step, and leaves the next one alone."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from polyrank.distributed import DistributedRunner
from polyrank.errors import RequestTimeout, WorkerDied

pytestmark = pytest.mark.asyncio(loop_scope="module")

STEPS = 12


async def pids(runner: DistributedRunner) -> list[int]:
    result: list[int] = await runner.invoke({"do": "pids"})
    return result


async def has_begun(stream: Any, item: Any = "begun") -> None:
    async for found in stream:
        if found == item:
            return


@pytest.mark.parametrize("step", range(STEPS - 1))
async def test_every_rank_leaves_at_the_same_step(
    pair: DistributedRunner, gate: Any, step: int
) -> None:
    """Row 12: closing the stream at step k ends the work at the next common checkpoint."""
    before = await pids(pair)
    payload = {"do": "steps", "count": STEPS, "hold_at": step, "fifo": gate.path}
    async with contextlib.aclosing(pair.stream(payload)) as stream:
        await has_begun(stream, step)
    await gate.open()
    left = await pair.invoke({"do": "left_at"})
    assert left in ([step, step], [step + 1, step + 1])
    assert await pids(pair) == before


async def test_a_cancellation_at_any_moment_tears_no_collective(pair: DistributedRunner) -> None:
    """Row 12, a hundred times wherever the ranks happen to be."""
    before = await pids(pair)
    for number in range(100):
        async with contextlib.aclosing(pair.stream({"do": "steps", "count": 1000})) as stream:
            await has_begun(stream, number % 20)
        left = await pair.invoke({"do": "left_at"})
        assert left[0] is not None
        assert left[0] == left[1]
    assert await pids(pair) == before


async def test_cancelling_the_awaiting_task_stops_the_work(pair: DistributedRunner) -> None:
    before = await pids(pair)
    for _ in range(20):
        job = asyncio.create_task(pair.invoke({"do": "steps", "count": 10_000_000}))
        await asyncio.sleep(0)
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
    left = await pair.invoke({"do": "left_at"})
    assert left[0] == left[1]
    assert await pids(pair) == before


async def test_a_timeout_stops_the_work(pair: DistributedRunner) -> None:
    """Row 12: RequestTimeout for the caller, a free group for the next."""
    before = await pids(pair)
    with pytest.raises(RequestTimeout, match="within 0.1 s"):
        await pair.invoke({"do": "steps", "count": 10_000_000}, timeout=0.1)
    left = await pair.invoke({"do": "left_at"})
    assert left[0] == left[1] is not None
    assert await pids(pair) == before


async def test_a_timeout_of_a_stream_stops_the_work(pair: DistributedRunner) -> None:
    before = await pids(pair)
    with pytest.raises(RequestTimeout, match="within 0.1 s"):
        async for _ in pair.stream({"do": "steps", "count": 10_000_000}, timeout=0.1):
            pass
    with pytest.raises(RequestTimeout, match="nothing was streamed for 0.1 s"):
        async for _ in pair.stream({"do": "endless"}, timeout=20, streaming_timeout=0.1):
            pass
    assert await pids(pair) == before


async def test_a_request_timeout_is_a_timeout_error(pair: DistributedRunner) -> None:
    with pytest.raises(TimeoutError) as caught:
        await pair.invoke({"do": "endless"}, timeout=0.05)
    assert (caught.value.status, caught.value.code) == (504, "request_timeout")


async def test_a_callers_own_timeout_stops_the_work_and_stays_the_callers(
    pair: DistributedRunner,
) -> None:
    with pytest.raises(TimeoutError) as caught:
        async with asyncio.timeout(0.05):
            await pair.invoke({"do": "endless"})
    assert not isinstance(caught.value, RequestTimeout)
    assert len(await pids(pair)) == 2


async def test_a_request_cancelled_in_the_queue_never_runs(
    pair: DistributedRunner, gate: Any
) -> None:
    busy = asyncio.create_task(pair.invoke({"do": "hold", "fifo": gate.path}))
    never = asyncio.create_task(pair.invoke({"do": "record", "item": "never"}))
    after = asyncio.create_task(pair.invoke({"do": "record", "item": "after"}))
    await asyncio.sleep(0)
    never.cancel()
    with pytest.raises(RequestTimeout):
        await pair.invoke({"do": "record", "item": "timed out"}, timeout=0.05)
    assert pair.queued == 1
    await gate.open()
    await asyncio.gather(busy, after)
    recorded = await pair.invoke({"do": "recorded"})
    assert "after" in recorded
    assert not {"never", "timed out"} & {item for item in recorded if isinstance(item, str)}


async def test_a_worker_without_checkpoints_is_left_to_finish(
    pair: DistributedRunner, gate: Any
) -> None:
    """Its result is dropped, its rank lives."""
    before = await pids(pair)
    async with contextlib.aclosing(
        pair.stream({"do": "hold", "fifo": gate.path, "result": "late"})
    ) as stream:
        await has_begun(stream)
    following = asyncio.create_task(pids(pair))
    await gate.open()
    assert await following == before


async def test_a_worker_that_does_not_leave_is_killed_past_the_grace(
    running: Callable[..., Any],
) -> None:
    """And the request that waited is served by the group that comes after it."""
    async with running(world_size=2, cancel_grace_s=0.2) as runner:
        before = await pids(runner)
        with pytest.raises(RequestTimeout):
            await runner.invoke({"do": "block"}, timeout=0.1)
        after = await pids(runner)
        assert not set(before) & set(after)
        assert "0.2 s after it was cancelled" in str(runner.gather_errors()[-1])


async def test_catching_exception_does_not_swallow_a_cancellation(
    pair: DistributedRunner,
) -> None:
    before = await pids(pair)
    async with contextlib.aclosing(pair.stream({"do": "stubborn"})) as stream:
        await has_begun(stream)
    assert await pids(pair) == before


async def test_cancelling_twice_is_cancelling_once(pair: DistributedRunner) -> None:
    before = await pids(pair)
    stream = pair.stream({"do": "endless"})
    await has_begun(stream)
    await stream.aclose()  # type: ignore[attr-defined]
    await stream.aclose()  # type: ignore[attr-defined]
    assert await pids(pair) == before


async def test_closing_a_stream_that_is_over_or_was_never_read(pair: DistributedRunner) -> None:
    finished = pair.stream({"do": "echo", "value": 1})
    assert [item async for item in finished] == [1]
    await finished.aclose()  # type: ignore[attr-defined]
    unread = pair.stream({"do": "record", "item": "unread"})
    await unread.aclose()  # type: ignore[attr-defined]
    assert "unread" not in await pair.invoke({"do": "recorded"})


async def test_a_cancellation_that_comes_too_late_does_not_reach_the_next(
    pair: DistributedRunner,
) -> None:
    """The next request, of the very same worker code, completes."""
    for number in range(100):
        async with contextlib.aclosing(pair.stream({"do": "steps", "count": 3})) as stream:
            await has_begun(stream, number % 3)
        assert await pair.invoke({"do": "steps", "count": 5}) == "completed"


async def test_a_failing_rank_ends_its_peers_at_a_checkpoint(pair: DistributedRunner) -> None:
    """Peers that call checkpoint leave by themselves: no rank is killed."""
    before = await pids(pair)
    with pytest.raises(Exception, match="rank 1 raised ValueError"):
        await pair.invoke({"do": "fail_and_go_on", "rank": 1})
    assert await pids(pair) == before


async def test_diffusers_style_callbacks_are_checkpoints(pair: DistributedRunner) -> None:
    seen = await pair.invoke({"do": "denoise", "steps": 4})
    assert seen == [(step, {"latents": step}) for step in range(4)]
    before = await pids(pair)
    async with contextlib.aclosing(pair.stream({"do": "denoise", "steps": 10**9})) as stream:
        await has_begun(stream)
    assert await pids(pair) == before


async def test_a_death_during_a_cancellation_is_only_a_restart(
    running: Callable[..., Any],
) -> None:
    async with running(world_size=2, cancel_grace_s=20) as runner:
        payload = {"do": "die_when_cancelled", "rank": 1}
        async with contextlib.aclosing(runner.stream(payload)) as stream:
            await has_begun(stream)
        assert len(await pids(runner)) == 2
        assert isinstance(runner.gather_errors()[-1], WorkerDied)
