"""A pydantic model whose schema tells forms the order of its fields and which to leave out."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from polyrank.toolkit.audio import AudioField
from polyrank.toolkit.fields import Field, Hidden, is_hidden
from polyrank.toolkit.file import FileField
from polyrank.toolkit.image import ImageField
from polyrank.toolkit.video import VideoField

__all__ = [
    "AudioField",
    "FalBaseModel",
    "Field",
    "FileField",
    "Hidden",
    "ImageField",
    "VideoField",
]


class FalBaseModel(BaseModel):
    """A model with ``FIELD_ORDERS`` (these first) and hidden fields.

    Example::

        class Input(FalBaseModel):
            FIELD_ORDERS = ["prompt", "image_url"]

            debug: bool = Hidden(Field(default=False))
            image_url: str = ImageField()
            prompt: str
    """

    FIELD_ORDERS: ClassVar[list[str]] = []
    # Names of hidden fields, the older way to say Hidden.
    SCHEMA_IGNORES: ClassVar[set[str]] = set()

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        schema = handler(core_schema)
        model = handler.resolve_ref_schema(schema)
        properties = model.get("properties", {})
        for name, field in cls.model_fields.items():
            if is_hidden(field) or name in cls.SCHEMA_IGNORES:
                key = name if name in properties else field.alias
                if key in properties:
                    properties[key].setdefault("ui", {})["hidden"] = True
        first = {name: properties[name] for name in cls.FIELD_ORDERS if name in properties}
        if first:
            model["properties"] = first | properties
        return schema
