"""What every block of a UNet reads of the time, as one product instead of one per block."""

from __future__ import annotations

import functools

import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from polyrank.diffusion.attention import stack

# Of their parts only residual blocks read the time.
KNOWN = {
    "DownBlock2D",
    "CrossAttnDownBlock2D",
    "UNetMidBlock2DCrossAttn",
    "CrossAttnUpBlock2D",
    "UpBlock2D",
}


class TimeProjection(nn.Module):
    """The projections of all blocks, [rows, outputs of all], in the place of an activation."""

    def __init__(self, projections: list[nn.Linear]) -> None:
        super().__init__()
        self.linear = stack(projections)

    def forward(self, embedding: Tensor) -> Tensor:
        """What the blocks are given instead of the time's embedding."""
        projected: Tensor = self.linear(F.silu(embedding))
        return projected


def fuse_times(unet: UNet2DConditionModel) -> None:
    """Has the blocks of ``unet`` take their part of one product; unknown UNets are left alone."""
    blocks = [part for part in unet.modules() if isinstance(part, ResnetBlock2D)]
    if unet.time_embed_act is not None or not (_all_known(unet) and all(map(_fits, blocks))):
        return
    unet.time_embed_act = TimeProjection([block.time_emb_proj for block in blocks])
    start = 0
    for block in blocks:
        end = start + block.time_emb_proj.out_features
        block.skip_time_act = True
        block.time_emb_proj.forward = functools.partial(_part, start, end)
        start = end


def _all_known(unet: UNet2DConditionModel) -> bool:
    blocks = (*unet.down_blocks, unet.mid_block, *unet.up_blocks)
    return all(block is None or type(block).__name__ in KNOWN for block in blocks)


def _fits(block: ResnetBlock2D) -> bool:
    return (
        isinstance(block.time_emb_proj, nn.Linear)
        and block.time_emb_proj.bias is not None
        and isinstance(block.nonlinearity, nn.SiLU)
        and not block.skip_time_act
    )


def _part(start: int, end: int, projected: Tensor) -> Tensor:
    return projected[:, start:end]
