"""What blocks read of the time is one product; the UNet's answer stays."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from polyrank.diffusion.timesteps import TimeProjection, fuse_times


def answer(unet: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    added = {
        "text_embeds": torch.randn(2, 128, generator=generator),
        "time_ids": torch.full((2, 6), 128.0),
    }
    sample = torch.randn(2, 4, 16, 16, generator=generator)
    text = torch.randn(2, 32, 256, generator=generator)
    with torch.no_grad():
        found: torch.Tensor = unet(sample, 500, text, added_cond_kwargs=added, return_dict=False)[0]
    return found


def test_a_unet_gives_the_same_with_fewer_products(
    pipeline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    products: list[torch.Tensor] = []
    stock = F.linear
    monkeypatch.setattr(F, "linear", lambda *args: products.append(args[0]) or stock(*args))
    unet = pipeline.unet
    names = set(unet.state_dict())
    blocks = sum(name.endswith("time_emb_proj.weight") for name in names)
    expected, before = answer(unet), len(products)
    products.clear()
    fuse_times(unet)
    assert torch.allclose(answer(unet), expected, atol=1e-4)
    assert blocks > 5
    assert len(products) == before - blocks + 1
    own = {"time_embed_act.linear.weight", "time_embed_act.linear.bias"}
    assert set(unet.state_dict()) == names | own


def test_the_weights_are_shared(pipeline: Any) -> None:
    unet = pipeline.unet
    fuse_times(unet)
    block = unet.down_blocks[0].resnets[0]
    with torch.no_grad():
        before = answer(unet)
        block.time_emb_proj.weight.zero_()
        block.time_emb_proj.bias.zero_()
    assert isinstance(unet.time_embed_act, TimeProjection)
    assert not torch.equal(answer(unet), before)


def test_a_unet_of_other_blocks_is_left_alone(pipeline: Any) -> None:
    unet = pipeline.unet
    unet.down_blocks[0].resnets[0].nonlinearity = nn.GELU()
    expected = answer(unet)
    fuse_times(unet)
    assert unet.time_embed_act is None and torch.equal(answer(unet), expected)
