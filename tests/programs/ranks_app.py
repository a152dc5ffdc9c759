"""An app whose ranks can be killed under it."""

import asyncio
import os
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import polyrank
from polyrank.distributed import DistributedRunner, DistributedWorker


class Number(BaseModel):
    number: int


class Doubler(DistributedWorker):
    """Takes its time, so that a kill hits it at work."""

    def __call__(self, streaming: bool = False, *, number: int) -> int:
        time.sleep(0.1)
        return 2 * number


class RanksApp(polyrank.App):
    """Begins to work when the file RANKS_GATE is there."""

    max_multiplexing = 4

    async def setup(self) -> None:
        self.runner = DistributedRunner(Doubler, world_size=1, groups=2, device="cpu")
        await self.runner.start()
        while not Path(os.environ["RANKS_GATE"]).exists():
            await asyncio.sleep(0.02)

    async def teardown(self) -> None:
        await self.runner.stop()

    @polyrank.endpoint("/")
    async def double(self, request: Number) -> dict[str, Any]:
        return {"double": await self.runner.invoke({"number": request.number})}
