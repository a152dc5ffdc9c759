"""Pictures in an endpoint's input or answer, and the sizes they come in."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, Field

from polyrank.toolkit.file import File

if TYPE_CHECKING:
    from PIL import Image as PILImage

ImageFormat = Literal["png", "jpeg", "jpg", "webp", "gif"]


class ImageSize(BaseModel):
    """Width and height in pixels."""

    width: int = Field(default=512, gt=0, le=14142)
    height: int = Field(default=512, gt=0, le=14142)


ImageSizePreset = Literal[
    "square_hd", "square", "portrait_4_3", "portrait_16_9", "landscape_4_3", "landscape_16_9"
]
ImageSizeInput = ImageSize | ImageSizePreset

PRESETS: dict[str, ImageSize] = {
    "square_hd": ImageSize(width=1024, height=1024),
    "square": ImageSize(width=512, height=512),
    "portrait_4_3": ImageSize(width=768, height=1024),
    "portrait_16_9": ImageSize(width=576, height=1024),
    "landscape_4_3": ImageSize(width=1024, height=768),
    "landscape_16_9": ImageSize(width=1024, height=576),
}


def get_image_size(source: ImageSizeInput) -> ImageSize:
    """The size that a preset's name stands for; a size is itself."""
    return source if isinstance(source, ImageSize) else PRESETS[source]


class Image(File):
    """A picture: a file with a width and a height.

    Example: ``Image.from_pil(picture, format="jpeg")``.
    """

    width: int | None = Field(default=None, description="In pixels")
    height: int | None = Field(default=None, description="In pixels")

    @classmethod
    def from_pil(
        cls,
        pil_image: PILImage.Image,
        format: ImageFormat | None = None,
        *,
        file_name: str | None = None,
        quality: int | None = None,
        **_: Any,
    ) -> Self:
        """A picture in the given format, PNG unless said otherwise; JPEG is laid on white."""
        name = {"jpg": "jpeg", None: "png"}.get(format, format) or "png"
        if name == "jpeg" and pil_image.mode not in ("RGB", "L", "CMYK"):
            pil_image = _on_white(pil_image)
        options: dict[str, Any] = {"compress_level": 1} if name == "png" else {}
        if quality is not None or name == "jpeg":
            options["quality"] = quality or 95
        buffer = io.BytesIO()
        pil_image.save(buffer, format=name, **options)
        return cls.from_bytes(
            buffer.getvalue(),
            f"image/{name}",
            file_name,
            width=pil_image.width,
            height=pil_image.height,
        )

    def to_pil(self, mode: str | None = "RGB") -> PILImage.Image:
        """The picture, converted to ``mode``, or as it is with None."""
        from PIL import Image as PILImage

        picture = PILImage.open(io.BytesIO(self.as_bytes()))
        return picture.convert(mode) if mode is not None and picture.mode != mode else picture


def _on_white(picture: PILImage.Image) -> PILImage.Image:
    from PIL import Image as PILImage

    with_alpha = picture.convert("RGBA")
    ground = PILImage.new("RGBA", picture.size, "white")
    ground.alpha_composite(with_alpha)
    return ground.convert("RGB")
