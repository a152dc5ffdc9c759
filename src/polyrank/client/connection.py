"""What both drivers need to know of httpx: addresses, time limits, what went wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx

from polyrank.client.endpoints import Endpoints
from polyrank.client.errors import ClientError
from polyrank.client.parts import Part
from polyrank.client.steps import Answer, Lost, Request

CONNECT_TIMEOUT_S = 10.0


def options(endpoints: Endpoints) -> dict[str, Any]:
    """The arguments of an httpx client for this server."""
    return {
        "follow_redirects": True,
        # What the environment says of proxies is not about this machine.
        "mounts": {f"all://{endpoints.host}": None} if endpoints.is_loopback else {},
        "limits": httpx.Limits(max_connections=None, max_keepalive_connections=20),
    }


def arguments(request: Request, chunks: Callable[[Part], Any]) -> dict[str, Any]:
    """The arguments of httpx for a request; ``chunks`` reads what is sent from a file."""
    connect_s = min(CONNECT_TIMEOUT_S, request.timeout_s or CONNECT_TIMEOUT_S)
    # Bytes: the name of a file is UTF-8, which httpx would not write by itself.
    headers = {name: value.encode() for name, value in request.headers.items()}
    content = request.content
    if isinstance(content, Part):
        headers["content-length"] = b"%d" % content.size
    return {
        "method": request.method,
        "url": request.url,
        "headers": headers,
        "content": chunks(content) if isinstance(content, Part) else content,
        "timeout": httpx.Timeout(request.timeout_s, connect=connect_s),
    }


def answer_of(response: httpx.Response, content: bytes = b"") -> Answer:
    """The answer of a response."""
    return Answer(response.status_code, dict(response.headers), content)


def is_stream(response: httpx.Response) -> bool:
    """Whether a response is to be read as it comes."""
    kind = str(response.headers.get("content-type", ""))
    return response.status_code < 400 and kind.startswith("text/event-stream")


def lost(error: httpx.RequestError) -> Lost:
    """What an error of httpx means for a flow. Raises ClientError if it is the caller's."""
    if isinstance(error, httpx.LocalProtocolError | httpx.UnsupportedProtocol):
        raise ClientError(f"{error.request.url} cannot be asked: {error}") from error
    is_sent = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
    is_late = isinstance(error, httpx.TimeoutException)
    reason = str(error) or type(error).__name__
    return Lost("no answer in time" if is_late else reason, is_sent=is_sent, is_late=is_late)
