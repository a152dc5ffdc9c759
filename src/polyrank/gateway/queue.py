"""The queue's routes: submit, status, status stream, result, cancel."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from sqlalchemy import RowMapping
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from polyrank.errors import InvalidInput, PolyrankError
from polyrank.gateway.addresses import split_app
from polyrank.gateway.answers import UnknownApp, read_body, start_timeout
from polyrank.gateway.dispatcher import Dispatcher
from polyrank.gateway.notices import Notices
from polyrank.gateway.upstream import forwarded
from polyrank.store.requests import LOW, NORMAL, Cancelled, NewRequest, Requests

REQUESTS = "/requests/"
PRIORITIES = {"normal": NORMAL, "low": LOW}
# Of the caller's headers, those that are not the app's business.
PRIVATE = ("authorization", "cookie", "idempotency-key")


class UnknownRequest(PolyrankError):
    """No such request here, or none any more."""

    status = 404
    code = "request_not_found"


class StillRunning(PolyrankError):
    """The result was asked for before it was there."""

    status = 400
    code = "request_in_progress"


class Queue:
    """The handlers of the queue's routes. ``dispatchers`` are those of the apps, by name."""

    def __init__(
        self, requests: Requests, dispatchers: Mapping[str, Dispatcher], notices: Notices
    ) -> None:
        self._requests = requests
        self._dispatchers = dispatchers
        self._notices = notices

    def routes(self) -> list[BaseRoute]:
        """The routes below ``/queue``; all but submit find a request by its id alone."""
        below = "/{app:path}/requests/{id}"
        return [
            Route(below + "/status/stream{slash:path}", self.status_stream, methods=["GET"]),
            Route(below + "/status{slash:path}", self.status, methods=["GET"]),
            Route(below + "/cancel{slash:path}", self.cancel, methods=["PUT", "POST"]),
            Route(below + "{slash:path}", self.result, methods=["GET"]),
            Route("/{path:path}", self.submit, methods=["POST"]),
        ]

    async def submit(self, request: Request) -> Response:
        """Keeps a request; the answer says where to ask for it."""
        wanted = split_app(request.url.path)
        if wanted is None or wanted.app not in self._dispatchers:
            raise UnknownApp(f"there is no app {request.url.path.strip('/')!r} here")
        if wanted.path.startswith(REQUESTS):  # of the queue, not of the app
            raise HTTPException(405, headers={"allow": "GET"})
        headers = forwarded({k: v for k, v in request.headers.items() if k not in PRIVATE})
        submitted = await self._requests.submit(
            NewRequest(
                app=wanted.app,
                caller=request.client.host if request.client else "",
                body=await read_body(request),
                path=wanted.path,
                headers=headers,
                hint=request.headers.get("x-fal-runner-hint"),
                priority=_priority(request),
                start_timeout_s=start_timeout(request),
                idempotency_key=request.headers.get("idempotency-key"),
            ),
            max_queued=_max_queued(request),
        )
        self._dispatchers[wanted.app].note_change()
        body = {
            "status": "IN_QUEUE",
            "request_id": submitted.id,
            **_urls(request, wanted.app, submitted.id),
            "queue_position": await self._requests.position(submitted.id) or 0,
        }
        return JSONResponse(body, headers={"x-fal-request-id": submitted.id})

    async def status(self, request: Request) -> Response:
        """Where a request stands: 202 until it is done, then 200."""
        row = await self._row(request)
        body = await self._describe(request, row)
        status = 200 if row["state"] == "done" else 202
        return JSONResponse(body, status, {"x-fal-request-id": row["id"]})

    async def status_stream(self, request: Request) -> Response:
        """The status as server-sent events, one for each change, until the request is done."""
        row = await self._row(request)
        return StreamingResponse(
            self._statuses(request, row["id"]),
            media_type="text/event-stream",
            headers={"x-fal-request-id": row["id"], "cache-control": "no-store"},
        )

    async def result(self, request: Request) -> Response:
        """The app's answer, with the app's status and headers."""
        row = await self._row(request)
        if row["state"] != "done":
            raise StillRunning("the request is still in progress; ask for its status")
        headers = {name.lower(): value for name, value in row["answer_headers"].items()}
        headers = {**forwarded(headers), "x-fal-request-id": row["id"]}
        if row["error_type"]:
            headers["x-fal-error-type"] = row["error_type"]
        body = row["answer"]
        if not body and row["error"]:  # nobody answered: say why
            body = json.dumps({"detail": row["error"], "error_type": row["error_type"]}).encode()
            headers["content-type"] = "application/json"
        return Response(body, row["status_code"], headers)

    async def cancel(self, request: Request) -> Response:
        """Ends a request that waits, and has one that runs stopped on every rank."""
        id = request.path_params["id"]
        outcome = await self._requests.cancel(id)
        if outcome is Cancelled.UNKNOWN:
            return JSONResponse({"status": "NOT_FOUND"}, 404)
        if outcome is Cancelled.TOO_LATE:
            return JSONResponse({"status": "ALREADY_COMPLETED"}, 400)
        self._notices.publish(id)
        for dispatcher in self._dispatchers.values():
            await dispatcher.look_for_cancels()
        return JSONResponse({"status": "CANCELLATION_REQUESTED"}, 202)

    async def _row(self, request: Request) -> RowMapping:
        row = await self._requests.get(request.path_params["id"])
        if row is None:
            raise UnknownRequest(f"there is no request {request.path_params['id']!r} here")
        return row

    async def _statuses(self, request: Request, id: str) -> AsyncIterator[bytes]:
        before = None
        with self._notices.watch(id) as changed:
            while True:
                changed.clear()
                row = await self._requests.get(id)
                if row is None:
                    return
                body = await self._describe(request, row)
                if body != before:
                    yield b"data: " + json.dumps(body).encode() + b"\n\n"
                    before = body
                if row["state"] == "done":
                    return
                await changed.wait()

    async def _describe(self, request: Request, row: RowMapping) -> dict[str, Any]:
        """The JSON that says where a request stands, in the words that clients know."""
        body: dict[str, Any] = {"request_id": row["id"], **_urls(request, row["app"], row["id"])}
        if row["state"] == "queued":
            position = await self._requests.position(row["id"]) or 0
            return {"status": "IN_QUEUE", "queue_position": position, **body}
        logs: list[Any] = []
        if row["state"] == "running":
            return {"status": "IN_PROGRESS", "logs": logs, **body}
        spent = row["finished_at"] - row["started_at"] if row["started_at"] else 0.0
        return {
            "status": "COMPLETED",
            "logs": logs,
            "metrics": {"inference_time": spent},
            "error": row["error"],
            "error_type": row["error_type"],
            **body,
        }


def _urls(request: Request, app: str, id: str) -> dict[str, str]:
    host = request.headers.get("host", "")
    base = f"{request.url.scheme}://{host}{request.scope['face_prefix']}/{app}/requests/{id}"
    return {"response_url": base, "status_url": f"{base}/status", "cancel_url": f"{base}/cancel"}


def _priority(request: Request) -> int:
    name = request.headers.get("x-fal-queue-priority", "normal")
    if name not in PRIORITIES:
        raise InvalidInput(f"X-Fal-Queue-Priority is normal or low, not {name!r}")
    return PRIORITIES[name]


def _max_queued(request: Request) -> int | None:
    value = request.query_params.get("fal_max_queue_length")
    if value is None:
        return None
    if not value.isdecimal():
        raise InvalidInput(f"fal_max_queue_length is a number of requests, not {value!r}")
    return int(value)
