"""Enlarging a picture and convolving it, as one convolution of the small picture."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from polyrank.diffusion.layers import is_plain

# The buffer of a convolution that has its sums of weights.
CORNERS = "corners"


def upsample_conv(batch: Tensor, corners: Tensor, bias: Tensor | None) -> Tensor:
    """A 3x3 convolution, padded by one, of a batch that is first doubled by repeating each pixel.

    Of the nine pixels that an output looks at, four are different, so four sums of weights do, the
    ``corners``. The four outputs of a pixel are four channels of a 2x2 convolution of the small
    batch: 4/9 of the work, and the large batch is never made.
    """
    count, _, height, width = batch.shape
    outputs = F.conv2d(batch, corners, padding=1)
    corners = outputs.unflatten(1, (2, 2, len(corners) // 4))
    lower, row = _places(height, batch.device)
    right, column = _places(width, batch.device)
    pixels = corners[:, lower[:, None], right, :, row[:, None], column]
    # [rows, columns, n, channels]
    doubled = pixels.permute(2, 3, 0, 1)
    return doubled if bias is None else doubled + bias[:, None, None]


def _places(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """For every row of the result: which of a pixel's two it is, and where that was computed.

    The upper one looks at the row above and at its own, so its place in the padded result is the
    pixel's; the lower one's is the next.
    """
    rows = torch.arange(2 * size, device=device)
    lower = rows % 2
    return lower, rows // 2 + lower


def four_corners(weight: Tensor) -> Tensor:
    """[4 channels, inputs, 2, 2] of [channels, inputs, 3, 3]: sums of what meets the same pixel."""
    first, middle, last = weight.float().unbind(2)
    rows = torch.stack([first, middle + last, first + middle, last]).unflatten(0, (2, 2))
    first, middle, last = rows.unbind(-1)
    both = torch.stack([first, middle + last, first + middle, last]).unflatten(0, (2, 2))
    # [right, columns, lower, rows, channels, inputs] to [lower, right, channels, …, rows, columns]
    ordered = both.permute(2, 0, 4, 5, 3, 1).flatten(0, 2)
    return ordered.to(weight.dtype)


def fuse_upsamplers(module: nn.Module) -> None:
    """Gives every upsampler of ``module`` that fits the forward above, and its ``corners``."""
    for part in module.modules():
        if isinstance(part, Upsample2D) and _fits(part):
            _add_corners(part.conv)
            part.forward = functools.partial(_upsample, part)
        elif isinstance(part, nn.Sequential):
            for enlarging, conv in pairwise(part):
                if _doubles(enlarging) and is_plain(conv):
                    _add_corners(conv)
                    enlarging.forward = _pass_on
                    conv.forward = functools.partial(_convolve_doubled, conv)


def _fits(part: Upsample2D) -> bool:
    return (
        part.use_conv
        and not part.use_conv_transpose
        and part.interpolate
        and part.norm is None
        and is_plain(part.conv)
    )


def _doubles(part: nn.Module) -> bool:
    return isinstance(part, nn.Upsample) and (part.scale_factor, part.mode) == (2.0, "nearest")


def _add_corners(conv: nn.Conv2d) -> None:
    conv.register_buffer(CORNERS, four_corners(conv.weight.data), persistent=False)


def _pass_on(batch: Tensor) -> Tensor:
    return batch


def _convolve_doubled(conv: nn.Conv2d, batch: Tensor) -> Tensor:
    return upsample_conv(batch, conv.corners, conv.bias)


def _upsample(part: Upsample2D, batch: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
    if output_size is not None and tuple(output_size) != tuple(2 * n for n in batch.shape[2:]):
        stock: Tensor = Upsample2D.forward(part, batch, output_size)
        return stock
    return _convolve_doubled(part.conv, batch)
