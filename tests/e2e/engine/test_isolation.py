"""A request gets its own events and its own result, all of them, in order, and nobody else's."""

import asyncio
import contextlib
from typing import Any

import pytest

from polyrank.distributed import DistributedRunner
from polyrank.errors import RequestTimeout

pytestmark = pytest.mark.asyncio(loop_scope="module")

EVENTS = 30


def expected(owner: Any, count: int = EVENTS) -> list[Any]:
    numbered = [{"owner": owner, "number": number} for number in range(count)]
    return [*numbered, {"owner": owner, "count": count}]


async def collect(runner: DistributedRunner, owner: Any, leave_after: int | None = None) -> None:
    payload = {"do": "events", "owner": owner, "count": EVENTS, "pause": True}
    seen = []
    async with contextlib.aclosing(runner.stream(payload)) as stream:
        async for item in stream:
            seen.append(item)
            if leave_after is not None and len(seen) == leave_after:
                break
    assert seen == expected(owner)[: len(seen)]
    if leave_after is None:
        assert seen == expected(owner)


async def test_every_stream_of_two_hundred_has_exactly_its_own_events(
    pair: DistributedRunner,
) -> None:
    """Row 1: events of one request never reach the next, whoever leaves midway."""
    for owner in range(200):
        await collect(pair, owner, leave_after=owner % 29 + 1 if owner % 3 == 0 else None)


async def test_streams_started_together_do_not_mix(pair: DistributedRunner) -> None:
    """Row 1, with all callers at once."""
    async with asyncio.TaskGroup() as callers:
        for owner in range(40):
            callers.create_task(collect(pair, owner, leave_after=3 if owner % 4 == 0 else None))


async def test_calls_and_streams_alternate(pair: DistributedRunner) -> None:
    for number in range(20):
        assert await pair.invoke({"do": "echo", "value": number}) == number
        await collect(pair, number)


async def test_a_call_that_does_not_stream_drops_the_events(pair: DistributedRunner) -> None:
    result = await pair.invoke({"do": "events", "owner": "me", "count": 10})
    assert result == {"owner": "me", "count": 10}
    await collect(pair, "next")


async def test_events_that_came_before_an_error_are_delivered_before_it(
    pair: DistributedRunner,
) -> None:
    seen = []
    with pytest.raises(Exception, match="boom"):
        async for item in pair.stream({"do": "event_then_error"}):
            seen.append(item)
    assert seen == ["one", {"error": "a soft one"}]
    await collect(pair, "next")


async def test_a_result_of_the_group_that_died_answers_nobody(pair: DistributedRunner) -> None:
    """A frame of an older epoch is dropped: the next request gets its own answer."""
    for owner in range(5):
        with pytest.raises(Exception, match="rank 1"):
            await pair.invoke({"do": "die", "rank": 1, "how": "kill", "place": "streaming"})
        await collect(pair, owner)


async def test_a_late_result_of_a_timed_out_request_answers_nobody(
    pair: DistributedRunner, gate: Any
) -> None:
    with pytest.raises(RequestTimeout):
        await pair.invoke({"do": "hold", "fifo": gate.path, "result": "late"}, timeout=0.05)
    following = asyncio.create_task(pair.invoke({"do": "echo", "value": "mine"}))
    await gate.open()
    assert await following == "mine"


async def test_a_thousand_events_reach_a_slow_reader_in_order(solo: DistributedRunner) -> None:
    numbers = []
    async for item in solo.stream({"do": "events", "owner": 0, "count": 1000}):
        await asyncio.sleep(0)
        numbers.append(item.get("number"))
    assert numbers == [*range(1000), None]


async def test_a_reader_that_stops_reading_holds_only_its_own_stream(
    solo: DistributedRunner,
) -> None:
    stalled = solo.stream({"do": "events", "owner": 0, "count": 100_000, "pause": True})
    assert await anext(stalled) == {"owner": 0, "number": 0}
    await stalled.aclose()  # type: ignore[attr-defined]
    await collect(solo, "next")


async def test_what_the_worker_changes_after_streaming_it_is_not_what_arrives(
    solo: DistributedRunner,
) -> None:
    events = [item async for item in solo.stream({"do": "reused_buffer", "count": 20})][:-1]
    assert [int(event["tensor"][0]) for event in events] == [*range(20)]
    assert [event["picture"].getpixel((3, 3)) for event in events] == [*range(20)]
