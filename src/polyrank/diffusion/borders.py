"""Zeros around a picture, drawn by the norm before a convolution instead of in a pass of their own.

Convolutions of 3x3 look one place beyond a picture on each side. Some kernels want to find zeros
there. What a norm hands on is written once, with the activation after it, by compiled code; so are
the zeros around it, which the activation leaves as they are.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from polyrank.diffusion import hopper
from polyrank.diffusion.blocks import CONVOLUTIONS
from polyrank.diffusion.layers import is_plain, norms_before_convolutions

# The attribute of a norm, and of the convolution after it, that has their Border.
BORDER = "border"
# Channels that the kernel reads at once.
INPUTS = 64
# Places of a picture, and channels, that fill its blocks.
PLACES = math.lcm(*(block.rows for block in CONVOLUTIONS))
OUTPUTS = math.gcd(*(block.columns for block in CONVOLUTIONS))


class Border:
    """What a norm and the convolution after it agree on for each picture."""

    def __init__(self, norm: nn.GroupNorm, convolution: nn.Conv2d) -> None:
        self._norm = norm
        self._convolution = convolution
        self.is_drawn = False
        for layer, forward in ((norm, self._normalize), (convolution, self._convolve)):
            layer.forward = forward
            setattr(layer, BORDER, self)

    def draw_for(self, pictures: Tensor) -> bool:
        """Whether the norm is to draw it around these, as the convolution then expects."""
        height, width = pictures.shape[2:]
        # A block is a part of one row, or several whole rows of one picture.
        self.is_drawn = width % PLACES == 0 or (
            PLACES % width == 0 and height % (PLACES // width) == 0
        )
        return self.is_drawn

    def convolve(self, bordered: Tensor) -> Tensor:
        """The convolution of pictures with their border."""
        channels_last = bordered.permute(0, 2, 3, 1).contiguous()
        weight, bias = self._convolution.weight, self._convolution.bias
        convolved: Tensor = hopper.convolution(channels_last, weight, bias)
        return convolved.permute(0, 3, 1, 2)

    def _normalize(self, pictures: Tensor) -> Tensor:
        normed: Tensor = nn.GroupNorm.forward(self._norm, pictures)
        return F.pad(normed, (1, 1, 1, 1)) if self.draw_for(pictures) else normed

    def _convolve(self, pictures: Tensor) -> Tensor:
        if self.is_drawn:
            return self.convolve(pictures)
        convolved: Tensor = nn.Conv2d.forward(self._convolution, pictures)
        return convolved


def draw_borders(model: nn.Module) -> None:
    """Gives the norms and convolutions of ``model`` their Border, where the kernel fits."""
    for norm, convolution in norms_before_convolutions(model):
        if _is_wide(convolution):
            Border(norm, convolution)


def border_of(layer: nn.Module) -> Border | None:
    """The border that a norm, or a convolution, shares with another layer."""
    border: Border | None = getattr(layer, BORDER, None)
    return border


def _is_wide(layer: nn.Module) -> bool:
    return (
        is_plain(layer)
        and layer.bias is not None
        and layer.in_channels % INPUTS == 0
        and layer.out_channels % OUTPUTS == 0
    )
