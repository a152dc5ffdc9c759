"""The routes by which files are uploaded, as the public clients go about it.

Each client has its way: ``/files/upload`` with a bearer token, at once or in parts, or an upload
that is initiated first and then goes to a signed URL, at once or in parts.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Scope

from polyrank.errors import InvalidInput, RequestAborted
from polyrank.files import lifecycle
from polyrank.gateway.addresses import files_base
from polyrank.gateway.permits import ACCOUNT_TTL_S, QUERY, STORAGE, UPLOAD, Permits
from polyrank.gateway.uploads import MAX_PARTS, Part, UnknownUpload, Uploads
from polyrank.store.files import UPLOAD_TTL_S, File, NewFile
from polyrank.toolkit.folder import clean_name

T = TypeVar("T", bound=BaseModel)
Handler = Callable[[Request], Awaitable[Response]]

DEFAULT_TYPE = "application/octet-stream"
DEFAULT_NAME = "file"
MAX_NAME = 255
# The longest body that is JSON: the names of MAX_PARTS parts.
MAX_JSON_BYTES = 2 * 2**20
_CONTENT_TYPE = re.compile(r"[\w!#$&^.+*-]+/[\w!#$&^.+*-]+(\s*;[\x20-\x7e]*)?", re.ASCII)
_UPLOAD_ID = re.compile(r"[\w-]{32}", re.ASCII)


class Initiated(BaseModel):
    """What a caller says of a file that it is about to send."""

    model_config = ConfigDict(extra="ignore", strict=True)

    file_name: str | None = None
    content_type: str = DEFAULT_TYPE
    file_size: int | None = Field(default=None, ge=0)


class NamedPart(BaseModel):
    """A part of an upload that is complete."""

    model_config = ConfigDict(extra="ignore", strict=True)

    partNumber: int = Field(ge=1, le=MAX_PARTS)
    etag: str = Field(max_length=200)


class Complete(BaseModel):
    """The parts that make up a file, in any order."""

    model_config = ConfigDict(extra="ignore", strict=True)

    parts: list[NamedPart] = Field(max_length=MAX_PARTS)


class Storage:
    """The handlers of the routes below ``/storage`` and of those by which files come in."""

    def __init__(self, uploads: Uploads, permits: Permits) -> None:
        self._uploads = uploads
        self._permits = permits

    def routes(self) -> list[BaseRoute]:
        """All of them. They come before the routes of downloads."""
        by_name = "/files/{id}/{name}/multipart/{upload_id}"
        signed = "/files/upload/{upload_id}"
        return [
            Route("/storage/auth/token", self.token, methods=["POST"]),
            Route("/storage/upload/initiate", self.initiate, methods=["POST"]),
            Route("/storage/upload/initiate-multipart", self.initiate, methods=["POST"]),
            Route("/files/upload", self.upload, methods=["POST"]),
            Route("/files/upload/multipart", self.begin, methods=["POST"]),
            Route(by_name + "/complete", self.complete, methods=["POST"]),
            Route(by_name + "/{number:int}", self.put_part, methods=["PUT"]),
            Route(by_name, self.parts, methods=["GET"]),
            Route(signed + "/complete", self.complete, methods=["POST"]),
            Route(signed + "/{number:int}", self.put_part, methods=["PUT"]),
            Route(signed, by_method(put=self.put, get=self.parts), methods=["PUT", "GET"]),
        ]

    async def token(self, request: Request) -> Response:
        """A bearer token for the storage of whoever asks, and where that is."""
        until = datetime.now(UTC) + timedelta(seconds=ACCOUNT_TTL_S)
        body = {
            "token": self._permits.issue(STORAGE, self._permits.owner(request), ACCOUNT_TTL_S),
            "token_type": "Bearer",
            "base_url": base_of(request.scope),
            "expires_at": until.isoformat(),
        }
        return JSONResponse(body, headers={"cache-control": "no-store"})

    async def upload(self, request: Request) -> Response:
        """Takes a file at once."""
        new = self._described(request)
        if (length := request.headers.get("content-length", "")).isdecimal():
            self._uploads.check_size(int(length))
        file = await self._uploads.begin(new)
        await self._uploads.put(file, _chunks(request))
        return JSONResponse(
            {
                "access_url": url_of(request, file),
                "content_type": file.content_type,
                "file_name": file.name,
            }
        )

    async def begin(self, request: Request) -> Response:
        """Makes room for a file whose parts follow."""
        file = await self._uploads.begin(self._described(request))
        return JSONResponse({"access_url": url_of(request, file), "uploadId": file.upload_id})

    async def initiate(self, request: Request) -> Response:
        """Makes room for a file; the answer has a signed URL to send it to."""
        said = await _read(request, Initiated)
        new = self._new(request, said.file_name, said.content_type, said.file_size)
        file = await self._uploads.begin(new)
        token = self._permits.issue(UPLOAD, file.upload_id, UPLOAD_TTL_S)
        url = f"{base_of(request.scope)}/files/upload/{file.upload_id}?{QUERY}={token}"
        return JSONResponse({"upload_url": url, "file_url": url_of(request, file)})

    async def put(self, request: Request) -> Response:
        """Takes all of a file at its signed URL."""
        file = await self._find(request)
        sent = request.headers.get("content-type")
        if sent is not None and sent != file.content_type:
            raise InvalidInput(f"the upload was initiated as {file.content_type}, not {sent}")
        if (length := request.headers.get("content-length", "")).isdecimal():
            self._uploads.check_size(int(length))
        etag = await self._uploads.put(file, _chunks(request))
        return JSONResponse({"etag": etag}, headers={"etag": f'"{etag}"'})

    async def put_part(self, request: Request) -> Response:
        """Takes one part."""
        file = await self._find(request)
        number = request.path_params["number"]
        part = await self._uploads.put_part(file, number, _chunks(request))
        body = {"partNumber": number, "etag": part.etag}
        return JSONResponse(body, headers={"etag": f'"{part.etag}"'})

    async def parts(self, request: Request) -> Response:
        """Which parts are there, for a caller who goes on with an upload."""
        parts = await self._uploads.files.parts((await self._find(request)).id)
        listed = [
            {"partNumber": number, "etag": part.etag, "size": part.size}
            for number, part in parts.items()
        ]
        return JSONResponse({"parts": listed})

    async def complete(self, request: Request) -> Response:
        """Makes a file of its parts."""
        file = await self._find(request)
        named = (await _read(request, Complete)).parts
        parts = [Part(part.partNumber, part.etag.strip('"')) for part in named]
        etag = await self._uploads.complete(file, parts)
        return JSONResponse({"access_url": url_of(request, file), "etag": etag})

    async def _find(self, request: Request) -> File:
        """The file that is being uploaded, if whoever asks may add to it."""
        upload_id = request.path_params["upload_id"]
        file = None
        if _UPLOAD_ID.fullmatch(upload_id):
            file = await self._uploads.files.find_upload(upload_id)
        is_named = file is None or request.path_params.get("id", file.id) == file.id
        if file is None or not is_named or self._is_late(file):
            raise UnknownUpload("there is no such upload here, or its time is over")
        self._permits.check_upload(request, file)
        return file

    def _is_late(self, file: File) -> bool:
        return not file.is_whole and self._uploads.files.is_over(file)

    def _described(self, request: Request) -> NewFile:
        """The file that the headers of an upload describe."""
        name = request.headers.get("x-fal-file-name", "")
        # Header values are bytes; clients write names in UTF-8.
        name = name.encode("latin-1").decode("utf-8", "replace")
        return self._new(request, name, request.headers.get("content-type") or DEFAULT_TYPE)

    def _new(
        self, request: Request, name: str | None, content_type: str, size: int | None = None
    ) -> NewFile:
        if len(content_type) > MAX_NAME or not _CONTENT_TYPE.fullmatch(content_type):
            raise InvalidInput(f"not a content type: {content_type[:MAX_NAME]!r}")
        found = (request.headers.get(header) for header in lifecycle.HEADERS)
        wishes = lifecycle.parse(next((text for text in found if text), None))
        return NewFile(
            owner=self._permits.owner(request),
            name=_plain_name(name),
            content_type=content_type,
            lifetime_s=wishes.lifetime_s,
            acl=wishes.initial_acl.model_dump() if wishes.initial_acl else None,
            declared_size=size,
        )


def by_method(**handlers: Handler) -> Handler:
    """One handler made of one for each method, for a route that then knows all of its methods."""

    async def call(request: Request) -> Response:
        method = {"HEAD": "GET"}.get(request.method, request.method)
        return await handlers[method.lower()](request)

    return call


def base_of(scope: Scope) -> str:
    """The address under which the caller finds files."""
    host = next((value for name, value in scope["headers"] if name == b"host"), b"")
    own, port = scope.get("server") or ("localhost", None)
    called = host.decode("latin-1") or (f"{own}:{port}" if port else str(own))
    scheme = str(scope["scheme"]).replace("ws", "http")
    return files_base(scheme, called)


def url_of(request: Request, file: File) -> str:
    """The URL of a file for this caller."""
    return f"{base_of(request.scope)}/files/{file.id}/{quote(clean_name(file.name))}"


def _plain_name(name: str | None) -> str:
    """A file name that can be kept and told: no path, nothing that controls anything."""
    name = re.sub(r"[\x00-\x1f\x7f-\x9f/\\\ud800-\udfff]", "_", name or "")
    return name[-MAX_NAME:] or DEFAULT_NAME


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    try:
        async for chunk in request.stream():
            yield chunk
    except ClientDisconnect:
        raise RequestAborted("the caller hung up before the file was whole") from None


async def _read(request: Request, model: type[T]) -> T:
    """The body, which is JSON. Raises InvalidInput with the place of what is wrong."""
    body = bytearray()
    async for chunk in _chunks(request):
        body += chunk
        if len(body) > MAX_JSON_BYTES:
            raise InvalidInput(f"the body has more than {MAX_JSON_BYTES} bytes")
    try:
        return model.model_validate_json(bytes(body) or b"{}")
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        raise InvalidInput(f"{where}: {first['msg']}") from None
