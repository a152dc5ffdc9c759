"""Files and pictures as apps receive and answer them, and what they keep and download."""

from __future__ import annotations

from pathlib import Path

from polyrank.toolkit import store
from polyrank.toolkit.audio import Audio, AudioField
from polyrank.toolkit.basemodel import FalBaseModel
from polyrank.toolkit.compilation import (
    get_gpu_type,
    load_inductor_cache,
    sync_inductor_cache,
    synchronized_inductor_cache,
)
from polyrank.toolkit.constraints import (
    ImageSizeConstraints,
    ImageValidationConfig,
    ImageValidationOptions,
    VideoNormalizationConfig,
    VideoValidationConfig,
    VideoValidationOptions,
    to_xfal,
)
from polyrank.toolkit.downloads import DownloadError, download_file, download_model_weights
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
from polyrank.toolkit.persistent import (
    data_path,
    model_weights_dir,
    persistent_dir,
    repository_dir,
)
from polyrank.toolkit.repositories import clone_repository
from polyrank.toolkit.store import FileStore
from polyrank.toolkit.video import Video, VideoField

__all__ = [
    "Audio",
    "AudioField",
    "CompressedFile",
    "DownloadError",
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
    "clone_repository",
    "data_path",
    "download_file",
    "download_model_weights",
    "get_gpu_type",
    "get_image_size",
    "load_inductor_cache",
    "persistent_dir",
    "store",
    "sync_inductor_cache",
    "synchronized_inductor_cache",
    "to_xfal",
]

# The reference platform's names of these folders. Which they are depends on who has started this
# process, so they are found when they are asked for.
_FOLDERS = {
    "FAL_PERSISTENT_DIR": persistent_dir,
    "FAL_MODEL_WEIGHTS_DIR": model_weights_dir,
    "FAL_REPOSITORY_DIR": repository_dir,
}


def __getattr__(name: str) -> Path:
    if name in _FOLDERS:
        return _FOLDERS[name]()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
