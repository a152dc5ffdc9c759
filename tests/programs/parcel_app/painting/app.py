"""An app in a package: relative imports, and a worker beside it."""

from typing import Any

import fal
from fal.distributed import DistributedRunner
from pydantic import BaseModel, Field

from .worker import Sum


class Numbers(BaseModel):
    numbers: list[float] = Field(min_length=1)


class Adder(fal.App):  # type: ignore[misc]
    local_python_modules = ["painting"]
    num_gpus = 8

    async def setup(self) -> None:
        self.runner = DistributedRunner(Sum, world_size=self.num_gpus)
        await self.runner.start()

    async def teardown(self) -> None:
        await self.runner.stop()

    @fal.endpoint("/")
    async def add(self, request: Numbers) -> dict[str, Any]:
        return await self.runner.invoke(request.model_dump())
