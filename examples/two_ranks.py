"""One request on two ranks. Run it with ``polyrank run examples/two_ranks.py``."""

from collections.abc import AsyncIterator

from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from polyrank import App, endpoint
from polyrank.distributed import DistributedRunner, DistributedWorker


class Sum(BaseModel):
    numbers: list[float] = Field(min_length=1)


class AddUp(DistributedWorker):
    """Each rank adds its share; one all-reduce adds the shares."""

    def __call__(self, streaming: bool = False, *, numbers: list[float]) -> dict[str, float]:
        import torch
        import torch.distributed as dist

        share = torch.tensor(numbers[self.rank :: self.world_size], device=self.device).sum()
        self.add_streaming_result({"share_of_rank_0": share.item()})
        dist.all_reduce(share)
        return {"sum": share.item()}


class TwoRanks(App):
    num_gpus = 2

    async def setup(self) -> None:
        self.runner = DistributedRunner(AddUp, world_size=self.num_gpus)
        await self.runner.start()

    async def teardown(self) -> None:
        await self.runner.stop()

    @endpoint("/")
    async def add_up(self, request: Sum) -> dict[str, float]:
        return await self.runner.invoke(request.model_dump())

    @endpoint("/stream")
    async def stream(self, request: Sum) -> StreamingResponse:
        events: AsyncIterator[bytes] = self.runner.stream(request.model_dump(), as_text_events=True)
        return StreamingResponse(events, media_type="text/event-stream")
