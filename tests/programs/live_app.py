"""The app that is called over realtime connections."""

from collections.abc import AsyncIterator

from pydantic import BaseModel

import polyrank


class Number(BaseModel):
    number: int


class Doubled(BaseModel):
    double: int


class Frame(BaseModel):
    step: int
    image: bytes


class LiveApp(polyrank.App):
    app_name = "live-app"
    max_multiplexing = 4

    @polyrank.endpoint("/plain")
    def double_once(self, request: Number) -> Doubled:
        return self.double(request)

    @polyrank.realtime("/realtime")
    def double(self, request: Number) -> Doubled:
        return Doubled(double=2 * request.number)

    @polyrank.realtime("/frames")
    async def paint(self, request: Number) -> AsyncIterator[Frame]:
        for step in range(request.number):
            yield Frame(step=step, image=bytes(1000))
