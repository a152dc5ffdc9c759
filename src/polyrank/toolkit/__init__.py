"""Files and pictures as apps receive and answer them."""

from polyrank.toolkit import store
from polyrank.toolkit.audio import Audio, AudioField
from polyrank.toolkit.basemodel import FalBaseModel
from polyrank.toolkit.constraints import (
    ImageSizeConstraints,
    ImageValidationConfig,
    ImageValidationOptions,
    VideoNormalizationConfig,
    VideoValidationConfig,
    VideoValidationOptions,
    to_xfal,
)
from polyrank.toolkit.exceptions import FalTookitException, FileUploadException, KVStoreException
from polyrank.toolkit.fields import Field, Hidden
from polyrank.toolkit.file import CompressedFile, File, FileField
from polyrank.toolkit.image import (
    Image,
    ImageField,
    ImageSize,
    ImageSizeField,
    ImageSizeInput,
    get_image_size,
)
from polyrank.toolkit.kv import KVStore
from polyrank.toolkit.store import FileStore
from polyrank.toolkit.video import Video, VideoField

__all__ = [
    "Audio",
    "AudioField",
    "CompressedFile",
    "FalBaseModel",
    "FalTookitException",
    "Field",
    "File",
    "FileField",
    "FileStore",
    "FileUploadException",
    "Hidden",
    "Image",
    "ImageField",
    "ImageSize",
    "ImageSizeConstraints",
    "ImageSizeField",
    "ImageSizeInput",
    "ImageValidationConfig",
    "ImageValidationOptions",
    "KVStore",
    "KVStoreException",
    "Video",
    "VideoField",
    "VideoNormalizationConfig",
    "VideoValidationConfig",
    "VideoValidationOptions",
    "get_image_size",
    "store",
    "to_xfal",
]
