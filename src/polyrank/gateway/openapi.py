"""The server's own OpenAPI document, ``/openapi.json``; it is written by hand, in ``api/``."""

from __future__ import annotations

import json
from importlib import metadata, resources
from typing import Any

import yaml
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

# In the order in which a reader meets them.
PARTS = ("server", "run", "queue", "files", "callers")
# And of servers to which apps are deployed.
DEPLOYMENTS = ("deployments", "belongings")


def document(*more: str) -> dict[str, Any]:
    """The whole of it, of this version, with ``more`` parts."""
    folder = resources.files("polyrank.gateway") / "api"
    whole: dict[str, Any] = {}
    for name in (*PARTS, *more):
        _add(whole, yaml.safe_load((folder / f"{name}.yaml").read_text("utf-8")))
    whole["info"]["version"] = metadata.version("polyrank")
    return whole


def _add(whole: dict[str, Any], part: dict[str, Any]) -> None:
    for name, value in part.items():
        if isinstance(value, dict) and name in whole:
            _add(whole[name], value)
        elif isinstance(value, list) and name in whole:
            whole[name] += value
        else:
            whole[name] = value


class ServerDocument:
    """The handler of the document's route."""

    def __init__(self, *more: str) -> None:
        self._more = more
        self._text = b""

    def routes(self) -> list[BaseRoute]:
        """``/openapi.json``."""
        return [Route("/openapi.json", self.serve)]

    async def serve(self, _: Request) -> Response:
        """The document, read at the first call: most servers are never asked for it."""
        if not self._text:
            self._text = json.dumps(document(*self._more)).encode()
        return Response(self._text, media_type="application/json")
