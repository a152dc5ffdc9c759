"""An app for what goes wrong: work that leaves a mark at every step, in ranks to be killed."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi.responses import StreamingResponse
from pydantic import BaseModel

import polyrank
from polyrank.distributed import DistributedRunner, DistributedWorker


class Work(BaseModel):
    """Steps of ``pause`` seconds; each adds a line to ``log``, and an event of ``pad`` bytes."""

    steps: int = 0
    log: str = "/dev/null"
    pad: int = 0
    pause: float = 0.02


class Stepper(DistributedWorker):
    """Works as a sampler does: step by step, and looks each time whether it is wanted still."""

    def __call__(
        self, streaming: bool = False, *, steps: int, log: str, pad: int, pause: float
    ) -> int:
        for step in range(steps):
            self.checkpoint()
            if self.rank == 0:
                with Path(log).open("a") as file:
                    file.write(f"{os.getpid()}\n")
                print("step", step)
            time.sleep(pause)
            self.add_streaming_result({"step": step} | ({"pad": "x" * pad} if pad else {}))
        return steps


class FaultsApp(polyrank.App):
    request_timeout = 5

    async def setup(self) -> None:
        self.report_loading(0.4, "reading weights")
        if gate := os.environ.get("FAULTS_GATE"):
            while not Path(gate).exists():
                await asyncio.sleep(0.02)
        self.runner = DistributedRunner(Stepper, world_size=2, device="cpu")
        await self.runner.start()

    async def teardown(self) -> None:
        await self.runner.stop()

    @polyrank.endpoint("/")
    async def work(self, request: Work) -> dict[str, Any]:
        print("at work in the app")
        return {"steps": await self.runner.invoke(request.model_dump())}

    @polyrank.endpoint("/stream")
    async def stream(self, request: Work) -> StreamingResponse:
        events: AsyncIterator[bytes] = self.runner.stream(request.model_dump(), as_text_events=True)
        return StreamingResponse(events, media_type="text/event-stream")
