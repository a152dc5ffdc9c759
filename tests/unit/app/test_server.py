"""An app over HTTP: answers, errors with a reason, streams, hang-ups."""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from polyrank import App, AppException, FieldException, endpoint
from polyrank.app.server import build
from polyrank.app.testing import serve
from polyrank.errors import WorkerError


class Number(BaseModel):
    number: int = Field(ge=0)


class Square(BaseModel):
    square: int


class Example(App):
    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.ended = asyncio.Event()

    def setup(self) -> None:
        self.power = 2

    def teardown(self) -> None:
        self.torn_down = True

    def provide_hints(self) -> list[str]:
        return ["sdxl", "lora-1"]

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


async def test_bad_input_names_the_field() -> None:
    async with serve(Example()) as client:
        answer = await client.post("/", json={"number": -1})
        own = await client.post("/field")
    assert answer.status_code == own.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", "number"]
    assert own.json()["detail"] == [
        {"loc": ["body", "size.width"], "msg": "too wide", "type": "value_error"}
    ]


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
            await asyncio.wait_for(app.began.wait(), 5)
            request.cancel()
            await asyncio.gather(request, return_exceptions=True)
        await asyncio.wait_for(app.ended.wait(), 5)


class on_a_socket:
    """Serves an app on a free port of this process's loop."""

    def __init__(self, app: App) -> None:
        self._server = uvicorn.Server(uvicorn.Config(build(app), log_config=None))
        self._socket = socket.create_server(("127.0.0.1", 0))

    async def __aenter__(self) -> str:
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    async def __aexit__(self, *_: object) -> None:
        self._server.should_exit = True
        await self._task
