"""Ranks that make pictures together, and how they share a call: its batch first, then its rows."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from polyrank.diffusion.exchange import Exchange, GroupExchange
from polyrank.diffusion.rows import Rows
from polyrank.errors import UnsupportedPipeline

log = logging.getLogger("polyrank.diffusion")

SIZES = (1, 2, 4, 8)


@dataclass(frozen=True)
class Share:
    """One rank's part of a call: a part of the batch, and of its pictures a band of rows."""

    parts: int
    part: int
    rows: Rows | None
    everyone: Exchange

    @property
    def bands(self) -> int:
        """How many ranks a picture is divided among."""
        return 1 if self.rows is None else self.rows.ranks

    def of_batch(self, batch: Tensor) -> Tensor:
        """This rank's part of a batch."""
        return batch.chunk(self.parts)[self.part]

    def of_pictures(self, pictures: Tensor) -> Tensor:
        """This rank's band of its part of a batch of pictures."""
        part = self.of_batch(pictures)
        return part if self.rows is None else self.rows.mine(part)

    def whole(self, mine: Tensor) -> Tensor:
        """The batch of whole pictures of which every rank has its part."""
        parts = self.everyone(mine).unflatten(0, (self.parts, self.bands))
        return parts.permute(0, 2, 3, 1, 4, 5).flatten(3, 4).flatten(0, 1)


class Team:
    """The ranks of a process group. All of them make the same calls in the same order."""

    def __init__(self, group: dist.ProcessGroup, device: torch.device, *, symmetric: bool) -> None:
        self._group = group
        self._symmetric = symmetric
        self._device = device
        self.ranks: int = dist.get_world_size(group)
        self.rank: int = dist.get_rank(group)
        if self.ranks not in SIZES:
            raise UnsupportedPipeline(
                f"{self.ranks} ranks cannot share a picture; {', '.join(map(str, SIZES))} can"
            )
        self._everyone = self._open(self._group)
        self._rows = {
            size: Rows(size, self.rank % size, self._exchange(size), device)
            for size in SIZES
            if 1 < size <= self.ranks
        }

    def share(self, batch: int, height: int, multiple: int) -> Share:
        """This rank's part of a call; ``multiple``: what the height of a band has to be one of.

        Raises UnsupportedPipeline if the pictures' height does not divide.
        """
        parts = math.gcd(batch, self.ranks)
        bands = self.ranks // parts
        if not self.divides(batch, height, multiple):
            raise UnsupportedPipeline(
                f"{bands} ranks share the rows of a picture if the height of its latents is a "
                f"multiple of {bands * multiple}; it is {height} (most VAEs make 8 rows of one)"
            )
        return Share(parts, self.rank // bands, self._rows.get(bands), self._everyone)

    def divides(self, batch: int, height: int, multiple: int) -> bool:
        """Whether ``share`` has a part for every rank."""
        bands = self.ranks // math.gcd(batch, self.ranks)
        return bands == 1 or height % (bands * multiple) == 0

    def _exchange(self, size: int) -> Exchange:
        """Among the ``size`` ranks beside each other of which this is one."""
        if size == self.ranks:
            return self._everyone
        ranks = dist.get_process_group_ranks(self._group)
        groups = [
            dist.new_group(ranks[start : start + size]) for start in range(0, self.ranks, size)
        ]
        return self._open(groups[self.rank // size])

    def _open(self, group: dist.ProcessGroup) -> Exchange:
        over_group = GroupExchange(group)
        if self._device.type != "cuda" or not self._symmetric or self.ranks == 1:
            return over_group
        # Needs Triton, which is there only with GPUs.
        from polyrank.diffusion.symmetric import SymmetricExchange

        exchange: Exchange | None = None
        try:
            exchange = SymmetricExchange(group, self._device, over_group)
        except RuntimeError:
            log.warning("the GPUs cannot see each other's memory; NCCL is used", exc_info=True)
        found = over_group(torch.tensor([exchange is not None], device=self._device))
        return exchange if exchange is not None and bool(found.all()) else over_group
