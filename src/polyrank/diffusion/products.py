"""Products by quack; one of them is gated before its sums leave the processor.

Imported only where quack is; see hopper.py for what is computed.
"""

from __future__ import annotations

from typing import Any

from quack.activation import gelu_erf
from quack.epilogue import gemm_epilogue, unpack
from quack.gemm_config import GemmConfig
from torch import Tensor

from polyrank.diffusion.blocks import PRODUCTS, fitting, processors_of


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
    _as_it_is(batch, weight.T, out={"D": product}, config=_config(batch, weight), tuned=False)
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
        config=_config(batch, weight),
        tuned=False,
        concat_layout=("B",),
    )
    return gated


def _config(batch: Tensor, weight: Tensor) -> GemmConfig:
    block = fitting(PRODUCTS, len(batch), len(weight), processors_of(batch.device))
    return GemmConfig(
        tile_m=block.rows,
        tile_n=block.columns,
        pingpong=block.turns,
        cluster_m=block.cluster[0],
        cluster_n=block.cluster[1],
        is_dynamic_persistent=False,
    )
