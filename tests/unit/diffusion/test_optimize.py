"""An optimized pipeline paints what the plain one paints."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.distributed as dist
from diffusers import (
    AutoencoderTiny,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    StableDiffusionXLPipeline,
)
from torch import nn

from polyrank.diffusion import norms, optimize, parallelize
from polyrank.diffusion.accelerated import AcceleratedCore
from polyrank.diffusion.artifacts import Recipe
from polyrank.diffusion.attention import PictureAttention, stack
from polyrank.diffusion.cores import UNetCore, fast_decoder, fast_preview, fast_unet
from polyrank.diffusion.norms import spread_group_norm
from polyrank.errors import UnsupportedPipeline

MODEL = Path(__file__).resolve().parents[3] / "models" / "shapes"
ADDED = ("text_embeds", "time_ids")


def difference(one: Any, other: Any) -> int:
    """Of two pictures: the largest of any channel."""
    return int(np.abs(np.asarray(one, int) - np.asarray(other, int)).max())


def inputs(rows: int = 2) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(rows, 4, 16, 16, generator=generator)
    text = torch.randn(rows, 32, 256, generator=generator)
    pooled = torch.randn(rows, 128, generator=generator)
    return sample, torch.tensor(500.0), text, pooled, torch.full((rows, 6), 128.0)


@pytest.mark.parametrize("negative_prompt", [None, "blurry"])
@pytest.mark.parametrize("scheduler", [None, DPMSolverMultistepScheduler, DDIMScheduler])
def test_the_pictures_are_those_of_the_plain_pipeline(
    plain: Any, pipeline: Any, paint: Any, negative_prompt: str | None, scheduler: Any
) -> None:
    expected_scheduler = plain.scheduler
    if scheduler is not None:
        pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config)
        plain.scheduler = scheduler.from_config(plain.scheduler.config)
    try:
        expected = paint(plain, negative_prompt=negative_prompt)
    finally:
        plain.scheduler = expected_scheduler
    optimize(pipeline)
    assert difference(paint(pipeline, negative_prompt=negative_prompt), expected) <= 2


def test_prompts_sizes_and_batches_may_change_between_calls(
    plain: Any, pipeline: Any, paint: Any
) -> None:
    optimize(pipeline)
    for options in (
        {"prompt": "a yellow star"},
        {"prompt": "a yellow star", "height": 64, "width": 192},
        {"prompt": ["a cat", "a city"], "negative_prompt": ["dog", "sea"]},
        {"prompt": "a yellow star", "num_images_per_prompt": 2},
    ):
        options["num_inference_steps"] = 2
        assert difference(paint(pipeline, **options), paint(plain, **options)) <= 2


def test_a_call_does_not_ask_every_module_where_it_is(
    pipeline: Any, paint: Any, monkeypatch: Any
) -> None:
    optimize(pipeline)
    assert type(pipeline).__name__ == "StableDiffusionXLPipeline"
    assert isinstance(pipeline, StableDiffusionXLPipeline)
    encoders = pipeline.text_encoder, pipeline.text_encoder_2
    for part in (pipeline.unet, *encoders):
        monkeypatch.setattr(part, "modules", lambda: pytest.fail("it walked"))
    paint(pipeline, num_inference_steps=1)
    assert (pipeline.text_encoder, pipeline.text_encoder_2) == encoders
    assert pipeline._execution_device == torch.device("cpu")


def test_encoders_that_are_not_where_the_unet_is_are_still_asked(
    pipeline: Any, monkeypatch: Any
) -> None:
    """They may be offloaded by themselves."""
    optimize(pipeline)
    pipeline.unet.to("meta")
    asked = []
    for encoder in (pipeline.text_encoder, pipeline.text_encoder_2):
        monkeypatch.setattr(encoder, "modules", lambda at=encoder: asked.append(at) or iter(()))
    pipeline.encode_prompt("a circle", device=torch.device("cpu"))
    assert set(asked) == {pipeline.text_encoder, pipeline.text_encoder_2}


def test_loras_are_scaled_in_the_encoders_themselves(pipeline: Any, monkeypatch: Any) -> None:
    optimize(pipeline)
    scaled: list[Any] = []
    module = "diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl"
    monkeypatch.setattr(f"{module}.USE_PEFT_BACKEND", True)
    monkeypatch.setattr(f"{module}.scale_lora_layers", lambda model, scale: scaled.append(model))
    monkeypatch.setattr(f"{module}.unscale_lora_layers", lambda model, scale: None)
    pipeline.encode_prompt("a circle", lora_scale=0.5)
    assert scaled == [pipeline.text_encoder, pipeline.text_encoder_2]


def test_an_offloaded_pipeline_is_still_asked(pipeline: Any) -> None:
    optimize(pipeline)

    class Hook:
        execution_device = "meta"

    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2):
        part._hf_hook = Hook()
    assert pipeline._execution_device == torch.device("meta")


def test_tensors_and_arrays_come_as_before(plain: Any, pipeline: Any, paint: Any) -> None:
    optimize(pipeline)
    for kind in ("pt", "np", "latent"):
        options = {"output_type": kind, "num_inference_steps": 2}
        one, other = paint(pipeline, **options), paint(plain, **options)
        assert type(one) is type(other)
        assert np.allclose(one, other, atol=1e-4)


def test_skipping_the_attention_to_an_empty_text_changes_no_bit(pipeline: Any) -> None:
    project = fast_unet(pipeline.unet)
    core = UNetCore(pipeline.unet, ADDED)
    sample, timestep, text, *added = inputs()
    text[0] = 0
    with torch.no_grad():
        whole = core(sample, timestep, project(text), *added)
        skipped = core(sample, timestep, project(text[1:]), *added)
    assert torch.equal(whole, skipped)


def test_the_text_is_projected_once_per_prompt(pipeline: Any, paint: Any) -> None:
    optimize(pipeline)
    projection = pipeline.unet.forward._text_projection
    seen = []
    projection.register_forward_hook(lambda module, given, made: seen.append(given[0].shape))
    paint(pipeline)
    paint(pipeline, negative_prompt="blurry")
    # Without a negative prompt only the prompt's row is.
    assert [shape[0] for shape in seen] == [1, 2]


def test_fused_layers_share_their_memory() -> None:
    one, other = nn.Linear(4, 3), nn.Linear(4, 2)
    data = torch.randn(5, 4)
    expected = torch.cat([one(data), other(data)], dim=1)
    stacked = stack([one, other])
    assert torch.allclose(stacked(data), expected)
    with torch.no_grad():
        one.weight.zero_()  # as a LoRA that is fused in place would
    assert torch.equal(stacked.weight[:3], torch.zeros(3, 4))


def test_a_decoder_with_attention_gives_the_same_pictures(make_vae: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("polyrank.diffusion.attention.SCORE_BYTES", 1 << 15)  # several slices
    vae = make_vae(32, 64)
    latents = torch.randn(2, 4, 16, 16)
    with torch.no_grad():
        expected = vae.decode(latents).sample
        core = fast_decoder(vae, shrunk=False)
        assert isinstance(vae.decoder.mid_block.attentions[0].processor, PictureAttention)
        assert torch.allclose(core(latents), expected, atol=1e-5)


@pytest.mark.parametrize("large", [norms.LARGE, 1])
def test_a_group_norm_that_is_spread_out_is_the_same_norm(
    large: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(norms, "LARGE", large)
    generator = torch.Generator().manual_seed(0)
    norm = nn.GroupNorm(8, 32)
    nn.init.normal_(norm.weight, generator=generator)
    nn.init.normal_(norm.bias, generator=generator)
    batch = torch.randn(2, 32, 48, 20, generator=generator) * 3 + 5
    assert torch.allclose(spread_group_norm(norm, batch), norm(batch), atol=1e-5)
    laid_out = batch.contiguous(memory_format=torch.channels_last)
    assert torch.allclose(spread_group_norm(norm, laid_out), norm(batch), atol=1e-5)


def test_what_it_does_not_know_is_refused_before_anything_changes(
    plain: Any, pipeline: Any, paint: Any
) -> None:
    class Custom:
        pass

    name, layer = next(
        (name, part)
        for name, part in pipeline.unet.named_modules()
        if name.endswith("up_blocks.1.attentions.0.transformer_blocks.0.attn2")
        or name.endswith("mid_block.attentions.0.transformer_blocks.0.attn2")
    )
    stock, layer.processor = layer.processor, Custom()
    with pytest.raises(UnsupportedPipeline, match=rf"{name} \(Custom"):
        optimize(pipeline)
    layer.processor = stock
    options = {"num_inference_steps": 2}
    assert difference(paint(pipeline, **options), paint(plain, **options)) == 0


def test_a_pipeline_without_a_unet_is_refused() -> None:
    class Flux:
        transformer = nn.Linear(1, 1)

    with pytest.raises(UnsupportedPipeline, match="UNet2DConditionModel; Flux has NoneType"):
        optimize(Flux())


def test_only_an_optimized_pipeline_is_parallelized(plain: Any) -> None:
    with pytest.raises(UnsupportedPipeline, match=r"optimize\(\) was called on"):
        parallelize(plain)


@pytest.fixture
def manual(monkeypatch: Any) -> dict[str, Any]:
    """What the manual's code defines, run where it would be."""
    names: dict[str, Any] = {"__name__": "manual"}
    for code in (MODEL.parents[1] / "docs" / "diffusion.md").read_text().split("```python\n")[1:]:
        exec(compile(code.split("```")[0], "diffusion.md", "exec"), names)
    monkeypatch.chdir(MODEL.parents[1])
    return names


def test_the_worker_of_the_manual_paints(manual: dict[str, Any]) -> None:
    worker = manual["Painter"]()
    worker._device = torch.device("cpu")
    worker.setup()
    assert worker(prompt="a red circle", steps=2)["image"].size == (256, 256)
    worker.previewer.close()


def test_the_worker_of_the_manual_that_shares_a_picture_paints(manual: dict[str, Any]) -> None:
    worker = manual["OnePicture"]()
    worker._device = torch.device("cpu")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        worker.setup()
        assert worker(prompt="a red circle", steps=2)["image"].size == (256, 256)
    finally:
        dist.destroy_process_group()


def test_the_worker_of_the_manual_that_loads_quickly_has_a_pipeline(manual: dict[str, Any]) -> None:
    worker = manual["QuickStart"]()
    worker._device = torch.device("cpu")
    worker.setup()
    assert isinstance(worker.pipeline, StableDiffusionXLPipeline)


def test_compiled_code_is_asked_for_when_a_picture_is_through(
    pipeline: Any, paint: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loading it keeps Python busy for seconds, which a picture in the making would wait."""
    begun: list[str] = []
    monkeypatch.setattr(AcceleratedCore, "request_compiled", lambda core: begun.append(core.kind))
    optimized = optimize(pipeline)
    during: list[list[str]] = []
    paint(
        pipeline,
        num_inference_steps=2,
        callback_on_step_end=lambda *_: during.append(list(begun)) or {},
    )
    assert during == [[], []]
    assert begun == ["unet", "decoder"]
    optimized.wait()
    assert begun == ["unet", "decoder"] * 2


def test_what_was_met_is_asked_for_once(tmp_path: Path) -> None:
    class Asked:
        def request(self, recipe: Recipe, on_ready: Any) -> None:
            recipes.append(recipe)

    recipes: list[Recipe] = []
    vae = AutoencoderTiny.from_pretrained(MODEL / "preview")
    core: Any = AcceleratedCore(
        "preview", fast_preview(vae), dict(vae.config), graphs=False, compiler=cast(Any, Asked())
    )
    core._plan((torch.zeros(1, 4, 8, 8),))
    assert recipes == []
    core.request_compiled()
    core.request_compiled()
    assert [each.inputs for each in recipes] == [[([1, 4, 8, 8], "float32")]]
