"""``load`` gives what ``from_pretrained`` gives."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from torch import nn

from polyrank.diffusion import load, weights
from polyrank.errors import AppError

MODEL = Path(__file__).resolve().parents[3] / "models" / "shapes"
CPU = torch.device("cpu")


def assert_same(one: nn.Module, other: nn.Module) -> None:
    """The same tensors under the same names, buffers that are not saved among them."""
    left, right = (dict([*each.named_parameters(), *each.named_buffers()]) for each in (one, other))
    assert list(left) == list(right)
    for name, tensor in left.items():
        assert tensor.dtype == right[name].dtype, name
        assert tensor.requires_grad == right[name].requires_grad, name
        assert torch.equal(tensor, right[name]), name
    assert one.training == other.training


def models_of(pipeline: Any) -> dict[str, nn.Module]:
    parts = pipeline.components.items()
    return {name: part for name, part in parts if isinstance(part, nn.Module)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_pipeline_is_the_one_of_from_pretrained(dtype: torch.dtype) -> None:
    expected = StableDiffusionXLPipeline.from_pretrained(MODEL, torch_dtype=dtype)
    loaded = load(StableDiffusionXLPipeline, MODEL, dtype=dtype)
    assert models_of(loaded).keys() == {"unet", "vae", "text_encoder", "text_encoder_2"}
    for name, model in models_of(expected).items():
        assert_same(models_of(loaded)[name], model)
    assert dict(loaded.unet.config) == dict(expected.unet.config)
    assert loaded.text_encoder.config.to_dict() == expected.text_encoder.config.to_dict()
    assert loaded.scheduler.config == expected.scheduler.config


def test_its_pictures_are_the_same_to_the_bit(plain: Any, paint: Any) -> None:
    loaded = load(StableDiffusionXLPipeline, MODEL)
    loaded.set_progress_bar_config(disable=True)
    assert paint(loaded, num_inference_steps=2) == paint(plain, num_inference_steps=2)


def test_parts_that_are_there_already_are_not_loaded(decoder: Any) -> None:
    loaded = load(StableDiffusionXLPipeline, MODEL, vae=decoder)
    assert loaded.vae is decoder


def test_a_single_model_may_be_loaded() -> None:
    expected = AutoencoderTiny.from_pretrained(MODEL / "preview")
    assert_same(load(AutoencoderTiny, MODEL / "preview"), expected)


def test_weights_in_several_files_and_in_many_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = UNet2DConditionModel.from_pretrained(MODEL / "unet")
    expected.save_pretrained(tmp_path, max_shard_size="9MB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    monkeypatch.setattr(weights, "SHARE_BYTES", 1_000_003)
    assert_same(load(UNet2DConditionModel, tmp_path), expected)


def test_a_variant_is_taken_where_there_is_one(tmp_path: Path) -> None:
    model = AutoencoderTiny.from_pretrained(MODEL / "preview")
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        next(model.parameters()).zero_()
    model.save_pretrained(tmp_path, variant="fp16")
    assert next(load(AutoencoderTiny, tmp_path).parameters()).any()
    assert not next(load(AutoencoderTiny, tmp_path, variant="fp16").parameters()).any()


@pytest.mark.parametrize("more", [{}, {"text_model.embeddings.position_ids": torch.arange(77)}])
def test_a_text_encoder_as_public_checkpoints_have_it(tmp_path: Path, more: Any) -> None:
    """With a name before all names; in older ones with a buffer that is not saved any more."""
    shutil.copytree(MODEL, tmp_path, dirs_exist_ok=True)
    [file] = (tmp_path / "text_encoder").glob("*.safetensors")
    weights = {f"text_model.{name}": each for name, each in load_file(file).items()}
    save_file(weights | more, file, {"format": "pt"})
    loaded = load(StableDiffusionXLPipeline, tmp_path).text_encoder
    for folder in (tmp_path, MODEL):
        assert_same(loaded, StableDiffusionXLPipeline.from_pretrained(folder).text_encoder)


def test_weights_under_other_names_are_left_to_from_pretrained(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As VAEs were saved before diffusers 0.14: diffusers renames them, and so must we."""
    torch.manual_seed(0)
    shape: dict[str, Any] = {"block_out_channels": (16,), "norm_num_groups": 8}
    expected = AutoencoderKL(**shape).eval()
    expected.save_pretrained(tmp_path)
    [file] = tmp_path.glob("*.safetensors")
    tensors = load_file(file)
    renamed = {
        name.replace("to_q", "query")
        .replace("to_k", "key")
        .replace("to_v", "value")
        .replace("to_out.0", "proj_attn"): tensor
        for name, tensor in tensors.items()
    }
    assert renamed.keys() != tensors.keys()
    save_file(renamed, file, {"format": "pt"})
    caplog.set_level(logging.INFO, "polyrank.diffusion")
    assert_same(load(AutoencoderKL, tmp_path), expected)
    assert "is loaded by AutoencoderKL.from_pretrained" in caplog.text


def test_every_type_of_the_format_arrives(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensors = {
        "scalar": torch.tensor(1.5),
        "none": torch.zeros(0, 3),
        "half": torch.randn(3, 5).half(),
        "brain": torch.randn(7).bfloat16(),
        "double": torch.randn(2, 2).double(),
        "whole": torch.arange(5),
        "byte": torch.arange(3, dtype=torch.uint8),
        "flags": torch.tensor([True, False, True]),
    }
    save_file(tensors, tmp_path / "all.safetensors")
    [read] = weights.read_together([tmp_path / "all.safetensors"], CPU)
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)


def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(AppError, match="has no model_index.json"):
        load(StableDiffusionXLPipeline, MODEL / "unet")
    with pytest.raises(AppError, match="has no model_index.json"):
        load(UNet2DConditionModel, tmp_path)
    with pytest.raises(AppError, match="is the folder of a pipeline; the weights of a UNet2D"):
        load(UNet2DConditionModel, MODEL)
    odd = tmp_path / "odd.safetensors"
    header = json.dumps({"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}).encode()
    odd.write_bytes(len(header).to_bytes(8, "little") + header + b"\0")
    with pytest.raises(AppError, match=r"odd.safetensors: a is of type F4"):
        weights.read_together([odd], CPU)
    short = tmp_path / "short.safetensors"
    shutil.copy(MODEL / "preview" / "diffusion_pytorch_model.safetensors", short)
    with short.open("r+b") as file:
        file.truncate(short.stat().st_size - 1000)
    with pytest.raises(AppError, match=r"short.safetensors is shorter than its header says"):
        weights.read_together([short], CPU)
