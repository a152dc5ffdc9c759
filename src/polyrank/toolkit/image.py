"""Pictures in an endpoint's input or answer, and the sizes they come in."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, Literal, Self, Unpack

from PIL import Image as PILImage
from pydantic import BaseModel, ConfigDict, Field

from polyrank.errors import InvalidInput
from polyrank.toolkit import pictures, urls
from polyrank.toolkit.constraints import ImageSizeConstraints, schema_of
from polyrank.toolkit.fields import field_with, shown_as
from polyrank.toolkit.file import File, PlatformOptions
from polyrank.toolkit.store import FileStore, RepositoryId

__all__ = [
    "IMAGE_SIZE_PRESETS",
    "File",
    "Image",
    "ImageField",
    "ImageFormat",
    "ImageSize",
    "ImageSizeField",
    "ImageSizeInput",
    "ImageSizePreset",
    "get_image_size",
    "read_image_from_url",
]

ImageFormat = Literal["png", "jpeg", "jpg", "webp", "gif"]
SAME = {"jpg": "jpeg", "mpo": "jpeg"}


class ImageSize(BaseModel):
    """Width and height in pixels."""

    width: int = Field(default=512, gt=0, le=14142)
    height: int = Field(default=512, gt=0, le=14142)


ImageSizePreset = Literal[
    "square_hd", "square", "portrait_4_3", "portrait_16_9", "landscape_4_3", "landscape_16_9"
]
ImageSizeInput = ImageSize | ImageSizePreset

IMAGE_SIZE_PRESETS: dict[str, ImageSize] = {
    "square_hd": ImageSize(width=1024, height=1024),
    "square": ImageSize(width=512, height=512),
    "portrait_4_3": ImageSize(width=768, height=1024),
    "portrait_16_9": ImageSize(width=576, height=1024),
    "landscape_4_3": ImageSize(width=1024, height=768),
    "landscape_16_9": ImageSize(width=1024, height=576),
}


def get_image_size(source: ImageSizeInput) -> ImageSize:
    """The size that a preset's name stands for; a size is itself."""
    if isinstance(source, ImageSize):
        return source
    if source not in IMAGE_SIZE_PRESETS:
        known = ", ".join(IMAGE_SIZE_PRESETS)
        raise InvalidInput(f"no image size {source!r}; a width and height, or one of {known}")
    return IMAGE_SIZE_PRESETS[source].model_copy()


def ImageField(*args: Any, **kwargs: Any) -> Any:
    """A ``Field`` that forms show as a picture."""
    return field_with(shown_as("image"), *args, **kwargs)


def ImageSizeField(
    *args: Any, constraints: ImageSizeConstraints | None = None, **kwargs: Any
) -> Any:
    """A ``Field`` for an ``ImageSizeInput``, with the limits its schema tells."""
    return field_with(schema_of(constraints), *args, **kwargs)


class Image(File):
    """A picture: a file with a width and a height.

    Example: ``Image.from_pil(picture, format="jpeg")``.
    """

    model_config = ConfigDict(json_schema_extra=shown_as("image"))

    width: int | None = Field(default=None, description="In pixels", examples=[1024])
    height: int | None = Field(default=None, description="In pixels", examples=[1024])

    @classmethod
    def from_bytes(  # type: ignore[override]  # the reference's order of arguments
        cls,
        data: bytes,
        format: str | None = None,
        size: ImageSize | None = None,
        file_name: str | None = None,
        repository: FileStore | RepositoryId | None = None,
        **platform: Unpack[PlatformOptions],
    ) -> Self:
        """A picture that is encoded already; format and size are read from it if not given."""
        content_type, size = _described(data, format, size)
        image = super().from_bytes(data, content_type, file_name, repository, **platform)
        return image._of_size(size)

    @classmethod
    async def from_bytes_async(  # type: ignore[override]  # as above
        cls,
        data: bytes,
        format: str | None = None,
        size: ImageSize | None = None,
        file_name: str | None = None,
        repository: FileStore | RepositoryId | None = None,
        **platform: Unpack[PlatformOptions],
    ) -> Self:
        """``from_bytes`` without blocking the event loop."""
        content_type, size = _described(data, format, size)
        image = await super().from_bytes_async(
            data, content_type, file_name, repository, **platform
        )
        return image._of_size(size)

    @classmethod
    def from_pil(
        cls,
        pil_image: PILImage.Image,
        format: str | None = None,
        file_name: str | None = None,
        repository: FileStore | RepositoryId | None = None,
        *,
        quality: int | None = None,
        **platform: Unpack[PlatformOptions],
    ) -> Self:
        """The picture as a file: in ``format``, or the one it was read from, or PNG.

        ``quality`` is that of JPEG (95 if not given) and WebP. See ``pictures.encode`` for what
        becomes of modes that a format cannot hold.
        """
        name = _format_of(pil_image, format)
        data = pictures.encode(pil_image, name, quality)
        size = ImageSize.model_construct(width=pil_image.width, height=pil_image.height)
        return cls.from_bytes(data, name, size, file_name, repository, **platform)

    def to_pil(self, mode: str | None = "RGB") -> PILImage.Image:
        """The picture, upright, converted to ``mode`` or, with None, as it is.

        ``RGB`` drops an alpha channel; ask for ``RGBA`` to keep it.
        """
        return pictures.decode(self.as_bytes(), mode)

    async def to_pil_async(self, mode: str | None = "RGB") -> PILImage.Image:
        """``to_pil`` without blocking the event loop."""
        return await asyncio.to_thread(pictures.decode, await self.as_bytes_async(), mode)

    def _of_size(self, size: ImageSize | None) -> Self:
        if size is not None:
            self.width, self.height = size.width, size.height
        return self


def read_image_from_url(
    url: str, convert_to_rgb: bool = True, max_size: int | None = None
) -> PILImage.Image:
    """The picture at a URL or in a data URI, upright."""
    policy = urls.current_policy()
    if max_size is not None:
        policy = replace(policy, max_bytes=max_size)
    return pictures.decode(urls.open_url(url, policy).data, "RGB" if convert_to_rgb else None)


def _format_of(picture: PILImage.Image, format: str | None) -> str:
    if format is None:
        read_from = (picture.format or "png").lower()
        read_from = SAME.get(read_from, read_from)
        return read_from if read_from in pictures.FORMATS else "png"
    name = format.lower()
    name = SAME.get(name, name)
    if name not in pictures.FORMATS:
        raise ValueError(f"no picture format {format!r}; one of {', '.join(pictures.FORMATS)}")
    return name


def _described(
    data: bytes, format: str | None, size: ImageSize | None
) -> tuple[str | None, ImageSize | None]:
    """Content type and size: what was said, and what the bytes tell where nothing was."""
    found = pictures.describe(data) if format is None or size is None else None
    content_type = found.content_type if found else None
    if format is not None:
        name = format.lower().removeprefix("image/")
        content_type = f"image/{SAME.get(name, name)}"
    if size is None and found is not None:
        size = ImageSize.model_construct(width=found.width, height=found.height)
    return content_type, size
