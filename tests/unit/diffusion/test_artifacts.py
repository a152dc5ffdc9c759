"""Compiled code is found by what it was made from."""

import dataclasses
import os
import threading
from pathlib import Path
from typing import Any

import grimp
import pytest
import torch
from diffusers import AutoencoderTiny

from polyrank.diffusion import artifacts, hopper
from polyrank.diffusion.accelerated import Compiler, load_compiled
from polyrank.diffusion.artifacts import CODE_FILES, ArtifactCache, Recipe
from polyrank.diffusion.cores import fast_preview

LATENTS = torch.zeros(1, 4, 8, 8)


def recipe(**changes: Any) -> Recipe:
    made = Recipe.of("preview", {"act_fn": "relu"}, (), torch.float32, (LATENTS,))
    return dataclasses.replace(made, **changes)


def test_the_same_recipe_has_the_same_key_and_another_another() -> None:
    assert recipe().key == recipe().key
    others = [
        recipe(config={"act_fn": "silu"}),
        recipe(dtype="float16"),
        recipe(inputs=[([1, 4, 16, 16], "float32")]),
        recipe(device="cuda:1"),
        recipe(versions={**recipe().versions, "torch": "0"}),
    ]
    assert len({each.key for each in [recipe(), *others]}) == 6


def test_where_a_model_was_loaded_from_does_not_matter() -> None:
    one = Recipe.of("unet", {"a": 1, "_name_or_path": "here"}, (), torch.float16, (LATENTS,))
    other = Recipe.of("unet", {"a": 1, "_name_or_path": "there"}, (), torch.float16, (LATENTS,))
    assert one.key == other.key


def test_all_that_the_compiler_imports_is_part_of_the_key() -> None:
    graph = grimp.build_graph("polyrank", cache_dir=None)
    compiler = "polyrank.diffusion.compile"
    modules = {compiler, *graph.find_upstream_modules(compiler)} - {artifacts.__name__}
    here = [each.split(".")[2] for each in modules if each.startswith("polyrank.diffusion.")]
    assert sorted(f"{name}.py" for name in here) == sorted(CODE_FILES)


def test_an_artifact_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path)
    with pytest.raises(KeyError), cache.making(recipe()) as folder:
        assert folder is not None
        folder.mkdir()
        raise KeyError
    assert not cache.path(recipe()).exists()
    with cache.making(recipe()) as folder:
        assert folder is not None
        folder.mkdir()
    assert cache.path(recipe()).is_dir()
    with cache.making(recipe()) as folder:
        assert folder is None


def test_who_wants_the_same_artifact_waits_for_it(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path)
    got: list[Path | None] = []

    def want() -> None:
        with ArtifactCache(tmp_path).making(recipe()) as folder:
            got.append(folder)

    with cache.making(recipe()) as folder:
        assert folder is not None
        folder.mkdir()
        thread = threading.Thread(target=want)
        thread.start()
    thread.join(30)
    assert got == [None]


def test_a_compiler_that_fails_is_told_and_nothing_else_happens(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    compiler = Compiler.in_folder(tmp_path)
    compiler.request(recipe(config={"encoder_block_out_channels": "none"}), lambda path: 1 / 0)
    assert compiler.wait(60)
    assert "the preview could not be compiled and stays as it is" in caplog.text
    assert "TypeError: not all arguments converted" in caplog.text
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_kernels_that_do_not_work_are_gone_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """There is no such GPU here, so they do not."""
    versions = {**recipe().versions, **dict.fromkeys(hopper.PACKAGES, "1")}
    wanted = recipe(versions=versions)
    assert wanted.without_kernels() == recipe()
    cache = ArtifactCache(tmp_path)
    for each in (wanted, recipe()):
        cache.path(each).mkdir()
    ready: list[Path] = []
    compiler = Compiler(cache)
    compiler.request(wanted, ready.append)
    assert compiler.wait(60)
    assert ready == [cache.path(recipe())]
    assert "the preview goes without the kernels of polyrank[hopper]" in caplog.text


def test_a_closed_compiler_leaves_no_process(tmp_path: Path) -> None:
    compiler = Compiler.in_folder(tmp_path)
    compiler.request(recipe(), lambda path: None)
    compiler.close()
    assert all(process.poll() is not None for process in compiler._processes)
    assert os.listdir(tmp_path) in ([], [f"{ArtifactCache(tmp_path).path(recipe()).name}.lock"])


def test_compiled_code_uses_the_weights_of_the_core_that_loads_it(tmp_path: Path) -> None:
    """The whole way, on the CPU: recipe, another process, artifact, code."""
    shape: dict[str, Any] = {
        "encoder_block_out_channels": (8,),
        "decoder_block_out_channels": (8,),
        "num_encoder_blocks": (1,),
        "num_decoder_blocks": (1,),
    }
    torch.manual_seed(0)
    vae = AutoencoderTiny(**shape)
    core = fast_preview(vae)
    latents = torch.randn(1, 4, 8, 8)
    made = Recipe.of("preview", dict(vae.config), (), torch.float32, (latents,))
    ready: list[Path] = []
    compiler = Compiler.in_folder(tmp_path)
    compiler.request(made, ready.append)
    assert compiler.wait(100) and len(ready) == 1
    with torch.no_grad():
        expected = core(latents).int()
        assert expected.float().std() > 1
        for found in range(2):
            difference = load_compiled(ready[0], core)(latents).int() - expected
            assert difference.abs().max() <= 1, found
