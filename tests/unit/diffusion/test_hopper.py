"""Operators of Hopper's kernels: on a CPU the formulas they stand for, in a core the same core."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.activations import GEGLU
from torch import Tensor

from polyrank.diffusion import hopper
from polyrank.diffusion.artifacts import Recipe
from polyrank.diffusion.cores import build, lend_weights

CPU = torch.device("cpu")


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def test_a_gated_product_is_the_layer_it_stands_for() -> None:
    layer = GEGLU(6, 10)
    batch = random(7, 6)
    with torch.no_grad():
        gated = hopper.gated_product(batch, layer.proj.weight, hopper.paired(layer.proj.bias))
        assert torch.allclose(gated, layer(batch), atol=1e-6)


def test_a_wide_product_is_a_linear_layer() -> None:
    batch, weight = random(7, 6), random(8, 6, seed=1)
    assert torch.allclose(hopper.wide_product(batch, weight), F.linear(batch, weight), atol=1e-6)


def test_a_convolution_of_a_bordered_picture_is_one_with_a_padding() -> None:
    pictures, weight, bias = random(2, 4, 3, 5), random(6, 4, 3, 3, seed=1), random(6, seed=2)
    expected = F.conv2d(pictures, weight, bias, padding=1).permute(0, 2, 3, 1)
    bordered = F.pad(pictures, (1, 1, 1, 1)).permute(0, 2, 3, 1)
    assert torch.allclose(hopper.convolution(bordered, weight, bias), expected, atol=1e-5)


@pytest.mark.parametrize("keys", [77, 12])
def test_attention_is_attention(keys: int) -> None:
    heads, half = 2, torch.bfloat16
    query = random(1, 12, heads * hopper.HEAD, dtype=half)
    key, value = (random(1, keys, heads * hopper.HEAD, seed=seed, dtype=half) for seed in (1, 2))
    split = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (query, key, value))
    expected = F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)
    found = hopper.attend(query, key, value, heads)
    assert found is not None and torch.equal(found, expected)


def test_other_heads_and_precisions_are_left_to_torch() -> None:
    wide = random(1, 4, 2 * hopper.HEAD)
    assert hopper.attend(wide, wide, wide, 2) is None  # float32
    narrow = random(1, 4, 80, dtype=torch.bfloat16)
    assert hopper.attend(narrow, narrow, narrow, 2) is None


def test_torch_checks_what_is_said_about_the_operators() -> None:
    """Shapes without data, no aliases, no gradients."""
    pairs = random(4, 3, 2, hopper.HEAD)
    for operator, arguments in (
        (hopper.gated_product, (random(7, 6), random(8, 6), random(8))),
        (hopper.wide_product, (random(7, 6), random(8, 6))),
        (hopper.attention, (pairs, pairs, pairs)),
        (hopper.convolution, (random(2, 5, 6, 4), random(3, 4, 3, 3), random(3))),
    ):
        torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor"))


def test_a_unet_with_the_kernels_is_the_unet(unet_core: Any) -> None:
    """Exported by the process that compiles, called with the weights of the one that serves."""
    core, inputs = unet_core
    with torch.no_grad():
        made = build("unet", dict(core.unet.config), core.added, hopper=True).eval()
        exported = torch.export.export(made, inputs, strict=False)
        signature = exported.graph_signature.input_specs
        names = [spec.target for spec in signature if spec.kind.name != "USER_INPUT"]
        found = exported.graph_module(*lend_weights(core, names), *inputs)[0]
        assert torch.allclose(found, core(*inputs), atol=1e-4)
    called = {node.target for node in exported.graph.nodes if node.op == "call_function"}
    assert torch.ops.polyrank.gated_product.default in called
    assert torch.ops.polyrank.wide_product.default in called
    assert any(name.endswith(f".{hopper.PAIRED}") for name in names)


def test_no_kernels_without_such_a_gpu() -> None:
    assert hopper.packages(CPU, torch.float16) == {}
    assert hopper.packages(torch.device("cuda"), torch.float32) == {}


def test_what_is_compiled_with_them_is_known_by_their_versions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def recipe(kind: str, version: str | None) -> Recipe:
        found = {} if version is None else dict.fromkeys(hopper.PACKAGES, version)
        monkeypatch.setattr(hopper, "packages", lambda *_: found)
        return Recipe.of(kind, {}, (), torch.float16, (torch.zeros(1),))

    recipes = [recipe("unet", version) for version in (None, "1", "2")]
    assert [each.on_hopper for each in recipes] == [False, True, True]
    assert len({each.key for each in recipes}) == 3
    assert not recipe("decoder", "1").on_hopper
