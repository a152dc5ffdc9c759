"""The routes ``/data/…``: the files that an owner's apps keep, for people to see and change."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from polyrank.errors import InvalidInput, PolyrankError, RequestAborted
from polyrank.files import ranges
from polyrank.files.datafolder import DataFolder, OpenedFile
from polyrank.files.ranges import RangeNotSatisfiable, Span
from polyrank.gateway.answers import read_body
from polyrank.gateway.callers import require
from polyrank.store.keys import Scope
from polyrank.toolkit.transfer import Progress, Transfer, reporting
from polyrank.toolkit.urls import URLPolicy

KIND = "x-polyrank-kind"


class Order(BaseModel):
    """What is to be done with a path: it is filled from a URL, or moved."""

    model_config = ConfigDict(extra="forbid", strict=True)

    url: str | None = None
    move_to: str | None = None


class DataRoutes:
    """The handlers of these routes. ``folder_of`` is the folder of an owner."""

    def __init__(
        self, folder_of: Callable[[str], Path], *, max_bytes: int, policy: URLPolicy
    ) -> None:
        """URLs are opened by ``policy``."""
        self._folder_of = folder_of
        self._max_bytes = max_bytes
        self._policy = policy

    def routes(self) -> list[BaseRoute]:
        """The routes, for the server's own pages."""
        path = "/data/{path:path}"
        return [
            Route("/data", self.get, methods=["GET"]),
            Route(path, self.get, methods=["GET"]),
            Route(path, self.put, methods=["PUT"]),
            Route(path, self.change, methods=["POST"]),
            Route(path, self.delete, methods=["DELETE"]),
        ]

    async def get(self, request: Request) -> Response:
        """A file, or the part of it that is asked for; of a folder, what is in it."""
        folder, path = self._find(request)
        if await asyncio.to_thread(folder.is_folder, path):
            listed = await asyncio.to_thread(folder.listed, path)
            body = {"path": path, "entries": [vars(each) for each in listed]}
            return JSONResponse(body, headers={KIND: "folder"})
        return _answer(request, await asyncio.to_thread(folder.open, path), path)

    async def put(self, request: Request) -> Response:
        """Keeps the body as a file, once all of it is there."""
        folder, path = self._find(request)
        announced = request.headers.get("content-length", "")
        size = int(announced) if announced.isdecimal() else None
        written = await folder.write(path, _chunks(request), size)
        return JSONResponse({"path": path, "size": written}, 201)

    async def change(self, request: Request) -> Response:
        """Fills a path from a URL, and tells how far that is as it goes; or moves it."""
        folder, path = self._find(request)
        try:
            order = Order.model_validate_json(await read_body(request))
        except ValidationError as error:
            raise InvalidInput(f"the body: {error.errors()[0]['msg']}") from None
        if order.move_to is not None and order.url is None:
            moved = await asyncio.to_thread(folder.move, path, order.move_to)
            return JSONResponse({"path": moved})
        if order.url is None or order.move_to is not None:
            raise InvalidInput("the body has a url to fill the path from, or move_to")
        target = folder.prepare(path)
        transfer = Transfer(
            order.url,
            target.parent,
            self._policy,
            max_bytes=self._max_bytes,
            name=target.name,
            force=True,
            label=secrets.token_hex(8),
        )
        return StreamingResponse(_events(transfer, path), media_type="text/event-stream")

    async def delete(self, request: Request) -> Response:
        """Removes a file; with ``recursive=true``, a folder too."""
        folder, path = self._find(request)
        recursive = request.query_params.get("recursive") == "true"
        await asyncio.to_thread(folder.remove, path, recursive=recursive)
        return Response(status_code=204)

    def _find(self, request: Request) -> tuple[DataFolder, str]:
        """The caller's folder and the path in it. Raises Forbidden without the scope ADMIN."""
        owner = require(request, Scope.ADMIN).owner
        assert owner is not None  # nobody without one has a scope
        folder = DataFolder(self._folder_of(owner), max_bytes=self._max_bytes)
        return folder, request.path_params.get("path", "").strip("/")


def _answer(request: Request, file: OpenedFile, path: str) -> Response:
    etag = f'"{file.etag}"'
    headers = {
        KIND: "file",
        "etag": etag,
        "accept-ranges": "bytes",
        # Never a page of ours, whatever an app wrote into it.
        "content-disposition": f"attachment; filename*=UTF-8''{quote(Path(path).name, safe='')}",
        "x-content-type-options": "nosniff",
        "content-security-policy": "sandbox",
        "cache-control": "private, no-cache",
    }
    is_same = request.headers.get("if-range", etag) == etag
    try:
        span = ranges.parse(request.headers.get("range") if is_same else None, file.size)
    except RangeNotSatisfiable as error:
        file.close()
        headers["content-range"] = f"bytes */{file.size}"
        return JSONResponse({"detail": error.message}, error.status, headers)
    status = 200 if span is None else 206
    if span is not None:
        headers["content-range"] = f"bytes {span.start}-{span.end - 1}/{file.size}"
    span = span or Span(0, file.size)
    headers["content-length"] = str(span.size)
    kind = "application/octet-stream"
    if request.method == "HEAD":
        file.close()
        return Response(None, status, headers, kind)
    return StreamingResponse(_read(file, span), status, headers, kind)


async def _read(file: OpenedFile, span: Span) -> AsyncIterator[bytes]:
    try:
        async for chunk in file.chunks(span.start, span.end):
            yield chunk
    finally:
        file.close()


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    try:
        async for chunk in request.stream():
            yield chunk
    except ClientDisconnect:
        raise RequestAborted("the caller hung up before the file was whole") from None


async def _events(transfer: Transfer, path: str) -> AsyncIterator[bytes]:
    """How far the transfer is, and its end, as events; who hangs up ends it."""
    told: asyncio.Queue[dict[str, object] | None] = asyncio.Queue()

    def tell(progress: Progress) -> None:
        told.put_nowait({"received": progress.received, "total": progress.total})

    with reporting(tell):
        task = asyncio.create_task(_transferred(transfer, path))
    task.add_done_callback(lambda _: told.put_nowait(None))
    try:
        while (event := await told.get()) is not None:
            yield _event(event)
        yield _event(task.result())
    finally:
        task.cancel()


async def _transferred(transfer: Transfer, path: str) -> dict[str, object]:
    """The last event: the file that is there, or the reason why none is."""
    try:
        target = await transfer.run()
        return {"path": path, "size": target.stat().st_size}
    except PolyrankError as error:
        return {"detail": error.message, "error_type": error.code, "status": error.status}
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        reason = str(error) or type(error).__name__
        return {"detail": f"the URL cannot be opened: {reason}", "error_type": "bad_request"}
    finally:
        transfer.discard()


def _event(content: dict[str, object]) -> bytes:
    return b"data: " + json.dumps(content).encode() + b"\n\n"
