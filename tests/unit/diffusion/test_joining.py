"""Pictures are joined along their channels, laid out by pixels."""

import torch
from torch import Tensor, nn

from polyrank.diffusion.joining import join_channels_last


class Joins(nn.Module):
    def forward(self, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows = torch.cat([one, one], dim=2)
        return torch.cat([one, other], dim=1), rows, torch.cat([one[0, 0], one[0, 0]], dim=1)


def test_only_pictures_joined_by_channels_are_rewritten_and_nothing_changes() -> None:
    generator = torch.Generator().manual_seed(0)
    pictures = [torch.randn(2, channels, 4, 5, generator=generator) for channels in (3, 2)]
    exported = torch.export.export(Joins(), tuple(pictures), strict=False)
    expected = Joins()(*pictures)
    join_channels_last(exported.graph_module)
    found = exported.graph_module(*pictures)
    for one, other in zip(expected, found, strict=True):
        assert torch.equal(one, other)
    by_pixels = [each.is_contiguous(memory_format=torch.channels_last) for each in found[:2]]
    assert by_pixels == [True, False]
    assert not expected[0].is_contiguous(memory_format=torch.channels_last)
