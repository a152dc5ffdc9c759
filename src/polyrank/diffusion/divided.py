"""A model's layers, computing a band of rows of what they would compute, exactly.

A convolution needs a row of each neighbour, a group norm the sums of all ranks, self-attention
everybody's keys and values; all else looks at one place of the picture at a time. Where a
convolution follows a norm, the norm exchanges the edges together with its sums, and hands on a
band that is a row higher at either end (and a column wider, with a border; see borders.py).
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from polyrank.diffusion.borders import border_of
from polyrank.diffusion.layers import norms_before_convolutions
from polyrank.diffusion.norms import coefficients, moments, normalize
from polyrank.diffusion.rows import Rows
from polyrank.errors import UnsupportedPipeline

Layer = Callable[[Tensor], Tensor]


class Division:
    """Lets the layers of one model work on bands of rows, when asked to."""

    def __init__(self, model: nn.Module) -> None:
        self.rows: Rows | None = None
        followed = set(norms_before_convolutions(model))
        fed = {convolution for _, convolution in followed}
        reaching = {norm for norm, _ in followed}
        for name, part in model.named_modules():
            if isinstance(part, nn.Conv2d) and part.kernel_size != (1, 1):
                _check(name, part)
                self._replace(part, _convolve_extended if part in fed else _convolve)
            elif isinstance(part, nn.GroupNorm):
                self._replace(part, _norm_and_extend if part in reaching else _norm)
            elif isinstance(part, Attention) and not part.is_cross_attention:
                part.processor.division = self

    @contextlib.contextmanager
    def among(self, rows: Rows) -> Iterator[None]:
        """Within the block the layers see, and make, this rank's rows."""
        self.rows = rows
        try:
            yield
        finally:
            self.rows = None

    def tokens(self, mine: Tensor) -> Tensor:
        """The tokens of the whole picture, where they are divided."""
        return mine if self.rows is None else self.rows.tokens(mine)

    def _replace(self, layer: nn.Module, banded: Callable[..., Tensor]) -> None:
        stock: Layer = layer.forward

        @functools.wraps(stock)
        def forward(batch: Tensor) -> Tensor:
            return stock(batch) if self.rows is None else banded(layer, batch, self.rows)

        layer.forward = forward


class RowCore(nn.Module):
    """A core whose first input and output are bands of rows."""

    def __init__(self, core: nn.Module, division: Division, rows: Rows) -> None:
        super().__init__()
        self.core = core
        self.rows = rows
        self._division = division

    def forward(self, *inputs: Tensor) -> Tensor:
        """The core's output for this rank's rows."""
        with self._division.among(self.rows):
            output: Tensor = self.core(*inputs)
        return output


def _check(name: str, convolution: nn.Conv2d) -> None:
    plain = (
        convolution.kernel_size == (3, 3)
        and convolution.padding == (1, 1)
        and convolution.dilation == (1, 1)
        and convolution.stride in ((1, 1), (2, 2))
        and convolution.padding_mode == "zeros"
    )
    if not plain:
        raise UnsupportedPipeline(
            f"parallelize() cannot divide the rows of {name}: {convolution}; it knows "
            "convolutions of 3x3 with a padding of 1 and a stride of 1 or 2"
        )


def _convolve(convolution: nn.Conv2d, band: Tensor, rows: Rows) -> Tensor:
    touching = rows.kept(rows.touching(rows.gather(rows.edges(band))))
    return _convolve_extended(convolution, rows.extend(band, touching), rows)


def _convolve_extended(convolution: nn.Conv2d, extended: Tensor, rows: Rows) -> Tensor:
    border = border_of(convolution)
    if border is not None and border.is_drawn:
        return border.convolve(extended)
    # With a stride of 2 the row below the band is one too many, and is not looked at.
    return F.conv2d(
        extended, convolution.weight, convolution.bias, convolution.stride, padding=(0, 1)
    )


def _norm(norm: nn.GroupNorm, band: Tensor, rows: Rows) -> Tensor:
    everyone = rows.gather(moments(band, norm.num_groups)).mean(0)
    return normalize(band, coefficients(norm, everyone, band.numel()))


def _norm_and_extend(norm: nn.GroupNorm, band: Tensor, rows: Rows) -> Tensor:
    mine, edges = moments(band, norm.num_groups), rows.edges(band)
    everyone = rows.gather(torch.cat([mine.flatten(), edges.flatten().float()]))
    moments_of_all = everyone[:, : mine.numel()].unflatten(1, mine.shape).mean(0)
    applied = coefficients(norm, moments_of_all, band.numel())
    touching = rows.touching(everyone[:, mine.numel() :].unflatten(1, edges.shape))
    # Pictures in front, as everywhere else: [pictures, channels, 2, width].
    normed = normalize(touching.permute(1, 2, 0, 3), applied).to(band.dtype)
    touching = rows.kept(normed.permute(2, 0, 1, 3))
    extended = rows.extend(normalize(band, applied), touching)
    border = border_of(norm)
    if border is not None and border.draw_for(band):
        return F.pad(extended, (1, 1))
    return extended
