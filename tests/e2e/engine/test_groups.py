"""Groups work side by side behind one first-in, first-out queue."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from polyrank.distributed import DistributedRunner
from polyrank.errors import WorkerDied

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def four(running: Callable[..., Any]) -> AsyncIterator[DistributedRunner]:
    async with running(world_size=1, groups=4) as runner:
        yield runner


async def test_four_groups_work_at_the_same_time(four: DistributedRunner) -> None:
    """Row 3: four calls of half a second overlap, each in a process of its own."""
    calls = [four.invoke({"do": "sleep", "seconds": 0.5}) for _ in range(4)]
    spans = await asyncio.gather(*calls)
    assert len({pid for pid, _, _ in spans}) == 4
    assert max(begun for _, begun, _ in spans) < min(ended for _, _, ended in spans)


async def test_calls_on_one_group_never_overlap(solo: DistributedRunner) -> None:
    calls = [solo.invoke({"do": "sleep", "seconds": 0.01}) for _ in range(10)]
    spans = await asyncio.gather(*calls)
    for (_, _, ended), (_, begun, _) in zip(spans, spans[1:], strict=False):
        assert ended <= begun


async def test_requests_run_in_the_order_in_which_they_came(solo: DistributedRunner) -> None:
    """Row 3: first come, first served, calls and streams alike."""

    async def stream(number: int) -> None:
        async for _ in solo.stream({"do": "record", "item": number}):
            pass

    async with asyncio.TaskGroup() as callers:
        for number in range(100):
            if number % 2:
                callers.create_task(stream(number))
            else:
                callers.create_task(solo.invoke({"do": "record", "item": number}))
    assert await solo.invoke({"do": "recorded"}) == [*range(100)]


async def test_a_queue_longer_than_the_groups_is_worked_off(four: DistributedRunner) -> None:
    values = await asyncio.gather(*(four.invoke({"do": "echo", "value": n}) for n in range(500)))
    assert values == [*range(500)]
    assert four.queued == 0


async def test_a_group_that_dies_does_not_stop_the_others(
    four: DistributedRunner, make_gate: Any
) -> None:
    gates = [make_gate() for _ in range(3)]
    held = [
        asyncio.create_task(four.invoke({"do": "hold", "fifo": gate.path, "result": number}))
        for number, gate in enumerate(gates)
    ]
    with pytest.raises(WorkerDied):
        await four.invoke({"do": "die", "rank": 0, "how": "kill"})
    assert await four.invoke({"do": "echo", "value": "served"}) == "served"
    for gate in gates:
        await gate.open()
    assert await asyncio.gather(*held) == [0, 1, 2]


async def test_a_long_request_does_not_hold_up_the_other_groups(
    four: DistributedRunner, gate: Any
) -> None:
    long = asyncio.create_task(four.invoke({"do": "hold", "fifo": gate.path, "result": "long"}))
    values = await asyncio.gather(*(four.invoke({"do": "echo", "value": n}) for n in range(50)))
    assert values == [*range(50)]
    assert not long.done()
    await gate.open()
    assert await long == "long"


async def test_groups_of_several_ranks_have_process_groups_of_their_own(
    running: Callable[..., Any],
) -> None:
    """Row 15: nested groups without any environment to set."""
    async with running(world_size=2, groups=2) as runner:
        totals = await asyncio.gather(
            *(runner.invoke({"do": "total", "values": [n, 10 * n]}) for n in range(1, 21))
        )
        assert totals == [11 * n for n in range(1, 21)]
        rows = [(row["group"], row["rank"]) for row in runner.timings]
        assert rows == [(0, 0), (0, 1), (1, 0), (1, 1)]
