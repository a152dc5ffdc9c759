"""Blocks are chosen as they were measured to be fastest."""

import pytest

from polyrank.diffusion.blocks import CONVOLUTIONS, PRODUCTS, Block, fitting, tile_of

H200 = 132


# On an H200 the first takes 9.9 us with blocks of 128x128 and more than 10.7 with 128x160, the
# second 16.3 and more than 17.8, 2048x1920 9.8 and 11.0, 512x10240, which is gated, 24.6 and 23.1.
@pytest.mark.parametrize(
    ("rows", "columns", "width"),
    [
        (512, 3840, 128),
        (1024, 3840, 128),
        (2048, 3840, 160),
        (2048, 1920, 128),
        (8192, 1920, 160),
        (512, 10240, 160),
        (2048, 10240, 160),
    ],
)
def test_products(rows: int, columns: int, width: int) -> None:
    assert fitting(PRODUCTS, rows, columns, H200) == Block(128, width)


# Pictures, height, width and channels: SDXL's levels with guidance on one GPU, on two, and four.
@pytest.mark.parametrize(
    ("places", "channels", "size"),
    [
        (2 * 128 * 128, 320, (128, 160)),
        (2 * 64 * 64, 640, (128, 160)),
        (2 * 32 * 32, 1280, (128, 160)),
        (128 * 128, 320, (128, 160)),
        (64 * 64, 640, (128, 160)),
        (32 * 32, 1280, (128, 80)),
        (64 * 128, 320, (128, 160)),
        (32 * 64, 640, (128, 80)),
        (16 * 32, 1280, (64, 80)),
    ],
)
def test_convolutions(places: int, channels: int, size: tuple[int, int]) -> None:
    block = fitting(CONVOLUTIONS, places, channels, H200)
    assert (block.rows, block.columns) == size


# The fastest of ten, or within 1 % of it, on an H200.
@pytest.mark.parametrize(
    ("queries", "keys", "heads", "tile"),
    [
        (1024, 1024, 20, (192, 128)),
        (512, 1024, 20, (128, 128)),
        (256, 1024, 20, (64, 128)),
        (4096, 4096, 10, (192, 128)),
        (2048, 4096, 10, (192, 128)),
        (1024, 4096, 10, (128, 128)),
        (512, 77, 20, (128, 80)),
        (1024, 77, 20, (192, 80)),
        (2048, 77, 10, (192, 80)),
        (4096, 77, 10, (192, 80)),
    ],
)
def test_attention(queries: int, keys: int, heads: int, tile: tuple[int, int]) -> None:
    assert tile_of(queries, keys, heads, H200) == tile


def test_what_one_processor_has_to_do_counts_not_how_much_there_is() -> None:
    wide, narrow = Block(128, 160), Block(128, 128)
    assert fitting((wide, narrow), 128, 160, 2) == narrow  # two processors, a block each
    assert fitting((wide, narrow), 128, 160, 1) == wide
