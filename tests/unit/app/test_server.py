"""An app over HTTP: answers, errors with a reason, streams, hang-ups."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import httpx
import pytest
from fastapi import HTTPException, Request, WebSocket
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from served_app import on_a_socket
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from polyrank import App, AppException, FieldException, endpoint
from polyrank.app.disconnect import cancel_on_disconnect
from polyrank.app.server import build
from polyrank.app.testing import serve
from polyrank.errors import AppError, WorkerError
from polyrank.exceptions import CUDAOutOfMemoryException, RequestCancelledException


class Number(BaseModel):
    number: int = Field(ge=0)


class Square(BaseModel):
    square: int


class Example(App):
    hints: ClassVar[Any] = ["sdxl", "lora-1"]

    def __init__(self) -> None:
        self.thread_began = threading.Event()
        self.thread_ended = threading.Event()
        self.began = asyncio.Event()
        self.ended = asyncio.Event()

    def setup(self) -> None:
        self.power = 2

    def teardown(self) -> None:
        self.torn_down = True

    def provide_hints(self) -> list[str]:
        if isinstance(self.hints, Exception):
            raise self.hints
        return self.hints

    @endpoint("/")
    def square(self, request: Number) -> Square:
        return Square(square=request.number**self.power)

    @endpoint("/context")
    async def context(self) -> dict[str, Any]:
        assert self.current_request is not None
        return {
            "id": self.current_request.request_id,
            "endpoint": self.current_request.endpoint,
            "lifecycle": self.current_request.lifecycle_preference,
        }

    @endpoint("/context-in-a-thread")
    def context_in_a_thread(self) -> dict[str, Any]:
        assert self.current_request is not None
        return {"id": self.current_request.request_id, "cookie": self.current_request.headers["a"]}

    @endpoint("/wait-in-a-thread")
    def wait_in_a_thread(self) -> None:
        assert self.current_request is not None
        self.thread_began.set()
        try:
            while True:
                self.current_request.checkpoint()
        finally:
            self.thread_ended.set()

    @endpoint("/socket", is_websocket=True)
    async def socket(self, websocket: WebSocket) -> None:
        assert self.current_request is not None
        if (early := websocket.query_params.get("refuse")) is not None:
            raise errors_by_name(early)
        await websocket.accept()
        await websocket.send_json(self.current_request.request_id)
        try:
            while (text := await websocket.receive_text()) != "bye":
                if text.startswith("raise"):
                    raise errors_by_name(text.split()[1])
                await websocket.send_text(text)
            await websocket.close(1000, "bye")
        finally:
            self.ended.set()

    @endpoint("/teapot")
    async def teapot(self) -> None:
        raise AppException("short and stout", status_code=418)

    @endpoint("/field")
    async def field(self) -> None:
        raise FieldException("size.width", "too wide")

    @endpoint("/bug")
    async def bug(self) -> None:
        raise KeyError("weights")

    @endpoint("/rank")
    async def rank(self) -> None:
        raise WorkerError("rank 1 raised ValueError: no", rank=1, error_type="ValueError")

    @endpoint("/memory")
    async def memory(self) -> None:
        raise WorkerError("rank 0 raised OutOfMemoryError", error_type="OutOfMemoryError")

    @endpoint("/cuda-words")
    async def cuda_words(self) -> None:
        raise ValueError("device must be 'cpu' or 'cuda'")

    @endpoint("/stream")
    async def stream(self, request: Number) -> StreamingResponse:
        return StreamingResponse(self.count(request.number), media_type="text/event-stream")

    @endpoint("/wait")
    async def wait(self) -> None:
        await self.until_cancelled()

    @endpoint("/wait-stream")
    async def wait_stream(self) -> StreamingResponse:
        return StreamingResponse(self.forever(), media_type="text/event-stream")

    async def count(self, number: int) -> AsyncIterator[bytes]:
        if number == 0:
            raise AppException("nothing to count", status_code=409)
        for n in range(number):
            if n == 3:
                raise AppException("three is enough", status_code=409)
            yield f"data: {n}\n\n".encode()

    async def forever(self) -> AsyncIterator[bytes]:
        yield b"data: 0\n\n"
        await self.until_cancelled()

    async def until_cancelled(self) -> None:
        self.began.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.set()


def errors_by_name(name: str) -> Exception:
    return {
        "app": AppException("no more", status_code=429),
        "http": HTTPException(401, "who are you"),
        "bug": KeyError("weights"),
    }[name]


async def test_an_endpoint_answers_its_model() -> None:
    async with serve(Example()) as client:
        answer = await client.post("/", json={"number": 7})
        assert (answer.status_code, answer.json()) == (200, {"square": 49})
        assert answer.headers["x-fal-runner-hints"] == "sdxl,lora-1"


async def test_setup_and_teardown_run_once_around_serving() -> None:
    app = Example()
    async with serve(app):
        assert app.power == 2
    assert app.torn_down


async def test_the_request_knows_its_id_and_preferences() -> None:
    headers = {
        "x-fal-request-id": "abc",
        "x-fal-object-lifecycle-preference": '{"expiration_duration_seconds": 60}',
    }
    async with serve(Example()) as client:
        answer = await client.post("/context", headers=headers)
    assert answer.headers["x-fal-request-id"] == "abc"
    assert answer.json() == {
        "id": "abc",
        "endpoint": "/context",
        "lifecycle": {"expiration_duration_seconds": 60},
    }


async def test_a_plain_method_knows_its_request_too() -> None:
    async with serve(Example()) as client:
        calls = [
            client.post("/context-in-a-thread", headers={"x-fal-request-id": f"r{n}", "a": str(n)})
            for n in range(8)
        ]
        answers = [answer.json() for answer in await asyncio.gather(*calls)]
    assert answers == [{"id": f"r{n}", "cookie": str(n)} for n in range(8)]
    assert Example().current_request is None


async def test_the_endpoint_is_the_one_that_a_gateway_names() -> None:
    async with serve(Example()) as client:
        answer = await client.post("/context", headers={"x-fal-endpoint": "/public/name"})
    assert answer.json()["endpoint"] == "/public/name"


@pytest.mark.parametrize(
    ("hints", "header"),
    [
        ([], ""),
        (["a", "b"], "a,b"),
        (["caf\xe9", "\u65e5\u672c", "x\r\ny: z", "ok"], "caf\xe9,ok"),
        (NotImplementedError(), None),
        (ValueError("no hints today"), None),
    ],
)
async def test_hints_are_told_as_far_as_a_header_can(hints: Any, header: str | None) -> None:
    class Hinting(Example):
        pass

    Hinting.hints = hints
    async with serve(Hinting()) as client:
        answer = await client.post("/", json={"number": 1})
    assert answer.status_code == 200
    raw = dict(answer.headers.raw).get(b"x-fal-runner-hints")
    assert (None if raw is None else raw.decode("latin-1")) == header


@pytest.mark.parametrize(
    ("path", "status", "detail", "error_type"),
    [
        ("/teapot", 418, "short and stout", "app_exception"),
        ("/bug", 500, "KeyError: 'weights'", "internal_error"),
        ("/rank", 500, "rank 1 raised ValueError: no", "runner_server_error"),
        ("/memory", 503, "rank 0 raised OutOfMemoryError", "runner_out_of_memory"),
        ("/cuda-words", 500, "ValueError: device must be 'cpu' or 'cuda'", "internal_error"),
    ],
)
async def test_every_error_has_its_status_and_a_reason(
    path: str, status: int, detail: str, error_type: str
) -> None:
    async with serve(Example()) as client:
        answer = await client.post(path)
    assert answer.status_code == status
    assert answer.json() == {"detail": detail, "error_type": error_type}
    assert answer.headers["x-fal-error-type"] == error_type
    assert "x-fal-request-id" in answer.headers


@pytest.mark.parametrize(
    ("error", "status", "detail"),
    [
        (ValueError(), 500, "ValueError"),
        (AppException(status_code=409), 409, "AppException"),
        (RequestCancelledException(), 499, "the caller cancelled the request"),
        (HTTPException(403, "not yours"), 403, "not yours"),
        (CUDAOutOfMemoryException(), 503, "CUDA error: out of memory"),
    ],
)
async def test_an_error_that_says_nothing_has_a_name(
    error: Exception, status: int, detail: str
) -> None:
    class Raising(App):
        @endpoint("/")
        async def fail(self) -> None:
            raise error

    async with serve(Raising()) as client:
        answer = await client.post("/")
    assert (answer.status_code, answer.json()["detail"]) == (status, detail)


async def test_bad_input_names_the_field() -> None:
    async with serve(Example()) as client:
        answer = await client.post("/", json={"number": -1})
        own = await client.post("/field")
    assert answer.status_code == own.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", "number"]
    assert own.json()["detail"] == [
        {"loc": ["body", "size.width"], "msg": "too wide", "type": "value_error"}
    ]


@pytest.mark.parametrize(
    ("units", "header"),
    [(0, "0"), (3, "3"), (1.5, "1.50000000"), ("2", "2.00000000"), (None, None)],
)
async def test_a_field_error_tells_its_billable_units(units: Any, header: str | None) -> None:
    class Billing(App):
        @endpoint("/")
        def bill(self) -> None:
            raise FieldException("prompt", "too long", 422, "value_error", units)

    async with serve(Billing()) as client:
        answer = await client.post("/")
    assert answer.headers.get("x-fal-billable-units") == header


async def test_a_wrong_method_says_which_is_right() -> None:
    async with serve(Example()) as client:
        answer = await client.get("/")
    assert (answer.status_code, answer.json()["detail"]) == (405, "/ is called with POST, not GET")


async def test_an_unknown_path_says_so() -> None:
    async with serve(Example()) as client:
        answer = await client.post("/nowhere")
    assert (answer.status_code, answer.json()) == (404, {"detail": "Path /nowhere not found"})


async def test_a_stream_that_fails_at_once_is_an_error_answer() -> None:
    async with serve(Example()) as client:
        answer = await client.post("/stream", json={"number": 0})
    assert (answer.status_code, answer.json()["detail"]) == (409, "nothing to count")


async def test_a_stream_that_fails_later_ends_with_the_error_as_its_last_event() -> None:
    async with serve(Example()) as client:
        answer = await client.post("/stream", json={"number": 9})
    events = answer.text.split("\n\n")
    assert events[:3] == ["data: 0", "data: 1", "data: 2"]
    assert '"three is enough"' in events[3]


async def test_health_and_schema_are_served() -> None:
    async with serve(Example()) as client:
        assert (await client.get("/health")).json() == {"status": "ok"}
        schema = (await client.get("/openapi.json")).json()
    assert schema["x-fal-order-paths"][:2] == ["/", "/context"]
    assert schema["components"]["schemas"]["Square"]["x-fal-order-properties"] == ["square"]


@pytest.mark.parametrize("path", ["/wait", "/wait-stream"])
async def test_a_caller_who_hangs_up_ends_the_work(path: str) -> None:
    app = Example()
    async with on_a_socket(app) as address:
        async with httpx.AsyncClient() as client:
            request = asyncio.create_task(client.post(address + path))
            await asyncio.wait_for(app.began.wait(), 60)
            request.cancel()
            await asyncio.gather(request, return_exceptions=True)
        await asyncio.wait_for(app.ended.wait(), 60)


async def test_a_caller_who_hangs_up_ends_a_plain_method_at_its_checkpoint() -> None:
    app = Example()
    async with on_a_socket(app) as address, httpx.AsyncClient() as client:
        request = asyncio.create_task(client.post(f"{address}/wait-in-a-thread"))
        assert await asyncio.to_thread(app.thread_began.wait, 60)
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
        assert await asyncio.to_thread(app.thread_ended.wait, 60)


async def test_cancel_on_disconnect_of_the_reference_platform_needs_nothing_more() -> None:
    app = Example()

    class Watching(App):
        @endpoint("/")
        async def wait(self, request: Request) -> None:
            async with cancel_on_disconnect(request):
                await app.until_cancelled()

    async with on_a_socket(Watching()) as address:
        async with httpx.AsyncClient() as client:
            call = asyncio.create_task(client.post(address))
            await asyncio.wait_for(app.began.wait(), 60)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
        await asyncio.wait_for(app.ended.wait(), 60)


async def test_a_websocket_knows_its_request_and_either_side_closes_it() -> None:
    app = Example()
    async with on_a_socket(app) as address:
        url = address.replace("http", "ws") + "/socket"
        async with connect(url, additional_headers={"x-fal-request-id": "abc"}) as socket:
            assert await socket.recv() == '"abc"'
            await socket.send("hello")
            assert await socket.recv() == "hello"
            await socket.send("bye")
            await socket.wait_closed()
            assert (socket.close_code, socket.close_reason) == (1000, "bye")
        app.ended.clear()
        async with connect(url) as socket:
            await socket.recv()
        await asyncio.wait_for(app.ended.wait(), 60)


@pytest.mark.parametrize(
    ("name", "code", "reason"),
    [("app", 1008, "no more"), ("http", 1008, "who are you"), ("bug", 1011, "KeyError: 'weights'")],
)
async def test_a_websocket_whose_endpoint_raises_is_closed_with_the_reason(
    name: str, code: int, reason: str
) -> None:
    async with on_a_socket(Example()) as address:
        async with connect(address.replace("http", "ws") + "/socket") as socket:
            await socket.recv()
            await socket.send(f"raise {name}")
            await socket.wait_closed()
            assert (socket.close_code, socket.close_reason) == (code, reason)


@pytest.mark.parametrize(("name", "status"), [("app", 429), ("http", 401), ("bug", 500)])
async def test_a_websocket_that_is_refused_is_answered_with_the_reason(
    name: str, status: int
) -> None:
    async with on_a_socket(Example()) as address:
        with pytest.raises(InvalidStatus) as raised:
            await connect(f"{address.replace('http', 'ws')}/socket?refuse={name}").__aenter__()
    answer = raised.value.response
    assert answer.status_code == status
    assert json.loads(answer.body or b"")["detail"]


def test_a_websocket_endpoint_that_could_not_be_connected_to_is_refused() -> None:
    class Plain(App):
        @endpoint("/", is_websocket=True)
        def socket(self, websocket: WebSocket) -> None: ...

    class Blind(App):
        @endpoint("/", is_websocket=True)
        async def socket(self, websocket) -> None: ...  # type: ignore[no-untyped-def]

    with pytest.raises(AppError, match="must be a coroutine"):
        build(Plain())
    with pytest.raises(AppError, match="needs a parameter that is a WebSocket"):
        build(Blind())
