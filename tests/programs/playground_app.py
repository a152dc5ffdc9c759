"""The app that the playground's tests fill in: every kind of input, and every kind of result."""

import asyncio
import io
import json
import struct
import wave
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi.responses import StreamingResponse
from PIL import Image as PILImage
from PIL import ImageDraw
from pydantic import BaseModel, Field

import polyrank
from polyrank.errors import FieldException
from polyrank.toolkit import Audio, File, Image, ImageSizeInput, datauri, get_image_size


class Border(BaseModel):
    """A frame around the picture."""

    width: int = Field(default=4, ge=0, le=64)
    colour: Literal["black", "white", "gold"] = "black"


class Circle(BaseModel):
    kind: Literal["circle"] = "circle"
    radius: int = Field(default=24, ge=1, le=200)


class Box(BaseModel):
    kind: Literal["box"] = "box"
    width: int = Field(default=40, ge=1, le=400)
    height: int = Field(default=40, ge=1, le=400)


class Painting(BaseModel):
    """All that a form has to know."""

    prompt: str = Field(description="What to paint", examples=["a lighthouse at dusk"])
    image_size: ImageSizeInput = "square"
    steps: int = Field(default=4, ge=1, le=50, description="More steps, more detail")
    strength: float = Field(default=0.5, gt=0, le=1)
    style: Literal["ink", "oil", "pastel"] = "oil"
    sharpen: bool = False
    seed: int | None = Field(default=None, ge=0, description="Same seed, same picture")
    negative_prompt: str | None = None
    tags: list[str] = Field(default_factory=list, max_length=4)
    border: Border = Field(default_factory=Border)
    shape: Annotated[Circle | Box, Field(discriminator="kind")] = Field(default_factory=Circle)
    source: Image | None = None
    mood: str | float | None = None
    weights: dict[str, float] = Field(default_factory=dict)


class Painted(BaseModel):
    images: list[Image]
    seed: int
    asked: dict[str, Any]


class Count(BaseModel):
    number: int = Field(default=3, ge=1, le=100)
    seconds: float = Field(default=0.0, ge=0, le=60, description="Between two steps")


class Sound(BaseModel):
    audio: Audio
    notes: File


class Upload(BaseModel):
    file: File


class PlaygroundApp(polyrank.App):
    app_name = "playground-app"
    max_multiplexing = 1

    @polyrank.endpoint("/")
    async def paint(self, request: Painting) -> Painted:
        """Paints one picture."""
        if "forbidden" in request.prompt:
            raise FieldException("prompt", "this is not painted here")
        size = get_image_size(request.image_size)
        picture = await asyncio.to_thread(draw, size.width // 4, size.height // 4, request.steps)
        asked = request.model_dump(mode="json", exclude={"source"})
        if request.source is not None:
            asked["source_bytes"] = len(await request.source.as_bytes_async())
        image = await asyncio.to_thread(Image.from_pil, picture)
        return Painted(images=[image], seed=request.seed or 42, asked=asked)

    @polyrank.endpoint("/stream")
    async def stream(self, request: Count) -> StreamingResponse:
        """Counts, with a preview at every step."""

        async def events() -> AsyncIterator[str]:
            for step in range(1, request.number + 1):
                preview = data_uri(draw(96, 96, step))
                progress = step / request.number
                event = {"step": step, "progress": progress, "preview_image": {"url": preview}}
                yield f"data: {json.dumps(event)}\n\n"
                await asyncio.sleep(request.seconds)
            picture = data_uri(draw(256, 256, request.number))
            yield f"data: {json.dumps({'image': {'url': picture}, 'steps': request.number})}\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    @polyrank.endpoint("/work")
    async def work(self, request: Count) -> dict[str, Any]:
        """Takes its time."""
        for step in range(request.number):
            print(f"step {step + 1} of {request.number}", flush=True)
            await asyncio.sleep(request.seconds)
        return {"counted": request.number}

    @polyrank.endpoint("/sound")
    async def sound(self, request: Count) -> Sound:
        """A second of a note, and a file beside it."""
        raw = io.BytesIO()
        with wave.open(raw, "wb") as out:
            out.setparams((1, 2, 8000, 0, "NONE", "none"))
            frames = (8000 * (i // 9 % 2) for i in range(8000))
            out.writeframes(b"".join(struct.pack("<h", frame) for frame in frames))
        audio, notes = await asyncio.gather(
            asyncio.to_thread(Audio.from_bytes, raw.getvalue(), "audio/wav", "note.wav"),
            asyncio.to_thread(File.from_bytes, b"a,b\n1,2\n", "text/csv", "notes.csv"),
        )
        return Sound(audio=audio, notes=notes)

    @polyrank.endpoint("/measure")
    async def measure(self, request: Upload) -> dict[str, Any]:
        """How long a file is."""
        return {"bytes": len(await request.file.as_bytes_async())}

    @polyrank.endpoint("/fail")
    async def fail(self) -> dict[str, Any]:
        """Fails, always."""
        raise RuntimeError("the brush broke")

    @polyrank.endpoint("/markup")
    async def markup(self) -> dict[str, Any]:
        """What a hostile app could answer."""
        return {
            "text": "<img src=x onerror=alert(1)>",
            "image": {"url": "javascript:alert(1)", "content_type": "image/png"},
        }


def draw(width: int, height: int, rings: int) -> PILImage.Image:
    """Rings on a sky: the same for the same arguments."""
    picture = PILImage.new("RGB", (width, height), (24, 34, 56))
    canvas = ImageDraw.Draw(picture)
    for ring in range(rings, 0, -1):
        radius = ring * min(width, height) / 2 / (rings + 1)
        shade = 255 * ring // rings
        box = (width / 2 - radius, height / 2 - radius, width / 2 + radius, height / 2 + radius)
        canvas.ellipse(box, fill=(255 - shade // 2, 120 + shade // 4, shade))
    return picture


def data_uri(picture: PILImage.Image) -> str:
    raw = io.BytesIO()
    picture.save(raw, "png")
    return datauri.make(raw.getvalue(), "image/png")
