"""One picture on several ranks: each computes some rows of the batch, and all get the whole."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from polyrank.errors import UnsupportedPipeline


class RowSplit:
    """Halves of a batch over two ranks: with guidance, a branch each."""

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        self._group = group
        self._ranks: int = dist.get_world_size(group)
        self._rank: int = dist.get_rank(group)
        if self._ranks != 2:
            raise UnsupportedPipeline(
                f"a picture's two branches of guidance go to 2 ranks, not to {self._ranks}"
            )

    def fits(self, batch: Tensor) -> bool:
        """Whether the batch can be halved."""
        return len(batch) % self._ranks == 0

    def mine(self, batch: Tensor) -> Tensor:
        """This rank's rows."""
        return batch.chunk(self._ranks)[self._rank]

    def gather(self, rows: Tensor) -> Tensor:
        """The rows of all ranks, in order."""
        rows = rows.contiguous()
        shape = (self._ranks * rows.shape[0], *rows.shape[1:])
        whole = torch.empty(shape, dtype=rows.dtype, device=rows.device)
        dist.all_gather(list(whole.chunk(self._ranks)), rows, group=self._group)
        return whole
