"""Products by quack; one of them is gated before its sums leave the processor.

Imported only where quack is; see hopper.py for what is computed.
"""

from __future__ import annotations

from typing import Any

from quack.activation import gelu_erf
from quack.epilogue import gemm_epilogue, unpack
from quack.gemm_config import GemmConfig
from torch import Tensor

# The fastest of 18, or within 1 % of it, for the wide products of SDXL on an H200.
TILES = GemmConfig(tile_m=128, tile_n=160, pingpong=True, is_dynamic_persistent=False)


@gemm_epilogue()
def _as_it_is(acc: Any) -> dict[str, Any]:
    return {"D": acc}


@gemm_epilogue(outputs=("gated",), mode="acc_pair")
def _gelu_gate(acc: Any, bias: Any) -> dict[str, Any]:
    value, gate = unpack(acc + bias)
    return {"gated": gelu_erf(gate) * value}


def multiply(batch: Tensor, weight: Tensor) -> Tensor:
    """[rows, outputs]; see ``hopper.wide_product``."""
    product = batch.new_empty(batch.shape[0], weight.shape[0])
    _as_it_is(batch, weight.T, out={"D": product}, config=TILES, tuned=False)
    return product


def multiply_gated(batch: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """[rows, outputs / 2]; see ``hopper.gated_product``."""
    gated = batch.new_empty(batch.shape[0], weight.shape[0] // 2)
    _gelu_gate(
        batch,
        weight.T,
        out={"gated": gated},
        bias=bias[None],
        store_d=False,
        config=TILES,
        tuned=False,
        concat_layout=("B",),
    )
    return gated
