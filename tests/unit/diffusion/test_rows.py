"""Bands of rows, computed by ranks that are threads here, make the picture of one rank."""

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from polyrank.diffusion.borders import draw_borders
from polyrank.diffusion.cores import fast_decoder, lend_weights
from polyrank.diffusion.divided import Division, RowCore
from polyrank.diffusion.rows import Rows
from polyrank.errors import UnsupportedPipeline


class Meeting:
    """An exchange of threads."""

    def __init__(self, ranks: int) -> None:
        self._barrier = threading.Barrier(ranks, timeout=60)
        self._shares: list[Tensor] = [torch.empty(0)] * ranks

    def of(self, rank: int) -> Callable[[Tensor], Tensor]:
        """The rank's way to it."""

        def exchange(share: Tensor) -> Tensor:
            self._shares[rank] = share
            self._barrier.wait()
            everyone = torch.stack(self._shares)
            self._barrier.wait()
            return everyone

        return exchange


def on_ranks(ranks: int, compute: Callable[[Rows], Tensor]) -> list[Tensor]:
    """What ``compute`` gives on every rank."""
    meeting = Meeting(ranks)

    def run(rank: int) -> Tensor:
        with torch.no_grad():
            return compute(Rows(ranks, rank, meeting.of(rank)))

    with ThreadPoolExecutor(ranks) as threads:
        return list(threads.map(run, range(ranks)))


def divided(core: nn.Module, rows: Rows) -> RowCore:
    """The core for one rank; each thread has a model of its own, as processes would."""
    core = copy.deepcopy(core)
    return RowCore(core, Division(core), rows)


def decoder_core(vae: AutoencoderKL, shrunk: bool = False) -> nn.Module:
    """A decoder whose norms do something."""
    for part in vae.decoder.modules():
        if isinstance(part, nn.GroupNorm):  # by default they scale by 1 and shift by 0
            nn.init.normal_(part.weight)
            nn.init.normal_(part.bias)
    return fast_decoder(vae, shrunk=shrunk)


@pytest.mark.parametrize("ranks", [2, 4])
def test_the_bands_of_a_unet_make_the_whole(unet_core: Any, ranks: int) -> None:
    core, (sample, *others) = unet_core
    with torch.no_grad():
        expected = core(sample, *others)

    def compute(rows: Rows) -> Tensor:
        return rows.whole(divided(core, rows)(rows.mine(sample), *others))

    for whole in on_ranks(ranks, compute):
        assert torch.allclose(whole, expected, atol=1e-5)


@pytest.mark.parametrize(("width", "drawn"), [(16, True), (12, False)])
@pytest.mark.parametrize("ranks", [2, 4])
def test_bands_with_borders_make_the_whole(ranks: int, width: int, drawn: bool) -> None:
    torch.manual_seed(0)
    block = ResnetBlock2D(in_channels=320, temb_channels=8).requires_grad_(False).eval()
    pictures, times = torch.randn(2, 320, 32, width), torch.randn(2, 8)
    expected = block(pictures, times)
    draw_borders(block)

    def compute(rows: Rows) -> Tensor:
        core = divided(block, rows)
        whole = rows.whole(core(rows.mine(pictures), times))
        assert core.core.conv2.border.is_drawn == drawn
        return whole

    for whole in on_ranks(ranks, compute):
        assert torch.allclose(whole, expected, atol=1e-4)


@pytest.mark.parametrize("shrunk", [False, True])
@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_the_bands_of_a_decoder_make_the_whole(make_vae: Any, ranks: int, shrunk: bool) -> None:
    core, latents = decoder_core(make_vae(16, 32), shrunk), torch.randn(1, 4, 16, 8)
    with torch.no_grad():
        expected = core(latents)

    def compute(rows: Rows) -> Tensor:
        return rows.whole(divided(core, rows)(rows.mine(latents)))

    for whole in on_ranks(ranks, compute):
        assert torch.allclose(whole, expected, atol=1e-5)


def test_a_divided_model_still_computes_whole_pictures(make_vae: Any) -> None:
    core, latents = decoder_core(make_vae(16, 32)), torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        expected = core(latents)
        RowCore(core, Division(core), Rows(2))
        assert torch.equal(core(latents), expected)


def test_code_made_with_a_stand_in_serves_every_rank(make_vae: Any) -> None:
    core, latents = decoder_core(make_vae(16)), torch.randn(1, 4, 16, 8)
    with torch.no_grad():
        expected = core(latents)
        stand_in = divided(core, Rows(2))
        exported = torch.export.export(stand_in, (latents[:, :, :8],), strict=False)
    names = [
        spec.target
        for spec in exported.graph_signature.input_specs
        if spec.kind.name != "USER_INPUT"
    ]

    def compute(rows: Rows) -> Tensor:
        weights = lend_weights(divided(core, rows), names)
        band = exported.graph_module(*weights, rows.mine(latents))[0]
        return rows.whole(band)

    for whole in on_ranks(2, compute):
        assert torch.allclose(whole, expected, atol=1e-5)


def test_ranks_agree_on_what_holds_for_all() -> None:
    def agree(ready: list[bool]) -> list[bool]:
        return [bool(each) for each in on_ranks(2, lambda rows: rows.agree(ready[rows.rank]))]

    assert agree([True, False]) == agree([False, False]) == [False, False]
    assert agree([True, True]) == [True, True]


def test_a_convolution_that_looks_further_is_refused_by_name() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 5, padding=2))
    with pytest.raises(UnsupportedPipeline, match=r"the rows of 1: Conv2d\(4, 4, kernel_size="):
        Division(model)
