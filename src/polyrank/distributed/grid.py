"""A grid of JPEGs, put together from their bytes: each rank encodes its own picture.

A JPEG may say that its decoder starts afresh after every so many blocks (restart markers, ITU-T
T.81, B.2.1 and F.1.1.5). ``encode`` has that happen at the end of every row of blocks. The rows of
several pictures, one after the other, are then those of the picture that has them side by side. In
the same way threads encode the bands of one picture.
"""

from __future__ import annotations

import io
import math
import os
import re
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

QUALITY = 95
START_OF_FRAME, START_OF_SCAN = 0xC0, 0xDA
END_OF_IMAGE = b"\xff\xd9"
FIRST_RESTART, RESTARTS = 0xD0, 8
# Bytes of a restart, and of the end of an image.
RESTART = 2
BETWEEN_ROWS = re.compile(rb"\xff[\xd0-\xd7]")
# Sides of a block with colours at half the resolution, and with all of them.
HALVED, FULL = 16, 8
# Rows of pixels that a thread encodes: whole blocks.
BAND = 256


def encode(picture: Image, quality: int = QUALITY, *, index: bool = False) -> bytes:
    """A picture as a JPEG that ``join`` can take.

    With ``index`` the lengths of its rows of blocks are behind it, so that ``join`` does not have
    to look for them: a millisecond less for each megabyte.
    """
    # What goes into a grid has to consist of whole blocks.
    options: dict[str, Any] = {"quality": quality, "restart_marker_rows": 1}
    if picture.width % HALVED or picture.height % HALVED:
        options["subsampling"] = "4:4:4"
    colours = picture if picture.mode == "RGB" else picture.convert("RGB")
    if picture.height <= BAND:
        jpeg = _encode(colours, options)
        return jpeg + _index([_Tile.of(jpeg)]) if index else jpeg
    width, height = picture.size
    bands = [
        colours.crop((0, top, width, min(top + BAND, height))) for top in range(0, height, BAND)
    ]
    with ThreadPoolExecutor(len(bands)) as threads:
        tiles = list(threads.map(lambda band: _Tile.of(_encode(band, options)), bands))
    jpeg = _splice([[tile] for tile in tiles], width, height)
    return jpeg + _index(tiles) if index else jpeg


def join(pictures: Sequence[bytes | memoryview], quality: int = QUALITY) -> bytes:
    """What ``encode`` made of pictures of one size as one JPEG, in as many columns as rows or one
    more. What is left of the last row is black.

    Raises ValueError for pictures of different sizes. Sides that are no multiples of 8 are encoded
    again.
    """
    columns = _columns(len(pictures))
    tiles = [_Tile.of(each) for each in pictures]
    width, height = tiles[0].width, tiles[0].height
    if any((each.width, each.height) != (width, height) for each in tiles):
        sizes = ", ".join(f"{each.width}x{each.height}" for each in tiles)
        raise ValueError(f"a grid is of pictures of one size, not of {sizes}")
    if width % FULL or height % FULL:
        return _join_pixels(pictures, quality)
    if missing := -len(tiles) % columns:
        tiles += [_black(tiles[0], quality)] * missing
    rows = [tiles[first : first + columns] for first in range(0, len(tiles), columns)]
    return _splice(rows, columns * width, len(rows) * height)


def paste(pictures: Sequence[Image | None]) -> Image:
    """Pictures of one size side by side, in as many columns as rows or one more; None is black."""
    from PIL import Image

    first = next(picture for picture in pictures if picture is not None)
    if len(pictures) == 1:
        return first
    columns = _columns(len(pictures))
    rows = math.ceil(len(pictures) / columns)
    whole = Image.new("RGB", (columns * first.width, rows * first.height))
    for index, picture in enumerate(pictures):
        if picture is not None:
            row, column = divmod(index, columns)
            whole.paste(picture, (column * first.width, row * first.height))
    return whole


@dataclass(frozen=True)
class _Tile:
    """A JPEG in pieces: all that comes before the rows, and the rows."""

    header: bytes
    rows: list[memoryview]
    size_at: int

    @classmethod
    def of(cls, jpeg: bytes | memoryview) -> _Tile:
        jpeg, lengths = _without_index(memoryview(jpeg))
        at, size_at = 2, 0
        while jpeg[at + 1] != START_OF_SCAN:
            if jpeg[at + 1] == START_OF_FRAME:
                size_at = at + 5
            at += 2 + int.from_bytes(jpeg[at + 2 : at + 4])
        at += 2 + int.from_bytes(jpeg[at + 2 : at + 4])
        header = bytes(jpeg[:at])
        if not lengths:
            begins = [at, *(found.end() for found in BETWEEN_ROWS.finditer(jpeg, at))]
            ends = [*begins[1:], len(jpeg)]
            lengths = [end - begin - RESTART for begin, end in zip(begins, ends, strict=True)]
        rows = []
        for length in lengths:
            rows.append(jpeg[at : at + length])
            at += length + RESTART
        return cls(header, rows, size_at)

    @property
    def height(self) -> int:
        return int.from_bytes(self.header[self.size_at : self.size_at + 2])

    @property
    def width(self) -> int:
        return int.from_bytes(self.header[self.size_at + 2 : self.size_at + 4])

    def header_of(self, width: int, height: int) -> bytes:
        """The header for a picture of another size."""
        size = height.to_bytes(2) + width.to_bytes(2)
        return self.header[: self.size_at] + size + self.header[self.size_at + 4 :]


def _encode(picture: Image, options: dict[str, Any]) -> bytes:
    # Pillow lets other threads run while it writes to a file of the system's, and then only.
    with open(os.memfd_create("polyrank-jpeg"), "w+b") as file:
        picture.save(file, "JPEG", **options)
        file.seek(0)
        return file.read()


def _splice(tiles: Sequence[Sequence[_Tile]], width: int, height: int) -> bytes:
    """Rows of tiles as one JPEG of this size."""
    parts: list[bytes | memoryview] = [tiles[0][0].header_of(width, height)]
    for beside in tiles:
        for blocks in zip(*(tile.rows for tile in beside), strict=True):
            for each in blocks:
                parts += [each, _restart(len(parts) // 2)]
    return b"".join([*parts[:-1], END_OF_IMAGE])


def _restart(number: int) -> bytes:
    return bytes([0xFF, FIRST_RESTART + number % RESTARTS])


def _index(tiles: Sequence[_Tile]) -> bytes:
    """The lengths of all rows, and how many there are, in 4 bytes each."""
    lengths = [len(row) for tile in tiles for row in tile.rows]
    return struct.pack(f"<{len(lengths) + 1}I", *lengths, len(lengths))


def _without_index(jpeg: memoryview) -> tuple[memoryview, Sequence[int]]:
    """A JPEG, and what its index says if it has one."""
    if jpeg[-len(END_OF_IMAGE) :] == END_OF_IMAGE:
        return jpeg, ()
    count = int.from_bytes(jpeg[-4:], "little")
    end = len(jpeg) - 4 * (count + 1)
    return jpeg[:end], struct.unpack_from(f"<{count}I", jpeg, end)


def _black(like: _Tile, quality: int) -> _Tile:
    """A black picture of the same size: one row of blocks, again and again."""
    from PIL import Image

    row = Image.new("RGB", (like.width, like.height // len(like.rows)))
    black = _Tile.of(encode(row, quality))
    return replace(black, rows=black.rows * len(like.rows))


def _join_pixels(pictures: Sequence[bytes | memoryview], quality: int) -> bytes:
    from PIL import Image

    jpegs = (_without_index(memoryview(each))[0] for each in pictures)
    return encode(paste([Image.open(io.BytesIO(each)) for each in jpegs]), quality)


def _columns(count: int) -> int:
    return math.ceil(math.sqrt(count))
