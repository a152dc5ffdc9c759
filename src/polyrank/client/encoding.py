"""Small files as data URIs, which go inside the arguments of a call."""

from __future__ import annotations

import base64
import io
import mimetypes
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

ANY_BYTES = "application/octet-stream"


def encode(data: str | bytes, content_type: str) -> str:
    """``data`` as a data URI."""
    raw = data.encode() if isinstance(data, str) else data
    return f"data:{content_type};base64,{base64.b64encode(raw).decode()}"


def encode_file(path: str | os.PathLike[str]) -> str:
    """A file as a data URI, of the type that its name says."""
    return encode(Path(path).read_bytes(), type_of(path))


def encode_image(image: Image, format: str = "jpeg") -> str:
    """A Pillow image as a data URI."""
    return encode(image_bytes(image, format), f"image/{format}")


def image_bytes(image: Image, format: str) -> bytes:
    """A Pillow image as a file."""
    buffer = io.BytesIO()
    image.save(buffer, format=format)
    return buffer.getvalue()


def type_of(path: str | os.PathLike[str]) -> str:
    """The content type that a file's name says."""
    return mimetypes.guess_type(path)[0] or ANY_BYTES
