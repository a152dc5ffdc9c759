"""The routes by which files are had: whole, in part, or not again if they have not changed."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from email.utils import formatdate
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from polyrank.errors import InvalidInput
from polyrank.files import ranges
from polyrank.files.ranges import RangeNotSatisfiable, Span
from polyrank.gateway.permits import FILE, QUERY, ExpiredFile, Permits, unknown_file
from polyrank.gateway.storage import by_method, url_of
from polyrank.gateway.uploads import Uploads
from polyrank.store.files import File

# What a browser may show in place; all else is for saving, so that none can run as a page of ours.
SHOWN_TYPES = frozenset(
    "image/png image/jpeg image/webp image/gif image/avif image/bmp text/plain".split()
)
SHOWN_KINDS = ("audio/", "video/")
DEFAULT_SIGNED_S, LONGEST_SIGNED_S = 3600.0, 7 * 24 * 3600.0
_ID = re.compile(r"[0-9a-f]{32}")


class Signing(BaseModel):
    """How long a signed URL is good for."""

    model_config = ConfigDict(strict=True)

    expires_in_s: float = Field(default=DEFAULT_SIGNED_S, gt=0, le=LONGEST_SIGNED_S)


class Downloads:
    """The handlers of ``/files/{id}/{name}``."""

    def __init__(self, uploads: Uploads, permits: Permits) -> None:
        self._files = uploads.files
        self._blobs = uploads.blobs
        self._permits = permits

    def routes(self) -> list[BaseRoute]:
        """All of them."""
        one = "/files/{id}/{name}"
        return [
            Route(one, by_method(get=self.get, delete=self.delete), methods=["GET", "DELETE"]),
            Route(one + "/sign", self.sign, methods=["POST"]),
        ]

    async def get(self, request: Request) -> Response:
        """The file, or the part of it that is asked for."""
        file = await self._find(request)
        self._permits.check_read(request, file)
        headers = _headers(file)
        if _is_known(request.headers, file):
            return Response(status_code=304, headers=headers)
        try:
            span = ranges.parse(_range(request.headers, file), file.size)
        except RangeNotSatisfiable as error:
            headers["content-range"] = f"bytes */{file.size}"
            return JSONResponse({"detail": error.message}, error.status, headers)
        status = 200
        if span is not None:
            headers["content-range"] = f"bytes {span.start}-{span.end - 1}/{file.size}"
            status = 206
        span = span or Span(0, file.size)
        headers["content-length"] = str(span.size)
        if request.method == "HEAD":
            return Response(None, status, headers, file.content_type)
        body = await _begun(self._bytes(file, span))
        return StreamingResponse(body, status, headers, file.content_type)

    async def delete(self, request: Request) -> Response:
        """Ends a file's life."""
        file = await self._find(request)
        self._permits.check_owner(request, file)
        await self._files.end(file.id)
        return Response(status_code=204)

    async def sign(self, request: Request) -> Response:
        """A URL that lets whoever has it have the file for a while, whatever the ACL says."""
        file = await self._find(request)
        self._permits.check_owner(request, file)
        try:
            wanted = Signing.model_validate_json(await request.body() or b"{}")
        except ValidationError as error:
            raise InvalidInput(f"expires_in_s: {error.errors()[0]['msg']}") from None
        token = self._permits.issue(FILE, file.id, wanted.expires_in_s)
        return JSONResponse({"url": f"{url_of(request, file)}?{QUERY}={token}"})

    async def _find(self, request: Request) -> File:
        id = request.path_params["id"]
        file = await self._files.get(id) if _ID.fullmatch(id) else None
        if file is None or not file.is_whole:
            raise unknown_file()
        if self._files.is_over(file):
            self._permits.check_read(request, file)  # nor is it told of to whom it is hidden
            raise ExpiredFile(f"the time of {file.name} is over")
        return file

    async def _bytes(self, file: File, span: Span) -> AsyncIterator[bytes]:
        begin = 0
        for key, size in file.blobs:
            start, end = max(span.start - begin, 0), min(span.end - begin, size)
            begin += size
            if start < end:
                async for chunk in self._blobs.read(key, start, end):
                    yield chunk


async def _begun(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The chunks once the first is there: a store that fails before that is a plain error."""
    first = await anext(chunks, None)

    async def rest() -> AsyncIterator[bytes]:
        if first is not None:
            yield first
            async for chunk in chunks:
                yield chunk

    return rest()


def _headers(file: File) -> dict[str, str]:
    content_type = file.content_type.partition(";")[0].strip().lower()
    shown = content_type in SHOWN_TYPES or content_type.startswith(SHOWN_KINDS)
    plain = re.sub(r'[^\w .,()+=@!~-]|["\\]', "_", file.name, flags=re.ASCII)
    name = f'filename="{plain}"'
    if plain != file.name:
        name += f"; filename*=UTF-8''{quote(file.name, safe='')}"
    return {
        "etag": f'"{file.etag}"',
        "accept-ranges": "bytes",
        "last-modified": formatdate(file.completed_at, usegmt=True),
        "content-disposition": f"{'inline' if shown else 'attachment'}; {name}",
        "x-content-type-options": "nosniff",
        "content-security-policy": "sandbox",
        "cross-origin-resource-policy": "cross-origin",
        # A file never changes, but it may be gone, or be shown to its owner only.
        "cache-control": "private, no-cache",
    }


def _is_known(headers: Mapping[str, str], file: File) -> bool:
    """Whether the caller has the file already."""
    tags = [tag.strip().removeprefix("W/") for tag in headers.get("if-none-match", "").split(",")]
    return "*" in tags or f'"{file.etag}"' in tags


def _range(headers: Mapping[str, str], file: File) -> str | None:
    """The range that is asked for, unless it is one of a file that has changed meanwhile."""
    condition = headers.get("if-range")
    if condition is not None and condition != f'"{file.etag}"':
        return None
    return headers.get("range")
