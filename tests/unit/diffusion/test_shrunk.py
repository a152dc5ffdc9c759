"""A decoder that overflows in float16 decodes in float16."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionXLImg2ImgPipeline
from PIL import Image
from torch import Tensor, nn

from polyrank.diffusion import optimize
from polyrank.diffusion.cores import fast_decoder
from polyrank.diffusion.shrunk import can_shrink

MODEL = Path(__file__).resolve().parents[3] / "models" / "shapes"


@pytest.fixture
def vae(make_vae: Callable[..., AutoencoderKL]) -> AutoencoderKL:
    """One whose pictures grow beyond float16 inside, as those of SDXL's do."""
    vae = make_vae(32, 64, scaling_factor=0.13025, force_upcast=True)
    with torch.no_grad():
        vae.decoder.conv_in.weight.mul_(2e5)
        for name, weight in vae.decoder.named_parameters():
            if name.endswith(("conv2.weight", "to_out.0.weight")):
                weight.mul_(2e5)
            elif weight.ndim == 1:  # norms scale by 1 and shift by 0 until they are trained
                nn.init.normal_(weight)
    return vae


@pytest.fixture
def latents() -> Tensor:
    return torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))


def of_one(difference: Tensor, whole: Tensor) -> float:
    return float(difference.norm() / whole.norm())


@torch.no_grad()
def test_it_computes_what_it_did_in_float32(vae: AutoencoderKL, latents: Tensor) -> None:
    expected = vae.decode(latents).sample
    shrunk = fast_decoder(vae, shrunk=True)(latents)
    assert of_one(shrunk - expected, expected) < 1e-5


@torch.no_grad()
def test_in_float16_it_is_closer_than_in_bfloat16(vae: AutoencoderKL, latents: Tensor) -> None:
    expected = vae.decode(latents).sample
    state = vae.state_dict()
    assert not vae.half().decode(latents.half()).sample.isfinite().all()
    vae.float().load_state_dict(state)
    brain = vae.bfloat16().decode(latents.bfloat16()).sample
    vae.float().load_state_dict(state)
    half = fast_decoder(vae, shrunk=True).half()(latents.half())
    far, near = (of_one(each.float() - expected, expected) for each in (brain, half))
    assert near < 3e-3
    assert near < far / 4


@torch.no_grad()
def test_a_pipeline_keeps_its_vae_where_it_is(
    pipeline: Any, vae: AutoencoderKL, latents: Tensor
) -> None:
    """And it encodes pictures in float32, as diffusers has it for such a VAE."""
    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    encoded = vae.encode(picture).latent_dist.mode()
    decoded = vae.decode(latents).sample
    pipeline.vae = vae.half()
    optimize(pipeline)
    assert not vae.config.force_upcast
    assert vae.decoder.conv_in.weight.dtype is torch.float16
    near = vae.encode(picture.half()).latent_dist.mode()
    assert near.dtype is torch.float32
    assert of_one(near - encoded, encoded) < 1e-3
    assert of_one(vae.decode(latents.half()).sample.float() - decoded, decoded) < 1e-2


def test_a_picture_made_of_a_picture(make_vae: Callable[..., AutoencoderKL]) -> None:
    """The pipeline would move the VAE to float32 to encode, and back, on every call."""
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)

    def paint(prepare: Callable[[StableDiffusionXLImg2ImgPipeline], None]) -> Any:
        vae = make_vae(16, 16, 16, 16, force_upcast=True)
        pipeline = StableDiffusionXLImg2ImgPipeline.from_pretrained(MODEL, vae=vae)
        pipeline.set_progress_bar_config(disable=True)
        prepare(pipeline)
        pictures = pipeline(
            "a red circle",
            image=Image.fromarray(noise),
            num_inference_steps=4,
            generator=torch.Generator().manual_seed(1),
        ).images
        return np.asarray(pictures[0], int)

    def in_16_bits(pipeline: StableDiffusionXLImg2ImgPipeline) -> None:
        pipeline.vae.half()
        optimize(pipeline)

    exact = paint(lambda pipeline: None)
    assert np.abs(paint(in_16_bits) - exact).max() <= 2


def test_layers_that_are_not_known_are_left_alone(vae: AutoencoderKL) -> None:
    assert can_shrink(vae.decoder)
    vae.decoder.mid_block.another = nn.Linear(2, 2)
    assert not can_shrink(vae.decoder)
