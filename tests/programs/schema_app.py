"""An app whose endpoints take and give one of each kind that a schema can describe."""

from collections.abc import AsyncIterator
from enum import StrEnum
from typing import Annotated, Literal

from fastapi import Query, WebSocket
from fastapi.responses import PlainTextResponse, Response, StreamingResponse
from pydantic import BaseModel, Field, StrictInt

import polyrank


class Style(StrEnum):
    INK = "ink"
    OIL = "oil"


class Size(BaseModel):
    """Width and height in pixels."""

    width: int = Field(512, ge=1, le=2048)
    height: int = Field(512, ge=1, le=2048)


class Circle(BaseModel):
    kind: Literal["circle"]
    radius: float = Field(gt=0, le=100)


class Square(BaseModel):
    kind: Literal["square"]
    side: float = Field(gt=0, le=100)


class Drawing(BaseModel):
    """What to draw."""

    title: str = Field(min_length=1, max_length=40)
    style: Style = Style.INK
    size: Size | Literal["small", "large"] = "small"
    shapes: list[Annotated[Circle | Square, Field(discriminator="kind")]] = Field([], max_length=5)
    seed: StrictInt | None = None  # a plain int would take false for 0
    labels: dict[str, str] = {}
    code: str = Field("aa-11", pattern=r"^[a-z]{2}-[0-9]{2}$")


class Drawn(BaseModel):
    title: str
    shapes: int


class SchemaApp(polyrank.App):
    """Draws shapes."""

    app_name = "schema-app"
    max_multiplexing = 8

    @polyrank.endpoint("/")
    def draw(self, drawing: Drawing) -> Drawn:
        """Draws once."""
        return Drawn(title=drawing.title, shapes=len(drawing.shapes))

    @polyrank.endpoint("/stream")
    async def draw_step_by_step(self, drawing: Drawing) -> StreamingResponse:
        async def events() -> AsyncIterator[str]:
            for step in range(len(drawing.shapes)):
                yield f'data: {{"step": {step}}}\n\n'

        return StreamingResponse(events(), media_type="text/event-stream")

    @polyrank.endpoint("/count")
    def count(self, low: int, high: Annotated[int, Query(le=1000)] = 10) -> list[int]:
        if low > high:
            raise polyrank.AppException("low is above high", status_code=409)
        return list(range(max(low, high - 3), high))

    @polyrank.endpoint("/refuse")
    def refuse(self, drawing: Drawing) -> None:
        raise polyrank.FieldException("title", "is taken", status_code=409)

    @polyrank.endpoint("/text")
    def tell(self) -> PlainTextResponse:
        return PlainTextResponse("shapes")

    @polyrank.endpoint("/picture")
    def picture(self, size: Size) -> Response:
        return Response(bytes(size.width), media_type="image/x-portable-bitmap")

    @polyrank.realtime("/realtime")
    def draw_as_one_types(self, drawing: Drawing) -> Drawn:
        return self.draw(drawing)

    @polyrank.endpoint("/live", is_websocket=True)
    async def live(self, websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close()
