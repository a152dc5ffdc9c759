"""The app whose realtime endpoints the playground's tests talk to."""

import asyncio
import io
from collections.abc import AsyncIterator

from fastapi import WebSocket
from PIL import Image
from pydantic import BaseModel, Field

import polyrank


class Hue(BaseModel):
    red: int = Field(default=120, ge=0, le=255)
    words: str = "grüße"


class Patch(BaseModel):
    picture: bytes
    words: str


class RealtimePageApp(polyrank.App):
    app_name = "realtime-page-app"
    max_multiplexing = 4

    @polyrank.realtime("/paint")
    async def paint(self, request: Hue) -> Patch:
        return Patch(picture=await asyncio.to_thread(patch, request.red), words=request.words)

    @polyrank.realtime("/sum")
    async def add_up(self, requests: AsyncIterator[Hue]) -> dict[str, int]:
        return {"sum": sum([each.red async for each in requests])}

    @polyrank.endpoint("/chat", is_websocket=True)
    async def chat(self, websocket: WebSocket) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            await websocket.send_text(text.upper())


def patch(red: int) -> bytes:
    raw = io.BytesIO()
    Image.new("RGB", (red + 1, 20), (red, 80, 120)).save(raw, "png")
    return raw.getvalue()
