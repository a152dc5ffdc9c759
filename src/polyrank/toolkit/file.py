"""A file as an app receives or answers it: a URL, and what is known about what is behind it."""

from __future__ import annotations

import asyncio
import mimetypes
import re
import shutil
import tempfile
import uuid
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Self, TypedDict, Unpack

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from polyrank.toolkit import archive, datauri, store, urls
from polyrank.toolkit.fields import field_with, shown_as
from polyrank.toolkit.store import FileStore, RepositoryId

DEFAULT_TYPE = "application/octet-stream"
# What may stand in a header, and so be a content type.
_HEADER = re.compile(r"[\x20-\x7e]+")
URL_SCHEMES = ("http://", "https://", "data:")


class PlatformOptions(TypedDict, total=False):
    """Arguments of the reference platform's uploads: accepted, and without effect here."""

    fallback_repository: Any
    request: Any
    save_kwargs: Any
    fallback_save_kwargs: Any
    multipart: Any


def FileField(*args: Any, **kwargs: Any) -> Any:
    """A ``Field`` that forms show as a file."""
    return field_with(shown_as("file"), *args, **kwargs)


class File(BaseModel):
    """A file in an endpoint's input or answer.

    In input, a bare URL or data URI stands for a file. A file made here goes to the store in use
    (``polyrank.toolkit.store``) or to the one that ``repository`` names.

    Example: ``File.from_bytes(b"a,b\\n", file_name="table.csv")``.
    """

    model_config = ConfigDict(extra="ignore", json_schema_extra=shown_as("file"))

    url: str = Field(description="Where the file is: an http(s) URL or a data URI")
    content_type: str | None = Field(default=None, examples=["image/png"])
    file_name: str | None = Field(default=None, examples=["picture.png"])
    file_size: int | None = Field(default=None, description="In bytes", examples=[4404019])

    # The bytes of a file made here, unless its URL carries them.
    _data: bytes | None = PrivateAttr(default=None)

    @model_validator(mode="before")
    @classmethod
    def _from_url(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        url = value.strip()
        if not url[:8].lower().startswith(URL_SCHEMES):
            raise ValueError("must be an http(s) URL or a data URI")
        return {"url": url}

    @classmethod
    def from_bytes(
        cls,
        data: bytes,
        content_type: str | None = None,
        file_name: str | None = None,
        repository: FileStore | RepositoryId | None = None,
        **platform: Unpack[PlatformOptions],
    ) -> Self:
        """A file with these bytes; name and content type are filled in where they are missing."""
        _check_options(platform)
        content_type, file_name = _described(content_type, file_name)
        url = store.choose(repository).save(data, content_type, file_name)
        return cls._made(url, data, content_type, file_name)

    @classmethod
    async def from_bytes_async(
        cls,
        data: bytes,
        content_type: str | None = None,
        file_name: str | None = None,
        repository: FileStore | RepositoryId | None = None,
        **platform: Unpack[PlatformOptions],
    ) -> Self:
        """``from_bytes`` without blocking the event loop."""
        _check_options(platform)
        content_type, file_name = _described(content_type, file_name)
        url = await store.choose(repository).save_async(data, content_type, file_name)
        return cls._made(url, data, content_type, file_name)

    @classmethod
    def from_path(
        cls,
        path: str | Path,
        content_type: str | None = None,
        repository: FileStore | RepositoryId | None = None,
        **platform: Unpack[PlatformOptions],
    ) -> Self:
        """A file with the contents and the name of the one at ``path``."""
        path = Path(path)
        return cls.from_bytes(
            path.read_bytes(), content_type, file_name=path.name, repository=repository, **platform
        )

    @classmethod
    async def from_path_async(
        cls,
        path: str | Path,
        content_type: str | None = None,
        repository: FileStore | RepositoryId | None = None,
        **platform: Unpack[PlatformOptions],
    ) -> Self:
        """``from_path`` without blocking the event loop."""
        return await asyncio.to_thread(cls.from_path, path, content_type, repository, **platform)

    def as_bytes(self) -> bytes:
        """The file's bytes, from wherever its URL leads. Raises InvalidInput if it leads nowhere.

        URLs are opened by the rules of ``polyrank.toolkit.urls``.
        """
        if (data := self._at_hand()) is not None:
            return data
        return urls.open_url(self.url).data

    async def as_bytes_async(self) -> bytes:
        """``as_bytes`` without blocking the event loop."""
        if (data := await asyncio.to_thread(self._at_hand)) is not None:
            return data
        return (await urls.open_url_async(self.url)).data

    def save(self, path: str | Path, overwrite: bool = False) -> Path:
        """Writes the file to ``path`` and returns it, made absolute."""
        path = Path(path).resolve()
        if path.exists() and not overwrite:
            raise FileExistsError(f"{path} exists; pass overwrite=True to replace it")
        data = self.as_bytes()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    async def save_async(self, path: str | Path, overwrite: bool = False) -> Path:
        """``save`` without blocking the event loop."""
        return await asyncio.to_thread(self.save, path, overwrite)

    def _at_hand(self) -> bytes | None:
        """The bytes, if no network is needed for them."""
        if self._data is not None:
            return self._data
        return None if datauri.is_data_uri(self.url) else store.current().load(self.url)

    @classmethod
    def _made(cls, url: str, data: bytes, content_type: str, file_name: str) -> Self:
        file = cls(url=url, content_type=content_type, file_name=file_name, file_size=len(data))
        if not datauri.is_data_uri(url):
            file._data = data
        return file


class CompressedFile(File):
    """A zip file. Iterating it gives the paths of what lies at its top, unpacked.

    It is unpacked when first asked for, into a temporary folder that lives as long as this object.
    Subclass it to change the limits.
    """

    max_files: ClassVar[int] = 10_000
    max_bytes: ClassVar[int] = 2 * 2**30

    _folder: Path | None = PrivateAttr(default=None)

    def __iter__(self) -> Iterator[Path]:  # type: ignore[override]  # as the reference has it
        yield from sorted(self._extracted().iterdir())

    def glob(self, pattern: str) -> Iterator[Path]:
        """The unpacked paths that match, e.g. ``**/*.png``."""
        yield from sorted(self._extracted().glob(pattern))

    def _extracted(self) -> Path:
        if self._folder is None:
            folder = Path(tempfile.mkdtemp(prefix="polyrank-zip-"))
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            archive.extract(
                self.as_bytes(), folder, max_files=self.max_files, max_bytes=self.max_bytes
            )
            self._folder = folder
        return self._folder


def _described(content_type: str | None, file_name: str | None) -> tuple[str, str]:
    """Content type and name, each guessed from the other if it is missing."""
    if content_type is None and file_name is not None:
        content_type = mimetypes.guess_type(file_name)[0]
    content_type = content_type or DEFAULT_TYPE
    if file_name is None:
        plain_type = content_type.partition(";")[0].strip()
        file_name = uuid.uuid4().hex + (mimetypes.guess_extension(plain_type) or ".bin")
    # Names of files on disk need not be text that JSON can hold, nor what says what they hold.
    file_name = file_name.encode(errors="replace").decode()
    return content_type if _HEADER.fullmatch(content_type) else DEFAULT_TYPE, file_name


def _check_options(platform: PlatformOptions) -> None:
    if unknown := platform.keys() - PlatformOptions.__annotations__.keys():
        raise TypeError(f"unknown argument {', '.join(sorted(unknown))}")
