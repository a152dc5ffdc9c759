"""JPEGs are put into a grid without being decoded."""

import io
import math

import numpy as np
import pytest
from PIL import Image

from polyrank.distributed import grid


def picture(number: int, width: int, height: int) -> Image.Image:
    """Smooth colours that differ from picture to picture, with some noise on them."""
    random = np.random.default_rng(number)
    small = Image.fromarray(random.integers(0, 256, (4, 4, 3), np.uint8))
    smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    noise = random.integers(-20, 20, (height, width, 3))
    return Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8))


def decoded(jpeg: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg)), np.int16)


def pasted(tiles: list[np.ndarray], columns: int) -> np.ndarray:
    """The tiles in rows, black where there is none."""
    tiles = tiles + [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[at : at + columns]) for at in range(0, len(tiles), columns)]
    return np.vstack(rows)


# A tile of 72x40 has all its colours, one of 64x48 half of them: there, decoders take the colours
# of a pixel from those around it, across the border too.
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize(("width", "height", "border"), [(72, 40, 0), (8, 8, 0), (64, 48, 1)])
def test_a_grid_has_the_pixels_of_its_pictures(
    count: int, width: int, height: int, border: int
) -> None:
    pictures = [picture(number, width, height) for number in range(count)]
    jpegs = [grid.encode(each) for each in pictures]
    columns = math.ceil(math.sqrt(count))
    joined = grid.join(jpegs)
    assert joined == grid.join([grid.encode(each, index=True) for each in pictures])
    found = decoded(joined)
    expected = pasted([decoded(each) for each in jpegs], columns)
    assert found.shape == expected.shape
    for top in range(0, len(found), height):
        for left in range(0, columns * width, width):
            inside = (
                slice(top + border, top + height - border),
                slice(left + border, left + width - border),
            )
            assert np.array_equal(found[inside], expected[inside]), (top, left)


@pytest.mark.parametrize("size", [(64, 256), (64, 257), (64, 600), (50, 530), (1024, 1024)])
def test_a_picture_in_bands_is_the_picture_to_the_byte(size: tuple[int, int]) -> None:
    whole, file = picture(0, *size), io.BytesIO()
    colours = "4:2:0" if size[0] % 16 == size[1] % 16 == 0 else "4:4:4"
    whole.save(file, "JPEG", quality=90, restart_marker_rows=1, subsampling=colours)
    assert grid.encode(whole, 90) == file.getvalue()


@pytest.mark.parametrize("index", [False, True])
def test_sides_that_are_not_whole_blocks_are_encoded_again(index: bool) -> None:
    tiles = [picture(number, 50, 30) for number in range(3)]
    found = decoded(grid.join([grid.encode(each, index=index) for each in tiles]))
    expected = pasted([np.asarray(each, np.int16) for each in tiles], 2)
    assert found.shape == (60, 100, 3)
    assert np.abs(found - expected).mean() < 6


def test_any_mode_of_picture_will_do() -> None:
    tiles = [picture(0, 16, 16).convert(mode) for mode in ("RGBA", "L", "P", "RGB")]
    assert decoded(grid.join([grid.encode(each) for each in tiles])).shape == (32, 32, 3)


def test_pictures_of_different_sizes_are_refused() -> None:
    jpegs = [grid.encode(picture(0, 16, 16)), grid.encode(picture(0, 16, 24))]
    with pytest.raises(ValueError, match="of one size, not of 16x16, 16x24"):
        grid.join(jpegs)
