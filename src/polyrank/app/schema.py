"""An app's OpenAPI document: what FastAPI reads off the endpoints, and what it cannot know.

The names of extensions (``x-fal-…``) are those that clients of the reference platform read.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable
from typing import Any, get_type_hints

from fastapi.responses import JSONResponse, Response, StreamingResponse

from polyrank.app.app import App
from polyrank.app.endpoint import Endpoint
from polyrank.app.protocol import add_websocket
from polyrank.app.realtime import Shape

# A class name has no dot, so that no model of an app has one of these names.
ERROR, INVALID_FIELD = "polyrank.Error", "polyrank.InvalidField"
KEY = "key"

REQUEST_ID = {
    "x-fal-request-id": {"description": "The request's id.", "schema": {"type": "string"}}
}
FAILURE = {
    "description": "The request failed; `detail` says why.",
    "headers": REQUEST_ID,
    "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{ERROR}"}}},
}
INVALID = FAILURE | {"description": "The input cannot be used; `detail` names the fields."}
SCHEMAS: dict[str, Any] = {
    ERROR: {
        "title": "Error",
        "type": "object",
        "required": ["detail"],
        "properties": {
            "detail": {
                "description": "Why the request failed.",
                "anyOf": [
                    {"type": "string"},
                    {"type": "array", "items": {"$ref": f"#/components/schemas/{INVALID_FIELD}"}},
                    {"type": "object"},
                ],
            },
            "error_type": {"type": "string", "description": "A stable word for the kind of error."},
        },
    },
    INVALID_FIELD: {
        "title": "InvalidField",
        "type": "object",
        "required": ["loc", "msg", "type"],
        "properties": {
            "loc": {
                "type": "array",
                "items": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
                "description": "Where: `body`, then the path of the field.",
            },
            "msg": {"type": "string"},
            "type": {"type": "string"},
        },
    },
}
SECURITY_SCHEMES = {
    KEY: {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "`Key id:secret`; not needed for public apps and on a loopback address.",
    }
}
EVENTS = {
    "text/event-stream": {
        "itemSchema": {
            "type": "object",
            "required": ["data"],
            "properties": {
                "data": {"type": "string", "contentMediaType": "application/json"},
                "event": {"type": "string"},
                "id": {"type": "string"},
            },
        }
    }
}


def complete(
    document: dict[str, Any], app: App, sockets: Iterable[tuple[str, Endpoint, Shape | None]] = ()
) -> dict[str, Any]:
    """Adds to FastAPI's document what streams, errors and websockets look like, and the order of
    paths and properties, which JSON objects do not promise."""
    document["security"] = [{}, {KEY: []}]
    components = document.setdefault("components", {})
    components["securitySchemes"] = SECURITY_SCHEMES
    components["schemas"] = {**components.get("schemas", {}), **copy.deepcopy(SCHEMAS)}
    for method, endpoint in type(app).endpoints.items():
        if (operation := document["paths"].get(endpoint.path, {}).get("post")) is not None:
            _complete_answers(operation, getattr(app, method), endpoint)
    for socket in sockets:
        add_websocket(document, *socket)
    document["x-fal-order-paths"] = _in_order(document["paths"], type(app).endpoints.values())
    for schema in components["schemas"].values():
        if "properties" in schema:
            schema["x-fal-order-properties"] = list(schema["properties"])
    return document


def served_at(document: dict[str, Any], url: str) -> dict[str, Any]:
    """The document, for a reader to whom the app is at ``url``."""
    return {**document, "servers": [{"url": url}]}


def _complete_answers(
    operation: dict[str, Any], handler: Callable[..., Any], endpoint: Endpoint
) -> None:
    if operation.keys() & {"requestBody", "parameters"}:
        operation["responses"]["422"] = INVALID
    success = operation["responses"]["200"]
    success["headers"] = REQUEST_ID
    returned = _returned(handler)
    if returned is None and endpoint.path.rsplit("/", 1)[-1] == "stream":
        returned = StreamingResponse  # clients call the path of this name for a stream
    if inspect.isclass(returned) and issubclass(returned, Response):
        success["content"] = _content(returned)


def _returned(handler: Callable[..., Any]) -> Any:
    try:
        return get_type_hints(handler).get("return")
    except NameError:  # a name that only a type checker knows
        return None


def _content(answer: type[Response]) -> dict[str, Any]:
    if answer.media_type is not None:
        schema = {} if issubclass(answer, JSONResponse) else {"type": "string"}
        return {answer.media_type: {"schema": schema}}
    return EVENTS if issubclass(answer, StreamingResponse) else {"*/*": {}}


def _in_order(paths: dict[str, Any], endpoints: Iterable[Endpoint]) -> list[str]:
    own = [endpoint.path for endpoint in endpoints]
    return own + [path for path in paths if path not in own]
