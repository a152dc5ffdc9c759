"""What the errors of endpoints are to their callers: a status, a reason, never a stack trace."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import Request, Response, WebSocket
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from polyrank.errors import FieldException, PolyrankError

log = logging.getLogger("polyrank.app")

OUT_OF_MEMORY = "OutOfMemoryError"


def describe_error(error: Exception) -> tuple[int, dict[str, Any]]:
    """HTTP status and JSON body of an exception: a reason, never a stack trace."""
    if isinstance(error, FieldException):
        return error.status, {**error.to_pydantic_format(), "error_type": error.code}
    if isinstance(error, HTTPException):
        kind = "bad_request" if error.status_code < 500 else "internal_error"
        return error.status_code, {"detail": error.detail, "error_type": kind}
    if _is_out_of_memory(error):
        return 503, {"detail": _reason(error), "error_type": "runner_out_of_memory"}
    if isinstance(error, PolyrankError):
        return error.status, {"detail": _reason(error), "error_type": error.code}
    name, text = type(error).__name__, str(error)
    detail = f"{name}: {text}" if text else name
    return 500, {"detail": detail, "error_type": "internal_error"}


def _reason(error: Exception) -> str:
    """What the error says; its name where it says nothing."""
    return str(error) or type(error).__name__


def error_response(error: Exception) -> JSONResponse:
    """The answer to a request that ended with ``error``; unexpected ones are logged in full."""
    status, body = describe_error(error)
    if status >= 500 and not isinstance(error, PolyrankError):
        log.error("the endpoint raised", exc_info=error)
    headers = {"x-fal-error-type": body["error_type"]}
    units = error.billable_units if isinstance(error, FieldException) else 0
    if status == 422 and units is not None:
        headers["x-fal-billable-units"] = _amount(units)
    return JSONResponse(body, status, headers)


def _amount(units: int | float | str) -> str:
    return str(units) if isinstance(units, int) else f"{float(units):.8f}"


def _is_out_of_memory(error: Exception) -> bool:
    # By type, in this process or in a rank; words in a message prove nothing.
    names = {cls.__name__ for cls in type(error).__mro__}
    return OUT_OF_MEMORY in names or getattr(error, "error_type", None) == OUT_OF_MEMORY


async def on_http_exception(request: Request | WebSocket, error: Any) -> Response:
    """The answer to a framework's own error."""
    if isinstance(request, WebSocket):
        raise error  # ``WebSocketScope`` ends the connection with it
    detail, headers = error.detail, dict(error.headers or {})
    if error.status_code == 404 and detail == "Not Found":
        detail = f"Path {request.url.path} not found"
        headers["x-fal-billable-units"] = "0"
    if error.status_code == 405 and detail == "Method Not Allowed":
        allowed = headers.get("allow", "POST")
        detail = f"{request.url.path} is called with {allowed}, not {request.method}"
    return JSONResponse({"detail": detail}, error.status_code, headers)


async def on_validation_error(request: Request, error: Any) -> Response:
    """The answer to a body that does not validate."""
    problems = [
        {key: value for key, value in problem.items() if key in ("loc", "msg", "type")}
        for problem in error.errors()
    ]
    return JSONResponse({"detail": problems}, 422, {"x-fal-billable-units": "0"})
