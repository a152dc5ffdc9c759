"""polyrank.diffusion on two ranks, which are processes on the CPU here."""

from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
import torch
from diffusers import StableDiffusionXLPipeline
from diffusion_workers import MODEL, PROMPT, Painter, Transformers

from polyrank.distributed import DistributedRunner
from polyrank.errors import WorkerError

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def apart() -> AsyncIterator[DistributedRunner]:
    """Each rank paints a picture of its own."""
    async with DistributedRunner(Painter, world_size=2, device="cpu") as runner:
        yield runner


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def together() -> AsyncIterator[DistributedRunner]:
    """Both ranks paint one picture."""
    runner = DistributedRunner(Painter, world_size=2, device="cpu")
    await runner.start(together=True)
    yield runner
    await runner.stop()


async def test_the_pictures_of_all_ranks_are_streamed_as_one(apart: DistributedRunner) -> None:
    *previews, result = [item async for item in apart.stream({"steps": 12})]
    # Whoever is last may be too late for the end, so step 9 may be missing.
    assert [event["step"] for event in previews][:3] == [2, 3, 6]
    last = previews[2]["preview_image"]
    assert last.size == (256, 128)
    # Left is rank 0's picture and right rank 1's: they had different seeds.
    for left, picture in ((0, result[0]), (128, result[1])):
        tile = np.asarray(last.crop((left, 0, left + 128, 128)), float).ravel()
        assert np.corrcoef(tile, np.asarray(picture, float).ravel())[0, 1] > 0.95
    assert result[0] != result[1]


async def test_tiles_reach_rank_0_over_a_network(apart: DistributedRunner) -> None:
    [(step, picture)] = await apart.invoke({"tiles_over": "127.0.0.1"})
    assert step == 3
    assert picture.getchannel("R").getextrema() == (0, 1)


async def test_a_browser_gets_the_same_as_text(apart: DistributedRunner) -> None:
    events = [item async for item in apart.stream({"steps": 8}, as_text_events=True)]
    assert b'"step": 2, "progress": 0.25, "preview_image": {"url": "data:image/jpeg' in events[0]


async def test_a_request_that_streams_nothing_has_no_previews(apart: DistributedRunner) -> None:
    pictures = await apart.invoke({"steps": 2})
    assert pictures[0].size == (128, 128)


async def test_previews_of_a_cancelled_request_stay_out_of_the_next(
    apart: DistributedRunner,
) -> None:
    stream = apart.stream({"steps": 100})
    assert (await anext(stream))["step"] == 2
    await stream.aclose()
    events = [item async for item in apart.stream({"steps": 8})]
    assert [event["progress"] for event in events[:2]] == [2 / 8, 3 / 8]


@pytest.fixture(scope="module")
def alone() -> StableDiffusionXLPipeline:
    """The plain pipeline, which paints in the test's own process."""
    torch.set_num_threads(1)
    plain = StableDiffusionXLPipeline.from_pretrained(MODEL)
    plain.set_progress_bar_config(disable=True)
    return plain


def paint(
    plain: StableDiffusionXLPipeline, guidance: float = 4.0, height: int = 128, **options: Any
) -> Any:
    """The first picture of what ``Painter`` would paint."""
    return plain(
        PROMPT,
        num_inference_steps=4,
        height=height,
        width=128,
        generator=torch.Generator().manual_seed(0),
        guidance_scale=guidance,
        **options,
    ).images[0]


def difference(one: Any, other: Any) -> int:
    """Of two pictures: the largest of any channel."""
    return int(np.abs(np.asarray(one, int) - np.asarray(other, int)).max())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"negative_prompt": "blurry"},
        {"num_images_per_prompt": 2},
        {"guidance": 1.0},  # without guidance all share the rows
        {"height": 72},  # nine rows of latents: each decodes the whole
    ],
)
async def test_two_ranks_paint_the_picture_of_one(
    together: DistributedRunner, alone: StableDiffusionXLPipeline, options: dict[str, Any]
) -> None:
    pictures = await together.invoke({"steps": 4, **options})
    assert pictures[0] == pictures[1]
    assert difference(pictures[0], paint(alone, **options)) <= 2


async def test_ranks_part_and_come_together_again(
    together: DistributedRunner, alone: StableDiffusionXLPipeline
) -> None:
    expected = paint(alone)
    own = await together.invoke({"steps": 4, "join": False})
    assert own[0] != own[1]  # a picture each, of another seed
    assert difference(own[0], expected) <= 2
    for _ in range(2):
        pictures = await together.invoke({"steps": 4, "join": True})
        assert pictures[0] == pictures[1]
        assert difference(pictures[0], expected) <= 2


async def test_four_ranks_paint_the_picture_of_one(alone: StableDiffusionXLPipeline) -> None:
    runner = DistributedRunner(Painter, world_size=4, device="cpu")
    await runner.start(together=True)
    try:
        for options in (
            {},  # two branches of guidance, two bands of rows
            {"num_images_per_prompt": 2},  # four rows of the batch
            {"guidance": 1.0, "height": 256},  # four bands
        ):
            pictures = await runner.invoke({"steps": 4, **options})
            assert all(picture == pictures[0] for picture in pictures)
            assert difference(pictures[0], paint(alone, **options)) <= 2
        with pytest.raises(WorkerError, match="multiple of 16; it is 18"):
            await runner.invoke({"steps": 4, "guidance": 1.0, "height": 144})
        # All refused it at the same time, and go on together.
        assert len(await runner.invoke({"steps": 2})) == 4
    finally:
        await runner.stop()


async def test_eight_ranks_paint_the_picture_of_one(alone: StableDiffusionXLPipeline) -> None:
    runner = DistributedRunner(Painter, world_size=8, device="cpu")
    await runner.start(together=True)
    try:
        pictures = await runner.invoke({"steps": 4})  # two branches of guidance, four bands
        assert all(picture == pictures[0] for picture in pictures)
        assert difference(pictures[0], paint(alone)) <= 2
    finally:
        await runner.stop()


async def test_a_picture_is_the_same_alone_and_in_a_batch(
    together: DistributedRunner, alone: StableDiffusionXLPipeline
) -> None:
    # A generator gives the first picture of a batch the noise that it gives a single one.
    batched = await together.invoke({"steps": 4, "num_images_per_prompt": 4})
    assert difference(batched[0], paint(alone)) <= 2


async def test_transformers_are_shared_by_their_batch_and_their_tokens() -> None:
    async with DistributedRunner(Transformers, world_size=2, device="cpu") as runner:
        for call in (
            {"name": "flux", "batch": 1},  # tokens, as diffusers divides them
            {"name": "flux", "batch": 2},  # batch
            {"name": "sd3", "batch": 2},
        ):
            assert await runner.invoke(call) < 1e-5
        with pytest.raises(WorkerError, match="2 ranks cannot share 63 tokens"):
            await runner.invoke({"name": "flux", "batch": 1, "tokens": 63})
        with pytest.raises(WorkerError, match="cannot divide the tokens of SD3Transformer2DModel"):
            await runner.invoke({"name": "sd3", "batch": 1})
