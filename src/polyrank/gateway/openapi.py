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


def document() -> dict[str, Any]:
    """The whole of it, of this version."""
    folder = resources.files("polyrank.gateway") / "api"
    whole: dict[str, Any] = {}
    for name in PARTS:
        _add(whole, yaml.safe_load((folder / f"{name}.yaml").read_text("utf-8")))
    whole["info"]["version"] = metadata.version("polyrank")
    return whole


def _add(whole: dict[str, Any], part: dict[str, Any]) -> None:
    for name, value in part.items():
        if isinstance(value, dict) and name in whole:
            _add(whole[name], value)
        else:
            whole[name] = value


class ServerDocument:
    """The handler of the document's route."""

    def __init__(self) -> None:
        self._text = b""

    def routes(self) -> list[BaseRoute]:
        """``/openapi.json``."""
        return [Route("/openapi.json", self.serve)]

    async def serve(self, _: Request) -> Response:
        """The document, read at the first call: most servers are never asked for it."""
        if not self._text:
            self._text = json.dumps(document()).encode()
        return Response(self._text, media_type="application/json")
