"""The client for blocking code."""

from __future__ import annotations

import contextlib
import functools
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Concatenate, ParamSpec, TypeVar

import httpx
from websockets.sync.client import ClientConnection, connect

from polyrank.client import connection
from polyrank.client.flows import Flows, Ticket
from polyrank.client.handles import SyncRequestHandle
from polyrank.client.options import ATTEMPTS, TIMEOUT_S, make_flows
from polyrank.client.parts import Part
from polyrank.client.realtime import (
    OPEN_TIMEOUT_S,
    TOKEN_S,
    Codec,
    Decode,
    Encode,
    RealtimeConnection,
)
from polyrank.client.steps import (
    Answer,
    Deadline,
    Done,
    Emit,
    Emitting,
    Flow,
    Lost,
    Open,
    Pause,
    Read,
    Request,
    Send,
    Step,
    Together,
)

P = ParamSpec("P")
T = TypeVar("T")


def _returns(
    flow: Callable[Concatenate[Flows, P], Flow[T]],
) -> Callable[Concatenate[SyncClient, P], T]:
    """The method that drives a flow to its end."""

    @functools.wraps(flow)
    def method(self: SyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._run(flow(self._flows, *args, **kwargs))

    return method


def _submits(
    flow: Callable[Concatenate[Flows, P], Flow[Ticket]],
) -> Callable[Concatenate[SyncClient, P], SyncRequestHandle]:
    """The method that gives a handle of what a flow submits."""

    @functools.wraps(flow)
    def method(self: SyncClient, /, *args: P.args, **kwargs: P.kwargs) -> SyncRequestHandle:
        ticket = self._run(flow(self._flows, *args, **kwargs))
        return SyncRequestHandle(**vars(ticket), client=self)

    return method


def _yields(
    flow: Callable[Concatenate[Flows, P], Emitting[T]],
) -> Callable[Concatenate[SyncClient, P], Iterator[T]]:
    """The method that gives a flow's values one by one."""

    @functools.wraps(flow)
    def method(self: SyncClient, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        return self._values(flow(self._flows, *args, **kwargs))

    return method


class SyncClient:
    """Calls the apps of a server.

    ``server`` and ``key`` are those of the environment and of the profile in use unless given.
    Threads may share a client; it connects when it is first used.
    """

    def __init__(
        self,
        key: str | None = None,
        default_timeout: float = TIMEOUT_S,
        *,
        server: str | None = None,
        attempts: int = ATTEMPTS,
    ) -> None:
        self.key = key
        self.default_timeout = default_timeout
        self._server = server
        self._attempts = attempts
        self._lock = threading.Lock()
        self._opened: httpx.Client | None = None

    run = _returns(Flows.run)
    submit = _submits(Flows.submit)
    subscribe = _returns(Flows.subscribe)
    stream = _yields(Flows.stream)
    status = _returns(Flows.status)
    result = _returns(Flows.result)
    cancel = _returns(Flows.cancel)
    iter_events = _yields(Flows.iter_events)
    upload = _returns(Flows.upload)
    upload_file = _returns(Flows.upload_file)
    upload_image = _returns(Flows.upload_image)

    def get_handle(self, application: str, request_id: str) -> SyncRequestHandle:
        """The handle of a request that was submitted before, by anyone."""
        return SyncRequestHandle(**vars(self._flows.ticket(application, request_id)), client=self)

    @contextlib.contextmanager
    def realtime(
        self,
        application: str,
        *,
        use_jwt: bool = False,
        path: str = "/realtime",
        max_buffering: int | None = None,
        token_expiration: int = TOKEN_S,
        encode_message: Encode | None = None,
        decode_message: Decode | None = None,
    ) -> Iterator[RealtimeConnection]:
        """A session with a realtime endpoint; it ends with the block.

        ``use_jwt`` sends a short-lived token in the URL in place of the key in a header.
        """
        with self.ws_connect(
            application,
            use_jwt=use_jwt,
            path=path,
            max_buffering=max_buffering,
            token_expiration=token_expiration,
        ) as websocket:
            yield RealtimeConnection(websocket, Codec(encode_message, decode_message))

    @contextlib.contextmanager
    def ws_connect(
        self,
        application: str,
        *,
        use_jwt: bool = False,
        path: str = "",
        max_buffering: int | None = None,
        token_expiration: int = TOKEN_S,
    ) -> Iterator[ClientConnection]:
        """A plain websocket to an endpoint of an app; it is closed with the block."""
        address = self._run(
            self._flows.websocket(
                application,
                path=path,
                use_jwt=use_jwt,
                max_buffering=max_buffering,
                token_expiration=token_expiration,
            )
        )
        with connect(
            address.url,
            additional_headers=address.headers,
            user_agent_header=None,
            open_timeout=OPEN_TIMEOUT_S,
            max_size=None,
            proxy=None if self._flows.endpoints.is_loopback else True,
        ) as websocket:
            yield websocket

    def close(self) -> None:
        """Closes the connections; the next call opens new ones."""
        with self._lock:
            opened, self._opened = self._opened, None
        if opened is not None:
            opened.close()

    def __enter__(self) -> SyncClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @functools.cached_property
    def _flows(self) -> Flows:
        return make_flows(self._server, self.key, self.default_timeout, self._attempts)

    def _http(self) -> httpx.Client:
        with self._lock:
            if self._opened is None:
                self._opened = httpx.Client(**connection.options(self._flows.endpoints))
            return self._opened

    def _run(self, flow: Flow[T]) -> T:
        with contextlib.closing(flow), _Exchange(self) as exchange:
            while isinstance(step := _advance(flow, exchange), Emit):
                pass
            return step.value

    def _values(self, flow: Emitting[T]) -> Iterator[T]:
        with contextlib.closing(flow), _Exchange(self) as exchange:
            while isinstance(step := _advance(flow, exchange), Emit):
                yield step.value


def _advance(flow: Generator[Step | Emit[Any], Any, T], exchange: _Exchange) -> Emit[Any] | Done[T]:
    """Drives a flow to its next value, or to its end."""
    try:
        step = next(flow)
        while not isinstance(step, Emit):
            try:
                reply = exchange.perform(step)
            except Lost as lost:
                step = flow.throw(lost)
            else:
                step = flow.send(reply)
        return step
    except StopIteration as end:
        return Done(end.value)


class _Exchange:
    """Performs the steps of one flow; holds the one stream that may be open."""

    def __init__(self, client: SyncClient) -> None:
        self._client = client
        self._http = client._http()
        self._response: httpx.Response | None = None
        self._chunks: Iterator[bytes] = iter(())
        self._alarm: _Alarm | None = None

    def __enter__(self) -> _Exchange:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def perform(self, step: Step) -> Any:
        """What comes of a step. Raises Lost."""
        match step:
            case Send(request):
                return self._send(request)
            case Open(request, deadline):
                return self._open(request, deadline)
            case Read():
                return self._read()
            case Pause(seconds):
                return time.sleep(seconds)
            case Together(flows, limit):
                return self._together(flows, limit)

    def _send(self, request: Request) -> Answer:
        try:
            response = self._http.request(**connection.arguments(request, Part.chunks))
        except httpx.RequestError as error:
            raise connection.lost(error) from error
        return connection.answer_of(response, response.content)

    def _open(self, request: Request, deadline: Deadline) -> Answer:
        self._close()
        built = self._http.build_request(**connection.arguments(request, Part.chunks))
        try:
            response = self._response = self._http.send(built, stream=True)
            if not connection.is_stream(response):
                return connection.answer_of(response, response.read())
        except httpx.RequestError as error:
            raise connection.lost(error) from error
        if deadline.at is not None:
            self._alarm = _Alarm(response, deadline.at)
        self._chunks = response.iter_bytes()
        return connection.answer_of(response)

    def _read(self) -> bytes:
        try:
            return next(self._chunks, b"")
        except httpx.RequestError as error:
            raise connection.lost(error) from error

    def _together(self, flows: Any, limit: int) -> list[Any]:
        with ThreadPoolExecutor(limit) as pool:
            running = [pool.submit(self._client._run, flow) for flow in flows]
            try:
                return [each.result() for each in running]
            finally:
                pool.shutdown(cancel_futures=True)

    def _close(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        if self._response is not None:
            self._response.close()
        self._alarm = self._response = None


class _Alarm:
    """Ends a wait for the server at a moment, though bytes keep coming.

    A blocking read has a limit for each wait only; one thread ends it by closing the connection.
    """

    def __init__(self, response: httpx.Response, at: float) -> None:
        self._socket: socket.socket = response.extensions["network_stream"].get_extra_info("socket")
        self._timer = threading.Timer(max(0.0, at - time.monotonic()), self._ring)
        self._timer.daemon = True
        self._timer.start()

    def cancel(self) -> None:
        """It is not needed any more."""
        self._timer.cancel()

    def _ring(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
