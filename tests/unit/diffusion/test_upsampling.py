"""Enlarging and convolving in one go gives what one after the other gives."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from diffusers.models.upsampling import Upsample2D

from polyrank.diffusion.cores import fast_preview
from polyrank.diffusion.upsampling import four_corners, fuse_upsamplers, upsample_conv


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(1, 1), (5, 8), (16, 3)])
def test_it_is_the_convolution_of_the_enlarged_picture(size: Any, layout: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    batch = torch.randn(2, 6, *size, generator=generator).contiguous(memory_format=layout)
    weight = torch.randn(4, 6, 3, 3, generator=generator)
    bias = torch.randn(4, generator=generator)
    large = F.interpolate(batch, scale_factor=2.0, mode="nearest")
    for each in (bias, None):
        expected = F.conv2d(large, weight, each, padding=1)
        assert torch.allclose(upsample_conv(batch, four_corners(weight), each), expected, atol=1e-5)


def test_a_unet_with_fused_upsamplers_gives_the_same(unet_core: Any) -> None:
    core, inputs = unet_core
    with torch.no_grad():
        expected = core(*inputs)
        fuse_upsamplers(core)
        fused = core(*inputs)
    assert not torch.equal(fused, expected)  # it went another way
    assert torch.allclose(fused, expected, atol=1e-4)


def test_a_small_decoder_with_fused_upsamplers_gives_the_same() -> None:
    """It has them as layers one after the other."""
    torch.manual_seed(0)
    core = fast_preview(AutoencoderTiny(decoder_block_out_channels=(8, 8, 8, 8)))
    latents = torch.randn(1, 4, 5, 6)
    with torch.no_grad():
        expected = core.decoder(latents)
        fuse_upsamplers(core)
        fused = core.decoder(latents)
    assert not torch.equal(fused, expected)
    assert torch.allclose(fused, expected, atol=1e-5)


def test_a_size_that_is_not_the_double_is_left_to_diffusers() -> None:
    torch.manual_seed(0)
    stock = Upsample2D(4, use_conv=True)
    batch = torch.randn(1, 4, 5, 5)
    with torch.no_grad():
        expected = stock(batch, output_size=(9, 9))
        fuse_upsamplers(stock)
        assert torch.equal(stock(batch, output_size=(9, 9)), expected)


def test_upsamplers_of_another_kind_are_left_as_they_are() -> None:
    for other in (Upsample2D(4, use_conv_transpose=True), Upsample2D(4)):
        fuse_upsamplers(other)
        assert "forward" not in vars(other)
