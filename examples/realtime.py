"""A picture that grows on two ranks while you paint into it: a reaction with a diffusion.

Run it with ``polyrank run examples/realtime.py``; ``docs/realtime.md`` has a program that paints.
"""

import contextlib
import io
from collections.abc import AsyncIterator
from typing import Any

from PIL import Image
from pydantic import BaseModel, Field

from polyrank import App, realtime
from polyrank.distributed import DistributedRunner, DistributedWorker

SIZE = 256


class Stroke(BaseModel):
    """Where the brush is, from 0 to 1, and how many steps the picture grows then."""

    x: float = Field(default=0.5, ge=0, le=1)
    y: float = Field(default=0.5, ge=0, le=1)
    steps: int = Field(default=16, ge=1, le=1000)


class Film(Stroke):
    frames: int = Field(default=100, ge=1, le=100_000)


class Frame(BaseModel):
    step: int
    jpeg: bytes


class Reaction(DistributedWorker):
    """Gray and Scott's two chemicals. Every rank has a band of rows of both."""

    def setup(self) -> None:
        import torch

        rows = SIZE // self.world_size
        self.first_row = self.rank * rows
        self.fields = torch.stack([torch.ones(rows, SIZE), torch.zeros(rows, SIZE)]).to(self.device)
        spread = torch.tensor([[0.05, 0.2, 0.05], [0.2, -1.0, 0.2], [0.05, 0.2, 0.05]])
        self.spread = spread.expand(2, 1, 3, 3).to(self.device)
        self.step = 0

    def __call__(
        self, streaming: bool = False, *, x: float, y: float, steps: int, frames: int = 1
    ) -> dict[str, Any]:
        self.paint(round(x * SIZE), round(y * SIZE) - self.first_row)
        for _ in range(frames - 1):
            self.add_streaming_result(self.grow(steps))
        return self.grow(steps)

    def paint(self, x: int, y: int, radius: int = 6) -> None:
        """Puts the second chemical under the brush, as far as that is in this band."""
        rows = slice(max(0, y - radius), max(0, y + radius))
        self.fields[1, rows, max(0, x - radius) : x + radius] = 1.0

    def grow(self, steps: int) -> dict[str, Any]:
        for _ in range(steps):
            self.checkpoint()  # once the caller has gone, both ranks leave here
            self.react()
        return {"step": self.step, "picture": self.picture()}

    def react(self, feed: float = 0.055, kill: float = 0.062) -> None:
        import torch
        import torch.nn.functional as functional

        above, below = self.rows_of_the_neighbours()
        band = torch.cat([above, self.fields, below], dim=1)
        band = torch.cat([band[..., -1:], band, band[..., :1]], dim=2)
        change = functional.conv2d(band, self.spread, groups=2)
        first, second = self.fields
        reacted = first * second**2
        first += change[0] - reacted + feed * (1 - first)
        second += 0.5 * change[1] + reacted - (feed + kill) * second
        self.step += 1

    def rows_of_the_neighbours(self) -> Any:
        """The rows next to this band: the last of the rank before, the first of the one after."""
        import torch
        import torch.distributed as dist

        own = torch.stack([self.fields[:, -1:], self.fields[:, :1]])
        every = [torch.empty_like(own) for _ in range(self.world_size)]
        dist.all_gather(every, own)
        return every[self.rank - 1][0], every[(self.rank + 1) % self.world_size][1]

    def picture(self) -> Image.Image | None:
        """The picture of all bands, on rank 0."""
        import torch
        import torch.distributed as dist

        band = (self.fields[1].clamp(0, 0.4) * (255 / 0.4)).to(torch.uint8)
        bands = [torch.empty_like(band) for _ in range(self.world_size)] if self.rank == 0 else None
        dist.gather(band, bands)
        return Image.fromarray(torch.cat(bands).cpu().numpy()) if bands else None


class Painting(App):
    num_gpus = 2

    async def setup(self) -> None:
        self.runner = DistributedRunner(Reaction, world_size=self.num_gpus)
        await self.runner.start()

    async def teardown(self) -> None:
        await self.runner.stop()

    @realtime("/realtime", buffering=1)
    async def paint(self, stroke: Stroke) -> Frame:
        """A frame for every stroke; of strokes that come faster, the newest."""
        return frame_of(await self.runner.invoke(stroke.model_dump()))

    @realtime("/film")
    async def film(self, film: Film) -> AsyncIterator[Frame]:
        """One stroke, and frames of what becomes of it."""
        async with contextlib.aclosing(self.runner.stream(film.model_dump())) as results:
            async for result in results:
                yield frame_of(result)


def frame_of(result: dict[str, Any]) -> Frame:
    buffer = io.BytesIO()
    result["picture"].save(buffer, "jpeg", quality=90)
    return Frame(step=result["step"], jpeg=buffer.getvalue())
