"""Answers that the server itself gives."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from polyrank.errors import InvalidInput, PolyrankError, QueueFull, RequestTimeout

MAX_BODY_BYTES = 100 * 2**20
RETRY_AFTER_S = 1


class UnknownApp(PolyrankError):
    """No such app here."""

    status = 404
    code = "app_not_found"


class BodyTooLarge(InvalidInput):
    """A request body above the limit; files are uploaded, and sent as URLs."""

    status = 413
    code = "body_too_large"


class NotStarted(RequestTimeout):
    """A request waited as long as its caller would have it wait; clients do not send it again."""


def error_answer(error: Exception, request_id: str | None = None) -> JSONResponse:
    """The answer to a request that failed with one of our errors."""
    assert isinstance(error, PolyrankError)
    headers = {"x-fal-error-type": error.code}
    if request_id is not None:
        headers["x-fal-request-id"] = request_id
    if isinstance(error, QueueFull):
        headers["retry-after"] = str(RETRY_AFTER_S)
    if isinstance(error, NotStarted):
        headers["x-fal-request-timeout-type"] = "user"
    body = {"detail": error.message, "error_type": error.code}
    return JSONResponse(body, error.status, headers)


def routing_answer(request: Request, error: HTTPException) -> JSONResponse:
    """The answer to a request for which there is no route."""
    detail, headers = error.detail, dict(error.headers or {})
    if error.status_code == 404:
        detail = f"there is nothing at {request.url.path}"
    if error.status_code == 405:
        allowed = next((v for k, v in headers.items() if k.lower() == "allow"), "other methods")
        detail = f"{request.url.path} is called with {allowed}, not {request.method}"
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
    headers["x-fal-error-type"] = code
    return JSONResponse({"detail": detail, "error_type": code}, error.status_code, headers)


async def read_body(request: Request) -> bytes:
    """The whole body. Raises BodyTooLarge beyond MAX_BODY_BYTES."""
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            raise BodyTooLarge(
                f"the body has more than {MAX_BODY_BYTES} bytes; upload files and send their URLs"
            )
        chunks.append(chunk)
    return b"".join(chunks)


def start_timeout(request: Request) -> float | None:
    """Seconds that the request may wait before it starts (``X-Fal-Request-Timeout``)."""
    value = request.headers.get("x-fal-request-timeout")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise InvalidInput(f"X-Fal-Request-Timeout is a number of seconds, not {value!r}")
    return seconds
