"""Attention by FlashAttention 4, in tiles that fill the GPU.

Imported only where FlashAttention is; see hopper.py for what is computed.
"""

from __future__ import annotations

from flash_attn.cute.interface import _flash_attn_fwd
from torch import Tensor

from polyrank.diffusion.blocks import processors_of, tile_of


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """[batch, queries, heads, width]; see ``hopper.attention``.

    The library's public function takes no tiles: its own, of 192 queries and 128 keys, leave half
    of the processors without work where a picture's rows are divided among GPUs, and read 128 keys
    where a text has 77.
    """
    batch, queries, heads, _ = query.shape
    tile = tile_of(queries, key.shape[1], batch * heads, processors_of(query.device))
    mixed: Tensor = _flash_attn_fwd(query, key, value, tile_mn=tile)[0]
    return mixed
