"""The app that takes and gives files."""

from collections.abc import AsyncIterator

from fastapi.responses import StreamingResponse
from PIL import Image as Pictures
from pydantic import BaseModel

import polyrank
from polyrank.toolkit import File, Image


class Files(BaseModel):
    files: list[File]
    named: dict[str, File] = {}

    def sizes(self) -> list[int]:
        return [len(file.as_bytes()) for file in [*self.files, *self.named.values()]]


class Sizes(BaseModel):
    sizes: list[int]


class Picture(BaseModel):
    image: Image


class PictureApp(polyrank.App):
    app_name = "picture-app"

    @polyrank.endpoint("/")
    def paint(self) -> Picture:
        return Picture(image=Image.from_pil(Pictures.effect_noise((64, 64), 50), format="png"))

    @polyrank.endpoint("/sizes")
    def measure(self, request: Files) -> Sizes:
        return Sizes(sizes=request.sizes())

    @polyrank.endpoint("/sizes/stream")
    def measure_all(self, request: Files) -> StreamingResponse:
        size = sum(request.sizes())

        async def events() -> AsyncIterator[str]:
            yield f'data: {{"size": {size}}}\n\n'

        return StreamingResponse(events(), media_type="text/event-stream")
