"""The app that the server's tests call."""

import asyncio
import json
import logging
import os
import time
from pathlib import Path
from typing import Any

from fastapi.responses import JSONResponse, StreamingResponse
from PIL import Image as PILImage
from pydantic import BaseModel

import polyrank
from polyrank.errors import FieldException
from polyrank.toolkit import Image


class Work(BaseModel):
    """How long to work, and where to leave a mark for every tenth of a second."""

    seconds: float = 0.0
    log: str | None = None


class Number(BaseModel):
    number: int


class Painted(BaseModel):
    image: Image
    small: Image


class QueueApp(polyrank.App):
    app_name = "queue-app"
    max_multiplexing = 4

    @polyrank.endpoint("/")
    async def double(self, request: Number) -> dict[str, Any]:
        return {"double": 2 * request.number}

    @polyrank.endpoint("/slow")
    async def double_slowly(self, request: Number) -> dict[str, Any]:
        await asyncio.sleep(0.2)
        return {"double": 2 * request.number}

    @polyrank.endpoint("/work")
    async def work(self, request: Work) -> dict[str, Any]:
        begun = time.monotonic()
        while time.monotonic() - begun < request.seconds:
            if request.log:
                with Path(request.log).open("a") as file:
                    file.write("step\n")
            await asyncio.sleep(0.02)
        return {"pid": os.getpid()}

    @polyrank.endpoint("/odd")
    async def only_odd(self, request: Number) -> dict[str, Any]:
        if request.number % 2 == 0:
            raise FieldException("number", "must be odd")
        return {"odd": request.number}

    @polyrank.endpoint("/stream")
    async def stream(self, request: Number) -> StreamingResponse:
        async def events() -> Any:
            for step in range(request.number):
                yield f'data: {{"step": {step}}}\n\n'
                await asyncio.sleep(0.01)

        return StreamingResponse(events(), media_type="text/event-stream")

    @polyrank.endpoint("/flaky")
    async def flaky(self, request: Work) -> Any:
        """Fails with 503 until the file named by ``log`` has two lines."""
        path = Path(request.log or "")
        tries = path.read_text().count("\n") if path.exists() else 0
        with path.open("a") as file:
            file.write("try\n")
        if tries < 2:
            return JSONResponse({"detail": "not yet"}, 503)
        return {"tries": tries + 1}

    @polyrank.endpoint("/stumble")
    async def stumble(self, request: Number) -> StreamingResponse:
        """Fails after so many events."""

        async def events() -> Any:
            for step in range(request.number):
                yield f'data: {{"step": {step}}}\n\n'
            raise FieldException("number", "too far")

        return StreamingResponse(events(), media_type="text/event-stream")

    @polyrank.endpoint("/paint")
    async def paint(self, request: Number) -> Painted:
        """Pictures: one as a file, one inside the answer."""
        picture = PILImage.new("RGB", (request.number, 8), "red")
        return Painted(
            image=Image.from_pil(picture, file_name="red.png"),
            small=Image.from_pil(picture, repository="in_memory"),
        )

    @polyrank.endpoint("/caller")
    async def caller(self, request: Work) -> dict[str, Any]:
        """The headers of the call."""
        assert self.current_request is not None
        return dict(self.current_request.headers)

    @polyrank.endpoint("/previews")
    async def previews(self, request: Number) -> StreamingResponse:
        """A preview on the way, and a picture at the end."""
        picture = PILImage.new("RGB", (request.number, request.number), "red")
        uri = Image.from_pil(picture, repository="in_memory").url

        async def events() -> Any:
            logging.getLogger("painter").warning("painting at step 1")
            preview = {"step": 1, "progress": 0.5, "preview_image": {"url": uri}}
            for event in (preview, {"image": {"url": uri}, "seed": 7}):
                yield f"data: {json.dumps(event)}\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    @polyrank.endpoint("/chatty")
    async def chatty(self, request: Work) -> dict[str, Any]:
        """Says something all the time."""
        begun = time.monotonic()
        while time.monotonic() - begun < request.seconds:
            logging.getLogger("chatty").warning("still at work")
            await asyncio.sleep(0.02)
        return {}
