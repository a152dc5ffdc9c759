"""Norms that draw a border of zeros for the convolution after them: the picture is the same."""

import copy
from typing import Any

import pytest
import torch
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from polyrank.diffusion.borders import border_of, draw_borders

CHANNELS = 320
# Width and height of pictures that the kernel can divide into blocks, and of one that it cannot.
FITTING = [(16, 16), (64, 4), (128, 3), (256, 2)]
ODD = (12, 16)


@pytest.fixture(scope="module")
def block() -> ResnetBlock2D:
    """A block of SDXL's kind, whose norms do something."""
    torch.manual_seed(0)
    made = ResnetBlock2D(in_channels=CHANNELS, temb_channels=8).requires_grad_(False).eval()
    for norm in (made.norm1, made.norm2):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return made


def pictures(width: int, height: int, count: int = 2) -> Tensor:
    noise = torch.Generator().manual_seed(1)
    return torch.randn(count, CHANNELS, height, width, generator=noise)


def times(count: int = 2) -> Tensor:
    return torch.randn(count, 8, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("size", [*FITTING, ODD])
def test_a_block_with_borders_is_the_block(block: Any, size: tuple[int, int]) -> None:
    """In whatever order sizes come, those that do not fit are convolved as they were."""
    bordered = copy.deepcopy(block)
    draw_borders(bordered)
    for each in (size, ODD, size):
        expected = block(pictures(*each), times())
        assert torch.allclose(bordered(pictures(*each), times()), expected, atol=1e-4)
        border = border_of(bordered.conv1)
        assert border is not None and border.is_drawn == (each in FITTING)


def test_convolutions_that_no_kernel_is_made_for_have_none(block: Any) -> None:
    for channels in ({"out_channels": 4, "groups_out": 4}, {"in_channels": 96, "groups": 8}):
        made = ResnetBlock2D(**{"in_channels": CHANNELS, "temb_channels": 8, **channels})
        draw_borders(made)
        assert border_of(made.conv1) is None
    draw_borders(down := ResnetBlock2D(in_channels=CHANNELS, temb_channels=8, down=True))
    assert border_of(down.conv1) is None and border_of(down.conv2) is border_of(down.norm2)
