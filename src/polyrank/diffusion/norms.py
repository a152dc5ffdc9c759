"""Group norms of large pictures, in a form that a compiler spreads over the whole GPU."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor, nn

# Parts of a picture that are summed by themselves, at most.
SPREAD = 128
# Numbers of a picture from which on it pays to compute what they are multiplied by beforehand.
LARGE = 1 << 24


def spread_group_norm(norm: nn.GroupNorm, batch: Tensor) -> Tensor:
    """A group norm of pictures whose sums are spread over the whole GPU."""
    return normalize(batch, coefficients(norm, moments(batch, norm.num_groups), batch.numel()))


def moments(batch: Tensor, groups: int) -> Tensor:
    """Means of the values and of their squares, [2, pictures, groups], in float32.

    A group of a large picture is millions of numbers, and kernels for group norms give each group
    to one processor of a hundred. Here rows are summed first, then groups.
    """
    channels = batch.shape[1]
    places = batch.flatten(2).transpose(1, 2).float()
    parts = places.unflatten(1, (math.gcd(batch.shape[2], SPREAD), -1))
    sums = torch.stack([parts.sum(2), parts.square().sum(2)]).sum(2)
    each = places.shape[1] * channels // groups
    return sums.unflatten(-1, (groups, -1)).sum(-1) / each


def coefficients(norm: nn.GroupNorm, moments: Tensor, numbers: int) -> Tensor:
    """What a value is multiplied by, and what is added: [2, pictures, channels], in float32.

    ``numbers`` is how many of them there are.
    """
    mean, square = moments
    scale = torch.rsqrt(square - mean.square() + norm.eps)
    each = norm.num_channels // norm.num_groups
    factor = scale.repeat_interleave(each, 1) * norm.weight.float()
    shift = norm.bias.float() - mean.repeat_interleave(each, 1) * factor
    both = torch.stack([factor, shift])
    return stored(both) if numbers >= LARGE else both


def normalize(batch: Tensor, coefficients: Tensor) -> Tensor:
    """The pictures with their coefficients applied."""
    factor, shift = coefficients.unflatten(-1, (-1, *(1,) * (batch.ndim - 2)))
    return (batch.float() * factor + shift).to(batch.dtype)


@torch.library.custom_op("polyrank::stored", mutates_args=())
def stored(values: Tensor) -> Tensor:
    """The same values. A compiler does not look inside, so it cannot compute them anew, roots and
    all, for every number that they are applied to.
    """
    return values.clone()


@stored.register_fake
def _(values: Tensor) -> Tensor:
    return torch.empty_like(values)


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
