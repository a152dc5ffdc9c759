"""Starlette on uvicorn, alone: what HTTP in Python costs without a server behind it."""

import json
from collections.abc import AsyncIterator

from sampler import sample
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route


async def run(request: Request) -> JSONResponse:
    """Samples."""
    body = json.loads(await request.body())
    return JSONResponse({"steps": sum(1 for _ in sample(body["steps"], body["log"]))})


async def stream(request: Request) -> StreamingResponse:
    """As many events as the body asks for."""
    count = json.loads(await request.body())["events"]

    async def events() -> AsyncIterator[bytes]:
        for step in range(count):
            yield b'data: {"step": %d}\n\n' % step

    return StreamingResponse(events(), media_type="text/event-stream")


app = Starlette(
    routes=[Route("/", run, methods=["POST"]), Route("/stream", stream, methods=["POST"])]
)
