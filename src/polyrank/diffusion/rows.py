"""The rows of a picture over several ranks: which are whose, and what a layer needs of the others.

Nothing here depends on the rank but the values of buffers, so that one compiled code fits all.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from polyrank.diffusion.exchange import NOBODY, Exchange, announce, gather


class Rows(nn.Module):
    """This rank's band of rows. Without an exchange: a stand-in with which to compile."""

    def __init__(
        self,
        ranks: int,
        rank: int = 0,
        exchange: Exchange | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.ranks = ranks
        self.rank = rank
        self._exchange = exchange
        number = NOBODY if exchange is None else announce(exchange)
        self.number: Tensor
        self.beside: Tensor
        self.inside: Tensor
        # Of the first and last rows of all bands: those that touch this band.
        beside = torch.tensor([2 * rank - 1, 2 * rank + 2], device=device)
        inside = (beside >= 0) & (beside < 2 * ranks)
        self.register_buffer("number", torch.tensor([number], device="cpu"), persistent=False)
        self.register_buffer("beside", beside.clamp(0, 2 * ranks - 1), persistent=False)
        self.register_buffer("inside", inside.float(), persistent=False)

    def mine(self, pictures: Tensor) -> Tensor:
        """This rank's band of [pictures, channels, height, width]."""
        return pictures.chunk(self.ranks, dim=2)[self.rank].contiguous()

    def gather(self, share: Tensor) -> Tensor:
        """[ranks, *share.shape]: everybody's."""
        everyone: Tensor = gather(share, self.number, self.ranks)
        return everyone

    def agree(self, ready: bool) -> bool:
        """Whether this holds on all of them."""
        mine = torch.full((4,), ready, dtype=torch.int32, device=self.beside.device)
        return bool(self.gather(mine).all())

    def whole(self, band: Tensor) -> Tensor:
        """The pictures whose bands the ranks have."""
        return self.gather(band).permute(1, 2, 0, 3, 4).flatten(2, 3)

    def tokens(self, mine: Tensor) -> Tensor:
        """[batch, tokens, width] of the whole pictures, from those of this band."""
        return self.gather(mine).transpose(0, 1).flatten(1, 2)

    def edges(self, band: Tensor) -> Tensor:
        """The first and the last row of this band, [2, pictures, channels, width]."""
        return torch.stack([band[:, :, 0], band[:, :, -1]])

    def touching(self, edges: Tensor) -> Tensor:
        """The rows above and below this band, from everybody's edges."""
        return edges.flatten(0, 1).index_select(0, self.beside)

    def kept(self, touching: Tensor) -> Tensor:
        """The rows above and below this band, zero where there is no picture."""
        return touching * self.inside.to(touching.dtype).view(2, 1, 1, 1)

    def extend(self, band: Tensor, touching: Tensor) -> Tensor:
        """The band between the rows above and below."""
        above, below = touching.unsqueeze(3)
        return torch.cat([above, band, below], dim=2)
