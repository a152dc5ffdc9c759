"""What a rank writes arrives in the caller's log, line by line, with rank and request."""

import asyncio
import logging
from typing import Any

import pytest

from polyrank.distributed import DistributedRunner

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Any:
    """The records that ranks wrote."""
    caplog.set_level(logging.INFO, logger="polyrank.rank")

    def found() -> list[Any]:
        return [record for record in caplog.records if record.name == "polyrank.rank"]

    return found


def text_of(record: Any) -> str:
    return str(record.getMessage()).removeprefix(f"[rank {record.rank}] ")


async def test_lines_carry_rank_stream_and_request(pair: DistributedRunner, lines: Any) -> None:
    await pair.invoke({"do": "say", "text": "hello", "ranks": [0, 1]})
    said = sorted((r.rank, r.stream, text_of(r)) for r in lines())
    assert said == [
        (rank, stream, text)
        for rank in (0, 1)
        for stream, text in [
            ("stderr", "hello on stderr"),
            ("stdout", "hello"),
            ("stdout", "hello from C"),
        ]
    ]
    assert {record.group for record in lines()} == {0}
    assert len({record.request_id for record in lines()}) == 1


async def test_every_line_belongs_to_the_request_that_wrote_it(
    pair: DistributedRunner, lines: Any
) -> None:
    """One request after the other: the lines of each are there when it is done, under its id."""
    ids = []
    for number in range(20):
        before = len(lines())
        await pair.invoke({"do": "say", "text": f"turn {number}", "ranks": [0, 1]})
        new = lines()[before:]
        assert len(new) == 6
        assert all(text_of(record).startswith(f"turn {number}") for record in new)
        ids.append({record.request_id for record in new})
    assert all(len(found) == 1 for found in ids)
    assert len(set.union(*ids)) == 20


async def test_what_is_written_in_c_arrives_in_order_with_the_rest(
    solo: DistributedRunner, lines: Any
) -> None:
    """Row 21: rank_print is flushed, so C-level writes come after it."""
    await solo.invoke({"do": "say", "text": "order", "ranks": [0]})
    stdout = [text_of(record) for record in lines() if record.stream == "stdout"]
    assert stdout == ["order", "order from C"]


async def test_a_line_of_a_megabyte_arrives_whole(solo: DistributedRunner, lines: Any) -> None:
    await solo.invoke({"do": "say_much", "size": 1_000_000})
    assert [len(text_of(record)) for record in lines()] == [1_000_000]


async def test_a_line_without_end_arrives_in_pieces(solo: DistributedRunner, lines: Any) -> None:
    await solo.invoke({"do": "say_much", "size": 10_000_000})
    assert "".join(text_of(record) for record in lines()) == "x" * 10_000_000


async def test_an_unfinished_last_line_arrives_with_its_request(
    solo: DistributedRunner, lines: Any
) -> None:
    await solo.invoke({"do": "say_unfinished", "text": "no newline"})
    await solo.invoke({"do": "say_unfinished", "text": "the next"})
    assert [text_of(record) for record in lines()] == ["no newline", "the next"]
    assert len({record.request_id for record in lines()}) == 2


async def test_bytes_that_are_no_text_arrive_escaped(solo: DistributedRunner, lines: Any) -> None:
    await solo.invoke({"do": "say_bytes", "data": b"caf\xe9 \x00 ok\n"})
    (record,) = lines()
    assert text_of(record) == "caf\\xe9 \x00 ok"


async def test_a_progress_bar_is_its_last_state(solo: DistributedRunner, lines: Any) -> None:
    await solo.invoke({"do": "say_bytes", "data": b" 10%\r 50%\r100%\r\n"})
    assert [text_of(record) for record in lines()] == ["100%"]


async def test_percent_signs_and_braces_are_only_text(solo: DistributedRunner, lines: Any) -> None:
    await solo.invoke({"do": "say_bytes", "data": b"100% {x} %s %d\n"})
    assert [text_of(record) for record in lines()] == ["100% {x} %s %d"]


async def test_setup_writes_under_no_request(running: Any, lines: Any) -> None:
    async with running(setup={"do": "say", "text": "loading", "ranks": [0]}):
        pass
    assert {record.request_id for record in lines()} == {None}
    assert "loading" in [text_of(record) for record in lines()]


async def test_a_log_without_reader_does_not_hold_up_the_ranks(solo: DistributedRunner) -> None:
    """The parent reads the pipes even while its loop has other things to do in between."""
    chatty = asyncio.create_task(solo.invoke({"do": "say_much", "size": 5_000_000}))
    assert await solo.invoke({"do": "echo", "value": 1}) == 1
    await chatty
