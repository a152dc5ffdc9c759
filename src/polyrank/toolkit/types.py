"""URLs as field types: strings that were checked, and that know how to fetch what they lead to."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image as PILImage
from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from polyrank.toolkit import pictures
from polyrank.toolkit.file import File

MAX_DATA_URI_LENGTH = 10 * 2**20
MAX_HTTPS_URL_LENGTH = 2048


class _URL(str):
    """A string of one form, told to forms by its ``format``."""

    pattern: ClassVar[str]
    max_length: ClassVar[int]
    schema_format: ClassVar[str]
    says: ClassVar[str]

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        text = core_schema.str_schema(
            max_length=cls.max_length,
            strip_whitespace=True,
            metadata={"pydantic_js_updates": {"format": cls.schema_format}},
        )
        return core_schema.no_info_after_validator_function(cls._checked, text)

    @classmethod
    def _checked(cls, value: str) -> _URL:
        if re.match(cls.pattern, value, re.IGNORECASE) is None:
            raise ValueError(cls.says)
        return cls(value)

    @contextlib.contextmanager
    def as_temp_file(self) -> Iterator[Path]:
        """The file that the URL leads to, on disk inside the ``with`` block."""
        with tempfile.TemporaryDirectory(prefix="polyrank-url-") as folder:
            yield File(url=str(self)).save(Path(folder) / "file")


class HttpsUrl(_URL):
    """An https URL whose host is a name."""

    pattern = r"https://(?:[a-z0-9-]+\.)+[a-z]{2,}(?::\d{1,5})?(?:[/?#]\S*)?$"
    max_length = MAX_HTTPS_URL_LENGTH
    schema_format = "https-url"
    says = "must be an https URL"


class DataUri(_URL):
    """A data URI."""

    pattern = r"data:[^,]*,"
    max_length = MAX_DATA_URI_LENGTH
    schema_format = "data-uri"
    says = "must be a data URI"


class _Picture(_URL):
    """A URL that leads to a picture."""

    def to_pil(self) -> PILImage.Image:
        """The picture, upright, in RGB."""
        return pictures.decode(File(url=str(self)).as_bytes(), "RGB")


class ImageHttpsUrl(_Picture, HttpsUrl):
    """An https URL of a picture."""


class ImageDataUri(_Picture, DataUri):
    """A picture in a data URI."""


FileInput = HttpsUrl | DataUri
ImageInput = ImageHttpsUrl | ImageDataUri
