"""Realtime endpoints: the four modes, what is dropped, what is told, and how sessions end."""

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel, Field, field_validator
from served_app import on_a_socket
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosedError, InvalidStatus

import polyrank
from polyrank import App, AppException
from polyrank.app.realtime import Mode, RealtimeEndpoint, realtime, shape_of
from polyrank.app.server import build
from polyrank.app.session import READ_AHEAD_BYTES, Inputs
from polyrank.app.testing import serve
from polyrank.errors import AppError

END = '{"type":"x-fal-message","action":"end"}'


class Number(BaseModel):
    number: int = Field(ge=0)

    def can_batch(self, other: "Number", count: int) -> bool:
        return (self.number < 100) == (other.number < 100)


class Square(BaseModel):
    square: int


class Calculator(App):
    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.ended = asyncio.Event()
        self.thread_began = threading.Event()
        self.thread_ended = threading.Event()

    @realtime("/unary")
    async def square(self, request: Number) -> Square:
        if request.number == 13:
            raise AppException("13 brings bad luck", status_code=409)
        return Square(square=request.number**2)

    @realtime("/unary-in-a-thread")
    def square_in_a_thread(self, request: Number) -> Square:
        return Square(square=request.number**2)

    @realtime("/newest", buffering=2)
    async def newest(self, request: Number) -> Square:
        return Square(square=request.number**2)

    @realtime("/count")
    async def count(self, request: Number) -> AsyncIterator[Square]:
        for number in range(request.number):
            yield Square(square=number**2)

    @realtime("/count-in-a-thread")
    def count_in_a_thread(self, request: Number) -> Iterator[Square]:
        for number in range(request.number):
            yield Square(square=number**2)

    @realtime("/sum")
    async def add_up(self, requests: AsyncIterator[Number]) -> dict[str, int]:
        return {"sum": sum([each.number async for each in requests])}

    @realtime("/talk")
    async def talk(self, requests: AsyncIterator[Number]) -> AsyncIterator[Square]:
        async for request in requests:
            if request.number == 13:
                raise AppException("13 brings bad luck", status_code=409)
            yield Square(square=request.number**2)

    @realtime("/brief", session_timeout=0.05)
    async def brief(self, request: Number) -> Square:
        await asyncio.sleep(0.2)
        return Square(square=request.number**2)

    @realtime("/brief-sum", session_timeout=0.05)
    async def brief_sum(self, requests: AsyncIterator[Number]) -> dict[str, int]:
        return {"sum": sum([each.number async for each in requests])}

    @realtime("/forever")
    async def forever(self, request: Number) -> AsyncIterator[Square]:
        try:
            while True:
                yield Square(square=request.number)
                self.begun.set()
                await asyncio.sleep(0)
        finally:
            self.ended.set()

    @realtime("/forever-in-a-thread")
    def forever_in_a_thread(self, request: Number) -> Iterator[Square]:
        try:
            while True:
                yield Square(square=request.number)
        finally:
            self.thread_ended.set()

    @realtime("/work-in-a-thread")
    def work_in_a_thread(self, request: Number) -> Square:
        assert self.current_request is not None
        self.thread_began.set()
        try:
            while True:
                self.current_request.checkpoint()
        finally:
            self.thread_ended.set()

    @realtime("/text", content_type="application/json")
    async def text(self, request: Number) -> Square:
        return Square(square=request.number**2)

    @realtime(
        "/codec",
        encode_message=lambda output: str(output).encode(),
        decode_message=lambda message: int(message),
    )
    async def codec(self, request: int) -> int:
        return request**2

    @realtime("/silent")
    async def silent(self, request: Number) -> None: ...

    @realtime("/id")
    async def id(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self.current_request is not None
        return {"id": self.current_request.request_id}


class Gate:
    """Holds up an endpoint, and knows when the last input of a test has arrived."""

    LAST = 99

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.arrived = asyncio.Event()
        self.opened = asyncio.Event()

    def app(self, **options: Any) -> App:
        class Gated(App):
            @realtime("/", decode_message=self.decode, **options)
            async def answer(_, *requests: Number) -> dict[str, Any]:
                self.begun.set()
                await self.opened.wait()
                return {"numbers": [each.number for each in requests]}

        return Gated()

    def decode(self, message: bytes) -> Any:
        value = msgspec.msgpack.decode(message)
        if value["number"] == self.LAST:
            self.arrived.set()
        return value

    async def outputs(self, caller: "Caller", *values: int) -> list[Any]:
        """The first input is worked on while the others arrive; what comes of them all."""
        await caller.send(*numbers(values[0]))
        await self.begun.wait()
        await caller.send(*numbers(*values[1:], self.LAST), END)
        await self.arrived.wait()
        self.opened.set()
        return [
            each["numbers"] if isinstance(each, dict) else each for each in await caller.outputs()
        ]


def told(frame: str | bytes) -> Any:
    """An output, or the kind of what is told as text."""
    if isinstance(frame, bytes):
        return msgspec.msgpack.decode(frame)
    fact = json.loads(frame)
    return fact.get("action") or fact["error"]


class Caller:
    """A websocket to an endpoint of an app."""

    def __init__(self, address: str, path: str) -> None:
        self._connect = connect(address.replace("http", "ws") + path, max_size=None)

    async def __aenter__(self) -> "Caller":
        self.socket: ClientConnection = await self._connect.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.socket.close()

    async def send(self, *inputs: Any) -> None:
        for each in inputs:
            plain = isinstance(each, str | bytes)
            await self.socket.send(each if plain else msgspec.msgpack.encode(each))

    async def rest(self) -> list[Any]:
        """All that comes until the session is closed."""
        frames = []
        with contextlib.suppress(ConnectionClosedError):  # with another code than 1000
            async for frame in self.socket:
                frames.append(told(frame))
        return frames

    async def outputs(self) -> list[Any]:
        return [each for each in await self.rest() if each != "timings"]


def numbers(*values: int) -> list[dict[str, int]]:
    return [{"number": value} for value in values]


@pytest.mark.parametrize("path", ["/unary", "/unary-in-a-thread"])
async def test_unary_answers_every_input_and_tells_its_time(path: str) -> None:
    async with on_a_socket(Calculator()) as address, Caller(address, path) as caller:
        await caller.send(*numbers(3, 4), END)
        assert await caller.rest() == [{"square": 9}, "timings", {"square": 16}, "timings"]
        assert (caller.socket.close_code, caller.socket.close_reason) == (1000, "")


@pytest.mark.parametrize("path", ["/count", "/count-in-a-thread"])
async def test_server_streaming_answers_one_input_and_closes(path: str) -> None:
    async with on_a_socket(Calculator()) as address, Caller(address, path) as caller:
        await caller.send(*numbers(3, 5))
        assert await caller.rest() == [{"square": 0}, {"square": 1}, {"square": 4}, "timings"]
        assert caller.socket.close_code == 1000


async def test_client_streaming_answers_when_there_is_no_more_input() -> None:
    async with on_a_socket(Calculator()) as address, Caller(address, "/sum") as caller:
        await caller.send(*numbers(3, 4, 5), END)
        assert await caller.rest() == [{"sum": 12}, "timings"]
        assert caller.socket.close_code == 1000


async def test_no_input_for_long_ends_a_stream_of_inputs_too() -> None:
    async with on_a_socket(Calculator()) as address, Caller(address, "/brief-sum") as caller:
        await caller.send(*numbers(3, 4))
        assert await caller.rest() == [{"sum": 7}, "timings"]
        assert caller.socket.close_code == 1000


async def test_bidirectional_answers_while_inputs_come() -> None:
    async with on_a_socket(Calculator()) as address, Caller(address, "/talk") as caller:
        for value in (3, 4):
            await caller.send(*numbers(value))
            assert told(await caller.socket.recv()) == {"square": value**2}
        await caller.send(END)
        assert await caller.rest() == ["timings"]
        assert caller.socket.close_code == 1000


async def test_bad_inputs_are_told_in_their_turn_and_the_session_goes_on() -> None:
    async with on_a_socket(Calculator()) as address, Caller(address, "/unary") as caller:
        await caller.send(
            {"number": 1}, {"number": -1}, b"\xc1", "{", {"number": 13}, {"number": 2}
        )
        await caller.send(END)
        frames = [frame async for frame in caller.socket]
    assert [told(frame) for frame in frames if told(frame) != "timings"] == [
        {"square": 1},
        *["BAD_REQUEST"] * 3,
        "APP_EXCEPTION",
        {"square": 4},
    ]
    errors = [json.loads(frame) for frame in frames if "x-fal-error" in str(frame)]
    assert errors[0] == {
        "type": "x-fal-error",
        "error": "BAD_REQUEST",
        "reason": "number: Input should be greater than or equal to 0",
        "detail": [
            {
                "loc": ["body", "number"],
                "msg": "Input should be greater than or equal to 0",
                "type": "greater_than_equal",
            }
        ],
        "error_type": "bad_request",
    }
    assert "cannot be read" in errors[1]["reason"] and "cannot be read" in errors[2]["reason"]
    assert errors[3]["reason"] == "13 brings bad luck"


async def test_a_stream_skips_bad_inputs_and_ends_with_the_reason_when_it_fails() -> None:
    async with on_a_socket(Calculator()) as address, Caller(address, "/talk") as caller:
        await caller.send(*numbers(2, -1, 3, 13, 4))
        assert await caller.rest() == [{"square": 4}, "BAD_REQUEST", {"square": 9}, "APP_EXCEPTION"]
        assert caller.socket.close_code == 1008
        assert caller.socket.close_reason == "13 brings bad luck"


async def test_buffering_keeps_the_newest_inputs() -> None:
    gate = Gate()
    async with on_a_socket(gate.app(buffering=2)) as address, Caller(address, "/") as caller:
        assert await gate.outputs(caller, 0, 1, 2, 3, 4) == [[0], [4], [99]]


async def test_a_caller_may_ask_for_less_buffering() -> None:
    gate = Gate()
    path = "/?max_buffering=1"
    async with on_a_socket(gate.app(buffering=2)) as address, Caller(address, path) as caller:
        assert await gate.outputs(caller, 0, 1, 2, 3, 4) == [[0], [99]]


@pytest.mark.parametrize("asked", ["0", "61", "many"])
async def test_buffering_has_its_limits(asked: str) -> None:
    async with on_a_socket(Calculator()) as address:
        with pytest.raises(InvalidStatus) as raised:
            await Caller(address, f"/unary?max_buffering={asked}").__aenter__()
    assert raised.value.response.status_code == 422
    assert b"max_buffering is 1 to 60" in raised.value.response.body  # type: ignore[operator]


async def test_without_buffering_nothing_is_dropped_and_the_caller_is_held_up() -> None:
    gate = Gate()
    async with on_a_socket(gate.app()) as address, Caller(address, "/") as caller:
        await caller.send(*numbers(*range(500)), *numbers(gate.LAST), END)
        await gate.begun.wait()
        assert not gate.arrived.is_set()
        gate.opened.set()
        outputs = await caller.outputs()
    assert outputs == [{"numbers": [number]} for number in [*range(500), gate.LAST]]


async def test_inputs_that_fit_together_go_in_one_call() -> None:
    gate = Gate()
    async with on_a_socket(gate.app(max_batch_size=3)) as address, Caller(address, "/") as caller:
        assert await gate.outputs(caller, 0, 1, 2, 3, 4, 100, 101, 5, -1, 6) == [
            [0],
            [1, 2, 3],
            [4],
            [100, 101],
            [5],
            "BAD_REQUEST",
            [6, 99],
        ]


async def test_a_session_without_input_is_told_so_and_closed() -> None:
    """Its clock stands while the endpoint works: here for longer than the time limit."""
    async with on_a_socket(Calculator()) as address, Caller(address, "/brief") as caller:
        await caller.send(*numbers(3))
        assert await caller.rest() == [{"square": 9}, "timings", "TIMEOUT"]
        assert caller.socket.close_code == 1000


async def test_a_caller_who_goes_ends_the_stream() -> None:
    app = Calculator()
    async with on_a_socket(app) as address:
        async with Caller(address, "/forever") as caller:
            await caller.send(*numbers(1))
            await app.begun.wait()
        await asyncio.wait_for(app.ended.wait(), 60)


@pytest.mark.parametrize("path", ["/forever-in-a-thread", "/work-in-a-thread"])
async def test_a_caller_who_breaks_off_ends_what_a_thread_does(path: str) -> None:
    app = Calculator()
    async with on_a_socket(app) as address:
        async with Caller(address, path) as caller:
            await caller.send(*numbers(1))
            if path == "/work-in-a-thread":
                assert await asyncio.to_thread(app.thread_began.wait, 60)
            else:
                await caller.socket.recv()
            caller.socket.transport.abort()
        assert await asyncio.to_thread(app.thread_ended.wait, 60)


async def test_text_is_read_as_json_and_written_where_the_endpoint_says_so() -> None:
    async with on_a_socket(Calculator()) as address:
        async with Caller(address, "/unary") as caller:
            await caller.send('{"number": 3}')
            assert msgspec.msgpack.decode(await caller.socket.recv()) == {"square": 9}
        async with Caller(address, "/text") as caller:
            await caller.send({"number": 3})
            assert await caller.socket.recv() == '{"square": 9}'


async def test_an_endpoint_may_have_its_own_messages_and_then_nothing_else_is_sent() -> None:
    async with on_a_socket(Calculator()) as address, Caller(address, "/codec") as caller:
        await caller.send(b"12", END)
        assert [frame async for frame in caller.socket] == [b"144"]


async def test_no_output_sends_none() -> None:
    async with on_a_socket(Calculator()) as address, Caller(address, "/silent") as caller:
        await caller.send(*numbers(3), END)
        assert await caller.rest() == ["timings"]


async def test_a_session_has_a_request_id() -> None:
    async with on_a_socket(Calculator()) as address, Caller(address, "/id") as caller:
        await caller.send({})
        output = told(await caller.socket.recv())
        assert caller.socket.response is not None
        assert caller.socket.response.headers["x-fal-request-id"] == output["id"]


async def test_an_output_that_cannot_be_sent_is_an_error_of_its_call_only() -> None:
    class Odd(App):
        @realtime("/")
        async def answer(self, request: dict[str, Any]) -> Any:
            return {"lists": [1], "objects": {"a": object()}, "numbers": 5}[request["what"]]

    async with on_a_socket(Odd()) as address, Caller(address, "/") as caller:
        await caller.send({"what": "objects"}, {"what": "numbers"}, {"what": "nothing"}, END)
        frames = [frame async for frame in caller.socket]
    reasons = [json.loads(frame)["reason"] for frame in frames]
    assert "object" in reasons[0]
    assert reasons[1] == "TypeError: a realtime endpoint gives dicts or pydantic models, not int"
    assert reasons[2] == "KeyError: 'nothing'"


async def test_a_validator_with_a_bug_is_an_error_of_its_input_only() -> None:
    class Ratio(BaseModel):
        of: int

        @field_validator("of")
        @classmethod
        def _invert(cls, value: int) -> int:
            return 100 // value

    class Odd(App):
        @realtime("/")
        async def answer(self, request: Ratio) -> Ratio:
            return request

    async with on_a_socket(Odd()) as address, Caller(address, "/") as caller:
        await caller.send({"of": 0}, {"of": 4}, END)
        assert await caller.outputs() == ["INTERNAL_ERROR", {"of": 25}]


async def test_large_inputs_hold_up_the_caller_before_they_are_many() -> None:
    inputs = Inputs(newest=None, timeout_s=None)
    for number in range(4):
        await inputs.put(number, READ_AHEAD_BYTES // 4)
    one_more = asyncio.create_task(inputs.put(4, 1))
    await asyncio.sleep(0)
    assert not one_more.done()
    assert await inputs.take() == [0]
    await one_more
    inputs.end()
    assert [await inputs.take() for _ in range(5)] == [[1], [2], [3], [4], []]


async def test_a_path_without_a_websocket_says_so() -> None:
    async with on_a_socket(Calculator()) as address:
        with pytest.raises(InvalidStatus) as raised:
            await Caller(address, "/nowhere").__aenter__()
    assert raised.value.response.status_code == 404
    assert json.loads(raised.value.response.body or b"")["detail"] == (
        "there is no websocket at /nowhere"
    )


async def test_the_schema_describes_sessions() -> None:
    async with serve(Calculator()) as client:
        schema = (await client.get("/openapi.json")).json()
    assert schema["x-fal-order-paths"][0] == "/unary"
    told = schema["paths"]["/newest"]["x-fal-protocol"]
    assert told["type"] == "realtime"
    assert told["operationId"] == "newest"
    assert told["contentType"] == "application/msgpack"
    assert told["realtimeMode"] == "unary"
    assert told["config"] == {"buffering": 2, "sessionTimeout": None, "maxBatchSize": 1}
    assert told["input"] == {"$ref": "#/components/schemas/Number"}
    assert told["output"] == {"$ref": "#/components/schemas/Square"}
    schemas = schema["components"]["schemas"]
    assert schemas["Number"]["x-fal-order-properties"] == ["number"]
    assert schemas["Square"]["properties"]["square"]["type"] == "integer"


def shape(method: Callable[..., Any], **options: Any) -> Any:
    found = shape_of(method, RealtimeEndpoint("/", **options))
    return found.mode, found.input, found.output


def test_the_mode_is_read_off_the_annotations() -> None:
    def plain(one): ...  # type: ignore[no-untyped-def]

    async def generator(one: Number):  # type: ignore[no-untyped-def]
        yield one

    async def many(*all: Number) -> Square: ...  # type: ignore[empty-body]

    async def chosen(one: Number) -> dict[str, int]: ...  # type: ignore[empty-body]

    app = Calculator()
    assert shape(app.square) == (Mode.UNARY, Number, Square)
    assert shape(many) == (Mode.UNARY, Number, Square)
    assert shape(app.count) == (Mode.SERVER_STREAMING, Number, Square)
    assert shape(app.count_in_a_thread) == (Mode.SERVER_STREAMING, Number, Square)
    assert shape(app.add_up) == (Mode.CLIENT_STREAMING, Number, dict[str, int])
    assert shape(app.talk) == (Mode.BIDIRECTIONAL, Number, Square)
    assert shape(plain) == (Mode.UNARY, None, None)
    assert shape(generator) == (Mode.SERVER_STREAMING, Number, None)
    assert shape(chosen, input_modal=None, output_modal=Square) == (Mode.UNARY, None, Square)


def test_a_method_that_could_never_be_called_is_refused() -> None:
    class Inputless(App):
        @realtime("/")
        async def session(self) -> None: ...

    class Blocking(App):
        @realtime("/")
        def session(self, inputs: AsyncIterator[Number]) -> Square: ...  # type: ignore[empty-body]

    class Plain(App):
        @realtime("/")
        async def session(self, inputs: Iterator[Number]) -> Square: ...  # type: ignore[empty-body]

    class Batchless(App):
        @realtime("/", max_batch_size=2)
        async def session(self, number: Number) -> Square: ...  # type: ignore[empty-body]

    class Unknown(App):
        @realtime("/")
        async def session(self, number: "Nowhere") -> Square: ...  # type: ignore # noqa: F821

    for cls, words in [
        (Inputless, "needs a parameter for its input"),
        (Blocking, "make it async def"),
        (Plain, "takes its inputs as an AsyncIterator"),
        (Batchless, r"called with up to 2 input\(s\): take \*inputs"),
        (Unknown, "'Nowhere' is not defined"),
    ]:
        with pytest.raises(AppError, match=words):
            build(cls())


@pytest.mark.parametrize(
    "options", [{"buffering": 0}, {"max_batch_size": 0}, {"session_timeout": 0}]
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(AppError, match=f"{next(iter(options))} of /session"):
        realtime("/session", **options)


def test_the_method_stays_an_ordinary_method() -> None:
    assert polyrank.realtime is realtime
    assert asyncio.run(Calculator().square(Number(number=3))) == Square(square=9)
