"""Group norms of large pictures, in a form that a compiler spreads over the whole GPU."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor, nn

# Parts of a picture that are summed by themselves, at most.
SPREAD = 128


def spread_group_norm(norm: nn.GroupNorm, batch: Tensor) -> Tensor:
    """A group norm of pictures whose sums are spread over the whole GPU.

    A group of a large picture is millions of numbers, and kernels for group norms give each group
    to one processor of a hundred. Here rows are summed first, then groups.
    """
    count, channels, height, width = batch.shape
    rows = batch.permute(0, 2, 3, 1).float()
    spread = math.gcd(height, SPREAD)
    parts = rows.reshape(count, spread, -1, channels)
    sums = torch.stack([parts.sum(2), parts.square().sum(2)])
    per_group = sums.sum(2).unflatten(-1, (norm.num_groups, -1)).sum(-1)
    mean, square = per_group / (height * width * channels // norm.num_groups)
    scale = torch.rsqrt(square - mean.square() + norm.eps)
    each = channels // norm.num_groups
    factor = scale.repeat_interleave(each, 1) * norm.weight.float()
    shift = norm.bias.float() - mean.repeat_interleave(each, 1) * factor
    normed = rows * factor[:, None, None] + shift[:, None, None]
    return normed.permute(0, 3, 1, 2).to(batch.dtype)


def spread_norms(module: nn.Module) -> None:
    """Gives every group norm of ``module`` that normalizes pictures the forward above."""
    for part in module.modules():
        if isinstance(part, nn.GroupNorm) and part.affine:
            part.forward = functools.partial(_norm, part)


def _norm(norm: nn.GroupNorm, batch: Tensor) -> Tensor:
    if batch.ndim == 4:
        return spread_group_norm(norm, batch)
    stock: Tensor = nn.GroupNorm.forward(norm, batch)
    return stock
