"""The parts of a pipeline that are worth a graph or a compiler, as functions of tensors only.

A core is built the same way in the process that serves and in the one that compiles for it, so
that what is compiled there fits the weights here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from torch import Tensor, nn

from polyrank.diffusion.attention import TextProjection, fuse_decoder, fuse_unet
from polyrank.diffusion.borders import draw_borders
from polyrank.diffusion.divided import Division, RowCore
from polyrank.diffusion.hopper import PAIRED, paired, use_kernels
from polyrank.diffusion.norms import spread_norms
from polyrank.diffusion.pictures import to_bytes
from polyrank.diffusion.rows import Rows
from polyrank.diffusion.shrunk import shrink
from polyrank.diffusion.timesteps import fuse_times
from polyrank.diffusion.upsampling import CORNERS, four_corners, fuse_upsamplers

# What a decoder's configuration says beside that of its VAE.
SHRUNK = "shrunk"


class UNetCore(nn.Module):
    """A UNet's forward over keys and values of the text instead of the text.

    ``added`` are the tensors of ``added_cond_kwargs`` in the order of their names.
    """

    def __init__(self, unet: UNet2DConditionModel, added: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.unet = unet
        self.added = added

    def forward(
        self, sample: Tensor, timestep: Tensor, keys_values: Tensor, *added: Tensor
    ) -> Tensor:
        """The UNet's output."""
        named = dict(zip(self.added, added, strict=True)) or None
        # The class's own: the instance's is the one that brought us here.
        stock = type(self.unet).forward
        output: Tensor = stock(
            self.unet, sample, timestep, keys_values, added_cond_kwargs=named, return_dict=False
        )[0]
        return output


class PreviewCore(nn.Module):
    """A small decoder, from latents to bytes."""

    def __init__(self, vae: AutoencoderTiny) -> None:
        super().__init__()
        self.decoder = vae.decoder
        self.scale = vae.config.scaling_factor

    def forward(self, latents: Tensor) -> Tensor:
        """[n, height, width, 3] of uint8."""
        dtype = next(self.decoder.parameters()).dtype
        # As AutoencoderTiny.decode does; its decoder answers in -1…1.
        picture = self.decoder((latents / self.scale).to(dtype))
        return to_bytes((picture / 2 + 0.5).clamp(0, 1))


class DecoderCore(nn.Module):
    """The decoder of a VAE, computed in the VAE's precision."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.post_quant_conv = vae.post_quant_conv
        self.decoder = vae.decoder

    def forward(self, latents: Tensor) -> Tensor:
        """The picture in -1…1."""
        if self.post_quant_conv is not None:
            latents = self.post_quant_conv(latents)
        picture: Tensor = self.decoder(latents)
        return picture


def fast_unet(unet: UNet2DConditionModel) -> TextProjection:
    """Prepares ``unet`` in place; see ``fuse_unet``."""
    unet.requires_grad_(False).eval()
    unet.to(memory_format=torch.channels_last)
    fuse_times(unet)
    return fuse_unet(unet)


def fast_preview(vae: AutoencoderTiny) -> PreviewCore:
    """Prepares a small decoder in place."""
    vae.requires_grad_(False).eval()
    vae.to(memory_format=torch.channels_last)
    return PreviewCore(vae)


def fast_decoder(vae: AutoencoderKL, *, shrunk: bool) -> DecoderCore:
    """Prepares the decoder of ``vae`` in place; ``shrunk``: for float16, see shrunk.py."""
    # Its layout stays: PyTorch's own group norm is slow on pictures laid out by channels last.
    vae.requires_grad_(False).eval()
    fuse_decoder(vae)
    if shrunk:
        shrink(vae.decoder)
    return DecoderCore(vae)


def lend_weights(core: nn.Module, names: Sequence[str]) -> list[Tensor]:
    """The weights of these names, in the memory layout that compiled code expects.

    Those of convolutions are copied unless they have it already; all others are the core's own.
    What ``build`` would add is computed for a core that was not built by it.
    """
    weights = {**dict(core.named_parameters(remove_duplicate=False)), **dict(core.named_buffers())}

    def lent(name: str) -> Tensor:
        layer, _, last = name.rpartition(".")
        if name in weights:
            weight = weights[name].data
        elif last == CORNERS:
            weight = four_corners(weights[f"{layer}.weight"].data)
        elif last == PAIRED:
            weight = paired(weights[f"{layer}.bias"].data)
        else:
            raise KeyError(f"the core has no {name}")
        is_picture = weight.ndim == 4
        return weight.contiguous(memory_format=torch.channels_last) if is_picture else weight

    return [lent(name) for name in names]


def build(
    kind: str,
    config: dict[str, Any],
    added: tuple[str, ...],
    ranks: int = 1,
    *,
    hopper: bool = False,
) -> nn.Module:
    """The core to compile for a model of this configuration; its weights have the same names.

    With ``ranks`` above 1: the one that computes a band of rows. ``hopper``: with the kernels of
    hopper.py.
    """
    core = _build_whole(kind, config, added)
    if hopper:
        use_kernels(core)
        draw_borders(core)
    if ranks > 1:
        return RowCore(core, Division(core), Rows(ranks))
    fuse_upsamplers(core)
    if kind == "decoder":
        spread_norms(core)
    return core


def _build_whole(kind: str, config: dict[str, Any], added: tuple[str, ...]) -> nn.Module:
    if kind == "unet":
        unet = UNet2DConditionModel.from_config(config)
        fast_unet(unet)
        return UNetCore(unet, added)
    if kind == "preview":
        return fast_preview(AutoencoderTiny.from_config(config))
    known = {name: value for name, value in config.items() if name != SHRUNK}
    return fast_decoder(AutoencoderKL.from_config(known), shrunk=config[SHRUNK])
