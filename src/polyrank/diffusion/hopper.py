"""Kernels for Hopper GPUs, by quack and FlashAttention 4, as operators that torch can export.

quack applies a gate to the sums of a product before they leave the processor, so what a gate reads
is never written to memory; convolutions are products of quack's here, too. FlashAttention 4 takes
as many queries at a time as let all processors of the GPU work. Both are in ``polyrank[hopper]``.
Elsewhere the operators are the formulas that they stand for.
"""

from __future__ import annotations

import functools
import os
import threading
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers.models.activations import GEGLU
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from polyrank.diffusion.attention import SelfAttention, attend_with

PACKAGES = ("quack-kernels", "flash-attn-4")
HOPPER = (9, 0)
# In float32 they would round what torch does not.
PRECISIONS = (torch.float16, torch.bfloat16)
# The width of heads for which FlashAttention was measured against cuDNN.
HEAD = 64
# The buffer of a gated product that has its bias as the kernel reads it.
PAIRED = "paired"
# Neither library expects to be used for the first time by two threads at once.
PREPARING = threading.Lock()


def packages(device: torch.device, dtype: torch.dtype) -> dict[str, str]:
    """The versions of the libraries, if the kernels can be used for this; else nothing."""
    if device.type != "cuda" or dtype not in PRECISIONS:
        return {}
    if torch.cuda.get_device_capability(device) != HOPPER:
        return {}
    try:
        return {name: version(name) for name in PACKAGES}
    except PackageNotFoundError:
        return {}


def use_kernels(core: nn.Module) -> None:
    """Has the wide products and the attention of ``core`` computed by the operators below."""
    attend_with(core, attend)
    for part in core.modules():
        if isinstance(part, GEGLU) and part.proj.bias is not None:
            part.proj.register_buffer(PAIRED, paired(part.proj.bias.data), persistent=False)
            part.forward = functools.partial(_gate, part.proj)
        elif isinstance(part, Attention) and isinstance(part.processor, SelfAttention):
            if part.to_qkv.bias is None:
                part.to_qkv.forward = functools.partial(_multiply, part.to_qkv)


def paired(bias: Tensor) -> Tensor:
    """[value, gate, value, gate …] of a bias that has all values, then all gates."""
    return bias.unflatten(0, (2, -1)).T.flatten()


def prepare(folder: Path, device: torch.device, dtype: torch.dtype) -> None:
    """Loads the kernels; those that are not there are compiled into ``folder``.

    Without this the first call does so, which takes seconds.
    """
    keep_in(folder)
    with PREPARING, torch.no_grad(), torch.cuda.device(device), torch.device(device):
        batch, bias = torch.zeros(256, HEAD, dtype=dtype), torch.zeros(512, dtype=dtype)
        weight = torch.zeros(512, HEAD, dtype=dtype)
        gated_product(batch, weight, bias)
        wide_product(batch, weight)
        attention(*torch.zeros(3, 1, 256, 2, HEAD, dtype=dtype))
        torch.cuda.current_stream().synchronize()


def keep_in(folder: Path) -> None:
    """Has the libraries keep their compiled kernels in ``folder``; before they are imported."""
    # They are told so in no other way.
    os.environ.setdefault("QUACK_CACHE_DIR", str(folder))
    os.environ.setdefault("FLASH_ATTENTION_CUTE_DSL_CACHE_DIR", str(folder))
    os.environ.setdefault("FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED", "1")


@torch.library.custom_op("polyrank::gated_product", mutates_args=())
def gated_product(batch: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A linear layer's values times the GELU of its gates.

    Args:
        batch: [rows, inputs].
        weight: [outputs, inputs]; the first half of the outputs are values, the second gates.
        bias: [outputs], ``paired``.

    Returns:
        [rows, outputs / 2].
    """
    if batch.device.type != "cuda":
        pairs = bias.unflatten(0, (-1, 2)).T.flatten()
        value, gate = F.linear(batch, weight, pairs).chunk(2, -1)
        return value * F.gelu(gate)
    from polyrank.diffusion import products  # needs quack, which is optional

    return products.multiply_gated(batch, weight, bias)


@gated_product.register_fake
def _(batch: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return batch.new_empty(batch.shape[0], weight.shape[0] // 2)


@torch.library.custom_op("polyrank::wide_product", mutates_args=())
def wide_product(batch: Tensor, weight: Tensor) -> Tensor:
    """[rows, outputs] of [rows, inputs] and [outputs, inputs], as a linear layer without bias."""
    if batch.device.type != "cuda":
        return F.linear(batch, weight)
    from polyrank.diffusion import products

    return products.multiply(batch, weight)


@wide_product.register_fake
def _(batch: Tensor, weight: Tensor) -> Tensor:
    return batch.new_empty(batch.shape[0], weight.shape[0])


@torch.library.custom_op("polyrank::convolution", mutates_args=())
def convolution(bordered: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A convolution of 3x3 of pictures that have a border, with what is in it.

    Args:
        bordered: [pictures, height + 2, width + 2, inputs].
        weight: [outputs, inputs, 3, 3]; the inputs are next to each other in memory.
        bias: [outputs].

    Returns:
        [pictures, height, width, outputs].
    """
    if bordered.device.type != "cuda":
        convolved = F.conv2d(bordered.permute(0, 3, 1, 2), weight, bias)
        return convolved.permute(0, 2, 3, 1).contiguous()
    from polyrank.diffusion import convolutions  # needs quack

    return convolutions.convolve(bordered, weight, bias)


@convolution.register_fake
def _(bordered: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    pictures, height, width, _ = bordered.shape
    return bordered.new_empty(pictures, height - 2, width - 2, weight.shape[0])


@torch.library.custom_op("polyrank::attention", mutates_args=())
def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention; all are [batch, tokens, heads, width], the last of which is contiguous."""
    if query.device.type != "cuda":
        split = (part.transpose(1, 2) for part in (query, key, value))
        return F.scaled_dot_product_attention(*split).transpose(1, 2).contiguous()
    from polyrank.diffusion import flash  # needs FlashAttention, which is optional

    return flash.attend(query, key, value)


@attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return query.new_empty(query.shape)


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor | None:
    """Attention of [batch, tokens, heads x width], None where the kernel was not measured."""
    if query.shape[-1] != heads * HEAD or query.dtype not in PRECISIONS:
        return None
    split = (part.unflatten(-1, (heads, -1)) for part in (query, key, value))
    mixed: Tensor = attention(*split)
    return mixed.flatten(2)


def _gate(linear: nn.Linear, batch: Tensor) -> Tensor:
    gated: Tensor = gated_product(batch.flatten(0, -2), linear.weight, linear.paired)
    return gated.unflatten(0, batch.shape[:-1])


def _multiply(linear: nn.Linear, batch: Tensor) -> Tensor:
    product: Tensor = wide_product(batch.flatten(0, -2), linear.weight)
    return product.unflatten(0, batch.shape[:-1])
