"""Sound in an endpoint's input or answer."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict

from polyrank.toolkit.fields import field_with, shown_as
from polyrank.toolkit.file import File

__all__ = ["Audio", "AudioField", "File"]


def AudioField(*args: Any, **kwargs: Any) -> Any:
    """A ``Field`` that forms show as a sound."""
    return field_with(shown_as("audio"), *args, **kwargs)


class Audio(File):
    """A sound file."""

    model_config = ConfigDict(json_schema_extra=shown_as("audio"))
