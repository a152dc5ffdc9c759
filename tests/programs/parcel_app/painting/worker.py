"""A worker in a package of its own app."""

from typing import Any

from fal.distributed.worker import DistributedWorker

from .words import GREETING


class Sum(DistributedWorker):  # type: ignore[misc]
    def __call__(self, streaming: bool = False, *, numbers: list[float]) -> dict[str, Any]:
        import torch
        import torch.distributed as dist

        share = torch.tensor(float(sum(numbers[self.rank :: self.world_size])))
        dist.all_reduce(share)
        return {"greeting": GREETING, "sum": share.item(), "ranks": self.world_size}
