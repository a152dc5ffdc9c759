"""A file as an app receives or answers it: a URL, and what is known about what is behind it."""

from __future__ import annotations

import asyncio
import base64
import binascii
import mimetypes
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote_to_bytes, urlsplit

from pydantic import BaseModel, ConfigDict, Field, model_validator

from polyrank.errors import InvalidInput

DEFAULT_TYPE = "application/octet-stream"


class File(BaseModel):
    """A file in an endpoint's input or answer.

    Accepts a bare URL string in input. A file made here carries its bytes as a data URI.

    Example: ``File.from_bytes(b"a,b\\n", file_name="table.csv")``.
    """

    model_config = ConfigDict(extra="ignore")

    url: str = Field(description="Where the file is: an http(s) URL or a data URI")
    content_type: str | None = Field(default=None, examples=["image/png"])
    file_name: str | None = None
    file_size: int | None = Field(default=None, description="In bytes")

    @model_validator(mode="before")
    @classmethod
    def _from_url(cls, value: Any) -> Any:
        return {"url": value} if isinstance(value, str) else value

    @classmethod
    def from_bytes(
        cls,
        data: bytes,
        content_type: str | None = None,
        file_name: str | None = None,
        **fields: Any,
    ) -> Self:
        """A file with these bytes; the content type is guessed from the name if not given."""
        guessed = mimetypes.guess_type(file_name)[0] if file_name else None
        content_type = content_type or guessed or DEFAULT_TYPE
        fields = {name: value for name, value in fields.items() if name in cls.model_fields}
        return cls(
            url=f"data:{content_type};base64,{base64.b64encode(data).decode()}",
            content_type=content_type,
            file_name=file_name,
            file_size=len(data),
            **fields,
        )

    @classmethod
    def from_path(cls, path: str | Path, content_type: str | None = None, **fields: Any) -> Self:
        """A file with the contents of the one at ``path``."""
        path = Path(path)
        return cls.from_bytes(path.read_bytes(), content_type, path.name, **fields)

    @classmethod
    async def from_bytes_async(cls, data: bytes, *args: Any, **fields: Any) -> Self:
        """``from_bytes`` without blocking the event loop."""
        return await asyncio.to_thread(cls.from_bytes, data, *args, **fields)

    @classmethod
    async def from_path_async(cls, path: str | Path, *args: Any, **fields: Any) -> Self:
        """``from_path`` without blocking the event loop."""
        return await asyncio.to_thread(cls.from_path, path, *args, **fields)

    def as_bytes(self) -> bytes:
        """The file's bytes. Raises InvalidInput if the URL is not a data URI."""
        if urlsplit(self.url).scheme != "data":
            raise InvalidInput(f"only data URIs can be read so far, not {self.url[:100]}")
        return read_data_uri(self.url)[0]

    def save(self, path: str | Path, overwrite: bool = False) -> Path:
        """Writes the file to ``path``."""
        path = Path(path)
        if path.exists() and not overwrite:
            raise FileExistsError(f"{path} exists; pass overwrite=True to replace it")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.as_bytes())
        return path


def read_data_uri(uri: str) -> tuple[bytes, str]:
    """The bytes and the content type of a data URI (RFC 2397). Raises InvalidInput."""
    head, comma, body = uri.removeprefix("data:").partition(",")
    if not uri.startswith("data:") or not comma:
        raise InvalidInput("not a data URI: it has no comma")
    content_type = head.removesuffix(";base64") or "text/plain;charset=US-ASCII"
    if not head.endswith(";base64"):
        return unquote_to_bytes(body), content_type
    try:
        return base64.b64decode(unquote_to_bytes(body), validate=True), content_type
    except binascii.Error as error:
        raise InvalidInput(f"not a data URI: {error}") from None
