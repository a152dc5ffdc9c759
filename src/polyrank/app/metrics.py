"""What an app counts with prometheus_client, told to the server that has started it."""

from __future__ import annotations

from prometheus_client import REGISTRY, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

PATH = "/metrics"
# The server asks with this header, and passes no caller's on.
ASKED = b"x-polyrank-metrics"
MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def serve(request: Request) -> Response:
    """All that is registered in this process; for callers of the app there is nothing here."""
    if ASKED.decode() not in request.headers:
        raise HTTPException(404)
    return Response(generate_latest(REGISTRY), media_type=MEDIA_TYPE)
