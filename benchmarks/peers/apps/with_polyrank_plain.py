"""polyrank without ranks: an endpoint in the replica's own process, behind the server."""

from collections.abc import AsyncIterator

from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from sampler import sample

from polyrank import App, endpoint


class Request(BaseModel):
    """What to sample."""

    steps: int
    log: str


class Events(BaseModel):
    """How many events to stream."""

    events: int


class Done(BaseModel):
    """What was made."""

    steps: int


class Plain(App):
    """The app."""

    max_multiplexing = 64

    @endpoint("/stream")
    async def stream(self, request: Events) -> StreamingResponse:
        """As many events as the body asks for."""

        async def events() -> AsyncIterator[bytes]:
            for step in range(request.events):
                yield b'data: {"step": %d}\n\n' % step

        return StreamingResponse(events(), media_type="text/event-stream")

    @endpoint("/")
    async def run(self, request: Request) -> Done:
        """Samples."""
        return Done(steps=sum(1 for _ in sample(request.steps, request.log)))
