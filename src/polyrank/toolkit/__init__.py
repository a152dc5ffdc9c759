"""Files and pictures as apps receive and answer them."""

from polyrank.toolkit.file import File
from polyrank.toolkit.image import Image, ImageSize, ImageSizeInput, get_image_size
from polyrank.toolkit.media import Audio, Video

__all__ = [
    "Audio",
    "File",
    "Image",
    "ImageSize",
    "ImageSizeInput",
    "Video",
    "get_image_size",
]
