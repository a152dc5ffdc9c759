"""The app that the tests of realtime sessions talk to."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from fastapi import WebSocket
from pydantic import BaseModel, Field

import polyrank


class Number(BaseModel):
    number: int = Field(ge=0)
    seconds: float = 0.0
    mark: str | None = None


class Square(BaseModel):
    square: int


class Picture(BaseModel):
    pixels: bytes


class RealtimeApp(polyrank.App):
    app_name = "realtime-app"

    @polyrank.realtime("/realtime")
    async def square(self, request: Number) -> Square:
        return Square(square=request.number**2)

    @polyrank.realtime("/count")
    async def count(self, request: Number) -> AsyncIterator[Square]:
        try:
            for number in range(request.number):
                yield Square(square=number**2)
                await asyncio.sleep(request.seconds)
        finally:
            leave(request.mark)

    @polyrank.realtime("/count-in-a-thread")
    def count_in_a_thread(self, request: Number) -> Iterator[Square]:
        try:
            for number in range(request.number):
                yield Square(square=number**2)
                time.sleep(request.seconds)
        finally:
            leave(request.mark)

    @polyrank.realtime("/sum", session_timeout=0.5)
    async def add_up(self, requests: AsyncIterator[Number]) -> dict[str, int]:
        return {"sum": sum([each.number async for each in requests])}

    @polyrank.realtime("/talk", session_timeout=0.5)
    async def talk(self, requests: AsyncIterator[Number]) -> AsyncIterator[Square]:
        async for request in requests:
            yield Square(square=request.number**2)

    @polyrank.realtime("/brief", session_timeout=0.2)
    async def brief(self, request: Number) -> Square:
        await asyncio.sleep(request.seconds)
        return Square(square=request.number**2)

    @polyrank.realtime("/mirror")
    async def mirror(self, request: Picture) -> Picture:
        return request

    @polyrank.realtime("/pictures")
    async def pictures(self, request: Number) -> AsyncIterator[Picture]:
        """Makes pictures, and tells how many once it is held up or has made them all."""
        made = 0

        async def tell_when_held_up() -> None:
            before = -1
            while before < made < request.number:
                before = made
                await asyncio.sleep(0.3)
            leave(request.mark, str(made))

        telling = asyncio.create_task(tell_when_held_up())
        while made < request.number:
            made += 1
            yield Picture(pixels=bytes(2**20))
        await telling

    @polyrank.endpoint("/query", is_websocket=True)
    async def query(self, websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text(websocket.url.query)
        await websocket.close()

    @polyrank.endpoint("/socket", is_websocket=True)
    async def socket(self, websocket: WebSocket) -> None:
        assert self.current_request is not None
        await websocket.accept(subprotocol=next(iter(websocket["subprotocols"]), None))
        await websocket.send_json({"id": self.current_request.request_id})
        while True:
            message = await websocket.receive()
            if message["type"] == "websocket.disconnect":
                return leave(websocket.query_params.get("mark"), str(message["code"]))
            if message.get("text") == "bye":
                return await websocket.close(4321, "see you")
            if message.get("text") is not None:
                await websocket.send_text(message["text"])
            else:
                await websocket.send_bytes(message["bytes"])


def leave(mark: str | None, text: str = "ended") -> None:
    """Writes to the file that a test waits for."""
    if mark is not None:
        Path(mark).write_text(text)
