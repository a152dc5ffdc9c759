"""Websockets in an app's schema: OpenAPI has no word for them, so they are ``x-fal-protocol``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError

from polyrank.app.endpoint import Endpoint
from polyrank.app.realtime import RealtimeEndpoint, Shape

TEMPLATE = "#/components/schemas/{model}"


def add_websocket(
    schema: dict[str, Any], method: str, endpoint: Endpoint, shape: Shape | None
) -> None:
    """Adds the websocket endpoint that ``method`` is; ``shape`` is that of a realtime one."""
    told: dict[str, Any] = {"type": "websocket", "operationId": method}
    if isinstance(endpoint, RealtimeEndpoint) and shape is not None:
        components = schema.setdefault("components", {}).setdefault("schemas", {})
        told = {
            "type": "realtime",
            "operationId": method,
            "realtimeMode": shape.mode.value,
            "contentType": endpoint.content_type,
            "config": {
                "buffering": endpoint.buffering,
                "sessionTimeout": endpoint.session_timeout,
                "maxBatchSize": endpoint.max_batch_size,
            },
            "input": _described(shape.input, "validation", components),
            "output": _described(shape.output, "serialization", components),
        }
    schema.setdefault("paths", {}).setdefault(endpoint.path, {})["x-fal-protocol"] = told


def _described(
    model: Any, mode: Literal["validation", "serialization"], components: dict[str, Any]
) -> Mapping[str, Any]:
    """A type's schema, its models among the components; nothing of a type that has none."""
    if model is None:
        return {}
    try:
        found, shared = TypeAdapter.json_schemas(
            [("it", mode, TypeAdapter(model))], ref_template=TEMPLATE
        )
    except (PydanticSchemaGenerationError, PydanticInvalidForJsonSchema):
        return {}
    for name, part in shared.get("$defs", {}).items():
        components.setdefault(name, part)
    return found["it", mode]
