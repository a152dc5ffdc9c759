"""Where a submitted request stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from polyrank.client.errors import ClientError


@dataclass(frozen=True)
class Status:
    """What ``status`` and ``iter_events`` give: a Queued, an InProgress or a Completed."""


@dataclass(frozen=True)
class Queued(Status):
    """It waits, behind ``position`` others; ``reason`` says for what, if the server told."""

    position: int
    reason: str | None = None


@dataclass(frozen=True)
class InProgress(Status):
    """It runs. ``logs`` are lines with a message, a level and a timestamp, if asked for."""

    logs: list[dict[str, Any]] | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Completed(Status):
    """It has ended, well unless there is an ``error``."""

    logs: list[dict[str, Any]] | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    error_type: str | None = None


def parse(body: Mapping[str, Any]) -> Status:
    """The status in an answer's JSON."""
    match body.get("status"):
        case "IN_QUEUE":
            return Queued(body["queue_position"], body.get("reason"))
        case "IN_PROGRESS":
            return InProgress(body.get("logs"), body.get("reason"))
        case "COMPLETED":
            metrics = body.get("metrics") or {}
            error, kind = body.get("error"), body.get("error_type")
            return Completed(body.get("logs"), metrics, error, kind)
    raise ClientError(f"the server told a status that is not known here: {body.get('status')!r}")
