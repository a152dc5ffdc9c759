"""Moving pictures in an endpoint's input or answer."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict

from polyrank.toolkit.constraints import (
    VideoNormalizationConfig,
    VideoValidationConfig,
    to_xfal,
)
from polyrank.toolkit.fields import field_with, shown_as
from polyrank.toolkit.file import File

__all__ = ["File", "Video", "VideoField"]


def VideoField(
    *args: Any,
    constraints: VideoValidationConfig | None = None,
    combined_constraints: VideoValidationConfig | None = None,
    normalization: VideoNormalizationConfig | None = None,
    **kwargs: Any,
) -> Any:
    """A ``Field`` that forms show as a video, with the limits its schema tells.

    In a list, ``constraints`` is about each video and ``combined_constraints`` about their sum.
    """
    limits: dict[str, Any] = to_xfal(constraints) if constraints else {}
    if combined_constraints is not None:
        limits["combined"] = to_xfal(combined_constraints)
    if normalization is not None:
        limits["normalization"] = to_xfal(normalization)
    limits = {name: limit for name, limit in limits.items() if limit != {}}
    extra = shown_as("video") | ({"x-fal": limits} if limits else {})
    return field_with(extra, *args, **kwargs)


class Video(File):
    """A video file."""

    model_config = ConfigDict(json_schema_extra=shown_as("video"))
