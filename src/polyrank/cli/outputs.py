"""The files of a result: found, fetched, kept."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import mimetypes
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx

from polyrank.client import connection
from polyrank.client.endpoints import Endpoints
from polyrank.client.errors import ClientError, ServerUnreachable
from polyrank.toolkit import datauri

SHOWN_URI_CHARS = 60
# Of a file: a text that begins with "data:" may be just a text.
DATA_URI = re.compile(r"data:[\w.+-]+/[\w.+-]+[;,]", re.IGNORECASE)


@dataclass(frozen=True)
class Output:
    """A file in a result: where it stands (``images.0``), its URL, and what is known of it."""

    place: str
    url: str
    content_type: str | None = None
    file_name: str | None = None

    @property
    def is_picture(self) -> bool:
        """Whether it can be looked at."""
        kind = self.content_type or ""
        if datauri.is_data_uri(self.url):
            kind = self.url[5:]
        return (kind or mimetypes.guess_type(urlsplit(self.url).path)[0] or "").startswith("image/")

    def name(self, content_type: str | None) -> str:
        """A name to keep it under: its own, else its URL's, else its place in the result."""
        own = self.file_name
        if not own and not datauri.is_data_uri(self.url):
            own = unquote(PurePosixPath(urlsplit(self.url).path).name)
        name = PurePosixPath((own or "").replace("\\", "/")).name.lstrip(".")
        if PurePosixPath(name).suffix:
            return name
        kind = (content_type or self.content_type or "").partition(";")[0]
        return (name or self.place.replace(".", "-")) + (mimetypes.guess_extension(kind) or ".bin")


def find(value: Any, place: str = "result") -> Iterator[Output]:
    """The files in a result: objects with a ``url``, data URIs, and URLs that a key says are."""
    if isinstance(value, dict):
        url = value.get("url")
        if isinstance(url, str) and _is_url(url):
            yield Output(place, url, value.get("content_type"), value.get("file_name"))
        for key, each in value.items():
            if key != "url" or each is not url:
                below = key if place == "result" else f"{place}.{key}"
                yield from find(each, below)
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from find(each, f"{place}.{index}")
    elif isinstance(value, str):
        if DATA_URI.match(value) or (place.endswith("_url") and _is_url(value)):
            yield Output(place, value)


def shortened(value: Any) -> Any:
    """The same for people: data URIs without most of their data."""
    if isinstance(value, dict):
        return {key: shortened(each) for key, each in value.items()}
    if isinstance(value, list):
        return [shortened(each) for each in value]
    if isinstance(value, str) and datauri.is_data_uri(value) and len(value) > SHOWN_URI_CHARS:
        return f"{value[:SHOWN_URI_CHARS]}… ({len(value)} characters)"
    return value


class Files:
    """Fetches the files of a result. The key goes to its own server only."""

    def __init__(self, endpoints: Endpoints, key: str | None) -> None:
        self._endpoints = endpoints
        self._key = key
        self._http = httpx.AsyncClient(**connection.options(endpoints))

    async def __aenter__(self) -> Files:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def read(self, output: Output) -> bytes:
        """The whole of a small file."""
        async with self._open(output) as (_, chunks):
            return b"".join([chunk async for chunk in chunks])

    async def save(self, outputs: list[Output], out: Path) -> list[Path]:
        """Keeps each file: in ``out``, or as ``out`` if it is one file and ``out`` names one.

        In a folder nothing is overwritten: a name that is taken gets a number.
        """
        is_file = _prepare(out, alone=len(outputs) == 1)
        saved = []
        for output in outputs:
            async with self._open(output) as (content_type, chunks):
                path = out if is_file else _free(out / output.name(content_type))
                part = path.with_name(f".{path.name}.part")
                try:
                    with part.open("wb") as file:
                        async for chunk in chunks:
                            await asyncio.to_thread(file.write, chunk)
                    part.replace(path)
                finally:
                    part.unlink(missing_ok=True)
                saved.append(path)
        return saved

    @contextlib.asynccontextmanager
    async def _open(self, output: Output) -> AsyncIterator[tuple[str | None, AsyncIterator[bytes]]]:
        """The content type and the bytes of a file."""
        if datauri.is_data_uri(output.url):
            data, kind = datauri.read(output.url)
            yield kind, _once(data)
            return
        is_home = self._key is not None and self._endpoints.is_home(output.url)
        headers = {"authorization": f"Key {self._key}"} if is_home else {}
        try:
            async with self._http.stream("GET", output.url, headers=headers) as response:
                if response.status_code >= 400:
                    raise ClientError(f"{output.url} is answered with {response.status_code}")
                yield response.headers.get("content-type"), response.aiter_bytes()
        except (httpx.RequestError, httpx.InvalidURL) as error:
            raise ServerUnreachable(f"{output.url}: {error or type(error).__name__}") from error


def _prepare(out: Path, *, alone: bool) -> bool:
    """Makes the folder that is needed; whether ``out`` names a file."""
    is_file = alone and out.suffix != "" and not out.is_dir()
    (out.parent if is_file else out).mkdir(parents=True, exist_ok=True)
    return is_file


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


def _is_url(text: str) -> bool:
    return text[:8].lower().startswith(("http://", "https://", "data:"))


def _free(path: Path) -> Path:
    """The path, or the first of its kind that nobody has."""
    numbered = (path.with_stem(f"{path.stem}-{number}") for number in itertools.count(2))
    return next(each for each in itertools.chain([path], numbered) if not each.exists())
