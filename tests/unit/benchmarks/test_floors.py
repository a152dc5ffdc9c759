"""The floors of the benchmarks' tables are what the counter of torch counts."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.floors import RATE, Picture, floor_s, picture_flops
from benchmarks.models import random_sdxl
from polyrank.diffusion.cores import UNetCore, fast_unet

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.mark.parametrize("size", [1024, 2048])
def test_a_picture_has_the_operations_that_are_counted(size: int) -> None:
    meta = torch.device("meta")
    pipeline, _ = random_sdxl(meta)
    with meta, torch.no_grad():
        project = fast_unet(pipeline.unet)
        core = UNetCore(pipeline.unet, ("text_embeds", "time_ids"))
        latents = torch.randn(2, 4, size // 8, size // 8)
        text = project(torch.randn(1, 77, 2048))
        with FlopCounterMode(display=False) as step:
            core(latents, torch.tensor(1.0), text, torch.randn(2, 1280), torch.randn(2, 6))
        with FlopCounterMode(display=False) as decoder:
            pipeline.vae.decode(latents[:1])
    counted = 20 * step.get_total_flops() + decoder.get_total_flops()
    assert picture_flops(20, size) == pytest.approx(counted, rel=0.01)


def test_more_gpus_have_a_lower_floor() -> None:
    assert floor_s(20, 1024) == picture_flops(20, 1024) / RATE
    assert floor_s(20, 1024, gpus=4) == floor_s(20, 1024) / 4


def test_rows_show_what_others_have_reached() -> None:
    assert (
        Picture(30, 1024)
        .columns(1.0)
        .endswith("| 1.47 s: TensorRT, H100 (stable-diffusion-xl-1.0-tensorrt)")
    )
    assert Picture(31, 1024).columns(floor_s(31, 1024) * 2).endswith(" | 2.00 | ")
