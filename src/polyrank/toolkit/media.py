"""Sound and moving pictures in an endpoint's input or answer."""

from __future__ import annotations

from pydantic import Field

from polyrank.toolkit.file import File


class Audio(File):
    """A sound file."""

    duration: float | None = Field(default=None, description="In seconds")


class Video(File):
    """A video file."""

    duration: float | None = Field(default=None, description="In seconds")
