"""The queue's routes: submit, list, status, events, result, cancel."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from sqlalchemy import RowMapping
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Scope

from polyrank.errors import InvalidInput, PolyrankError
from polyrank.gateway.addresses import for_the_app, place
from polyrank.gateway.answers import read_body, start_timeout, webhook_url
from polyrank.gateway.bounds import Bounds
from polyrank.gateway.callers import caller_of
from polyrank.gateway.filing import Filing
from polyrank.gateway.notices import Notices
from polyrank.gateway.progress import Progress, error_event, events_of, numbered
from polyrank.gateway.registry import Entry, Registry
from polyrank.gateway.upstream import HOP_BY_HOP
from polyrank.store.requests import (
    LOW,
    MAX_RETRIES,
    NORMAL,
    Cancelled,
    NewRequest,
    Requests,
    Submitted,
)

MOST_LISTED = 1000
PRIORITIES = {"normal": NORMAL, "low": LOW}
# How many waiting requests are counted to tell one its place.
FEW = 32
# Of the caller's headers, those that are not the app's business.
PRIVATE = ("authorization", "cookie", "idempotency-key")


class UnknownRequest(PolyrankError):
    """No such request here, or none any more."""

    status = 404
    code = "request_not_found"


class ServerEnding(PolyrankError):
    """Who waits here would wait in vain."""

    status = 503
    code = "server_ending"


class StillRunning(PolyrankError):
    """The result was asked for before it was there."""

    status = 400
    code = "request_in_progress"


class SubmitRoute(Route):
    """The route of every path of an app; what is below ``requests`` is the queue's."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Whether a request is a submit."""
        is_submit = "/requests/" not in scope["path"] + "/"
        return super().matches(scope) if is_submit else (Match.NONE, {})


class Queue:
    """The handlers of the queue's routes."""

    def __init__(
        self,
        requests: Requests,
        apps: Registry,
        notices: Notices,
        filing: Filing,
        bounds: Bounds,
    ) -> None:
        self._filing = filing
        self._bounds = bounds
        self._requests = requests
        self._apps = apps
        self._notices = notices

    def routes(self) -> list[BaseRoute]:
        """The routes below ``/queue``; those of one request find it by its id alone."""
        below = "/{app:path}/requests/{id}"
        return [
            Route(below + "/status/stream", self.status_stream, methods=["GET"]),
            Route(below + "/status", self.status, methods=["GET"]),
            Route(below + "/events", self.events, methods=["GET"]),
            Route(below + "/input", self.input, methods=["GET"]),
            Route(below + "/cancel", self.cancel, methods=["PUT", "POST"]),
            Route("/{app:path}/requests", self.listing, methods=["GET"]),
            Route(below, self.result, methods=["GET"]),
            SubmitRoute("/{path:path}", self.submit, methods=["POST"]),
        ]

    async def submit(self, request: Request) -> Response:
        """Keeps a request; the answer says where to ask for it."""
        queued, submitted, position = await self._keep(request, webhook_url(request))
        if position <= FEW:  # exactly; where many wait, counting them costs more than it tells
            position = await self._requests.position(submitted.id) or 0
        body = {
            "status": "IN_QUEUE",
            "request_id": submitted.id,
            **_urls(request, queued.app.name, submitted.id),
            "queue_position": position,
            "reason": queued.app.reason(position),
        }
        return JSONResponse(body, headers={"x-fal-request-id": submitted.id})

    async def run_once(self, request: Request) -> Response:
        """A direct call with an ``Idempotency-Key``: kept like a queued request, so that it runs
        once however often and from wherever it is sent; a caller who goes away does not end it."""
        _, submitted, _ = await self._keep(request)
        if "text/event-stream" in request.headers.get("accept", ""):
            return _event_stream(self._events(submitted.id, _last_event(request)), submitted.id)
        with self._notices.watch(submitted.id) as changed:
            while (row := await self._requests.get(submitted.id)) and row["state"] != "done":
                if self._notices.is_closed:
                    raise ServerEnding("the server is ending; the request is kept, ask again")
                await changed.wait()
                changed.clear()
        if row is None:
            raise UnknownRequest(f"there is no request {submitted.id!r} any more")
        return _answer(row)

    async def _keep(
        self, request: Request, webhook: str | None = None
    ) -> tuple[Entry, Submitted, int]:
        """Puts a request into the store; also tells about how many wait before it."""
        queued, wanted = await self._apps.find(request.url.path)
        start_timeout_s = start_timeout(request) or queued.app.limits.start_timeout_s
        query = for_the_app(request.url.query)
        ahead = await self._bounds.check(wanted.app)
        submitted = await self._requests.submit(
            NewRequest(
                app=wanted.app,
                caller=caller_of(request).name,
                body=await read_body(request),
                path=f"{wanted.path}?{query}" if query else wanted.path,
                headers=_kept(request, wanted.app, self._filing),
                hint=request.headers.get("x-fal-runner-hint"),
                priority=_priority(request),
                start_timeout_s=start_timeout_s,
                idempotency_key=request.headers.get("idempotency-key"),
                webhook_url=webhook,
            ),
            max_queued=_max_queued(request),
        )
        if submitted.created:
            queued.app.traffic.note_received(request.method)
        queued.dispatcher.note_change(start_timeout_s)
        return queued, submitted, ahead

    async def listing(self, request: Request) -> Response:
        """The caller's requests of an app, an admin's are all of them, the newest first:
        ``?state=``, ``?before=`` (seconds), ``?limit=``."""
        caller = caller_of(request)
        state = request.query_params.get("state")
        if state not in (None, "queued", "running", "done"):
            raise InvalidInput(f"state is queued, running or done, not {state!r}")
        before = _number(request, "before")
        app = request.path_params["app"].strip("/")
        rows = await self._requests.find(
            app=app,
            caller=None if caller.is_admin else caller.name,
            state=state,
            before=before,
            limit=_limit(request),
        )
        columns = ("path", "state", "submitted_at", "started_at", "finished_at", "status_code")
        listed = [
            {
                "request_id": row["id"],
                **{name: row[name] for name in columns},
                "error": row["error"],
                "error_type": row["error_type"],
                "attempts": row["attempt"],
                **_urls(request, row["app"], row["id"]),
            }
            for row in rows
        ]
        return JSONResponse({"requests": listed})

    async def status(self, request: Request) -> Response:
        """Where a request stands: 202 until it is done, then 200."""
        row = await self._row(request)
        lines = self._lines(row) if _wants_logs(request) else None
        body = await self._describe(request, row, lines)
        status = 200 if row["state"] == "done" else 202
        return JSONResponse(body, status, {"x-fal-request-id": row["id"]})

    async def status_stream(self, request: Request) -> Response:
        """The status as server-sent events, one for each change, until the request is done.

        Each has the lines of the log that are new since the one before; its id counts them, so that
        ``Last-Event-ID`` goes on where a connection broke off.
        """
        row = await self._row(request)
        return _event_stream(self._statuses(request, row["id"], _last_event(request)), row["id"])

    async def events(self, request: Request) -> Response:
        """The events that a streaming endpoint answers, live and again from the first one on.

        ``Last-Event-ID`` goes on behind that one. They are those of one attempt: where a request is
        run again, its events begin again.
        """
        row = await self._row(request)
        return _event_stream(self._events(row["id"], _last_event(request)), row["id"])

    async def result(self, request: Request) -> Response:
        """The app's answer, with the app's status and headers."""
        row = await self._row(request)
        if row["state"] != "done":
            raise StillRunning("the request is still in progress; ask for its status")
        return _answer(row)

    async def input(self, request: Request) -> Response:
        """What the request was sent with."""
        row = await self._row(request)
        # Never as a page: it is shown below our own address.
        is_json = await asyncio.to_thread(_is_json, row["body"])  # which may be large
        kind = "application/json" if is_json else "application/octet-stream"
        return Response(row["body"], media_type=kind, headers={"x-content-type-options": "nosniff"})

    async def cancel(self, request: Request) -> Response:
        """Ends a request that waits, and has one that runs stopped on every rank."""
        id = request.path_params["id"]
        whose = await self._requests.whose(id)
        if whose is None or not caller_of(request).may_see(*whose):
            return JSONResponse({"status": "NOT_FOUND"}, 404)
        outcome = await self._requests.cancel(id)
        if outcome is Cancelled.UNKNOWN:
            return JSONResponse({"status": "NOT_FOUND"}, 404)
        if outcome is Cancelled.TOO_LATE:
            return JSONResponse({"status": "ALREADY_COMPLETED"}, 400)
        self._notices.publish(id)
        for queued in self._apps:
            if queued.dispatcher.progress(id) is not None:
                await queued.dispatcher.look_for_cancels()
        return JSONResponse({"status": "CANCELLATION_REQUESTED"}, 202)

    async def _row(self, request: Request) -> RowMapping:
        row = await self._requests.get(request.path_params["id"])
        if row is None or not caller_of(request).may_see(row["caller"], row["app"]):
            raise UnknownRequest(f"there is no request {request.path_params['id']!r} here")
        return row

    async def _statuses(self, request: Request, id: str, told: int) -> AsyncIterator[bytes]:
        before = None
        with_logs = _wants_logs(request)
        row = await self._requests.get(id)
        with self._notices.watch(id, row["app"] if row is not None else "") as changed:
            while True:
                changed.clear()
                if (row := await self._requests.get(id)) is None:
                    return
                lines = self._lines(row) if with_logs else None
                new = None if lines is None else lines[told:]
                body = await self._describe(request, row, new)
                if body != before or new:
                    told += len(new or ())
                    yield b"id: %d\ndata: %s\n\n" % (told, json.dumps(body).encode())
                    before = {**body, "logs": []} if "logs" in body and new is not None else body
                if row["state"] == "done" or self._notices.is_closed:
                    return
                await changed.wait()

    async def _events(self, id: str, told: int) -> AsyncIterator[bytes]:
        with self._notices.watch(id) as changed:
            while True:
                changed.clear()
                if (row := await self._requests.get(id)) is None:
                    return
                if row["state"] == "done":
                    events = events_of(row["answer"] or b"")
                    if row["error"]:  # behind whatever was told before it
                        events = [b""] * told
                        events.append(error_event(row["error"], row["error_type"]))
                else:
                    progress = self._progress(row)
                    events = progress.events if progress is not None else []
                for event in numbered(events, told):
                    yield event
                told = max(told, len(events))
                if row["state"] == "done" or self._notices.is_closed:
                    return
                await changed.wait()

    def _progress(self, row: RowMapping) -> Progress | None:
        queued = self._apps.get(row["app"])
        return queued.dispatcher.progress(row["id"]) if queued is not None else None

    def _lines(self, row: RowMapping) -> list[dict[str, Any]]:
        """The lines of a request's log so far."""
        if row["state"] == "done":
            return list(row["logs"] or ())
        progress = self._progress(row)
        return list(progress.lines) if progress is not None else []

    async def _describe(
        self, request: Request, row: RowMapping, logs: list[dict[str, Any]] | None
    ) -> dict[str, Any]:
        """The JSON that says where a request stands, in the words that clients know."""
        body: dict[str, Any] = {"request_id": row["id"], **_urls(request, row["app"], row["id"])}
        if row["state"] == "queued":
            position = await self._requests.position(row["id"]) or 0
            queued = self._apps.get(row["app"])
            reason = queued.app.reason(position) if queued is not None else "the app is not here"
            if row["retries"]:
                reason += f"; retry {row['retries']} of {MAX_RETRIES}"
            return {"status": "IN_QUEUE", "queue_position": position, "reason": reason, **body}
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


def _answer(row: RowMapping) -> Response:
    """The answer that was kept."""
    headers = {name.lower(): value for name, value in row["answer_headers"].items()}
    headers = {name: value for name, value in headers.items() if name.encode() not in HOP_BY_HOP}
    headers["x-fal-request-id"] = row["id"]
    if row["error_type"]:
        headers["x-fal-error-type"] = row["error_type"]
    body = row["answer"]
    if not body and row["error"]:  # nobody answered: say why
        body = json.dumps({"detail": row["error"], "error_type": row["error_type"]}).encode()
        headers["content-type"] = "application/json"
    return Response(body, row["status_code"], headers)


def _event_stream(events: AsyncIterator[bytes], id: str) -> StreamingResponse:
    headers = {"x-fal-request-id": id, "cache-control": "no-store"}
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)


def _kept(request: Request, app: str, filing: Filing) -> dict[str, str]:
    """The headers that the app is given when the request is run, and where its caller found us."""
    dropped = {*PRIVATE, *(name.decode() for name in HOP_BY_HOP)}
    kept = {name: value for name, value in request.headers.items() if name not in dropped}
    here = place(request.scope, app) + filing.request_headers(request.scope)
    return kept | {name.decode(): value.decode("latin-1") for name, value in here}


def _wants_logs(request: Request) -> bool:
    return request.query_params.get("logs", "0").lower() in ("1", "true")


def _last_event(request: Request) -> int:
    """How many events the caller has had."""
    value = request.headers.get("last-event-id", "0")
    return int(value) if value.isdecimal() else 0


def _number(request: Request, name: str) -> float | None:
    value = request.query_params.get(name)
    try:
        return None if value is None else float(value)
    except ValueError:
        raise InvalidInput(f"{name} is a number, not {value!r}") from None


def _limit(request: Request) -> int:
    value = request.query_params.get("limit", "100")
    if not value.isdecimal() or not 1 <= int(value) <= MOST_LISTED:
        raise InvalidInput(f"limit is a number from 1 to {MOST_LISTED}, not {value!r}")
    return int(value)


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


def _is_json(body: bytes) -> bool:
    try:
        json.loads(body)
    except ValueError:
        return False
    return True
