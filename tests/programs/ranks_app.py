"""An app whose ranks can be killed under it."""

import contextlib
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
    """Takes time, so that a kill hits it at work: at least while the fifo RANKS_GATE is there."""

    def __call__(self, streaming: bool = False, *, number: int) -> int:
        gate = Path(os.environ["RANKS_GATE"])
        with contextlib.suppress(FileNotFoundError):
            with open(os.open(gate, os.O_WRONLY), "w") as listener:
                listener.write("at work")
        while gate.exists():
            time.sleep(0.02)
        time.sleep(0.1)
        return 2 * number


class RanksApp(polyrank.App):
    max_multiplexing = 4

    async def setup(self) -> None:
        self.runner = DistributedRunner(Doubler, world_size=1, groups=2, device="cpu")
        await self.runner.start()

    async def teardown(self) -> None:
        await self.runner.stop()

    @polyrank.endpoint("/")
    async def double(self, request: Number) -> dict[str, Any]:
        return {"double": await self.runner.invoke({"number": request.number})}
