"""Pictures as bytes, and back: what each format can hold, and what becomes of the rest."""

from __future__ import annotations

import io
from typing import Any, NamedTuple

from PIL import Image, ImageOps

from polyrank.toolkit.exceptions import UnreadablePicture

# Modes that a format holds as they are; other modes are converted first.
HELD = {
    "png": {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"},
    "jpeg": {"1", "L", "RGB", "CMYK"},
    "webp": {"RGB", "RGBA"},
    "gif": {"1", "L", "P", "RGB", "RGBA"},
}
FORMATS = tuple(HELD)
# Quick rather than small: a server's time is dearer than the last tenth of a file.
OPTIONS: dict[str, dict[str, Any]] = {"png": {"compress_level": 1}, "jpeg": {"quality": 95}}

# Modes that Pillow converts to one other only, or best.
ONLY_TO = {"F": "L", "La": "LA", "RGBa": "RGBA"}
SIXTEEN_BIT = ("I", "I;16", "I;16L", "I;16B", "I;16N")


class Described(NamedTuple):
    """What a picture's first bytes tell; width and height as stored, before any rotation."""

    content_type: str
    width: int
    height: int


def encode(picture: Image.Image, format: str, quality: int | None = None) -> bytes:
    """The picture in a format of ``FORMATS``.

    JPEG lays what is transparent on white. 16-bit grey stays so in PNG and loses its lower eight
    bits elsewhere. Modes that no format holds (float, HSV, …) become 8-bit grey or RGB.
    """
    options = OPTIONS.get(format, {})
    if quality is not None and format != "png":
        options = {**options, "quality": quality}
    buffer = io.BytesIO()
    _fitting(picture, format).save(buffer, format=format, **options)
    return buffer.getvalue()


def decode(data: bytes, mode: str | None) -> Image.Image:
    """The picture, turned as its EXIF orientation says, converted to ``mode`` unless that is None.

    16-bit grey is scaled to eight bits, not cut off at 255. Raises UnreadablePicture.
    """
    try:
        with Image.open(io.BytesIO(data)) as opened:
            picture = ImageOps.exif_transpose(opened)
    except Exception as error:  # decoders raise anything on broken bytes
        raise UnreadablePicture(f"not a picture that can be read: {error}") from error
    return picture if mode is None else _converted(picture, mode)


def describe(data: bytes) -> Described | None:
    """What kind of picture these bytes are, without decoding it; None if they are none."""
    try:
        with Image.open(io.BytesIO(data)) as opened:
            content_type = Image.MIME.get(opened.format or "", f"image/{opened.format}".lower())
            return Described(content_type, opened.width, opened.height)
    except Exception:  # as in decode
        return None


def _fitting(picture: Image.Image, format: str) -> Image.Image:
    """The picture in a mode that the format holds."""
    held = HELD[format]
    if picture.mode in held:
        return picture
    if picture.mode in SIXTEEN_BIT:
        if "I;16" in held:
            return picture.convert("I").convert("I;16")
        return _fitting(_eight_bits(picture), format)
    if picture.mode in ONLY_TO:
        return _fitting(picture.convert(ONLY_TO[picture.mode]), format)
    if picture.has_transparency_data:
        with_alpha = picture.convert("RGBA")
        return with_alpha if "RGBA" in held else _on_white(with_alpha)
    fitting = picture.convert("L" if picture.mode == "L" and "L" in held else "RGB")
    if picture.mode in ("CMYK", "LAB"):
        fitting.info.pop("icc_profile", None)  # it describes colours that are no longer there
    return fitting


def _converted(picture: Image.Image, mode: str) -> Image.Image:
    if picture.mode in SIXTEEN_BIT and mode not in (*SIXTEEN_BIT, "F"):
        picture = _eight_bits(picture)
    if picture.mode == "P" and "transparency" in picture.info and mode != "P":
        picture = picture.convert("RGBA")
    return picture if picture.mode == mode else picture.convert(mode)


def _eight_bits(picture: Image.Image) -> Image.Image:
    return picture.convert("I").point([value >> 8 for value in range(2**16)], "L")


def _on_white(picture: Image.Image) -> Image.Image:
    ground = Image.new("RGBA", picture.size, "white")
    ground.alpha_composite(picture)
    return ground.convert("RGB")
