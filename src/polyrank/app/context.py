"""What an endpoint may know about the request it is answering."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class RequestContext:
    """The request being answered: its id, endpoint, headers and the caller's file preferences."""

    request_id: str
    endpoint: str
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def lifecycle_preference(self) -> dict[str, Any] | None:
        """The caller's wishes for the files made for them; None if there are none or not JSON."""
        text = self.headers.get("x-fal-object-lifecycle-preference")
        try:
            wishes = json.loads(text) if text else None
        except ValueError:
            return None
        return wishes if isinstance(wishes, dict) else None


current: ContextVar[RequestContext | None] = ContextVar("polyrank_request", default=None)
