"""The server's own OpenAPI document, ``/openapi.json``."""

from __future__ import annotations

import json
from importlib import metadata, resources
from typing import Any

import yaml
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route


def document() -> dict[str, Any]:
    """What ``openapi.yaml`` says, of this version."""
    text = resources.files("polyrank.gateway").joinpath("openapi.yaml").read_text("utf-8")
    said: dict[str, Any] = yaml.safe_load(text)
    said["info"]["version"] = metadata.version("polyrank")
    return said


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
