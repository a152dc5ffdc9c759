"""Fields that tell a form how they want to be shown, through the JSON schema."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import Field
from pydantic.fields import FieldInfo

__all__ = ["Field", "Hidden", "field_with", "is_hidden", "shown_as"]


class _HiddenMark:
    """In a field's metadata: forms leave the field out."""


HIDDEN = _HiddenMark()


def Hidden(field: Any) -> Any:
    """Marks a field as one that forms leave out; it needs a default.

    Example: ``debug: bool = Hidden(Field(default=False))`` in a ``FalBaseModel``.
    """
    if not isinstance(field, FieldInfo):
        raise TypeError(
            f"Hidden takes a Field, as in Hidden(Field(default=…)), not {type(field).__name__}"
        )
    if field.is_required():
        raise ValueError("a hidden field needs a default: nobody could fill it in")
    field.metadata.append(HIDDEN)
    return field


def is_hidden(field: FieldInfo) -> bool:
    """Whether the field was marked with ``Hidden``."""
    return HIDDEN in field.metadata


def field_with(extra: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
    """A ``Field`` whose JSON schema also has ``extra``; what the caller gave there wins.

    ``ui=`` is taken as metadata for forms.
    """
    given = kwargs.pop("json_schema_extra", None)
    ui = kwargs.pop("ui", None)

    def add(schema: dict[str, Any]) -> None:
        _apply(given, schema)
        _merge(schema, {"ui": ui} if ui else {})
        _merge(schema, extra)

    return Field(*args, json_schema_extra=add, **kwargs)


def shown_as(kind: str) -> dict[str, Any]:
    """The schema's word for forms: this is a picture, a sound, …"""
    return {"ui": {"field": kind}}


def _apply(
    given: Mapping[str, Any] | Callable[[dict[str, Any]], None] | None, schema: dict[str, Any]
) -> None:
    if callable(given):
        given(schema)
    elif given:
        _merge(schema, given)


def _merge(schema: dict[str, Any], extra: Mapping[str, Any]) -> None:
    """Adds what is not there yet, one level deep."""
    for key, value in extra.items():
        if isinstance(value, Mapping) and isinstance(schema.setdefault(key, {}), dict):
            schema[key] = {**value, **schema[key]}
        else:
            schema.setdefault(key, value)
