"""What is said between a caller and a server, without any I/O: one flow for each kind of call.

``SyncClient`` and ``AsyncClient`` drive these flows; their methods have the arguments of the flows
of the same names.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from polyrank.client import encoding, objects, statuses
from polyrank.client.endpoints import AppId, Endpoints
from polyrank.client.errors import (
    ClientError,
    ClientTimeoutError,
    ServerUnreachable,
    StreamFailed,
    words,
)
from polyrank.client.eventsource import EventSource
from polyrank.client.parts import Part
from polyrank.client.retries import attempt
from polyrank.client.statuses import Completed, Status
from polyrank.client.steps import (
    Answer,
    Deadline,
    DeadlinePassed,
    Emit,
    Emitting,
    Flow,
    Pause,
    Request,
)
from polyrank.client.storage import StorageSettings
from polyrank.client.uploads import Uploads

if TYPE_CHECKING:
    from PIL.Image import Image

Priority: TypeAlias = Literal["normal", "low"]
Arguments: TypeAlias = Mapping[str, Any]
Headers: TypeAlias = Mapping[str, str]

# A stream of statuses that ends too early is asked for again after so long.
REOPEN_S = 0.2
# How an app or a server says, in a stream that has begun, that it failed.
FAILED = {"error", "detail", "error_type"}


@dataclass(frozen=True)
class Ticket:
    """A submitted request and where it is found, as the server told."""

    request_id: str
    response_url: str
    status_url: str
    cancel_url: str


@dataclass(frozen=True)
class WebSocketAddress:
    """Where to open a websocket, and with which headers."""

    url: str
    headers: dict[str, str]


class Flows:
    """The calls of one server with one key.

    ``timeout_s`` bounds each wait for the server where its answer does not depend on an app;
    ``attempts`` is how often a request is sent that may safely be sent again.
    """

    def __init__(
        self, server: str, key: str | None, *, agent: str, timeout_s: float, attempts: int
    ) -> None:
        self.endpoints = Endpoints(server)
        self.key = key
        self._timeout_s = timeout_s
        self._attempts = attempts
        self._headers = {"user-agent": agent, "accept": "application/json"}
        if key is not None:
            self._headers["authorization"] = f"Key {key}"
        self._uploads = Uploads(self.endpoints, self._headers, attempts, timeout_s)

    def run(
        self,
        application: str,
        arguments: Arguments | None = None,
        *,
        method: str = "POST",
        path: str = "",
        timeout: float | None = None,
        start_timeout: float | None = None,
        hint: str | None = None,
        headers: Headers | None = None,
        idempotency_key: str | None = None,
    ) -> Flow[Any]:
        """Calls an endpoint directly and returns its answer; hanging up ends the work.

        ``timeout`` is how long to wait for the server to say anything, ``start_timeout`` how long
        the request may wait before it starts. With an ``idempotency_key`` the request is kept as a
        queued one is: it is done once, however often it is sent and whether or not the caller
        stays.
        """
        headers = self._call_headers(headers, hint, start_timeout, idempotency_key)
        body = None if method.upper() == "GET" else _body(arguments)
        url = self.endpoints.run(application, path)
        request = Request(method.upper(), url, headers, body, timeout)
        repeatable = request.method == "GET" or idempotency_key is not None
        try:
            answer = yield from attempt(
                request, self._attempts, repeatable=repeatable and timeout is None
            )
        except ServerUnreachable as error:
            if timeout is not None and error.is_late:
                raise ClientTimeoutError(timeout) from error
            raise
        return answer.checked().json()

    def submit(
        self,
        application: str,
        arguments: Arguments | None = None,
        *,
        path: str = "",
        hint: str | None = None,
        webhook_url: str | None = None,
        priority: Priority | None = None,
        headers: Headers | None = None,
        start_timeout: float | None = None,
        idempotency_key: str | None = None,
    ) -> Flow[Ticket]:
        """Puts a request into the queue and returns its handle.

        It is kept once, however often it has to be sent: the same ``idempotency_key``, one of its
        own unless given, comes with each attempt. ``start_timeout`` is how long it may wait before
        it starts.
        """
        return (
            yield from self._submit(
                Deadline(),
                application,
                arguments,
                path=path,
                hint=hint,
                webhook_url=webhook_url,
                priority=priority,
                headers=headers,
                start_timeout=start_timeout,
                idempotency_key=idempotency_key,
            )
        )

    def subscribe(
        self,
        application: str,
        arguments: Arguments | None = None,
        *,
        path: str = "",
        hint: str | None = None,
        with_logs: bool = False,
        interval: float | None = None,
        on_enqueue: Callable[[str], object] | None = None,
        on_queue_update: Callable[[Status], object] | None = None,
        priority: Priority | None = None,
        headers: Headers | None = None,
        start_timeout: float | None = None,
        client_timeout: float | None = None,
        webhook_url: str | None = None,
        idempotency_key: str | None = None,
    ) -> Flow[Any]:
        """Submits a request, waits for its end and returns its result.

        ``on_enqueue`` is told its id, ``on_queue_update`` each change of its status. After
        ``client_timeout`` seconds it is cancelled, with a ClientTimeoutError that names it.
        ``interval`` is accepted and not needed: changes are told, not asked for.
        """
        deadline = Deadline.after(client_timeout)
        ticket: Ticket | None = None
        try:
            ticket = yield from self._submit(
                deadline,
                application,
                arguments,
                path=path,
                hint=hint,
                webhook_url=webhook_url,
                priority=priority,
                headers=headers,
                start_timeout=client_timeout if start_timeout is None else start_timeout,
                idempotency_key=idempotency_key,
            )
            if on_enqueue is not None:
                on_enqueue(ticket.request_id)
            watch = _Watch(self, ticket, with_logs=with_logs, deadline=deadline)
            while (status := (yield from watch.next())) is not None:
                if on_queue_update is not None:
                    on_queue_update(status)
            return (yield from self._result(ticket, deadline))
        except DeadlinePassed as passed:
            assert client_timeout is not None
            if ticket is not None:
                yield from self._cancel_if_possible(ticket)
            id = ticket.request_id if ticket is not None else None
            raise ClientTimeoutError(client_timeout, id) from passed

    def stream(
        self,
        application: str,
        arguments: Arguments | None = None,
        *,
        path: str = "/stream",
        timeout: float | None = None,
        headers: Headers | None = None,
        idempotency_key: str | None = None,
    ) -> Emitting[Any]:
        """Calls a streaming endpoint and gives its events as they come; hanging up ends the work.

        ``timeout`` is how long to wait for the next event. With an ``idempotency_key`` the request
        is kept as a queued one is, and the stream goes on where a lost connection broke it off.
        """
        below = "" if AppId.parse(application).path.endswith(path.strip("/")) else path
        headers = self._call_headers(headers, None, None, idempotency_key)
        url = self.endpoints.run(application, below)
        request = Request("POST", url, headers, _body(arguments), timeout)
        resumable = idempotency_key is not None and timeout is None
        source = EventSource(request, self._attempts, Deadline(), resumable=resumable)
        try:
            yield from _emit_all(source)
        except ServerUnreachable as error:
            if timeout is not None and error.is_late:
                raise ClientTimeoutError(timeout, source.headers.get("x-fal-request-id")) from error
            raise

    def ticket(self, application: str, request_id: str) -> Ticket:
        """A request that was submitted before, by anyone."""
        url = self.endpoints.request(application, request_id)
        return Ticket(request_id, url, f"{url}/status", f"{url}/cancel")

    def status(self, application: str, request_id: str, *, with_logs: bool = False) -> Flow[Status]:
        """Where a submitted request stands: a Queued, an InProgress or a Completed."""
        return (yield from self.status_of(self.ticket(application, request_id), with_logs))

    def result(self, application: str, request_id: str) -> Flow[Any]:
        """Waits for the end of a submitted request and returns its result."""
        return (yield from self.result_of(self.ticket(application, request_id)))

    def cancel(self, application: str, request_id: str) -> Flow[None]:
        """Cancels a submitted request: it is not started, or stopped on every rank."""
        yield from self.cancel_of(self.ticket(application, request_id))

    def iter_events(
        self, application: str, request_id: str, *, with_logs: bool = False
    ) -> Emitting[Status]:
        """The statuses of a submitted request as they change, to the last, a Completed."""
        yield from self.events_of(self.ticket(application, request_id), with_logs)

    def upload(
        self,
        data: str | bytes,
        content_type: str,
        file_name: str | None = None,
        *,
        repository: str | None = None,
        fallback_repository: str | list[str] | None = None,
        lifecycle: StorageSettings | None = None,
    ) -> Flow[str]:
        """Stores some bytes and returns the URL they are read at.

        The repositories are accepted and not used: a server has one store.
        """
        raw = data.encode() if isinstance(data, str) else data
        return (yield from self._uploads.upload(Part.of(raw), content_type, file_name, lifecycle))

    def upload_file(
        self,
        path: str | os.PathLike[str],
        *,
        repository: str | None = None,
        fallback_repository: str | list[str] | None = None,
        lifecycle: StorageSettings | None = None,
    ) -> Flow[str]:
        """Stores a file and returns the URL it is read at; memory does not grow with its size."""
        path = Path(path)
        kind = encoding.type_of(path)
        return (yield from self._uploads.upload(Part.of(path), kind, path.name, lifecycle))

    def upload_image(
        self,
        image: Image,
        format: str = "jpeg",
        *,
        repository: str | None = None,
        fallback_repository: str | list[str] | None = None,
        lifecycle: StorageSettings | None = None,
    ) -> Flow[str]:
        """Stores a Pillow image and returns the URL it is read at."""
        whole = Part.of(encoding.image_bytes(image, format))
        return (yield from self._uploads.upload(whole, f"image/{format}", None, lifecycle))

    def status_of(self, ticket: Ticket, with_logs: bool = False) -> Flow[Status]:
        """As ``status``."""
        url = f"{ticket.status_url}?logs={int(with_logs)}"
        request = Request("GET", url, self._headers, timeout_s=self._timeout_s)
        answer = yield from attempt(request, self._attempts, repeatable=True)
        return statuses.parse(answer.checked().json())

    def events_of(self, ticket: Ticket, with_logs: bool = False) -> Emitting[Status]:
        """As ``iter_events``."""
        watch = _Watch(self, ticket, with_logs=with_logs, deadline=Deadline())
        while (status := (yield from watch.next())) is not None:
            yield Emit(status)

    def result_of(self, ticket: Ticket) -> Flow[Any]:
        """As ``result``."""
        watch = _Watch(self, ticket, with_logs=False, deadline=Deadline())
        while (yield from watch.next()) is not None:
            pass
        return (yield from self._result(ticket, Deadline()))

    def cancel_of(self, ticket: Ticket) -> Flow[None]:
        """As ``cancel``."""
        answer = yield from self._cancel(ticket)
        answer.checked()

    def stream_of(self, ticket: Ticket) -> Emitting[Any]:
        """The events of a submitted request of a streaming endpoint, live and from the first."""
        request = Request("GET", f"{ticket.response_url}/events", self._headers)
        source = EventSource(request, self._attempts, Deadline(), resumable=True)
        while True:
            yield from _emit_all(source)
            status = yield from self.status_of(ticket)
            if isinstance(status, Completed):
                if status.error is not None:
                    raise StreamFailed(
                        status.error,
                        detail=status.error,
                        error_type=status.error_type,
                        request_id=ticket.request_id,
                    )
                return
            yield Pause(REOPEN_S)  # the server ended in order, the request did not

    def websocket(
        self,
        application: str,
        *,
        path: str,
        use_jwt: bool,
        max_buffering: int | None,
        token_expiration: int,
    ) -> Flow[WebSocketAddress]:
        """The address of a websocket endpoint: with the key in a header, or a token in the URL."""
        headers = {"user-agent": self._headers["user-agent"]}
        token: str | None = None
        if use_jwt:
            token = yield from self._realtime_token(application, token_expiration)
        elif self.key is not None:
            headers["authorization"] = f"Key {self.key}"
        url = self.endpoints.websocket(application, path, token, max_buffering)
        return WebSocketAddress(url, headers)

    def _submit(
        self,
        deadline: Deadline,
        application: str,
        arguments: Arguments | None,
        *,
        path: str,
        hint: str | None,
        webhook_url: str | None,
        priority: Priority | None,
        headers: Headers | None,
        start_timeout: float | None,
        idempotency_key: str | None,
    ) -> Flow[Ticket]:
        key = idempotency_key or uuid.uuid4().hex
        headers = self._call_headers(headers, hint, start_timeout, key)
        if priority is not None:
            headers["x-fal-queue-priority"] = priority
        url = self.endpoints.queue(application, path, webhook_url)
        request = Request("POST", url, headers, _body(arguments), self._timeout_s)
        answer = yield from attempt(request, self._attempts, repeatable=True, deadline=deadline)
        said = answer.checked().json()
        names = "request_id", "response_url", "status_url", "cancel_url"
        if missing := [name for name in names if name not in said]:
            raise ClientError(f"{url} answered without {', '.join(missing)}: is it a server?")
        return Ticket(*(said[name] for name in names))

    def _result(self, ticket: Ticket, deadline: Deadline) -> Flow[Any]:
        request = Request("GET", ticket.response_url, self._headers, timeout_s=self._timeout_s)
        answer = yield from attempt(request, self._attempts, repeatable=True, deadline=deadline)
        answer.checked()
        if answer.headers.get("content-type", "").startswith("text/event-stream"):
            raise ClientError(
                f"request {ticket.request_id} was answered with a stream of events: "
                "read them with the handle's stream()"
            )
        return answer.json()

    def _cancel(self, ticket: Ticket) -> Flow[Answer]:
        request = Request("PUT", ticket.cancel_url, self._headers, timeout_s=self._timeout_s)
        return (yield from attempt(request, self._attempts, repeatable=True))

    def _cancel_if_possible(self, ticket: Ticket) -> Flow[None]:
        """Cancels when the caller is told of something worse anyway."""
        try:
            yield from self._cancel(ticket)
        except ClientError:
            return

    def _realtime_token(self, application: str, seconds: int) -> Flow[str]:
        alias = AppId.parse(application).app.rpartition("/")[2]
        body = json.dumps({"allowed_apps": [alias], "token_expiration": seconds}).encode()
        headers = {**self._headers, "content-type": "application/json"}
        url = self.endpoints.at("tokens/")
        request = Request("POST", url, headers, body, self._timeout_s)
        answer = yield from attempt(request, self._attempts, repeatable=True)
        said = answer.checked().json()
        token = said.get("token") if isinstance(said, dict) else said
        if not isinstance(token, str):
            raise ClientError(f"{url} answered with no token")
        return token

    def _call_headers(
        self,
        own: Headers | None,
        hint: str | None,
        start_timeout: float | None,
        idempotency_key: str | None,
    ) -> dict[str, str]:
        headers = {**self._headers, "content-type": "application/json"}
        if hint is not None:
            headers["x-fal-runner-hint"] = hint
        if start_timeout is not None:
            if start_timeout <= 0:
                raise ClientError(f"start_timeout is a number of seconds, not {start_timeout}")
            headers["x-fal-request-timeout"] = str(float(start_timeout))
        if idempotency_key is not None:
            headers["idempotency-key"] = idempotency_key
        return headers | {name.lower(): value for name, value in (own or {}).items()}


class _Watch:
    """A request's statuses, each once, to the one that says that it is done."""

    def __init__(
        self, flows: Flows, ticket: Ticket, *, with_logs: bool, deadline: Deadline
    ) -> None:
        request = Request(
            "GET", f"{ticket.status_url}/stream?logs={int(with_logs)}", flows._headers
        )
        self._source = EventSource(request, flows._attempts, deadline, resumable=True)
        self._deadline = deadline
        self._last: Status | None = None

    def next(self) -> Flow[Status | None]:
        """The next status; None after the last."""
        while not isinstance(self._last, Completed):
            event = yield from self._source.next()
            if event is None:  # a server that ends in order ends its streams
                yield Pause(self._deadline.left(REOPEN_S) or 0.0)
                continue
            status = statuses.parse(objects.load(event.data))
            if status != self._last or getattr(status, "logs", None):
                self._last = status
                return status
        return None


def _emit_all(source: EventSource) -> Emitting[Any]:
    while (event := (yield from source.next())) is not None:
        try:
            value = objects.load(event.data)
        except ValueError:
            raise ClientError(f"an event is not JSON but {event.data[:200]!r}") from None
        if isinstance(value, dict) and value.keys() >= FAILED:
            raise StreamFailed(
                words(value["detail"]) or str(value["error"]),
                detail=value["detail"],
                error_type=value["error_type"],
                request_id=source.headers.get("x-fal-request-id"),
            )
        yield Emit(value)


def _body(arguments: Arguments | None) -> bytes:
    try:
        return json.dumps(dict(arguments or {})).encode()
    except TypeError as error:
        raise ClientError(
            f"the arguments cannot be sent as JSON: {error}; "
            "upload files and pictures, or encode them as data URIs"
        ) from error
