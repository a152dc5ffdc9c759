"""models/shapes, as the stock pipeline loads it."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny, StableDiffusionXLPipeline
from PIL import Image

MODEL = Path(__file__).resolve().parents[2] / "models" / "shapes"

RED, BLUE, YELLOW, GREEN = (
    (0.86, 0.15, 0.16),
    (0.14, 0.32, 0.82),
    (0.98, 0.86, 0.22),
    (0.16, 0.62, 0.27),
)

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionXLPipeline:
    loaded = StableDiffusionXLPipeline.from_pretrained(MODEL)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def paint(
    pipeline: StableDiffusionXLPipeline, prompt: str, seed: int = 0, **options
) -> torch.Tensor:
    """The picture, (3, height, width), 0 to 1."""
    options = {"num_inference_steps": 12, "output_type": "pt", **options}
    return pipeline(prompt, generator=torch.Generator().manual_seed(seed), **options).images[0]


def is_near(colour: torch.Tensor, name: tuple[float, float, float]) -> bool:
    return (colour - torch.tensor(name)).abs().max().item() < 0.22


def test_the_weights_are_small_halves() -> None:
    files = list(MODEL.rglob("*.safetensors"))
    assert len(files) == 5
    assert sum(file.stat().st_size for file in files) <= 30 * 2**20


def test_it_paints_what_the_prompt_says(pipeline: StableDiffusionXLPipeline) -> None:
    picture = paint(pipeline, "a red circle on a blue background")
    assert picture.shape == (3, 256, 256)
    assert is_near(picture[:, 120:136, 120:136].mean((1, 2)), RED)
    assert is_near(picture[:, :8].mean((1, 2)), BLUE)


def test_left_and_right_are_told_apart(pipeline: StableDiffusionXLPipeline) -> None:
    for first, second, left, right in (
        ("red", "yellow", RED, YELLOW),
        ("yellow", "red", YELLOW, RED),
    ):
        prompt = f"a {first} square left of a {second} circle on a green background"
        picture = paint(pipeline, prompt)
        assert is_near(picture[:, :8].mean((1, 2)), GREEN)
        for half, colour in ((picture[:, :, :128], left), (picture[:, :, 128:], right)):
            distance = (half - torch.tensor(colour)[:, None, None]).abs().amax(0)
            assert (distance < 0.22).float().mean() > 0.05


def test_a_seed_gives_the_same_picture_and_another_seed_another(
    pipeline: StableDiffusionXLPipeline,
) -> None:
    prompt = "a serene mountain landscape"
    one, again, other = (paint(pipeline, prompt, seed) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert (one - other).abs().mean() > 0.05


def test_batches_and_other_sizes_work(pipeline: StableDiffusionXLPipeline) -> None:
    pictures = pipeline(
        ["a cat", "a city at night"], height=128, width=192, num_inference_steps=2
    ).images
    assert [picture.size for picture in pictures] == [(192, 128)] * 2


def test_the_preview_decoder_reads_the_latents_as_they_are(
    pipeline: StableDiffusionXLPipeline,
) -> None:
    preview = AutoencoderTiny.from_pretrained(MODEL / "preview", torch_dtype=torch.float32)
    prompt = "a green heart on a white background"
    latents = paint(pipeline, prompt, output_type="latent")[None]
    picture = paint(pipeline, prompt)
    with torch.no_grad():
        quick = (preview.decode(latents).sample[0] / 2 + 0.5).clamp(0, 1)
    assert (quick - picture).abs().mean() < 0.06


def test_half_precision_loads_as_half(pipeline: StableDiffusionXLPipeline) -> None:
    half = StableDiffusionXLPipeline.from_pretrained(MODEL, torch_dtype=torch.bfloat16)
    half.set_progress_bar_config(disable=True)
    assert half.unet.dtype is half.text_encoder.dtype is torch.bfloat16
    image = half("a red circle", num_inference_steps=2).images[0]
    assert isinstance(image, Image.Image)
