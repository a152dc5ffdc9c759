"""What can go wrong in a call.

ClientError
├── ClientHTTPError      the server or the app answered with an error
├── ClientTimeoutError   the caller's own time was up
├── ServerUnreachable    no answer, or it broke off
├── StreamFailed         a stream of events ended with an error
├── RealtimeError        a realtime session reported an error
└── UploadFailed         a file could not be stored
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from polyrank.errors import PolyrankError


class ClientError(PolyrankError):
    """Root of what calls raise."""

    status = 502
    code = "client_error"


class ClientHTTPError(ClientError):
    """The answer to a call was an error.

    ``detail`` is the answer's as it came (a text, or a list with an entry per bad field),
    ``error_type`` the stable code beside it; ``request_id`` finds the request on the server.
    """

    code = "http_error"

    def __init__(
        self,
        status_code: int,
        detail: Any,
        *,
        error_type: str | None = None,
        request_id: str | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> None:
        super().__init__(words(detail) or f"the server answered with status {status_code}")
        self.status_code = status_code
        self.detail = detail
        self.error_type = error_type
        self.request_id = request_id
        self.response_headers = dict(headers or {})
        self.body = body

    @property
    def response(self) -> httpx.Response:
        """The answer as httpx would have it."""
        headers = {
            name: value
            for name, value in self.response_headers.items()
            if name != "content-encoding"  # the body has been decoded
        }
        return httpx.Response(self.status_code, headers=headers, content=self.body)

    def __str__(self) -> str:
        request = f", request {self.request_id}" if self.request_id else ""
        kind = f" {self.error_type}" if self.error_type else ""
        return f"{self.message} ({self.status_code}{kind}{request})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _http_error, (vars(self),)


class ClientTimeoutError(ClientError, TimeoutError):
    """The time that the caller gave was up; a request in the queue has been cancelled."""

    status = 504
    code = "client_timeout"

    def __init__(self, timeout: float, request_id: str | None = None) -> None:
        request = f" of request {request_id}" if request_id else ""
        super().__init__(f"no result{request} within {timeout:g} s")
        self.timeout = timeout
        self.request_id = request_id

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.timeout, self.request_id)


class ServerUnreachable(ClientError, ConnectionError):
    """Nobody answered at the address, or the connection broke off."""

    status = 503
    code = "server_unreachable"


class StreamFailed(ClientError):
    """A stream ended with an error. Details: ``error_type``, ``detail``, ``request_id``."""

    code = "stream_failed"


class RealtimeError(ClientError):
    """A realtime session reported an error; ``payload`` is the whole message."""

    code = "realtime_error"

    def __init__(
        self, error: str, reason: str | None = None, payload: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(f"{error}: {reason}" if reason else error)
        self.error = error
        self.reason = reason or ""
        self.payload = dict(payload or {})

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.error, self.reason, self.payload)


class UploadFailed(ClientError):
    """The server's answer to an upload cannot be used."""

    code = "upload_failed"


def _http_error(attributes: Mapping[str, Any]) -> ClientHTTPError:
    error = ClientHTTPError(attributes["status_code"], attributes["detail"])
    vars(error).update(attributes)
    return error


def words(detail: Any) -> str:
    """An error's ``detail`` for people: one line, with a part for each bad field."""
    if not isinstance(detail, list):
        return detail if isinstance(detail, str) else ""
    parts = []
    for entry in detail:
        if not isinstance(entry, Mapping):
            parts.append(str(entry))
            continue
        path = [str(step) for step in entry.get("loc", ()) if step != "body"]
        parts.append(
            ": ".join(part for part in (".".join(path), str(entry.get("msg", ""))) if part)
        )
    return "; ".join(parts)
