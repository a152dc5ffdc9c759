"""What the layers of a model are, and which follow each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeGuard

from diffusers.models.resnet import ResnetBlock2D
from torch import nn


def is_plain(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether a layer is a convolution of 3x3 that leaves the size of pictures as it is."""
    return (
        isinstance(layer, nn.Conv2d)
        and (layer.kernel_size, layer.stride, layer.padding) == ((3, 3), (1, 1), (1, 1))
        and (layer.dilation, layer.groups, layer.padding_mode) == ((1, 1), 1, "zeros")
    )


def norms_before_convolutions(model: nn.Module) -> Iterator[tuple[nn.GroupNorm, nn.Conv2d]]:
    """Pairs with nothing between them but an activation that leaves zeros zeros."""
    for part in model.modules():
        if isinstance(part, ResnetBlock2D):
            if part.upsample is None and part.downsample is None:
                yield part.norm1, part.conv1
            if part.time_embedding_norm != "scale_shift":  # which turns zeros into something else
                yield part.norm2, part.conv2
        if isinstance(last := getattr(part, "conv_norm_out", None), nn.GroupNorm):
            yield last, part.conv_out
