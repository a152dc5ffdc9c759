"""The app that clients of other makers call: an endpoint for each thing that they can meet."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, Field

import polyrank
from polyrank.errors import AppException


class Number(BaseModel):
    number: int = Field(ge=0, le=1000)


class Sum(BaseModel):
    sum: int


class Mark(BaseModel):
    """A file that grows by a line for every call or step, and how many steps to take."""

    file: str
    steps: int = Field(0, ge=0)


class Taken(BaseModel):
    steps: int


class ClientApp(polyrank.App):
    app_name = "client-app"
    max_multiplexing = 4

    @polyrank.endpoint("/")
    def add_one(self, request: Number) -> Sum:
        print("adding one to", request.number, flush=True)
        return Sum(sum=request.number + 1)

    @polyrank.endpoint("/headers")
    def headers(self) -> dict[str, str]:
        request = self.current_request
        assert request is not None
        return dict(request.headers)

    @polyrank.endpoint("/steps")
    async def take_steps(self, request: Mark) -> Taken:
        """Works for a hundredth of a second a step, and leaves a line at each."""
        for _ in range(request.steps):
            leave_line(request.file)
            await asyncio.sleep(0.01)
        return Taken(steps=request.steps)

    @polyrank.endpoint("/third-time")
    async def be_there_the_third_time(self, request: Mark) -> Any:
        leave_line(request.file)
        tries = Path(request.file).read_text().count("\n")
        return {"tries": tries} if tries == 3 else JSONResponse({"detail": "not yet"}, 503)

    @polyrank.endpoint("/teapot")
    def refuse(self) -> None:
        raise AppException("it is a teapot", status_code=418)

    @polyrank.endpoint("/bug")
    def fail(self) -> None:
        raise KeyError("missing")

    @polyrank.endpoint("/stream")
    async def count(self, request: Number) -> StreamingResponse:
        async def events() -> AsyncIterator[str]:
            for step in range(request.number):
                yield f'data: {{"step": {step}}}\n\n'
                await asyncio.sleep(0)

        return StreamingResponse(events(), media_type="text/event-stream")

    @polyrank.endpoint("/broken/stream")
    async def break_off(self, request: Number) -> StreamingResponse:
        async def events() -> AsyncIterator[str]:
            for step in range(request.number):
                yield f'data: {{"step": {step}}}\n\n'
            raise AppException("out of paint")

        return StreamingResponse(events(), media_type="text/event-stream")


def leave_line(file: str) -> None:
    with Path(file).open("a") as marks:
        marks.write("line\n")
