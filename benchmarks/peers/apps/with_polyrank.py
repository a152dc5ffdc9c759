"""polyrank: a worker of one rank; ``checkpoint()`` once per step lets it be stopped."""

from typing import Any

from pydantic import BaseModel
from sampler import TIMEOUT_S, sample

from polyrank import App, endpoint
from polyrank.distributed import DistributedRunner, DistributedWorker


class Request(BaseModel):
    """What to sample."""

    steps: int
    log: str


class Sampler(DistributedWorker):
    """The model."""

    def __call__(self, streaming: bool = False, *, steps: int, log: str) -> dict[str, int]:
        """Samples."""
        done = 0
        for _ in sample(steps, log):
            self.checkpoint()
            done += 1
        return {"steps": done}


class SamplerApp(App):
    """Its app; its runner is a queue, and takes as many requests as there are."""

    max_multiplexing = 64

    async def setup(self) -> None:
        """Starts the rank."""
        self.runner = DistributedRunner(Sampler, world_size=1)
        await self.runner.start()

    async def teardown(self) -> None:
        """Stops it."""
        await self.runner.stop()

    @endpoint("/")
    async def run(self, request: Request) -> dict[str, Any]:
        """Samples."""
        return await self.runner.invoke(request.model_dump(), timeout=TIMEOUT_S)
