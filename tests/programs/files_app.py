"""The app that the tests of files call: it makes and opens files, and keeps values."""

import os
import signal
from typing import Any

from fastapi import WebSocket
from PIL import Image as PILImage
from pydantic import BaseModel

import polyrank
from polyrank.toolkit import File, Image, KVStore


class Wanted(BaseModel):
    """A file to make."""

    text: str = "hello"
    name: str = "hello.txt"
    content_type: str | None = None


class Given(BaseModel):
    file: File


class Entry(BaseModel):
    key: str
    value: str | None = None
    ttl: int | None = None


class FilesApp(polyrank.App):
    app_name = "files-app"
    app_auth = "shared"
    max_multiplexing = 4

    def setup(self) -> None:
        self.values = KVStore("notes")

    @polyrank.endpoint("/make")
    async def make(self, request: Wanted) -> File:
        data = request.text.encode()
        return await File.from_bytes_async(data, request.content_type, request.name)

    @polyrank.endpoint("/paint")
    def paint(self, request: Wanted) -> Image:
        return Image.from_pil(PILImage.new("RGB", (4, 2), "red"))

    @polyrank.endpoint("/size")
    def size(self, request: Given) -> int:
        return len(request.file.as_bytes())

    @polyrank.endpoint("/note")
    def note(self, request: Entry) -> dict[str, Any]:
        if request.value is not None:
            self.values.set(request.key, request.value, request.ttl)
        return {"value": self.values.get(request.key), "pid": os.getpid()}

    @polyrank.endpoint("/forget")
    def forget(self, request: Entry) -> None:
        self.values.delete(request.key)

    @polyrank.endpoint("/die")
    async def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    @polyrank.endpoint("/socket", is_websocket=True)
    async def socket(self, websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text((await File.from_bytes_async(b"from a socket")).url)
        await websocket.close()
