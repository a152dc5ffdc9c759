"""What the messages of a realtime session mean: inputs and outputs as msgpack or JSON.

Binary messages are msgpack, text is JSON. Outputs are msgpack unless the endpoint says otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError
from pydantic_core import to_jsonable_python

from polyrank.app.realtime import RealtimeEndpoint, Shape
from polyrank.errors import AppError, InvalidInput

Frame = bytes | str
JSON = "application/json"


class Codec:
    """Reads and writes the messages of one endpoint."""

    def __init__(self, endpoint: RealtimeEndpoint, shape: Shape) -> None:
        self._input = _checker(endpoint.path, shape.input)
        self._decode = endpoint.decode_message or _plain
        self._encode: Callable[[Any], Frame] | None = endpoint.encode_message
        self._is_json = endpoint.content_type == JSON

    def decode(self, frame: Frame) -> Any:
        """The input in a message. Raises InvalidInput, with ``problems`` if it does not fit."""
        try:
            value = self._decode(frame)  # type: ignore[arg-type]  # text is not for custom ones
        except Exception as error:
            reason = str(error) or type(error).__name__
            raise InvalidInput(f"the message cannot be read: {reason}") from error
        if self._input is None:
            return value
        try:
            return self._input.validate_python(value)
        except ValidationError as error:
            raise InvalidInput("the input does not fit", problems=_listed(error)) from None

    def encode(self, output: Any) -> Frame:
        """The message of an output. Raises TypeError for what cannot be sent."""
        if isinstance(output, BaseModel):
            output = output.model_dump(by_alias=True)
        if self._encode is not None:
            return self._encode(output)
        if not isinstance(output, dict):
            raise TypeError(
                f"a realtime endpoint gives dicts or pydantic models, not {type(output).__name__}"
            )
        if self._is_json:
            return json.dumps(output, default=_plainly, ensure_ascii=False)
        return msgspec.msgpack.encode(output, enc_hook=_plainly)


def _checker(path: str, model: Any) -> TypeAdapter[Any] | None:
    if model is None:
        return None
    try:
        return TypeAdapter(model)
    except PydanticSchemaGenerationError:
        raise AppError(
            f"inputs of realtime endpoint {path} are {model!r}, which pydantic cannot check"
        ) from None


def _plain(frame: Frame) -> Any:
    return json.loads(frame) if isinstance(frame, str) else msgspec.msgpack.decode(frame)


def _plainly(value: Any) -> Any:
    """What a value that the format does not know is written as."""
    if isinstance(value, BaseModel):
        return value.model_dump(by_alias=True)
    return to_jsonable_python(value)


def _listed(error: ValidationError) -> list[dict[str, Any]]:
    """As an HTTP answer lists them."""
    return [
        {"loc": ["body", *each["loc"]], "msg": each["msg"], "type": each["type"]}
        for each in error.errors(include_url=False, include_context=False, include_input=False)
    ]
