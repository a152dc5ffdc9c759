"""Answers that the server itself gives."""

from __future__ import annotations

import json
import math
from typing import Any

import httpx
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Match, Route
from starlette.types import Receive

from polyrank.errors import InvalidInput, PolyrankError, RequestAborted

MAX_BODY_BYTES = 100 * 2**20
RETRY_AFTER_S = 1
MAX_WEBHOOK_URL = 4096


class UnknownApp(PolyrankError):
    """No such app here."""

    status = 404
    code = "app_not_found"


class BodyTooLarge(InvalidInput):
    """A request body above the limit; files are uploaded, and sent as URLs."""

    status = 413
    code = "body_too_large"


def error_answer(error: Exception, request_id: str | None = None) -> JSONResponse:
    """The answer to a request that failed with one of our errors."""
    assert isinstance(error, PolyrankError)
    headers = {"x-fal-error-type": error.code}
    if request_id is not None:
        headers["x-fal-request-id"] = request_id
    if "timeout_type" in error.details:
        headers["x-fal-request-timeout-type"] = error.details["timeout_type"]
    if error.status == 429 or "retry_after_s" in error.details:
        wait_s = error.details.get("retry_after_s", RETRY_AFTER_S)
        headers["retry-after"] = str(math.ceil(wait_s))
    body = {"detail": error.message, "error_type": error.code}
    return JSONResponse(body, error.status, headers)


def unexpected(error: Exception) -> PolyrankError:
    """What callers are told of an error that should not be; the server's log has all of it."""
    return PolyrankError(f"the server failed: {type(error).__name__}: {error}; its log says where")


def routing_answer(request: Request, error: HTTPException) -> JSONResponse:
    """The answer to a request for which there is no route."""
    detail, headers = error.detail, dict(error.headers or {})
    if error.status_code == 404:
        detail = f"there is nothing at {request.url.path}"
    if error.status_code == 405:
        allowed = ", ".join(_allowed(request))
        detail = f"{request.url.path} is called with {allowed}, not {request.method}"
        headers = {"allow": allowed}
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
    headers["x-fal-error-type"] = code
    return JSONResponse({"detail": detail, "error_type": code}, error.status_code, headers)


def _allowed(request: Request) -> list[str]:
    """The methods of a path: a path may have several routes, and each knows only its own."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    found = next(r for r in routes if r.matches(request.scope)[0] is not Match.NONE)
    same = [route for route in routes if route.path == found.path]
    return sorted({method for route in same for method in route.methods or ()})


async def read_whole(receive: Receive, announced: bytes | None = None) -> bytes:
    """The whole body of a request. Raises BodyTooLarge beyond MAX_BODY_BYTES, at once if its
    ``announced`` length says so, and RequestAborted if it breaks off."""
    if announced is not None and announced.isdigit() and int(announced) > MAX_BODY_BYTES:
        raise BodyTooLarge(_TOO_LARGE)
    chunks, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RequestAborted("the caller went away before its request was whole")
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            raise BodyTooLarge(_TOO_LARGE)
        chunks.append(chunk)
        if not message.get("more_body"):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def read_body(request: Request) -> bytes:
    """The whole body of a request; see ``read_whole``."""
    length = request.headers.get("content-length")
    return await read_whole(request.receive, length.encode() if length is not None else None)


async def read_object(request: Request) -> dict[str, Any]:
    """The body of a request that is a JSON object; no body is an empty one. Raises InvalidInput."""
    try:
        body = json.loads(await read_body(request) or b"{}")
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise InvalidInput("the body is not a JSON object")
    return body


def start_timeout(request: Request) -> float | None:
    """Seconds that the request may wait before it starts (``X-Fal-Request-Timeout``)."""
    value = request.headers.get("x-fal-request-timeout")
    return start_limit(None if value is None else value.encode())


def start_limit(value: bytes | None) -> float | None:
    """Seconds, of a header ``X-Fal-Request-Timeout``."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        text = value.decode("latin-1")
        raise InvalidInput(f"X-Fal-Request-Timeout is a number of seconds, not {text!r}")
    return seconds


def webhook_url(request: Request) -> str | None:
    """The ``fal_webhook`` of a submit. Raises InvalidInput if it is not an http(s) URL."""
    text = request.query_params.get("fal_webhook")
    if text is None:
        return None
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise InvalidInput(f"fal_webhook is not a URL: {error}") from None
    if url.scheme not in ("http", "https") or not url.host or len(text) > MAX_WEBHOOK_URL:
        raise InvalidInput(
            f"fal_webhook is an http or https URL of up to {MAX_WEBHOOK_URL} characters"
        )
    return text


_TOO_LARGE = f"the body has more than {MAX_BODY_BYTES} bytes; upload files and send their URLs"
