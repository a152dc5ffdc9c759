"""Limits that a field's schema tells to clients; nothing here checks a file.

They appear in the JSON schema under ``x-fal``, where clients of the reference platform look.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, TypedDict


class _Limits:
    """Refuses limits that nothing could meet."""

    def __post_init__(self) -> None:
        limits = {name: value for name, value in vars(self).items() if value is not None}
        for name, lowest in limits.items():
            highest = limits.get(f"max_{name.removeprefix('min_')}")
            if name.startswith("min_") and highest is not None and lowest > highest:
                raise ValueError(f"{name} ({lowest}) is above its maximum ({highest})")

    def _check_ratio(self) -> None:
        # One bound alone could mean width to height or height to width.
        if ("min_aspect_ratio" in to_xfal(self)) != ("max_aspect_ratio" in to_xfal(self)):
            raise ValueError("min_aspect_ratio and max_aspect_ratio are given together or not")


@dataclass(frozen=True)
class ImageSizeConstraints(_Limits):
    """The sizes of picture that a model makes."""

    min_width: int | None = None
    min_height: int | None = None
    max_width: int | None = None
    max_height: int | None = None
    min_area: int | None = None
    max_area: int | None = None
    multiple_of: int | None = None
    min_aspect_ratio: float | None = None
    max_aspect_ratio: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_ratio()


class ImageValidationOptions(TypedDict, total=False):
    """The limits of ``ImageValidationConfig`` as keyword arguments."""

    max_file_size: int | None
    min_width: int | None
    min_height: int | None
    max_width: int | None
    max_height: int | None
    min_aspect_ratio: float | None
    max_aspect_ratio: float | None
    timeout: float | None


@dataclass(frozen=True)
class ImageValidationConfig(_Limits):
    """The pictures that an input takes."""

    max_file_size: int | None = None
    min_width: int | None = None
    min_height: int | None = None
    max_width: int | None = None
    max_height: int | None = None
    min_aspect_ratio: float | None = None
    max_aspect_ratio: float | None = None
    timeout: float = 20.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_ratio()


class VideoValidationOptions(TypedDict, total=False):
    """The limits of ``VideoValidationConfig`` as keyword arguments."""

    max_file_size: int | None
    min_width: int | None
    min_height: int | None
    max_width: int | None
    max_height: int | None
    min_area: int | None
    max_area: int | None
    min_aspect_ratio: float | None
    max_aspect_ratio: float | None
    min_frames: int | None
    max_frames: int | None
    min_duration: float | None
    max_duration: float | None
    min_fps: float | None
    max_fps: float | None


@dataclass(frozen=True)
class VideoValidationConfig(_Limits):
    """The videos that an input takes. Areas are in pixels per frame, durations in seconds."""

    max_file_size: int | None = None
    min_width: int | None = None
    min_height: int | None = None
    max_width: int | None = None
    max_height: int | None = None
    min_area: int | None = None
    max_area: int | None = None
    min_aspect_ratio: float | None = None
    max_aspect_ratio: float | None = None
    min_frames: int | None = None
    max_frames: int | None = None
    min_duration: float | None = None
    max_duration: float | None = None
    min_fps: float | None = None
    max_fps: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_ratio()


@dataclass(frozen=True)
class VideoNormalizationConfig(_Limits):
    """What a model does to a video that it takes: scales, trims or resamples it to this."""

    min_width: int | None = None
    min_height: int | None = None
    max_width: int | None = None
    max_height: int | None = None
    min_area: int | None = None
    max_area: int | None = None
    max_duration: float | None = None
    fps: float | None = None


def to_xfal(config: Any) -> dict[str, Any]:
    """The limits that are set, as the schema has them."""
    return {
        name: value
        for name, value in asdict(config).items()
        if value is not None and name != "timeout"  # no limit on the file
    }


def schema_of(config: Any | None) -> dict[str, Any]:
    """The part of a JSON schema that tells these limits."""
    return {"x-fal": to_xfal(config)} if config is not None and to_xfal(config) else {}
