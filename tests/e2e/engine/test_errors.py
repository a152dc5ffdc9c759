"""An exception on any rank is the caller's error at once, and never the next request's."""

from collections.abc import Callable
from typing import Any

import pytest
from engine_workers import AsyncGenerator, AsyncWorker, Generator

from polyrank.distributed import DistributedRunner
from polyrank.errors import PolyrankError, ValueNotSendable, WorkerError

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def still_serves(runner: DistributedRunner) -> bool:
    return len(set(await runner.invoke({"do": "pids"}))) == runner.world_size


async def test_an_exception_on_rank_0_names_rank_type_and_place(pair: DistributedRunner) -> None:
    """Row 4: an exception is an error, not a result."""
    with pytest.raises(WorkerError, match=r"rank 0 raised ValueError: boom") as caught:
        await pair.invoke({"do": "fail", "ranks": [0]})
    assert (caught.value.rank, caught.value.error_type) == (0, "ValueError")
    assert "engine_workers.py" in caught.value.traceback
    assert "in fail" in caught.value.traceback
    assert await still_serves(pair)


async def test_an_exception_on_rank_1_only_is_seen(pair: DistributedRunner) -> None:
    """Row 5: rank 0 is fine, the request is not."""
    with pytest.raises(WorkerError, match="rank 1 raised ValueError: boom") as caught:
        await pair.invoke({"do": "fail", "ranks": [1]})
    assert caught.value.rank == 1
    assert await still_serves(pair)


async def test_the_same_exception_on_every_rank_is_one_error(pair: DistributedRunner) -> None:
    with pytest.raises(WorkerError, match="boom"):
        await pair.invoke({"do": "fail", "ranks": [0, 1]})
    assert await still_serves(pair)


@pytest.mark.parametrize("rank", [0, 1])
async def test_an_exception_before_a_collective_ends_the_request_and_frees_its_peers(
    running: Callable[..., Any], rank: int
) -> None:
    """Row 6: the peers are stuck in a collective; the caller is not, and the group comes back."""
    async with running(world_size=2, peer_grace_s=0.2) as runner:
        for _ in range(2):
            with pytest.raises(WorkerError, match=f"rank {rank} raised ValueError: not today"):
                await runner.invoke({"do": "fail_before_collective", "rank": rank})
            assert await still_serves(runner)


async def test_the_caller_does_not_wait_for_the_stuck_peers(running: Callable[..., Any]) -> None:
    """Row 6, with a grace that the test would not survive."""
    async with running(world_size=2, peer_grace_s=3600) as runner:
        with pytest.raises(WorkerError, match="not today"):
            await runner.invoke({"do": "fail_before_collective", "rank": 1})
        await runner.stop(timeout=0.2)


async def test_an_error_in_a_stream_reaches_its_reader(pair: DistributedRunner) -> None:
    """Row 4, streamed."""
    with pytest.raises(WorkerError, match="boom"):
        async for _ in pair.stream({"do": "fail", "ranks": [1]}):
            pass
    assert await still_serves(pair)


async def test_an_error_in_a_text_stream_reaches_its_reader(pair: DistributedRunner) -> None:
    events = []
    with pytest.raises(WorkerError, match="boom"):
        async for event in pair.stream({"do": "event_then_error"}, as_text_events=True):
            events.append(event)
    assert events[0] == b'data: "one"\n\n'


async def test_an_error_in_a_generator(running: Callable[..., Any]) -> None:
    async with running(Generator) as runner:
        seen = []
        with pytest.raises(WorkerError, match="in a generator"):
            async for item in runner.stream({"count": 2, "fail": True}):
                seen.append(item["number"])
        assert seen == [0, 1]
        assert await runner.invoke({"count": 1}) == "the result"


async def test_an_error_in_an_async_generator(running: Callable[..., Any]) -> None:
    async with running(AsyncGenerator) as runner:
        with pytest.raises(WorkerError, match="in an async generator"):
            await runner.invoke({"count": 2, "fail": True})
        assert [item async for item in runner.stream({"count": 2})][:2] == [0, 1]


async def test_an_error_in_a_coroutine(running: Callable[..., Any], tmp_path: Any) -> None:
    async with running(AsyncWorker, setup={"base": 10, "folder": str(tmp_path)}) as runner:
        with pytest.raises(WorkerError, match="in a coroutine"):
            await runner.invoke({"fail": True})
        assert await runner.invoke({"number": 1}) == 11


async def test_a_result_that_cannot_be_sent_names_its_path(pair: DistributedRunner) -> None:
    """Row 8: one bad result costs one request."""
    with pytest.raises(PolyrankError, match=r"\['pictures'\]\[1\].*Unsendable"):
        await pair.invoke({"do": "unsendable"})
    assert await still_serves(pair)


async def test_an_event_that_cannot_be_sent_is_an_error_of_its_request(
    pair: DistributedRunner,
) -> None:
    """Row 8, streamed."""
    with pytest.raises(PolyrankError, match="Unsendable"):
        async for _ in pair.stream({"do": "unsendable_event"}):
            pass
    assert await still_serves(pair)


async def test_an_event_without_json_form_is_an_error_of_its_request(
    pair: DistributedRunner,
) -> None:
    """Row 8 (c): as a text event, an object of no known type is refused, not shown as repr."""
    with pytest.raises(PolyrankError, match="Unsendable"):
        async for _ in pair.stream({"do": "unsendable_event"}, as_text_events=True):
            pass
    assert await still_serves(pair)


async def test_bytes_in_a_text_stream_are_a_data_uri(pair: DistributedRunner) -> None:
    """Row 8 (c)."""
    payload = {"do": "echo", "value": b"\x00\xff"}
    events = [event async for event in pair.stream(payload, as_text_events=True)]
    assert events == [b'data: "data:application/octet-stream;base64,AP8="\n\n']


async def test_an_exception_without_message_is_named_by_its_type(pair: DistributedRunner) -> None:
    with pytest.raises(WorkerError, match="EmptyError"):
        await pair.invoke({"do": "fail", "ranks": [0], "kind": "empty"})
    assert await still_serves(pair)


async def test_an_exception_whose_message_raises_is_still_an_error(
    pair: DistributedRunner,
) -> None:
    with pytest.raises(WorkerError, match="UnspeakableError"):
        await pair.invoke({"do": "fail", "ranks": [0], "kind": "unspeakable"})
    assert await still_serves(pair)


async def test_a_huge_message_arrives_bounded(pair: DistributedRunner) -> None:
    with pytest.raises(WorkerError, match="xxxx") as caught:
        await pair.invoke({"do": "fail", "ranks": [1], "message": "x" * 50_000_000})
    assert len(str(caught.value)) < 1_000_000
    assert await still_serves(pair)


async def test_an_exception_whose_message_is_not_text_arrives(pair: DistributedRunner) -> None:
    with pytest.raises(WorkerError, match="ValueError"):
        await pair.invoke({"do": "fail", "ranks": [0], "message": "half \ud800 a pair"})
    assert await still_serves(pair)


@pytest.mark.parametrize("kind", ["exit", "interrupt"])
async def test_leaving_the_interpreter_is_an_error_of_one_request(
    pair: DistributedRunner, kind: str
) -> None:
    """``sys.exit()`` and KeyboardInterrupt in a worker do not end its rank."""
    before = await pair.invoke({"do": "pids"})
    with pytest.raises(WorkerError):
        await pair.invoke({"do": "fail", "ranks": [0], "kind": kind})
    assert await pair.invoke({"do": "pids"}) == before


@pytest.mark.parametrize("ranks", [[0], [1], [0, 1]])
async def test_a_cancellation_that_nobody_asked_for_is_an_error(
    pair: DistributedRunner, ranks: list[int]
) -> None:
    """A worker that raises RequestCancelled by itself does not leave its caller waiting."""
    with pytest.raises(WorkerError):
        await pair.invoke({"do": "fail", "ranks": ranks, "kind": "cancelled"}, timeout=30)
    assert await still_serves(pair)


async def test_arguments_that_the_worker_does_not_take_are_an_error(
    pair: DistributedRunner,
) -> None:
    with pytest.raises(WorkerError, match="unexpected keyword argument 'colour'"):
        await pair.invoke({"do": "echo", "value": 1, "colour": 2})
    assert await still_serves(pair)


@pytest.mark.parametrize("payload", [[1], "text", 3])
async def test_a_payload_that_is_no_dict_is_refused_by_name(
    pair: DistributedRunner, payload: Any
) -> None:
    with pytest.raises(ValueNotSendable, match=type(payload).__name__):
        await pair.invoke(payload)


async def test_a_failed_request_is_not_a_death(pair: DistributedRunner) -> None:
    """``retries`` is for ranks that die; an exception is not tried again."""
    before = await pair.invoke({"do": "pids"})
    with pytest.raises(WorkerError):
        await pair.invoke({"do": "fail", "ranks": [0]}, retries=3)
    assert await pair.invoke({"do": "pids"}) == before
    assert pair.is_alive()
