"""Attention that does not repeat itself: projections of one input are one product, the text's keys
and values are computed once per prompt, and rows without a text skip the attention to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from torch import Tensor, nn

from polyrank.errors import UnsupportedPipeline

# Bytes of attention scores that the VAE's one-headed attention may hold at a time.
SCORE_BYTES = 1 << 28


class Everyone(Protocol):
    """Tells whether, and how, keys and values of other ranks belong to a picture."""

    def tokens(self, mine: Tensor) -> Tensor:
        """[batch, tokens, width] of the whole picture."""


class Attend(Protocol):
    """Attention by other means than torch's."""

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor | None:
        """Of [batch, tokens, heads x width] the same; None: torch is to do it."""


class SelfAttention:
    """Attention processor: queries, keys and values in one product."""

    division: Everyone | None = None
    attend: Attend | None = None

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """The layer's output."""
        query, key, value = _project_in(attn, hidden_states, self.division)
        return _project_out(attn, _attend(self.attend, query, key, value, attn.heads))


class TextAttention:
    """Attention processor that reads its keys and values from the output of a TextProjection.

    The rows of ``hidden_states`` beyond those of the text come first and have no text: what a text
    of zeros says to them is the bias of the output, so nothing else is computed.
    """

    attend: Attend | None = None

    def __init__(self, offset: int) -> None:
        self.offset = offset

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """The layer's output."""
        width = attn.inner_dim
        keys_values = encoder_hidden_states[..., self.offset : self.offset + 2 * width]
        rows, textless = keys_values.shape[0], hidden_states.shape[0] - keys_values.shape[0]
        parts = []
        if textless:
            parts.append(_bias_of(attn, hidden_states[:textless]))
        if rows:
            key, value = keys_values.chunk(2, dim=-1)
            query = attn.to_q(hidden_states[textless:])
            mixed = _attend(self.attend, query, key, value, attn.heads)
            parts.append(_project_out(attn, mixed))
        return parts[0] if len(parts) == 1 else torch.cat(parts)


class PictureAttention:
    """Attention processor of a VAE: one head, too wide for fused kernels, in slices of rows."""

    division: Everyone | None = None
    # At which the picture is carried; see shrunk.py.
    fraction = 1.0

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """The layer's output."""
        batch, channels, height, width = hidden_states.shape
        flat = attn.group_norm(hidden_states.flatten(2)).transpose(1, 2)
        query, key, value = _project_in(attn, flat, self.division)
        query = query * attn.scale
        rows = max(1, SCORE_BYTES // (batch * key.shape[1] * query.element_size()))
        seen = [
            torch.softmax(part @ key.transpose(1, 2), dim=-1) @ value
            for part in query.split(rows, dim=1)
        ]
        mixed = _project_out(attn, torch.cat(seen, dim=1) * self.fraction)
        return mixed.transpose(1, 2).reshape(batch, channels, height, width) + hidden_states


class TextProjection(nn.Module):
    """The keys and values of every text attention of a UNet, as one product per prompt."""

    def __init__(self, layers: Sequence[Attention]) -> None:
        super().__init__()
        offset = 0
        for layer in layers:
            layer.set_processor(TextAttention(offset))
            offset += 2 * layer.inner_dim
        self.linear = stack([part for layer in layers for part in (layer.to_k, layer.to_v)])

    def forward(self, text: Tensor) -> Tensor:
        """[rows, tokens, keys and values of all layers]."""
        projected: Tensor = self.linear(text)
        return projected


def fuse_unet(unet: UNet2DConditionModel) -> TextProjection:
    """Gives every attention of ``unet`` its processor.

    From then on the UNet expects as ``encoder_hidden_states`` what the projection returned here
    makes of the text's.
    """
    layers = [layer for _, layer in _attentions(unet)]
    for layer in layers:
        if not layer.is_cross_attention:
            _fuse_self(layer, SelfAttention())
    return TextProjection([layer for layer in layers if layer.is_cross_attention])


def attend_with(module: nn.Module, attend: Attend) -> None:
    """Has the attentions that ``fuse_unet`` gave their processors ask ``attend`` first."""
    for _, layer in _attentions(module):
        if isinstance(layer.processor, SelfAttention | TextAttention):
            layer.processor.attend = attend


def check_unet(unet: UNet2DConditionModel) -> None:
    """Raises UnsupportedPipeline unless ``fuse_unet`` knows every attention of ``unet``."""
    if unet.config.encoder_hid_dim_type is not None or unet.config.only_cross_attention:
        raise UnsupportedPipeline(
            "optimize() knows UNets whose attention reads a text, without image prompts "
            f"(encoder_hid_dim_type={unet.config.encoder_hid_dim_type!r})"
        )
    for name, layer in _attentions(unet):
        _check(name, layer)
    if not any(layer.is_cross_attention for _, layer in _attentions(unet)):
        raise UnsupportedPipeline("optimize() needs a UNet that attends to a text")


def fuse_decoder(vae: AutoencoderKL) -> None:
    """Gives the attention of the VAE's decoder, if it has one, its processor."""
    for _, layer in _attentions(vae.decoder):
        _fuse_self(layer, PictureAttention())


def check_decoder(vae: AutoencoderKL) -> None:
    """Raises UnsupportedPipeline unless ``fuse_decoder`` knows the attention of ``vae``."""
    for name, layer in _attentions(vae.decoder):
        _check(f"vae.decoder.{name}", layer, is_picture=True)


def stack(linears: Sequence[nn.Linear]) -> nn.Linear:
    """One layer for several that read the same input; their weights become views of its own."""
    weight = torch.cat([linear.weight.data for linear in linears])
    biases = [linear.bias.data for linear in linears if linear.bias is not None]
    stacked = nn.Linear(linears[0].in_features, len(weight), bias=bool(biases), device="meta")
    stacked.weight = nn.Parameter(weight, requires_grad=False)
    if biases:
        stacked.bias = nn.Parameter(torch.cat(biases), requires_grad=False)
    start = 0
    for linear in linears:
        end = start + linear.out_features
        linear.weight.data = weight[start:end]
        if biases:
            linear.bias.data = stacked.bias.data[start:end]
        start = end
    return stacked


def _attentions(module: nn.Module) -> list[tuple[str, Attention]]:
    return [(name, part) for name, part in module.named_modules() if isinstance(part, Attention)]


def _check(name: str, layer: Attention, is_picture: bool = False) -> None:
    plain = (
        type(layer.processor) in (AttnProcessor, AttnProcessor2_0)
        and isinstance(layer.to_q, nn.Linear)
        and isinstance(layer.to_out[0], nn.Linear)
        and layer.spatial_norm is None
        and layer.norm_q is None
        and layer.norm_k is None
        and not layer.norm_cross
        and layer.add_k_proj is None
        and layer.rescale_output_factor == 1
        and (layer.group_norm is not None) == is_picture
        and layer.residual_connection == is_picture
        and (not is_picture or layer.heads == 1)
    )
    if not plain:
        raise UnsupportedPipeline(
            f"optimize() does not know the attention {name} "
            f"({type(layer.processor).__name__}, {type(layer.to_q).__name__}); call it before the "
            "processors are changed, and after LoRAs have been fused and unloaded"
        )


def _fuse_self(layer: Attention, processor: SelfAttention | PictureAttention) -> None:
    layer.to_qkv = stack([layer.to_q, layer.to_k, layer.to_v])
    layer.set_processor(processor)


def _attend(attend: Attend | None, query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    if attend is not None and (mixed := attend(query, key, value, heads)) is not None:
        return mixed
    split = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (query, key, value))
    return F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)


def _project_in(
    attn: Attention, hidden_states: Tensor, division: Everyone | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries of these tokens, keys and values of the whole picture's."""
    query, keys_values = attn.to_qkv(hidden_states).split((attn.inner_dim, 2 * attn.inner_dim), -1)
    if division is not None:
        keys_values = division.tokens(keys_values)
    key, value = keys_values.chunk(2, dim=-1)
    return query, key, value


def _project_out(attn: Attention, mixed: Tensor) -> Tensor:
    projected: Tensor = attn.to_out[0](mixed)
    return projected


def _bias_of(attn: Attention, like: Tensor) -> Tensor:
    bias = attn.to_out[0].bias
    return torch.zeros_like(like) if bias is None else bias.expand_as(like)
