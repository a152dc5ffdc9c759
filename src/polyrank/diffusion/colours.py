"""The colours of latents without a decoder: a matrix that is fitted to the VAE."""

from __future__ import annotations

import copy

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from polyrank.diffusion.pictures import to_bytes
from polyrank.errors import UnsupportedPipeline

SAMPLES = 96
SIDE = 8


class Colours:
    """Latents to bytes, one pixel per latent."""

    def __init__(self, vae: AutoencoderKL) -> None:
        self._matrix = fit(vae)

    def __call__(self, latents: Tensor) -> Tensor:
        """[n, channels, h, w] as [n, h, w, 3] of uint8."""
        matrix = self._matrix.to(latents.dtype)
        colours = torch.einsum("nchw,cd->ndhw", latents, matrix[:-1])
        return to_bytes((colours + matrix[-1][:, None, None]).clamp(0, 1))


def fit(vae: AutoencoderKL) -> Tensor:
    """[channels + 1, 3]: what a latent adds to the colour of its place, and the colour of none.

    Least squares over what the VAE makes of patches of one colour each.
    """
    if not isinstance(vae, AutoencoderKL):
        raise UnsupportedPipeline(
            f"previews of a {type(vae).__name__} need a decoder: Previewer(pipeline, tiny_vae)"
        )
    config = vae.config
    generator = torch.Generator().manual_seed(0)
    plain = torch.randn(SAMPLES, config.latent_channels, generator=generator)
    latents = plain[:, :, None, None].expand(-1, -1, SIDE, SIDE).to(vae.device)
    with torch.no_grad():
        # In float32, and not in the model's own weights: some overflow in float16.
        latents = latents / config.scaling_factor + (config.shift_factor or 0.0)
        if vae.post_quant_conv is not None:
            latents = copy.deepcopy(vae.post_quant_conv).float()(latents)
        pictures = copy.deepcopy(vae.decoder).float()(latents)
    colours = pictures.mean((2, 3)) / 2 + 0.5
    known = torch.cat([plain.to(colours), torch.ones(SAMPLES, 1).to(colours)], dim=1)
    solution: Tensor = torch.linalg.lstsq(known, colours.clamp(0, 1)).solution
    return solution
