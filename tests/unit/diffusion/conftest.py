"""models/shapes, loaded afresh for every test that changes it, and one plain pipeline for all."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, StableDiffusionXLPipeline
from torch import Tensor

from polyrank.diffusion.cores import UNetCore, fast_unet

MODEL = Path(__file__).resolve().parents[3] / "models" / "shapes"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            for kind in ("FutureWarning", "DeprecationWarning"):
                item.add_marker(pytest.mark.filterwarnings(f"ignore::{kind}"))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny products are slower on many threads, above all on a machine that does other things."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def load() -> StableDiffusionXLPipeline:
    pipeline = StableDiffusionXLPipeline.from_pretrained(MODEL)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="session")
def plain() -> StableDiffusionXLPipeline:
    return load()


@pytest.fixture
def pipeline() -> StableDiffusionXLPipeline:
    return load()


@pytest.fixture(scope="session")
def decoder() -> AutoencoderTiny:
    return AutoencoderTiny.from_pretrained(MODEL / "preview")


@pytest.fixture
def unet_core(pipeline: StableDiffusionXLPipeline) -> tuple[UNetCore, tuple[Tensor, ...]]:
    """The pipeline's UNet and inputs of two pictures, of which the first has no text."""
    project = fast_unet(pipeline.unet)
    noise = torch.Generator().manual_seed(0)
    sample = torch.randn(2, 4, 16, 16, generator=noise)
    text, pooled = torch.randn(1, 32, 256, generator=noise), torch.randn(2, 128, generator=noise)
    inputs = (sample, torch.tensor(500.0), project(text), pooled, torch.full((2, 6), 128.0))
    return UNetCore(pipeline.unet, ("text_embeds", "time_ids")), inputs


@pytest.fixture(scope="session")
def make_vae() -> Callable[..., AutoencoderKL]:
    """Makes VAEs with an attention, which models/shapes does without."""

    def make_vae(*channels: int, **options: Any) -> AutoencoderKL:
        torch.manual_seed(0)
        return AutoencoderKL(
            block_out_channels=channels,
            down_block_types=("DownEncoderBlock2D",) * len(channels),
            up_block_types=("UpDecoderBlock2D",) * len(channels),
            norm_num_groups=8,
            **options,
        ).eval()

    return make_vae


@pytest.fixture(scope="session")
def paint() -> Callable[..., Any]:
    def paint(pipeline: Any, prompt: str = "a red circle on a blue background", **options: Any):
        options = {"num_inference_steps": 6, "height": 128, "width": 128, **options}
        generator = torch.Generator().manual_seed(1)
        return pipeline(prompt, guidance_scale=4.0, generator=generator, **options).images[0]

    return paint
