"""Whatever a caller sends, the worker gets it as it is or the caller gets a clear error."""

import math
from typing import Any

import pytest

from polyrank.distributed import DistributedRunner
from polyrank.errors import PolyrankError, ValueNotSendable

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def echo(runner: DistributedRunner, value: Any) -> Any:
    return await runner.invoke({"do": "echo", "value": value})


async def still_serves(runner: DistributedRunner) -> bool:
    return len(set(await runner.invoke({"do": "pids"}))) == runner.world_size


@pytest.mark.parametrize(
    "value",
    [
        {"content_type": None},
        {"content_type": "image/png", "url": "https://example.com/a.png"},
        {"content_type": "image/png", "data": "not base64"},
        {"content_type": "image/png", "url": "data:image/png;base64,AAAA"},
        {"content_type": "application/octet-stream", "data": b"\x80\x04."},
        {"__type__": "tensor", "dtype": "float32", "shape": [-1]},
        {"error": "not an error"},
        ["READY", "EXIT", b"EXIT", b"DONE"],
    ],
    ids=repr,
)
async def test_data_that_looks_like_something_else_is_only_data(
    pair: DistributedRunner, value: Any
) -> None:
    """Rows 9 and 10: file objects arrive as they are, there and back."""
    assert await echo(pair, value) == value
    assert [item async for item in pair.stream({"do": "echo", "value": value})] == [value]


async def test_a_hundred_levels_arrive(pair: DistributedRunner) -> None:
    value: Any = "core"
    for level in range(100):
        value = [value] if level % 2 else {"in": value}
    assert await echo(pair, value) == value
    assert await pair.invoke({"do": "nested", "depth": 100})


async def test_a_hundred_thousand_levels_are_refused(pair: DistributedRunner) -> None:
    value: Any = "core"
    for _ in range(100_000):
        value = [value]
    with pytest.raises(ValueNotSendable, match="nested"):
        await echo(pair, value)
    assert await still_serves(pair)


async def test_a_result_of_a_hundred_thousand_levels_costs_its_request_only(
    pair: DistributedRunner,
) -> None:
    before = await pair.invoke({"do": "pids"})
    with pytest.raises(PolyrankError, match="nested"):
        await pair.invoke({"do": "nested", "depth": 100_000})
    assert await pair.invoke({"do": "pids"}) == before


async def test_a_value_that_holds_itself_is_refused(pair: DistributedRunner) -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(ValueNotSendable, match="nested"):
        await echo(pair, value)


async def test_not_a_number_arrives(pair: DistributedRunner) -> None:
    back = await echo(pair, [math.nan, math.inf, -math.inf])
    assert math.isnan(back[0])
    assert back[1:] == [math.inf, -math.inf]


async def test_text_events_are_strict_json(pair: DistributedRunner) -> None:
    """A browser's JSON.parse knows neither NaN nor half a surrogate pair in UTF-8."""
    value = {"numbers": [math.nan, math.inf], "text": "lone \ud800", 5: {1, 2}, "none": None}
    payload = {"do": "echo", "value": value}
    (event,) = [item async for item in pair.stream(payload, as_text_events=True)]
    assert event.decode() == (
        'data: {"numbers": [null, null], "text": "lone \\ud800", "5": [1, 2], "none": null}\n\n'
    )


@pytest.mark.parametrize("text", ["\ud800", "\udfff" * 3, "a\ud83d", {"\ud800": "key"}])
async def test_lone_surrogates_arrive(pair: DistributedRunner, text: Any) -> None:
    assert await echo(pair, text) == text


@pytest.mark.parametrize("bits", [63, 64, 65, 1000, 13_000])
async def test_integers_of_any_size_arrive(pair: DistributedRunner, bits: int) -> None:
    numbers = [2**bits - 1, 2**bits, -(2**bits), -(2**bits) - 1]
    assert await echo(pair, numbers) == numbers


async def test_an_integer_with_too_many_digits_arrives_or_is_refused(
    pair: DistributedRunner,
) -> None:
    """Python itself does not print integers of more than 4300 digits."""
    try:
        assert await echo(pair, 2**20_000) == 2**20_000
    except ValueNotSendable:
        pass
    assert await still_serves(pair)


async def test_keys_of_other_types_arrive(pair: DistributedRunner) -> None:
    value = {0: "int", "0": "text", None: 1, (1, (2,)): {3: 4}, frozenset({1}): 2, -1.5: 3}
    assert await echo(pair, value) == value


async def test_a_payload_key_that_is_no_text_is_an_error(pair: DistributedRunner) -> None:
    with pytest.raises(PolyrankError):
        await pair.invoke({"do": "nothing", 5: "five"})  # type: ignore[dict-item]
    assert await still_serves(pair)


@pytest.mark.parametrize("key", ["self", "streaming", "_context", "__class__", ""])
async def test_a_payload_key_with_a_meaning_elsewhere_does_no_harm(
    pair: DistributedRunner, key: str
) -> None:
    try:
        await pair.invoke({"do": "nothing", key: "spoiled"})
    except PolyrankError:
        pass
    assert await still_serves(pair)


async def test_a_million_elements_arrive(pair: DistributedRunner) -> None:
    value = list(range(1_000_000))
    assert await echo(pair, value) == value


async def test_ten_thousand_buffers_arrive(pair: DistributedRunner) -> None:
    """More parts than a message has room for."""
    value = [bytes([number % 256]) * 5000 for number in range(10_000)]
    assert await echo(pair, value) == value


async def test_an_empty_payload_is_a_request(pair: DistributedRunner) -> None:
    assert await pair.invoke() is None
    assert await pair.invoke({}) is None
    assert [item async for item in pair.stream()] == [None]
