"""A VAE's decoder in float16, also where it overflows in float16.

Inside a decoder a picture meets norms, which divide by how large it is, and linear layers. So it
may be carried there at a fraction of its size, and the norms' epsilons at the square of that. With
a power of two for the fraction the digits of all numbers stay the same, and float16 has three more
of them than bfloat16.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

# Room for numbers up to 16 million. What becomes too small for all of its digits is below 1/64.
FRACTION = 2.0**-8


def can_shrink(decoder: nn.Module) -> bool:
    """Whether ``shrink`` knows every layer that has weights."""
    known = {id(weight) for layer in _known(decoder) for weight in layer.parameters()}
    return all(id(weight) in known for weight in decoder.parameters())


def shrink(decoder: nn.Module) -> None:
    """Has a decoder carry its pictures at ``FRACTION`` of their size, in place.

    Its attention's processors add the rest: what they mix has to be multiplied by ``fraction``.
    """
    with torch.no_grad():
        decoder.conv_in.weight.mul_(FRACTION)
        _shrink_outputs(decoder.conv_in)
        for part in decoder.modules():
            if isinstance(part, ResnetBlock2D):
                part.nonlinearity = Shrunk(part.nonlinearity)
                for layer in _layers(part):
                    _shrink_outputs(layer)
            elif isinstance(part, Attention):
                _shrink_outputs(part.group_norm)
                _shrink_outputs(part.to_out[0])
                part.processor.fraction = FRACTION
            elif isinstance(part, Upsample2D):
                _shrink_outputs(part.conv)
        _shrink_outputs(decoder.conv_norm_out)


class Shrunk(nn.Module):
    """An activation, at ``FRACTION`` of its size."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, batch: Tensor) -> Tensor:
        """The activation of ``batch``, smaller."""
        active: Tensor = self.activation(batch)
        return active * FRACTION


def _shrink_outputs(layer: nn.Module) -> None:
    """For a layer that is given a smaller input: what it adds to it becomes smaller too."""
    if isinstance(layer, nn.GroupNorm):
        layer.eps *= FRACTION**2
    elif layer.bias is not None:
        layer.bias.mul_(FRACTION)


def _known(decoder: nn.Module) -> Iterator[nn.Module]:
    yield from (decoder.conv_in, decoder.conv_norm_out, decoder.conv_out)
    for part in decoder.modules():
        if isinstance(part, ResnetBlock2D):
            yield from _layers(part)
        elif isinstance(part, Attention) and isinstance(part.group_norm, nn.GroupNorm):
            yield part
        elif isinstance(part, Upsample2D) and isinstance(part.conv, nn.Conv2d) and not part.norm:
            yield part.conv


def _layers(block: ResnetBlock2D) -> list[nn.Module]:
    """Those of a block that ``shrink`` knows."""
    layers = (block.norm1, block.conv1, block.norm2, block.conv2, block.conv_shortcut)
    return [layer for layer in layers if isinstance(layer, nn.GroupNorm | nn.Conv2d)]
