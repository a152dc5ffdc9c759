"""Convolutions of 3x3 as products by quack, whose first matrix is never made.

In a picture with a border the numbers that one output looks at lie at fixed distances from each
other: three rows of three times the channels. So the matrix with a row for each output is a way to
read the picture, and the GPU's own copies from memory can read it so.

Imported only where quack is; see hopper.py for what is computed.
"""

from __future__ import annotations

import functools
from typing import Any

import cutlass.cute as cute
import torch
from quack.gemm_default_epi import GemmDefaultSm90
from quack.gemm_runtime.host import GemmEpiPlan, build_gemm_epi_plan, run_gemm_epi_plan
from torch import Tensor

from polyrank.diffusion.blocks import CONVOLUTIONS, fitting, processors_of
from polyrank.diffusion.hopper import HOPPER

# What quack's epilogue calls that which it adds to each row of the product.
BIAS = "mRowVecBroadcast"


class Convolution(GemmDefaultSm90):
    """quack's product, with a bordered picture as its first matrix."""

    # Width, height, how many, and channels: the compiler knows them, to divide them into blocks.
    pictures: tuple[int, int, int, int]

    def make_tma_load_atoms_and_tensors(self, first: Any, *others: Any, **named: Any) -> Any:
        """As the product's own, for another layout of the first matrix."""
        width, height, count, channels = self.pictures
        row = (width + 2) * channels
        layout = cute.make_layout(
            ((width, height, count), (3 * channels, 3), 1),
            stride=((channels, row, (height + 2) * row), (1, row), 0),
        )
        patches = cute.make_tensor(first.iterator, layout)
        return super().make_tma_load_atoms_and_tensors(patches, *others, **named)


def convolve(bordered: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """[pictures, height, width, outputs]; see ``hopper.convolution``."""
    count, height, width, _ = bordered.shape
    convolved = bordered.new_empty(count, height - 2, width - 2, len(weight))
    run_gemm_epi_plan(
        _plan(bordered.shape, len(weight), bordered.dtype, processors_of(bordered.device)),
        _as_matrix(bordered),
        weight.permute(0, 2, 3, 1).flatten(1),
        convolved.flatten(0, 2),
        None,
        {BIAS: bias},
    )
    return convolved


@functools.cache
def _plan(shape: torch.Size, outputs: int, dtype: torch.dtype, processors: int) -> GemmEpiPlan:
    """The kernel for pictures of this shape."""
    count, height, width, channels = shape[0], shape[1] - 2, shape[2] - 2, shape[3]
    places = count * height * width
    block = fitting(CONVOLUTIONS, places, outputs, processors)
    with torch.device("meta"):
        first = _as_matrix(torch.empty(shape, dtype=dtype))
        second = torch.empty(outputs, 9 * channels, dtype=dtype)
        product = torch.empty(places, outputs, dtype=dtype)
        bias = torch.empty(outputs, dtype=dtype)
    return build_gemm_epi_plan(
        Convolution,
        HOPPER,
        first,
        second,
        product,
        None,
        epi_values={BIAS: bias},
        tile_M=block.rows,
        tile_N=block.columns,
        cluster_M=block.cluster[0],
        cluster_N=block.cluster[1],
        pingpong=block.turns,
        post_init_attrs=(("pictures", (width, height, count, channels)),),
    )


def _as_matrix(bordered: Tensor) -> Tensor:
    """The pictures in the shape of the matrix that they stand for; its rows overlap in memory."""
    count, height, width, channels = bordered.shape
    places = count * (height - 2) * (width - 2)
    return bordered.as_strided((places, 9 * channels), (channels, 1))
