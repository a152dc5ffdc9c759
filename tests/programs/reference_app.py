"""An app as it is written for the reference platform: options, toolkit types, several endpoints."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Literal

import fal
from fal.exceptions import AppException, FieldException
from fal.toolkit import File, Image, ImageSizeInput, get_image_size
from fastapi import WebSocket
from fastapi.responses import StreamingResponse
from PIL import Image as PILImage
from pydantic import BaseModel, Field


class TextToImageInput(BaseModel):
    prompt: str = Field(description="What to paint", examples=["a fox in the snow"])
    image_size: ImageSizeInput = Field(default="square")
    num_inference_steps: int = Field(default=4, ge=1, le=50)
    colours: list[Literal["red", "green", "blue"]] = Field(min_length=1, max_length=3)
    seed: int | None = None


class ImageToImageInput(TextToImageInput):
    image: Image
    strength: float = Field(gt=0, le=1)


class Output(BaseModel):
    images: list[Image]
    seed: int


class Painter(fal.App, keep_alive=300, name="painter", min_concurrency=1):  # type: ignore[misc]
    machine_type = ["GPU-H100", "GPU-A100"]
    requirements = [
        ["pillow", "--extra-index-url", "https://example.com/whl"],
        ["no-such-package==1.0", "git+https://example.com/a/b.git@main#egg=no-such-thing"],
    ]
    local_python_modules = ["helpers"]
    app_auth = "private"
    request_timeout = 120
    host_kwargs = {"_scheduler": "nomad", "resolver": "uv"}
    max_multiplexing = 2
    secrets = ["HF_TOKEN"]
    data_mounts = ["/data"]

    def setup(self) -> None:
        self.painted = 0

    def provide_hints(self) -> list[str]:
        return [f"painted-{self.painted}"]

    def health(self) -> dict[str, int]:
        return {"painted": self.painted}

    @fal.endpoint("/")
    def text_to_image(self, request: TextToImageInput) -> Output:
        if "forbidden" in request.prompt:
            raise FieldException("prompt", "this is not painted here")
        size = get_image_size(request.image_size)
        picture = PILImage.new("RGB", (size.width, size.height), request.colours[0])
        self.painted += 1
        return Output(images=[Image.from_pil(picture, format="jpeg")], seed=request.seed or 42)

    @fal.endpoint("/image-to-image")
    async def image_to_image(self, request: ImageToImageInput) -> Output:
        picture = await asyncio.to_thread(request.image.to_pil)
        return Output(images=[Image.from_pil(picture.resize((8, 8)))], seed=1)

    @fal.endpoint("/describe")
    async def describe(self, file: File) -> dict[str, str | int]:
        assert self.current_request is not None
        return {"length": len(file.as_bytes()), "request_id": self.current_request.request_id}

    @fal.endpoint("/stream")
    async def stream(self, request: TextToImageInput) -> StreamingResponse:
        async def steps() -> AsyncIterator[str]:
            for step in range(request.num_inference_steps):
                yield f"data: {json.dumps({'step': step})}\n\n"

        return StreamingResponse(steps(), media_type="text/event-stream")

    @fal.endpoint("/busy")
    async def busy(self) -> None:
        raise AppException(message="come back later", status_code=429)

    @fal.endpoint("/chat", is_websocket=True)
    async def chat(self, websocket: WebSocket) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            if text == "fail":
                raise AppException("no more words", status_code=400)
            await websocket.send_text(text.upper())


if __name__ == "__main__":
    fal.wrap_app(Painter)()
